"""Measures of boxes: COCO's average precision and recall, FROC, and the metric of RSNA's challenge on pneumonia.

Boxes are float [m, 4]: left, top, right and bottom edge in pixels. Matching is done once an image, by descending score, and
says of each detection whether it counts as true (1), false (0) or not at all (-1); everything else is sums over these
marks, so that a bootstrap over images need not match again. A detection meets only boxes of its own class.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

COCO = np.linspace(0.5, 0.95, 10)
RSNA = np.arange(0.40, 0.76, 0.05)
RATES = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)  # false positives an image
RECALLS = np.linspace(0.0, 1.0, 101)
MOST = 100  # detections of a class in an image that COCO counts
OVERLAPPED = 0.5  # share of a detection inside of a region that is not counted, from which it is not counted either
DEFINITIONS = {
    "map": "COCO mean average precision: precision interpolated at 101 recalls, mean over IoU .50, .55, ..., .95 and over "
    "classes that the images hold; at most 100 detections of a class an image; crowd regions count neither way",
    "map50": "COCO average precision at IoU .50, mean over classes",
    "mar": "COCO average recall: share of the boxes that are found with at most 100 detections of a class an image, mean "
    "over IoU .50 to .95 and over classes",
    "rsna": "metric of the RSNA pneumonia challenge: of the boxes kept at the operating point, TP / (TP + FP + FN) an image, "
    "mean over IoU above .40, .45, ..., .75; an image without true boxes is 0 if any is kept and left out if none is",
    "f1": "F1 of the boxes kept at the operating point, under the hit rule of froc",
    "sensitivity": "share of the lesions that a box kept at the operating point hits, under the hit rule of froc",
    "ppv": "share of the boxes kept at the operating point that hit a lesion, under the hit rule of froc",
}


def iou(a: np.ndarray, b: np.ndarray, crowd: np.ndarray | None = None) -> np.ndarray:
    """Intersection over union of boxes [m, 4] and [k, 4], float64 [m, k]; over the area of a alone where b is `crowd` [k]."""
    a, b = np.asarray(a, np.float64).reshape(-1, 4), np.asarray(b, np.float64).reshape(-1, 4)
    low, high = np.maximum(a[:, None, :2], b[None, :, :2]), np.minimum(a[:, None, 2:], b[None, :, 2:])
    both = np.maximum(high - low, 0).prod(-1)
    own, other = (np.maximum(x[:, 2:] - x[:, :2], 0).prod(-1) for x in (a, b))
    whole = own[:, None] + other[None] - both
    if crowd is not None:
        whole = np.where(np.asarray(crowd, bool)[None], own[:, None], whole)
    return np.divide(both, whole, out=np.zeros_like(both), where=whole > 0)


def match(
    boxes: np.ndarray,
    score: np.ndarray,
    category: np.ndarray,
    truth: np.ndarray,
    truth_category: np.ndarray,
    crowd: np.ndarray,
    *,
    thresholds: np.ndarray = COCO,
    most: int = MOST,
    area: tuple[float, float] | None = None,
    areas: np.ndarray | None = None,
) -> np.ndarray:
    """Marks of an image's detections, int8 [D, T], as pycocotools matches them (COCOeval.evaluateImg).

    In descending order of score each detection takes the box that it overlaps most, of those not taken yet, if by at least
    the threshold. Crowd regions, and boxes outside of an `area` range, take any number and mark -1; so are marked detections
    without a box whose own area is outside of the range, those of category -1 (padding), and those beyond the first `most`.

    Args:
      boxes, score, category: of detections, [D, 4], [D] and int [D].
      truth, truth_category, crowd: of true boxes, [m, 4], int [m] and bool [m].
      thresholds: IoU [T].
      most: detections of a class that count.
      area: least and greatest area of boxes that count, in square pixels; all by default.
      areas: of the true boxes, where they are not width times height (COCO gives those of masks).
    """
    marks = np.full((len(score), len(thresholds)), -1, np.int8)
    for k in np.unique(category[category >= 0]):
        mine = np.flatnonzero(category == k)
        mine = mine[np.argsort(-score[mine], kind="stable")][:most]
        own = truth_category == k
        sizes = _areas(truth) if areas is None else areas
        ignored = crowd[own] if area is None else crowd[own] | (sizes[own] < area[0]) | (sizes[own] > area[1])
        order = np.argsort(ignored, kind="stable")
        ignored, people = ignored[order], crowd[own][order]
        overlap = iou(boxes[mine], truth[own][order], people)
        taken = _take(overlap, ignored, people, np.minimum(thresholds, 1 - 1e-10))
        found = np.where(taken < 0, 0, 1)
        if len(ignored):
            found = np.where((taken >= 0) & ignored[np.maximum(taken, 0)], -1, found)
        if area is not None:
            size = _areas(boxes[mine])
            outside = (size < area[0]) | (size > area[1])
            found = np.where((taken < 0) & outside[:, None], -1, found)
        marks[mine] = found
    return marks


def _areas(boxes: np.ndarray) -> np.ndarray:
    return np.maximum(np.asarray(boxes, np.float64)[:, 2:] - boxes[:, :2], 0).prod(-1)


def _take(overlap: np.ndarray, ignored: np.ndarray, crowd: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """The box that each detection takes at each threshold, int [d, T], -1 for none; boxes that count stand first."""
    taken = np.full((len(overlap), len(thresholds)), -1)
    if not overlap.size:
        return taken
    free = np.ones((len(thresholds), overlap.shape[1]), bool)
    counted = int((~ignored).sum())
    for d in np.flatnonzero(overlap.max(1) >= thresholds.min()):
        could = (overlap[d] >= thresholds[:, None]) & (free | crowd)
        for t in np.flatnonzero(could.any(1)):
            # One that counts is taken before any that does not; among equals the last, as pycocotools has it.
            part = slice(0, counted) if could[t, :counted].any() else slice(counted, None)
            value = np.where(could[t, part], overlap[d, part], -1.0)
            g = (part.start or 0) + len(value) - 1 - int(value[::-1].argmax())
            taken[d, t], free[t, g] = g, False
    return taken


def average_precision(score: np.ndarray, marks: np.ndarray, positives: int) -> tuple[np.ndarray, np.ndarray]:
    """(average precision [T], recall [T]) of one class over images, as pycocotools accumulates them.

    Args:
      score: [m], of detections in the order of the images.
      marks: int8 [m, T] from `match`; rows of -1 are left out.
      positives: number of true boxes that count; with 0 both are NaN.
    """
    if not positives:
        return np.full(marks.shape[1], np.nan), np.full(marks.shape[1], np.nan)
    if not len(score):
        return np.zeros(marks.shape[1]), np.zeros(marks.shape[1])
    marks = marks[np.argsort(-score, kind="stable")]
    tp, fp = np.cumsum(marks == 1, 0, dtype=np.float64), np.cumsum(marks == 0, 0, dtype=np.float64)
    recall = tp / positives
    precision = tp / (tp + fp + np.spacing(1))
    precision = np.maximum.accumulate(precision[::-1], 0)[::-1]
    found = np.zeros(marks.shape[1])
    for t in range(marks.shape[1]):
        at = np.searchsorted(recall[:, t], RECALLS, side="left")
        found[t] = precision[at[at < len(recall)], t].sum() / len(RECALLS)
    return found, recall[-1]


def coco(score: np.ndarray, category: np.ndarray, marks: np.ndarray, positives: np.ndarray) -> dict[str, np.ndarray]:
    """{"ap": float [K, T], "recall": float [K, T]} over images, NaN for classes without a true box.

    Args:
      score, category: [n, D] and int [n, D], -1 for padding.
      marks: int8 [n, D, T] from `match`.
      positives: int [n, K], true boxes that count.
    """
    total = positives.sum(0)
    flat_score, flat_category, flat = score.ravel(), category.ravel(), marks.reshape(-1, marks.shape[-1])
    both = []
    for k in range(len(total)):
        mine = np.flatnonzero(flat_category == k)
        both.append(average_precision(flat_score[mine], flat[mine], int(total[k])))
    ap, recall = (np.stack(x) for x in zip(*both, strict=True))
    return {"ap": ap, "recall": recall}


class Rule(NamedTuple):
    """When a detection hits a lesion.

    Attributes:
      at: least IoU; 0 for the detection's centre inside of the lesion's box.
    """

    at: float = 0.3

    @property
    def words(self) -> str:
        """The rule as a report states it."""
        how = f"its IoU with it is {self.at:g} or more" if self.at else "its centre lies inside of the lesion's box"
        return (
            f"a detection hits a lesion of its class if {how}; each lesion counts once, and further detections of a lesion "
            "that is found already count neither way"
        )


USUAL = Rule()


def hits(
    boxes: np.ndarray,
    score: np.ndarray,
    category: np.ndarray,
    truth: np.ndarray,
    truth_category: np.ndarray,
    crowd: np.ndarray,
    *,
    rule: Rule = USUAL,
) -> np.ndarray:
    """The lesion that each detection of an image is the first to hit, int [D]; -1: none, -2: not counted.

    In descending order of score a detection takes, of the lesions that it hits, the one not found yet that it overlaps most.
    Not counted are further hits of lesions that are found, detections that lie half or more in a crowd region, and padding.

    Args: as of `match`.
    """
    found = np.full(len(score), -2)
    overlap = iou(boxes, truth, crowd)
    if rule.at:
        touches = overlap >= rule.at
    else:
        centre = (boxes[:, :2] + boxes[:, 2:])[:, None] / 2
        touches = ((centre >= truth[None, :, :2]) & (centre < truth[None, :, 2:])).all(-1)
    touches &= category[:, None] == truth_category[None]
    inside = (overlap >= OVERLAPPED) & crowd[None] & (category[:, None] == truth_category[None])
    free = ~crowd
    for d in np.argsort(-score, kind="stable"):
        if category[d] < 0:
            continue
        mine = touches[d] & ~crowd
        if (mine & free).any():
            found[d] = int(np.where(mine & free, overlap[d], -1.0).argmax())
            free[found[d]] = False
        elif not mine.any() and not inside[d].any():
            found[d] = -1
    return found


def froc_curve(score: np.ndarray, hit: np.ndarray, lesions: int, images: int) -> tuple[np.ndarray, np.ndarray]:
    """(false positives an image [m], sensitivity [m]) at each distinct score, in descending order, from (0, 0) on.

    Args:
      score: [d] of all detections.
      hit: int [d] from `hits`.
      lesions, images: how many there are.
    """
    counted = hit > -2
    score, hit = score[counted], hit[counted]
    order = np.argsort(-score, kind="stable")
    score, true = score[order], hit[order] >= 0
    last = np.append(score[1:] != score[:-1], True) if len(score) else np.zeros(0, bool)
    fp = np.concatenate([[0.0], np.cumsum(~true)[last] / max(images, 1)])
    tp = np.concatenate([[0.0], np.cumsum(true)[last]])
    return fp, tp / lesions if lesions else np.full(len(tp), np.nan)


def sensitivity_at(fp: np.ndarray, sensitivity: np.ndarray, rates: ArrayLike = RATES) -> np.ndarray:
    """The greatest sensitivity of a `froc_curve` with at most so many false positives an image, float [len(rates)]."""
    return sensitivity[np.searchsorted(fp, np.asarray(rates) + 1e-12, side="right") - 1]


def rsna(kept: np.ndarray, marks: np.ndarray, positives: np.ndarray) -> np.ndarray:
    """The challenge's score of each image [n], mean over its thresholds; NaN where there is neither a true nor a kept box.

    https://www.kaggle.com/competitions/rsna-pneumonia-detection-challenge, "Evaluation": a hit needs an IoU greater than the
    threshold, so `marks` come from `match` with `above(RSNA)`.

    Args:
      kept: bool [n, D], the boxes that are given.
      marks: int8 [n, D, 8].
      positives: int [n].
    """
    counted = kept[..., None] & (marks >= 0)
    tp = (counted & (marks == 1)).sum(1).astype(np.float64)
    whole = counted.sum(1) + positives[:, None] - tp
    return np.where(whole[:, 0] > 0, (tp / np.maximum(whole, 1)).mean(1), np.nan)


def above(thresholds: np.ndarray) -> np.ndarray:
    """The least numbers greater than these, for which "at least" means "greater than"."""
    return np.nextafter(np.round(thresholds, 10), 1)


def judge(
    boxes: np.ndarray,
    score: np.ndarray,
    category: np.ndarray,
    truth: np.ndarray,
    truth_category: np.ndarray,
    crowd: np.ndarray,
    *,
    classes: int,
    rule: Rule = USUAL,
) -> dict[str, np.ndarray]:
    """An image's detections by all rules: `coco` int8 [D, 10], `rsna` int8 [D, 8], `hit` int32 [D], and `lesions` int32 [K].

    Args: as of `match`, K `classes`, and the `rule` of `hits`.
    """
    args = boxes, score, category, truth, truth_category, crowd
    return {
        "coco": match(*args),
        "rsna": match(*args, thresholds=above(RSNA)),
        "hit": hits(*args, rule=rule).astype(np.int32),
        "lesions": np.bincount(truth_category[~crowd], minlength=classes).astype(np.int32),
    }


def summarise(rows: Mapping[str, np.ndarray], classes: Sequence[str]) -> dict[str, float]:
    """All measures over images, NaN where there is nothing to measure; those of single classes where there are several.

    Args:
      rows: of each image `score` [n, D], `category` int [n, D], what `judge` gives, `kept` bool [n, D] (the boxes at the
        operating point) and `challenge` [n] (`rsna` of these).
      classes: names, K.
    """
    score, category, hit, lesions = (rows[name] for name in ("score", "category", "hit", "lesions"))
    found: dict[str, float] = {}
    if not len(score):
        return found
    table = coco(score, category, rows["coco"], lesions)
    held = lesions.sum(0) > 0
    found["map"] = _mean(table["ap"][held])
    found["map50"] = _mean(table["ap"][held, 0])
    found["mar"] = _mean(table["recall"][held])
    rates = sensitivity_at(*froc_curve(score.ravel(), hit.ravel(), int(lesions.sum()), len(score)))
    found["froc"] = float(rates.mean())
    found |= dict(zip(froc_names(), rates.tolist(), strict=True))
    found |= at_point(rows["kept"], hit, int(lesions.sum()))
    images = rows["challenge"][np.isfinite(rows["challenge"])]
    found["rsna"] = float(images.mean()) if len(images) else np.nan
    if len(classes) > 1:
        for k, name in enumerate(classes):
            found[f"map/{name}"], found[f"map50/{name}"] = _mean(table["ap"][k]), float(table["ap"][k, 0])
            own = category == k
            curve = froc_curve(score[own], hit[own], int(lesions[:, k].sum()), len(score))
            found[f"froc_1/{name}"] = float(sensitivity_at(*curve, rates=(1.0,))[0])
    return found


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if values.size and np.isfinite(values).all() else np.nan


def at_point(kept: np.ndarray, hit: np.ndarray, lesions: int) -> dict[str, float]:
    """{"f1", "sensitivity", "ppv"} of the boxes that are kept, bool [n, D], by the lesions that they hit, int [n, D]."""
    tp, fp = int((kept & (hit >= 0)).sum()), int((kept & (hit == -1)).sum())
    return {
        "f1": 2 * tp / (tp + fp + lesions) if tp + fp + lesions else np.nan,
        "sensitivity": tp / lesions if lesions else np.nan,
        "ppv": tp / (tp + fp) if tp + fp else np.nan,
    }


def froc_names(rates: Sequence[float] = RATES) -> list[str]:
    """`froc_1` and the like."""
    return [f"froc_{rate:g}" for rate in rates]


def definitions(rule: Rule, classes: Sequence[str]) -> Mapping[str, str]:
    """{metric: text} with the hit rule in force."""
    words = dict(DEFINITIONS)
    words["froc"] = f"mean of the sensitivities at 1/8, 1/4, 1/2, 1, 2, 4 and 8 false positives an image; {rule.words}"
    for rate, name in zip(RATES, froc_names(), strict=True):
        words[name] = f"sensitivity for lesions at no more than {rate:g} false positives an image; {rule.words}"
    if len(classes) > 1:
        shared = ("map", "map50", "froc_1")
        words |= {f"{name}/{label}": f"{words[name]}; of this class alone" for name in shared for label in classes}
    return words
