"""NIfTI (.nii, .nii.gz) -> NumPy in an order that does not depend on the file, with its affine. nibabel parses."""

from __future__ import annotations

import gzip
import io
import logging
import math
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from medjax.errors import InputError
from medjax.extras import need
from medjax.formats.facts import Facts, Picture, check_finite, first_bytes, narrow, open_error, rescale

MAX_BYTES = 2**32  # of one image, uncompressed

_GZIP = b"\x1f\x8b"
_HEADER = 540  # the longer header, of NIfTI-2
_CODES = {0, 1, 2, 3, 4, 5}  # of what the affine refers to
_MM = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}  # xyzt_units: unknown (taken as mm, as everyone does), m, mm, um


class NiftiFacts(NamedTuple):
    """What a NIfTI header tells of its array.

    Attributes:
      spacing: mm between neighbours along the first (up to) three axes, by the affine.
      step: the header's fourth pixdim, such as the seconds between volumes; 0 where there is no fourth axis.
      slope: of the scaling, already applied.
      intercept: of the scaling, already applied.
    """

    spacing: tuple[float, ...]
    step: float
    slope: float
    intercept: float


def is_nifti(head: bytes) -> bool:
    """Whether a file with these first bytes is NIfTI-1 or NIfTI-2 in one file, plain or compressed with gzip.

    1,024 bytes are enough; pairs of .hdr and .img count too, to be refused by their own words.
    """
    if head.startswith(_GZIP):
        try:
            head = zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(head, _HEADER)
        except zlib.error:
            return False
    first = head[344:348] in (b"n+1\0", b"ni1\0") and head[:4] in (b"\x5c\x01\0\0", b"\0\0\x01\x5c")
    second = head[4:7] in (b"n+2", b"ni2") and head[:4] in (b"\x1c\x02\0\0", b"\0\0\x02\x1c")
    return first or second


def read_nifti(path: str | Path) -> Picture:
    """Read a 2-D or 3-D NIfTI image, recognised by its content, in DICOM's axial order.

    Whatever order the file has, its axes are permuted and flipped, never resampled, to the nearest of: i from inferior to
    superior, j from anterior to posterior, k from the patient's right to the left. A slice (one axis of length 1) loses that
    axis; coronal and sagittal slices are turned so that superior is up.

    Returns:
      Picture with pixels [D, H, W] or [H, W]: scl_slope and scl_inter applied; integers where both are whole, else float32
      (see `medjax.formats.facts.narrow`). `facts.spacing` is in mm, and `facts.affine` takes (i, j, k, 1) of `pixels[i, j, k]`
      to mm, right-anterior-superior; for a slice its own axis stays in, as i = 0, and pixels[j, k].

    Raises:
      InputError: not there, no NIfTI, a pair of files, damaged or truncated, over MAX_BYTES, four or more axes, colour or
        complex values, NaN or infinite pixels, an affine that is missing, singular or not finite.
    """
    path = Path(path)
    array, affine, _ = load_nifti(path)
    if array.ndim != 3:
        raise InputError(
            f"{path}: has {array.ndim} axes {list(array.shape)}, a picture has 2 or 3\n"
            "save each volume as a file of its own, or choose a job that reads several channels"
        )
    check_finite(path, array)
    # Axis by axis: which of the world's axes an array axis is nearest to, and whether it runs along it.
    orientations = need("nibabel", extra="imaging").orientations
    turn = orientations.ornt_transform(orientations.io_orientation(affine), orientations.axcodes2ornt("SPL"))
    pixels = orientations.apply_orientation(array, turn)
    affine = affine @ orientations.inv_ornt_aff(turn, array.shape)
    flat = 1 in pixels.shape
    if flat:
        thin = pixels.shape.index(1)
        if thin != 0:
            pixels = pixels[::-1]
            affine = affine @ _flipped(pixels.shape[0])
        order = (thin, *(axis for axis in range(3) if axis != thin))
        pixels, affine = pixels.transpose(order), affine[:, [*order, 3]]
    spacing = tuple(float(length) for length in np.linalg.norm(affine[:3, :3], axis=0))
    pixels = np.ascontiguousarray(pixels[0] if flat else pixels)
    return Picture(pixels, Facts(spacing=spacing[1:] if flat else spacing, affine=affine))


def load_nifti(path: str | Path) -> tuple[np.ndarray, np.ndarray, NiftiFacts]:
    """Read a NIfTI file of any number of axes in the order it is stored in, for jobs that need several volumes or channels.

    Returns:
      array [x, y, z] or [x, y, z, ...] as stored, scaled, of a dtype as `read_nifti` gives (trailing axes of length 1 beyond
      three are dropped, a missing third is added); the affine [4, 4] float64, (x, y, z, 1) to mm, right-anterior-superior; the
      facts.

    Raises:
      InputError: as `read_nifti`, but for the number of axes and values that are not finite.
    """
    path = Path(path)
    image = _image(path)
    header = image.header
    affine = _affine(path, header)
    try:
        stored = np.asanyarray(image.dataobj.get_unscaled())
        slope, intercept = float(image.dataobj.slope), float(image.dataobj.inter)  # the header's are reset on loading
    except Exception as error:
        raise _damaged(path, error) from error
    if stored.dtype.kind not in "iuf" or stored.size == 0 or stored.ndim < 2:
        raise InputError(
            f"{path}: holds {stored.dtype} {list(stored.shape)}, not an array of numbers\nsave it with real values"
        )
    while stored.ndim > 3 and stored.shape[-1] == 1:
        stored = stored[..., 0]
    stored = stored[..., None] if stored.ndim == 2 else stored
    spacing = tuple(float(length) for length in np.linalg.norm(affine[:3, :3], axis=0))
    step = float(header["pixdim"][4]) if stored.ndim > 3 else 0.0
    return narrow(rescale(stored, slope, intercept)), affine, NiftiFacts(spacing, step, slope, intercept)


def _image(path: Path) -> Any:
    nibabel = need("nibabel", extra="imaging")
    logging.getLogger("nibabel.global").setLevel(logging.CRITICAL + 1)  # it prints what it mends
    head = first_bytes(path, 1024)
    if not is_nifti(head):
        raise InputError(f"{path}: no NIfTI: starts with {head[:8]!r}\nexpected .nii or .nii.gz")
    opener = gzip.open if head.startswith(_GZIP) else open
    try:
        with opener(path, "rb") as handle:
            head = handle.read(_HEADER)
            kind = nibabel.Nifti1Image if head[4:7] not in (b"n+2", b"ni2") else nibabel.Nifti2Image
            header = kind.header_class.from_fileobj(io.BytesIO(head), check=False)
            if header["magic"].item().startswith(b"ni"):
                raise InputError(f"{path}: its pixels are in a file of their own (.img)\nsave both as one .nii")
            if not {int(header["sform_code"]), int(header["qform_code"])} <= _CODES:  # nibabel would mend it, to another affine
                raise InputError(f"{path}: damaged NIfTI: no such sform or qform code\ncopy the file again, or leave it out")
            values = math.prod(int(side) for side in header.get_data_shape())
            size = int(header["vox_offset"]) + header.get_data_dtype().itemsize * values
            if not 0 < size <= MAX_BYTES:
                raise InputError(f"{path}: too large: {list(header.get_data_shape())}\nthe limit is {MAX_BYTES} bytes")
            data = head + handle.read(max(0, size - len(head)))
            if len(data) < size:
                raise InputError(f"{path}: ends after {len(data)} of {size} bytes\ncopy the file again, or leave it out")
            while handle.read(1 << 20):  # to the end, where gzip keeps its checksum
                pass
        return kind.from_bytes(data)
    except InputError:
        raise
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise _damaged(path, error) from error
    except OSError as error:
        raise open_error(path, error) from error
    except Exception as error:  # nibabel answers damage with exceptions of several kinds
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> InputError:
    reason = " ".join(str(error).split())[:120] or type(error).__name__
    return InputError(f"{path}: truncated or damaged NIfTI: {reason}\ncopy the file again, or leave it out")


def _affine(path: Path, header: Any) -> np.ndarray:
    """The affine in mm that the header states: its sform, else its qform; never one made up of the voxel sizes."""
    try:
        stated = header.get_sform(coded=True) if header["sform_code"] > 0 else header.get_qform(coded=True)
    except Exception as error:
        raise _damaged(path, error) from error
    affine = stated[0]
    if affine is None:
        raise InputError(f"{path}: has no affine (sform and qform codes are 0)\nset one that says where the voxels lie")
    lengths = np.linalg.norm(np.clip(affine[:3, :3], -1e9, 1e9), axis=0)
    if not (np.abs(affine) < 1e9).all() or lengths.min() <= 0 or abs(np.linalg.det(affine[:3, :3] / lengths)) < 1e-4:
        raise InputError(f"{path}: its affine is singular or not finite\nset one that says where the voxels lie")
    scale = _MM.get(int(header["xyzt_units"]) % 8)
    if scale is None:
        raise InputError(f"{path}: its unit of length is not known\nset xyzt_units to mm")
    affine = np.array(affine, np.float64)
    affine[:3] *= scale
    return affine


def _flipped(length: int) -> np.ndarray:
    """The affine of reading the first axis backwards."""
    matrix = np.diag([-1.0, 1, 1, 1])
    matrix[0, 3] = length - 1
    return matrix
