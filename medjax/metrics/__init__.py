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
    predictive_values,
    reliability,
    roc_band,
    roc_curve,
    sensitivity,
    specificity,
    threshold_at,
    youden_threshold,
)
from medjax.metrics.bootstrap import bootstrap, interval, paired_bootstrap, resamples, why_no_interval
from medjax.metrics.calibration import apply_temperature, fit_temperature
from medjax.metrics.classification import DEFINITIONS, classification, confusion, kappa, why_undefined
from medjax.metrics.delong import delong, delong_interval
from medjax.metrics.matched import auroc_matched, matched_pairs
from medjax.metrics.multilabel import multilabel

__all__ = [
    "DEFINITIONS",
    "accuracy",
    "apply_temperature",
    "auprc",
    "auroc",
    "auroc_matched",
    "balanced_accuracy",
    "bootstrap",
    "brier",
    "classification",
    "confusion",
    "delong",
    "delong_interval",
    "ece",
    "f1",
    "fit_temperature",
    "interval",
    "kappa",
    "log_loss",
    "matched_pairs",
    "multilabel",
    "npv",
    "paired_bootstrap",
    "ppv",
    "predictive_values",
    "reliability",
    "resamples",
    "roc_band",
    "roc_curve",
    "sensitivity",
    "specificity",
    "threshold_at",
    "why_no_interval",
    "why_undefined",
    "youden_threshold",
]
