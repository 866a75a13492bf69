"""AUROC and its differences without resampling: DeLong's test and interval, for independent cases.

DeLong, DeLong & Clarke-Pearson, Biometrics 44, 1988, with the placements found by sorting as in Sun & Xu, IEEE Signal
Processing Letters 21, 2014. Cases of one patient are not independent, and these standard errors are then too small: use
`medjax.metrics.paired_bootstrap` over patients.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from medjax.metrics.binary import labelled

Z95 = 1.959963984540054  # the normal distribution's 97.5 % point


def delong(label: ArrayLike, score_a: ArrayLike, score_b: ArrayLike) -> tuple[float, float, float]:
    """Whether two scores of the same independent cases differ in AUROC.

    Args:
      label: int [n]: 1, 0, or -1 where it is missing.
      score_a: float [n], higher for positive.
      score_b: float [n], likewise.

    Returns:
      AUROC of a minus AUROC of b, its standard error, and the two-sided p of no difference. All nan with fewer than two cases
      of a class or a NaN score. Scores that place every case alike have p = 1; where the standard error is 0 and the AUROCs
      still differ (one score without an error, the other without a hit), p is nan.

    Raises:
      ValueError: shapes differ, or a label is over 1.
    """
    a, b = _placements(label, score_a), _placements(label, score_b)
    if a is None or b is None:
        return float("nan"), float("nan"), float("nan")
    difference, error = _estimate([of_a - of_b for of_a, of_b in zip(a, b, strict=True)])
    if error == 0:
        return difference, error, 1.0 if difference == 0 else float("nan")
    return difference, error, math.erfc(abs(difference) / error / math.sqrt(2))


def delong_interval(label: ArrayLike, score: ArrayLike) -> list[float] | None:
    """The 95 % interval [lo, hi] of the AUROC over independent cases, by the normal approximation, cut at 0 and 1.

    None with fewer than two cases of a class, with a NaN score, or where the standard error is 0, as it is for an AUROC of 1.

    Args:
      label: int [n]: 1, 0, or -1 where it is missing.
      score: float [n], higher for positive.
    """
    placements = _placements(label, score)
    if placements is None:
        return None
    auroc, error = _estimate(placements)
    return [max(auroc - Z95 * error, 0.0), min(auroc + Z95 * error, 1.0)] if error > 0 else None


def _placements(label: ArrayLike, score: ArrayLike) -> list[np.ndarray] | None:
    """For each positive the negatives that score lower, for each negative the positives that score higher; int64.

    Twice their number, ties counted once, so that all stays whole and equal placements are equal exactly.
    """
    label, score = labelled(label, score)
    score = score.astype(np.float64)
    positive, negative = score[label == 1], score[label == 0]
    if min(len(positive), len(negative)) < 2 or np.isnan(score).any():
        return None
    ranked_positive, ranked_negative = np.sort(positive), np.sort(negative)
    below = sum(np.searchsorted(ranked_negative, positive, side=side) for side in ("left", "right"))
    not_above = sum(np.searchsorted(ranked_positive, negative, side=side) for side in ("left", "right"))
    return [np.asarray(below), 2 * len(positive) - np.asarray(not_above)]


def _estimate(placements: list[np.ndarray]) -> tuple[float, float]:
    """(AUROC, standard error) of placements, or of the differences of two scores' placements.

    The variance is s10 / m + s01 / n (DeLong's equations 5 to 7); linear in the components, it holds for a contrast as it is.
    """
    of_positive, of_negative = placements
    m, n = len(of_positive), len(of_negative)
    variance = np.var(of_positive / (2 * n), ddof=1) / m + np.var(of_negative / (2 * m), ddof=1) / n
    return float(of_positive.mean() / (2 * n)), float(np.sqrt(variance))
