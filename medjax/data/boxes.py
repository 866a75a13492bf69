"""Pictures with boxes as Sources: those that a layout has listed, and those that a user names for prediction."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from medjax.cases import Varying
from medjax.data.folders import UNKNOWN, ImageSource, image_source
from medjax.data.records import Tally
from medjax.errors import InputError
from medjax.formats.facts import Picture
from medjax.formats.picture import read_picture

CLIPPED, EMPTY = "boxes clipped to their image", "boxes without area dropped"
_SLACK = 1.0  # pixels that a box may reach over the edge without being counted: formats differ in where pixels begin
_EDITED = "boxes must lie within their image: left, top, right and bottom (or width and height) in pixels of the file"


class BoxItem(NamedTuple):
    """A picture with its boxes, as a layout lists it.

    Attributes:
      path: the file.
      id: of the case.
      boxes: float64 [m, 4]: left, top, right and bottom edge in pixels; None where nobody has looked for any.
      category: int [m], places in the classes.
      crowd: bool [m], regions that are not to be counted; none by default.
      patient: "" where it is unknown; a DICOM file then tells it itself.
      known: values of the source's `columns`.
      size: (height, width) as the listing says, None where it does not.
      number: of the image in the listing, as COCO results name it; the id by default.
      part: what of the file is meant, as the source's `read` understands it; all of it by default.
    """

    path: Path
    id: str
    boxes: np.ndarray | None
    category: np.ndarray
    crowd: np.ndarray | None = None
    patient: str = ""
    known: tuple[Any, ...] = ()
    size: tuple[int, int] | None = None
    number: str = ""
    part: tuple[int, ...] = ()


def read_whole(item: BoxItem) -> Picture:
    """The picture of an item whose file is all of it."""
    return read_picture(item.path)


class BoxSource:
    """Pictures as examples {id, patient, path, number, numbers, image, boxes, category, crowd, label} and what else is known.

    `image` is [H, W] or [H, W, 3] in the file's own dtype; `boxes` float32 [m, 4], `category` int32 [m] and `crowd` bool [m]
    are `Varying`; `label` int8 [K] says of each class whether the picture has a box of it (1) or not (0), -1 where nobody has
    looked; `number` is what the listing calls the picture, and `numbers` [K] the classes.
    Boxes that reach over the edge are clipped and those without area dropped, both counted.

    Attributes:
      items: the pictures.
      classes: names, K.
      numbers: what the listing calls the classes, [K].
      columns: names of what is known besides, out of sex, age, view and site.
      read: item -> Picture.
    """

    def __init__(
        self,
        items: Iterable[BoxItem],
        classes: Sequence[str],
        *,
        numbers: Sequence[int] = (),
        columns: Sequence[str] = (),
        read: Callable[[BoxItem], Picture] = read_whole,
    ):
        self.items, self.classes, self.columns = list(items), tuple(classes), tuple(columns)
        self.numbers = tuple(numbers) or tuple(range(1, len(self.classes) + 1))
        self.read = read
        self._counts: dict[int, tuple[int, int]] = {}

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, i: int) -> dict[str, Any]:
        """Raises InputError where a box lies outside of its picture, or the picture has not the size that its listing says."""
        item = self.items[i]
        picture = self.read(item)
        height, width = picture.pixels.shape[:2]
        if picture.pixels.ndim == 3 and picture.pixels.shape[-1] != 3:
            raise InputError(f"{item.path}: is a volume {list(picture.pixels.shape)}\ngive single slices")
        if item.size and item.size != (height, width):
            turned = " (width and height changed over?)" if item.size == (width, height) else ""
            raise InputError(
                f"{item.path}: is {height} x {width} pixels, its boxes were drawn on {item.size[0]} x {item.size[1]}{turned}\n"
                "give the images that the boxes were drawn on, height first"
            )
        boxes, category, crowd = self._clean(i, height, width)
        label = np.full(len(self.classes), -1 if item.boxes is None else 0, np.int8)
        label[category[~crowd]] = 1
        known = dict(zip(self.columns, item.known, strict=True))
        known = {name: _first(value, getattr(picture.facts, name), UNKNOWN[name]) for name, value in known.items()}
        return {
            "id": item.id,
            "patient": item.patient or picture.facts.patient,
            "path": str(item.path),
            "number": item.number or item.id,
            "image": picture.pixels,
            "boxes": Varying(boxes),
            "category": Varying(category),
            "crowd": Varying(crowd),
            "label": label,
            "numbers": np.array(self.numbers, np.int64),
            **known,
        }

    def _clean(self, i: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        item = self.items[i]
        if item.boxes is None or not len(item.boxes):
            return np.zeros((0, 4), np.float32), np.zeros(0, np.int32), np.zeros(0, bool)
        boxes = np.asarray(item.boxes, np.float64)
        crowd = np.zeros(len(boxes), bool) if item.crowd is None else np.asarray(item.crowd, bool)
        outside = where_outside(boxes, height, width)
        if outside.any():
            k = int(outside.argmax())
            swapped = not where_outside(boxes[:, [1, 0, 3, 2]], height, width).any()
            raise InputError(
                f"{item.path}: the box {_told(boxes[k])} of {item.id} lies outside of its {height} x {width} pixels"
                f"{'; with x and y changed over all its boxes lie inside' if swapped else ''}\n{_EDITED}"
            )
        limits = np.array([width, height, width, height])
        kept = np.clip(boxes, 0, limits)
        clipped = (np.abs(kept - boxes) > _SLACK).any(1)
        empty = (kept[:, 2:] <= kept[:, :2]).any(1)
        self._counts[i] = int((clipped & ~empty).sum()), int(empty.sum())
        return kept[~empty].astype(np.float32), np.asarray(item.category, np.int32)[~empty], crowd[~empty]

    def case_id(self, i: int) -> str:
        """The id of a case, also where its file cannot be read."""
        return self.items[i].id

    def tally(self) -> Tally:
        """What reading has clipped and dropped so far, counted."""
        clipped, empty = (sum(n[k] for n in self._counts.values()) for k in (0, 1))
        return Counter({(what, ""): n for what, n in ((CLIPPED, clipped), (EMPTY, empty)) if n})

    def outline(self, i: int) -> tuple[int, int, np.ndarray]:
        """(height, width, boxes [m, 4]) of a case; the picture is opened only where its listing says no size."""
        item = self.items[i]
        height, width = item.size or self.read(item).pixels.shape[:2]
        boxes = np.zeros((0, 4)) if item.boxes is None else np.asarray(item.boxes, np.float64).reshape(-1, 4)
        kept = np.clip(boxes, 0, [width, height, width, height])
        return int(height), int(width), kept[(kept[:, 2:] > kept[:, :2]).all(1)]

    def identity(self) -> Iterable[str]:
        """What a prepared cache is keyed by: all that the listing says, sizes and times, without reading the files."""
        yield f"{self.classes}|{self.numbers}|{self.columns}|{self.read.__module__}.{self.read.__qualname__}"
        for item in self.items:
            boxes, crowd = (None if x is None else np.asarray(x).tolist() for x in (item.boxes, item.crowd))
            state = f"{boxes}|{np.asarray(item.category).tolist()}|{crowd}|{item.patient}|{item.known}|{item.size}|{item.part}"
            try:
                stat = item.path.stat()
                yield f"{item.path}|{item.id}|{item.number}|{state}|{stat.st_size}|{stat.st_mtime_ns}"
            except OSError as error:  # told when it is read
                yield f"{item.path}|{item.id}|{item.number}|{state}|{error.strerror}"


def where_outside(boxes: np.ndarray, height: int, width: int) -> np.ndarray:
    """Which boxes [m, 4] share no point with an image of that size: bool [m]."""
    return (boxes[:, 0] >= width) | (boxes[:, 1] >= height) | (boxes[:, 2] <= 0) | (boxes[:, 3] <= 0)


def by_split(items: Iterable[tuple[str, BoxItem]], classes: Sequence[str], where: Path, **options: Any) -> dict[str, BoxSource]:
    """Items (split or "all", item) as {split: BoxSource}; `options` are those of `BoxSource`.

    Args:
      where: the file or folder of the boxes, for messages.

    Raises:
      InputError: no items, two of one id, the same file twice, no class, boxes whose x and y look swapped.
    """
    found: dict[str, list[BoxItem]] = {}
    for split, item in items:
        found.setdefault(split, []).append(item)
    everything = [item for part in found.values() for item in part]
    if not everything:
        raise InputError(f"{where}: lists no images\ncheck the path")
    ids: dict[str, Path] = {}
    files: set[tuple[Path, tuple[int, ...]]] = set()
    for item in everything:
        if (item.path, item.part) in files:
            raise InputError(f"{item.path}: is listed twice\nlist each image once, in one split")
        if item.id in ids:
            raise InputError(f"{item.path} and {ids[item.id]} share the id {item.id!r}\nrename one of them")
        ids[item.id] = item.path
        files.add((item.path, item.part))
    if not classes:
        raise InputError(f"{where}: holds no box of any class\ncheck that the boxes are where they should be")
    check_swapped(everything, where)
    return {split: BoxSource(part, classes, **options) for split, part in found.items()}


def check_swapped(items: Sequence[BoxItem], where: Path) -> None:
    """Stop where boxes lie outside of their images as they are, and would all lie inside with x and y changed over.

    Only pictures of a known size that are not square can tell.
    """
    outside = total = inside = 0
    for item in items:
        if item.size is None or item.size[0] == item.size[1] or item.boxes is None or not len(item.boxes):
            continue
        boxes = np.asarray(item.boxes, np.float64)
        beyond = _beyond(boxes, *item.size)
        outside, total = outside + int(beyond.sum()), total + len(boxes)
        inside += int((~_beyond(boxes[:, [1, 0, 3, 2]], *item.size)).sum())
    if outside > max(0.02 * total, 1) and inside == total:
        raise InputError(
            f"{where}: {outside:,} of {total:,} boxes reach over the edge of their image, and none would with x and y changed "
            f"over: they look swapped\n{_EDITED}"
        )


def _beyond(boxes: np.ndarray, height: int, width: int) -> np.ndarray:
    low, high = boxes[:, :2].min(1) < -_SLACK, (boxes[:, 2] > width + _SLACK) | (boxes[:, 3] > height + _SLACK)
    return low | high


def check_corners(boxes: np.ndarray, where: str) -> None:
    """Refuse boxes [m, 4] that are no numbers or inside out; those without area are left to be counted."""
    if not np.isfinite(boxes).all():
        raise InputError(f"{where}: holds a box that is no number: {_told(boxes[~np.isfinite(boxes).all(1)][0])}\nmend it")
    wrong = (boxes[:, 2:] < boxes[:, :2]).any(1)
    if wrong.any():
        raise InputError(
            f"{where}: the box {_told(boxes[wrong][0])} ends before it begins\n"
            "give left, top, right and bottom, or a width and height that are not negative"
        )


def _told(box: np.ndarray) -> str:
    return "(" + ", ".join(f"{v:g}" for v in box) + ")"


def _first(*values: Any) -> Any:
    """The first value that says something, else the last."""
    return next((value for value in values if value != "" and value == value), values[-1])


def picture_source(inputs: Sequence[str | Path], *, classes: Sequence[str], numbers: Sequence[int] = ()) -> BoxSource:
    """Pictures named one by one or by folder, in which nobody has looked for boxes: for prediction.

    Args:
      inputs: files, or folders of them.
      classes, numbers: see `BoxSource`.

    Raises:
      InputError: see `image_source`.
    """
    found: ImageSource = image_source(inputs)
    none = np.zeros(0, np.int32)
    return BoxSource([BoxItem(item.path, item.id, None, none) for item in found.items], classes, numbers=numbers)
