"""Batch normalisation over the global batch, whichever engine runs it, and instance normalisation."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from medjax.core import current_scope
from medjax.core import mean as _mean


class BatchNorm(nn.Module):
    """Batch normalisation (Ioffe & Szegedy, ICML 2015, algorithm 1) with flax's parameter and statistics names.

    Statistics are those of the global batch: the mapped axis, if any, is read from the engine's scope. They are formed in
    float32, in one pass of shifted data, E[(x - s)^2] - E[x - s]^2 (Chan, Golub & LeVeque, The American Statistician 1983).
    The shift s is the mean of one line of values of the batch itself, the same on all devices, hence within a few standard
    deviations of the mean, which keeps the difference of the two small whatever the mean is; unshifted, all digits are lost
    once the mean is a few thousand standard deviations.

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
        x_ = x.astype(jnp.float32)
        axis = current_scope().axis
        if train:
            axes = tuple(range(x.ndim - 1))
            shift = _mean(jax.lax.stop_gradient(_line(x_).mean(0)), axis)
            moved = x_ - shift
            first, second = _mean((moved.mean(axes), jnp.square(moved).mean(axes)), axis)
            var = jnp.maximum(second - jnp.square(first), 0.0)
            if not self.is_initializing():
                keep = self.momentum
                running_mean.value = keep * running_mean.value + (1 - keep) * jax.lax.stop_gradient(first + shift)
                running_var.value = keep * running_var.value + (1 - keep) * jax.lax.stop_gradient(var)
        else:
            moved, first, var = x_ - running_mean.value, 0.0, running_var.value
        # One multiply-add a value: its gradient takes XLA fewer passes on CPU than that of (moved - first) * factor + bias.
        factor = jax.lax.rsqrt(var + self.epsilon) * scale
        return (moved * factor + (bias - first * factor)).astype(x.dtype)


def _line(x: jax.Array) -> jax.Array:
    """[k, C]: the middle line of the first example, since borders of medical images are often empty."""
    return x[(0, *(size // 2 for size in x.shape[1:-2]))].reshape(-1, x.shape[-1])


class InstanceNorm(nn.Module):
    """Each example's channels normalised over space (Ulyanov et al., arXiv:1607.08022, equation 2), in training as after it.

    No statistics are carried, hence no `train`, and no example sees another. Moments are formed in float32, in one pass of data
    shifted as in `BatchNorm`; the mean of a line of k values of N lies within sqrt(N / k) standard deviations of the mean
    (Samuelson's inequality), so float32 keeps at least 3 digits of the variance of 128^3 voxels, whatever their mean.
    A constant channel gives the bias.

    Attributes:
      epsilon: added to the variance, which is the biased one (divided by N), as in PyTorch.
      use_scale, use_bias: learn the affine map.
      scale_init: initial scale; zeros start a residual branch as the identity.
    """

    epsilon: float = 1e-5
    use_scale: bool = True
    use_bias: bool = True
    scale_init: Callable = nn.initializers.ones

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """x [n, *S, C], with 1 or more spatial axes -> same shape and dtype.

        Raises:
          ValueError: there is no axis to take the mean over.
        """
        if x.ndim < 3:
            raise ValueError(f"InstanceNorm takes [n, *S, C], not {x.shape}")
        channels = (x.shape[-1],)
        scale = self.param("scale", self.scale_init, channels, jnp.float32) if self.use_scale else 1.0
        bias = self.param("bias", nn.initializers.zeros, channels, jnp.float32) if self.use_bias else 0.0
        axes = tuple(range(1, x.ndim - 1))
        x_ = x.astype(jnp.float32)
        line = x_[(slice(None), *(size // 2 for size in x.shape[1:-2]))].mean(1)
        moved = x_ - jax.lax.stop_gradient(jnp.expand_dims(line, axes))
        first, second = (m.mean(axes, keepdims=True) for m in (moved, jnp.square(moved)))
        factor = jax.lax.rsqrt(jnp.maximum(second - jnp.square(first), 0.0) + self.epsilon) * scale
        return (moved * factor + (bias - first * factor)).astype(x.dtype)
