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
from medjax.metrics.risk import RISK_DEFINITIONS, alarm_metrics, c_index, min_se_pp, net_benefit, time_to_alarm
from medjax.metrics.segmentation import DEFINITIONS as SEGMENTATION_DEFINITIONS
from medjax.metrics.segmentation import MEASURES as SEGMENTATION_MEASURES
from medjax.metrics.segmentation import (
    bland_altman,
    count_excluded,
    largest_component,
    measure_case,
    summarise,
    why_unmeasured,
)

__all__ = [
    "DEFINITIONS",
    "RISK_DEFINITIONS",
    "SEGMENTATION_DEFINITIONS",
    "SEGMENTATION_MEASURES",
    "accuracy",
    "alarm_metrics",
    "apply_temperature",
    "auprc",
    "auroc",
    "auroc_matched",
    "balanced_accuracy",
    "bland_altman",
    "bootstrap",
    "brier",
    "c_index",
    "classification",
    "confusion",
    "count_excluded",
    "delong",
    "delong_interval",
    "ece",
    "f1",
    "fit_temperature",
    "interval",
    "kappa",
    "largest_component",
    "log_loss",
    "matched_pairs",
    "measure_case",
    "min_se_pp",
    "multilabel",
    "net_benefit",
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
    "summarise",
    "threshold_at",
    "time_to_alarm",
    "why_no_interval",
    "why_undefined",
    "why_unmeasured",
    "youden_threshold",
]
