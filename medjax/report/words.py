"""Names and numbers as a reader sees them: one spelling for the HTML report, the figures and the terminal."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

# In the order in which tables list them.
METRICS: dict[str, str] = {
    "auroc": "AUROC",
    "auroc_matched": "AUROC on header-matched pairs",
    "auprc": "AUPRC (average precision)",
    "map": "mAP",
    "map50": "mAP at IoU 0.50",
    "mar": "Mean average recall",
    "froc_0.125": "Sensitivity at 1/8 false positive per image",
    "froc_0.25": "Sensitivity at 1/4 false positive per image",
    "froc_0.5": "Sensitivity at 1/2 false positive per image",
    "froc_1": "Sensitivity at 1 false positive per image",
    "froc_2": "Sensitivity at 2 false positives per image",
    "froc_4": "Sensitivity at 4 false positives per image",
    "froc_8": "Sensitivity at 8 false positives per image",
    "froc": "FROC score",
    "rsna": "RSNA score",
    "dice": "Dice",
    "iou": "IoU",
    "hd95": "Hausdorff distance, 95 %",
    "nsd": "Normalised surface Dice",
    "volume_error": "Volume error (absolute)",
    "c_index": "C-index",
    "sensitivity": "Sensitivity",
    "specificity": "Specificity",
    "min_se_pp": "Lesser of sensitivity and PPV",
    "ppv": "Positive predictive value",
    "npv": "Negative predictive value",
    "ppv_at_prevalence": "PPV at the stated prevalence",
    "npv_at_prevalence": "NPV at the stated prevalence",
    "accuracy": "Accuracy",
    "balanced_accuracy": "Balanced accuracy",
    "f1": "F1",
    "macro_f1": "Macro F1",
    "micro_f1": "Micro F1",
    "entity_f1": "Entity F1",
    "entity_precision": "Entity precision",
    "entity_recall": "Entity recall",
    "kappa": "Cohen's kappa",
    "p_at_5": "Precision at 5",
    "p_at_8": "Precision at 8",
    "bleu4": "BLEU-4",
    "rouge_l": "ROUGE-L",
    "psnr": "PSNR",
    "ssim": "SSIM",
    "ssim_gaussian": "SSIM, Gaussian window",
    "nmse": "NMSE",
    "edge": "Sharpness of edges",
    "texture": "Distance of power spectra",
    "residual": "Data-consistency residual",
    "real_sign": "Discriminator's mean sign on true images",
    "real_side": "Discriminator's side of real images",
    "fid": "FID",
    "kid": "KID",
    "is": "Inception score",
    "precision": "Precision of the manifold",
    "recall": "Recall of the manifold",
    "farther": "Farther from training images than real ones are",
    "farther_pixels": "Farther from training images, by pixels",
    "brier": "Brier score",
    "log_loss": "Log loss",
    "ece": "Expected calibration error",
}
LOWER_IS_BETTER = frozenset(
    {"hd95", "volume_error", "nmse", "texture", "residual", "fid", "kid", "brier", "log_loss", "ece", "loss"}
)
BASELINES: dict[str, tuple[str, str]] = {
    "majority": ("Majority class", "always gives the most frequent answer"),
    "header": ("Header only", "everything known without looking at the content: size, aspect, length, site"),
    "logistic": ("Logistic regression", "a linear model of the same inputs"),
    "threshold": ("Intensity table", "the most frequent class of training voxels of the same intensity"),
    "location": ("Location table", "the most frequent class at the same relative place in the training cases"),
    "gbdt": ("Boosted trees", "gradient-boosted decision trees on the same inputs"),
    "dictionary": ("Dictionary", "the entities of training texts wherever their words stand, the longest first"),
    "frequent_tag": ("Most frequent tag", "the tag that each word has most often in training texts"),
    "blob": ("Blob filter", "blobs of the training boxes' sizes, with a prior about the centre where that helps"),
    "prior": ("Usual places", "boxes of the usual size at the places where training boxes lie; it does not look at the image"),
    "nearest": ("Nearest neighbour", "the answer of the most similar training case"),
    "lead": ("Lead", "the opening of the text, as it stands"),
    "input": ("Input", "the input, unchanged"),
    "bicubic": ("Bicubic", "bicubic interpolation"),
    "zero_filled": ("Zero-filled", "missing samples set to zero"),
    "tv": ("Total variation", "least total variation that fits the input, its weight chosen on validation data"),
    "nlm": ("Non-local means", "non-local means denoising, its strength chosen on validation data"),
    "fbp": ("Filtered back-projection", "the classic reconstruction"),
    "real": ("Real images", "one half of the real images beside the other"),
    "training": ("Training images", "as many training images, as if a generator copied them"),
}
SPLITS = {
    "train": "Training",
    "val": "Validation",
    "test": "Test",
    "cv": "Cross-validation (pooled)",
    "ensemble": "Ensemble of seeds",
}
ABSENT = "–"


def label_key(key: str) -> str:
    """`"near_copies"` -> `"Near copies"`."""
    words = str(key).replace("_", " ").strip()
    return words[:1].upper() + words[1:]


def name_metric(name: str) -> str:
    """The name a reader knows: `"auroc/glioma"` -> `"AUROC · glioma"`; unknown names keep their letters."""
    base, _, part = name.partition("/")
    known = METRICS.get(base) or label_key(base)
    return f"{known} · {part}" if part else known


def name_baseline(name: str) -> str:
    """The name a reader knows: `"gbdt"` -> `"Boosted trees"`."""
    return BASELINES[name][0] if name in BASELINES else label_key(name)


def name_split(name: str) -> str:
    """The name a reader knows: `"val"` -> `"Validation"`."""
    return SPLITS.get(name) or label_key(name)


def sort_metrics(names: Iterable[str]) -> list[str]:
    """Overall metrics in the order of `METRICS`, then unknown ones, then those of single classes."""
    order = {name: place for place, name in enumerate(METRICS)}

    def place(name: str) -> tuple[bool, int]:
        base, _, part = name.partition("/")
        return bool(part), order.get(base, len(order))

    return sorted(dict.fromkeys(names), key=place)


def lower_is_better(name: str) -> bool:
    """The direction of a metric, whichever class it is of."""
    return name.partition("/")[0] in LOWER_IS_BETTER


def is_number(value: Any) -> bool:
    """A finite int or float; bools are none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def format_value(value: Any, *, sign: bool = False) -> str:
    """Three decimals with a typographic minus (`"0.953"`, with `sign` `"+0.074"`); a dash for what is no finite number."""
    if not is_number(value):
        return ABSENT
    text = f"{value:+,.3f}" if sign else f"{value:,.3f}"
    if not text.strip("+-0.,"):
        text = text.lstrip("+-")
    return text.replace("-", "−")


def format_count(value: Any) -> str:
    """Thousands separated: `"1,925"`; a dash for what is no finite number."""
    return f"{round(value):,}".replace("-", "−") if is_number(value) else ABSENT


def has_interval(entry: Any) -> bool:
    """Whether `{"ci95": [lo, hi]}` holds two finite numbers."""
    ci95 = entry.get("ci95") if isinstance(entry, Mapping) else None
    return isinstance(ci95, list | tuple) and len(ci95) == 2 and all(map(is_number, ci95))


def format_interval(entry: Mapping[str, Any], *, sign: bool = False) -> str:
    """`"0.910 to 0.982"`, or empty without an interval."""
    return " to ".join(format_value(end, sign=sign) for end in entry["ci95"]) if has_interval(entry) else ""


def format_duration(seconds: Any) -> str:
    """`"42 s"`, `"3 min 12 s"`, `"2 h 05 min"`."""
    if not is_number(seconds):
        return ABSENT
    if seconds < 60:
        return f"{seconds:.3g} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60:,} h {minutes % 60:02d} min"


def format_si(value: Any, unit: str) -> str:
    """Three significant digits with an SI prefix: `"41.2 GFLOP"`."""
    if not is_number(value):
        return ABSENT
    for factor, prefix in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= factor:
            return f"{value / factor:.3g} {prefix}{unit}"
    return f"{value:.3g} {unit}"


def count_noun(number: Any, noun: str) -> str:
    """`"1 image"`, `"614 images"`, `"93 patients"`."""
    return f"{format_count(number)} {noun if number == 1 else pluralise(noun)}"


def pluralise(noun: str) -> str:
    """`"study"` -> `"studies"`."""
    if noun.endswith("y") and noun[-2:-1] not in "aeiou":
        return noun[:-1] + "ies"
    return noun + ("es" if noun.endswith(("s", "x", "ch")) else "s")


def order_splits(metrics: Mapping[str, Any]) -> list[str]:
    """The splits that a report has, the one that counts first: test, pooled cross-validation, validation, others."""
    first = [split for split in ("test", "cv", "val") if metrics.get(split)]
    return first + [split for split in metrics if split not in first and metrics[split]]


def main_metric(report: Mapping[str, Any]) -> str | None:
    """The metric of the headline: the monitored one, unless that is a loss; else the first in the order of `METRICS`."""
    metrics = report.get("metrics") or {}
    splits = order_splits(metrics)
    if not splits:
        return None
    entries = metrics[splits[0]]
    names = [name for name in sort_metrics(entries) if is_number(entries[name].get("value"))]
    monitor = str(report.get("monitor") or "").removeprefix("val/")
    if monitor in names and "loss" not in monitor:
        return monitor
    return names[0] if names else None
