"""Losses of segmentation, one value an example: cross-entropy, Dice, Tversky and focal, for maps labelled in part too.

All take logits [n, *S, K] of any float dtype and labels uint8 [n, *S] with values 0 (background) to K - 1, or 255 (`IGNORE`)
where nobody knows; what the logits are there has no effect, NaN included. They give float32 [n], 0 for an example without a
known voxel, whose weight is `annotated(labels)`. Labels are compared with the classes in passing: no one-hot map is kept.

Partial labels: `known` int8 [n, K - 1] is -1 for each foreground class that was not annotated in an example. There, background
means "background or one of those", so their probability is added to it (marginal loss, Shi et al., Medical Image Analysis 2021,
section 3.2), and they are left out of the means over classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

IGNORE = 255
_NEVER = -1e30  # a logit whose probability is exactly 0, without the NaN that infinities bring
_TINY = 1e-30

Loss = Callable[[jax.Array, jax.Array], jax.Array]


def annotated(labels: jax.Array) -> jax.Array:
    """1 for each example with a voxel that is not `IGNORE`, else 0: labels [n, *S] -> float32 [n]."""
    return (labels != IGNORE).any(_space(labels)).astype(jnp.float32)


def cross_entropy(logits: jax.Array, labels: jax.Array, *, known: jax.Array | None = None) -> jax.Array:
    """-log p of the labelled class, mean over an example's labelled voxels.

    Args and shapes are the module's. Returns: float32 [n].
    """
    logits, hot, valid = _prepared(logits, labels, known)
    return _mean(-_chosen(jax.nn.log_softmax(logits), hot), valid)


def focal(logits: jax.Array, labels: jax.Array, *, gamma: float = 2.0, known: jax.Array | None = None) -> jax.Array:
    """-(1 - p)^gamma log p of the labelled class, mean over an example's labelled voxels (Lin et al., ICCV 2017, equation 4).

    Args:
      logits, labels, known: as the module says.
      gamma: 0 gives `cross_entropy`; larger values let what is already right weigh less.

    Returns:
      float32 [n].
    """
    logits, hot, valid = _prepared(logits, labels, known)
    log_p = _chosen(jax.nn.log_softmax(logits), hot)
    wrong = -jnp.expm1(log_p)
    # A power below 1 has no slope at 0, where the loss is 0 anyway.
    weight = jnp.where(wrong > _TINY, jnp.where(wrong > _TINY, wrong, 1.0) ** gamma, 0.0)
    return _mean(-weight * log_p, valid)


def dice(logits: jax.Array, labels: jax.Array, *, known: jax.Array | None = None, smooth: float = 1e-5) -> jax.Array:
    """1 - soft Dice, mean over the annotated foreground classes (Milletari et al., 3DV 2016, with nnU-Net's plain sums).

    Dice of a class is (2 sum p g + smooth) / (sum p + sum g + smooth) over an example's labelled voxels, with probabilities p
    and the truth g. A class that the example lacks thus counts 1 unless nothing at all is predicted as it, with next to no
    gradient; cross-entropy beside it holds such a class down.

    Args:
      logits, labels, known: as the module says.
      smooth: above 0; nnU-Net's 1e-5.

    Returns:
      float32 [n] in 0..1.
    """
    return tversky(logits, labels, known=known, smooth=smooth)


def tversky(
    logits: jax.Array,
    labels: jax.Array,
    *,
    alpha: float = 0.5,
    beta: float = 0.5,
    known: jax.Array | None = None,
    smooth: float = 1e-5,
) -> jax.Array:
    """1 - Tversky index, mean over the annotated foreground classes (Salehi et al., MLMI 2017, equation 3).

    The index of a class is (tp + smooth / 2) / (tp + alpha fp + beta fn + smooth / 2), with tp = sum p g, fp = sum p (1 - g)
    and fn = sum (1 - p) g over an example's labelled voxels. alpha = beta = .5 is `dice`.

    Args:
      logits, labels, known: as the module says.
      alpha: weight of what is predicted and not there.
      beta: weight of what is there and not predicted; beta > alpha favours sensitivity.
      smooth: as of `dice`.

    Returns:
      float32 [n], in 0..1 for weights that are not negative.
    """
    logits, hot, valid = _prepared(logits, labels, known)
    p = jax.nn.softmax(logits)[..., 1:]
    axes = _space(labels)
    true = jnp.where(hot[..., 1:], p, 0.0).sum(axes)
    predicted = jnp.where(valid[..., None], p, 0.0).sum(axes)
    there = hot[..., 1:].sum(axes, dtype=jnp.float32)
    half = smooth / 2
    index = (true + half) / (true + alpha * (predicted - true) + beta * (there - true) + half)
    counts = jnp.ones_like(index, bool) if known is None else known >= 0
    return jnp.where(counts, 1 - index, 0.0).sum(-1) / jnp.maximum(counts.sum(-1), 1)


def dice_cross_entropy(
    logits: jax.Array, labels: jax.Array, *, known: jax.Array | None = None, smooth: float = 1e-5
) -> jax.Array:
    """`dice` + `cross_entropy`, nnU-Net's loss (Isensee et al., Nature Methods 2021).

    Args: as of `dice`. Returns: float32 [n].
    """
    return dice(logits, labels, known=known, smooth=smooth) + cross_entropy(logits, labels, known=known)


def deep_supervision(
    loss: Loss, logits: Sequence[jax.Array] | jax.Array, labels: jax.Array, *, weights: Sequence[float] | None = None
) -> jax.Array:
    """A loss at several resolutions: the weighted mean over them.

    Args:
      loss: (logits, labels) -> [n]; `functools.partial` brings `known` in.
      logits: list of [n, *S_i, K], finest first; one array is a list of one, as networks give in evaluation.
      labels: [n, *S]; at each resolution the nearest voxel's.
      weights: one a resolution; 1, 1/2, 1/4, ... by default. They are divided by their sum.

    Returns:
      float32 [n].
    """
    maps = [logits] if isinstance(logits, jax.Array) else list(logits)
    parts = np.array([0.5**i for i in range(len(maps))] if weights is None else weights, np.float64)
    if parts.shape != (len(maps),):
        raise ValueError(f"deep_supervision: {parts.size} weights for {len(maps)} resolutions")
    parts = parts / parts.sum()
    return sum(
        (float(part) * loss(y, shrink_labels(labels, y.shape[1:-1])) for part, y in zip(parts, maps)),
        start=jnp.zeros(len(labels), jnp.float32),
    )


def shrink_labels(labels: jax.Array, shape: Sequence[int]) -> jax.Array:
    """Labels [n, *S] on a coarser grid [n, *shape]: those of the voxels nearest to its voxels' centres ("nearest-exact")."""
    for axis, (side, wanted) in enumerate(zip(labels.shape[1:], shape), 1):
        if side != wanted:
            labels = jnp.take(labels, (2 * np.arange(wanted) + 1) * side // (2 * wanted), axis)
    return labels


def _space(labels: jax.Array) -> tuple[int, ...]:
    return tuple(range(1, labels.ndim))


def _prepared(logits: jax.Array, labels: jax.Array, known: jax.Array | None) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(logits float32, hot bool [n, *S, K], valid bool [n, *S]): classes that are not annotated merged into the background."""
    classes = logits.shape[-1]
    valid = labels != IGNORE
    # Before anything else: the gradient of NaN times 0 is NaN.
    logits = jnp.where(valid[..., None], logits.astype(jnp.float32), 0.0)
    if known is not None:
        hidden = jnp.pad(known < 0, ((0, 0), (1, 0)))
        labels = jnp.where(_take_class(hidden, labels), 0, labels).astype(labels.dtype)
        hidden = jnp.expand_dims(hidden, _space(labels))
        rest = hidden.at[..., 0].set(True)
        background = jax.nn.logsumexp(jnp.where(rest, logits, _NEVER), -1, keepdims=True)
        logits = jnp.concatenate([background, jnp.where(hidden, _NEVER, logits)[..., 1:]], -1)
    hot = labels[..., None] == jnp.arange(classes, dtype=labels.dtype)
    return logits, hot & valid[..., None], valid


def _take_class(flags: jax.Array, labels: jax.Array) -> jax.Array:
    """flags [n, K] of each voxel's class: bool [n, *S], false where the label is none."""
    hot = labels[..., None] == jnp.arange(flags.shape[-1], dtype=labels.dtype)
    return (hot & jnp.expand_dims(flags, _space(labels))).any(-1)


def _chosen(values: jax.Array, hot: jax.Array) -> jax.Array:
    """values [n, *S, K] of the labelled class: [n, *S], 0 where there is none."""
    return jnp.where(hot, values, 0.0).sum(-1)


def _mean(values: jax.Array, valid: jax.Array) -> jax.Array:
    """Mean over the valid voxels of each example, 0 without any: [n, *S] -> [n]."""
    axes = _space(valid)
    return jnp.where(valid, values, 0.0).sum(axes) / jnp.maximum(valid.sum(axes, dtype=jnp.float32), 1.0)
