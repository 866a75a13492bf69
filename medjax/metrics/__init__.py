"""Metrics as pure functions of NumPy arrays, one value a call, and their bootstrap."""

from medjax.metrics.binary import (
    accuracy,
    auprc,
    auroc,
    balanced_accuracy,
    brier,
    ece,
    f1,
    log_loss,
    npv,
    ppv,
    reliability,
    roc_band,
    roc_curve,
    sensitivity,
    specificity,
    youden_threshold,
)
from medjax.metrics.bootstrap import bootstrap, interval, paired_bootstrap, resamples, why_no_interval
from medjax.metrics.classification import DEFINITIONS, classification, confusion, why_undefined
from medjax.metrics.matched import auroc_matched, matched_pairs

__all__ = [
    "DEFINITIONS",
    "accuracy",
    "auprc",
    "auroc",
    "auroc_matched",
    "balanced_accuracy",
    "bootstrap",
    "brier",
    "classification",
    "confusion",
    "ece",
    "f1",
    "interval",
    "log_loss",
    "matched_pairs",
    "npv",
    "paired_bootstrap",
    "ppv",
    "reliability",
    "resamples",
    "roc_band",
    "roc_curve",
    "sensitivity",
    "specificity",
    "why_no_interval",
    "why_undefined",
    "youden_threshold",
]
