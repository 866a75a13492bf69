"""Spectral normalisation of convolutions (Miyato et al., ICLR 2018)."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from medjax.nn.conv import channels_last, conv_general_dilated, promote

_TINY = 1e-12


def largest_singular(matrix: jax.Array, u: jax.Array, iterations: int) -> tuple[jax.Array, jax.Array]:
    """The largest singular value by the power method (Miyato et al., algorithm 1).

    The vectors are constants to the gradient, so that it is that of v^T W u (equation 11).

    Args:
      matrix: [m, k].
      u: [k], where to go on from.
      iterations: 1 and more.

    Returns:
      (estimate, the next u).
    """
    fixed, v = jax.lax.stop_gradient(matrix), u
    for _ in range(iterations):
        v = _unit(fixed @ u)
        u = _unit(fixed.T @ v)
    return v @ (matrix @ u), u


def _unit(x: jax.Array) -> jax.Array:
    return x / (jnp.linalg.norm(x) + _TINY)


class SpectralConv(nn.Module):
    """A convolution whose kernel, as the matrix [everything else, output channels], is divided by its largest singular value.

    The power method's vector is `u` [features] in the collection "spectral". A training step moves it by one iteration; it sees
    nothing but the kernel, and so is the same on all devices.

    Attributes:
      features: output channels.
      kernel_size, strides: of each axis.
      use_bias: add one.
      kernel_init: of the kernel before the division.
    """

    features: int
    kernel_size: tuple[int, ...]
    strides: int = 1
    use_bias: bool = True
    kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """x [n, *S, C] -> [n, *ceil(S / strides), features], padded alike on both sides ("SAME")."""
        kernel = self.param("kernel", self.kernel_init, (*self.kernel_size, x.shape[-1], self.features), jnp.float32)
        start = _unit(jnp.cos(jnp.arange(1.0, self.features + 1)))  # any vector that lies along no axis
        u = self.variable("spectral", "u", lambda: start)
        sigma, moved = largest_singular(kernel.reshape(-1, self.features), u.value, 1)
        if train and not self.is_initializing():
            u.value = moved
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32) if self.use_bias else None
        x, kernel, bias = promote(x, kernel / sigma, bias)
        strides = (self.strides,) * len(self.kernel_size)
        y = conv_general_dilated(x, kernel, strides, "SAME", dimension_numbers=channels_last(x.ndim))
        return y if bias is None else y + bias
