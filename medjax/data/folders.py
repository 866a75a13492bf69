"""Image folders as Sources: PATH/CLASS/*.png, with or without PATH/{train,val,test} above the classes."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from medjax.core import SPLITS
from medjax.errors import InputError
from medjax.formats.image import IMAGE_ENDINGS, read_image

# Whatever the data calls its splits, medjax calls them train, val and test.
SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "devel": "val",
    "dev": "val",
}
SPLIT_NAMES |= {"test": "test", "testing": "test"}


class ImageSource:
    """Image files as examples {id, patient, label, image, path}.

    Attributes:
      items: (path, id, label, patient); label -1 where it is unknown, patient "" where it is unknown.
    """

    def __init__(self, items: Sequence[tuple[Path, str, int, str]]):
        self.items = list(items)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, i: int) -> dict[str, Any]:
        """Image [H, W] or [H, W, 3] in the file's own dtype."""
        path, name, label, patient = self.items[i]
        return {"id": name, "patient": patient, "label": label, "image": read_image(path), "path": str(path)}

    def identity(self) -> Iterable[str]:
        """What a prepared cache is keyed by: names, labels, patients, sizes and times, without reading the files."""
        for path, name, label, patient in self.items:
            stat = path.stat()
            yield f"{path}|{name}|{label}|{patient}|{stat.st_size}|{stat.st_mtime_ns}"


def class_folders(path: str | Path, *, classes: Sequence[str] = ()) -> dict[str, ImageSource]:
    """Read the layout PATH/CLASS/image, or PATH/SPLIT/CLASS/image with SPLIT one of train, val, test (or valid, devel...).

    An optional PATH/metadata.csv names each image's patient, and its split where the folders do not: columns `path` (or `id`,
    or `name`; with or without the ending), `patient` (or `patient_id`), `split`.

    Args:
      path: the data folder.
      classes: class names in the order of the labels; the folders' own names, sorted, by default.

    Returns:
      {split: ImageSource}, or {"all": ImageSource} where no split is given.

    Raises:
      InputError: no such folder, no or an empty class folder, a class outside `classes`, one class only, two files of one id,
        two folders of one split, a metadata.csv that cannot be read, lacks a row or speaks of a file in two ways.
    """
    root = Path(path)
    if not root.is_dir():
        raise InputError(f"{root}: no such folder\ngive --data.path a folder that holds one folder of images per class")
    folders = _split_folders(root) or {"all": root}
    names = list(classes)
    found = sorted({d.name for folder in folders.values() for d in _subfolders(folder)})
    if not found:
        raise InputError(
            f"{root}: holds no class folders\nexpected {root}/CLASS/*.png, such as {root}/{names[0] if names else 'normal'}/"
        )
    for name in found:
        if names and name not in names:
            raise InputError(
                f"{root}: the folder {name!r} is not one of the classes {', '.join(names)}\n"
                "rename or remove it, or name your own: --data.classes A B"
            )
    names = names or found
    if len(names) < 2:
        raise InputError(f"{root}: only one class, {names[0]!r}\nclassification needs a folder for each of two or more classes")
    metadata = _metadata(root)
    sources: dict[str, list] = {}
    for split, folder in folders.items():
        for label, name in enumerate(names):
            files = image_files(folder / name) if (folder / name).is_dir() else []
            if not files and split in ("all", "train"):
                lack = "the class has no images" if (folder / name).is_dir() else "no such folder, though it is a class"
                raise InputError(f"{folder / name}: {lack}\nadd images ({', '.join(IMAGE_ENDINGS)}) or remove the class")
            for file in files:
                key = file.relative_to(root).with_suffix("").as_posix()
                patient, given = metadata(file, key)
                sources.setdefault(given if given and split == "all" else split, []).append((file, key, label, patient))
    for split, folder in folders.items():
        if split != "all" and not sources.get(split):
            raise InputError(f"{folder}: holds no images\nadd some ({', '.join(IMAGE_ENDINGS)}) or remove the folder")
    _unique([item for items in sources.values() for item in items])
    return {split: ImageSource(items) for split, items in sources.items()}


def image_source(inputs: Sequence[str | Path]) -> ImageSource:
    """Images named one by one or by folder, without labels, for prediction. An id is the path relative to its folder."""
    items = []
    for given in inputs:
        path = Path(given)
        if path.is_dir():
            files = image_files(path)
            if not files:
                raise InputError(f"{path}: holds no images\ngive images ({', '.join(IMAGE_ENDINGS)}) or a folder of them")
            items += [(file, file.relative_to(path).with_suffix("").as_posix(), -1, "") for file in files]
        elif path.exists():
            items.append((path, path.stem, -1, ""))
        else:
            raise InputError(f"{path}: no such file or folder\ngive images, or folders of images, that exist")
    _unique(items)
    return ImageSource(items)


def image_files(folder: Path) -> list[Path]:
    """Image files at any depth of a folder, sorted; hidden files are left out."""
    return sorted(
        Path(base) / name
        for base, _, names in os.walk(folder)
        for name in names
        if name.lower().endswith(IMAGE_ENDINGS) and not name.startswith(".")
    )


def _subfolders(folder: Path) -> list[Path]:
    return sorted(d for d in folder.iterdir() if d.is_dir() and not d.name.startswith((".", "__")))


def _split_folders(root: Path) -> dict[str, Path]:
    folders: dict[str, Path] = {}
    for folder in _subfolders(root):
        split = SPLIT_NAMES.get(folder.name.lower())
        if split in folders:
            raise InputError(f"{folder} and {folders[split]} are both the {split} split\nput their images together in one")
        if split:
            folders[split] = folder
    return folders


def _unique(items: Sequence[tuple[Path, str, int, str]]) -> None:
    seen: dict[str, Path] = {}
    for path, name, _, _ in items:
        if name in seen:
            raise InputError(f"{path} and {seen[name]} share the id {name!r}\nrename one of them")
        seen[name] = path


def _metadata(root: Path) -> Callable[[Path, str], tuple[str, str]]:
    """(file, id) -> (patient, split) from PATH/metadata.csv; blanks where there is none."""
    table = root / "metadata.csv"
    if not table.is_file():
        return lambda file, key: ("", "")
    try:
        with open(table, newline="", encoding="utf-8-sig") as handle:
            reader = csv.DictReader(handle)
            rows, columns = list(reader), set(reader.fieldnames or ())
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{table}: cannot be read as a UTF-8 table ({error})\nsave it as CSV in UTF-8") from error
    key_column = next((c for c in ("path", "id", "name", "filename") if c in columns), None)
    patient_column = next((c for c in ("patient", "patient_id") if c in columns), None)
    if key_column is None or patient_column is None:
        raise InputError(
            f"{table}: needs a column path (or id, name) and a column patient (or patient_id); it has {sorted(columns)}"
        )
    known: dict[str, tuple[str, str]] = {}
    for row in rows:
        name, patient, split = ((row.get(c) or "").strip() for c in (key_column, patient_column, "split"))
        if split and split.lower() not in SPLIT_NAMES:
            raise InputError(f"{table}: the split {split!r} of {name} is not one of {', '.join(SPLITS)}")
        value = patient, SPLIT_NAMES.get(split.lower(), "")
        if known.setdefault(name, value) != value:
            raise InputError(f"{table}: two rows give {name} different patients or splits\nkeep one of them")
    taken: dict[str, Path] = {}

    def look_up(file: Path, key: str) -> tuple[str, str]:
        name = next((k for k in (file.relative_to(root).as_posix(), key, file.name, file.stem) if k in known), None)
        if name is None:
            raise InputError(f"{table}: has no row for {key}\nadd it, or remove the table")
        # A bare name that fits files of two folders would give one of them the other's patient.
        if taken.setdefault(name, file) != file:
            raise InputError(f"{table}: the row {name!r} fits {taken[name]} and {file}\ngive paths relative to {root}")
        return known[name]

    return look_up
