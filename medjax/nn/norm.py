"""Batch normalisation over the global batch, whichever engine runs it."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from medjax.core import current_scope


class BatchNorm(nn.Module):
    """Batch normalisation (Ioffe & Szegedy, ICML 2015, algorithm 1) with flax's parameter and statistics names.

    Statistics are those of the global batch: the mapped axis, if any, is read from the engine's scope. They are formed in one
    pass as E[(x - r)^2] - E[x - r]^2, shifted by the running mean r, which keeps the difference of the two small: the
    unshifted form loses all digits in float32 once the mean is a thousand standard deviations from zero.

    Attributes:
      momentum: running = momentum * running + (1 - momentum) * batch.
      epsilon: added to the variance.
      use_scale, use_bias: learn the affine map.
      scale_init: initial scale; zeros start a residual branch as the identity (Goyal et al., 2017, section 5.1).
    """

    momentum: float = 0.9
    epsilon: float = 1e-5
    use_scale: bool = True
    use_bias: bool = True
    scale_init: Callable = nn.initializers.ones

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """x [n, ..., C] -> same shape and dtype. Running statistics have collection `batch_stats`, names mean and var [C]."""
        channels = (x.shape[-1],)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, channels, jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, channels, jnp.float32)
        scale = self.param("scale", self.scale_init, channels, jnp.float32) if self.use_scale else 1.0
        bias = self.param("bias", nn.initializers.zeros, channels, jnp.float32) if self.use_bias else 0.0
        if train:
            axes = tuple(range(x.ndim - 1))
            shift = jax.lax.stop_gradient(running_mean.value)
            moved = x.astype(jnp.float32) - shift
            first, second = moved.mean(axes), jnp.square(moved).mean(axes)
            axis = current_scope().axis
            if axis is not None:
                first, second = jax.lax.pmean((first, second), axis)
            mean, var = first + shift, jnp.maximum(second - jnp.square(first), 0.0)
            if not self.is_initializing():
                keep = self.momentum
                running_mean.value = keep * running_mean.value + (1 - keep) * jax.lax.stop_gradient(mean)
                running_var.value = keep * running_var.value + (1 - keep) * jax.lax.stop_gradient(var)
        else:
            mean, var = running_mean.value, running_var.value
        factor = jax.lax.rsqrt(var + self.epsilon) * scale
        return ((x.astype(jnp.float32) - mean) * factor + bias).astype(x.dtype)
