"""Augmentations in jnp, drawn from a key for one example; the engine maps them over a batch inside the step.

A step is `f(key, image) -> image` over float images [H, W, C] or volumes [D, H, W, C]. `image_augment` puts steps together for
an example, and turns the host's integers into floats first.
"""

from medjax.data.augment.compose import ImageAugment, apply_windows, choose, image_augment, mixup, to_unit
from medjax.data.augment.geometry import affine, affine_3d, flip, resized_crop, shift
from medjax.data.augment.values import (
    blur,
    brightness,
    clip_percentiles,
    contrast,
    cutout,
    gamma,
    intensity,
    noise,
    standardise,
)

__all__ = [
    "ImageAugment",
    "affine",
    "affine_3d",
    "apply_windows",
    "blur",
    "brightness",
    "choose",
    "clip_percentiles",
    "contrast",
    "cutout",
    "flip",
    "gamma",
    "image_augment",
    "intensity",
    "mixup",
    "noise",
    "resized_crop",
    "shift",
    "standardise",
    "to_unit",
]
