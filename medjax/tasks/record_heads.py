"""What is asked of a record, as losses and outputs over the logits of `models.observed.Observed`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from medjax.core import Batch

Answers = dict[str, jax.Array]  # what `Observed` gives
Loss = Callable[[jax.Array, Batch], tuple[jax.Array, jax.Array]]


class Head(NamedTuple):
    """Loss and outputs for `supervised`: (y, batch) -> (values [n], weight [n]), and y -> {name: array [n, ...]}."""

    loss: Callable[[Answers, Batch], tuple[jax.Array, jax.Array]]
    outputs: Callable[[Answers], dict[str, jax.Array]]


def whole_record(loss: Loss, outputs: Callable[[jax.Array], dict[str, jax.Array]], *, deep: float = 0.0) -> Head:
    """One answer a record: the loss is the mean over the members, the outputs theirs averaged.

    Args:
      loss: (logits [n, K], batch) -> (values [n], weight [n]).
      outputs: logits [n, K] -> {name: array [n, ...]}.
      deep: weight a of every step's loss, with the record's own label: (1 - a) * the last step's + a * the mean over the valid
        steps (target replication: Lipton et al., ICLR 2016, section 3.3).
    """

    def total(y: Answers, batch: Batch) -> tuple[jax.Array, jax.Array]:
        values, weight = of_members(loss)(y["logits"], batch)
        if not deep:
            return values, weight
        steps = jax.vmap(lambda logits: of_members(loss)(logits, batch)[0], 2, 1)(y["steps"])
        valid = jnp.arange(steps.shape[1]) < batch["length"][:, None]
        mean = jnp.where(valid, steps, 0.0).sum(1) / jnp.maximum(valid.sum(1), 1)
        return (1 - deep) * values + deep * mean, weight

    def averaged(y: Answers) -> dict[str, jax.Array]:
        return {name: a.mean(1) for name, a in jax.vmap(outputs, 1, 1)(y["logits"]).items()}

    return Head(total, averaged)


def of_members(loss: Loss) -> Loss:
    """The loss of logits [n, M, K]: the mean over the members."""

    def mean(logits: jax.Array, batch: Batch) -> tuple[jax.Array, jax.Array]:
        values, weight = jax.vmap(lambda one: loss(one, batch), 1, 1)(logits)
        return values.mean(1), weight[:, 0]

    return mean


def each_step() -> Head:
    """One class out of several at the steps that `label_steps` names: cross-entropy, each question weighing the same.

    Outputs: `score` float32 [n, T, K], the probabilities at the end of every step.
    """

    def loss(y: Answers, batch: Batch) -> tuple[jax.Array, jax.Array]:
        at, target = batch["label_steps"], jnp.maximum(batch["label_values"], 0).astype(jnp.int32)
        known = (at >= 0) & (batch["label_values"] >= 0)
        logits = jnp.take_along_axis(y["steps"], jnp.maximum(at, 0)[:, None, :, None], 2)
        truth = jnp.broadcast_to(target[:, None], logits.shape[:-1])
        each = optax.softmax_cross_entropy_with_integer_labels(logits, truth).mean(1)
        count = known.sum(-1)
        return jnp.where(known, each, 0.0).sum(-1) / jnp.maximum(count, 1), count / at.shape[-1]

    return Head(loss, lambda y: {"score": jax.nn.softmax(y["steps"].astype(jnp.float32)).mean(1)})


def survival(horizon: float) -> Head:
    """Discrete-time survival: the logit of each bin is that of its hazard, h_b = P(event in bin b | none before).

    -log L = -log h_b - sum_{j<b} log(1 - h_j) for an event in bin b, and -sum_j log(1 - h_j) over the bins that a censored
    record has wholly outlived (Gensheimer & Narasimhan, PeerJ 7:e6257, 2019, equations 1 to 3). An event after the last bin
    counts as one that none of them saw.

    Args:
      horizon: time at which `score` is the risk, in the unit of `duration`.

    Returns:
      Head over batches with `label` int [n], 1 event, 0 censored, -1 missing, and `duration` [n]; outputs `score` [n, 2], no
      event and event by the horizon, `curve` [n, B], the probability of none by the end of each bin, and `edges` [n, B].
    """

    def loss(logits: jax.Array, batch: Batch, edges: jax.Array) -> tuple[jax.Array, jax.Array]:
        duration, event = batch["duration"][:, None], (batch["label"] == 1)[:, None]
        starts = jnp.concatenate([jnp.zeros(1), edges[:-1]])
        outlived = jnp.where(event, edges < duration, edges <= duration)
        inside = event & (starts < duration) & (duration <= edges)
        inside = inside | (event & (duration <= 0) & (jnp.arange(len(edges)) == 0))
        each = -jnp.where(inside, jax.nn.log_sigmoid(logits), 0.0) - jnp.where(outlived, jax.nn.log_sigmoid(-logits), 0.0)
        known = (batch["label"] >= 0) & jnp.isfinite(batch["duration"])
        return each.sum(-1), known.astype(jnp.float32)

    def total(y: Answers, batch: Batch) -> tuple[jax.Array, jax.Array]:
        return of_members(lambda logits, b: loss(logits, b, y["edges"]))(y["logits"], batch)

    def outputs(y: Answers) -> dict[str, jax.Array]:
        curve = jnp.exp(jnp.cumsum(jax.nn.log_sigmoid(-y["logits"].astype(jnp.float32)), -1)).mean(1)
        edges = y["edges"]
        free = jnp.clip(survival_at(curve, edges, horizon), 0.0, 1.0)
        return {"score": jnp.stack([free, 1 - free], -1), "curve": curve, "edges": jnp.broadcast_to(edges, curve.shape)}

    return Head(total, outputs)


def survival_at(curve: jax.Array, edges: jax.Array, time: Any) -> jax.Array:
    """Survival [n] at a time, from curve [n, B] at the bins' ends: its logarithm is linear within a bin."""
    logs = jnp.concatenate([jnp.zeros((len(curve), 1)), jnp.log(jnp.maximum(curve, 1e-30))], -1)
    points = jnp.concatenate([jnp.zeros(1), edges])
    return jnp.exp(jax.vmap(lambda row: jnp.interp(time, points, row))(logs))


def survival_bins(duration: np.ndarray, event: np.ndarray, count: int) -> np.ndarray:
    """Ends of `count` bins, ascending, that hold as many of the events each; the last is the latest event's time.

    Args:
      duration: float [n]; NaN is left out.
      event: int [n], 1 where it was seen.
    """
    times = duration[(event == 1) & np.isfinite(duration)]
    if not len(times):
        times = duration[np.isfinite(duration)]
    edges = np.quantile(times, np.arange(1, count + 1) / count) if len(times) else np.arange(1.0, count + 1)
    # Equal ends, of times that many share, would make bins without any length.
    for k in range(1, count):
        edges[k] = max(edges[k], np.nextafter(np.float32(edges[k - 1]), np.float32(np.inf)))
    return edges.astype(np.float32)
