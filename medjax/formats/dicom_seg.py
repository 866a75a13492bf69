"""DICOM Segmentation objects (PS3.3 A.51) -> labels on their series' grid, and back. highdicom writes."""

from __future__ import annotations

import hashlib
import importlib.metadata
import io
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medjax.errors import InputError
from medjax.extras import need
from medjax.formats.dicom import _dataset, _items, _numbers, _text
from medjax.formats.dicom_pixels import check_layout, decode, load_pydicom
from medjax.formats.regions import Overlap, choose, paint
from medjax.formats.series import FIT, Groups, Slices, vector

SEG = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")  # Segmentation, Label Map Segmentation
LONGEST = 64  # characters of a segment's label (value representation LO)
_TYPES = ("BINARY", "FRACTIONAL", "LABELMAP")
# Type 2 elements that a SEG takes over from its source, and that sources lack nevertheless.
_EMPTY = ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate", "StudyTime")


def seg_names(path: str | Path) -> tuple[str, ...]:
    """The classes of a SEG: its segments' labels by segment number; segments of one label are one class.

    Raises:
      InputError: no SEG, a damaged one, a segment without number or label.
    """
    path = Path(path)
    return tuple(dict.fromkeys(_segments(path, _open(path, pixels=False)).values()))


def referenced_series(path: str | Path) -> set[str]:
    """SeriesInstanceUID of the series that a SEG says it is of; empty where it says nothing.

    Raises:
      InputError: no SEG, or a damaged one.
    """
    items = _items(_open(Path(path), pixels=False), "ReferencedSeriesSequence")
    return {uid for item in items if (uid := _text(item, "SeriesInstanceUID"))}


def read_seg(
    path: str | Path, slices: Slices, *, names: Sequence[str] = (), overlap: Overlap = "stop"
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Read a SEG on the grid of its series. Slices that it has no frame of are background.

    BINARY and LABELMAP are taken as they are; in FRACTIONAL, a voxel is in a segment from half of MaximumFractionalValue on.

    Args:
      path: the file.
      slices: of the series, from `medjax.formats.series.read_slices`.
      names: the classes to read, in the order of their labels; all, as `seg_names` gives them, by default.
      overlap: "stop" where two classes share voxels, or let the "later" one in `names` have them.

    Returns:
      Labels uint8 [D, H, W] in medjax's order, 0 background; the names of 1, 2, ..., which are those of `names` that the file
      has. A class may be in no voxel.

    Raises:
      InputError: no SEG, a damaged one, another frame of reference, a frame without position, one that lies over `FIT` of a
        voxel off the slices' voxels or outside of them, frames of no segment, classes that overlap.
    """
    path = Path(path)
    dataset = _open(path, pixels=True)
    check_reference(path, _text(dataset, "FrameOfReferenceUID"), slices)
    segments = _segments(path, dataset)
    chosen = choose(path, tuple(segments.values()), names)
    classes = {number: chosen.index(name) + 1 for number, name in segments.items() if name in chosen}
    regions = _regions(path, dataset, slices, segments, classes)
    return slices.grid.from_stored(paint(path, slices.stored_shape, chosen, regions, overlap)).copy(), chosen


def check_reference(path: Path, frame: str, slices: Slices) -> None:
    """Raise an InputError where a file's frame of reference is known to be another than its series'."""
    if frame and slices.frame and frame != slices.frame:
        raise InputError(
            f"{path}: is in another frame of reference than the images, {slices.places[0][0]} and others\n"
            "put it beside the series that it was drawn on"
        )


def write_seg(labels: np.ndarray, slices: Slices, names: Sequence[str]) -> bytes:
    """A BINARY SEG of labels, which refers to the images of their series.

    Args:
      labels: uint8 [D, H, W] in medjax's order: 0 background, k the class names[k - 1]; 255 (ignored) is background too.
      slices: of the series; its files are read again for patient, study and geometry.
      names: of the classes 1, 2, ..., 64 characters each at most.

    Raises:
      InputError: highdicom is not installed; the series' headers lack what a SEG needs; names that are empty, too long or
        alike; a series of several files of many frames each.
      ValueError: labels of another shape or beyond the names.
    """
    highdicom, pydicom = need("highdicom", extra="imaging"), load_pydicom()
    first = slices.places[0][0]
    if bad := next((n for n in names if not n.strip() or len(n) > LONGEST or "\\" in n), None):
        raise InputError(f"{first}: the class {bad!r} cannot be a segment's label\ngive it 1 to {LONGEST} characters, no \\")
    if len(set(names)) < len(names) or not names:
        raise InputError(f"{first}: a segmentation needs classes of different names, not {list(names)}\nrename them")
    labels = np.where(labels == 255, 0, labels)
    if labels.shape != slices.grid.shape or labels.max() > len(names):
        raise ValueError(f"labels {labels.shape} up to {labels.max()}, grid {slices.grid.shape}, {len(names)} classes")
    files = list(dict.fromkeys(file for file, _ in slices.places))
    frames = [frame for _, frame in slices.places]
    if len(files) > 1 and any(frame is not None for frame in frames):
        raise InputError(f"{first}: its series is of several files of many frames\nsave it as one file, or one image a file")
    stored = np.ascontiguousarray(slices.grid.to_stored(labels))
    if frames[0] is not None:  # in the order of the file's frames
        stored = stored[np.argsort([frame or 0 for frame in frames])]
    sources = [_source(file) for file in files]
    content = hashlib.sha256(repr((stored.shape, list(names))).encode() + stored.tobytes()).hexdigest()
    origin = [str(sources[0].get("SeriesInstanceUID", "")), content]
    version = importlib.metadata.version("medjax")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made = highdicom.seg.Segmentation(
                sources,
                stored,
                highdicom.seg.SegmentationTypeValues.BINARY,
                _descriptions(highdicom, names, version),
                series_instance_uid=pydicom.uid.generate_uid(entropy_srcs=["series", *origin]),
                series_number=1,
                sop_instance_uid=pydicom.uid.generate_uid(entropy_srcs=["instance", *origin]),
                instance_number=1,
                manufacturer="medjax",
                manufacturer_model_name="medjax",
                software_versions=version,
                device_serial_number="0",
                content_label="SEGMENTATION",
                omit_empty_frames=bool(stored.any()),
            )
            buffer = io.BytesIO()
            made.save_as(buffer)
    except Exception:  # highdicom answers headers it cannot use with exceptions of several kinds, whose words may quote them
        raise InputError(
            f"{first}: the headers of its series do not suffice for a DICOM segmentation of it\n"
            "use the original series, or have masks written as NIfTI"
        ) from None
    return buffer.getvalue()


def _descriptions(highdicom: Any, names: Sequence[str], version: str) -> list[Any]:
    codes, concept = need("pydicom.sr.codedict", extra="imaging").codes, highdicom.sr.CodedConcept
    by = highdicom.AlgorithmIdentificationSequence("medjax", codes.DCM.ArtificialIntelligence, version)
    # What the classes are is known by their names alone: a category that claims nothing, and a code of medjax's own.
    category = codes.SCT.SpatialAndRelationalConcept
    return [
        highdicom.seg.SegmentDescription(k, name, category, concept(f"CLASS-{k}", "99MEDJAX", name), "AUTOMATIC", by)
        for k, name in enumerate(names, 1)
    ]


def _source(path: Path) -> Any:
    dataset = _dataset(path, pixels=False)
    for keyword in _EMPTY:
        if keyword not in dataset:
            setattr(dataset, keyword, "")
    return dataset


def _open(path: Path, *, pixels: bool) -> Any:
    dataset = _dataset(path, pixels=pixels)
    if _text(dataset, "SOPClassUID") not in SEG:
        raise InputError(f"{path}: is no DICOM segmentation\ngive a SEG file")
    return dataset


def _segments(path: Path, dataset: Any) -> dict[int, str]:
    """{segment number: label}, sorted, without a label map's background."""
    labelmap = _text(dataset, "SegmentationType").upper() == "LABELMAP"
    found: dict[int, str] = {}
    for item in _items(dataset, "SegmentSequence"):
        number, label = vector(path, item, "SegmentNumber", 1)[0], _text(item, "SegmentLabel")
        if number == 0 and labelmap:
            continue
        if not label or number < 1 or int(number) in found:
            raise InputError(f"{path}: a segment has no label, or no number of its own\nwrite the segmentation anew")
        found[int(number)] = label
    return dict(sorted(found.items()))


def _regions(
    path: Path, dataset: Any, slices: Slices, segments: dict[int, str], classes: dict[int, int]
) -> Iterator[tuple[int, tuple, np.ndarray]]:
    """(class, where in the stored array, bool [rows, columns]) of the frames of chosen segments, sorted by class."""
    kind = _text(dataset, "SegmentationType").upper()
    if kind not in _TYPES:
        raise InputError(f"{path}: SegmentationType is missing or none of {', '.join(_TYPES)}\nwrite the segmentation anew")
    layout = check_layout(path, dataset, 0)
    count = layout.frames or 1
    if layout.samples != 1:
        raise InputError(f"{path}: a segmentation in colour\nwrite the segmentation anew")
    groups = Groups(dataset)
    threshold = vector(path, dataset, "MaximumFractionalValue", 1)[0] / 2 if kind == "FRACTIONAL" else 0.5
    todo = []
    for frame in range(count):
        where = _where(path, groups, frame, (layout.rows, layout.columns), slices)
        if kind == "LABELMAP":
            todo += [(value, number, frame, where) for number, value in classes.items()]
            continue
        identity = groups.find(frame, "SegmentIdentificationSequence")
        numbers = _numbers(identity, "ReferencedSegmentNumber") if identity is not None else ()
        if len(numbers) != 1 or numbers[0] not in segments:
            raise InputError(f"{path}: frame {frame} is of no segment that the file has\nwrite the segmentation anew")
        if int(numbers[0]) in classes:
            todo.append((classes[int(numbers[0])], int(numbers[0]), frame, where))
    read = _reader(path, dataset)
    for value, number, frame, where in sorted(todo, key=lambda item: (item[0], item[2])):
        pixels = read(frame)
        yield value, where, pixels == number if kind == "LABELMAP" else pixels >= threshold


def _reader(path: Path, dataset: Any) -> Callable[[int], np.ndarray]:
    """Frame -> pixels [rows, columns]: native ones one by one, since there may be many; all at once where compressed."""
    layout, syntax = check_layout(path, dataset, 0), dataset.file_meta.TransferSyntaxUID
    if layout.allocated == 1 and not syntax.is_encapsulated and syntax.is_little_endian:
        # Frames need not begin at a byte (PS3.5 8.1.1), which pydicom's decoder of single frames does not mind rightly.
        size, data = layout.rows * layout.columns, dataset.PixelData
        if len(data) * 8 < size * (layout.frames or 1):
            raise InputError(f"{path}: the pixel data are truncated or damaged\ncopy the file again, or leave it out")

        def unpack(frame: int) -> np.ndarray:
            start, end = frame * size, (frame + 1) * size
            whole = np.unpackbits(np.frombuffer(data[start // 8 : -(-end // 8)], np.uint8), bitorder="little")
            return whole[start % 8 :][:size].reshape(layout.rows, layout.columns)

        return unpack
    if not syntax.is_encapsulated and layout.frames:
        return lambda frame: decode(path, dataset, layout, frame)
    whole = check_layout(path, dataset, None)
    pixels = decode(path, dataset, whole, None).reshape(-1, layout.rows, layout.columns)
    return lambda frame: pixels[frame]


def _where(path: Path, groups: Groups, frame: int, size: tuple[int, int], slices: Slices) -> tuple:
    """The part of the series' stored array that a frame lies on."""
    parts = []
    for sequence in ("PlanePositionSequence", "PlaneOrientationSequence", "PixelMeasuresSequence"):
        if (item := groups.find(frame, sequence)) is None:
            raise InputError(
                f"{path}: frame {frame} has no {sequence}\nwrite the segmentation anew: where it lies is not guessed"
            )
        parts.append(item)
    position = np.array(vector(path, parts[0], "ImagePositionPatient", 3))
    directions = np.array(vector(path, parts[1], "ImageOrientationPatient", 6))
    spacing = vector(path, parts[2], "PixelSpacing", 2)
    ends = np.array([(0, 0), (size[0] - 1, 0), (0, size[1] - 1)])
    points = position + ends[:, :1] * spacing[0] * directions[3:] + ends[:, 1:] * spacing[1] * directions[:3]
    found = slices.locate(points)
    corner = np.rint(found[0]).astype(int)
    expected = corner + np.array([(0, a, b) for a, b in ends])
    room = slices.stored_shape
    if np.abs(found - expected).max() > FIT or (corner < 0).any() or corner[0] >= room[0]:
        lies = ", ".join(f"{x:.2f}" for x in found[0])
        raise InputError(
            f"{path}: frame {frame} does not lie on the voxels of the images, {slices.places[0][0]} and others: its "
            f"corner is at (slice, row, column) {lies}\nput it beside the series that it was drawn on"
        )
    if corner[1] + size[0] > room[1] or corner[2] + size[1] > room[2]:
        raise InputError(
            f"{path}: frame {frame}, {size[0]} x {size[1]}, is larger than the images, {room[1]} x {room[2]}\n"
            "put it beside the series that it was drawn on"
        )
    return corner[0], slice(corner[1], corner[1] + size[0]), slice(corner[2], corner[2] + size[1])
