"""Pascal VOC: Annotations/NAME.xml with JPEGImages/NAME.*, and perhaps ImageSets/Main/train.txt, val.txt and test.txt."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from medjax.data.boxes import BoxItem, by_split, check_corners
from medjax.data.folders import SPLIT_NAMES, case_id, drop_ending, picture_files
from medjax.data.layouts import Layout
from medjax.errors import InputError

IMAGES = ("JPEGImages", "images", "Images")
_WHERE = "expected PATH/Annotations/NAME.xml with PATH/JPEGImages/NAME.jpg"
_ENTITIES = (b"<!DOCTYPE", b"<!ENTITY")


def sources(path: str | Path, *, classes: Sequence[str] = ()) -> Layout:
    """Read the form of the Pascal VOC challenges (Everingham et al., IJCV 2010): an XML of boxes for each image.

    VOC counts pixels from 1, and both corners belong to the box: left and top are taken as they stand less 1, right and bottom
    as they stand. A box of which both corners are one point has no area. "difficult" objects count neither way. Images without
    objects are known to hold nothing. Splits are those of ImageSets/Main, "trainval" left out where train is there.

    Args:
      path: the folder.
      classes: names in the order to take, the others left out; those that are found, sorted, by default.

    Raises:
      InputError: no such folders, an image or an annotation alone, an XML that cannot be read, a box that is none, no object
        of the classes, a split that names what is not there.
    """
    root = Path(path)
    images, notes = _folders(root)
    if images is None or notes is None:
        raise InputError(f"{root}: holds no folders Annotations and JPEGImages\n{_WHERE}")
    files = {drop_ending(file.relative_to(images).as_posix()): file for file in picture_files(images)}
    xmls = {file.relative_to(notes).as_posix().removesuffix(".xml"): file for file in sorted(notes.rglob("*.xml"))}
    if not xmls:
        raise InputError(f"{notes}: holds no .xml\n{_WHERE}")
    if lone := next((name for name in xmls if name not in files), None):
        raise InputError(f"{xmls[lone]}: its image is not in {images}\nadd it, or remove the annotation")
    splits = _splits(root)
    if lone := next((name for name in files if name not in xmls and (not splits or name in splits)), None):
        raise InputError(f"{files[lone]}: has no {notes / lone}.xml\nadd it (without objects where there are none)")
    if lone := next((name for name in splits if name not in xmls), None):
        raise InputError(f"{root / 'ImageSets'}: names {lone!r}, which has no annotation\nadd it, or take it out")
    parsed = {name: _parse(file) for name, file in xmls.items()}
    there = sorted({label for _, labels, *_ in parsed.values() for label in labels})
    names = tuple(classes) or tuple(there)
    if there and not set(there) & set(names):
        raise InputError(f"{notes}: holds no object of {', '.join(names)}\nthere are {', '.join(there)}", usage=True)
    items = []
    for name, (boxes, labels, hard, size) in parsed.items():
        if splits and name not in splits:
            continue
        meant = np.array([label in names for label in labels], bool)
        category = np.array([names.index(label) for label in labels if label in names], np.int32)
        item = BoxItem(files[name], case_id(files[name], root), boxes[meant], category, hard[meant], "", (), size)
        items.append((splits.get(name, "all"), item))
    boxes_in_all = sum(len(item.category) for _, item in items)
    about = f"Pascal VOC: {len(items):,} images with {boxes_in_all:,} boxes of {', '.join(names)}"
    if splits and len(xmls) > len(items):
        about += f"; {len(xmls) - len(items):,} that no split names were left out"
    return Layout(by_split(items, names, root), names, "boxes", about)


def sniff(path: str | Path) -> str:
    """Why this looks like Pascal VOC; "" where it does not."""
    images, notes = _folders(Path(path))
    if images is None or notes is None:
        return ""
    first = next(iter(sorted(notes.rglob("*.xml"))), None)
    if first is None or b"<annotation" not in first.read_bytes()[:4096]:
        return ""
    return f"{notes.name} holds VOC's .xml of boxes, and {images.name} is there"


def _folders(root: Path) -> tuple[Path | None, Path | None]:
    there = [root / name for name in IMAGES if (root / name).is_dir()]
    notes = [root / name for name in ("Annotations", "annotations") if (root / name).is_dir()]
    return next(iter(there), None), next(iter(notes), None)


def _splits(root: Path) -> dict[str, str]:
    """{name: split} of ImageSets/Main; empty where there is none."""
    folder = root / "ImageSets" / "Main"
    found: dict[str, str] = {}
    for file in sorted(folder.glob("*.txt")) if folder.is_dir() else ():
        split = SPLIT_NAMES.get(file.stem.lower())
        for line in file.read_text(encoding="utf-8").splitlines() if split else ():
            name = line.split()[0] if line.split() else ""
            if not name:
                continue
            if found.setdefault(name, str(split)) != split:
                raise InputError(f"{file}: {name!r} stands in {found[name]} too\nkeep each image in one split")
    return found


def _parse(file: Path) -> tuple[np.ndarray, list[str], np.ndarray, tuple[int, int] | None]:
    """(boxes [m, 4], names, difficult bool [m], (height, width) or None)."""
    raw = file.read_bytes()
    if any(word in raw for word in _ENTITIES):  # expanding entities is how an XML takes all memory
        raise InputError(f"{file}: declares entities, which boxes do not need\nremove them")
    try:
        tree = ElementTree.fromstring(raw)
    except ElementTree.ParseError as error:
        raise InputError(f"{file}: cannot be read as XML: {error}\nmend it") from None
    boxes, labels, hard = [], [], []
    for thing in tree.iter("object"):
        name, box = thing.findtext("name"), thing.find("bndbox")
        try:
            corners = [
                float(str((box if box is not None else thing).findtext(key))) for key in ("xmin", "ymin", "xmax", "ymax")
            ]
        except ValueError:
            corners = []
        if not name or not corners:
            raise InputError(f"{file}: an object has no name, or no bndbox of xmin, ymin, xmax and ymax\nadd them")
        labels.append(name.strip())
        boxes.append(corners)
        hard.append((thing.findtext("difficult") or "0").strip() == "1")
    found = np.array(boxes, np.float64).reshape(-1, 4)
    check_corners(found, str(file))
    # From 1 on, both corners inside; one point is no box, as VOC's own tools have no such objects.
    point = (found[:, 2:] <= found[:, :2]).any(1)
    found[:, :2] -= 1
    found[point, 2:] = found[point, :2]
    height, width = (_number(tree.findtext(f"size/{key}")) for key in ("height", "width"))
    return found, labels, np.array(hard, bool), (height, width) if height and width else None


def _number(text: str | None) -> int:
    try:
        return int(float(text or 0))
    except ValueError:
        return 0
