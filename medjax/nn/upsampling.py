"""Learnt upsampling by whole factors: the transposed convolution whose kernel is as large as its stride."""

from __future__ import annotations

import math
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from medjax.nn.conv import _native, channels_last, conv_general_dilated, promote


def upsample(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Transposed convolution without overlap: y[n, i * s + j] = x[n, i] @ kernel[j], 0 <= j < s for each axis.

    It is a matrix product followed by depth-to-space (Shi et al., arXiv:1609.07009), and that is what runs where lax does the
    convolutions. With oneDNN, on the CPU, it is a convolution. They agree to float32's rounding. Forward and gradient, ms, on 2
    CPU cores (AVX-512, medians of 13, float32, doubling every axis and halving the channels):

    | x | oneDNN | lax's convolution | depth-to-space |
    |---|---|---|---|
    | [8, 64, 64, 32] | 15 | 124 | 26 to 31 |
    | [2, 32, 32, 32, 32] | 134 | 5176 | 277 to 392 |
    | [2, 8, 8, 8, 128] | 15 | 409 | 14 to 23 |

    On GPUs the gradient of lax's transposed convolution in three dimensions is slow as well (jax issue 31662).

    Args:
      x: [n, *S, C].
      kernel: [*s, C, O] of x's dtype; `medjax.nn.ConvTranspose` has it mirrored in space, PyTorch as [C, O, *s].

    Returns:
      [n, *(S * s), O] of x's dtype.
    """
    by_dense, by_conv = _depth_to_space, _convolution
    return lax.platform_dependent(x, kernel, cpu=by_conv, default=by_dense) if _native() else by_dense(x, kernel)


def _depth_to_space(x: jax.Array, kernel: jax.Array) -> jax.Array:
    *strides, inputs, outputs = kernel.shape
    rank = len(strides)
    y = x @ jnp.moveaxis(kernel, -2, 0).reshape(inputs, math.prod(strides) * outputs)
    y = y.reshape(*x.shape[:-1], *strides, outputs)
    order = [axis for i in range(1, rank + 1) for axis in (i, i + rank)]
    y = y.transpose(0, *order, 2 * rank + 1)
    return y.reshape(len(x), *(side * s for side, s in zip(x.shape[1:-1], strides)), outputs)


def _convolution(x: jax.Array, kernel: jax.Array) -> jax.Array:
    strides = kernel.shape[:-2]
    rank = len(strides)
    mirrored = jnp.flip(kernel, range(rank))
    pads = [(s - 1, s - 1) for s in strides]
    return conv_general_dilated(x, mirrored, (1,) * rank, pads, strides, dimension_numbers=channels_last(rank + 2))


class Upsample(nn.Module):
    """`upsample` with a learnt kernel [*strides, C, features] and bias [features], computing in the engine's dtype.

    Attributes:
      features: output channels.
      strides: factor of each axis.
    """

    features: int
    strides: Sequence[int]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """x [n, *S, C] -> [n, *(S * strides), features]."""
        # Each output is made from C values alone: the kernel's window does not add to its fan-in.
        init = nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal", batch_axis=tuple(range(len(self.strides))))
        kernel = self.param("kernel", init, (*self.strides, x.shape[-1], self.features), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        x, kernel, bias = promote(x, kernel, bias)
        return upsample(x, kernel) + bias
