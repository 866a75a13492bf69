"""Restored images -> files in their inputs' formats, at full depth: NIfTI, DICOM, PNG, TIFF."""

from __future__ import annotations

import gzip
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from medjax.errors import InputError
from medjax.formats.dicom import _dataset
from medjax.formats.dicom_pixels import load_pydicom
from medjax.formats.grid import Grid
from medjax.formats.series import slices_of
from medjax.formats.volume import _nifti_bytes, grid_of

_GONE = (  # elements that speak of the old pixels
    "PixelPaddingValue",
    "PixelPaddingRangeLimit",
    "SmallestImagePixelValue",
    "LargestImagePixelValue",
    "ModalityLUTSequence",
    "PixelData",
    "FloatPixelData",
    "DoubleFloatPixelData",
)
_WINDOWS = ("WindowCenter", "WindowWidth", "WindowCenterWidthExplanation", "VOILUTSequence")


def write_restored(volume: np.ndarray, before: Sequence[int], facts: Mapping[str, Any]) -> dict[str, bytes]:
    """A restored volume as {end of the name: bytes}: one file, or "/0001.dcm", ... for the slices of a DICOM series.

    NIfTI holds the input's dtype, rounded and clipped, or float32, with its affine to the bit where the grid is the same. PNG
    and TIFF hold 8 or 16 bits as their input did, and float TIFF what it had. DICOM files are their inputs' with 16-bit pixels
    in the units that `medjax.formats.dicom.read_dicom` gives, marked as derived, with UIDs of their own that are the same at
    each writing. Equal volumes give equal bytes.

    Args:
      volume: float [D, H, W, C] in the input's units, in medjax's order.
      before: (d, h, w, ...) of the input, of which H and W are whole multiples.
      facts: `medjax.formats.volume.grid_columns` of the input, and `stored`, the name of its dtype.
    """
    factor = volume.shape[1] // int(before[1])
    grid = grid_of({**facts, "shape": before[:3]})
    form, stored = str(facts["form"]), np.dtype(str(facts["stored"]))
    if form == "dicom":
        return _dicom(volume[..., 0], [Path(name) for name in str(facts["files"]).split("\n")], grid)
    values = as_dtype(volume, stored)
    if form == "npy":  # of k-space, whose own file holds no images
        out = io.BytesIO()
        np.save(out, values[..., 0], allow_pickle=False)
        return {".npy": out.getvalue()}
    if form in ("nii", "nii.gz"):
        finer = refined(grid, factor)
        data = _nifti_bytes(np.ascontiguousarray(finer.to_stored(values if values.shape[-1] > 1 else values[..., 0])), finer)
        return {f".{form}": gzip.compress(data, mtime=0) if form == "nii.gz" else data}
    picture = values[0] if values.shape[-1] == 3 else values[0, ..., 0]
    if picture.ndim == 3:  # Pillow has no colour of 16 bits
        picture = picture if picture.dtype == np.uint8 else np.clip(np.rint(picture / 256), 0, 255).astype(np.uint8)
    form = "tif" if picture.dtype.kind == "f" or picture.dtype == np.int16 else form
    picture = picture.astype(np.float32) if picture.dtype == np.int16 else picture
    out = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(picture)).save(out, "PNG" if form == "png" else "TIFF")
    return {f".{form}": out.getvalue()}


def as_dtype(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Values as a dtype: integers rounded and clipped to its range, floats in single precision."""
    if dtype.kind not in "iu":
        return values.astype(np.float32)
    limits = np.iinfo(dtype)
    return np.clip(np.rint(values), limits.min, limits.max).astype(dtype)


def regridded(grid: Grid, shape: Sequence[int], coarser: Sequence[float], begin: Sequence[int] = (0, 0, 0)) -> Grid:
    """The grid of an image that was resampled, cut or padded; the same one where it was not.

    Args:
      grid: before.
      shape: (D, H, W) after.
      coarser: by what factor voxels have grown along each axis, voxels being cells.
      begin: of the resampled image in the new one, in its voxels; what was cut off at the end does not matter.
    """
    d, h, w = (int(n) for n in shape)
    if grid.shape == (d, h, w) and tuple(coarser) == (1, 1, 1) and not any(begin):
        return grid
    spacing = None
    if grid.spacing is not None:
        a, b, c = (s * f for s, f in zip(grid.spacing, coarser, strict=True))
        spacing = (a, b, c)
    new = Grid((d, h, w), grid.affine, grid.axes, grid.flips, spacing)
    if grid.affine is None:
        return new
    move = np.diag([*coarser, 1.0])
    move[:3, 3] = [(0.5 - at) * f - 0.5 for f, at in zip(coarser, begin, strict=True)]
    order = new._replace(affine=np.eye(4)).to_world()  # from medjax's order to the stored one
    return new._replace(affine=grid.to_world() @ move @ np.linalg.inv(order))


def refined(grid: Grid, factor: int) -> Grid:
    """The grid of slices whose rows and columns are `factor` times as fine, over the same field of view."""
    d, h, w = grid.shape
    return regridded(grid, (d, h * factor, w * factor), (1, 1 / factor, 1 / factor))


def _dicom(volume: np.ndarray, files: Sequence[Path], grid: Grid) -> dict[str, bytes]:
    if len(files) == 1 and volume.shape[0] == 1:
        return {".dcm": _dicom_file(files[0], volume[0])}
    stored = grid.to_stored(volume)  # [slice, row, column]
    places = slices_of(list(files)).places
    if any(frame is not None for _, frame in places):
        raise InputError(f"{files[0]}: restored frames of one file are not written\nsave the frames as a series, or as NIfTI")
    return {f"/{i + 1:04d}.dcm": _dicom_file(file, stored[i]) for i, (file, _) in enumerate(places)}


def _dicom_file(file: Path, pixels: np.ndarray) -> bytes:
    pydicom = load_pydicom()
    dataset = _dataset(file, pixels=False)
    signed, before = bool(pixels.min() < 0), (int(dataset.Rows), int(dataset.Columns))
    values = as_dtype(pixels, np.dtype(np.int16 if signed else np.uint16))
    inverted = dataset.get("PhotometricInterpretation") == "MONOCHROME1" and dataset.get("Modality") != "CT"
    for name in (*_GONE, *(_WINDOWS if inverted else ())):
        if name in dataset:
            del dataset[name]
    made: dict[str, Any] = {"BitsAllocated": 16, "BitsStored": 16, "HighBit": 15, "PixelRepresentation": int(signed)}
    made |= {"SamplesPerPixel": 1, "PhotometricInterpretation": "MONOCHROME2", "RescaleSlope": "1", "RescaleIntercept": "0"}
    made |= {"Rows": values.shape[0], "Columns": values.shape[1]}
    for name, value in made.items():
        setattr(dataset, name, value)
    for name in ("PixelSpacing", "ImagerPixelSpacing"):
        if name in dataset:
            grown = (float(s) * old / new for s, old, new in zip(dataset[name].value, before, values.shape, strict=True))
            setattr(dataset, name, [f"{length:.10g}" for length in grown])
    dataset.ImageType = ["DERIVED", "SECONDARY", *list(dataset.get("ImageType", []))[2:]]
    dataset.DerivationDescription = "restored by a network"
    for name in ("SOPInstanceUID", "SeriesInstanceUID"):
        setattr(dataset, name, pydicom.uid.generate_uid(entropy_srcs=[str(dataset.get(name, "")), "restored"]))
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    dataset.PixelData = values.astype("<i2" if signed else "<u2").tobytes()
    dataset["PixelData"].VR = "OW"
    out = io.BytesIO()
    pydicom.dcmwrite(out, dataset, enforce_file_format=True)
    return out.getvalue()
