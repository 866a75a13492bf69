"""Baselines of detection: a blob filter with a centre prior, and boxes of the usual size at the usual places."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy import fft, ndimage

from medjax.cases import Cases, Rows, stack_rows
from medjax.core import Baseline
from medjax.formats.image import resize, to_grey
from medjax.metrics import detection as metrics
from medjax.tasks.detection_cases import padded, row_of

SIDE = 256  # pixels of a picture's longer side that blobs are looked for in, at most
SCALES = 5
MOST = 30  # boxes that a baseline gives
BINS = 12  # of the grid of places, along each axis
TRIED = 100  # validation cases that settings are chosen on
PRIORS = (0.0, 0.35, 0.2)  # widths of the centre prior tried, in sides; 0 is none


def _facts(cases: Cases) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(sizes [m, 2] as fractions of the picture's sides, centres [m, 2] likewise, classes [m]) of the boxes that count."""
    parts = []
    for found, kind, crowd, (height, width) in zip(*(cases[n] for n in ("boxes", "category", "crowd", "size")), strict=True):
        b = found[~crowd] / np.array([width, height, width, height])
        parts.append(np.concatenate([b[:, 2:] - b[:, :2], (b[:, :2] + b[:, 2:]) / 2, kind[~crowd, None]], 1))
    joined = np.concatenate(parts)
    return joined[:, :2], joined[:, 2:4], joined[:, 4].astype(int)


def _class_table(cases: Cases, classes: int) -> dict[str, np.ndarray]:
    """What sizes say of classes: medians and deviations of the logarithm of a box's area, and shares."""
    sizes, _, kind = _facts(cases)
    logs = np.log(np.maximum(sizes.prod(1), 1e-9))
    middle, spread, share = np.zeros(classes), np.ones(classes), np.zeros(classes)
    for k in range(classes):
        own = logs[kind == k]
        if len(own):
            middle[k], spread[k], share[k] = np.median(own), max(float(own.std()), 0.1), len(own) / len(logs)
    return {"middle": middle, "spread": spread, "share": share}


def _class_of(table: Mapping[str, np.ndarray], logs: np.ndarray) -> np.ndarray:
    """The likeliest class of boxes by the logarithm of their area [m] (a share of the picture's)."""
    share, spread = np.maximum(table["share"], 1e-12), table["spread"]
    fit = np.log(share) - np.log(spread) - 0.5 * ((logs[:, None] - table["middle"]) / spread) ** 2
    return fit.argmax(1)


def _rows(cases: Cases, found: Any, classes: int, rule: metrics.Rule) -> Rows:
    """Rows of `found(case) -> boxes as fractions [m, 4], score [m], category [m]`."""
    made = []
    for i in range(len(cases)):
        one = cases.take(np.array([i]))
        boxes, score, category = found(one)
        height, width = one["size"][0]
        row = padded(boxes * np.array([width, height, width, height]), score, category, MOST)
        made.append({**row_of(row, one, classes=classes, rule=rule), "gate": np.ones(classes), "loss": np.nan})
    return stack_rows(made)


def prior(classes: int, rule: metrics.Rule) -> Baseline:
    """Boxes of each class's median size, at the centres of the cells of a grid where training boxes lie, by their number.

    It does not look at the picture: what it scores, places and sizes give away.
    """

    def fit(train: Cases, val: Cases) -> dict[str, np.ndarray]:
        sizes, centres, kind = _facts(train)
        found = []
        for k in range(classes):
            own = kind == k
            if not own.any():
                continue
            w, h = np.median(sizes[own], 0)
            counts, *_ = np.histogram2d(centres[own, 0], centres[own, 1], bins=BINS, range=((0, 1), (0, 1)))
            counts = ndimage.gaussian_filter(counts, 0.7, mode="nearest") / len(train)
            for i, j in zip(*np.unravel_index(np.argsort(-counts, axis=None)[:MOST], counts.shape), strict=True):
                x, y = (i + 0.5) / BINS, (j + 0.5) / BINS
                found.append([x - w / 2, y - h / 2, x + w / 2, y + h / 2, counts[i, j], k])
        return {"boxes": np.array(found, np.float64).reshape(-1, 6)}

    def predict(arrays: Mapping[str, np.ndarray], cases: Cases) -> Rows:
        table = arrays["boxes"]
        made = table[:, :4], table[:, 4] / max(float(table[:, 4].max(initial=0)), 1e-12), table[:, 5].astype(int)
        return _rows(cases, lambda one: made, classes, rule)

    return Baseline(fit, predict)


def blob(classes: int, rule: metrics.Rule) -> Baseline:
    """Extrema of the scale-normalised Laplacian of Gaussians (Lindeberg, IJCV 1998) at the scales of the training boxes.

    Bright or dark blobs, the boxes' side as a multiple of the scale, and the width of a Gaussian prior about the picture's
    centre (or none) are chosen on validation cases by average precision at IoU .50; the class is the likeliest for the size.
    """

    def fit(train: Cases, val: Cases) -> dict[str, np.ndarray]:
        sizes, _, _ = _facts(train)
        aspect = np.array([w / h for h, w in train["size"]])
        side = np.sqrt(np.maximum(sizes.prod(1), 1e-9) * np.median(aspect))  # in heights
        scales = np.unique(np.quantile(side, np.linspace(0.1, 0.9, SCALES)))
        table = {**_class_table(train, classes), "scales": scales, "aspect": np.median(sizes, 0)}
        some = val.some(TRIED)
        best = (-1.0, {"sign": np.float64(1), "factor": np.float64(1), "prior": np.float64(0)})
        for sign in (1.0, -1.0):
            for factor in (0.8, 1.0, 1.25):
                here = {**table, "sign": np.float64(sign), "factor": np.float64(factor)}
                raw = [_blobs(here, one["image"][0], one["extent"][0]) for one in _each(some)]
                for width in PRIORS:
                    tried = {**here, "prior": np.float64(width)}
                    rows = _rows(some, _looked_up(raw, tried), classes, rule)
                    ap = metrics.coco(rows["score"], rows["category"], rows["coco"][..., :1], rows["lesions"])["ap"]
                    value = float(np.nanmean(ap)) if np.isfinite(ap).any() else 0.0
                    if value > best[0]:
                        best = value, {name: tried[name] for name in ("sign", "factor", "prior")}
        return {**table, **best[1]}

    def predict(arrays: Mapping[str, np.ndarray], cases: Cases) -> Rows:
        def found(one: Cases) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
            return _with_prior(_blobs(arrays, one["image"][0], one["extent"][0]), arrays)

        return _rows(cases, found, classes, rule)

    return Baseline(fit, predict)


def _each(cases: Cases) -> list[Cases]:
    return [cases.take(np.array([i])) for i in range(len(cases))]


def _looked_up(raw: list[Any], arrays: Mapping[str, np.ndarray]) -> Any:
    """Blobs that were found before, in the order of the cases."""
    waiting = iter(raw)
    return lambda one: _with_prior(next(waiting), arrays)


def blobness(picture: np.ndarray, sigmas: np.ndarray) -> np.ndarray:
    """The negative scale-normalised Laplacian of Gaussians of a picture [H, W] at each sigma in pixels, [len(sigmas), H, W].

    Beyond its edges the picture goes on as its mirror image. In its cosine spectrum a filter is a product, whatever its width.
    """
    h, w = picture.shape
    square = ((np.pi * np.arange(h) / h) ** 2)[:, None] + (np.pi * np.arange(w) / w) ** 2
    spectrum = fft.dctn(picture.astype(np.float32), norm="ortho")
    filters = [(square * s**2 * np.exp(-square * s**2 / 2)).astype(np.float32) for s in sigmas]
    return np.stack([fft.idctn(spectrum * f, norm="ortho") for f in filters])


def _blobs(arrays: Mapping[str, np.ndarray], image: np.ndarray, extent: np.ndarray) -> tuple[np.ndarray, ...]:
    """(boxes [m, 4] as fractions of the picture, strength [m], class [m]) of the strongest blobs."""
    height, width = (int(n) for n in extent)
    picture = image[:height, :width]
    grey = (to_grey(picture) if picture.shape[-1] == 3 else picture[..., 0]).astype(np.float32)
    shrink = min(1.0, SIDE / max(height, width))
    if shrink < 1:
        grey = np.asarray(resize(grey, (max(1, round(height * shrink)), max(1, round(width * shrink)))), np.float32)
    grey = (grey - grey.mean()) / max(float(grey.std()), 1e-6) * float(arrays["sign"])
    h, w = grey.shape
    # A disc of radius r answers most at sigma = r / sqrt(2).
    sides = arrays["scales"] * h
    stack = blobness(grey, sides / 2 / np.sqrt(2))
    peaks = (stack == ndimage.maximum_filter(stack, size=(min(3, len(stack)), 3, 3))) & (stack > 0)
    s, y, x = np.nonzero(peaks)
    strength = stack[s, y, x]
    order = np.argsort(-strength, kind="stable")[: 4 * MOST]
    s, y, x, strength = s[order], y[order], x[order], strength[order]
    ratio = float(np.sqrt(arrays["aspect"][0] * w / (arrays["aspect"][1] * h)))  # width to height, in pixels
    side = sides[s] * float(arrays["factor"])
    bw, bh = side * ratio, side / ratio
    found = np.stack([(x + 0.5 - bw / 2) / w, (y + 0.5 - bh / 2) / h, (x + 0.5 + bw / 2) / w, (y + 0.5 + bh / 2) / h], 1)
    kept = _suppressed(found)
    found, strength = found[kept], strength[kept]
    return found, strength, _class_of(arrays, np.log(np.maximum((found[:, 2:] - found[:, :2]).prod(1), 1e-9)))


def _suppressed(boxes: np.ndarray, overlap: float = 0.3) -> np.ndarray:
    """Places of the boxes that greedy suppression keeps, strongest first."""
    over = metrics.iou(boxes, boxes) > overlap
    kept: list[int] = []
    for i in range(len(boxes)):
        if not over[i, kept].any():
            kept.append(i)
    return np.array(kept, int)


def _with_prior(found: tuple[np.ndarray, ...], arrays: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    boxes, strength, kind = found
    score = strength / (1 + strength)
    if width := float(arrays["prior"]):
        away = ((boxes[:, :2] + boxes[:, 2:]) / 2 - 0.5) / width
        score = score * np.exp(-0.5 * (away**2).sum(1))
    return boxes, score, kind


def defaults(classes: int, rule: metrics.Rule) -> dict[str, Baseline]:
    """{"blob", "prior"}."""
    return {"blob": blob(classes, rule), "prior": prior(classes, rule)}
