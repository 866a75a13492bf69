"""Max pooling, with a form for 2-window, 2-stride layers whose gradient is quick on CPU."""

from collections.abc import Sequence
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax


def max_pool(
    x: jax.Array,
    window: int | Sequence[int] = 2,
    *,
    strides: int | Sequence[int] | None = None,
    padding: str | Sequence[tuple[int, int]] = "VALID",
) -> jax.Array:
    """Largest value of each window, in any number of spatial dimensions.

    Of equal values the first in row-major order takes the whole gradient, as in PyTorch and XLA's select-and-scatter;
    a NaN makes its windows NaN. With windows and strides of 2 and even sizes, on CPU, the maximum is formed pair by pair,
    which is differentiable any number of times in either mode; all else is `flax.linen.max_pool` (reverse mode).

    Args:
      x: [n, *S, C] of any real dtype.
      window: size of the window, one for all dimensions or one each.
      strides: likewise; the window's size by default, so that windows do not overlap.
      padding: "VALID", "SAME" or a (before, after) pair for each dimension; what is padded is never the maximum.

    Returns:
      [n, *S', C] of x's dtype, S' = (S - window) // strides + 1 without padding.
    """
    spatial = x.ndim - 2
    window = (window,) * spatial if isinstance(window, int) else tuple(window)
    strides = window if strides is None else (strides,) * spatial if isinstance(strides, int) else tuple(strides)
    windows = partial(nn.max_pool, window_shape=window, strides=strides, padding=padding)
    halves = window == strides == (2,) * spatial and padding == "VALID" and not any(size % 2 for size in x.shape[1:-1])
    if not halves:
        return windows(x)
    return lax.platform_dependent(x, cpu=_halve, default=windows)


def _halve(x: jax.Array) -> jax.Array:
    """2-window, 2-stride maximum, one axis after the other, the last first: ties then fall to the first in row-major order."""
    for axis in range(x.ndim - 2, 0, -1):
        a, b = (lax.slice_in_dim(x, start, None, 2, axis) for start in (0, 1))
        first = a >= b
        if jnp.issubdtype(x.dtype, jnp.floating):
            first |= jnp.isnan(a)
        x = jnp.where(first, a, b)
    return x
