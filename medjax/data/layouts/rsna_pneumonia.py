"""RSNA Pneumonia (Kaggle 2018, stage 2): stage_2_train_images/*.dcm, stage_2_train_labels.csv and the detailed classes."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np

from medjax.data import boxes as boxed
from medjax.data.folders import Item, by_split, case_id, drop_ending, picture_files
from medjax.data.layouts import Layout
from medjax.data.tables import check_all_there
from medjax.errors import InputError
from medjax.formats.table import Table, read_table

IMAGES, LABELS, DETAILS = "stage_2_train_images", "stage_2_train_labels.csv", "stage_2_detailed_class_info.csv"
CLASSES = {
    "binary": ("no pneumonia", "pneumonia"),
    "three": ("normal", "abnormal without opacity", "lung opacity"),
    "boxes": ("lung opacity",),
}
_DETAILS = {"Normal": 0, "No Lung Opacity / Not Normal": 1, "Lung Opacity": 2}


def sources(path: str | Path, *, target: Literal["binary", "three", "boxes"] = "binary") -> Layout:
    """Read the training images of the RSNA Pneumonia Detection Challenge (Shih et al., Radiology: AI 2019).

    Sex, age and view come from the DICOM files when they are prepared. The unlabelled stage_2_test_images are left out.

    Args:
      path: the folder with the two tables.
      target: opacity of pneumonia or not, the three classes of the detailed table, or the boxes of the opacities, none on
        images without pneumonia.

    Raises:
      InputError: a table or column that is not there, rows that contradict each other, images that are not there.
    """
    root = Path(path)
    if target not in CLASSES:
        raise InputError(f"target {target!r}: there are {', '.join(CLASSES)}", usage=True)
    table = _read(root, LABELS)
    label = _one_each(table, table.need("patientId"), table.need("Target"), {"0": 0, "1": 1})
    if target == "three":
        details = _read(root, DETAILS)
        positive, label = label, _one_each(details, details.need("patientId"), details.need("class"), _DETAILS)
        if wrong := [name for name, k in positive.items() if (label.get(name) == 2) != bool(k)]:
            text = f"{details.path}: {len(wrong):,} classes contradict {LABELS}, the first that of {wrong[0]}"
            raise InputError(f"{text}\nget both tables of stage 2")
    files = {drop_ending(file.name): file for file in picture_files(root / IMAGES)} if (root / IMAGES).is_dir() else {}
    check_all_there(table.path, list(label), files)
    if target == "boxes":
        return _boxes_of(root, label, files)
    items = [("all", Item(files[name], case_id(files[name], root), k, name)) for name, k in label.items()]
    about = f"RSNA Pneumonia stage 2, {len(items):,} images"
    if extra := len(files) - len(items):
        about += f"; {extra:,} files that the table does not name were left out"
    return Layout(by_split(items), CLASSES[target], "single", about)


def boxes(path: str | Path) -> dict[str, np.ndarray]:
    """{patientId: boxes of lung opacities [m, 4] float32: x and y of the upper left corner, width, height, in pixels}."""
    table = _read(Path(path), LABELS)
    name, columns = table.need("patientId"), [table.need(c) for c in ("x", "y", "width", "height")]
    found: dict[str, list[list[float]]] = {}
    for number, row in enumerate(table.rows, 2):
        of = found.setdefault(row[name], [])
        if any(row[c] for c in columns):
            try:
                of.append([float(row[c]) for c in columns])
            except ValueError:
                raise InputError(
                    f"{table.path}: row {number} holds no whole box\ngive x, y, width and height, or none"
                ) from None
    return {key: np.array(of, np.float32).reshape(-1, 4) for key, of in found.items()}


def _boxes_of(root: Path, label: dict[str, int], files: dict[str, Path]) -> Layout:
    found = boxes(root)
    items = []
    for name, positive in label.items():
        of = found[name].astype(np.float64)
        if bool(len(of)) != bool(positive):
            text = f"{root / LABELS}: {name} has Target {positive} and {len(of)} boxes"
            raise InputError(f"{text}\ngive boxes to images of Target 1, and to them alone")
        of[:, 2:] += of[:, :2]
        boxed.check_corners(of, f"{root / LABELS}: {name}")
        items.append(
            (
                "all",
                boxed.BoxItem(
                    files[name], case_id(files[name], root), of, np.zeros(len(of), np.int32), None, name, ("", "", "")
                ),
            )
        )
    number = sum(len(item.category) for _, item in items)
    about = f"RSNA Pneumonia stage 2, {len(items):,} images with {number:,} boxes of lung opacity"
    return Layout(
        boxed.by_split(items, CLASSES["boxes"], root / LABELS, columns=("sex", "age", "view")), CLASSES["boxes"], "boxes", about
    )


def sniff(path: str | Path) -> str:
    """Why this looks like RSNA Pneumonia; "" where it does not."""
    root = Path(path)
    return f"{LABELS} and {IMAGES} are there" if (root / LABELS).is_file() and (root / IMAGES).is_dir() else ""


def _read(root: Path, name: str) -> Table:
    if not (root / name).is_file():
        raise InputError(f"{root}: holds no {name}\ngive --data.path the folder of RSNA Pneumonia stage 2")
    return read_table(root / name)


def _one_each(table: Table, key: str, column: str, values: dict[str, int]) -> dict[str, int]:
    """{image: label}; an image has a row for each of its boxes."""
    found: dict[str, int] = {}
    for row in table.rows:
        if row[column] not in values:
            raise InputError(f"{table.path}: {row[column]!r} of {row[key]} is none of {', '.join(values)}\nmend it")
        if found.setdefault(row[key], values[row[column]]) != values[row[column]]:
            raise InputError(f"{table.path}: two rows of {row[key]} disagree in {column}\nkeep what is true")
    return found
