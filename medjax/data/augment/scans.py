"""Steps for the values of scans, which are any floats, negative too: z-scores, Hounsfield units by a factor.

Those of `values` take 0 for dark, and 1 for bright. Where a factor is drawn between two bounds with 1 between them, it lies
below 1 as often as above, uniform on either side (as nnU-Net draws it).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from medjax.data.augment.compose import ImageAugment
from medjax.data.augment.fields import smooth_field
from medjax.errors import InputError

Range = tuple[float, float]


def sometimes(probability: float, step: Any) -> Any:
    """The step, of an image or of a pair, with a probability; else it is not computed where examples go one by one.

    `choose` computes it either way. This does too where a plain `vmap` makes the condition a choice between two results; under
    `pair_augment` on a CPU it does not.
    """

    def apply(key: jax.Array, *arrays: jax.Array) -> Any:
        if not probability:  # not even compiled
            return arrays[0] if len(arrays) == 1 else arrays
        key_p, key_s = jax.random.split(key)
        drawn = jax.random.bernoulli(key_p, float(probability))
        as_is = arrays[0] if len(arrays) == 1 else arrays
        return jax.lax.cond(drawn, lambda: step(key_s, *arrays), lambda: as_is)

    return apply


def each_channel(step: ImageAugment, probability: float = 1.0) -> ImageAugment:
    """The step on every channel [..., 1] by itself, with a key of its own, each with a probability."""
    one = step if probability >= 1 else sometimes(probability, step)

    def apply(key: jax.Array, image: jax.Array) -> jax.Array:
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(image.shape[-1]))
        # A loop, not a vmap: compiled once, and a channel that is not drawn is passed by.
        out = jax.lax.map(lambda channel: one(*channel), (keys, jnp.moveaxis(image, -1, 0)[..., None]))
        return jnp.moveaxis(out[..., 0], 0, -1)

    return apply


def rescale(factors: Range, *, about_mean: bool = False) -> ImageAugment:
    """image * a, nnU-Net's brightness; or its contrast, (image - mean) * a + mean, cut to the range that the image had.

    Args:
      factors: least and greatest a.
      about_mean: the latter.
    """
    _check("rescale", factors)

    def apply(key: jax.Array, image: jax.Array) -> jax.Array:
        factor = _draw(key, factors)
        if not about_mean:
            return image * factor
        mean = image.mean()
        return jnp.clip((image - mean) * factor + mean, image.min(), image.max())

    return apply


def retained_gamma(powers: Range, *, invert: bool = False) -> ImageAugment:
    """Gamma correction in the image's own range, mean and standard deviation restored (nnU-Net: Isensee et al., 2021, note 4).

    u = (image - least) / (greatest - least); u ** g; back to the range, then to the mean and deviation that there were.

    Args:
      powers: least and greatest g, above 0.
      invert: do it to the negative, and turn that back: then bright values are spread where dark ones were.
    """
    _check("retained_gamma", powers)

    def apply(key: jax.Array, image: jax.Array) -> jax.Array:
        sign = -1.0 if invert else 1.0
        image = sign * image
        least, mean, deviation = image.min(), image.mean(), image.std()
        unit = (image - least) / jnp.maximum(image.max() - least, 1e-7)
        powered = jnp.maximum(unit, 0) ** _draw(key, powers)
        centred = powered - powered.mean()
        return sign * (centred * (deviation / jnp.maximum(centred.std(), 1e-7)) + mean)

    return apply


def blur_between(sigmas: Range) -> ImageAugment:
    """Gaussian blur of a standard deviation in a range, in voxels; at an edge the weights inside are made to sum to 1."""
    if not 0 <= sigmas[0] <= sigmas[1]:
        raise InputError(f"blur_between: {sigmas} must be two numbers that rise, 0 or more", usage=True)

    def apply(key: jax.Array, image: jax.Array) -> jax.Array:
        sigma = jnp.maximum(jax.random.uniform(key, minval=sigmas[0], maxval=sigmas[1]), 1e-6)
        for axis, size in enumerate(image.shape[:-1]):
            distance = jnp.arange(size)[:, None] - jnp.arange(size)
            weights = jnp.exp(-0.5 * (distance / sigma) ** 2)
            weights /= weights.sum(1, keepdims=True)
            image = jnp.moveaxis(jnp.tensordot(image, weights, (axis, 1), precision="highest"), -1, axis)
        return image

    return apply


def low_resolution(smallest: float = 0.5, *, axes: Sequence[int] | None = None) -> ImageAugment:
    """A scan of fewer voxels brought back to its size: nearest voxel down, linear up (nnU-Net's simulated low resolution).

    An axis of n becomes m = round(n z), z uniform in smallest..1. No array of that size is made: coarse voxel k is voxel
    floor((k + 1/2) n / m), and each place lies between two coarse ones, so it is read there. Voxels count as cells, whose
    middles are half a voxel from the edge.

    Args:
      smallest: least z, above 0 and at most 1.
      axes: those of space that lose voxels; all by default.

    Raises:
      InputError: smallest is out of its range.
    """
    if not 0 < smallest <= 1:
        raise InputError(f"low_resolution with smallest {smallest}: must lie in 0..1, above 0", usage=True)

    def apply(key: jax.Array, image: jax.Array) -> jax.Array:
        zoom = jax.random.uniform(key, minval=smallest, maxval=1)
        for axis in range(image.ndim - 1) if axes is None else axes:
            size = image.shape[axis]
            coarse = jnp.maximum(jnp.round(size * zoom).astype(jnp.int32), 1)
            at = jnp.clip((jnp.arange(size) + 0.5) * coarse / size - 0.5, 0, coarse - 1)
            low = jnp.floor(at).astype(jnp.int32)
            part = (at - low).reshape(-1, *[1] * (image.ndim - 1 - axis))
            ends = [(2 * jnp.minimum(low + i, coarse - 1) + 1) * size // (2 * coarse) for i in (0, 1)]
            below, above = (jnp.take(image, end, axis, mode="clip") for end in ends)
            image = below + part * (above - below)
        return image

    return apply


def bias_field(strength: float, *, control: float = 32) -> ImageAugment:
    """A smooth gain over the image, as of a receive coil: (image - least) exp(f) + least, one f for all channels.

    f is a cubic B-spline (with which Sled et al., IEEE TMI 1998, smooth a log field), less its mean: log gain has mean 0. The
    least value stands for no signal: for an image from 0 up it is a plain product.

    Args:
      strength: before the mean is taken off, f keeps within +-a, a uniform in 0..strength; typically it is a fifth of that.
      control: voxels from one control point to the next.
    """

    def apply(key: jax.Array, image: jax.Array) -> jax.Array:
        key_a, key_f = jax.random.split(key)
        field = jax.random.uniform(key_a, maxval=strength) * smooth_field(key_f, image.shape[:-1], control)[0]
        least = image.min()
        return (image - least) * jnp.exp(field - field.mean())[..., None] + least

    return apply


def _check(name: str, factors: Range) -> None:
    if not 0 < factors[0] <= factors[1]:
        raise InputError(f"{name}: {factors} must be two numbers that rise, above 0", usage=True)


def _draw(key: jax.Array, bounds: Range) -> jax.Array:
    """Uniform between two bounds; with 1 between them as often below as above."""
    low, high = bounds
    if not low < 1 < high:
        return jax.random.uniform(key, minval=low, maxval=high)
    u = jax.random.uniform(key, minval=-1, maxval=1)
    return 1 + jnp.where(u < 0, u * (1 - low), u * (high - 1))
