"""What is measured, decided and written of detections, and the Job's defaults."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from medjax.cases import Cases, Rows
from medjax.core import About, Augment, Baseline, Examples, Job, Task
from medjax.metrics import detection as metrics
from medjax.tasks import detection_figures
from medjax.tasks.detection_cases import check
from medjax.tasks.tables import score_columns, write_cases

Keep = Literal["f1", "rsna"]


def measure(rows: Rows, cases: Cases, *, classes: Sequence[str]) -> dict[str, float]:
    """The measures of `medjax.metrics.detection` over the images in which somebody has looked for boxes; rows are decided."""
    known = (cases["label"] >= 0).any(1)
    if not known.all():
        rows = {name: x[known] for name, x in rows.items()}
    return metrics.summarise(rows, classes)


def calibrate(rows: Rows, cases: Cases, *, keep: Keep = "f1") -> dict[str, np.ndarray]:
    """{"threshold": float}: the score from which boxes are kept, of the best F1 or RSNA score on validation data."""
    known = (cases["label"] >= 0).any(1)
    score, lesions = rows["score"][known], rows["lesions"][known]
    held = np.unique(score[rows["category"][known] >= 0])
    if not len(held):
        return {"threshold": np.array(0.5)}
    tried = np.unique(held[np.linspace(0, len(held) - 1, min(len(held), 200)).astype(int)])
    if keep == "rsna":
        images = [metrics.rsna(score >= t, rows["rsna"][known], lesions.sum(1)) for t in tried]
        values = [float(np.nanmean(x)) if np.isfinite(x).any() else 0.0 for x in images]
    else:
        hit, total = rows["hit"][known], int(lesions.sum())
        values = [metrics.at_point((score >= t) & (rows["category"][known] >= 0), hit, total)["f1"] for t in tried]
    return {"threshold": np.array(tried[int(np.nan_to_num(values).argmax())], np.float64)}


def decide(point: Mapping[str, np.ndarray], rows: Rows) -> Rows:
    """Rows with `kept` bool [n, D], the boxes at the operating point, and `challenge` [n], the RSNA challenge's score there."""
    threshold = float(point.get("threshold", 0.5))
    kept = (rows["score"] >= threshold) & (rows["category"] >= 0)
    # Of each image once, so that a resample of images only takes means.
    return {**rows, "kept": kept, "challenge": metrics.rsna(kept, rows["rsna"], rows["lesions"].sum(1))}


def write(rows: Rows, cases: Cases, *, classes: Sequence[str], rule: metrics.Rule = metrics.USUAL) -> dict[str, str | bytes]:
    """What is kept of detections.

    ".csv": id, patient, truth and pred (boxes: true ones, and those kept), the highest score of each class, and group where it
    is known. ".json": all detections in COCO's form of results, `image_id` and `category_id` as the data has them.
    "_truth.json": the true boxes of the images in which somebody has looked for any, in COCO's form, so that other tools and
    comparisons measure the same; `file_name` is the id, and `info` states the hit rule.
    """
    known = (cases["label"] >= 0).any(1)
    numbers = _numbers(cases)
    kinds = [int(k) for k in cases["numbers"][0]]
    listed, true = [], _Truth(kinds, classes, rule)
    columns = [cases[name] for name in ("id", "size", "boxes", "category", "crowd")]
    for i, (number, case, size, *truth) in enumerate(zip(numbers, *columns, strict=True)):
        if known[i]:
            true.add(number, str(case), size, *truth)
        for box, k, s in zip(*(rows[name][i].tolist() for name in ("boxes", "category", "score")), strict=True):
            if k >= 0:
                box = [round(v, 5) for v in _coco_box(box)]
                listed.append({"image_id": number, "category_id": kinds[k], "bbox": box, "score": float(f"{s:.9g}")})
    best = [np.where(rows["category"] == k, rows["score"], 0).max(1, initial=0) for k in range(len(classes))]
    table = {
        "truth": [int(n) if k else "" for n, k in zip(rows["lesions"].sum(1), known, strict=True)],
        "pred": rows["kept"].sum(1).tolist(),
        **score_columns(np.stack(best, 1), classes),
    }
    found: dict[str, str | bytes] = {".csv": write_cases(cases, table), ".json": json.dumps(listed)}
    return {**found, "_truth.json": json.dumps(true.content)} if known.any() else found


def _numbers(cases: Cases) -> list[int | str]:
    """What COCO's results call the images: as the data does, or their ids where that would call two alike."""
    numbers = cases["number"]
    if len(np.unique(numbers)) < len(numbers):
        return [str(case) for case in cases["id"]]
    return [int(number) if str(number).isdecimal() else str(number) for number in numbers]


def _coco_box(box: Sequence[float]) -> list[float]:
    x0, y0, x1, y1 = box
    return [x0, y0, x1 - x0, y1 - y0]


class _Truth:
    """True boxes in COCO's form as they are added, image by image."""

    def __init__(self, kinds: Sequence[int], classes: Sequence[str], rule: metrics.Rule):
        self.kinds = kinds
        self.content: dict[str, Any] = {"info": {"hit_iou": rule.at}, "images": [], "annotations": []}
        self.content["categories"] = [{"id": k, "name": name} for k, name in zip(kinds, classes, strict=True)]

    def add(self, number: int | str, case: str, size: np.ndarray, boxes: Any, kind: np.ndarray, crowd: np.ndarray) -> None:
        height, width = size.tolist()
        self.content["images"].append({"id": number, "file_name": case, "height": height, "width": width})
        notes = self.content["annotations"]
        for box, k, many in zip(boxes.tolist(), kind.tolist(), crowd.tolist(), strict=True):
            x, y, w, h = _coco_box(box)
            # From 1 on: pycocotools takes a box of id 0 for one that nothing has found.
            about = {"id": len(notes) + 1, "image_id": number, "category_id": self.kinds[k], "bbox": [x, y, w, h]}
            notes.append({**about, "area": w * h, "iscrowd": int(many)})


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
        write=functools.partial(write, classes=classes, rule=rule),
        calibrate=functools.partial(calibrate, keep=keep),
        decide=decide,
        examples=examples,
        check=functools.partial(check, classes=classes),
    )
