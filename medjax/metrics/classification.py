"""All metrics of a classification at once, for two classes or more, and what their names mean."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from medjax.metrics import binary

DEFINITIONS: dict[str, str] = {
    "auroc": "Area under the ROC curve, 0 to 1: the chance that a positive case scores higher than a negative one, ties half; "
    "with several classes (labels) the mean of the one-versus-rest (each label's) values, auroc/CLASS, over those that have "
    "both.",
    "auroc_matched": "Share of matched pairs, 0 to 1, in which the positive case scores higher, ties half: each positive is "
    "paired with the nearest unused negative within 0.25 standard deviations of the header baseline's logit, and cases "
    "without a partner are dropped.",
    "auprc": "Average precision, 0 to 1: the sum of precision times the gain in recall over all thresholds, without "
    "interpolation; with several classes (labels) the mean of the one-versus-rest (each label's) values, auprc/CLASS, over "
    "those that have both.",
    "accuracy": "Share of cases whose decision is right, 0 to 1, over all labelled cases; with several labels the mean of each "
    "label's share.",
    "balanced_accuracy": "Mean over the classes of the share of their cases that are decided right, 0 to 1; with several "
    "classes those without a case are left out; with several labels the mean over the labels of the mean of sensitivity and "
    "specificity.",
    "sensitivity": "Share of positive cases that are called positive, 0 to 1, at the threshold in use; with several classes "
    "(labels) the mean of the one-versus-rest (each label's) values, sensitivity/CLASS, over those that have cases.",
    "specificity": "Share of negative cases that are called negative, 0 to 1, at the threshold in use; with several classes "
    "(labels) the mean of the one-versus-rest (each label's) values, specificity/CLASS, over those that others stand beside.",
    "ppv": "Share of cases called positive that are positive, 0 to 1, at the prevalence of this data; with several classes "
    "(labels) the mean of the one-versus-rest (each label's) values, ppv/CLASS, over those that are predicted.",
    "npv": "Share of cases called negative that are negative, 0 to 1, at the prevalence of this data; with several classes "
    "(labels) the mean of the one-versus-rest (each label's) values, npv/CLASS, over those that are not always predicted.",
    "f1": "Harmonic mean of precision and recall, 2 TP / (2 TP + FP + FN), 0 to 1; with several classes (labels) the mean of "
    "the one-versus-rest (each label's) values, f1/CLASS, over those that are present or predicted.",
    "macro_f1": "The mean of f1/CLASS, 0 to 1, over the classes that are present or predicted.",
    "kappa": "Cohen's kappa with quadratic weights, at most 1: how far the decisions agree with the ordered truth beyond "
    "chance (0), a miss counted by the square of its distance in classes.",
    "log_loss": "Mean negative log-probability of the true class in nats, lower is better, probabilities clipped at 1e-15; "
    "with several labels the mean of each label's own.",
    "brier": "Mean squared difference of probability and truth, lower is better: for two classes of the positive class's "
    "probability, 0 to 1; for several the squares are summed over the classes, 0 to 2; with several labels the mean of each "
    "label's own, 0 to 1.",
    "ece": "Expected calibration error, 0 to 1, lower is better, in 15 equal-width bins: mean distance of predicted "
    "probability and observed share, of the positive class with two classes, of the most probable class with several, and "
    "with several labels the mean of each label's own; its bootstrap interval is biased upward and may miss the value.",
}

_BOTH = "needs a case of the class, a case outside it, and no NaN score"
_REASONS: dict[str, str] = {
    "auroc": _BOTH,
    "auroc_matched": "no positive case has a negative one within the caliper, or a score is NaN",
    "auprc": _BOTH,
    "accuracy": "no labelled case",
    "balanced_accuracy": "no case of one of the classes",
    "sensitivity": "no case of the class",
    "specificity": "no case outside the class",
    "ppv": "the class is never predicted",
    "npv": "the class is always predicted",
    "f1": "the class is neither present nor predicted",
    "macro_f1": "no labelled case",
    "kappa": "no labelled case, or truth and decisions are all of one class",
    "log_loss": "no labelled case, or a score is NaN",
    "brier": "no labelled case, or a score is NaN",
    "ece": "no labelled case, or a score is NaN",
}
BY_CLASS = ("auroc", "auprc", "sensitivity", "specificity", "ppv", "npv", "f1")


def why_undefined(name: str) -> str:
    """Why a metric of this module (NAME or NAME/CLASS) is nan, in words for a report; a general reason for other names."""
    return _REASONS.get(name.split("/")[0], "undefined for these cases")


def confusion(label: ArrayLike, pred: ArrayLike, k: int) -> np.ndarray:
    """Confusion matrix int64 [K, K], rows the truth, columns the decision; rows with a label under 0 are dropped.

    Raises:
      ValueError: shapes differ, or a label or decision is not one of the k classes.
    """
    label, pred = np.asarray(label), np.asarray(pred)
    if label.ndim != 1 or pred.shape != label.shape:
        raise ValueError(f"label and pred must both be [n], but have shapes {label.shape} and {pred.shape}")
    keep = label >= 0
    label, pred = label[keep].astype(np.int64), pred[keep].astype(np.int64)
    if len(label) and (label.max() >= k or pred.max() >= k or pred.min() < 0):
        raise ValueError(f"labels and decisions must be 0 to {k - 1}")
    return np.bincount(label * k + pred, minlength=k * k).reshape(k, k)


def kappa(label: ArrayLike, pred: ArrayLike, k: int, *, power: int = 2) -> float:
    """Cohen's weighted kappa for K classes in order: 1 - sum w_ij o_ij / sum w_ij e_ij, w_ij = |i - j|^power.

    o are the observed counts and e those expected of independent truth and decision with the same margins (Cohen,
    Psychological Bulletin 70, 1968). 1 is full agreement, 0 what chance gives, and it can be below.

    Args:
      label: int [n], -1 where it is missing: the row is dropped.
      pred: int [n], decisions, 0 to K - 1.
      k: classes, in order.
      power: 2 for quadratic weights, 1 for linear ones.

    Returns:
      nan without cases, or where truth and decisions are all of one class.

    Raises:
      ValueError: as `confusion` does.
    """
    return _kappa(confusion(label, pred, k), power)


def _kappa(table: np.ndarray, power: int = 2) -> float:
    k, n = len(table), table.sum()
    weights = np.abs(np.subtract.outer(np.arange(k), np.arange(k))) ** power
    # Both sums times n, in whole numbers.
    expected = np.sum(weights * np.outer(table.sum(axis=1), table.sum(axis=0)))
    return 1 - binary.ratio(n * np.sum(weights * table), expected)


def classification(
    label: ArrayLike, score: ArrayLike, pred: ArrayLike, classes: tuple[str, ...], *, ordinal: bool = False
) -> dict[str, float]:
    """Every metric of a classification.

    Two classes: class 1 is the positive one, and names are plain. More: `auroc auprc sensitivity specificity ppv npv f1` are
    means over the classes where they are defined, one-versus-rest, with NAME/CLASS each, and `macro_f1` repeats `f1`;
    `balanced_accuracy` is the mean sensitivity; `log_loss` and `brier` are multi-class, `ece` is of the top label
    (`DEFINITIONS`).

    Args:
      label: int [n], -1 where it is missing: the row is dropped.
      score: float [n, K], probabilities.
      pred: int [n], decisions, 0 to K - 1.
      classes: the K names.
      ordinal: the classes are in order: add `kappa`.

    Returns:
      {name: float}; nan where a metric is undefined (`why_undefined`).

    Raises:
      ValueError: shapes do not agree, K < 2, or a label or decision is not one of the classes.
    """
    label, score, pred = np.asarray(label), np.asarray(score), np.asarray(pred)
    k = len(classes)
    if k < 2 or label.ndim != 1 or score.shape != (len(label), k):
        raise ValueError(f"score must be [{len(label)}, {k}] for {k} classes (2 or more), but has shape {score.shape}")
    table = confusion(label, pred, k)
    keep = label >= 0
    if not keep.all():
        label, score = label[keep], score[keep]
    score = score.astype(np.float64)
    found = _two(label, score[:, 1], table) if k == 2 else _several(label, score, table, classes)
    return {**found, "kappa": _kappa(table)} if ordinal else found


def _one_vs_rest(table: np.ndarray, c: int) -> binary.Counts:
    tp, positive, predicted = int(table[c, c]), int(table[c].sum()), int(table[:, c].sum())
    return binary.Counts(tp, predicted - tp, positive - tp, int(table.sum()) - positive - predicted + tp)


def _two(label: np.ndarray, score: np.ndarray, table: np.ndarray) -> dict[str, float]:
    auroc, auprc = binary.ranking(label, score)
    rates = binary.rates(_one_vs_rest(table, 1))
    return {
        "auroc": auroc,
        "auprc": auprc,
        "accuracy": binary.ratio(np.trace(table), table.sum()),
        "balanced_accuracy": (rates["sensitivity"] + rates["specificity"]) / 2,
        **rates,
        "log_loss": binary.log_loss(label, score),
        "brier": binary.brier(label, score),
        "ece": binary.ece(label, score),
    }


def _several(label: np.ndarray, score: np.ndarray, table: np.ndarray, classes: tuple[str, ...]) -> dict[str, float]:
    n = len(label)
    each: list[dict[str, float]] = []
    # One class's NaN must not lift the mean of the others.
    columns = np.ascontiguousarray(np.full_like(score, np.nan).T if np.isnan(score).any() else score.T)
    for c, column in enumerate(columns):
        auroc, auprc = binary.ranking((label == c).astype(np.int8), column)
        each.append({"auroc": auroc, "auprc": auprc, **binary.rates(_one_vs_rest(table, c))})
    macro = {name: mean_of_defined([values[name] for values in each]) for name in BY_CLASS}

    given = score[np.arange(n), label]
    # Sum over classes of (p_c - [c is the truth])^2, without building the one-hot table.
    squares = np.einsum("nk,nk->n", score, score) - 2 * given + 1
    top = score.argmax(axis=1)
    return {
        "auroc": macro["auroc"],
        "auprc": macro["auprc"],
        "accuracy": binary.ratio(np.trace(table), table.sum()),
        "balanced_accuracy": macro["sensitivity"],
        **{name: macro[name] for name in BY_CLASS[2:]},
        "macro_f1": macro["f1"],
        "log_loss": binary.ratio(-np.log(np.clip(given, binary.PROBABILITY_FLOOR, 1.0)).sum(), n),
        "brier": binary.ratio(squares.sum(), n),
        "ece": binary.ece((top == label).astype(np.int8), score[np.arange(n), top]),
        **{f"{name}/{label_name}": values[name] for name in BY_CLASS for label_name, values in zip(classes, each, strict=True)},
    }


def mean_of_defined(values: list[float]) -> float:
    """The mean of the values that are not nan; nan without any."""
    defined = [value for value in values if not np.isnan(value)]
    return binary.ratio(sum(defined), len(defined))
