"""Metrics of risks: precision and sensitivity together, order of survival times, net benefit, and when an alarm comes.

Labels, scores and what is undefined are as in `medjax.metrics.binary`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from medjax.metrics import binary

RISK_DEFINITIONS: dict[str, str] = {
    "min_se_pp": "The largest value, over all thresholds, of the smaller one of sensitivity and positive predictive value, 0 "
    "to 1: the score of the PhysioNet Challenge 2012, event 1.",
    "c_index": "Harrell's concordance, 0 to 1: of the pairs whose order of event times is known, the share in which the one "
    "with the earlier event has the higher risk, ties of risk half; 0.5 is chance.",
    "mad": "Mean absolute distance, in classes, of decision and truth; lower is better.",
    "kappa_linear": "Cohen's kappa with linear weights, at most 1: how far the decisions agree with the ordered truth beyond "
    "chance (0), a miss counted by its distance in classes.",
    "alarmed": "Share of the records with an event that are given an alarm, a risk at or above the threshold, at one of their "
    "questions at least, 0 to 1.",
    "false_alarmed": "Share of the records without an event that are given an alarm at one of their questions at least.",
    "alarm_lead_h": "Of the records with an event and an alarm: the median of the hours from the first alarm to the last "
    "question.",
}


def min_se_pp(label: ArrayLike, score: ArrayLike) -> float:
    """max over thresholds t of min(sensitivity, positive predictive value) of `score >= t` (Silva et al., Computing in
    Cardiology 39, 2012, event 1). nan without positives or with a NaN score.
    """
    label, score = binary.labelled(label, score)
    score = score.astype(np.float64)
    positives = int((label == 1).sum())
    if not positives or np.isnan(score).any():
        return float("nan")
    order = np.argsort(-score, kind="stable")
    ranked = score[order]
    last = np.append(ranked[1:] != ranked[:-1], True)  # of equal scores, a threshold takes all
    tp, called = np.cumsum(label[order] == 1)[last], np.flatnonzero(last) + 1
    # min(tp / P, tp / called)
    return float((tp / np.maximum(called, positives)).max())


def c_index(time: ArrayLike, event: ArrayLike, risk: ArrayLike) -> float:
    """Harrell's concordance index (Harrell et al., Statistics in Medicine 15, 1996).

    A pair is comparable where the earlier time is an event's, or where of two equal times one is an event's and the other is
    not, which is then the later. Ties of risk count half.

    Args:
      time: float [n], of the event or of the end of follow-up; NaN: the row is dropped.
      event: int [n], 1 where the event was seen, 0 where it was not, -1 missing: the row is dropped.
      risk: float [n], higher for an earlier event.

    Returns:
      nan without a comparable pair, or with a NaN risk.
    """
    t, seen, score = np.asarray(time, np.float64), np.asarray(event), np.asarray(risk, np.float64)
    if not t.shape == seen.shape == score.shape or t.ndim != 1:
        raise ValueError(f"time, event and risk must all be [n], but have shapes {t.shape}, {seen.shape}, {score.shape}")
    keep = (seen >= 0) & np.isfinite(t)
    if np.isnan(score[keep]).any():
        return float("nan")
    t, came, score = t[keep], seen[keep] == 1, score[keep]
    order = np.lexsort((~came, t))
    t, came = t[order], came[order]
    rank = np.unique(score[order], return_inverse=True)[1]
    below, ties = _later(rank, came)
    pairs = int((len(t) - 1 - np.arange(len(t)))[came].sum())
    # Two events at one time have no order: they were counted as pairs, and are taken out again.
    _, starts, sizes = np.unique(t[came], return_index=True, return_counts=True)
    for start, size in zip(starts[sizes > 1], sizes[sizes > 1]):
        lower, same = _later(rank[came][start : start + size], np.ones(size, bool))
        below, ties, pairs = below - lower, ties - same, pairs - size * (size - 1) // 2
    return binary.ratio(below + 0.5 * ties, pairs)


def _later(rank: np.ndarray, event: np.ndarray) -> tuple[int, int]:
    """Pairs i < j with event i: (how many have rank j under rank i, how many the same), by merging blocks."""
    n, below, ties = len(rank), 0, 0
    apart = int(rank.max(initial=0)) + 1
    place, size = np.arange(n), 1
    while size < n:
        block = place // size
        left, right = block % 2 == 0, block % 2 == 1
        # The blocks of a pair share a number, so that one search serves all pairs.
        key = (block // 2) * apart + rank
        behind = np.sort(key[right])
        asked = key[left & event]
        floor = np.searchsorted(behind, (asked // apart) * apart)
        low, high = np.searchsorted(behind, asked, "left"), np.searchsorted(behind, asked, "right")
        below, ties, size = below + int((low - floor).sum()), ties + int((high - low).sum()), 2 * size
    return below, ties


def net_benefit(label: ArrayLike, score: ArrayLike, threshold: ArrayLike) -> np.ndarray:
    """Net benefit TP / n - FP / n * t / (1 - t) of treating whoever has `score >= t` (Vickers & Elkin, Medical Decision Making
    26, 2006).

    Args:
      label, score: [n]; score is a probability.
      threshold: t [k], 0 <= t < 1: the risk from which treating is worth it.

    Returns:
      float64 [k]; nan without cases or with a NaN score. Treating all is the score 1; treating none is 0.
    """
    label, score = binary.labelled(label, score)
    threshold = np.asarray(threshold, np.float64)
    if not len(label) or np.isnan(score).any():
        return np.full(threshold.shape, np.nan)
    positive, negative = np.sort(score[label == 1]), np.sort(score[label == 0])
    tp = len(positive) - np.searchsorted(positive, threshold)
    fp = len(negative) - np.searchsorted(negative, threshold)
    return (tp - fp * threshold / (1 - threshold)) / len(label)


class Alarms(NamedTuple):
    """What alarms a record is given.

    Attributes:
      event: bool [n], whether any of the record's answers is yes.
      alarm: bool [n], whether any risk of its questions is at or above the threshold.
      first: float [n], hours of the first alarm; NaN without one.
      lead: float [n], hours from the first alarm to the record's last question; NaN without one.
    """

    event: np.ndarray
    alarm: np.ndarray
    first: np.ndarray
    lead: np.ndarray


def time_to_alarm(record: ArrayLike, time: ArrayLike, label: ArrayLike, alarm: ArrayLike) -> Alarms:
    """When each record's first alarm comes.

    Args:
      record: int [m], which record a question belongs to; records are taken in ascending order.
      time: float [m], hours of the question.
      label: int [m], 1, 0 or -1 (missing: the question is dropped).
      alarm: bool [m].
    """
    keep = np.asarray(label) >= 0
    names, of = np.unique(np.asarray(record)[keep], return_inverse=True)
    hours, yes, given = np.asarray(time, np.float64)[keep], np.asarray(label)[keep] == 1, np.asarray(alarm, bool)[keep]
    some, any_alarm = np.zeros((2, len(names)), bool)
    np.logical_or.at(some, of, yes)
    np.logical_or.at(any_alarm, of, given)
    first, last = np.full((2, len(names)), np.nan)
    np.fmin.at(first, of[given], hours[given])
    np.fmax.at(last, of, hours)
    return Alarms(some, any_alarm, first, last - first)


def alarm_metrics(record: ArrayLike, time: ArrayLike, label: ArrayLike, alarm: ArrayLike) -> dict[str, float]:
    """`alarmed`, `false_alarmed` and `alarm_lead_h` (`RISK_DEFINITIONS`); arguments as of `time_to_alarm`."""
    found = time_to_alarm(record, time, label, alarm)
    both = found.event & found.alarm
    return {
        "alarmed": binary.ratio(both.sum(), found.event.sum()),
        "false_alarmed": binary.ratio((found.alarm & ~found.event).sum(), (~found.event).sum()),
        "alarm_lead_h": float(np.median(found.lead[both])) if both.any() else float("nan"),
    }
