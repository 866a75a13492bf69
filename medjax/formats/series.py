"""DICOM series -> volumes: slices in the order of their positions, and where they lie. Broken geometry is an error.

A series' array as stored is [slice, row, column]: slices by increasing position along the normal of their plane (the cross
product of ImageOrientationPatient's two directions, PS3.3 C.7.6.2.1.1), rows and columns as in the files. `Grid.affine` takes
(slice, row, column, 1) of it to mm, right-anterior-superior; DICOM's own coordinates run to the left and to posterior.
Neither file names nor InstanceNumber count. Nothing of a header but `Facts` and UIDs leaves this module.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from medjax.errors import InputError
from medjax.extras import need
from medjax.formats.dicom import _dataset, _items, _numbers, _text, is_dicom, read_dicom
from medjax.formats.dicom_pixels import load_pydicom
from medjax.formats.facts import Facts, first_bytes, narrow, open_error
from medjax.formats.grid import Grid

# A slice may lie so far from its place on the evenly spaced line: this share of the spacing, or so many mm.
UNEVEN, UNEVEN_MM = 1e-2, 1e-2
# What is planned on a series (segments, contours) may lie so far from the slices' voxels, in voxels.
FIT = 0.05

_SAME = 1e-4  # of direction cosines, and of pixel spacings relative to one another
_UNIT = 1e-3  # of direction cosines' lengths, and of the cosine between them
_ROWS = 0x00280010
_NO_IMAGES = {"SEG", "RTSTRUCT", "RTDOSE", "RTPLAN", "RTRECORD", "RTIMAGE", "SR", "PR", "KO", "REG", "FID", "RWV"}
_ENDINGS = (".dcm", ".dicom", ".ima")
_TO_RAS = np.array([-1.0, -1.0, 1.0])


class Header(NamedTuple):
    """The beginning of a DICOM file, enough to tell what it is.

    Attributes:
      series: SeriesInstanceUID, "" where there is none.
      modality: DICOM's code.
      kind: SOPClassUID.
      rows: whether it has rows, as images do.
      patient: PatientID.
    """

    series: str
    modality: str
    kind: str
    rows: bool
    patient: str


class Series(NamedTuple):
    """The files of one image series, as yet in no order.

    Attributes:
      uid: SeriesInstanceUID.
      files: sorted by name.
      modality: DICOM's code, such as "CT".
      patient: PatientID, "" unknown.
    """

    uid: str
    files: tuple[Path, ...]
    modality: str = ""
    patient: str = ""


class Slices(NamedTuple):
    """Where the slices of a series lie.

    Attributes:
      grid: of the volume; its affine is of the array as stored, [slice, row, column].
      places: (file, frame) of each slice in the stored order; the frame is None where the file holds a single one.
      frame: FrameOfReferenceUID, "" unknown.
    """

    grid: Grid
    places: tuple[tuple[Path, int | None], ...]
    frame: str

    @property
    def stored_shape(self) -> tuple[int, int, int]:
        """(slices, rows, columns)."""
        slices, rows, columns = (self.grid.shape[axis] for axis in np.argsort(self.grid.axes))
        return slices, rows, columns

    def locate(self, points: np.ndarray) -> np.ndarray:
        """DICOM's points [n, 3] in mm -> float64 [n, 3], (slice, row, column) of the stored array."""
        assert self.grid.affine is not None
        matrix = self.grid.affine
        return np.linalg.solve(matrix[:3, :3], (points * _TO_RAS - matrix[:3, 3]).T).T


def read_header(path: str | Path) -> Header | None:
    """What a file is, by its first elements; None where it is not DICOM (or empty, under a name that is not DICOM's).

    Raises:
      InputError: not readable, empty, damaged.
    """
    path = Path(path)
    try:
        if not path.name.lower().endswith(_ENDINGS) and path.stat().st_size == 0:
            return None
        if not is_dicom(first_bytes(path, 132)):
            return None
        load_pydicom()
        reader = need("pydicom.filereader", extra="imaging")
        with open(path, "rb") as handle:
            dataset = reader.read_partial(handle, lambda tag, vr, length: tag > _ROWS, force=True)
    except OSError as error:
        raise open_error(path, error) from error
    except InputError:
        raise
    except Exception:  # pydicom answers damage with exceptions of a dozen kinds, whose words may quote the header
        raise InputError(f"{path}: the DICOM header is damaged or cut off\ncopy the file again, or leave it out") from None
    names = ("SeriesInstanceUID", "Modality", "SOPClassUID", "PatientID")
    series, modality, kind, patient = (_text(dataset, name) for name in names)
    return Header(series, modality.upper(), kind, "Rows" in dataset, patient)


def find_series(folder: str | Path) -> list[Series]:
    """The image series (CT, MR, PT...; no segmentations, structures, doses) of all files under a folder, by their headers.

    Files that are not DICOM, and hidden ones, are passed over.

    Returns:
      Series, sorted by the name of their first file.

    Raises:
      InputError: no such folder, a DICOM file that is empty or damaged, an image without SeriesInstanceUID, a series of two
        patients.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder\ngive one that holds the files of a DICOM series")
    files = sorted(f for f in folder.rglob("*") if f.is_file() and not f.name.startswith("."))
    return group_series((file, header) for file in files if (header := read_header(file)))


def group_series(files: Iterable[tuple[Path, Header]]) -> list[Series]:
    """(file, Header) of DICOM files in order -> their image series. Raises as `find_series`."""
    found: dict[str, list[tuple[Path, Header]]] = {}
    for file, header in files:
        if not header.rows or header.modality in _NO_IMAGES:
            continue
        if not header.series:
            raise InputError(f"{file}: has no SeriesInstanceUID\nget the original series, or leave the file out")
        found.setdefault(header.series, []).append((file, header))
    for (file, header), *others in found.values():
        if other := next((path for path, of in others if of.patient != header.patient), None):
            raise InputError(f"{other}: is of another patient than {file}, in one series\nget the original series")
    return [Series(uid, tuple(f for f, _ in m), m[0][1].modality, m[0][1].patient) for uid, m in found.items()]


def one_series(folder: str | Path) -> Series:
    """The image series under a folder that is to hold one.

    Raises:
      InputError: none, or several; what `find_series` raises.
    """
    found = find_series(folder)
    if not found:
        raise InputError(f"{folder}: holds no DICOM image series\ngive the folder of one")
    if len(found) > 1:
        raise InputError(
            f"{folder}: holds {len(found)} image series where one is expected, {found[0].files[0]} of one and "
            f"{found[1].files[0]} of another\nkeep the one that is meant"
        )
    return found[0]


def read_series(series: Series, slices: Slices | None = None) -> tuple[np.ndarray, Grid, Facts]:
    """Read a series, of one image a file or of several (enhanced CT and MR), as a volume in medjax's order.

    Args:
      series: from `find_series`.
      slices: of it, where `read_slices` has been asked before.

    Returns:
      Pixels [D, H, W] as `medjax.formats.dicom.read_dicom` gives them (Hounsfield units, padding as air, white high) of a
      dtype that holds all slices, int16, uint16, uint8 or float32; the Grid; the Facts of the first slice, `spacing` and
      `affine` those of the pixels, `padding` of all slices.

    Raises:
      InputError: what `read_slices` and `read_dicom` raise; colour; some slices in Hounsfield units and others not.
    """
    slices = slices or read_slices(series)
    read: dict[Path, np.ndarray] = {}
    padding, first = 0, None
    for file, _ in slices.places:
        if file in read:
            continue
        picture = read_dicom(file)
        first = first or picture.facts
        if picture.facts.hounsfield != first.hounsfield:
            raise InputError(f"{file}: only some slices of its series are in Hounsfield units\nget the original series")
        padding += picture.facts.padding
        read[file] = picture.pixels
    assert first is not None
    stored = narrow(np.stack([read[file] if frame is None else read[file][frame] for file, frame in slices.places]))
    if stored.shape != slices.stored_shape:
        raise InputError(f"{series.files[0]}: holds colour, a volume is grey\nleave the series out")
    grid = slices.grid
    facts = first._replace(spacing=grid.spacing, affine=grid.to_world(), padding=padding)
    return np.ascontiguousarray(grid.from_stored(stored)), grid, facts


class _Frame(NamedTuple):
    file: Path
    frame: int | None
    position: tuple[float, ...]
    directions: tuple[float, ...]  # along a row, and along a column
    spacing: tuple[float, ...]  # between rows, and between columns
    size: tuple[float, ...]
    thickness: tuple[float, ...]


def slices_of(files: Sequence[Path]) -> Slices:
    """`read_slices` of the one series that these files are.

    Raises:
      InputError: as `read_slices`; files that are not there any more, or of several series.
    """
    found = group_series((file, header) for file in files if (header := read_header(file)))
    if len(found) != 1:
        raise InputError(f"{files[0]}: is of {len(found)} series, where one is expected\nrestore the files of the series")
    return read_slices(found[0])


def read_slices(series: Series) -> Slices:
    """Where the slices of a series lie, by their headers.

    Slices may lie off the evenly spaced line from the first to the last by 1% of their spacing, or 0.01 mm if that is more.
    A series of one slice is as thick as SpacingBetweenSlices, else SliceThickness says.

    Raises:
      InputError: no ImagePositionPatient, ImageOrientationPatient or PixelSpacing; directions that are no right angle of unit
        vectors; sizes, spacings or directions that differ; two slices at one position; slices that are missing, unevenly
        spaced, or shifted against each other (gantry tilt).
    """
    frames: list[_Frame] = []
    references: dict[str, Path] = {}
    for file in series.files:
        dataset = _dataset(file, pixels=False)
        frames += _frames(file, dataset)
        references.setdefault(_text(dataset, "FrameOfReferenceUID"), file)
    if len(references) > 1:
        one, other = list(references.values())[:2]
        raise InputError(f"{other}: has another frame of reference than {one}, in one series\nget the original series")
    first = frames[0]
    for frame in frames[1:]:
        _check_alike(first, frame)
    along_row, along_column = (np.array(d) / np.linalg.norm(d) for d in (first.directions[:3], first.directions[3:]))
    normal = np.cross(along_row, along_column)
    points = np.array([frame.position for frame in frames])
    order = np.argsort(points @ normal, kind="stable")
    frames, points = [frames[i] for i in order], points[order]
    step = _step(frames, points, normal)
    columns = np.stack([step, along_column * first.spacing[0], along_row * first.spacing[1], points[0]], 1)
    affine = np.eye(4)
    affine[:3] = columns * _TO_RAS[:, None]
    grid = place(affine, (len(frames), int(first.size[0]), int(first.size[1])))
    return Slices(grid, tuple((frame.file, frame.frame) for frame in frames), next(iter(references)))


def place(affine: np.ndarray, shape: Sequence[int]) -> Grid:
    """The Grid of an array [a, b, c] as stored that `affine` [4, 4] takes to mm, right-anterior-superior."""
    orientations = need("nibabel", extra="imaging").orientations
    turn = orientations.ornt_transform(orientations.io_orientation(affine), orientations.axcodes2ornt("SPL")).astype(int)
    axes = [int(axis) for axis in np.argsort(turn[:, 0])]
    flips = [bool(turn[axis, 1] < 0) for axis in axes]
    lengths = [float(np.linalg.norm(affine[:3, axis])) for axis in axes]
    a, b, c = axes
    return Grid(
        (int(shape[a]), int(shape[b]), int(shape[c])),
        affine,
        (a, b, c),
        (flips[0], flips[1], flips[2]),
        (lengths[0], lengths[1], lengths[2]),
    )


class Groups:
    """The functional groups (PS3.3 C.7.6.16) of a file with many frames."""

    def __init__(self, dataset: Any):
        self.own = _items(dataset, "PerFrameFunctionalGroupsSequence")
        self.shared = _items(dataset, "SharedFunctionalGroupsSequence")[:1]

    def find(self, frame: int, sequence: str) -> Any:
        """The item of a group for a frame, its own or the one that all share; None without one."""
        for group in (*self.own[frame : frame + 1], *self.shared):
            if items := _items(group, sequence):
                return items[0]
        return None


def vector(path: Path, source: Any, keyword: str, count: int) -> tuple[float, ...]:
    """An element of `count` numbers that must be there.

    Raises:
      InputError: it is missing, or anything else.
    """
    numbers = _numbers(source, keyword)
    if len(numbers) != count:
        raise InputError(f"{path}: {keyword} is missing or not {count} numbers\nget the original: where it lies is not guessed")
    return numbers


def _frames(file: Path, dataset: Any) -> list[_Frame]:
    count = (_numbers(dataset, "NumberOfFrames") or (1.0,))[0]
    groups = Groups(dataset)
    size = vector(file, dataset, "Rows", 1) + vector(file, dataset, "Columns", 1)
    found = []
    for i in range(int(count)):
        position = groups.find(i, "PlanePositionSequence") or dataset
        orientation = groups.find(i, "PlaneOrientationSequence") or dataset
        measures = groups.find(i, "PixelMeasuresSequence") or dataset
        frame = _Frame(
            file,
            i if count > 1 else None,
            vector(file, position, "ImagePositionPatient", 3),
            vector(file, orientation, "ImageOrientationPatient", 6),
            vector(file, measures, "PixelSpacing", 2),
            size,
            _numbers(measures, "SpacingBetweenSlices") or _numbers(measures, "SliceThickness"),
        )
        row, column = np.array(frame.directions[:3]), np.array(frame.directions[3:])
        lengths = np.linalg.norm([row, column], axis=1)
        if np.abs(lengths - 1).max() > _UNIT or abs(row @ column) > _UNIT:
            raise InputError(f"{file}: ImageOrientationPatient is no right angle of unit vectors\nget the original series")
        if min(frame.spacing) <= 0:
            raise InputError(f"{file}: PixelSpacing is not positive\nget the original series")
        found.append(frame)
    return found


def _check_alike(first: _Frame, frame: _Frame) -> None:
    differ = ""
    if frame.size != first.size:
        differ = "another size"
    elif np.abs(np.subtract(frame.directions, first.directions)).max() > _SAME:
        differ = "another orientation"
    elif np.abs(np.divide(frame.spacing, first.spacing) - 1).max() > _SAME:
        differ = "another pixel spacing"
    if differ:
        raise InputError(
            f"{_name(frame)}: has {differ} than {_name(first)}, in one series\nkeep the slices of one stack, such as no scouts"
        )


def _step(frames: Sequence[_Frame], points: np.ndarray, normal: np.ndarray) -> np.ndarray:
    """From one slice to the next, in mm, of frames and their points [n, 3] in order along the normal."""
    if len(frames) == 1:
        thickness = frames[0].thickness
        if len(thickness) != 1 or thickness[0] <= 0:
            raise InputError(f"{frames[0].file}: one slice, of no SliceThickness\nget the original series")
        return normal * thickness[0]
    along = points @ normal
    gaps = np.diff(along)
    if gaps.min() <= UNEVEN_MM:
        i = int(np.argmin(gaps))
        raise InputError(
            f"{_name(frames[i + 1])}: lies at the position of {_name(frames[i])}, {along[i]:.2f} mm\n"
            "keep one stack of slices: one phase, echo or reconstruction"
        )
    spacing = float(np.median(gaps))
    allowed = max(UNEVEN * spacing, UNEVEN_MM)
    wide = gaps > spacing + allowed
    counts = np.rint(gaps / spacing)
    if wide.any() and (np.abs(gaps - counts * spacing) <= counts * allowed).all() and counts.min() >= 1:
        i = int(np.argmax(wide))
        raise InputError(
            f"{_name(frames[i])}: {int(counts.sum()) - len(gaps)} slices of its series are missing, the first between "
            f"{along[i]:.2f} and {along[i + 1]:.2f} mm, where {spacing:.3g} mm lie between the others\nget the whole series"
        )
    step = (points[-1] - points[0]) / (len(frames) - 1)
    off = np.linalg.norm(points - (points[0] + np.arange(len(frames))[:, None] * step), axis=1)
    uneven = np.abs(gaps - spacing)
    if uneven.max() > allowed or off.max() > allowed:
        i = int(np.argmax(off)) if off.max() > allowed else int(np.argmax(uneven))
        raise InputError(
            f"{_name(frames[i])}: the slices of its series are not evenly spaced: {gaps.min():.3f} to {gaps.max():.3f} mm "
            f"apart, one {off.max():.3f} mm off its place ({allowed:.3f} are allowed)\nresample the series to even spacing"
        )
    shift = float(np.linalg.norm(step - (step @ normal) * normal))
    if shift > allowed:
        raise InputError(
            f"{_name(frames[0])}: each slice of its series is shifted by {shift:.3f} mm in its plane against the last "
            f"(gantry tilt; {allowed:.3f} are allowed)\nresample the series to upright slices"
        )
    return step


def _name(frame: _Frame) -> str:
    return str(frame.file) if frame.frame is None else f"{frame.file} (frame {frame.frame})"
