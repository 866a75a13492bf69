"""Volumes and their masks -> NumPy in medjax's order, each with the grid that it lies on, and masks back to files."""

from __future__ import annotations

import gzip
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from medjax.errors import InputError
from medjax.extras import need
from medjax.formats.dicom import is_dicom, read_dicom
from medjax.formats.facts import Facts, check_finite, first_bytes
from medjax.formats.grid import Grid
from medjax.formats.image import image_kind, read_image
from medjax.formats.nifti import _affine, _damaged, is_nifti, load_nifti
from medjax.formats.series import place

_HEAD = 1024
_KINDS = "NIfTI, DICOM, PNG, TIFF, JPEG or BMP"
_FORMS = {"PNG": "png", "TIFF": "tif", "JPEG": "png", "BMP": "png"}  # that a mask of a picture is written in
_TURNED = {5, 6, 7, 8}  # EXIF orientations (tag 274) that swap height and width
_ORIENTATION = 274
_GREY_SHARE = 0.05  # of a JPEG mask: pixels between a quarter and three quarters of the range, which only its edges have
_NEAR = 1e-4  # how well a rotation and voxel sizes must tell an affine to stand beside it, in voxels
_COPY = "copy the file again, or leave it out"


class Volume(NamedTuple):
    """A volume in medjax's order.

    Attributes:
      pixels: [D, H, W, C], uint8, uint16, int16 or float32; a picture has D = 1.
      grid: where it lies.
      facts: what the file tells besides.
      form: what a mask of it is to be written as, "nii", "nii.gz", "png" or "tif": the ending too. A single DICOM picture has
        a PNG for a mask; a series, which `medjax.formats.dicom_seg` writes for, is "dicom".
    """

    pixels: np.ndarray
    grid: Grid
    facts: Facts
    form: str


def read_volume(path: str | Path) -> Volume:
    """Read NIfTI of two to four axes (the fourth is that of the channels), a picture, or a single DICOM image.

    Values are as of `load_nifti`, `read_image` and `read_dicom`. Of a NIfTI slice, one axis of length 1, that axis is the
    first, and superior is up, as in `read_nifti`.

    Raises:
      InputError: none of these, over four axes, NaN or infinite voxels (counted), several frames, and what the readers raise.
    """
    path = Path(path)
    head = first_bytes(path, _HEAD)
    if is_dicom(head):  # before TIFF: the preamble may make one file both
        pixels, facts = read_dicom(path)
        return Volume(_as_slice(path, pixels), _picture_grid(pixels.shape, facts.spacing), facts, "png")
    if kind := image_kind(head):
        pixels = read_image(path)
        return Volume(_as_slice(path, pixels), _picture_grid(pixels.shape), Facts(), _FORMS[kind])
    if not is_nifti(head):
        raise InputError(f"{path}: no volume: starts with {head[:8]!r}\nexpected {_KINDS}")
    array, affine, _ = load_nifti(path)
    if array.ndim > 4:
        raise InputError(f"{path}: has {array.ndim} axes {list(array.shape)}, where 2 to 4 are expected\nsave it with four")
    check_finite(path, array)
    grid = _nifti_grid(affine, array.shape)
    pixels = np.ascontiguousarray(grid.from_stored(array))
    facts = Facts(spacing=grid.spacing, affine=grid.to_world())
    return Volume(pixels if pixels.ndim == 4 else pixels[..., None], grid, facts, _nifti_form(head))


def read_mask(path: str | Path) -> tuple[np.ndarray, Grid]:
    """Read a label map: NIfTI of two or three axes, a grey picture, or a single DICOM image.

    JPEG blurs values, so that only a mask of black and white survives it: it is cut at half of the range.

    Returns:
      labels uint8 [D, H, W] in medjax's order (uint16 where values are above 255), as they are stored, and the grid.

    Raises:
      InputError: what `read_volume` raises; several channels, colours that are not grey, values that are no whole numbers of
        0 to 65535, a JPEG of more than black and white.
    """
    path = Path(path)
    volume = read_volume(path)
    values = volume.pixels
    if values.shape[-1] != 1:
        if volume.grid.affine is None:
            raise InputError(
                f"{path}: a mask in colours: its channels differ\nsave it in grey, a value for each class (0 is background)"
            )
        raise InputError(f"{path}: a mask of {values.shape[-1]} channels\nsave one label map of three axes")
    values = values[..., 0]
    if image_kind(first_bytes(path, _HEAD)) == "JPEG":
        values = _black_and_white(path, values)
    wrong = (values != np.floor(values)) | (values < 0) | (values > np.iinfo(np.uint16).max)
    if bad := int(np.count_nonzero(wrong)):
        raise InputError(
            f"{path}: {bad:,} of {values.size:,} voxels are no labels, such as {values[wrong][0]:.6g}\n"
            "save the mask with whole numbers from 0, without interpolation"
        )
    return np.ascontiguousarray(values.astype(np.uint8 if values.max() < 256 else np.uint16)), volume.grid


def read_geometry(path: str | Path) -> Grid:
    """The grid of a volume or picture, from its header alone where the format allows (all but DICOM).

    Raises:
      InputError: as `read_volume`, as far as a header tells.
    """
    path = Path(path)
    head = first_bytes(path, _HEAD)
    if image_kind(head) and not is_dicom(head):
        try:
            with Image.open(path) as image:
                width, height = image.size
                turned = image.getexif().get(_ORIENTATION) in _TURNED
        except Exception as error:  # Pillow answers damage with exceptions of a dozen kinds
            raise InputError(f"{path}: truncated or damaged: {type(error).__name__}\n{_COPY}") from error
        return _picture_grid((width, height) if turned else (height, width))
    if not is_nifti(head):
        return read_volume(path).grid
    header = _nifti_header(path, head)
    shape = [int(n) for n in header.get_data_shape()]
    return _nifti_grid(_affine(path, header), [*shape, 1, 1][:3])


def write_mask(labels: np.ndarray, grid: Grid, form: str, *, classes: int = 2) -> bytes:
    """A mask as the bytes of a file that lies where its image does. Equal masks on equal grids give equal bytes.

    NIfTI holds the indices as uint8, with the grid's affine to the bit as sform (code 1, scanner; the grid does not know the
    image's code), and as qform beside it where that can tell it. It is NIfTI-1 where the affine's numbers are 32-bit ones, as
    those of an sform are, else NIfTI-2. A picture holds the indices as 8-bit grey, or 0 and 255 where there is one class.

    Args:
      labels: uint8 [D, H, W] of indices, 0 background, in medjax's order.
      grid: of the image; a 2-D NIfTI file has become [x, y, 1].
      form: "nii", "nii.gz", "png" or "tif".
      classes: how many there are, without the background.

    Raises:
      ValueError: labels that do not fit the grid or the form, a form that is not written here.
    """
    if labels.shape != grid.shape or labels.dtype != np.uint8:
        raise ValueError(f"labels {labels.dtype} {list(labels.shape)} on a grid of {list(grid.shape)}: uint8 is expected")
    if form in ("nii", "nii.gz"):
        data = _nifti_bytes(np.ascontiguousarray(grid.to_stored(labels)), grid)
        return gzip.compress(data, mtime=0) if form == "nii.gz" else data
    if form not in ("png", "tif"):
        raise ValueError(f"masks are not written here as {form!r}; a DICOM series' are by medjax.formats.dicom_seg")
    if grid.shape[0] != 1:
        raise ValueError(f"{form} holds one slice, not {grid.shape[0]}")
    stored = grid.to_stored(labels)[0]
    image = Image.fromarray(np.ascontiguousarray((stored > 0).astype(np.uint8) * 255 if classes == 1 else stored))
    out = io.BytesIO()
    image.save(out, "PNG") if form == "png" else image.save(out, "TIFF", compression="tiff_lzw")
    return out.getvalue()


def grid_columns(grid: Grid, form: str, files: Sequence[Path] = ()) -> dict[str, Any]:
    """A grid but for its shape, and the form of its masks, as plain arrays: `affine` float64 [4, 4] and `spacing` float64 [3],
    NaN where not known, `axes` int8 [3], `flips` bool [3], `form`, and `files`: of a DICOM series, which a mask refers to.
    """
    return {
        "affine": np.full((4, 4), np.nan) if grid.affine is None else np.array(grid.affine, np.float64),
        "axes": np.array(grid.axes, np.int8),
        "flips": np.array(grid.flips, bool),
        "spacing": np.full(3, np.nan) if grid.spacing is None else np.array(grid.spacing, np.float64),
        "form": form,
        "files": "\n".join(map(str, files)),
    }


def grid_of(columns: Mapping[str, Any]) -> Grid:
    """The inverse of `grid_columns`, given the `shape` (D, H, W) too."""
    d, h, w = (int(n) for n in columns["shape"])
    a, b, c = (int(axis) for axis in columns["axes"])
    up, back, left = (bool(flip) for flip in columns["flips"])
    affine = np.array(columns["affine"], np.float64)
    sd, sh, sw = (float(s) for s in columns["spacing"])
    return Grid(
        (d, h, w),
        affine if np.isfinite(affine).all() else None,
        (a, b, c),
        (up, back, left),
        (sd, sh, sw) if np.isfinite([sd, sh, sw]).all() else None,
    )


def _as_slice(path: Path, pixels: np.ndarray) -> np.ndarray:
    """[H, W] or [H, W, 3] as [1, H, W, C]."""
    if pixels.ndim > 3 or (pixels.ndim == 3 and pixels.shape[-1] != 3):
        raise _frames(path, pixels.shape)
    return pixels[None, ..., None] if pixels.ndim == 2 else pixels[None]


def _frames(path: Path, shape: tuple[int, ...]) -> InputError:
    return InputError(f"{path}: holds {shape[0]} frames, where one image is expected\nsave each as a file of its own")


def _picture_grid(shape: tuple[int, ...], spacing: tuple[float, ...] | None = None) -> Grid:
    """Of pixels [H, W, ...]; a picture whose spacing is known counts as 1 mm thick."""
    known = (1.0, spacing[0], spacing[1]) if spacing and len(spacing) == 2 else None
    return Grid((1, int(shape[0]), int(shape[1])), spacing=known)


def _nifti_grid(affine: np.ndarray, shape: Any) -> Grid:
    """Of an array [x, y, z, ...]; a slice's own axis first, then rows from above (axial: from the front), as `read_nifti`."""
    grid = place(affine, shape)
    if 1 not in grid.shape or grid.shape[0] == 1:
        return grid
    n, _, axes, flips, spacing = grid
    assert spacing is not None
    flips = (not flips[0], flips[1], flips[2])
    a = n.index(1)
    b, c = (axis for axis in range(3) if axis != a)
    return Grid(
        (n[a], n[b], n[c]),
        affine,
        (axes[a], axes[b], axes[c]),
        (flips[a], flips[b], flips[c]),
        (spacing[a], spacing[b], spacing[c]),
    )


def _nifti_form(head: bytes) -> str:
    return "nii.gz" if head.startswith(b"\x1f\x8b") else "nii"


def _nifti_header(path: Path, head: bytes) -> Any:
    nibabel = need("nibabel", extra="imaging")
    try:
        with gzip.open(path, "rb") if _nifti_form(head) == "nii.gz" else open(path, "rb") as handle:
            head = handle.read(540)  # the longer header, of NIfTI-2
        kind = nibabel.Nifti2Image if head[4:7] in (b"n+2", b"ni2") else nibabel.Nifti1Image
        return kind.header_class.from_fileobj(io.BytesIO(head), check=False)
    except Exception as error:  # nibabel and gzip answer damage with exceptions of several kinds
        raise _damaged(path, error) from error


def _nifti_bytes(stored: np.ndarray, grid: Grid) -> bytes:
    nibabel = need("nibabel", extra="imaging")
    if grid.affine is None:
        raise ValueError("NIfTI wants an affine, and the grid has none")
    short = np.array_equal(grid.affine, grid.affine.astype(np.float32))
    image = (nibabel.Nifti1Image if short else nibabel.Nifti2Image)(stored, grid.affine)
    image.set_sform(grid.affine, 1)
    image.header.set_xyzt_units("mm")
    image.header.set_qform(grid.affine, 1)
    # Sheared axes are no rotation: readers that prefer the qform would put the mask elsewhere.
    ends = np.array([[*([0] * 3), 1], [*stored.shape, 1]]).T
    apart = np.abs((image.header.get_qform() - grid.affine) @ ends).max()
    if not apart <= _NEAR * np.linalg.norm(grid.affine[:3, :3], axis=0).min():
        image.header["qform_code"] = 0
    return image.to_bytes()


def _black_and_white(path: Path, values: np.ndarray) -> np.ndarray:
    grey = np.count_nonzero((values >= 64) & (values < 192)) / values.size
    if grey > _GREY_SHARE or 0 < values.max() < 192:
        raise InputError(f"{path}: a JPEG mask of more than black and white, whose values it blurs\nsave the mask as PNG")
    return (values >= 128).astype(np.uint8) * 255
