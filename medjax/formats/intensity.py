"""Grey values, on the host: windows, percentiles, local contrast, and pictures of one size. Pure NumPy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from medjax.formats.image import resize

_LEVELS = 256  # of a tile's histogram


def window(image: np.ndarray, centre: float, width: float) -> np.ndarray:
    """Map a window of grey values to 0..1, as DICOM PS3.3 C.11.2.1.2.1 (LINEAR) defines it.

    0 up to centre - 0.5 - (width - 1) / 2, 1 above centre - 0.5 + (width - 1) / 2, between them
    (x - (centre - 0.5)) / (width - 1) + 0.5.

    Args:
      image: any shape, integers or floats, in the units of the window (Hounsfield for CT).
      centre: centre of the window.
      width: at least 1; 1 is a threshold.

    Returns:
      float32 of the same shape, 0..1.

    Raises:
      ValueError: a width under 1.
    """
    if not width >= 1:
        raise ValueError(f"a window's width is at least 1, got {width}")
    values = image.astype(np.float64) - (centre - 0.5)
    if width == 1:
        return (values > 0).astype(np.float32)
    return np.clip(values / (width - 1) + 0.5, 0, 1).astype(np.float32)


def windows(image: np.ndarray, settings: Sequence[tuple[float, float]]) -> np.ndarray:
    """Several windows as channels: [...] -> [..., len(settings)] float32, 0..1; `settings` are (centre, width) each."""
    if not settings:
        raise ValueError("expected at least one window")
    return np.stack([window(image, centre, width) for centre, width in settings], axis=-1)


def clip_percentiles(image: np.ndarray, low: float = 0.5, high: float = 99.5) -> np.ndarray:
    """Clip values to the image's own percentiles (linear interpolation between them; integers round to the nearest).

    Args:
      image: any shape, not empty, finite.
      low: percentile 0..100 of the lower bound.
      high: percentile of the upper bound, above `low`.

    Returns:
      an array of the same shape and dtype.

    Raises:
      ValueError: percentiles out of order or range.
    """
    if not 0 <= low < high <= 100:
        raise ValueError(f"percentiles must be 0 <= low < high <= 100, got {low} and {high}")
    bounds = np.percentile(image, (low, high))
    if np.issubdtype(image.dtype, np.integer):
        bounds = np.rint(bounds)
    least, most = bounds.astype(image.dtype)
    return np.clip(image, least, most)


def clahe(image: np.ndarray, tiles: int = 8, clip: float = 2.0) -> np.ndarray:
    """Contrast-limited adaptive histogram equalisation (K. Zuiderveld, Graphics Gems IV, 1994, VIII.5).

    The image is cut into tiles x tiles, mirrored at the lower and right edge where they do not divide it. Each tile's histogram
    of 256 bins is cut at `clip` times its mean, what is cut off is spread evenly, and its running sum is the tile's curve. A
    pixel's value is the bilinear mean of the curves of the four tiles whose centres surround it. On uint8 this is OpenCV's
    createCLAHE; on uint16 the bins span the image's own range, and a curve is interpolated linearly between bins, so that
    neighbouring values stay apart.

    Args:
      image: [H, W] uint8 or uint16.
      tiles: along each axis, 1 or more.
      clip: a multiple of a histogram's mean, above 0; 1 leaves the contrast nearly as it is, large values equalise fully.

    Returns:
      [H, W] of the same dtype, over its full range.

    Raises:
      ValueError: another shape or dtype, an empty image, a side under `tiles`, `tiles` under 1, `clip` not above 0.
    """
    if image.ndim != 2 or image.dtype not in (np.uint8, np.uint16):
        raise ValueError(f"expected a grey image [H, W] of uint8 or uint16, got {list(image.shape)} {image.dtype}")
    if tiles < 1 or not clip > 0 or min(image.shape) < tiles:
        raise ValueError(
            f"expected tiles of 1 to the shorter side ({min(image.shape)}) and clip above 0, got {tiles} and {clip}"
        )
    level = _levels(image)
    height, width = image.shape
    # As OpenCV: where one side does not divide, both grow to the next multiple, also the one that does.
    down, right = (tiles - side % tiles for side in image.shape) if any(side % tiles for side in image.shape) else (0, 0)
    rows, columns = (height + down) // tiles, (width + right) // tiles
    padded = np.pad(level, ((0, down), (0, right)), mode="reflect")
    curves = _curves(padded, tiles, rows, columns, clip)
    top, below, y = _neighbours(height, rows, tiles)
    left, beside, x = _neighbours(width, columns, tiles)
    y, x = y[:, None], x[None, :]

    def mapped(tile_row: np.ndarray, tile_column: np.ndarray) -> np.ndarray:
        tile = (tile_row[:, None] * tiles + tile_column[None, :]) * _LEVELS
        if image.dtype == np.uint8:
            return curves.take(tile + level.astype(np.int64))
        lower = np.minimum(level.astype(np.int64), _LEVELS - 2)
        part = level - lower.astype(np.float32)
        return curves.take(tile + lower) * (1 - part) + curves.take(tile + lower + 1) * part

    upper = mapped(top, left) * (1 - x) + mapped(top, beside) * x
    lower = mapped(below, left) * (1 - x) + mapped(below, beside) * x
    most = np.iinfo(image.dtype).max
    result = (upper * (1 - y) + lower * y) * np.float32(most / (_LEVELS - 1))
    return np.clip(np.rint(result), 0, most).astype(image.dtype)


def _levels(image: np.ndarray) -> np.ndarray:
    """Values as positions on the axis of bins, 0..255: uint8 as they are, uint16 in float32 over the image's own range."""
    if image.dtype == np.uint8:
        return image
    low, high = int(image.min()), int(image.max())
    return (image.astype(np.float32) - low) * np.float32((_LEVELS - 1) / max(1, high - low))


def _curves(level: np.ndarray, tiles: int, rows: int, columns: int, clip: float) -> np.ndarray:
    """Each tile's running sum of its clipped histogram, scaled to 0..255: [tiles * tiles, 256] float32."""
    tile = (np.arange(tiles * rows) // rows)[:, None] * tiles + (np.arange(tiles * columns) // columns)[None, :]
    place = tile * _LEVELS + np.rint(level).astype(np.int64)
    counts = np.bincount(place.ravel(), minlength=tiles * tiles * _LEVELS).reshape(-1, _LEVELS)
    limit = max(1, int(clip * rows * columns / _LEVELS))
    excess = np.maximum(counts - limit, 0).sum(1, keepdims=True)
    each, rest = excess // _LEVELS, excess % _LEVELS
    step = np.maximum(_LEVELS // np.maximum(rest, 1), 1)
    index = np.arange(_LEVELS)
    spread = (index % step == 0) & (index // step < rest)  # what does not divide goes to bins evenly apart
    counts = np.minimum(counts, limit) + each + spread
    scale = np.float32((_LEVELS - 1) / (rows * columns))
    # Whole levels, as OpenCV keeps them.
    return np.clip(np.rint(np.cumsum(counts, axis=1).astype(np.float32) * scale), 0, _LEVELS - 1).astype(np.float32)


def _neighbours(length: int, side: int, tiles: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each pixel of an axis: the tiles whose centres lie before and after it, and how far it is between them, 0..1."""
    position = np.arange(length, dtype=np.float32) * np.float32(1 / side) - np.float32(0.5)
    before = np.floor(position).astype(np.int64)
    return np.maximum(before, 0), np.minimum(before + 1, tiles - 1), position - before


def fit_square(image: np.ndarray, size: int, how: Literal["squash", "pad"] = "squash") -> np.ndarray:
    """Resample an image to size x size.

    Args:
      image: [H, W] or [H, W, C], a dtype that `resize` takes.
      size: pixels a side.
      how: "squash" changes the aspect; "pad" keeps it: the longer side fills the square, and the shorter is centred between
        borders of the darkest value.

    Returns:
      [size, size] or [size, size, C] of the same dtype.

    Raises:
      ValueError: another `how`, or what `resize` refuses.
    """
    if how == "squash":
        return resize(image, (size, size))
    if how != "pad":
        raise ValueError(f'how is "squash" or "pad", got {how!r}')
    height, width = image.shape[:2]
    scale = size / max(height, width)
    inner = (max(1, round(height * scale)), max(1, round(width * scale)))
    result = np.full((size, size, *image.shape[2:]), image.min(), image.dtype)
    y, x = (size - inner[0]) // 2, (size - inner[1]) // 2
    result[y : y + inner[0], x : x + inner[1]] = resize(image, inner)
    return result


def to_uint8(image: np.ndarray) -> np.ndarray:
    """Values from the image's least to its greatest as 0..255, rounded; uint8 is returned as it is, a constant becomes 0."""
    if image.dtype == np.uint8:
        return image
    low, high = float(image.min()), float(image.max())
    if low == high:
        return np.zeros(image.shape, np.uint8)
    return np.rint((image.astype(np.float64) - low) * (255 / (high - low))).astype(np.uint8)
