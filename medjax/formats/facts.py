"""What every reader of pictures gives: the pixels, and the few facts of a header that medjax uses."""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np

from medjax.errors import InputError


class Facts(NamedTuple):
    """What is known of a picture besides its pixels. Nothing else of a header leaves a reader.

    Attributes:
      patient: id of the patient, "" unknown.
      sex: "F", "M", or "" (unknown or another).
      age: years, NaN unknown.
      view: the projection, such as "PA", "AP", "LL"; "" unknown.
      modality: DICOM's code, such as "CT", "DX"; "" unknown.
      site: the institution, "" unknown.
      spacing: mm between the centres of neighbouring pixels, (row, column) or (slice, row, column); None unknown.
      windows: (centre, width) each, in the units of `pixels`, for `medjax.formats.intensity.window`.
      hounsfield: whether `pixels` are in Hounsfield units.
      padding: pixels outside the scanned field: the file's padding value and, in CT, what lay under -1024 HU.
      affine: [4, 4] float64, (i, j, k, 1) of a volume's `pixels[i, j, k]` to mm, right-anterior-superior; None unknown.
    """

    patient: str = ""
    sex: str = ""
    age: float = math.nan
    view: str = ""
    modality: str = ""
    site: str = ""
    spacing: tuple[float, ...] | None = None
    windows: tuple[tuple[float, float], ...] = ()
    hounsfield: bool = False
    padding: int = 0
    affine: np.ndarray | None = None


class Picture(NamedTuple):
    """Pixels and facts of a file.

    Attributes:
      pixels: [H, W], [H, W, 3] for colour, [D, H, W] for volumes and frames, [D, H, W, 3] for colour frames; uint8, uint16,
        int16 or float32.
      facts: what the file tells about them.
    """

    pixels: np.ndarray
    facts: Facts = Facts()


def open_error(path: Path, error: OSError) -> InputError:
    """The InputError for a file that cannot be opened or read."""
    if isinstance(error, FileNotFoundError):
        return InputError(f"{path}: no such file\ncheck the path")
    return InputError(f"{path}: cannot be read: {error.strerror or 'the disk or the network failed'}\nexpected a picture file")


def first_bytes(path: Path, count: int) -> bytes:
    """The first `count` bytes of a file, fewer where it is shorter.

    Raises:
      InputError: no such file, not readable, empty.
    """
    try:
        with open(path, "rb") as handle:
            head = handle.read(count)
    except OSError as error:
        raise open_error(path, error) from error
    if not head:
        raise InputError(f"{path}: is empty (0 bytes)\ncopy the file again, or leave it out")
    return head


def rescale(stored: np.ndarray, slope: float, intercept: float) -> np.ndarray:
    """Slope * stored + intercept: integers (int32 or int64) where both numbers are whole, else float32.

    The identity returns `stored` itself.
    """
    if slope == 1 and intercept == 0:
        return stored
    if stored.dtype.kind in "iu" and float(slope).is_integer() and float(intercept).is_integer():
        limits = np.iinfo(stored.dtype)
        largest = max(abs(limits.min), limits.max) * abs(slope) + abs(intercept)
        if largest < 2**62:
            return stored.astype(np.int32 if largest < 2**31 else np.int64) * int(slope) + int(intercept)
    with np.errstate(over="ignore"):  # to infinity, which `check_finite` refuses
        return (stored.astype(np.float64) * slope + intercept).astype(np.float32)


def narrow(values: np.ndarray) -> np.ndarray:
    """The same numbers as uint8, uint16, int16 or float32.

    Those four are returned as they are. Other integers become int16, else uint16, where all of them fit, else float32 (the
    nearest: whole numbers are exact up to 2^24); other floats become float32.
    """
    values = values.astype(values.dtype.newbyteorder("="), copy=False)
    if values.dtype in (np.uint8, np.uint16, np.int16, np.float32):
        return values
    if values.dtype.kind in "iu":
        low, high = int(values.min()), int(values.max())
        for dtype in (np.int16, np.uint16):
            if np.iinfo(dtype).min <= low and high <= np.iinfo(dtype).max:
                return values.astype(dtype)
    return values.astype(np.float32)


def check_finite(path: Path, pixels: np.ndarray) -> None:
    """Raise an InputError where a pixel is NaN or infinite."""
    if pixels.dtype.kind == "f" and (bad := int(np.count_nonzero(~np.isfinite(pixels)))):
        raise InputError(f"{path}: {bad} of {pixels.size} pixels are NaN or infinite\nreplace them, or leave the file out")
