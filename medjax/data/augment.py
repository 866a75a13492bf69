"""Augmentations `f(key, example) -> example` in jnp, for one example; the engine maps them over a batch inside the step.

Images are float [H, W, C] in 0..1 here; `image_augment` turns the host's integers into that first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.scipy.ndimage import map_coordinates

ImageAugment = Callable[[jax.Array, jax.Array], jax.Array]


def to_unit(image: jax.Array) -> jax.Array:
    """Integers to float32 in 0..1 by the range of their dtype; floats pass as they are."""
    if jnp.issubdtype(image.dtype, jnp.integer):
        return image.astype(jnp.float32) / jnp.iinfo(image.dtype).max
    return image.astype(jnp.float32)


def image_augment(*steps: ImageAugment) -> Callable[[jax.Array, Mapping[str, Any]], dict[str, Any]]:
    """An example's `image` through the steps in order, each with a key of its own."""

    def augment(key: jax.Array, example: Mapping[str, Any]) -> dict[str, Any]:
        image = to_unit(example["image"])
        for i, step in enumerate(steps):
            image = step(jax.random.fold_in(key, i), image)
        return {**example, "image": image}

    return augment


def affine(
    *, rotate: float = 0.0, scale: float = 0.0, shift: float = 0.0, flip: float = 0.0, quarter_turns: bool = False
) -> ImageAugment:
    """A random affine map about the image's centre, by bilinear interpolation; what comes from outside is 0.

    Args:
      rotate: degrees, uniform in +-rotate.
      scale: log of the scale of each axis, uniform in +-scale.
      shift: fraction of each side, uniform in +-shift.
      flip: probability of a left-right mirror image.
      quarter_turns: add a random multiple of 90 degrees.
    """

    def apply(key: jax.Array, image: jax.Array) -> jax.Array:
        key_r, key_s, key_t, key_f, key_q = jax.random.split(key, 5)
        height, width = image.shape[:2]
        angle = jnp.deg2rad(jax.random.uniform(key_r, minval=-rotate, maxval=rotate))
        if quarter_turns:
            angle += jax.random.randint(key_q, (), 0, 4) * jnp.pi / 2
        sy, sx = jnp.exp(jax.random.uniform(key_s, (2,), minval=-scale, maxval=scale))
        ty, tx = jax.random.uniform(key_t, (2,), minval=-shift, maxval=shift) * jnp.array([height, width])
        mirror = jnp.where(jax.random.bernoulli(key_f, float(flip)), -1.0, 1.0)
        cy, cx = (height - 1) / 2, (width - 1) / 2
        y, x = jnp.meshgrid(jnp.arange(height) - cy, jnp.arange(width) - cx, indexing="ij")
        from_y = (jnp.cos(angle) * y - jnp.sin(angle) * x) * sy + ty + cy
        from_x = (jnp.sin(angle) * y + jnp.cos(angle) * x) * sx * mirror + tx + cx
        return jnp.stack([map_coordinates(image[..., c], [from_y, from_x], 1) for c in range(image.shape[-1])], -1)

    return apply


def intensity(*, gamma: float = 0.0, gain: float = 0.0, noise: float = 0.0) -> ImageAugment:
    """Random contrast: image ** g * a + e.

    Args:
      gamma: log of the exponent g, uniform in +-gamma.
      gain: log of the factor a, uniform in +-gain.
      noise: standard deviation of e, Gaussian, in units of the image's range.
    """

    def apply(key: jax.Array, image: jax.Array) -> jax.Array:
        key_g, key_a, key_e = jax.random.split(key, 3)
        power = jnp.exp(jax.random.uniform(key_g, minval=-gamma, maxval=gamma))
        # The power's gradient or value is not finite at 0 and below: there the image stays as it is.
        image = jnp.where(image > 1e-4, jnp.maximum(image, 1e-4) ** power, image)
        image = image * jnp.exp(jax.random.uniform(key_a, minval=-gain, maxval=gain))
        return image + noise * jax.random.normal(key_e, image.shape)

    return apply


def cutout(*, size: float, probability: float = 0.5) -> ImageAugment:
    """A random square set to the image's mean (DeVries & Taylor, 2017).

    Args:
      size: side of the square as a fraction of the image's.
      probability: of doing it.
    """

    def apply(key: jax.Array, image: jax.Array) -> jax.Array:
        key_p, key_c = jax.random.split(key)
        height, width = image.shape[:2]
        cy, cx = jax.random.uniform(key_c, (2,)) * jnp.array([height, width])
        near_y = jnp.abs(jnp.arange(height) - cy) < size * height / 2
        near_x = jnp.abs(jnp.arange(width) - cx) < size * width / 2
        hole = near_y[:, None] & near_x[None, :] & jax.random.bernoulli(key_p, float(probability))
        return jnp.where(hole[..., None], image.mean(), image)

    return apply
