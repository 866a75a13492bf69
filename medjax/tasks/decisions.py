"""From scores to decisions: a temperature and thresholds that are chosen on validation data, as plain arrays."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from medjax import metrics
from medjax.cases import Cases, Rows
from medjax.config import Decide

DEFAULT = Decide()
EDGE = 1e-6  # how near to 0 or 1 a threshold counts when a distance is divided by it


def calibrate(rows: Rows, cases: Cases, *, rule: Decide = DEFAULT) -> dict[str, np.ndarray]:
    """The operating point of one class out of several: `temperature` [], and `threshold` [] of the second of two classes.

    Args:
      rows: `score` [n, K], probabilities of validation cases.
      cases: `label` int [n], -1 where it is missing.
      rule: what is chosen, and how; the threshold applies to scores after the temperature.
    """
    label, score = cases["label"], rows["score"]
    point = _temperature(label, score, rule, multilabel=False)
    if score.shape[1] == 2:
        point["threshold"] = np.array(choose_threshold(label, _tempered(point, score)[:, 1], rule))
    return point


def calibrate_labels(rows: Rows, cases: Cases, *, rule: Decide = DEFAULT) -> dict[str, np.ndarray]:
    """The operating point of several labels a case: one `temperature` [], and a `threshold` [K], one a label.

    Args:
      rows: `score` [n, K], probabilities of validation cases.
      cases: `label` int8 [n, K]: 1, 0, or -1 where it is missing.
      rule: as of `calibrate`.
    """
    label, score = cases["label"], rows["score"]
    point = _temperature(label, score, rule, multilabel=True)
    tempered = _tempered(point, score, multilabel=True)
    point["threshold"] = np.array([choose_threshold(y, p, rule) for y, p in zip(label.T, tempered.T, strict=True)])
    return point


def choose_threshold(label: np.ndarray, score: np.ndarray, rule: Decide) -> float:
    """The threshold t, on `score >= t`, that the rule asks for; 0.5 where a kind of case is missing.

    Args:
      label: int [n]: 1, 0, or -1 where it is missing.
      score: float [n].
      rule: of the largest Youden index, or the best one that keeps a specificity or a sensitivity.
    """
    if not ((label == 0).any() and (label == 1).any()):
        return 0.5
    if rule.rule == "youden":
        return metrics.youden_threshold(label, score)
    return metrics.threshold_at(label, score, **{rule.rule: rule.at})


def decide(point: Mapping[str, np.ndarray], rows: Rows) -> Rows:
    """The rows at an operating point of `calibrate`.

    `score` is the tempered one. `pred` [n] is P(positive) at or above the threshold with two classes, the likeliest class with
    more. `sure` [n] is 0 at the decision's edge and 1 at its surest.
    """
    score = _tempered(point, rows["score"])
    if "threshold" not in point:
        return {**rows, "score": score, "pred": score.argmax(1), "sure": score.max(1)}
    pred, sure = _cut(score[:, 1], point["threshold"])
    return {**rows, "score": score, "pred": pred, "sure": sure}


def decide_labels(point: Mapping[str, np.ndarray], rows: Rows) -> Rows:
    """The rows at an operating point of `calibrate_labels`: tempered `score`, `pred` [n, K] 0 or 1, and `sure` [n], the least
    over the labels of how far a score is from its threshold, 0 at the edge and 1 at the surest.
    """
    score = _tempered(point, rows["score"], multilabel=True)
    pred, sure = _cut(score, point.get("threshold", np.array(0.5)))
    return {**rows, "score": score, "pred": pred, "sure": sure.min(1)}


def _cut(score: np.ndarray, threshold: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    pred, inner = score >= threshold, np.clip(threshold, EDGE, 1 - EDGE)
    sure = np.where(pred, (score - inner) / (1 - inner), (inner - score) / inner)
    return pred.astype(int), sure


def _temperature(label: np.ndarray, score: np.ndarray, rule: Decide, *, multilabel: bool) -> dict[str, np.ndarray]:
    if not rule.temperature:
        return {}
    return {"temperature": np.array(metrics.fit_temperature(label, score, multilabel=multilabel))}


def _tempered(point: Mapping[str, np.ndarray], score: np.ndarray, *, multilabel: bool = False) -> np.ndarray:
    if "temperature" not in point:
        return score
    return metrics.apply_temperature(score, float(point["temperature"]), multilabel=multilabel)
