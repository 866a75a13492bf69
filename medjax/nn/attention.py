"""Attention and other ways to make one vector of a sequence, over the valid steps alone."""

from __future__ import annotations

from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from medjax.nn.dense import Dense


def valid_steps(lengths: jax.Array | None, n: int, steps: int) -> jax.Array:
    """bool [n, T]: which steps lie within the lengths int [n]; all of them for None."""
    return jnp.ones((n, steps), bool) if lengths is None else jnp.arange(steps) < jnp.asarray(lengths)[:, None]


def masked_softmax(scores: jax.Array, valid: jax.Array, axis: int = -1) -> jax.Array:
    """Softmax over the valid entries of an axis, zero elsewhere; all zeros, with gradients of zero, where none is valid.

    Args:
      scores: [...] float; what is not valid has no effect, NaN and infinity included.
      valid: bool, of a shape that broadcasts to scores'.

    Returns:
      [...] float32, or float64 as scores are.
    """
    scores = scores.astype(jnp.promote_types(scores.dtype, jnp.float32))
    some = jnp.any(jnp.broadcast_to(valid, scores.shape), axis, keepdims=True)
    top = jnp.max(jnp.where(valid, scores, -jnp.inf), axis, keepdims=True)
    shifted = jnp.where(valid, scores - jax.lax.stop_gradient(jnp.where(some, top, 0)), 0)
    weights = jnp.where(valid, jnp.exp(shifted), 0)
    return weights / jnp.where(some, weights.sum(axis, keepdims=True), 1)


class AttentionPool(nn.Module):
    """Mean of the valid steps, weighted by attention (Yang et al., NAACL 2016, equations 5 to 7).

    u_t = tanh(y_t W + b), weight_t = softmax_t(u_t v), pooled = sum_t weight_t y_t.

    Attributes:
      features: length of u.
    """

    features: int

    @nn.compact
    def __call__(self, y: jax.Array, lengths: jax.Array | None = None) -> tuple[jax.Array, jax.Array]:
        """y [n, T, H] -> (pooled [n, H], weights [n, T] float32, which sum to 1); zeros both for a length of 0."""
        scores = Dense(1, use_bias=False, name="score")(jnp.tanh(Dense(self.features, name="project")(y)))[..., 0]
        weights = masked_softmax(scores, valid_steps(lengths, *y.shape[:2]))
        return jnp.einsum("nt,nth->nh", weights, y.astype(weights.dtype)).astype(y.dtype), weights


def pool_steps(y: jax.Array, lengths: jax.Array | None, kind: Literal["last", "mean", "max"]) -> jax.Array:
    """The last valid step of y [n, T, H], or the mean or maximum of the valid ones: [n, H], zeros for a length of 0.

    Raises:
      ValueError: another kind.
    """
    valid = valid_steps(lengths, *y.shape[:2])[..., None]
    count = valid.sum(1)
    if kind == "last":
        return jnp.where(count > 0, jnp.take_along_axis(y, jnp.maximum(count - 1, 0)[:, None], 1)[:, 0], 0)
    if kind == "mean":
        wide = jnp.promote_types(y.dtype, jnp.float32)
        return (jnp.where(valid, y, 0).sum(1, dtype=wide) / jnp.maximum(count, 1)).astype(y.dtype)
    if kind == "max":
        return jnp.where(count > 0, jnp.where(valid, y, -jnp.inf).max(1), 0)
    raise ValueError(f"pool_steps: {kind!r} is not one of last, mean, max")
