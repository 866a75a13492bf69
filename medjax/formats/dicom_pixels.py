"""Stored values out of a DICOM data set: sizes checked before anything is decoded, decoders of pydicom and its plugins."""

from __future__ import annotations

import functools
import logging
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from medjax.errors import InputError
from medjax.extras import need
from medjax.formats.image import refuse_to_load_truncated

MAX_VALUES = 2**29  # rows x columns x samples x frames: a breast tomosynthesis has 2^28

_MODULES = r"pydicom\b"
_GREY = ("MONOCHROME1", "MONOCHROME2")
_PALETTE = "PALETTE COLOR"
_COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
_JPEG_BASELINE = 0xC0
_JPEG_SIZES = {0xC0, 0xC1, 0xC2, 0xC3, 0xF7}  # start-of-frame markers that DICOM's JPEG and JPEG-LS use
_FLOATS = {"FloatPixelData": 32, "DoubleFloatPixelData": 64}
# Of several decoders the one that is fastest, on damaged files too; all give the same values.
_PREFERRED = {
    "JPEGBaseline8Bit": "pillow",
    "JPEGExtended12Bit": "pillow",
    "JPEGLossless": "gdcm",
    "JPEGLosslessSV1": "gdcm",
    "JPEGLSLossless": "gdcm",
    "JPEGLSNearLossless": "gdcm",
    "JPEG2000": "pylibjpeg",
    "JPEG2000Lossless": "pylibjpeg",
}


def load_pydicom() -> Any:
    """pydicom, made quiet: it warns and logs with values of the header in its words.

    Raises:
      InputError: it is not installed.
    """
    pydicom = need("pydicom", extra="imaging")
    # A filter for good: warnings.catch_warnings is not safe where several threads read.
    if not any(entry[0] == "ignore" and getattr(entry[3], "pattern", "") == _MODULES for entry in warnings.filters):
        warnings.filterwarnings("ignore", module=_MODULES)
    _silence_logs()
    return pydicom


@functools.cache
def _silence_logs() -> None:
    logging.getLogger("pydicom").setLevel(logging.CRITICAL + 1)
    try:
        import gdcm  # type: ignore[import-not-found]
    except ImportError:
        return
    gdcm.Trace.WarningOff()
    gdcm.Trace.ErrorOff()


class PixelLayout(NamedTuple):
    """How pixel data are laid out, as the header says, checked.

    Attributes:
      frames: None for a single one.
      samples: 1, or 3 for colour (palettes included).
      limits: least and greatest value that the stored bits can hold.
    """

    rows: int
    columns: int
    frames: int | None
    samples: int
    photometric: str
    allocated: int
    stored: int
    signed: bool

    @property
    def limits(self) -> tuple[int, int]:
        """Least and greatest value that the stored bits can hold."""
        return (-(1 << (self.stored - 1)), (1 << (self.stored - 1)) - 1) if self.signed else (0, (1 << self.stored) - 1)


def check_layout(path: Path, dataset: Any, frame: int | None) -> PixelLayout:
    """Read and check the image pixel module, before anything is allocated.

    Raises:
      InputError: no pixel data, a size that is missing or zero, contradictions, an unsupported layout, too many values, no
        such frame.
    """
    keyword = next((name for name in ("PixelData", *_FLOATS) if name in dataset), None)
    if keyword is None:
        raise InputError(f"{path}: holds no pixel data, or ends before them\ncopy the file again, or leave it out")
    rows, columns = _whole(path, dataset, "Rows"), _whole(path, dataset, "Columns")
    count = _whole(path, dataset, "NumberOfFrames", 1)
    if min(rows, columns, count) < 1:
        raise InputError(f"{path}: has no pixels ({count} frames of {rows} x {columns})\nleave it out")
    photometric = _photometric(dataset)
    if photometric not in (*_GREY, _PALETTE, *_COLOUR):
        raise InputError(f"{path}: its photometric interpretation is missing or not supported\nsave it as MONOCHROME2 or RGB")
    samples = _whole(path, dataset, "SamplesPerPixel", 1)
    if samples != (3 if photometric in _COLOUR else 1):
        raise InputError(f"{path}: {samples} samples a pixel contradict {photometric}\nwrite the header anew, or leave it out")
    allocated = _FLOATS.get(keyword) or _whole(path, dataset, "BitsAllocated")
    stored = allocated if keyword in _FLOATS else _whole(path, dataset, "BitsStored", allocated)
    high = stored - 1 if keyword in _FLOATS else _whole(path, dataset, "HighBit", stored - 1)
    if (allocated not in (1, 8, 16, 32) and keyword not in _FLOATS) or not 1 <= stored <= allocated or high != stored - 1:
        raise InputError(
            f"{path}: {stored} bits stored in {allocated}, the highest being {high}, are not supported\n"
            "save it with 8 or 16 bits allocated and the values in the low bits"
        )
    taken = 1 if frame is not None else count
    if taken * rows * columns * samples > MAX_VALUES or count * rows * columns * samples > 8 * MAX_VALUES:
        raise InputError(
            f"{path}: too many pixels: {count} frames of {rows} x {columns}, the limit is {MAX_VALUES} values\n"
            "save fewer frames a file, or leave it out"
        )
    if frame is not None and not 0 <= frame < count:
        raise InputError(f"{path}: has no frame {frame}\nchoose one of 0 to {count - 1}")
    if samples == 3 and allocated not in (8, 16):
        raise InputError(f"{path}: colour of {allocated} bits is not supported\nsave it with 8 or 16 bits")
    signed = keyword == "PixelData" and _whole(path, dataset, "PixelRepresentation", 0) == 1
    frames = count if count > 1 else None
    samples = 3 if photometric == _PALETTE else samples
    return PixelLayout(rows, columns, frames, samples, photometric, allocated, stored, signed)


def decode(path: Path, dataset: Any, layout: PixelLayout, frame: int | None) -> np.ndarray:
    """Decode to stored values, sign-extended and without unused bits; colour to RGB, palettes looked up.

    Returns:
      [H, W], [H, W, 3], [D, H, W] or [D, H, W, 3].

    Raises:
      InputError: an encoding without a decoder, truncated or damaged pixel data, frames of another size than the header says.
    """
    pydicom = load_pydicom()
    syntax = dataset.file_meta.TransferSyntaxUID
    try:
        decoder = pydicom.pixels.get_decoder(syntax)
    except Exception:
        raise InputError(f"{path}: its transfer syntax is not supported\nsave it uncompressed or as JPEG 2000") from None
    if not decoder.is_native:
        refuse_to_load_truncated(path)
        _check_frames(path, pydicom, dataset, layout)
        if not decoder.is_available:
            raise InputError(f"{path}: no decoder for {syntax.name} is installed\npip install 'medjax[imaging]'")
    try:
        if syntax == pydicom.uid.JPEGExtended12Bit and layout.stored > 8:
            pixels = _extended(pydicom, dataset, layout, range(layout.frames or 1) if frame is None else [frame])
        else:
            plugin = _PREFERRED.get(syntax.keyword, "")
            plugin = plugin if plugin in decoder.available_plugins else ""
            index = frame if layout.frames else 0
            pixels, _ = decoder.as_array(dataset, index=index, decoding_plugin=plugin)
        if layout.photometric == _PALETTE:
            pixels = _upper_bits(pydicom.pixels.apply_color_lut(pixels, dataset))
    except InputError:
        raise
    except MemoryError:
        raise InputError(f"{path}: too many pixels: out of memory\nsave fewer frames a file, or leave it out") from None
    except Exception:  # decoders answer damage with exceptions of a dozen kinds
        raise InputError(f"{path}: the pixel data are truncated or damaged\ncopy the file again, or leave it out") from None
    frames = (layout.frames,) if layout.frames and frame is None else ()
    shape = (*frames, layout.rows, layout.columns, *((3,) if layout.samples == 3 else ()))
    if pixels.shape != shape:
        raise InputError(
            f"{path}: decodes to {list(pixels.shape)}, the header says {list(shape)}\ncopy it again, or leave it out"
        )
    return pixels


def _upper_bits(colours: np.ndarray) -> np.ndarray:
    """Palettes of 16-bit entries come as their upper 8 bits, or as they are where only the lower 8 are used."""
    return colours if colours.dtype == np.uint8 else (colours >> (8 if colours.max() > 255 else 0)).astype(np.uint8)


def _extended(pydicom: Any, dataset: Any, layout: PixelLayout, frames: Iterable[int]) -> np.ndarray:
    """12-bit JPEG, which GDCM decodes though pydicom's plugin for it declines to ask."""
    gdcm = need("gdcm", extra="imaging")
    if layout.samples != 1 or layout.allocated != 16 or layout.stored > 12:
        raise ValueError
    planes = []
    for index in frames:
        fragment = gdcm.Fragment()
        fragment.SetByteStringValue(pydicom.encaps.get_frame(dataset.PixelData, index, number_of_frames=layout.frames or 1))
        fragments = gdcm.SequenceOfFragments.New()
        fragments.AddFragment(fragment)
        element = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
        element.SetValue(fragments.__ref__())
        image = gdcm.Image()
        image.SetNumberOfDimensions(2)
        image.SetDimensions((layout.columns, layout.rows, 1))
        image.SetDataElement(element)
        kind = gdcm.PhotometricInterpretation.GetPIType(layout.photometric)
        image.SetPhotometricInterpretation(gdcm.PhotometricInterpretation(kind))
        image.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.GetTSType(str(dataset.file_meta.TransferSyntaxUID))))
        image.SetPixelFormat(gdcm.PixelFormat(1, layout.allocated, layout.stored, layout.stored - 1, int(layout.signed)))
        data = image.GetBuffer().encode("utf-8", "surrogateescape")  # GDCM gives bytes as text
        planes.append(np.frombuffer(data, "<i2" if layout.signed else "<u2").reshape(layout.rows, layout.columns))
    return np.stack(planes) if len(planes) > 1 else planes[0].copy()


def _check_frames(path: Path, pydicom: Any, dataset: Any, layout: PixelLayout) -> None:
    """Whether each compressed frame is as large as the header says: decoders allocate what the frame itself asks for."""
    count = layout.frames or 1
    try:
        frames = pydicom.encaps.generate_frames(dataset.PixelData, number_of_frames=count)
        found = [_stream_size(data, 1 if layout.photometric == _PALETTE else layout.samples) for data in frames]
    except Exception:
        raise InputError(f"{path}: the pixel data are truncated or damaged\ncopy the file again, or leave it out") from None
    if len(found) != count:
        raise InputError(f"{path}: holds {len(found)} frames, its header says {count}\ncopy the file again, or leave it out")
    wrong = next((size for size in found if size not in (None, (layout.rows, layout.columns))), None)
    if wrong:
        raise InputError(
            f"{path}: a compressed frame is {wrong[0]} x {wrong[1]}, the header says {layout.rows} x {layout.columns}\n"
            "copy the file again, or leave it out"
        )


def _stream_size(data: bytes, samples: int) -> tuple[int, int] | None:
    """(rows, columns) that a JPEG, JPEG-LS or JPEG 2000 stream states; None where it states none that can be found.

    Raises:
      ValueError, IndexError: another number of samples, or a colour transform that no decoder knows.
    """
    if data[:4] == b"\xff\x4f\xff\x51":  # JPEG 2000: the size segment is the first
        right, lower, left, upper = (int.from_bytes(data[at : at + 4], "big") for at in (8, 12, 16, 20))
        return lower - upper, right - left
    if data[:2] != b"\xff\xd8":
        return None
    at, transform = 2, 0
    while at + 9 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xEE and data[at + 4 : at + 9] == b"Adobe":
            transform = data[at + 15]
        if marker in _JPEG_SIZES:
            if data[at + 9] != samples or (marker != _JPEG_BASELINE and transform > 1):
                raise ValueError  # GDCM would end the whole process
            return int.from_bytes(data[at + 5 : at + 7], "big"), int.from_bytes(data[at + 7 : at + 9], "big")
        at += 1 if marker == 0xFF else 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return None


def _photometric(dataset: Any) -> str:
    try:
        return str(dataset.get("PhotometricInterpretation") or "").strip().upper()
    except Exception:  # an element that does not parse
        return ""


def _whole(path: Path, dataset: Any, keyword: str, default: int | None = None) -> int:
    """An element that must be a whole number; `default` stands for one that is missing."""
    try:
        value = dataset.get(keyword)
        if value in (None, "") and default is not None:
            return default
        if float(value) == int(value):
            return int(value)
    except Exception:  # an element that does not parse, whose words may quote the header
        pass
    raise InputError(f"{path}: {keyword} is missing or no whole number\ncopy the file again, or leave it out")
