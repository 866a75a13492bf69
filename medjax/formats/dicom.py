"""DICOM -> NumPy and the few facts of its header that medjax uses. pydicom parses; `dicom_pixels` decodes.

Nothing of a header but `Facts` leaves this module: not in errors, and pydicom's own warnings, which quote values, are silenced.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from medjax.errors import InputError
from medjax.formats.dicom_pixels import PixelLayout, check_layout, decode, load_pydicom
from medjax.formats.facts import Facts, Picture, check_finite, first_bytes, narrow, open_error, rescale
from medjax.formats.image import grey_if_equal

AIR = -1000  # Hounsfield units, by definition
_LEAST_HU = -1024  # below it is no tissue, nor air and its noise, but what scanners fill the corners with

_YEARS = {"Y": 1.0, "M": 1 / 12, "W": 7 / 365.25, "D": 1 / 365.25}
_GROUPS = ("PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence")


def is_dicom(head: bytes) -> bool:
    """Whether a file with these first bytes (132 or more) is DICOM.

    By the preamble's "DICM", or, without one, by a first element of group 0002 or 0008 in one of the three encodings.
    """
    if head[128:132] == b"DICM":
        return True
    explicit = head[4:6].isalpha() and head[4:6].isupper()
    if head[:2] in (b"\x02\x00", b"\x08\x00"):
        # Without a VR the length follows as four bytes, and the first elements of a header are short.
        return len(head) > 8 and (explicit or head[6:8] == b"\x00\x00")
    return head[:2] == b"\x00\x08" and len(head) > 8 and explicit


def read_dicom(path: str | Path, *, frame: int | None = None) -> Picture:
    """Read the pixels of a DICOM file, recognised by its content, and the facts of its header.

    Native, deflated and big-endian files, and those compressed with RLE, JPEG (baseline, extended, lossless), JPEG-LS and
    JPEG 2000. White always means more: MONOCHROME1 is inverted within the range that the stored bits span (but for Hounsfield
    units, which say themselves what is more), and its windows with it. The modality's rescale or look-up table is applied.
    In CT with a rescale, `pixels` are Hounsfield units: int16 where they are whole, else float32; padding and what lies under
    -1024 is set to air (-1000) and counted in `facts.padding`. Colour comes as RGB, and as grey where the channels agree.
    Windows (VOI) are not applied: see `facts.windows`.

    Args:
      path: the file.
      frame: one frame, counted from 0; all of them by default.

    Returns:
      Picture with pixels [H, W], [H, W, 3], or, where the file says that it holds several frames and none is chosen,
      [D, H, W] or [D, H, W, 3] in the file's order; uint8, uint16, int16 or float32 (see `medjax.formats.facts.narrow`).

    Raises:
      InputError: not there, no DICOM, no or truncated pixel data, a damaged header, sizes that contradict each other, more
        values than `dicom_pixels.MAX_VALUES`, an unsupported encoding, a decoder that is not installed, no such frame.
    """
    path = Path(path)
    dataset = _dataset(path, pixels=True)
    layout = check_layout(path, dataset, frame)
    stored = decode(path, dataset, layout, frame)
    if layout.samples == 3:
        pixels = grey_if_equal(narrow(stored))
        return Picture(pixels, _facts(dataset, layout.frames, frame))
    facts = _facts(dataset, layout.frames, frame)
    padded = _padded(dataset, stored, layout)
    pixels, total = _in_units(path, dataset, stored, layout, frame)
    if total is not None:
        # What was x is total - x now; the formula of windows is not symmetric about the centre but about centre - 0.5.
        facts = facts._replace(windows=tuple((total - centre + 1, width) for centre, width in facts.windows))
    if _in_hounsfield(dataset, layout, frame):
        pixels = pixels.astype(np.int32) if pixels.dtype.kind in "iu" else pixels
        padded |= pixels < _LEAST_HU
        pixels[padded] = AIR
        fits = pixels.dtype.kind == "i" and pixels.max() <= np.iinfo(np.int16).max
        pixels = pixels.astype(np.int16 if fits else np.float32)
        facts = facts._replace(hounsfield=True)
    pixels = narrow(pixels)
    check_finite(path, pixels)
    return Picture(pixels, facts._replace(padding=int(np.count_nonzero(padded))))


def dicom_facts(path: str | Path) -> Facts:
    """The facts of a DICOM file's header, without its pixels: `windows` are the stored ones, `padding` 0.

    Raises:
      InputError: not there, no DICOM, a damaged header.
    """
    dataset = _dataset(Path(path), pixels=False)
    frames = _numbers(dataset, "NumberOfFrames")
    return _facts(dataset, int(frames[0]) if frames and frames[0] > 1 else None, None)


def _dataset(path: Path, *, pixels: bool) -> Any:
    if not is_dicom(first_bytes(path, 132)):
        raise InputError(f"{path}: no DICOM: neither the preamble nor a first element of one\nexpected a DICOM file")
    pydicom = load_pydicom()
    try:
        with open(path, "rb") as handle:
            dataset = pydicom.dcmread(handle, force=True, stop_before_pixels=not pixels)
        if len(dataset) == 0:
            raise ValueError
        if "TransferSyntaxUID" not in dataset.file_meta:
            implicit, little = dataset.original_encoding
            native = pydicom.uid.ImplicitVRLittleEndian if implicit else pydicom.uid.ExplicitVRLittleEndian
            dataset.file_meta.TransferSyntaxUID = native if little else pydicom.uid.ExplicitVRBigEndian
    except OSError as error:
        raise open_error(path, error) from error
    except Exception:  # pydicom answers damage with exceptions of a dozen kinds, whose words may quote the header
        raise InputError(f"{path}: the DICOM header is damaged or cut off\ncopy the file again, or leave it out") from None
    return dataset


def _in_units(
    path: Path, dataset: Any, stored: np.ndarray, layout: PixelLayout, frame: int | None
) -> tuple[np.ndarray, float | None]:
    """Stored values -> (values after the modality's transformation, white high; the total that inverted values add up to)."""
    inverted = layout.photometric == "MONOCHROME1" and not _in_hounsfield(dataset, layout, frame)
    if inverted and stored.dtype.kind == "f":
        raise InputError(f"{path}: float pixels that are MONOCHROME1 span no range to invert\nsave them as MONOCHROME2")
    least, most = layout.limits
    tables = _items(dataset, "ModalityLUTSequence")
    if tables:
        values, top = _looked_up(path, dataset, tables[0], stored)
        return (top - values, float(top)) if inverted else (values, None)
    slope, intercept = _rescales(path, dataset, layout, frame)
    if inverted:
        stored = (least + most) - stored
    if len(slope) == 1:
        values = rescale(stored, slope[0], intercept[0])
    else:
        values = np.stack([rescale(one, a, b).astype(np.float64) for one, a, b in zip(stored, slope, intercept, strict=True)])
        values = values.astype(np.int64) if (values == np.rint(values)).all() else values
    return values, slope[0] * (least + most) + 2 * intercept[0] if inverted else None


def _looked_up(path: Path, dataset: Any, table: Any, stored: np.ndarray) -> tuple[np.ndarray, int]:
    """Values of the modality's look-up table, and the greatest that its bits can tell."""
    try:
        values = load_pydicom().pixels.apply_modality_lut(stored, dataset)
        return values, (1 << int(table.LUTDescriptor[2])) - 1
    except Exception:
        raise InputError(f"{path}: the modality look-up table is damaged\ncopy the file again, or leave it out") from None


def _rescales(path: Path, dataset: Any, layout: PixelLayout, frame: int | None) -> tuple[list[float], list[float]]:
    """Slopes and intercepts: one each, or one for each frame where they differ."""
    which = [frame] if frame is not None else list(range(layout.frames or 1))
    pairs = []
    for index in which:
        source = _functional(dataset, index, "PixelValueTransformationSequence") or dataset
        pair = []
        for keyword, default in (("RescaleSlope", 1.0), ("RescaleIntercept", 0.0)):
            given = _numbers(source, keyword)
            if (_is_given(source, keyword) and len(given) != 1) or (keyword == "RescaleSlope" and given == (0.0,)):
                raise InputError(f"{path}: {keyword} is no number that values can be scaled by\nwrite the header anew")
            pair.append(given[0] if given else default)
        pairs.append((pair[0], pair[1]))
    if len(set(pairs)) == 1:
        pairs = pairs[:1]
    return [a for a, _ in pairs], [b for _, b in pairs]


def _in_hounsfield(dataset: Any, layout: PixelLayout, frame: int | None) -> bool:
    """CT with a rescale, in Hounsfield units by its type, or of no type, as plain CT images leave it (PS3.3 C.8.2.1)."""
    source = _functional(dataset, frame or 0, "PixelValueTransformationSequence") or dataset
    scaled = len(_numbers(source, "RescaleSlope")) == 1 and len(_numbers(source, "RescaleIntercept")) == 1
    unit = _text(source, "RescaleType").upper()
    return layout.samples == 1 and _text(dataset, "Modality").upper() == "CT" and scaled and unit in ("", "HU")


def _padded(dataset: Any, stored: np.ndarray, layout: PixelLayout) -> np.ndarray:
    """Where stored values are the padding value, or in the padding range."""
    ends = [*_numbers(dataset, "PixelPaddingValue")[:1], *_numbers(dataset, "PixelPaddingRangeLimit")[:1]]
    if not ends or stored.dtype.kind == "f":
        return np.zeros(stored.shape, bool)
    # Written with the wrong sign as often as not: -2000 as 63536.
    half, bits = (1 << (layout.allocated - 1) if layout.signed else 0), 1 << layout.allocated
    ends = [(int(end) + half) % bits - half for end in ends]
    return (stored >= min(ends)) & (stored <= max(ends))


def _facts(dataset: Any, frames: int | None, frame: int | None) -> Facts:
    sex = _text(dataset, "PatientSex").upper()
    return Facts(
        patient=_text(dataset, "PatientID"),
        sex=sex if sex in ("F", "M") else "",
        age=_age(_text(dataset, "PatientAge")),
        view=_text(dataset, "ViewPosition").upper(),
        modality=_text(dataset, "Modality").upper(),
        site=_text(dataset, "InstitutionName"),
        spacing=_spacing(dataset, frames if frame is None else None),
        windows=_windows(dataset, frame or 0),
    )


def _age(text: str) -> float:
    """An age string (PS3.5 6.2: "060Y", "018M", "009W", "004D") in years; NaN for anything else.

    A bare number is years: the RSNA's chest X-rays write it so.
    """
    number, unit = (text, "Y") if text.isdigit() else (text[:-1], text[-1:].upper())
    return int(number) * _YEARS[unit] if number.isdigit() and number.isascii() and unit in _YEARS else math.nan


def _spacing(dataset: Any, frames: int | None) -> tuple[float, ...] | None:
    """(row, column), or (slice, row, column) for frames, in mm; a projection's is at its detector."""
    measures = _functional(dataset, 0, "PixelMeasuresSequence") or dataset
    for keyword in ("PixelSpacing", "ImagerPixelSpacing"):
        plane = _numbers(measures, keyword)
        if len(plane) == 2 and min(plane) > 0:
            break
    else:
        return None
    if frames is None:
        return plane
    between = _numbers(measures, "SpacingBetweenSlices") or _numbers(dataset, "SpacingBetweenSlices")
    distance = abs(between[0]) if between else _distance(dataset, frames)
    return (distance, *plane) if distance > 0 else None


def _distance(dataset: Any, frames: int) -> float:
    """Distance between neighbouring frames by their positions where it is the same for all, else 0."""
    places = [_functional(dataset, index, "PlanePositionSequence") for index in range(frames)]
    points = np.array([_numbers(place, "ImagePositionPatient") for place in places if place is not None and len(place)] or [()])
    if frames < 2 or points.shape != (frames, 3):
        return 0.0
    steps = np.diff(points, axis=0)
    return float(np.linalg.norm(steps[0])) if np.allclose(steps, steps[0], atol=1e-2) else 0.0


def _windows(dataset: Any, frame: int) -> tuple[tuple[float, float], ...]:
    source = _functional(dataset, frame, "FrameVOILUTSequence") or dataset
    centres, widths = _numbers(source, "WindowCenter"), _numbers(source, "WindowWidth")
    pairs = zip(centres, widths, strict=True) if len(centres) == len(widths) else ()
    return tuple(dict.fromkeys((centre, width) for centre, width in pairs if width >= 1))


def _functional(dataset: Any, frame: int, sequence: str) -> Any:
    """The item of a functional group (PS3.3 C.7.6.16) for a frame: its own, or the one that all share; None without one."""
    for keyword, index in zip(_GROUPS, (frame, 0), strict=True):
        groups = _items(dataset, keyword)
        items = _items(groups[index], sequence) if index < len(groups) else []
        if items:
            return items[0]
    return None


def _items(dataset: Any, keyword: str) -> list:
    try:
        value = dataset.get(keyword)
        return [item for item in value or () if hasattr(item, "get")]
    except Exception:  # an optional element that does not parse is an element that is not known
        return []


def _is_given(dataset: Any, keyword: str) -> bool:
    try:
        return dataset.get(keyword) not in (None, "")
    except Exception:  # given, though not in a form that parses
        return True


def _text(dataset: Any, keyword: str) -> str:
    try:
        value = dataset.get(keyword)
        return "" if value is None else str(value).replace("\x00", "").strip()
    except Exception:
        return ""


def _numbers(dataset: Any, keyword: str) -> tuple[float, ...]:
    """An element's finite numbers; () where it is missing, empty, or holds anything else."""
    try:
        value = dataset.get(keyword)
        values: Iterator = iter([value] if isinstance(value, str | bytes) or not hasattr(value, "__iter__") else value)
        numbers = tuple(float(number) for number in values)
        return numbers if all(math.isfinite(number) for number in numbers) else ()
    except Exception:
        return ()
