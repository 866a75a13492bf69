"""All metrics of several yes-or-no labels at once, each over the cases whose label is known."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from medjax.metrics import binary
from medjax.metrics.classification import BY_CLASS, mean_of_defined


def multilabel(label: ArrayLike, score: ArrayLike, pred: ArrayLike, classes: tuple[str, ...]) -> dict[str, float]:
    """Every metric of a multi-label classification.

    Each label is a yes-or-no question over the cases where it is known. All metrics are means over the labels where they are
    defined; `auroc auprc sensitivity specificity ppv npv f1` come with NAME/CLASS each, and `macro_f1` repeats `f1`
    (`DEFINITIONS`).

    Args:
      label: int [n, K]: 1, 0, or -1 where it is missing.
      score: float [n, K], probabilities of each label by itself.
      pred: int or bool [n, K], decisions.
      classes: the K names.

    Returns:
      {name: float}; nan where a metric is undefined (`why_undefined`). A NaN score of a known label makes every metric of
      scores nan: one label's must not lift the mean of the others.

    Raises:
      ValueError: shapes do not agree, a label is over 1, or a decision on a known label is neither 0 nor 1.
    """
    label, score, pred = np.asarray(label), np.asarray(score), np.asarray(pred)
    if label.ndim != 2 or label.shape[1] != len(classes) or not label.shape == score.shape == pred.shape:
        raise ValueError(
            f"label, score and pred must all be [n, {len(classes)}], but have shapes {label.shape}, {score.shape}, {pred.shape}"
        )
    if np.isnan(score[label >= 0]).any():
        score = np.full(score.shape, np.nan)
    columns = zip(*(np.ascontiguousarray(x.T) for x in (label, score.astype(np.float64), pred)), strict=True)
    each = [_one(*column) for column in columns]
    macro = {name: mean_of_defined([values[name] for values in each]) for name in (each[0] if each else BY_CLASS)}
    return {
        **macro,
        "macro_f1": macro["f1"],
        **{f"{name}/{of}": values[name] for name in BY_CLASS for of, values in zip(classes, each, strict=True)},
    }


def _one(label: np.ndarray, score: np.ndarray, pred: np.ndarray) -> dict[str, float]:
    """The metrics of one label over the rows where it is known."""
    known = label >= 0
    if not known.all():
        label, score, pred = label[known], score[known], pred[known]
    auroc, auprc = binary.ranking(label, score)
    counts = binary.count(label, pred)
    rates = binary.rates(counts)
    return {
        "auroc": auroc,
        "auprc": auprc,
        "accuracy": binary.ratio(counts.tp + counts.tn, len(label)),
        "balanced_accuracy": (rates["sensitivity"] + rates["specificity"]) / 2,
        **rates,
        "log_loss": binary.log_loss(label, score),
        "brier": binary.brier(label, score),
        "ece": binary.ece(label, score),
    }
