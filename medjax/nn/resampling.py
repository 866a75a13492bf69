"""Fixed resampling of grids by two: bilinear enlargement and means of cells, for any number of axes."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp


def double(x: jax.Array, shape: Sequence[int] | None = None) -> jax.Array:
    """Bilinear enlargement by two: out[2i] = x[i - 1] / 4 + 3 x[i] / 4 and out[2i + 1] = 3 x[i] / 4 + x[i + 1] / 4.

    Beyond an edge lies the edge's own value. Slices and sums alone, so that its gradient is no scatter.

    Args:
      x: [n, *S, C].
      shape: sides of the output, each 2 S or 2 S - 1, whose last line is then left out; 2 S by default.

    Returns:
      [n, *shape, C] of x's dtype.
    """
    for axis in range(1, x.ndim - 1):
        n = x.shape[axis]
        take = lambda begin, end, axis=axis, x=x: jax.lax.slice_in_dim(x, begin, end, axis=axis)  # noqa: E731
        before = jnp.concatenate([take(0, 1), take(0, n - 1)], axis)
        after = jnp.concatenate([take(1, n), take(n - 1, n)], axis)
        pair = jnp.stack([0.75 * x + 0.25 * before, 0.75 * x + 0.25 * after], axis + 1)
        x = pair.reshape(*x.shape[:axis], 2 * n, *x.shape[axis + 1 :])
        if shape is not None and shape[axis - 1] != 2 * n:
            x = jax.lax.slice_in_dim(x, 0, shape[axis - 1], axis=axis)
    return x


def halve(x: jax.Array) -> jax.Array:
    """Means of cells of two along each axis, which is bilinear reduction: [n, *S, C] -> [n, *ceil(S / 2), C].

    The last line of an odd side is its own mean.
    """
    for axis in range(1, x.ndim - 1):
        if x.shape[axis] % 2:
            x = jnp.concatenate([x, jax.lax.slice_in_dim(x, x.shape[axis] - 1, x.shape[axis], axis=axis)], axis)
        x = x.reshape(*x.shape[:axis], x.shape[axis] // 2, 2, *x.shape[axis + 1 :]).mean(axis + 1)
    return x


def grids(shape: Sequence[int], least: int) -> list[tuple[int, ...]]:
    """Shapes from the coarsest to `shape`, each the next one's halves rounded up, until no side is above `least`."""
    found = [tuple(shape)]
    while max(found[0]) > least:
        found.insert(0, tuple(-(-side // 2) for side in found[0]))
    return found
