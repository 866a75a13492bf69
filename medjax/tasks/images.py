"""Pictures on their way to a network: prepared once on the host, scaled on the device, and shown in a report."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from scipy import ndimage

from medjax.core import Augment, Batch
from medjax.data.augment import apply_windows, to_unit
from medjax.errors import InputError
from medjax.formats.image import resize, to_grey

Channels = Literal["grey", "colour"]
Fit = Literal["squash", "pad"]
Windows = Sequence[tuple[float, float]]  # (centre, width) in Hounsfield units, one a channel


def standardise(image: jax.Array) -> jax.Array:
    """Each image [n, H, W, C] or volume [n, D, H, W, C] to mean 0 and standard deviation 1, over all its channels together.

    MR intensities have no unit of their own; in colour images the balance of the channels stays.
    """
    image = to_unit(image)
    axes = tuple(range(1, image.ndim))
    centred = image - image.mean(axes, keepdims=True)
    return centred * jax.lax.rsqrt(jnp.square(centred).mean(axes, keepdims=True) + 1e-6)


def standardised(batch: Batch) -> jax.Array:
    """The batch's `image` for a network, by `standardise`."""
    return standardise(batch["image"])


def mirrored(image: jax.Array) -> jax.Array:
    """Images [n, ..., W, C] and their left-right mirror images, [n, 2, ..., W, C]."""
    return jnp.stack([image, image[..., ::-1, :]], axis=1)


def windowed(windows: Windows) -> Callable[[Batch], jax.Array]:
    """inputs(batch) -> [n, ..., len(windows)] in -1..1: the batch's `image` of int16 Hounsfield units through `apply_windows`.

    Floats come from an augmentation after `window_first`, and are only brought to the same range.

    Args:
      windows: (centre, width) of each channel, in Hounsfield units.
    """
    return lambda batch: 2 * apply_windows(batch["image"], windows) - 1


def window_first(augment: Callable | Augment | None, windows: Windows) -> Callable | Augment | None:
    """The augmentation, behind `apply_windows`: its steps take images in 0..1. Without windows it is as it was."""
    if augment is None or not windows:
        return augment
    inner = augment.example if isinstance(augment, Augment) else augment

    def example(key: jax.Array, example: Mapping[str, Any]) -> Mapping[str, Any]:
        return inner(key, {**example, "image": apply_windows(example["image"], windows)})

    return augment._replace(example=example) if isinstance(augment, Augment) else example


def image_preprocess(
    *,
    size: int,
    crop: Callable[[np.ndarray], tuple] | None = None,
    channels: Channels = "grey",
    fit: Fit = "squash",
    windows: Windows = (),
    volumes: bool = False,
) -> Callable[[dict], dict]:
    """`preprocess_volume` where the cases are volumes, else `preprocess_image`, with these settings.

    Raises:
      ValueError: a setting that volumes do not have.
    """
    if not volumes:
        return functools.partial(preprocess_image, size=size, crop=crop, channels=channels, fit=fit, windows=tuple(windows))
    if crop is not None or channels != "grey" or fit != "squash":
        raise ValueError("volumes are neither cropped nor padded, and have no colours")
    return functools.partial(preprocess_volume, size=size, windows=tuple(windows))


def preprocess_image(
    example: dict,
    *,
    size: int,
    crop: Callable[[np.ndarray], tuple] | None = None,
    channels: Channels = "grey",
    fit: Fit = "squash",
    windows: Windows = (),
) -> dict:
    """An image to a square [size, size, C], and its `header`: what is known without the content.

    The square is uint8; images deeper than 8 bits are scaled by their own range, over all channels, since `standardise` takes
    no account of it. With CT windows it is int16 in Hounsfield units, clipped to what the windows show.

    Args:
      example: `image` [H, W] or [H, W, 3], and the rest, which is kept.
      size: side in pixels.
      crop: grey image [H, W] -> (y0, y1, x0, x1) to keep.
      channels: "grey" gives C = 1, colours as their luma; "colour" gives C = 3, grey repeated.
      fit: "squash" loses the aspect, which may give the class away; "pad" keeps it and adds the darkest value on both sides.
      windows: (centre, width) of CT windows, for `windowed`.

    Raises:
      InputError: a volume, or CT windows of pixels that are no Hounsfield units.
    """
    image = example["image"]
    if image.ndim != 2 and (image.ndim != 3 or image.shape[-1] != 3):
        raise InputError(
            f"{example['id']}: has the shape {list(image.shape)}, which is no picture [H, W] or [H, W, 3]\n"
            "give single slices, or set the job up for volumes"
        )
    height, width = image.shape[:2]
    known = [np.log(height), np.log(width), np.log(width / height), image.ndim, image.dtype.itemsize]
    if channels == "grey" or windows:
        image = to_grey(image)
    image = _to_integers(example["id"], image, windows)
    if crop is not None:
        y0, y1, x0, x1 = crop(to_grey(image))
        image = image[y0:y1, x0:x1]
    if fit == "pad":
        image = _pad_to_square(image)
    image = resize(image, (size, size))
    image = image if image.ndim == 3 else image[..., None]
    if channels == "colour" and image.shape[-1] == 1 and not windows:
        image = np.repeat(image, 3, axis=-1)
    return {**example, "image": image, "header": np.array(known, np.float32)}


def preprocess_volume(example: dict, *, size: int, windows: Windows = ()) -> dict:
    """A volume to a cube [size, size, size, 1], and its `header`: what is known without the content.

    Sizes are changed by trilinear interpolation, after a Gaussian blur of (n / size - 1) / 2 voxels along axes that shrink, so
    that nothing aliases. Values as in `preprocess_image`.

    Args:
      example: `image` [D, H, W], and the rest, which is kept.
      size: side in voxels; the aspect is not kept.
      windows: (centre, width) of CT windows, for `windowed`.

    Raises:
      InputError: a picture, or CT windows of voxels that are no Hounsfield units.
    """
    volume = example["image"]
    if volume.ndim != 3 or volume.shape[-1] == 3:
        raise InputError(
            f"{example['id']}: has the shape {list(volume.shape)}, which is no volume [D, H, W]\n"
            "give whole volumes, or set the job up for pictures"
        )
    depth, height, width = volume.shape
    known = [np.log(depth), np.log(height), np.log(width), np.log(width / height), volume.dtype.itemsize]
    volume = _to_integers(example["id"], volume, windows)
    if volume.shape != (size, size, size):
        wide = volume.astype(np.float32)
        wide = ndimage.gaussian_filter(wide, [max(0.0, (n / size - 1) / 2) for n in volume.shape], mode="nearest")
        factors = [size / n for n in volume.shape]
        wide = ndimage.zoom(wide, factors, order=1, mode="nearest", grid_mode=True)
        volume = np.round(wide).astype(volume.dtype)
    return {**example, "image": volume[..., None], "header": np.array(known, np.float32)}


def _to_integers(name: str, image: np.ndarray, windows: Windows) -> np.ndarray:
    """uint8, or int16 Hounsfield units clipped to the windows."""
    if windows:
        if image.dtype in (np.uint8, np.uint16):
            raise InputError(
                f"{name}: CT windows need Hounsfield units, but its pixels are {image.dtype}\n"
                "give CT as DICOM or NIfTI, or leave the windows out"
            )
        edges = [centre + side * width / 2 for centre, width in windows for side in (-1, 1)]
        return np.round(image.clip(min(edges), max(edges))).astype(np.int16)
    if image.dtype == np.uint8:
        return image
    low, high = float(image.min()), float(image.max())
    return np.round((image.astype(np.float32) - low) * (255 / max(high - low, 1e-12))).astype(np.uint8)


def _pad_to_square(image: np.ndarray) -> np.ndarray:
    height, width = image.shape[:2]
    side = max(height, width)
    around = [((side - n) // 2, side - n - (side - n) // 2) for n in (height, width)]
    return np.pad(image, [*around, *[(0, 0)] * (image.ndim - 2)], constant_values=image.min())


def to_shown(images: np.ndarray, windows: Windows = ()) -> np.ndarray:
    """Prepared pictures as a report shows them: the middle slice of volumes, the first of several CT windows.

    Args:
      images: [m, H, W, C] or [m, D, H, W, C], as `image_preprocess` leaves them.
      windows: as there.

    Returns:
      uint8 [m, H, W], or [m, H, W, 3] for colour.
    """
    if images.ndim == 5:
        images = images[:, images.shape[1] // 2]
    if windows:
        images = np.round(255 * np.asarray(apply_windows(jnp.asarray(images[..., :1]), windows[:1]))).astype(np.uint8)
    return images if images.shape[-1] == 3 else images[..., 0]


def as_batch(columns: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Numeric columns of n cases as one host batch, with a `mask` of ones."""
    n = len(next(iter(columns.values())))
    return {**columns, "mask": np.ones(n, bool)}
