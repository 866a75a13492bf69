"""The networks that read a text side by side, and what they learn and answer together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from medjax.cases import Cases
from medjax.console import say
from medjax.core import State, Task
from medjax.models.reader import STATISTICS
from medjax.tasks import baselines
from medjax.tasks.classification import class_loss, class_outputs
from medjax.tasks.multilabel import label_loss, label_outputs
from medjax.tasks.record_heads import of_members
from medjax.tasks.supervised import supervised
from medjax.tasks.text_classes import text_inputs

NEVER = -30.0  # a logit


def reading(model: nn.Module, tx: optax.GradientTransformation, *, multi: bool = False, smoothing: float = 0.0) -> Task:
    """One class out of several, or any number of them, by networks side by side.

    Each learns by a loss of its own, so that none leans on another; the answer is the geometric mean of their probabilities
    (of their odds with several labels), normalised: a product of experts (Hinton, Neural Computation 14(8), 2002).

    Args:
      model: `text_inputs` -> logits [n, M, K], such as `medjax.models.reader.SideBySide`.
      tx: optimizer.
      multi: any number of classes a text.
      smoothing: label smoothing, of one class out of several.

    Returns:
      Task as of `classification` or `multilabel`; the objective is the mean over the members.
    """
    loss = label_loss() if multi else class_loss(smoothing=smoothing)

    def outputs(logits: jax.Array) -> dict[str, jax.Array]:
        logits = logits.astype(jnp.float32)
        return label_outputs(logits.mean(1)) if multi else class_outputs(jax.nn.log_softmax(logits).mean(1))

    return supervised(model, tx, inputs=text_inputs, loss=of_members(loss), outputs=outputs)


def begin_bag(ridge: float = 0.0) -> Callable[[State, Cases], State]:
    """`start` of a Job with a `Bag`: what the very texts that are trained on say of its terms, in each fold its own.

    Their rarity is log((1 + n) / (1 + texts that hold the term)) + 1 of n texts, as in scikit-learn's TF-IDF.

    Args:
      ridge: of a fitted `Bag`, the inverse strength of the penalty of its logistic regression.
    """

    def start(state: State, cases: Cases) -> State:
        def fill(held: Any) -> Any:
            if "rarity" not in held:
                return {name: fill(below) for name, below in held.items()}
            rarity = count_rarity(cases, len(held["rarity"]))
            found = {"rarity": rarity, **(_fit(cases, rarity, ridge, *held["table"].shape) if "table" in held else {})}
            return {name: jnp.asarray(array, jnp.float32) for name, array in found.items()}

        return state.replace(extra={**state.extra, STATISTICS: fill(state.extra[STATISTICS])})

    return start


def count_rarity(cases: Cases, buckets: int) -> np.ndarray:
    """The rarity of each term among the cases, float64 [buckets]."""
    counts = np.bincount(np.concatenate([np.asarray(places) for places in cases["places"]]), minlength=buckets)
    return np.log((1 + len(cases)) / (1 + counts)) + 1


def _fit(cases: Cases, rarity: np.ndarray, ridge: float, buckets: int, k: int) -> dict[str, np.ndarray]:
    """`table` [buckets, K] and `bias` [K] of a logistic regression on the TF-IDF of the cases whose label is known."""
    from scipy.sparse import csr_matrix
    from sklearn.preprocessing import normalize

    label = cases["label"]
    cases = cases.take(np.flatnonzero((label >= 0).reshape(len(label), -1).any(1)))
    label, places, weights = cases["label"], list(cases["places"]), list(cases["weights"])
    ends = np.cumsum([0, *map(len, places)])
    every = np.concatenate(places)
    values = (np.concatenate(weights) * rarity[every]).astype(np.float32)
    x = normalize(csr_matrix((values, every, ends), shape=(len(places), buckets)))
    say("fitting the linear model of terms")
    fitted = baselines.linear_labels(x, label, ridge) if label.ndim == 2 else baselines.linear_classes(x, label, ridge, k)
    # A class without any text is never called, but its logit must not make a loss of its own.
    return {"table": fitted["coef"].T, "bias": np.maximum(fitted["intercept"], NEVER)}


def begin_one_by_one(*starts: Callable[[State, Cases], State] | None) -> Callable[[State, Cases], State] | None:
    """Several `start`s of a Job as one; None for none."""
    given = [start for start in starts if start is not None]

    def start(state: State, cases: Cases) -> State:
        for one in given:
            state = one(state, cases)
        return state

    return start if given else None
