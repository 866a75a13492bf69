"""Losses between images, one value an example: absolute difference, structural similarity, distance of an encoder's features.

All take images float [n, H, W, C] in about 0..1 and give float32 [n].
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from medjax.nn.conv import channels_last, conv_general_dilated

_SIDE = 7  # of the uniform window, as in `medjax.metrics.restoration.ssim`
_K1, _K2 = 0.01, 0.03


def absolute(found: jax.Array, truth: jax.Array) -> jax.Array:
    """Mean |found - truth|."""
    return jnp.abs(found - truth).reshape(len(found), -1).mean(1)


def charbonnier(found: jax.Array, truth: jax.Array, *, epsilon: float = 1e-3) -> jax.Array:
    """Mean sqrt((found - truth)^2 + epsilon^2) (Lai et al., CVPR 2017, section 3.2)."""
    return jnp.sqrt(jnp.square(found - truth) + epsilon**2).reshape(len(found), -1).mean(1)


def square(found: jax.Array, truth: jax.Array) -> jax.Array:
    """Mean (found - truth)^2."""
    return jnp.square(found - truth).reshape(len(found), -1).mean(1)


def structure(found: jax.Array, truth: jax.Array, *, span: float = 1.0) -> jax.Array:
    """1 - SSIM with the uniform window of `medjax.metrics.restoration.ssim` and a fixed range, mean over channels.

    Args:
      found, truth: sides of 7 and more.
      span: the range.
    """
    side, inside = _SIDE, _SIDE**2 / (_SIDE**2 - 1)
    n, h, w, c = truth.shape

    def blur(x: jax.Array) -> jax.Array:
        x = jnp.moveaxis(x, -1, 1).reshape(n * c * 5, h, w, 1)
        for shape in ((side, 1), (1, side)):
            kernel = jnp.full((*shape, 1, 1), 1 / side, x.dtype)
            x = conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=channels_last(4))
        return jnp.moveaxis(x.reshape(n, c * 5, *x.shape[1:3]), 1, -1)

    moments = blur(jnp.concatenate([truth, found, truth * truth, found * found, truth * found], -1))
    a, b, aa, bb, ab = jnp.split(moments, 5, axis=-1)
    va, vb, both = inside * (aa - a * a), inside * (bb - b * b), inside * (ab - a * b)
    c1, c2 = (_K1 * span) ** 2, (_K2 * span) ** 2
    values = ((2 * a * b + c1) * (2 * both + c2)) / ((a * a + b * b + c1) * (va + vb + c2))
    return 1 - values.reshape(n, -1).mean(1)


def feature_distance(encoder: nn.Module, variables: Mapping[str, Any]) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """(found, truth) -> mean |difference| of an encoder's maps, its stages weighing alike (Johnson et al., ECCV 2016, eq. 2).

    Args:
      encoder: a network of `medjax.models` that gives its maps with `features=True`.
      variables: its parameters and statistics, which stay as they are.
    """
    fixed = jax.tree.map(np.asarray, dict(variables))

    def look(image: jax.Array) -> list[jax.Array]:
        maps: Any = encoder.apply(fixed, image, train=False, features=True)
        return maps

    def distance(found: jax.Array, truth: jax.Array) -> jax.Array:
        pairs = zip(look(found), look(jax.lax.stop_gradient(truth)), strict=True)
        return jnp.stack([absolute(a, b) for a, b in pairs]).mean(0)

    return distance
