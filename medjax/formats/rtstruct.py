"""DICOM RT Structure Sets (PS3.3 A.19): closed planar contours -> labels on their series' grid."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medjax.errors import InputError
from medjax.formats.dicom import _dataset, _items, _numbers, _text
from medjax.formats.dicom_seg import check_reference
from medjax.formats.regions import Overlap, choose, paint
from medjax.formats.series import FIT, Slices, vector

RTSTRUCT = "1.2.840.10008.5.1.4.1.1.481.3"
_CLOSED = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")
_DIGITS = 6  # of a pixel: contours drawn through pixels' centres stay on them, whatever the last bit of the affine's inverse


def rtstruct_names(path: str | Path) -> tuple[str, ...]:
    """The classes of an RTSTRUCT: ROIName of the structures that have closed planar contours, by ROINumber.

    Points, open contours, and structures without contours are none: an empty one may never have been drawn.

    Raises:
      InputError: no RTSTRUCT, a damaged one, a structure with contours but no name.
    """
    path = Path(path)
    return tuple(dict.fromkeys(name for name, _, _ in _structures(path, _open(path))))


def referenced_series(path: str | Path) -> set[str]:
    """SeriesInstanceUID of the series that an RTSTRUCT says it is of; empty where it says nothing.

    Raises:
      InputError: no RTSTRUCT, or a damaged one.
    """
    levels = ("ReferencedFrameOfReferenceSequence", "RTReferencedStudySequence", "RTReferencedSeriesSequence")
    items = [_open(Path(path))]
    for keyword in levels:
        items = [below for item in items for below in _items(item, keyword)]
    return {uid for item in items if (uid := _text(item, "SeriesInstanceUID"))}


def read_rtstruct(
    path: str | Path, slices: Slices, *, names: Sequence[str] = (), overlap: Overlap = "stop"
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Read an RTSTRUCT on the grid of its series.

    A voxel is in a structure where its centre is inside an odd number of the structure's contours on its slice (even-odd rule:
    a contour inside of another cuts a hole). What of a contour is beyond the images' edge is cut off. Nothing is filled in
    between slices.

    Args:
      path: the file.
      slices: of the series, from `medjax.formats.series.read_slices`.
      names: the classes to read, in the order of their labels; all, as `rtstruct_names` gives them, by default.
      overlap: "stop" where two classes share voxels, or let the "later" one in `names` have them.

    Returns:
      Labels uint8 [D, H, W] in medjax's order, 0 background; the names of 1, 2, ..., which are those of `names` that the file
      has.

    Raises:
      InputError: no RTSTRUCT, a damaged one, another frame of reference, no closed contour, one that lies over `FIT` of the
        slices' spacing off a slice, or wholly outside the images, classes that overlap.
    """
    path = Path(path)
    structures = _structures(path, _open(path))
    chosen = choose(path, [name for name, _, _ in structures], names)
    wanted = sorted((s for s in structures if s[0] in chosen), key=lambda s: chosen.index(s[0]))
    for _, frame, _ in wanted:
        check_reference(path, frame, slices)
    regions = (
        (chosen.index(name) + 1, where, region)
        for name, _, contours in wanted
        for where, region in _drawn(path, name, contours, slices)
    )
    return slices.grid.from_stored(paint(path, slices.stored_shape, chosen, regions, overlap)).copy(), chosen


def inside(contours: Sequence[np.ndarray], shape: tuple[int, int]) -> tuple[tuple[slice, slice], np.ndarray]:
    """Whether the centre (row, column) of a pixel is inside an odd number of closed contours.

    Each row's crossings with the contours' edges are counted by the column up to which they lie right of the centres, then
    summed from the right. An edge owns its upper end, not its lower one, so that a corner counts once; centres on a left or
    upper edge are inside, on a right or lower one outside.

    Args:
      contours: float64 [m, 2] each, (row, column) of its corners in order.
      shape: (rows, columns).

    Returns:
      The rows and columns that hold all pixels inside; bool of this part.
    """
    rows, columns = shape
    starts = np.concatenate(contours)
    ends = np.concatenate([np.roll(contour, -1, axis=0) for contour in contours])
    low, high = np.minimum(starts[:, 0], ends[:, 0]), np.maximum(starts[:, 0], ends[:, 0])
    # Rows y with low <= y < high.
    first, last = np.clip(np.ceil(low), 0, rows).astype(int), np.clip(np.ceil(high), 0, rows).astype(int)
    counts = last - first
    edge = np.repeat(np.arange(len(starts)), counts)
    y = np.arange(len(edge)) - np.repeat(np.cumsum(counts) - counts, counts) + first[edge]
    (y0, x0), (y1, x1) = starts[edge].T, ends[edge].T
    x = x0 + (y - y0) * (x1 - x0) / (y1 - y0)
    right = np.clip(np.ceil(x), 0, columns).astype(int)  # columns 0 to right - 1 lie left of the crossing
    if len(y) == 0:
        return (slice(0, 0), slice(0, 0)), np.zeros((0, 0), bool)
    top, left = int(y.min()), int(right.min())
    height, width = int(y.max()) + 1 - top, int(right.max()) - left
    crossings = np.bincount((right - left) * height + y - top, minlength=(width + 1) * height).reshape(width + 1, height)
    odd = np.logical_xor.accumulate((crossings & 1).astype(bool)[::-1], axis=0)[::-1]  # of crossings right of a column
    return (slice(top, top + height), slice(left, left + width)), odd[1:].T


def _drawn(path: Path, name: str, contours: Sequence[Any], slices: Slices) -> Iterator[tuple[tuple, np.ndarray]]:
    """(part of the stored array, bool) of each slice that a structure has contours on."""
    count, rows, columns = slices.stored_shape
    on: dict[int, list[np.ndarray]] = defaultdict(list)
    for item in contours:
        numbers = _contour(item)
        if numbers.size == 0 or numbers.size % 3:
            raise InputError(f"{path}: a contour of {name!r} is damaged\nwrite the structures anew")
        points = slices.locate(numbers.reshape(-1, 3))
        where = int(np.rint(points[0, 0]))
        if np.abs(points[:, 0] - where).max() > FIT or not 0 <= where < count:
            low, high = points[:, 0].min(), points[:, 0].max()
            raise InputError(
                f"{path}: a contour of {name!r} lies on no slice of the images, {slices.places[0][0]} and others: at slice "
                f"{low:.2f} to {high:.2f} of 0 to {count - 1}\nput it beside the series that it was drawn on"
            )
        plane = points[:, 1:]
        if (plane.max(0) < -0.5).any() or (plane.min(0) > (rows - 0.5, columns - 0.5)).any():
            raise InputError(
                f"{path}: a contour of {name!r} lies outside the images, {slices.places[0][0]} and others\n"
                "put it beside the series that it was drawn on"
            )
        on[where].append(np.round(plane, _DIGITS))
    for where, found in on.items():
        part, region = inside(found, (rows, columns))
        yield (where, *part), region


def _contour(item: Any) -> np.ndarray:
    """The numbers of a contour, empty where they are none. pydicom's own objects for them take ten times as long to make."""
    raw = getattr(item.get_item("ContourData") if "ContourData" in item else None, "value", None)
    if not isinstance(raw, bytes):  # it has been parsed before
        return np.array(_numbers(item, "ContourData"))
    try:
        numbers = np.array(raw.decode("ascii").strip(" \0").split("\\"), np.float64)
    except ValueError:
        return np.array([])
    return numbers if np.isfinite(numbers).all() else np.array([])


def _open(path: Path) -> Any:
    dataset = _dataset(path, pixels=False)
    if _text(dataset, "SOPClassUID") != RTSTRUCT:
        raise InputError(f"{path}: is no DICOM structure set\ngive an RTSTRUCT file")
    return dataset


def _structures(path: Path, dataset: Any) -> list[tuple[str, str, list[Any]]]:
    """(name, frame of reference, closed contours) of the structures that have any, by number."""
    stated: dict[int, tuple[str, str]] = {}
    for item in _items(dataset, "StructureSetROISequence"):
        number = int(vector(path, item, "ROINumber", 1)[0])
        if number in stated:
            raise InputError(f"{path}: two structures have the number {number}\nwrite the structures anew")
        stated[number] = (_text(item, "ROIName"), _text(item, "ReferencedFrameOfReferenceUID"))
    found: dict[int, list[Any]] = defaultdict(list)
    for item in _items(dataset, "ROIContourSequence"):
        closed = [c for c in _items(item, "ContourSequence") if _text(c, "ContourGeometricType").upper() in _CLOSED]
        if not closed:
            continue
        number = int(vector(path, item, "ReferencedROINumber", 1)[0])
        if not stated.get(number, ("", ""))[0]:
            raise InputError(f"{path}: contours are of structure {number}, which has no name\nwrite the structures anew")
        found[number] += closed
    return [(*stated[number], contours) for number, contours in sorted(found.items())]
