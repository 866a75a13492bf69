"""AUROC on pairs of cases that look alike to a model which knows only the header.

A network that scores high because large scans are sick ones does no better than chance here.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike


def matched_pairs(label: ArrayLike, header_logit: ArrayLike, *, caliper: float = 0.25) -> np.ndarray:
    """Pairs each positive, in the order given, with the nearest negative that is still free.

    Greedy matching without replacement within a caliper on the logit (Rosenbaum & Rubin, The American Statistician 39, 1985;
    Austin, Pharmaceutical Statistics 10, 2011). Of equally near negatives the first is taken. O(n log n).

    Args:
      label: int [n]: 1, 0, or -1 where it is missing.
      header_logit: float [n], log-odds that the header baseline gives; a case where it is not finite stays unpaired.
      caliper: largest difference within a pair, in population standard deviations of `header_logit` over the labelled cases.

    Returns:
      int64 [n]: the number of the pair (0, 1, ... in the order of the positives), -1 where a case has no partner.

    Raises:
      ValueError: the two are not of one length and one dimension.
    """
    label, logit = np.asarray(label), np.asarray(header_logit, np.float64)
    if label.ndim != 1 or logit.shape != label.shape:
        raise ValueError(f"label and header_logit must both be [n], but have shapes {label.shape} and {logit.shape}")
    pair = np.full(len(label), -1, np.int64)
    known = np.isfinite(logit) & (label >= 0)
    positive, negative = np.flatnonzero(known & (label == 1)), np.flatnonzero(known & (label == 0))
    if not len(positive) or not len(negative):
        return pair
    limit = caliper * np.std(logit[known])

    # Negatives of the same logit form a group, given out in the order of their index.
    values, number = np.unique(logit[negative], return_inverse=True)
    members = negative[np.argsort(number, kind="stable")].tolist()
    end = np.cumsum(np.bincount(number)).tolist()
    free = [0, *end[:-1]]
    # Disjoint sets, shifted by one: the nearest group at or below (at or above) that has members left; 0 and k + 1 are walls.
    k = len(values)
    down, up = list(range(k + 2)), list(range(k + 2))
    bounded = [-np.inf, *values.tolist(), np.inf]

    places = np.searchsorted(values, logit[positive], side="left").tolist()
    pairs = 0
    for case, place, at in zip(positive.tolist(), places, logit[positive].tolist(), strict=True):
        below, above = _find(down, place), _find(up, place + 1)
        options = [(abs(bounded[group] - at), members[free[group - 1]], group) for group in (below, above) if 1 <= group <= k]
        if not options or min(options)[0] > limit:
            continue
        _, partner, group = min(options)
        pair[[case, partner]] = pairs
        pairs += 1
        free[group - 1] += 1
        if free[group - 1] == end[group - 1]:
            down[group], up[group] = group - 1, group + 1
    return pair


def _find(parent: list[int], item: int) -> int:
    """Root of the item's set; halves the path on the way."""
    while parent[item] != item:
        parent[item] = parent[parent[item]]
        item = parent[item]
    return item


def auroc_matched(label: ArrayLike, score: ArrayLike, pair: ArrayLike) -> float:
    """Share of the pairs whose positive scores higher than its negative, ties half, 0 to 1.

    It holds for a bootstrap resample as well, in which cases are repeated or missing: a pair counts (copies of its positive)
    x (copies of its negative) times.

    Args:
      label: int [m]; a row with -1 counts for nothing.
      score: float [m], higher for positive.
      pair: int [m], from `matched_pairs` on all cases: one positive and one negative case a number.

    Returns:
      nan without a whole pair, or where a pair's score is NaN.

    Raises:
      ValueError: the three are not of one length and one dimension.
    """
    label, score, pair = np.asarray(label), np.asarray(score, np.float64), np.asarray(pair, np.int64)
    if label.ndim != 1 or not label.shape == score.shape == pair.shape:
        raise ValueError(f"label, score and pair must all be [m], but have shapes {label.shape}, {score.shape}, {pair.shape}")
    size = int(pair.max(initial=-1)) + 1
    copies, scores = np.zeros((2, size)), np.zeros((2, size))
    for side in (0, 1):
        rows = np.flatnonzero((label == side) & (pair >= 0))
        copies[side] = np.bincount(pair[rows], minlength=size)
        scores[side, pair[rows]] = score[rows]  # copies of a case score the same
    weight = copies[0] * copies[1]
    whole = weight > 0
    if not whole.any():
        return float("nan")
    (low, high), weight = scores[:, whole], weight[whole]
    if (np.isnan(low) | np.isnan(high)).any():
        return float("nan")
    return float(np.sum(weight * ((high > low) + 0.5 * (high == low))) / weight.sum())
