"""Smooth random fields: cubic B-splines on a coarse grid of control points."""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np


def smooth_field(key: jax.Array, space: Sequence[int], control: float, parts: int = 1) -> jax.Array:
    """Random cubic B-splines, as in Rueckert et al. (IEEE TMI 1999), equation 4.

    Args:
      key: of the coefficients, uniform in -1..1. The weights of a point sum to 1, so the field keeps within these; with 64
        coefficients to a point of a volume its standard deviation is a fifth of the bound, in a plane a quarter.
      space: lengths of the axes.
      control: voxels from one control point to the next, alike in all axes.
      parts: count of fields.

    Returns:
      float32 [parts, *space], within -1..1.
    """
    weights = [_splines(size, control) for size in space]
    field = jax.random.uniform(key, (parts, *(w.shape[1] for w in weights)), minval=-1, maxval=1)
    for axis, weight in enumerate(weights, 1):  # a product of one-dimensional splines: one axis after another
        field = jnp.moveaxis(jnp.tensordot(field, weight, (axis, 1)), -1, axis)
    return field


def _splines(size: int, control: float) -> np.ndarray:
    """Weight of each coefficient at each place, float32 [size, count]; a row sums to 1."""
    at = np.arange(size) / control
    t = at - np.floor(at)
    basis = ((1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3)
    weights = np.zeros((size, math.floor(at[-1]) + 4), np.float32)
    for i, part in enumerate(basis):
        weights[np.arange(size), np.floor(at).astype(int) + i] = part / 6
    return weights
