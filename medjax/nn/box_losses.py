"""Losses of detection, one value an anchor."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from medjax.nn import boxes


def focal(logits: jax.Array, target: jax.Array, *, alpha: float = 0.25, gamma: float = 2.0) -> jax.Array:
    """-alpha_t (1 - p_t)^gamma log p_t by sigmoid (Lin et al., ICCV 2017, equation 5), of the logits' shape.

    Args:
      logits: [..., K].
      target: 0 or 1, of the same shape.
      alpha: weight of positives; negatives weigh 1 - alpha.
      gamma: 0 gives weighted cross-entropy.
    """
    logits = logits.astype(jnp.float32)
    p = jax.nn.sigmoid(logits)
    entropy = jnp.maximum(logits, 0) - logits * target + jnp.log1p(jnp.exp(-jnp.abs(logits)))
    wrong = jnp.where(target > 0, 1 - p, p)
    return jnp.where(target > 0, alpha, 1 - alpha) * wrong**gamma * entropy


def smooth_l1(deltas: jax.Array, target: jax.Array, *, beta: float = 1 / 9) -> jax.Array:
    """Sum over deltas of .5 d^2 / beta below beta, |d| - .5 beta above (Girshick, ICCV 2015, equation 3): [..., 4] -> [...]."""
    d = jnp.abs(deltas - target)
    return jnp.where(d < beta, 0.5 * d * d / beta, d - 0.5 * beta).sum(-1)


def giou(deltas: jax.Array, anchors: jax.Array, target: jax.Array) -> jax.Array:
    """1 - GIoU of the decoded boxes and the true ones (Rezatofighi et al., CVPR 2019): [..., 4] -> [...]."""
    return 1 - boxes.giou(boxes.decode(deltas, anchors), target)
