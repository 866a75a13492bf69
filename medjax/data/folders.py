"""Picture files as Sources: those that a layout has listed, and those that a user names for prediction."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from medjax.errors import InputError
from medjax.formats.picture import PICTURE_ENDINGS, picture_files, read_picture

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
# What may be known of a case besides its picture, and what says that it is not.
UNKNOWN: dict[str, Any] = {"sex": "", "age": math.nan, "view": "", "site": ""}
_IN_HEADERS = ("sex", "age", "view")  # of DICOM files
ENDINGS_IN_WORDS = ", ".join(PICTURE_ENDINGS)


class Item(NamedTuple):
    """A picture file as a layout lists it.

    Attributes:
      path: the file.
      id: of the case.
      label: a class, or a tuple of 1, 0 and -1 for several labels; -1 where it is missing.
      patient: "" where it is unknown; a DICOM file then tells it itself.
      known: values of the source's `columns`.
    """

    path: Path
    id: str
    label: int | tuple[int, ...]
    patient: str = ""
    known: tuple[Any, ...] = ()


class ImageSource:
    """Picture files as examples {id, patient, label, image, path} and what else is known of them.

    Attributes:
      items: the files.
      columns: names of what is known besides, out of sex, age, view and site.
      headers: whether sex, age and view that the listing leaves open are asked of the files, as DICOM files may tell them.
    """

    def __init__(self, items: Iterable[Item], columns: Sequence[str] = (), *, headers: bool = False):
        self.items = list(items)
        self.headers = headers
        self.columns = tuple(columns)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, i: int) -> dict[str, Any]:
        """Image [H, W], [H, W, 3] or [D, H, W] in the file's own dtype."""
        item = self.items[i]
        picture = read_picture(item.path)
        facts = picture.facts
        known = dict(zip(self.columns, item.known, strict=True))
        if self.headers:
            known = {**dict.fromkeys(_IN_HEADERS, ""), **known}
            known = {name: _first(value, getattr(facts, name), UNKNOWN[name]) for name, value in known.items()}
        label = np.array(item.label, np.int8) if isinstance(item.label, tuple) else item.label
        patient = item.patient or facts.patient
        return {"id": item.id, "patient": patient, "label": label, "image": picture.pixels, "path": str(item.path), **known}

    def case_id(self, i: int) -> str:
        """The id of a case, also where its file cannot be read."""
        return self.items[i].id

    def identity(self) -> Iterable[str]:
        """What a prepared cache is keyed by: all that the listing says, sizes and times, without reading the files."""
        for path, name, label, patient, known in self.items:
            try:
                stat = path.stat()
                state = f"{stat.st_size}|{stat.st_mtime_ns}"
            except OSError as error:  # told when it is read
                state = str(error.strerror)
            yield f"{path}|{name}|{label}|{patient}|{self.columns}|{known}|{self.headers}|{state}"


def _first(*values: Any) -> Any:
    """The first value that says something, else the last."""
    said = (value for value in values if value != "" and value == value)
    return next(said, values[-1])


def by_split(items: Iterable[tuple[str, Item]], columns: Sequence[str] = ()) -> dict[str, ImageSource]:
    """Items (split or "all", item) as {split: ImageSource}; where they are DICOM files, these are asked too.

    Raises:
      InputError: two items of one id.
    """
    found: dict[str, list[Item]] = {}
    for split, item in items:
        found.setdefault(split, []).append(item)
    everything = [item for part in found.values() for item in part]
    _unique(everything)
    headers = bool(everything) and _is_dicom(everything[0].path)
    return {split: ImageSource(part, columns, headers=headers) for split, part in found.items()}


def class_folders(path: str | Path, *, classes: Sequence[str] = ()) -> Mapping[str, ImageSource]:
    """The sources of `medjax.data.layouts.class_folders`."""
    from medjax.data.layouts import class_folders as layout

    return layout.sources(path, classes=classes).sources


def image_source(inputs: Sequence[str | Path]) -> ImageSource:
    """Pictures named one by one or by folder, without labels, for prediction. An id is the path relative to its folder.

    Raises:
      InputError: nothing there, a folder without pictures, two files of one id.
    """
    items = []
    for given in inputs:
        path = Path(given)
        if path.is_dir():
            found = picture_files(path)
            if not found:
                raise InputError(f"{path}: holds no images\ngive images ({ENDINGS_IN_WORDS}) or a folder of them")
            items += [Item(file, case_id(file, path), -1) for file in found]
        elif path.exists():
            items.append(Item(path, case_id(path, path.parent), -1))
        else:
            raise InputError(f"{path}: no such file or folder\ngive images, or folders of images, that exist")
    _unique(items)
    return ImageSource(items)


def case_id(path: Path, root: Path) -> str:
    """A file's path relative to the data's folder, without its ending, but with the dots of a name that has none."""
    return drop_ending(path.relative_to(root).as_posix())


def drop_ending(name: str) -> str:
    """A picture file's name without its ending, ".nii.gz" as a whole."""
    ends = [ending for ending in PICTURE_ENDINGS if name.lower().endswith(ending) and len(name) > len(ending)]
    return name[: -len(max(ends, key=len))] if ends else name


def _is_dicom(path: Path) -> bool:
    try:
        with open(path, "rb") as handle:
            return handle.read(132)[128:] == b"DICM"
    except OSError:
        return False


def _unique(items: Sequence[Item]) -> None:
    seen: dict[str, Path] = {}
    for item in items:
        if item.id in seen:
            raise InputError(f"{item.path} and {seen[item.id]} share the id {item.id!r}\nrename one of them")
        seen[item.id] = item.path
