"""YOLO: images/NAME.* with labels/NAME.txt of "class x y width height" a line, centres and sides as fractions of the image."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from medjax.data.boxes import BoxItem, by_split, check_corners
from medjax.data.folders import SPLIT_NAMES, case_id, drop_ending, picture_files
from medjax.data.layouts import Layout
from medjax.errors import InputError
from medjax.formats.picture import read_picture

_WHERE = "expected PATH/images/train/NAME.jpg with PATH/labels/train/NAME.txt (val, test), or images and labels in each split"
_NAMES = ("data.yaml", "dataset.yaml", "classes.txt", "obj.names", "labels/classes.txt")
_LINE = "give class, x, y, width and height, the last four from 0 to 1"


def sources(path: str | Path, *, classes: Sequence[str] = ()) -> Layout:
    """Read darknet's and Ultralytics' form of boxes. Images without a .txt, or with an empty one, are known to hold nothing.

    Args:
      path: the folder; names come from its data.yaml or classes.txt.
      classes: names in the order of the numbers, in place of those.

    Raises:
      InputError: no such folders, a label without an image, a line that is no box, a class number without a name.
    """
    root = Path(path)
    parts = _parts(root)
    if not parts:
        raise InputError(f"{root}: holds no folders of images and labels\n{_WHERE}")
    names = tuple(classes) or _read_names(root)
    read, most = [], -1
    for split, images, labels in parts:
        files = {drop_ending(f.relative_to(images).as_posix()): f for f in picture_files(images)}
        texts = {f.relative_to(labels).as_posix().removesuffix(".txt"): f for f in sorted(labels.rglob("*.txt"))}
        texts.pop("classes", None)
        if lone := next((name for name in texts if name not in files), None):
            raise InputError(f"{texts[lone]}: its image is not in {images}\nadd it, or remove the labels")
        for name, file in files.items():
            rows = _rows(texts[name]) if name in texts else np.zeros((0, 5))
            most = max(most, int(rows[:, 0].max(initial=-1)))
            read.append((split, file, texts.get(name, file), rows))
    names = names or tuple(str(k) for k in range(most + 1))
    if most >= len(names):
        raise InputError(f"{root}: a box is of class {most}, and {len(names)} have names\nadd it to {_NAMES[0]}")
    items = []
    for split, file, text, rows in read:
        height, width = _size(file)
        centre, side = rows[:, 1:3] * [width, height], rows[:, 3:] * [width, height]
        boxes = np.concatenate([centre - side / 2, centre + side / 2], 1)
        check_corners(boxes, str(text))
        items.append((split, BoxItem(file, case_id(file, root), boxes, rows[:, 0].astype(np.int32), size=(height, width))))
    about = f"YOLO: {len(items):,} images with {sum(len(i.category) for _, i in items):,} boxes of {', '.join(names)}"
    return Layout(by_split(items, names, root, numbers=range(len(names))), names, "boxes", about)


def sniff(path: str | Path) -> str:
    """Why this looks like YOLO; "" where it does not."""
    root = Path(path)
    for _, _, labels in _parts(root) if root.is_dir() else ():
        for file in sorted(labels.rglob("*.txt")):
            line = file.read_text(encoding="utf-8", errors="replace").split("\n", 1)[0].split()
            if len(line) == 5 and file.stem != "classes" and line[0].isdigit() and all(_fraction(v) for v in line[1:]):
                return f"{labels.name} holds .txt of class, x, y, width and height"
    return ""


def _fraction(text: str) -> bool:
    return re.fullmatch(r"[01]?\.?\d*(e-\d+)?", text) is not None and text not in ("", ".") and float(text) <= 1


def _parts(root: Path) -> list[tuple[str, Path, Path]]:
    """(split or "all", images, labels): of the root, of splits inside of both, or of splits that hold both."""
    images, labels = root / "images", root / "labels"
    if images.is_dir() and labels.is_dir():
        inside = [
            (SPLIT_NAMES[d.name.lower()], d, labels / d.name) for d in sorted(images.iterdir()) if d.name.lower() in SPLIT_NAMES
        ]
        return [part for part in inside if part[2].is_dir()] or [("all", images, labels)]
    folders = [d for d in sorted(root.iterdir()) if d.is_dir() and d.name.lower() in SPLIT_NAMES]
    both = [(SPLIT_NAMES[d.name.lower()], d / "images", d / "labels") for d in folders]
    return [part for part in both if part[1].is_dir() and part[2].is_dir()]


def _read_names(root: Path) -> tuple[str, ...]:
    """Names of the classes; empty where no file tells them."""
    for name in _NAMES:
        file = root / name
        if not file.is_file():
            continue
        text = file.read_text(encoding="utf-8")
        if file.suffix != ".yaml":
            return tuple(line.strip() for line in text.splitlines() if line.strip())
        # The two forms that YOLO writes, without a library for all of YAML: a list in brackets, or a line for each.
        if found := re.search(r"^names:\s*\[(.*?)\]", text, re.M | re.S):
            return tuple(part.strip().strip("'\"") for part in found[1].split(",") if part.strip())
        if found := re.search(r"^names:[ \t]*\n((?:[ \t]*(?:-|\d+:)[^\n]*\n?)+)", text, re.M):
            return tuple(re.sub(r"^\s*(-|\d+:)\s*", "", line).strip().strip("'\"") for line in found[1].splitlines())
    return ()


def _rows(file: Path) -> np.ndarray:
    """[m, 5] of a file."""
    rows = []
    for n, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = [float(v) for v in line.split()]
        except ValueError:
            row = []
        if len(row) != 5 or row[0] < 0 or row[0] != int(row[0]) or max(row[3:]) > 1.5:
            raise InputError(f"{file}: line {n} is no box: {line.strip()[:60]!r}\n{_LINE}")
        rows.append(row)
    return np.array(rows, np.float64).reshape(-1, 5)


def _size(file: Path) -> tuple[int, int]:
    """(height, width) by the header alone where that is possible."""
    try:
        with Image.open(file) as image:
            width, height = image.size
            return height, width
    except (OSError, ValueError):
        height, width = read_picture(file).pixels.shape[:2]
        return height, width
