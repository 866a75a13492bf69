"""PNG, JPEG, TIFF and BMP -> NumPy, and the few geometric steps that inputs of every model go through."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError
from scipy import ndimage

from medjax.errors import InputError

IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")

_SIGNATURES = {
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"II*\x00": "TIFF",
    b"MM\x00*": "TIFF",
    b"II+\x00": "TIFF",  # BigTIFF
    b"MM\x00+": "TIFF",
    b"BM": "BMP",
}
_PNG_END = b"IEND\xaeB`\x82"
_WHITE_IS_ZERO, _PHOTOMETRIC = 0, 262  # TIFF 6.0, section 8
_FOREGROUND_SIDE = 256
_FOREGROUND_LEAST = 0.05


def read_image(path: str | Path) -> np.ndarray:
    """Read a PNG, JPEG, TIFF or BMP file, recognised by its content.

    Returns:
      [H, W] or [H, W, 3], H down and W to the right, after the EXIF orientation, as a new array.
      uint8 (0..255), or uint16 for 16-bit grey (0..65535, white high), or float32 for float TIFF. Palettes and 1-bit images are
      expanded, alpha is composited over black, and colour whose three channels agree in every pixel comes back grey.
      16-bit colour comes as its upper 8 bits, which is what Pillow decodes.

    Raises:
      InputError: not there, empty, truncated or damaged, no such image, over Pillow's limit of pixels, several pages, without
        pixels, integers outside 0..65535, NaN or infinite pixels.
    """
    path = Path(path)
    data = _read_bytes(path)
    kind = image_kind(data)
    if not kind:
        raise InputError(f"{path}: no image: starts with {data[:8]!r}\nexpected PNG, JPEG, TIFF or BMP")
    refuse_to_load_truncated(path)
    try:
        pixels = _decode(path, data, kind)
    except InputError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _too_large(path, str(error)) from error
    except MemoryError as error:
        raise _too_large(path, "out of memory") from error
    except UnidentifiedImageError as error:  # its text is the address of a buffer
        raise InputError(
            f"{path}: truncated or damaged {kind}, or a kind of {kind} that Pillow does not know\n"
            "save it with 8 or 16 bits, or 32-bit float, or leave it out"
        ) from error
    except Exception as error:  # Pillow's decoders answer damage with exceptions of a dozen kinds
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{path}: truncated or damaged {kind}: {reason}\ncopy the file again, or leave it out") from error
    return _checked(path, pixels)


def image_kind(data: bytes) -> str:
    """ "PNG", "JPEG", "TIFF" or "BMP", by the first bytes of a file; "" for anything else."""
    return next((kind for start, kind in _SIGNATURES.items() if data.startswith(start)), "")


def refuse_to_load_truncated(path: Path) -> None:
    """Raise an InputError where Pillow is set to fill in what is missing, in silence: some package's import does so for all."""
    if ImageFile.LOAD_TRUNCATED_IMAGES:
        raise InputError(f"{path}: PIL.ImageFile.LOAD_TRUNCATED_IMAGES is set, so damage would go unseen\nset it to False")


def _read_bytes(path: Path) -> bytes:
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file\ncheck the path") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}\nexpected a PNG, JPEG, TIFF or BMP file") from error
    if not data:
        raise InputError(f"{path}: is empty (0 bytes)\ncopy the file again, or leave it out")
    return data


def _too_large(path: Path, reason: str) -> InputError:
    return InputError(f"{path}: too many pixels: {reason}\nsave it smaller, or leave it out")


def _decode(path: Path, data: bytes, kind: str) -> np.ndarray:
    image = Image.open(io.BytesIO(data), formats=(kind,))
    if min(image.size) == 0:
        raise InputError(f"{path}: has no pixels ({image.width} x {image.height})\nleave it out")
    if Image.MAX_IMAGE_PIXELS is not None and image.width * image.height > Image.MAX_IMAGE_PIXELS:
        # Pillow itself only warns up to twice its limit.
        raise _too_large(path, f"{image.width} x {image.height}, the limit is {Image.MAX_IMAGE_PIXELS}")
    pages = getattr(image, "n_frames", 1)
    if pages > 1 and image.format != "MPO":  # a camera's MPO is a JPEG with previews behind it
        raise InputError(f"{path}: holds {pages} pages\nsave each page as a file of its own")
    if kind == "PNG":
        # Decoding looks neither at the checksums of the pixel chunks nor for the end of the file.
        if _PNG_END not in data:
            raise OSError("the end is missing")
        Image.open(io.BytesIO(data), formats=(kind,)).verify()
    inverted = kind == "TIFF" and image.mode.startswith("I;16") and image.tag_v2.get(_PHOTOMETRIC) == _WHITE_IS_ZERO  # type: ignore[attr-defined]
    image.load()
    ImageOps.exif_transpose(image, in_place=True)
    pixels = _to_array(image)
    return 65535 - pixels if inverted else pixels  # Pillow inverts such images itself at 8 bit, not at 16


def _to_array(image: Image.Image) -> np.ndarray:
    if image.mode.startswith("I;16"):
        return np.array(image).astype(np.uint16)
    if image.mode in ("I", "F"):
        return np.array(image)
    if image.mode in ("P", "PA", "LA", "La", "RGBA", "RGBa") or "transparency" in image.info:
        rgba = np.array(image.convert("RGBA")).astype(np.uint16)
        return ((rgba[..., :3] * rgba[..., 3:] + 127) // 255).astype(np.uint8)
    return np.array(image.convert("L" if image.mode in ("1", "L") else "RGB"))


def _checked(path: Path, pixels: np.ndarray) -> np.ndarray:
    if pixels.dtype == np.int32:
        low, high = int(pixels.min()), int(pixels.max())
        if low < 0 or high > 65535:
            raise InputError(f"{path}: pixels from {low} to {high} do not fit 0 to 65535\nrescale them, or save a float TIFF")
        return pixels.astype(np.uint16)
    if pixels.dtype == np.float32:
        bad = int(np.count_nonzero(~np.isfinite(pixels)))
        if bad:
            raise InputError(f"{path}: {bad} of {pixels.size} pixels are NaN or infinite\nreplace them, or leave the file out")
    return grey_if_equal(pixels) if pixels.ndim == 3 else pixels


def grey_if_equal(pixels: np.ndarray) -> np.ndarray:
    """[..., 3] -> [...] where the three channels agree in every pixel; else `pixels` itself."""
    return pixels[..., 0].copy() if (pixels[..., :1] == pixels[..., 1:]).all() else pixels


def to_grey(image: np.ndarray) -> np.ndarray:
    """Luma of an image: [H, W, 3] -> [H, W] of the same dtype; [H, W] is returned as it is.

    0.299 R + 0.587 G + 0.114 B (ITU-R BT.601); integers are rounded to the nearest, halves up. There is no alpha channel.

    Raises:
      ValueError: another shape.
    """
    if image.ndim == 2:
        return image
    if image.ndim != 3 or image.shape[-1] != 3:
        raise ValueError(f"expected an image [H, W] or [H, W, 3], got {list(image.shape)}")
    if np.issubdtype(image.dtype, np.integer):
        # In thousandths and integers: exact, so that equal channels give back their value.
        return ((image.astype(np.int64) @ np.array([299, 587, 114]) + 500) // 1000).astype(image.dtype)
    return (image @ np.array([0.299, 0.587, 0.114])).astype(image.dtype)


def resize(image: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Resample an image to `shape` (height, width), antialiased: a triangle filter as wide as the reduction asks for.

    Args:
      image: [H, W] or [H, W, C]; uint8, uint16, int16, float32 or float64 (computed in float32).

    Returns:
      [height, width] or [height, width, C] of the same dtype; integers rounded to the nearest. Values stay in the range of the
      input (up to float rounding). Pixel centres are aligned as half-integers, so the field of view is kept.

    Raises:
      ValueError: another shape or dtype (labels want the nearest neighbour, not a mean), or a side below 1.
    """
    if image.ndim not in (2, 3) or min(*image.shape, *shape) < 1:
        raise ValueError(f"cannot resize {list(image.shape)} to {tuple(shape)}")
    if image.dtype not in (np.uint8, np.uint16, np.int16, np.float32, np.float64):
        raise ValueError(f"cannot resize {image.dtype}; expected uint8, uint16, int16, float32 or float64")
    if image.shape[:2] == tuple(shape):
        return image.copy()
    if image.ndim == 2:
        return _resize_channel(image, shape)
    if image.dtype == np.uint8 and image.shape[2] == 3:
        return np.array(Image.fromarray(image).resize((shape[1], shape[0]), Image.Resampling.BILINEAR))
    return np.stack([_resize_channel(image[..., c], shape) for c in range(image.shape[2])], axis=-1)


def _resize_channel(image: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    source = image if image.dtype == np.uint8 else image.astype(np.float32)  # Pillow resamples these two modes, L and F
    result = np.array(Image.fromarray(np.ascontiguousarray(source)).resize((shape[1], shape[0]), Image.Resampling.BILINEAR))
    if np.issubdtype(image.dtype, np.integer):
        limits = np.iinfo(image.dtype)
        result = np.clip(np.rint(result), limits.min, limits.max)
    return result.astype(image.dtype)


def otsu_threshold(image: np.ndarray, *, bins: int = 256) -> float:
    """The threshold between two classes of values: pixels at or above it are the brighter class.

    It maximises the variance between the classes, (mu_T w(k) - mu(k))^2 / (w(k) (1 - w(k))), over the bins k of the histogram
    (N. Otsu, A threshold selection method from gray-level histograms, IEEE Trans. SMC 9(1), 1979, eq. 18). Where several bins
    reach the maximum (a gap between the classes), the middle one is taken. Values are counted at the centres of their bins.

    Args:
      image: any shape, finite. A constant image gives its value.

    Returns:
      the upper edge of bin k, in the units of `image`.
    """
    low, high = float(image.min()), float(image.max())
    if low == high:
        return low
    counts, edges = np.histogram(image, bins=bins, range=(low, high))
    weight = np.cumsum(counts) / image.size
    centres = (edges[:-1] + edges[1:]) / 2 - low  # from the minimum, so that a large offset costs no digits
    moment = np.cumsum(counts * centres) / image.size
    weight, moment, total = weight[:-1], moment[:-1], moment[-1]  # all pixels on one side is no split
    variance = (total * weight - moment) ** 2 / (weight * (1 - weight))
    best = np.flatnonzero(variance >= variance.max() * (1 - 1e-9))
    return float(edges[best[len(best) // 2] + 1])


def crop_box_foreground(image: np.ndarray) -> tuple[int, int, int, int]:
    """Bounding box (y0, y1, x0, x1), ends exclusive, of the bright object on a dark ground: the head in an MR slice.

    A copy of at most about 256 pixels a side is smoothed 3 x 3; what is above half of Otsu's threshold (both counted from the
    darkest pixel: fat is far brighter than brain) is foreground, its largest connected component the object. Where that
    covers under 5 % of the image, or there is none, the box is the whole image.

    Args:
      image: [H, W], a dtype that `resize` takes, finite.
    """
    height, width = image.shape
    scale = max(1.0, max(height, width) / _FOREGROUND_SIDE)
    small_height, small_width = max(1, round(height / scale)), max(1, round(width / scale))
    small = ndimage.uniform_filter(resize(image.astype(np.float32), (small_height, small_width)), size=3)
    small -= small.min()
    labels, found = ndimage.label(small > otsu_threshold(small) / 2)
    if not found:
        return 0, height, 0, width
    sizes = np.bincount(labels.ravel())[1:]
    if sizes.max() < _FOREGROUND_LEAST * labels.size:
        return 0, height, 0, width
    rows, columns = ndimage.find_objects(labels)[int(sizes.argmax())]
    return (
        rows.start * height // small_height,
        -(-rows.stop * height // small_height),
        columns.start * width // small_width,
        -(-columns.stop * width // small_width),
    )
