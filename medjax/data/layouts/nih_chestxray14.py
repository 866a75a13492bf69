"""NIH ChestX-ray14: Data_Entry_2017*.csv, and images/*.png or images_*/images/*.png; 14 findings, several may be true."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from medjax.data.folders import Item, by_split, case_id, picture_files
from medjax.data.layouts import Layout
from medjax.data.tables import check_all_there, choose
from medjax.errors import InputError
from medjax.formats.table import parse_age, parse_sex, read_table

CLASSES = (
    *("Atelectasis", "Cardiomegaly", "Effusion", "Infiltration", "Mass", "Nodule", "Pneumonia", "Pneumothorax"),
    *("Consolidation", "Edema", "Emphysema", "Fibrosis", "Pleural_Thickening", "Hernia"),
)
_NONE = "No Finding"
_LISTS = {"train": "train_val_list.txt", "test": "test_list.txt"}


def sources(path: str | Path, *, labels: Sequence[str] = ()) -> Layout:
    """Read the 14 findings of NIH ChestX-ray14 (Wang et al., CVPR 2017).

    The official lists are honoured where they are there: those of test_list.txt are the test split, the others are training, of
    which a validation split is carved out by patient. Ages outside 0 to 120, of which the table has some, are taken as unknown.

    Args:
      path: the folder with Data_Entry_2017*.csv.
      labels: the findings to take, in this order; all 14 by default.

    Raises:
      InputError: no such table, columns or findings, images that are not there or in neither list.
    """
    root = Path(path)
    file = _table(root)
    if file is None:
        raise InputError(f"{root}: holds no Data_Entry_2017*.csv\ngive --data.path the folder of NIH ChestX-ray14")
    table = read_table(file)
    image, findings, patient = (table.need(name) for name in ("Image Index", "Finding Labels", "Patient ID"))
    age, view = table.need("Patient Age"), table.need("View Position")
    sex = table.need("Patient Gender", "Patient Sex")
    names = choose(CLASSES, labels)
    splits = _official(root)
    folders = [d for d in sorted(root.iterdir()) if d.is_dir() and d.name.startswith("images")]
    files = {f.name: f for folder in folders for f in picture_files(folder)}
    check_all_there(table.path, [row[image] for row in table.rows], files)
    items = []
    for row in table.rows:
        found = set(row[findings].split("|"))
        if strange := sorted(found - {*CLASSES, _NONE}):
            raise InputError(
                f"{table.path}: {row[image]} has the finding {strange[0]!r}\nknown are {', '.join(CLASSES)}, {_NONE}"
            )
        if splits and row[image] not in splits:
            raise InputError(
                f"{root}: {row[image]} is neither in {' nor in '.join(_LISTS.values())}\nadd it, or remove the lists"
            )
        known = (parse_sex(row[sex]), parse_age(row[age]), row[view])
        label = tuple(int(name in found) for name in names)
        item = Item(files[row[image]], case_id(files[row[image]], root), label, row[patient], known)
        items.append((splits[row[image]] if splits else "all", item))
    about = f"NIH ChestX-ray14, {len(items):,} images; {'official test list' if splits else 'no official lists'}"
    if extra := len(files) - len(items):
        about += f"; {extra:,} files that the table does not name were left out"
    return Layout(by_split(items, ("sex", "age", "view")), names, "multi", about)


def sniff(path: str | Path) -> str:
    """Why this looks like NIH ChestX-ray14; "" where it does not."""
    file = _table(Path(path))
    return f"{file.name} is there" if file else ""


def _table(root: Path) -> Path | None:
    return next(iter(sorted(root.glob("Data_Entry_2017*.csv"))), None) if root.is_dir() else None


def _official(root: Path) -> dict[str, str]:
    """{image: split} of the official lists; empty where there is none of them."""
    there = {split: (root / name) for split, name in _LISTS.items() if (root / name).is_file()}
    if len(there) == 1:
        (lone,) = there.values()
        raise InputError(f"{lone}: the other of {' and '.join(_LISTS.values())} is missing\nadd it, or remove both")
    found: dict[str, str] = {}
    for split, file in there.items():
        for name in file.read_text(encoding="utf-8").split():
            if found.setdefault(name, split) != split:
                raise InputError(f"{file}: {name} is in both lists\nkeep it in one")
    return found
