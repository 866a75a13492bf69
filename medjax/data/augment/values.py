"""Steps that change values in place: scaling, contrast, noise, blur, holes; for images and volumes alike."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from medjax.data.augment.compose import ImageAugment


def standardise() -> ImageAugment:
    """Mean 0 and standard deviation 1 over the whole image, its channels together; a flat image becomes 0."""

    def apply(key: jax.Array, image: jax.Array) -> jax.Array:
        centred = image - image.mean()
        return centred * jax.lax.rsqrt(jnp.square(centred).mean() + 1e-6)

    return apply


def clip_percentiles(low: float = 0.5, high: float = 99.5) -> ImageAugment:
    """Clip at two percentiles of the image, its channels together, and bring them to 0 and 1; a flat image becomes 0.

    It sorts the image: where it is not to follow another step, do it once on the host.
    """

    def apply(key: jax.Array, image: jax.Array) -> jax.Array:
        lowest, highest = jnp.percentile(image, jnp.array([low, high]))
        return (jnp.clip(image, lowest, highest) - lowest) / jnp.maximum(highest - lowest, 1e-12)

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
        image = _power(image, jnp.exp(jax.random.uniform(key_g, minval=-gamma, maxval=gamma)))
        image = image * jnp.exp(jax.random.uniform(key_a, minval=-gain, maxval=gain))
        return image + noise * jax.random.normal(key_e, image.shape)

    return apply


def gamma(strength: float) -> ImageAugment:
    """image ** g, log g uniform in +-strength: 0..1 stays 0..1, and what is not above 0 stays as it is."""

    def apply(key: jax.Array, image: jax.Array) -> jax.Array:
        return _power(image, jnp.exp(jax.random.uniform(key, minval=-strength, maxval=strength)))

    return apply


def _power(image: jax.Array, exponent: jax.Array) -> jax.Array:
    # The power's gradient or value is not finite at 0 and below: there the image stays as it is.
    return jnp.where(image > 1e-4, jnp.maximum(image, 1e-4) ** exponent, image)


def brightness(strength: float) -> ImageAugment:
    """image + b, b uniform in +-strength, in units of the image's range."""

    def apply(key: jax.Array, image: jax.Array) -> jax.Array:
        return image + jax.random.uniform(key, minval=-strength, maxval=strength)

    return apply


def contrast(strength: float) -> ImageAugment:
    """(image - m) * a + m, m the image's mean and log a uniform in +-strength."""

    def apply(key: jax.Array, image: jax.Array) -> jax.Array:
        middle = image.mean()
        return (image - middle) * jnp.exp(jax.random.uniform(key, minval=-strength, maxval=strength)) + middle

    return apply


def noise(deviation: float) -> ImageAugment:
    """Gaussian noise of a standard deviation uniform in 0..deviation, in units of the image's range."""

    def apply(key: jax.Array, image: jax.Array) -> jax.Array:
        key_d, key_e = jax.random.split(key)
        return image + jax.random.uniform(key_d, maxval=deviation) * jax.random.normal(key_e, image.shape)

    return apply


def blur(sigma: float) -> ImageAugment:
    """Gaussian blur of a standard deviation uniform in 0..sigma pixels, cut at 4 of them; the edge's values go on outside."""

    def apply(key: jax.Array, image: jax.Array) -> jax.Array:
        drawn = jax.random.uniform(key, maxval=sigma)
        radius = int(4 * sigma + 0.5)
        distance = jnp.arange(-radius, radius + 1)
        weights = jnp.exp(-0.5 * (distance / jnp.maximum(drawn, 1e-6)) ** 2)
        weights = jnp.where(jnp.abs(distance) <= jnp.floor(4 * drawn + 0.5), weights, 0)
        weights = weights / weights.sum()
        for axis in range(image.ndim - 1):
            size = image.shape[axis]
            padded = jnp.pad(image, [(radius, radius) if a == axis else (0, 0) for a in range(image.ndim)], mode="edge")
            shifted = (jax.lax.slice_in_dim(padded, i, i + size, axis=axis) for i in range(2 * radius + 1))
            image = functools.reduce(jnp.add, (weight * part for weight, part in zip(weights, shifted, strict=True)))
        return image

    return apply


def cutout(*, size: float, probability: float = 0.5) -> ImageAugment:
    """A random square, or cube, set to the image's mean (DeVries & Taylor, 2017).

    Args:
      size: its side as a fraction of each of the image's.
      probability: of doing it.
    """

    def apply(key: jax.Array, image: jax.Array) -> jax.Array:
        key_p, key_c = jax.random.split(key)
        space = image.shape[:-1]
        centre = jax.random.uniform(key_c, (len(space),)) * jnp.array(space)
        grid = jnp.ogrid[tuple(slice(n) for n in space)]
        near = [jnp.abs(at - centre[axis]) < size * n / 2 for axis, (at, n) in enumerate(zip(grid, space, strict=True))]
        hole = functools.reduce(jnp.logical_and, near) & jax.random.bernoulli(key_p, float(probability))
        return jnp.where(hole[..., None], image.mean(), image)

    return apply
