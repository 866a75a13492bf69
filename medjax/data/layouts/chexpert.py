"""CheXpert: train.csv and valid.csv of chest X-rays, with 14 observations that are 1, 0, -1 for uncertain, or blank."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from medjax.data.folders import Item, by_split, case_id, drop_ending
from medjax.data.layouts import Layout
from medjax.data.tables import check_all_there, choose
from medjax.errors import InputError
from medjax.formats.table import Table, parse_age, parse_sex, read_table

CLASSES = (
    *("No Finding", "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema", "Consolidation"),
    *("Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other", "Fracture", "Support Devices"),
)
_TABLES = {"train": "train.csv", "val": "valid.csv", "test": "test.csv"}
_RULES = {"ignore": -1, "zeros": 0, "ones": 1}


def sources(
    path: str | Path,
    *,
    uncertain: Literal["ignore", "zeros", "ones"] = "ignore",
    missing: Literal["ignore", "zeros"] = "zeros",
    views: Literal["frontal", "all"] = "frontal",
    labels: Sequence[str] = (),
) -> Layout:
    """Read CheXpert (Irvin et al., AAAI 2019), full size or small.

    Args:
      path: the folder with train.csv, such as CheXpert-v1.0-small.
      uncertain: what -1 means: the label is masked (the paper's U-Ignore), 0 (U-Zeros) or 1 (U-Ones).
      missing: what a blank means: "zeros" takes what a report does not mention as absent, as most published models do; "ignore"
        masks it.
      views: frontal images only, or lateral ones too.
      labels: the observations to take, in this order; all 14 by default.

    Returns:
      A Layout of kind "multi". train.csv is the training split, valid.csv validation, test.csv test; a test split that is not
      there is carved out of training, by patient.

    Raises:
      InputError: no such table, column, value or image.
    """
    root = Path(path)
    if uncertain not in _RULES or missing not in ("ignore", "zeros") or views not in ("frontal", "all"):
        raise InputError(f"uncertain {uncertain!r}, missing {missing!r}, views {views!r}: no such rule", usage=True)
    names = choose(CLASSES, labels)
    rules = {"1": 1, "0": 0, "-1": _RULES[uncertain], "": _RULES[missing]}
    tables = {split: read_table(root / name) for split, name in _TABLES.items() if (root / name).is_file()}
    if "train" not in tables:
        raise InputError(f"{root}: holds no train.csv\ngive --data.path the folder of CheXpert")
    items: list[tuple[str, Item]] = []
    for split, table in tables.items():
        items += [(split, item) for item in _items(root, table, names, rules, frontal=views == "frontal")]
    shown = "frontal images" if views == "frontal" else "images"
    about = f"CheXpert, {len(items):,} {shown}; uncertain labels: {uncertain}, blank ones: {missing}"
    return Layout(by_split(items, ("sex", "age", "view")), names, "multi", about)


def sniff(path: str | Path) -> str:
    """Why this looks like CheXpert; "" where it does not."""
    file = Path(path) / "train.csv"
    if not file.is_file():
        return ""
    with open(file, encoding="utf-8-sig", errors="replace") as handle:
        header = handle.readline()
    return "train.csv has the columns of CheXpert" if "Frontal/Lateral" in header and "AP/PA" in header else ""


def _items(root: Path, table: Table, names: Sequence[str], rules: dict[str, int], *, frontal: bool) -> list[Item]:
    image, sex, age = table.need("Path"), table.need("Sex"), table.need("Age")
    side, view = table.need("Frontal/Lateral"), table.need("AP/PA")
    columns = [table.need(name) for name in names]
    rows = [row for row in table.rows if not frontal or row[side].lower() == "frontal"]
    found = {row[image]: file for row in rows if (file := _find(root, row[image])) is not None}
    check_all_there(table.path, [row[image] for row in rows], found)
    items = []
    for row in rows:
        label = tuple(_label(table, row, column, rules) for column in columns)
        shown = row[view] if row[side].lower() == "frontal" else "lateral"
        file = found[row[image]]
        known = (parse_sex(row[sex]), parse_age(row[age]), shown)
        key = case_id(file, root) if file.is_relative_to(root) else drop_ending(row[image])
        items.append(Item(file, key, label, _patient(table, row[image]), known))
    return items


def _find(root: Path, name: str) -> Path | None:
    """The image of a row: "CheXpert-v1.0-small/train/..." is named from the folder that holds the data's."""
    parts = Path(name).parts
    tried = (root.joinpath(*parts[1:]), root / name, root.parent / name)
    return next((file for file in tried if file.is_file()), None)


def _patient(table: Table, name: str) -> str:
    found = next((part for part in Path(name).parts if part.startswith("patient")), "")
    if not found:
        raise InputError(f"{table.path}: the path {name} names no patient\nexpected .../patient00001/study1/view1_frontal.jpg")
    return found


def _label(table: Table, row: dict[str, str], column: str, rules: dict[str, int]) -> int:
    text = row[column].removesuffix(".0")
    if text not in rules:
        raise InputError(f"{table.path}: {row[column]!r} in the column {column} is no label\nexpected 1, 0, -1 or blank")
    return rules[text]
