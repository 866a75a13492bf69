"""What is measured, decided and written of detections, and the Job's defaults."""

from __future__ import annotations

import csv
import functools
import io
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from medjax.core import About, Augment, Baseline, Cases, Examples, Job, Rows, Task
from medjax.metrics import detection as metrics
from medjax.tasks import detection_figures
from medjax.tasks.detection_cases import check

Keep = Literal["f1", "rsna"]


def measure(rows: Rows, cases: Cases, *, classes: Sequence[str]) -> dict[str, float]:
    """The measures of `medjax.metrics.detection` over the images in which somebody has looked for boxes; rows are decided."""
    known = (cases["label"] >= 0).any(1)
    if not known.all():
        rows = {name: x[known] for name, x in rows.items()}
    score, category, hit, lesions = (rows[name] for name in ("score", "category", "hit", "lesions"))
    found: dict[str, float] = {}
    if not len(score):
        return found
    table = metrics.coco(score, category, rows["coco"], lesions)
    held = lesions.sum(0) > 0
    found["map"] = _mean(table["ap"][held])
    found["map50"] = _mean(table["ap"][held, 0])
    found["mar"] = _mean(table["recall"][held])
    rates = metrics.sensitivity_at(*metrics.froc_curve(score.ravel(), hit.ravel(), int(lesions.sum()), len(score)))
    found["froc"] = float(rates.mean())
    found |= dict(zip(metrics.froc_names(), rates.tolist(), strict=True))
    found |= _at_point(rows["kept"], hit, int(lesions.sum()))
    images = rows["challenge"][np.isfinite(rows["challenge"])]
    found["rsna"] = float(images.mean()) if len(images) else np.nan
    if len(classes) > 1:
        for k, name in enumerate(classes):
            found[f"map/{name}"], found[f"map50/{name}"] = _mean(table["ap"][k]), float(table["ap"][k, 0])
            own = category == k
            curve = metrics.froc_curve(score[own], hit[own], int(lesions[:, k].sum()), len(score))
            found[f"froc_1/{name}"] = float(metrics.sensitivity_at(*curve, rates=(1.0,))[0])
    return found


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if values.size and np.isfinite(values).all() else np.nan


def _at_point(kept: np.ndarray, hit: np.ndarray, lesions: int) -> dict[str, float]:
    tp, fp = int((kept & (hit >= 0)).sum()), int((kept & (hit == -1)).sum())
    return {
        "f1": 2 * tp / (tp + fp + lesions) if tp + fp + lesions else np.nan,
        "sensitivity": tp / lesions if lesions else np.nan,
        "ppv": tp / (tp + fp) if tp + fp else np.nan,
    }


def calibrate(rows: Rows, cases: Cases, *, keep: Keep = "f1") -> dict[str, np.ndarray]:
    """{"threshold": float}: the score from which boxes are kept, of the best F1 or RSNA score on validation data."""
    known = (cases["label"] >= 0).any(1)
    score, lesions = rows["score"][known], rows["lesions"][known]
    held = np.unique(score[rows["category"][known] >= 0])
    if not len(held):
        return {"threshold": np.array(0.5)}
    tried = np.unique(held[np.linspace(0, len(held) - 1, min(len(held), 200)).astype(int)])
    if keep == "rsna":
        images = [metrics.rsna(score, rows["rsna"][known], lesions.sum(1), float(t)) for t in tried]
        values = [float(np.nanmean(x)) if np.isfinite(x).any() else 0.0 for x in images]
    else:
        hit, total = rows["hit"][known], int(lesions.sum())
        values = [_at_point((score >= t) & (rows["category"][known] >= 0), hit, total)["f1"] for t in tried]
    return {"threshold": np.array(tried[int(np.nan_to_num(values).argmax())], np.float64)}


def decide(point: Mapping[str, np.ndarray], rows: Rows) -> Rows:
    """Rows with `kept` bool [n, D], the boxes at the operating point, and `challenge` [n], the RSNA challenge's score there."""
    threshold = float(point.get("threshold", 0.5))
    kept = (rows["score"] >= threshold) & (rows["category"] >= 0)
    # Of each image once, so that a resample of images only takes means.
    return {**rows, "kept": kept, "challenge": metrics.rsna(rows["score"], rows["rsna"], rows["lesions"].sum(1), threshold)}


def write(rows: Rows, cases: Cases, *, classes: Sequence[str]) -> dict[str, str | bytes]:
    """{".csv": id, patient, truth and pred (boxes: true ones, and those kept), the highest score of each class; ".json": all
    detections in COCO's form of results, `image_id` and `category_id` as the data has them}.
    """
    out, listed = io.StringIO(), []
    table = csv.writer(out, lineterminator="\n")
    table.writerow(["id", "patient", "truth", "pred", *(f"score/{name}" for name in classes)])
    known = (cases["label"] >= 0).any(1)
    columns = [cases[name] for name in ("id", "patient", "number", "numbers")]
    for i, (case, patient, number, numbers) in enumerate(zip(*columns, strict=True)):
        category, score = rows["category"][i], rows["score"][i]
        best = [score[category == k].max(initial=0.0) for k in range(len(classes))]
        truth = int(rows["lesions"][i].sum()) if known[i] else ""
        table.writerow([case, patient, truth, int(rows["kept"][i].sum()), *(f"{v:.9g}" for v in best)])
        image = int(number) if str(number).isdecimal() else str(number)
        for (x0, y0, x1, y1), k, s in zip(rows["boxes"][i].tolist(), category.tolist(), score.tolist(), strict=True):
            if k >= 0:
                box = [round(v, 5) for v in (x0, y0, x1 - x0, y1 - y0)]
                listed.append({"image_id": image, "category_id": int(numbers[k]), "bbox": box, "score": float(f"{s:.9g}")})
    return {".csv": out.getvalue(), ".json": json.dumps(listed)}


def detection_job(
    task: Task,
    *,
    about: About,
    sources: Callable[[], Mapping[str, Any]],
    read: Callable[[Sequence[Any]], Any],
    preprocess: Callable[[dict], dict],
    examples: Examples,
    augment: Callable | Augment | None = None,
    baselines: Mapping[str, Baseline],
    rule: metrics.Rule = metrics.USUAL,
    keep: Keep = "f1",
) -> Job:
    """A Job of detection with this task's defaults.

    Args:
      task: from `medjax.tasks.detection.detection`.
      about: words of the report.
      sources: -> {split or "all": BoxSource}.
      read: paths -> BoxSource without boxes, for prediction.
      preprocess, examples: see `medjax.tasks.detection_cases`.
      augment: of `image`, `boxes`, `category` and `extent` together.
      baselines: see `medjax.tasks.detection_baselines`.
      rule: when a detection hits a lesion.
      keep: what the operating point is best by.
    """
    classes = about.classes
    return Job(
        about=about._replace(definitions={**metrics.definitions(rule, classes), **about.definitions}),
        task=task,
        sources=sources,
        read=read,
        preprocess=preprocess,
        augment=augment,
        measure=functools.partial(measure, classes=classes),
        baselines=baselines,
        figures=functools.partial(detection_figures.figures, classes=classes, rule=rule),
        write=functools.partial(write, classes=classes),
        calibrate=functools.partial(calibrate, keep=keep),
        decide=decide,
        examples=examples,
        check=functools.partial(check, classes=classes),
    )
