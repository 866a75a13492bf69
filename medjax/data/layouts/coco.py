"""COCO: a JSON of images, annotations and categories, or several by split (instances_train.json, ...), and the images."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medjax.data.boxes import BoxItem, by_split, check_corners
from medjax.data.folders import SPLIT_NAMES, case_id
from medjax.data.layouts import Layout
from medjax.errors import InputError

_KEYS = ("images", "annotations", "categories")
_WHERE = "expected PATH/annotations/instances_train.json (val, test) or PATH/annotations.json, with the images in PATH/images"
_PATIENT = ("patient_id", "patient", "PatientID")
_HEAD = 1 << 16  # bytes by which a JSON is told
_LISTED = 5


def sources(path: str | Path, *, classes: Sequence[str] = ()) -> Layout:
    """Read COCO's form of object detection (https://cocodataset.org/#format-data), the boxes of `annotations` alone.

    Image rows may name the patient (`patient_id`). Images without an annotation are known to hold nothing. Crowd regions
    (`iscrowd` 1) count neither way. Categories without any box in all files are left out unless they are named.

    Args:
      path: the folder, or one JSON file.
      classes: names of categories, in the order to take; the others are left out.

    Raises:
      InputError: a JSON that is none or lacks a part, an image's file that is not there, an image id that stands twice, an
        annotation of a missing image or an unknown category, a box that is none, a class that is not among the categories.
    """
    root = Path(path)
    files = _files(root)
    if not files:
        raise InputError(f"{root}: holds no COCO JSON\n{_WHERE}")
    base = root if root.is_dir() else root.parent
    base = base.parent if base.name == "annotations" else base
    read = [(split, file, _read(file)) for split, file in files]
    categories = _categories([(file, found["categories"]) for _, file, found in read])
    used: dict[Any, Path] = {}
    for _, file, found in read:
        used |= {a["category_id"]: file for a in _rows(file, found, "annotations", "category_id")}
    if strange := sorted(used.keys() - categories.keys(), key=str):
        raise InputError(
            f"{used[strange[0]]}: annotations name the category {strange[0]}, which `categories` does not list\n"
            f"add it there; there are {', '.join(f'{k} {v}' for k, v in list(categories.items())[:_LISTED])}"
        )
    by_name = {name: number for number, name in categories.items() if number in used or name in classes}
    if unknown := [name for name in classes if name not in by_name]:
        raise InputError(f"{root}: has no category {unknown[0]!r}\nthere are {', '.join(categories.values())}", usage=True)
    names = tuple(classes) or tuple(by_name)
    place = {by_name[name]: k for k, name in enumerate(names)}
    index = _Index(base)
    items = [(split, item) for split, file, found in read for item in _items(file, found, place, index, base, split)]
    boxes = sum(0 if item.boxes is None else len(item.boxes) for _, item in items)
    about = f"COCO: {len(items):,} images with {boxes:,} boxes of {', '.join(names)}"
    numbers = [by_name[name] for name in names]
    return Layout(by_split(items, names, root, numbers=numbers), names, "boxes", about)


def sniff(path: str | Path) -> str:
    """Why this looks like COCO; "" where it does not."""
    found = _files(Path(path))
    return f"{found[0][1].name} holds {', '.join(_KEYS)}" if found else ""


def _files(root: Path) -> list[tuple[str, Path]]:
    """(split or "all", file) of the JSONs of boxes."""
    if root.is_file():
        return [("all", root)] if root.suffix == ".json" and _looks(root) else []
    if not root.is_dir():
        return []
    inside = [root, root / "annotations", *(d for d in sorted(root.iterdir()) if d.name.lower() in SPLIT_NAMES)]
    files = [f for d in inside if d.is_dir() for f in sorted(d.glob("*.json")) if _looks(f)]
    named: list[tuple[str, Path]] = []
    for file in files:
        words = [*re.split(r"[^a-z]+", file.stem.lower()), file.parent.name.lower()]
        named.append((next((SPLIT_NAMES[w] for w in words if w in SPLIT_NAMES), "all"), file))
    for split in {split for split, _ in named}:
        same = [file for s, file in named if s == split]
        if len(same) > 1 and all("instances" in f.name for f in same) is False and split != "all":
            chosen = [f for f in same if f.name.startswith("instances")] or same
            named = [(s, f) for s, f in named if s != split or f in chosen]
    return named


def _looks(file: Path) -> bool:
    """Whether the beginning or the end of a JSON names images and categories or annotations."""
    try:
        with open(file, "rb") as handle:
            head = handle.read(_HEAD)
            handle.seek(max(0, file.stat().st_size - _HEAD))
            tail = handle.read()
    except OSError:
        return False
    return head.lstrip().startswith(b"{") and sum(f'"{key}"'.encode() in head + tail for key in _KEYS) >= 2


def _read(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise InputError(f"{file}: cannot be read as JSON: {error}\nget it again") from None
    missing = [key for key in _KEYS if not isinstance(found, dict) or not isinstance(found.get(key), list)]
    if missing:
        raise InputError(f"{file}: has no list {missing[0]!r}\na COCO file has {', '.join(_KEYS)}")
    return found


def _rows(file: Path, found: dict[str, Any], part: str, *needed: str) -> list[dict[str, Any]]:
    for n, row in enumerate(found[part]):
        lacking = [key for key in needed if not isinstance(row, dict) or key not in row]
        if lacking:
            raise InputError(f"{file}: entry {n} of {part} has no {lacking[0]!r}\nadd it")
    return found[part]


def _categories(of: list[tuple[Path, list[Any]]]) -> dict[Any, str]:
    """{number: name}, the same in all files."""
    found: dict[Any, str] = {}
    for file, rows in of:
        for row in _rows(file, {"categories": rows}, "categories", "id", "name"):
            if found.setdefault(row["id"], str(row["name"])) != str(row["name"]):
                text = f"{file}: the category {row['id']} is {row['name']!r} here and {found[row['id']]!r} elsewhere"
                raise InputError(f"{text}\ngive all files the same categories")
    names = list(found.values())
    if twice := next((name for name in names if names.count(name) > 1), ""):
        raise InputError(f"{of[0][0]}: two categories are called {twice!r}\ngive them different names")
    return found


def _items(file: Path, found: dict[str, Any], place: dict[Any, int], index: _Index, base: Path, split: str) -> list[BoxItem]:
    images: dict[Any, dict[str, Any]] = {}
    for row in _rows(file, found, "images", "id", "file_name"):
        if row["id"] in images:
            raise InputError(f"{file}: two images have the id {row['id']}\ngive each its own")
        images[row["id"]] = row
    of: dict[Any, list[dict[str, Any]]] = {number: [] for number in images}
    for row in _rows(file, found, "annotations", "image_id", "category_id", "bbox"):
        if row["image_id"] not in of:
            raise InputError(
                f"{file}: an annotation is of the image {row['image_id']}, which `images` does not list\nadd it there"
            )
        if row["category_id"] in place:
            of[row["image_id"]].append(row)
    items = []
    for number, row in images.items():
        path = index.find(str(row["file_name"]), split, file)
        boxes = _boxes(f"{file}: image {number}", of[number])
        size = (int(row["height"]), int(row["width"])) if row.get("height") and row.get("width") else None
        patient = next((str(row[key]) for key in _PATIENT if row.get(key) not in (None, "")), "")
        category = np.array([place[a["category_id"]] for a in of[number]], np.int32)
        crowd = np.array([bool(a.get("iscrowd", 0)) for a in of[number]], bool)
        items.append(BoxItem(path, case_id(path, base), boxes, category, crowd, patient, (), size, str(number)))
    return items


def _boxes(where: str, rows: list[dict[str, Any]]) -> np.ndarray:
    try:
        boxes = np.array([row["bbox"] for row in rows], np.float64).reshape(-1, 4)
    except (TypeError, ValueError):
        raise InputError(f"{where} has a bbox that is no list of four numbers\ngive [x, y, width, height] in pixels") from None
    boxes[:, 2:] += boxes[:, :2]
    check_corners(boxes, where)
    return boxes


class _Index:
    """Where the files that a JSON names lie: in the data folder, its images, a split's folder, or by their name anywhere."""

    def __init__(self, base: Path):
        self.base = base
        self.names: dict[str, list[Path]] | None = None

    def find(self, name: str, split: str, file: Path) -> Path:
        """The file of that name. Raises InputError where there is none, or several of which none is where it should be."""
        words = [split, *(w for w, s in SPLIT_NAMES.items() if s == split)]
        folders = [self.base, self.base / "images", file.parent, *(self.base / w for w in words)]
        folders += [self.base / "images" / w for w in words]
        folders += [self.base / f"{w}{year}" for w in words for year in ("2017", "2014")]
        for folder in folders:
            if (folder / name).is_file():
                return folder / name
        if self.names is None:
            self.names = {}
            for found in self.base.rglob("*"):
                self.names.setdefault(found.name, []).append(found)
        same = self.names.get(Path(name).name, [])
        if len(same) != 1:
            what = "is not there" if not same else f"could be any of {len(same)} files of that name"
            raise InputError(f"{file}: the image {name} {what}\nput it into {self.base / 'images'}, or mend `file_name`")
        return same[0]
