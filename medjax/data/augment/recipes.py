"""Published recipes of augmentation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from medjax.data.augment.compose import to_unit
from medjax.data.augment.masks import mirror, on_image, pair_augment, spatial
from medjax.data.augment.scans import Range, blur_between, each_channel, low_resolution, rescale, retained_gamma, sometimes
from medjax.data.augment.values import noise
from medjax.errors import InputError


def nnunet_recipe(
    dims: int,
    anisotropic: bool = False,
    *,
    rotate: float | Sequence[float] | None = None,
    rotate_chance: float = 0.2,
    scale: Range = (0.7, 1.4),
    scale_chance: float = 0.2,
    elastic: float = 0.0,
    elastic_chance: float = 0.2,
    control: float = 32,
    noise_variance: float = 0.1,
    noise_chance: float = 0.1,
    blur: Range = (0.5, 1.0),
    blur_chance: float = 0.2,
    brightness: Range = (0.75, 1.25),
    brightness_chance: float = 0.15,
    contrast: Range = (0.75, 1.25),
    contrast_chance: float = 0.15,
    low_res: float = 0.5,
    low_res_chance: float = 0.25,
    channel_chance: float = 0.5,
    gamma: Range = (0.7, 1.5),
    gamma_chance: float = 0.3,
    inverted_gamma_chance: float = 0.1,
    mirror_chance: float | Sequence[float] = 0.5,
    out: Sequence[int] | None = None,
    fill: float = 0.0,
    outside: int = 255,
    start: Callable[[jax.Array], jax.Array] = to_unit,
) -> Callable[[jax.Array, Mapping[str, Any]], dict[str, Any]]:
    """The augmentation that nnU-Net trains with by default (Isensee et al., Nature Methods 2021, supplementary note 4).

    Order, ranges and probabilities are those of its second version's trainer. Otherwise than there, scales are log-uniform, the
    noise's deviation is uniform up to the root of the variance, and labels from outside are `outside`, not background.

    Args:
      dims: 2 or 3 axes of space.
      anisotropic: thick slices: turns, scales and low resolution in the plane of the last two axes only.
      rotate: degrees; by default 30 for volumes, and 180 for planes and thick slices (nnU-Net: 15 where one side of a plane is
        over 1.5 times the other).
      rotate_chance, scale, scale_chance, elastic, elastic_chance, control, out, fill, outside: see `spatial`.
      noise_variance, noise_chance: greatest variance of Gaussian noise, for images of standard deviation about 1.
      blur, blur_chance: standard deviation of a Gaussian blur, in voxels.
      brightness, brightness_chance: see `rescale`.
      contrast, contrast_chance: see `rescale`, about the mean.
      low_res, low_res_chance: see `low_resolution`.
      channel_chance: of each channel, where blur and low resolution are drawn.
      gamma, gamma_chance, inverted_gamma_chance: see `retained_gamma`; both may be done.
      mirror_chance: of each axis, one for all or one each; 0 for an axis whose two sides must be told apart.
      start: see `pair_augment`.

    Returns:
      f(key, example) -> example, on `image` and `labels`.

    Raises:
      InputError: dims is neither 2 nor 3, or anisotropic with 2.
    """
    if dims not in (2, 3) or (anisotropic and dims == 2):
        raise InputError(
            f"nnunet_recipe for {dims} axes{' with thick slices' * anisotropic}: 2 or 3, thick slices with 3", usage=True
        )
    if rotate is None:
        rotate = 30.0 if dims == 3 and not anisotropic else 180.0
    flips = [mirror_chance] * dims if isinstance(mirror_chance, (int, float)) else list(mirror_chance)
    coarse = low_resolution(low_res, axes=range(1 if anisotropic else 0, dims))
    values = (
        (noise_chance, noise(noise_variance**0.5)),
        (blur_chance, each_channel(blur_between(blur), channel_chance)),
        (brightness_chance, each_channel(rescale(brightness))),
        (contrast_chance, each_channel(rescale(contrast, about_mean=True))),
        (low_res_chance, each_channel(coarse, channel_chance)),
        (inverted_gamma_chance, each_channel(retained_gamma(gamma, invert=True))),
        (gamma_chance, each_channel(retained_gamma(gamma))),
    )
    move = spatial(
        rotate=rotate,
        scale=scale,
        elastic=elastic,
        rotate_chance=rotate_chance,
        scale_chance=scale_chance,
        elastic_chance=elastic_chance,
        control=control,
        out=out,
        dummy_2d=anisotropic,
        fill=fill,
        outside=outside,
    )
    return pair_augment(move, *(on_image(sometimes(chance, step)) for chance, step in values), mirror(flips), start=start)
