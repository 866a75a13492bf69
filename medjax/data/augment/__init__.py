"""Augmentations in jnp, drawn from a key for one example; the engine maps them over a batch inside the step.

A step is `f(key, image) -> image` over float images [H, W, C] or volumes [D, H, W, C]. `image_augment` puts steps together for
an example, and turns the host's integers into floats first. Where a label map goes along, a step is
`f(key, image, labels) -> (image, labels)`, and `pair_augment` puts them together.
"""

from medjax.data.augment.compose import ImageAugment, apply_windows, choose, image_augment, mixup, to_unit
from medjax.data.augment.geometry import affine, affine_3d, flip, resized_crop, shift
from medjax.data.augment.masks import PairStep, mirror, on_image, pair_augment, spatial
from medjax.data.augment.recipes import nnunet_recipe
from medjax.data.augment.scans import (
    bias_field,
    blur_between,
    each_channel,
    low_resolution,
    rescale,
    retained_gamma,
    sometimes,
)
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
    "PairStep",
    "affine",
    "affine_3d",
    "apply_windows",
    "bias_field",
    "blur",
    "blur_between",
    "brightness",
    "choose",
    "clip_percentiles",
    "contrast",
    "cutout",
    "each_channel",
    "flip",
    "gamma",
    "image_augment",
    "intensity",
    "low_resolution",
    "mirror",
    "mixup",
    "nnunet_recipe",
    "noise",
    "on_image",
    "pair_augment",
    "rescale",
    "resized_crop",
    "retained_gamma",
    "shift",
    "sometimes",
    "spatial",
    "standardise",
    "to_unit",
]
