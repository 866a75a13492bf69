"""PATH/CLASS/* or PATH/SPLIT/CLASS/*: one folder of pictures for each class, and perhaps a metadata.csv of patients."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

from medjax.data.folders import (
    ENDINGS_IN_WORDS,
    PICTURE_ENDINGS,
    SPLIT_NAMES,
    Item,
    by_split,
    case_id,
    drop_ending,
    picture_files,
)
from medjax.data.layouts import Layout
from medjax.data.tables import KEYS, PATIENTS, known_columns, known_values, read_split
from medjax.errors import InputError
from medjax.formats.table import read_table

_NO_CLASSES = {"images", "masks", "labels", "annotations"}  # folders of other jobs' layouts


def sources(path: str | Path, *, classes: Sequence[str] = ()) -> Layout:
    """Read the layout PATH/CLASS/picture, or PATH/SPLIT/CLASS/picture with SPLIT one of train, val, test (or valid, devel...).

    An optional PATH/metadata.csv names each picture's patient, and its split where the folders do not: columns `path` (or
    `id`, or `name`; with or without the ending), `patient` (or `patient_id`), and as it pleases `split`, `sex`, `age`, `view`,
    `site`.

    Args:
      path: the data folder.
      classes: class names in the order of the labels; the folders' own names, sorted, by default.

    Returns:
      A Layout of kind "single", its sources under "all" where no split is given.

    Raises:
      InputError: no such folder, no or an empty class folder, a class outside `classes`, one class only, two files of one id,
        two folders of one split, a metadata.csv that cannot be read, lacks a row or speaks of a file in two ways.
    """
    root = Path(path)
    if not root.is_dir():
        raise InputError(f"{root}: no such folder\ngive --data.path a folder that holds one folder of images per class")
    folders = _split_folders(root) or {"all": root}
    names = _class_names(root, folders, classes)
    columns, metadata = _metadata(root)
    items: list[tuple[str, Item]] = []
    for split, folder in folders.items():
        before = len(items)
        for label, name in enumerate(names):
            files = picture_files(folder / name) if (folder / name).is_dir() else []
            if not files and split in ("all", "train"):
                lack = "the class has no images" if (folder / name).is_dir() else "no such folder, though it is a class"
                raise InputError(f"{folder / name}: {lack}\nadd images ({ENDINGS_IN_WORDS}) or remove the class")
            for file in files:
                key = case_id(file, root)
                patient, given, *known = metadata(file, key)
                items.append((given if given and split == "all" else split, Item(file, key, label, patient, tuple(known))))
        if len(items) == before:
            raise InputError(f"{folder}: holds no images\nadd some ({ENDINGS_IN_WORDS}) or remove the folder")
    return Layout(by_split(items, columns), names, "single", f"{len(items):,} pictures in folders of {len(names)} classes")


def sniff(path: str | Path) -> str:
    """Why this looks like class folders; "" where it does not."""
    root = Path(path)
    if not root.is_dir():
        return ""
    splits = [d for d in _subfolders(root) if d.name.lower() in SPLIT_NAMES]
    below = splits or [root]
    names = sorted({d.name for folder in below for d in _subfolders(folder) if _has_pictures(d)})
    if len(names) < 2 or _NO_CLASSES & {name.lower() for name in names}:
        return ""
    shown = ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
    return f"{len(names)} folders of pictures ({shown})" + (f" in {len(splits)} split folders" if splits else "")


def _class_names(root: Path, folders: dict[str, Path], classes: Sequence[str]) -> tuple[str, ...]:
    names = tuple(classes)
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
    names = names or tuple(found)
    if len(names) < 2:
        raise InputError(f"{root}: only one class, {names[0]!r}\nclassification needs a folder for each of two or more classes")
    return names


def _subfolders(folder: Path) -> list[Path]:
    return sorted(d for d in folder.iterdir() if d.is_dir() and not d.name.startswith((".", "__")))


def _has_pictures(folder: Path) -> bool:
    files = itertools.islice((f for f in folder.rglob("*") if f.is_file() and not f.name.startswith(".")), 20)
    return any(file.name.lower().endswith(PICTURE_ENDINGS) or not file.suffix for file in files)


def _split_folders(root: Path) -> dict[str, Path]:
    folders: dict[str, Path] = {}
    for folder in _subfolders(root):
        split = SPLIT_NAMES.get(folder.name.lower())
        if split in folders:
            raise InputError(f"{folder} and {folders[split]} are both the {split} split\nput their images together in one")
        if split:
            folders[split] = folder
    return folders


def _metadata(root: Path) -> tuple[tuple[str, ...], Callable[[Path, str], tuple]]:
    """(names of what is known, (file, id) -> (patient, split, what is known...)) from PATH/metadata.csv, if there is one."""
    if not (root / "metadata.csv").is_file():
        return (), lambda file, key: ("", "")
    table = read_table(root / "metadata.csv")
    key_column, patient_column, split_column = table.find(*KEYS), table.find(*PATIENTS), table.find("split")
    if key_column is None or patient_column is None:
        raise InputError(
            f"{table.path}: needs a column path (or id, name) and a column patient (or patient_id); "
            f"it has {sorted(table.columns)}"
        )
    columns = known_columns(table)
    known: dict[str, tuple] = {}
    for row in table.rows:
        name = row[key_column]
        split = read_split(table.path, name, row[split_column] if split_column else "")
        value = (row[patient_column], split, *known_values(row, columns))
        if repr(known.setdefault(name, value)) != repr(value):  # as text, since NaN is not NaN
            raise InputError(f"{table.path}: two rows give {name} different patients or splits\nkeep one of them")
    taken: dict[str, Path] = {}

    def look_up(file: Path, key: str) -> tuple:
        bare = drop_ending(file.name)  # of "a.nii.gz" the stem is "a.nii"
        name = next((k for k in (file.relative_to(root).as_posix(), key, file.name, file.stem, bare) if k in known), None)
        if name is None:
            raise InputError(f"{table.path}: has no row for {key}\nadd it, or remove the table")
        # A bare name that fits files of two folders would give one of them the other's patient.
        if taken.setdefault(name, file) != file:
            raise InputError(f"{table.path}: the row {name!r} fits {taken[name]} and {file}\ngive paths relative to {root}")
        return known[name]

    return tuple(columns), look_up
