"""Which training cases are drawn, as a function of (seed, step), and the weights of classes in a loss."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np

from medjax.cases import Cases
from medjax.errors import InputError

Draw = Callable[[np.ndarray, int], np.ndarray]


def make_draw(cases: Cases, *, seed: int, sampling: str) -> Draw:
    """draw(positions [n] in the endless row of examples, step) -> int [n], rows of the cases.

    Args:
      cases: with `label` and `group` for "groups", and `label` for "classes".
      seed: of the order.
      sampling: "cases" shuffles all cases anew each epoch; "groups" draws a group, then one of its cases, so that a picture
        copied fifty times weighs as much as one seen once, and each class keeps its share of the cases; "classes" draws each
        class equally often and shuffles its cases anew each time it has been through. A multi-label case stands under the
        rarest of its positive classes, and cases without any under a class of their own. Cases without a label are left out
        of "classes".

    Raises:
      InputError: "classes" without a labelled case, or with labels that are no classes.
    """
    if sampling == "groups":
        return _by_group(cases, seed)
    if sampling == "classes":
        return _by_class(cases["label"], seed)
    return _by_epoch(len(cases), seed)


def rarest_class(label: np.ndarray) -> np.ndarray:
    """The class that each case counts under, int [n]: -1 where no label is known.

    Args:
      label: int [n], or [n, K] of 1, 0 and -1 (missing): then the rarest of a case's positive classes, K where it has none.
    """
    if label.ndim == 1:
        return label
    positive = label == 1
    order = np.argsort(positive.sum(0), kind="stable")
    first = order[positive[:, order].argmax(1)]
    return np.where(positive.any(1), first, np.where((label >= 0).any(1), label.shape[1], -1))


def _by_epoch(n: int, *entropy: int) -> Draw:
    @functools.lru_cache(maxsize=2)
    def order(epoch: int) -> np.ndarray:
        return np.random.default_rng([*entropy, epoch]).permutation(n)

    def draw(positions: np.ndarray, step: int) -> np.ndarray:
        epochs = positions // n
        return np.concatenate([order(int(epoch))[positions[epochs == epoch] % n] for epoch in np.unique(epochs)])

    return draw


def _by_group(cases: Cases, seed: int) -> Draw:
    label, group = cases["label"], cases["group"]
    stratum = rarest_class(label) if label.dtype.kind in "iu" else np.zeros(len(cases), int)
    weight = np.zeros(len(cases))
    for value in np.unique(stratum):
        mine = stratum == value
        _, inverse, counts = np.unique(group[mine], return_inverse=True, return_counts=True)
        weight[mine] = mine.mean() / (len(counts) * counts[inverse])
    upto = np.cumsum(weight) / weight.sum()

    def draw(positions: np.ndarray, step: int) -> np.ndarray:
        u = np.random.default_rng([seed, step]).random(len(positions))
        return np.minimum(np.searchsorted(upto, u, side="right"), len(upto) - 1)

    return draw


def _by_class(label: np.ndarray, seed: int) -> Draw:
    if label.dtype.kind not in "iu":
        raise InputError("--data.sampling classes: the labels are numbers, not classes\ntake cases or groups", usage=True)
    stratum = rarest_class(label)
    members = [np.flatnonzero(stratum == value) for value in np.unique(stratum[stratum >= 0])]
    if not members:
        raise InputError("--data.sampling classes: no training case has a label\ntake cases or groups", usage=True)
    within = [_by_epoch(len(rows), seed, k + 1) for k, rows in enumerate(members)]

    def draw(positions: np.ndarray, step: int) -> np.ndarray:
        # The classes take turns; then the batch is shuffled, since neighbours are paired by mixup.
        turn, rounds = positions % len(members), positions // len(members)
        rows = np.empty(len(positions), int)
        for k, mine in enumerate(members):
            if (turn == k).any():
                rows[turn == k] = mine[within[k](rounds[turn == k], step)]
        return np.random.default_rng([seed, 0, step]).permutation(rows)

    return draw


def class_weights(label: np.ndarray, k: int, kind: str = "balanced", *, cap: float = 100.0) -> np.ndarray:
    """Weights [k] of classes for a loss, from the labels of the training cases.

    Args:
      label: int [n] of 0 to k - 1, or [n, k] of 1 and 0; -1 is missing and does not count.
      k: number of classes.
      kind: "balanced", or "none" for ones.
      cap: greatest weight of a multi-label class.

    Returns:
      float64 [k]. For classes, n / (classes present * cases of the class) as scikit-learn has it (King and Zeng, Political
      Analysis 2001), which is 1 on the average over the cases, and 0 for a class without cases. For multi-label, the weight of
      a positive beside a negative: negatives / positives, at most `cap`, and 1 for a class where nothing is known.

    Raises:
      InputError: another kind, or labels outside 0 to k - 1.
    """
    if kind not in ("balanced", "none"):
        raise InputError(f"class weights {kind!r} are not one of balanced, none", usage=True)
    if kind == "none":
        return np.ones(k)
    label = np.asarray(label)
    if label.ndim == 2:
        positives, negatives = (label == 1).sum(0), (label == 0).sum(0)
        weight = np.minimum(negatives / np.maximum(positives, 1e-12), cap)
        return np.where(positives + negatives > 0, weight, 1.0)
    known = label[label >= 0]
    if known.size and known.max() >= k:
        raise InputError(f"the label {known.max()} is outside 0 to {k - 1}\nmend it, or give -1 where it is missing")
    counts = np.bincount(known, minlength=k)
    return np.where(counts > 0, known.size / np.maximum((counts > 0).sum() * counts, 1), 0.0)
