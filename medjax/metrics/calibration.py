"""Temperature scaling: one number that makes the probabilities of a network mean what they say."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import minimize_scalar
from scipy.special import expit, log_softmax, softmax

TEMPERATURES = (0.25, 10.0)
MIN_CASES = 10


def fit_temperature(label: ArrayLike, score: ArrayLike, *, multilabel: bool = False) -> float:
    """The temperature T whose probabilities have the least negative log-likelihood.

    They are softmax(log p / T), and sigmoid(logit p / T) for several labels. Guo et al., On Calibration of Modern Neural
    Networks, ICML 2017, section 4.2 (equation 9); a network's logits and the logarithms of its probabilities give the same
    softmax. It neither moves the likeliest class nor, with two classes or several labels, the order of the cases, but for
    probabilities that round to 1. The negative log-likelihood is convex in 1 / T, so that a bounded search over log T finds
    its only minimum.

    Args:
      label: int [n], 0 to K - 1; int [n, K] of 1 and 0 with `multilabel`. -1 where it is missing, and counts for nothing.
      score: float [n, K], probabilities.
      multilabel: K yes-or-no questions that share one T, instead of one question with K answers.

    Returns:
      T between 0.25 and 10: cases that the scores tell apart without an error would send it to 0, and scores that tell nothing
      to infinity. 1 for fewer than 10 labelled cases, a single class among all labels, or a NaN score of a known label.

    Raises:
      ValueError: shapes do not agree, or a label is not one of the classes.
    """
    label, score = np.asarray(label), np.asarray(score)
    if score.ndim != 2 or label.shape != (score.shape if multilabel else score.shape[:1]):
        raise ValueError(f"label and score do not agree: they have shapes {label.shape} and {score.shape}")
    if label.max(initial=-1) >= (2 if multilabel else score.shape[1]):
        raise ValueError(f"a label is {label.max()}, and there are {2 if multilabel else score.shape[1]} classes")
    known = label >= 0
    cases = known.any(axis=1) if multilabel else known
    if cases.sum() < MIN_CASES or len(np.unique(label[known])) < 2 or np.isnan(score[known]).any():
        return 1.0
    if multilabel:
        # The log-likelihood of a label is log sigmoid(z / T), with the sign of z turned where the label is 0.
        signed = _logits(score)[known] * np.where(label[known] == 1, 1.0, -1.0)

        def loss(log_t: float) -> float:
            return float(np.mean(np.logaddexp(0.0, -signed / np.exp(log_t))))
    else:
        logits, given = _log(score[known]), label[known].astype(np.int64)
        rows = np.arange(len(given))

        def loss(log_t: float) -> float:
            return float(-np.mean(log_softmax(logits / np.exp(log_t), axis=1)[rows, given]))

    low, high = np.log(TEMPERATURES)
    found = minimize_scalar(loss, bounds=(low, high), method="bounded", options={"xatol": 1e-6})
    return float(np.exp(found.x))


def apply_temperature(score: ArrayLike, temperature: float, *, multilabel: bool = False) -> np.ndarray:
    """Probabilities float64 [n, K] at a temperature: softmax(log p / T), or sigmoid(logit p / T) with `multilabel`.

    Args:
      score: float [n, K], probabilities.
      temperature: T > 0; 1 leaves the scores as they are, a larger one makes them less sure.
      multilabel: as `fit_temperature` takes it.

    Raises:
      ValueError: T is not over 0.
    """
    if not temperature > 0:
        raise ValueError(f"a temperature is over 0, not {temperature}")
    score = np.asarray(score)
    if multilabel:
        return expit(_logits(score) / temperature)
    return softmax(_log(score) / temperature, axis=-1)


def _log(score: np.ndarray) -> np.ndarray:
    """log p in float64; 0, which float32 makes of everything under 1e-45, counts as float32's smallest normal number."""
    return np.log(np.maximum(score.astype(np.float64), np.finfo(np.float32).tiny))


def _logits(score: np.ndarray) -> np.ndarray:
    """log p - log(1 - p) in float64, finite and still increasing at the ends of what the scores' own type can hold."""
    precision = np.finfo(score.dtype if score.dtype.kind == "f" else np.float64)
    rest = np.maximum(1 - score.astype(np.float64), float(precision.epsneg) / 2)
    return _log(score) - np.log(rest)
