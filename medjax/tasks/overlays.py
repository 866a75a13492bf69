"""Figures of a segmentation: best, median and worst cases with outlines, Dice case by case, agreement of volumes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from scipy import ndimage

from medjax.cases import Cases, Rows
from medjax.core import Figure
from medjax.data.volumes import IGNORE
from medjax.metrics import segmentation as metrics
from medjax.tasks.volumes import resize_linear

# Of classes 1, 2, ...: Okabe and Ito's colours, told apart on grey and by colour-blind readers.
COLOURS = np.array([(230, 159, 0), (86, 180, 233), (0, 158, 115), (204, 121, 167), (240, 228, 66), (213, 94, 0), (0, 114, 178)])
SIDE = 256  # pixels of a shown slice along its longer side, at least


def outlined(picture: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """A grey picture uint8 [H, W] with the outlines of its labels uint8 [H, W] in the colours of their classes, [H, W, 3]."""
    shown = np.repeat(picture[..., None], 3, -1)
    for k in np.unique(labels):
        if k in (0, IGNORE):
            continue
        inside = labels == k
        shown[inside & ~ndimage.binary_erosion(inside)] = COLOURS[(k - 1) % len(COLOURS)]
    return shown


def figures(
    rows: Rows,
    cases: Cases,
    others: Mapping[str, Rows],
    *,
    classes: Sequence[str],
    intensity: Sequence[tuple[float, float, float, float]],
) -> dict[str, Figure]:
    """Outlines over the best, median and worst cases; Dice by case and class; predicted against true volumes."""
    found: dict[str, Figure] = {}
    dice = rows["dice"]
    mean = np.where(np.isfinite(dice).any(1), np.nanmean(np.where(np.isfinite(dice).any(1)[:, None], dice, 0.0), 1), np.nan)
    known = np.flatnonzero(np.isfinite(mean))
    if not len(known):
        return found
    order = known[np.argsort(mean[known], kind="stable")]
    if "labels" in rows:
        found["overlays"] = _overlays(rows, cases, mean, order, classes, intensity)
    groups = [
        {"label": name, "x": np.arange(1, len(order) + 1), "y": dice[order[::-1], k]}
        for k, name in enumerate(classes)
        if np.isfinite(dice[:, k]).any()
    ]
    found["dice_by_case"] = Figure(
        "points",
        "Dice, case by case",
        "Each case of the split, the best on the left by its mean over classes: what a mean hides.",
        {"groups": groups, "xlabel": "case, from best to worst", "ylabel": "Dice"},
    )
    agreement = _volumes(rows, cases, classes)
    return found if agreement is None else {**found, "volumes": agreement}


def _volumes(rows: Rows, cases: Cases, classes: Sequence[str]) -> Figure | None:
    truth, pred = rows["volume"], rows["volume_pred"]
    known = np.isfinite(truth) & np.isfinite(pred)
    if known.sum() < 2:
        return None
    unit = "ml" if np.isfinite(cases["spacing"]).all() else "voxels"
    bias, low, high = metrics.bland_altman(truth[known], pred[known])
    groups = []
    for k, name in enumerate(classes):
        own = known[:, k]
        if own.any():
            groups.append({"label": name, "x": (truth + pred)[own, k] / 2, "y": (pred - truth)[own, k]})
    return Figure(
        "points",
        "Agreement of volumes",
        "Bland and Altman's plot (Lancet 1986): predicted less true volume against their mean, with the mean difference and "
        "the limits that 95 % of differences lie within if they are normal.",
        {
            "groups": groups,
            "xlabel": f"mean of the two volumes, {unit}",
            "ylabel": f"predicted less true, {unit}",
            "levels": [(bias, f"bias {bias:.3g}"), (low, f"{low:.3g}"), (high, f"{high:.3g}")],
        },
    )


def _overlays(
    rows: Rows,
    cases: Cases,
    mean: np.ndarray,
    order: np.ndarray,
    classes: Sequence[str],
    intensity: Sequence[tuple[float, float, float, float]],
) -> Figure:
    middle, n = len(order) // 2, 2 if len(order) >= 6 else 1  # with few cases none stands in two rows
    chosen = {"best": order[-n:][::-1], "median": order[middle - n + 1 : middle + 1], "worst": order[:n]}
    lines, done = [], set()
    for label, which in chosen.items():
        images: list[np.ndarray] = []
        titles: list[str] = []
        for i in [i for i in which if i not in done]:
            done.add(i)
            picture, truth, pred = _slice(rows, cases, int(i), intensity)
            images += [picture, outlined(picture[..., 0], truth), outlined(picture[..., 0], pred)]
            titles += [str(cases["id"][i]).rsplit("/", 1)[-1], "truth", f"network · Dice {mean[i]:.3f}"]
        if images:
            lines.append({"label": label, "images": images, "titles": titles})
    key = ", ".join(f"{name} {_NAMES[k % len(_NAMES)]}" for k, name in enumerate(classes[: len(_NAMES)]))
    return Figure(
        "grid",
        "Best, median and worst cases",
        "By mean Dice; of a volume the slice with the most foreground, true or predicted. Left the image, then the outlines of "
        f"the truth and of the network: {key}.",
        {"rows": lines},
    )


_NAMES = ("orange", "sky blue", "green", "pink", "yellow", "red", "blue")


def _slice(rows: Rows, cases: Cases, i: int, intensity: Sequence) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(picture [H, W, 3], truth [H, W], prediction [H, W]) of the slice of case i with the most foreground."""
    from medjax.tasks.segmentation import clean_labels

    one = cases.take(np.array([i]))
    truth, pred, box = one["truth"][0], clean_labels(rows, i), one["box"][0]
    inside = tuple(slice(a, b) for a, b in box)
    # What lies outside of the prepared part has no picture; foreground there is rare.
    truth, pred = truth[inside], pred[inside]
    area = (((truth > 0) & (truth != IGNORE)) | (pred > 0)).sum((1, 2))
    z = int(area.argmax()) if area.any() else len(area) // 2
    image, spacing = one["image"][0], one["spacing"][0]
    at = min(int((z + 0.5) * image.shape[0] / len(area)), image.shape[0] - 1)
    height, width = truth.shape[1:]
    if np.isfinite(spacing).all():  # pixels as square as the patient has them
        height, width = height * spacing[1] / spacing[2], width
    grow = max(1.0, SIDE / max(height, width))
    size = max(1, round(height * grow)), max(1, round(width * grow))
    low, high = _shown_range(image[..., 0], intensity[0])
    grey = np.clip((resize_linear(image[at, ..., 0], size) - low) * (255 / max(high - low, 1e-6)), 0, 255).astype(np.uint8)
    return np.repeat(grey[..., None], 3, -1), _nearest(truth[z], size), _nearest(pred[z], size)


def _shown_range(values: np.ndarray, intensity: Sequence[float]) -> tuple[float, float]:
    low, high = np.percentile(values[:: max(1, len(values) // 16)], (0.5, 99.5))
    return float(max(low, intensity[0])), float(min(high, intensity[1]))


def _nearest(labels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    rows, columns = (np.minimum(((np.arange(m) + 0.5) * n / m).astype(int), n - 1) for n, m in zip(labels.shape, size))
    return labels[np.ix_(rows, columns)]
