"""Metrics and curves of a yes-or-no question, in float64.

Everywhere: `label` int [n] is 1 (positive), 0 (negative) or -1 (missing: the row is dropped). `score` float [n] is higher for
positive; `log_loss`, `brier`, `ece` and `reliability` need it to be a probability. `pred` int or bool [n] is the decision.
A metric that is undefined for these cases is nan, and so is any metric of scores that hold a NaN: a model that gives none
must not be ranked as if it had. Shapes that differ or labels over 1 raise ValueError.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from medjax.metrics.bootstrap import band

PROBABILITY_FLOOR = 1e-15


class Counts(NamedTuple):
    """Cases by truth and decision: true positives, false positives, false negatives, true negatives."""

    tp: int
    fp: int
    fn: int
    tn: int


def labelled(label: ArrayLike, values: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """`label` and `values` (both [n]) without the rows whose label is missing.

    Raises:
      ValueError: the two are not of one length and one dimension, or a label is over 1.
    """
    label, values = np.asarray(label), np.asarray(values)
    if label.ndim != 1 or values.shape != label.shape:
        raise ValueError(f"label and values must both be [n], but have shapes {label.shape} and {values.shape}")
    keep = label >= 0
    if not keep.all():
        label, values = label[keep], values[keep]
    if len(label) and label.max() > 1:
        raise ValueError(f"a binary label is 0, 1 or -1 (missing), not {label.max()}")
    return label, values


def ratio(part: float, whole: float) -> float:
    """`part / whole`, nan where `whole` is 0."""
    return float(part / whole) if whole else float("nan")


def ranking(label: ArrayLike, score: ArrayLike) -> tuple[float, float]:
    """`auroc` and `auprc` from one sorting; both nan where a class is missing.

    auroc is the Mann-Whitney statistic U / (P N) (Hanley & McNeil, Radiology 143, 1982): for each positive, the negatives
    that score lower and half of those that score the same. auprc is average precision, sum over thresholds of
    (R_k - R_{k-1}) P_k, which is the mean over the positives of the precision at their own score.
    """
    label, score = labelled(label, score)
    score = score.astype(np.float64)
    positive, negative = np.sort(score[label == 1]), np.sort(score[label == 0])
    if not len(positive) or not len(negative) or np.isnan(positive[-1]) or np.isnan(negative[-1]):
        return float("nan"), float("nan")
    below = np.searchsorted(negative, positive, side="left")
    not_above = np.searchsorted(negative, positive, side="right")
    tp = len(positive) - np.searchsorted(positive, positive, side="left")
    fp = len(negative) - below
    u = (below.sum() + not_above.sum()) / 2
    return float(u / (len(positive) * len(negative))), float(np.mean(tp / (tp + fp)))


def auroc(label: ArrayLike, score: ArrayLike) -> float:
    """Area under the ROC curve, 0 to 1: the chance that a positive scores higher than a negative, ties half (see `ranking`).

    nan with one class only.
    """
    return ranking(label, score)[0]


def auprc(label: ArrayLike, score: ArrayLike) -> float:
    """Average precision, 0 to 1, not interpolated; the prevalence is its value by chance (see `ranking`).

    nan with one class only.
    """
    return ranking(label, score)[1]


def log_loss(label: ArrayLike, score: ArrayLike) -> float:
    """Mean negative log-likelihood in nats, 0 to 34.5: probabilities are clipped to [1e-15, 1 - 1e-15]. nan without cases."""
    label, score = labelled(label, score)
    score = score.astype(np.float64)
    given = np.where(label == 1, score, 1 - score)
    return ratio(-np.log(np.clip(given, PROBABILITY_FLOOR, 1 - PROBABILITY_FLOOR)).sum(), len(label))


def brier(label: ArrayLike, score: ArrayLike) -> float:
    """Mean squared difference of probability and label, 0 to 1 (Brier, Monthly Weather Review 78, 1950). nan without cases."""
    label, score = labelled(label, score)
    return ratio(np.square(score.astype(np.float64) - label).sum(), len(label))


def _bins(score: np.ndarray, bins: int) -> np.ndarray:
    """Number [n] of the equal-width bin of [0, 1] that holds each score; a bin holds its lower edge, the last one both."""
    return np.clip(score * bins, 0, bins - 1).astype(np.int64)


def ece(label: ArrayLike, score: ArrayLike, *, bins: int = 15) -> float:
    """Expected calibration error of P(positive), 0 to 1: sum over bins of n_b / n |mean score - share of positives|.

    Guo et al., ICML 2017 (equation 3), with equal-width bins. Its bootstrap is biased upward. nan without cases.
    """
    label, score = labelled(label, score)
    score = score.astype(np.float64)
    if np.isnan(score).any():
        return float("nan")
    # n_b |mean - mean| is the absolute sum of differences in the bin.
    return ratio(np.abs(np.bincount(_bins(score, bins), weights=score - label, minlength=bins)).sum(), len(label))


def count(label: ArrayLike, pred: ArrayLike) -> Counts:
    """`Counts` of labels and decisions, missing labels dropped.

    Raises:
      ValueError: a decision is neither 0 nor 1.
    """
    label, pred = labelled(label, pred)
    yes = pred == 1
    if not np.all(yes | (pred == 0)):
        raise ValueError("a binary decision is 0 or 1")
    tp, predicted, positive = int(np.sum(yes & (label == 1))), int(yes.sum()), int(np.sum(label == 1))
    fp, fn = predicted - tp, positive - tp
    return Counts(tp, fp, fn, len(label) - tp - fp - fn)


def rates(c: Counts) -> dict[str, float]:
    """sensitivity, specificity, ppv, npv and f1 of the counts, each nan where its denominator is 0."""
    return {
        "sensitivity": ratio(c.tp, c.tp + c.fn),
        "specificity": ratio(c.tn, c.tn + c.fp),
        "ppv": ratio(c.tp, c.tp + c.fp),
        "npv": ratio(c.tn, c.tn + c.fn),
        "f1": ratio(2 * c.tp, 2 * c.tp + c.fp + c.fn),
    }


def accuracy(label: ArrayLike, pred: ArrayLike) -> float:
    """Share of right decisions, 0 to 1; nan without cases."""
    c = count(label, pred)
    return ratio(c.tp + c.tn, sum(c))


def balanced_accuracy(label: ArrayLike, pred: ArrayLike) -> float:
    """Mean of sensitivity and specificity, 0 to 1; nan with one class only."""
    found = rates(count(label, pred))
    return (found["sensitivity"] + found["specificity"]) / 2


def sensitivity(label: ArrayLike, pred: ArrayLike) -> float:
    """Share of the positives that are called positive (recall), 0 to 1; nan without positives."""
    return rates(count(label, pred))["sensitivity"]


def specificity(label: ArrayLike, pred: ArrayLike) -> float:
    """Share of the negatives that are called negative, 0 to 1; nan without negatives."""
    return rates(count(label, pred))["specificity"]


def ppv(label: ArrayLike, pred: ArrayLike) -> float:
    """Positive predictive value (precision), 0 to 1; nan where nothing is called positive."""
    return rates(count(label, pred))["ppv"]


def npv(label: ArrayLike, pred: ArrayLike) -> float:
    """Negative predictive value, 0 to 1; nan where nothing is called negative."""
    return rates(count(label, pred))["npv"]


def f1(label: ArrayLike, pred: ArrayLike) -> float:
    """2 TP / (2 TP + FP + FN), 0 to 1: 0 where no positive is found, nan where there is none in truth or decision."""
    return rates(count(label, pred))["f1"]


def _steps(label: np.ndarray, step: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """False and true positives, int64 [size + 1], as the threshold goes down over the `size` scores that `step` numbers."""
    fp, tp = (np.bincount(step[label == side], minlength=size)[::-1].cumsum() for side in (0, 1))
    return np.concatenate([[0], fp]), np.concatenate([[0], tp])


def _share(steps: np.ndarray) -> np.ndarray:
    return steps / steps[-1] if steps[-1] else np.full(len(steps), np.nan)


def roc_curve(label: ArrayLike, score: ArrayLike) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The ROC curve at every distinct score.

    Returns:
      false positive rate, sensitivity and threshold (on `score >= t`), float64 [k + 1] each for k distinct scores, from (0, 0)
      with threshold inf to (1, 1). A rate without cases of its class is nan throughout; three empty arrays for scores with NaN.
    """
    label, score = labelled(label, score)
    if np.isnan(score).any():
        return np.empty(0), np.empty(0), np.empty(0)
    values, step = np.unique(score.astype(np.float64), return_inverse=True)
    fp, tp = _steps(label, step, len(values))
    return _share(fp), _share(tp), np.concatenate([[np.inf], values[::-1]])


def roc_band(
    label: ArrayLike,
    score: ArrayLike,
    clusters: ArrayLike,
    *,
    grid: ArrayLike,
    resamples: int = 1000,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Pointwise 95 % band of the sensitivity at given false positive rates, by the clustered bootstrap.

    Between its points the curve is linear; where it is vertical, its upper end counts.

    Args:
      label: int [n].
      score: float [n].
      clusters: [n] of any dtype: rows of one cluster are drawn together.
      grid: float [k], false positive rates, 0 to 1.
      resamples: bootstrap resamples.
      seed: of the resamples.

    Returns:
      lower and upper end, float64 [k]; nan where `bootstrap` would give no interval.
    """
    label, score, clusters, grid = np.asarray(label), np.asarray(score), np.asarray(clusters), np.asarray(grid)
    clusters = clusters[label >= 0]
    label, score = labelled(label, score)
    if not len(label) or np.isnan(score).any():
        return np.full(grid.shape, np.nan), np.full(grid.shape, np.nan)
    # The order of the scores is the same in every resample: sort once, then only count.
    values, step = np.unique(score.astype(np.float64), return_inverse=True)

    def curve(index: np.ndarray) -> np.ndarray:
        fpr, tpr = (_share(steps) for steps in _steps(label[index], step[index], len(values)))
        return np.full(grid.shape, np.nan) if np.isnan(fpr[0]) else np.interp(grid, fpr, tpr)

    return band(curve, clusters, resamples=resamples, seed=seed)


def reliability(label: ArrayLike, score: ArrayLike, *, bins: int = 10) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The reliability diagram: mean score, observed rate (float64 [b]) and count (int [b]) of the bins that hold cases.

    Equal-width bins of [0, 1] as in `ece`. Scores that hold a NaN give no bins.
    """
    label, score = labelled(label, score)
    score = score.astype(np.float64)
    if np.isnan(score).any():
        return np.empty(0), np.empty(0), np.empty(0, np.int64)
    place = _bins(score, bins)
    n = np.bincount(place, minlength=bins)
    sums = [np.bincount(place, weights=column, minlength=bins)[n > 0] for column in (score, label)]
    n = n[n > 0]
    return sums[0] / n, sums[1] / n, n


def youden_threshold(label: ArrayLike, score: ArrayLike) -> float:
    """The threshold t (on `score >= t`) with the largest J = sensitivity + specificity - 1 (Youden, Cancer 3, 1950).

    J is flat between neighbouring scores: the middle of the widest stretch with the largest J is taken (the lowest of equally
    wide ones), so that new cases near it fall as the old ones did. Where no threshold has J > 0, as with one class only or
    a score that tells nothing, it is 0.5.
    """
    label, score = labelled(label, score)
    if np.isnan(score).any():
        return 0.5
    values, step = np.unique(score.astype(np.float64), return_inverse=True)
    fp, tp = _steps(label, step, len(values))
    # In whole numbers, J P N, since equal values of J must compare as equal.
    j = (tp * fp[-1] - fp * tp[-1])[1:]
    if not len(j) or j.max() <= 0:
        return 0.5
    value = values[::-1]
    # j[i] holds on (value[i + 1], value[i]]; the last one, down to minus infinity, is 0 and so never the best.
    best = np.concatenate([[False], j == j.max(), [False]])
    first, after = np.flatnonzero(best[1:] & ~best[:-1]), np.flatnonzero(best[:-1] & ~best[1:])
    high, low = value[first], value[after]
    widest = len(high) - 1 - int(np.argmax((high - low)[::-1]))
    return _between(low[widest], high[widest])


def _between(low: float, high: float) -> float:
    """The middle of (low, high]; `high` where the two are neighbouring floats, which have none."""
    middle = low + (high - low) / 2
    return float(middle if middle > low else high)


def threshold_at(
    label: ArrayLike, score: ArrayLike, *, specificity: float | None = None, sensitivity: float | None = None
) -> float:
    """The threshold t (on `score >= t`) that keeps one rate and has the best of the other.

    With `specificity`, the highest sensitivity among the thresholds whose specificity is at least that; among equal ones, the
    highest specificity. With `sensitivity`, the other way round. Both rates are the same from one score to the next: the middle
    between the two is taken. Where only calling no case positive will do, t is the next float above the highest score; where
    only calling every case positive will do, t is the lowest score.

    Args:
      label: int [n]: 1, 0, or -1 where it is missing.
      score: float [n], higher for positive.
      specificity: the specificity to keep, 0 to 1.
      sensitivity: the sensitivity to keep, 0 to 1; give one of the two.

    Returns:
      0.5 with one class only or a NaN score.

    Raises:
      ValueError: none or both of the two rates are given, or it is not between 0 and 1; shapes differ, or a label is over 1.
    """
    given = [rate for rate in (specificity, sensitivity) if rate is not None]
    if len(given) != 1 or not 0 <= given[0] <= 1:
        raise ValueError(f"give a specificity or a sensitivity of 0 to 1, not {specificity} and {sensitivity}")
    label, score = labelled(label, score)
    if np.isnan(score).any():
        return 0.5
    values, step = np.unique(score.astype(np.float64), return_inverse=True)
    fp, tp = _steps(label, step, len(values))
    if not fp[-1] or not tp[-1]:
        return 0.5
    # From the whole counts: 9 / 10 is the float 0.9, and 1 - 1 / 10 need not be.
    if specificity is not None:
        kept = np.flatnonzero((fp[-1] - fp) / fp[-1] >= specificity)
        best = kept[np.argmax(tp[kept])]  # the first of equal ones has the fewest false positives
    else:
        kept = np.flatnonzero(tp / tp[-1] >= given[0])
        best = kept[len(kept) - 1 - np.argmin(fp[kept][::-1])]  # the last of equal ones has the most true positives
    value = values[::-1]
    # Step i > 0 holds on (value[i], value[i - 1]].
    if best == 0:
        return float(np.nextafter(value[0], np.inf))
    return float(value[-1]) if best == len(value) else _between(value[best], value[best - 1])


def predictive_values(sensitivity: float, specificity: float, prevalence: float) -> tuple[float, float]:
    """(ppv, npv) of a test with these rates where so large a share of the cases is positive, by Bayes' theorem.

    ppv = se p / (se p + (1 - sp)(1 - p)), npv = sp (1 - p) / (sp (1 - p) + (1 - se) p); nan where nothing is called positive
    (negative), or a rate is nan.

    Args:
      sensitivity: 0 to 1.
      specificity: 0 to 1.
      prevalence: 0 to 1.

    Raises:
      ValueError: one of them is outside 0 to 1.
    """
    if any(value < 0 or value > 1 for value in (sensitivity, specificity, prevalence)):
        raise ValueError(f"rates and prevalence are 0 to 1, not {sensitivity}, {specificity}, {prevalence}")
    tp, fn = sensitivity * prevalence, (1 - sensitivity) * prevalence
    tn, fp = specificity * (1 - prevalence), (1 - specificity) * (1 - prevalence)
    return ratio(tp, tp + fp), ratio(tn, tn + fn)
