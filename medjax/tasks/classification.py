"""Classify images: the Task, and defaults for everything else of a Job."""

from __future__ import annotations

import csv
import functools
import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from medjax import metrics
from medjax.core import About, Baseline, Batch, Cases, Figure, Job, Rows, Task
from medjax.data.augment import to_unit
from medjax.data.folders import image_source
from medjax.formats.image import resize, to_grey
from medjax.tasks import baselines as simple
from medjax.tasks.supervised import supervised

GRID = np.linspace(0, 1, 101)
PICTURES = 6  # a row of the page of hits and misses


def standardise(image: jax.Array) -> jax.Array:
    """Each image [n, H, W, C] to mean 0 and standard deviation 1; MR intensities have no unit of their own."""
    image = to_unit(image)
    axes = tuple(range(1, image.ndim))
    centred = image - image.mean(axes, keepdims=True)
    return centred * jax.lax.rsqrt(jnp.square(centred).mean(axes, keepdims=True) + 1e-6)


def mirrored(image: jax.Array) -> jax.Array:
    """Images [n, H, W, C] and their left-right mirror images, [n, 2, H, W, C]."""
    return jnp.stack([image, image[:, :, ::-1]], axis=1)


def classification(
    model: nn.Module,
    tx: optax.GradientTransformation,
    *,
    inputs: Callable[[Batch], Any] = lambda batch: standardise(batch["image"]),
    smoothing: float = 0.0,
    views: Callable[[jax.Array], jax.Array] | None = None,
) -> Task:
    """One class out of several, by softmax and cross-entropy.

    Args:
      model: x -> logits [n, K].
      tx: optimizer.
      inputs: batch -> x.
      smoothing: label smoothing e: the target is (1 - e) * one-hot + e / K (Szegedy et al., CVPR 2016, section 7).
      views: views of x whose probabilities are averaged at evaluation and prediction, such as `mirrored`.

    Returns:
      Task over batches with an int `label` [n], -1 where it is missing; rows and outputs are `score` [n, K], probabilities.
    """

    def loss(logits: jax.Array, batch: Batch) -> tuple[jax.Array, jax.Array]:
        label = batch["label"]
        k = logits.shape[-1]
        target = (1 - smoothing) * jax.nn.one_hot(label, k) + smoothing / k
        return optax.softmax_cross_entropy(logits, target), (label >= 0).astype(jnp.float32)

    def outputs(logits: jax.Array) -> dict[str, jax.Array]:
        return {"score": jax.nn.softmax(logits.astype(jnp.float32))}

    return supervised(model, tx, inputs=inputs, loss=loss, outputs=outputs, views=views)


def preprocess_image(example: dict, *, size: int, crop: Callable[[np.ndarray], tuple] | None = None) -> dict:
    """An image to a grey square [size, size, 1] uint8, and its `header`: what is known without the content.

    Images deeper than 8 bits are scaled by their own range, since `standardise` takes no account of it.

    Args:
      example: `image` [H, W] or [H, W, 3], and the rest, which is kept.
      size: side in pixels; the aspect is not kept, as it may give the class away.
      crop: image [H, W] -> (y0, y1, x0, x1) to keep.
    """
    image = example["image"]
    height, width = image.shape[:2]
    known = [np.log(height), np.log(width), np.log(width / height), image.ndim, image.dtype.itemsize]
    grey = to_grey(image)
    if grey.dtype != np.uint8:
        low, high = float(grey.min()), float(grey.max())
        grey = np.round((grey.astype(np.float32) - low) * (255 / max(high - low, 1e-12))).astype(np.uint8)
    if crop is not None:
        y0, y1, x0, x1 = crop(grey)
        grey = grey[y0:y1, x0:x1]
    return {**example, "image": resize(grey, (size, size))[..., None], "header": np.array(known, np.float32)}


def measure(rows: Rows, cases: Cases, *, classes: Sequence[str]) -> dict[str, float]:
    """All classification metrics of `score` and `pred`; `auroc_matched` where the cases have pairs."""
    label = cases["label"]
    found = metrics.classification(label, rows["score"], rows["pred"], tuple(classes))
    if "pair" in cases and len(classes) == 2:
        found["auroc_matched"] = metrics.auroc_matched(label, rows["score"][:, 1], cases["pair"])
    return found


def calibrate(rows: Rows, cases: Cases) -> dict[str, np.ndarray]:
    """The operating point of a two-class problem: the threshold with the largest Youden index on these cases."""
    if rows["score"].shape[1] != 2:
        return {}
    return {"threshold": np.array(metrics.youden_threshold(cases["label"], rows["score"][:, 1]))}


def decide(point: Mapping[str, np.ndarray], rows: Rows) -> Rows:
    """Add `pred` [n], P(positive) at or above the threshold with two classes, the likeliest class with more; and `sure` [n],
    0 at the decision's edge and 1 at its surest.
    """
    score = rows["score"]
    if "threshold" not in point:
        return {**rows, "pred": score.argmax(1), "sure": score.max(1)}
    positive, threshold = score[:, 1], np.clip(point["threshold"], 1e-6, 1 - 1e-6)
    pred = positive >= point["threshold"]
    sure = np.where(pred, (positive - threshold) / (1 - threshold), (threshold - positive) / threshold)
    return {**rows, "pred": pred.astype(int), "sure": sure}


def write(rows: Rows, cases: Cases, *, classes: Sequence[str]) -> dict[str, str]:
    """{".csv": table} with columns id, patient, truth, pred, score/CLASS..."""
    out = io.StringIO()
    table = csv.writer(out, lineterminator="\n")
    table.writerow(["id", "patient", "truth", "pred", *(f"score/{name}" for name in classes)])
    for case, patient, label, pred, score in zip(
        cases["id"], cases["patient"], cases["label"], rows["pred"], rows["score"], strict=True
    ):
        truth = classes[label] if label >= 0 else ""
        table.writerow([case, patient, truth, classes[pred], *(f"{s:.9g}" for s in score)])
    return {".csv": out.getvalue()}


def figures(rows: Rows, cases: Cases, others: Mapping[str, Rows], *, classes: Sequence[str]) -> dict[str, Figure]:
    """ROC curves beside the baselines', calibration, confusion, and a page of hits and misses."""
    label = cases["label"]
    found: dict[str, Figure] = {}
    binary = len(classes) == 2
    for k in [1] if binary else range(len(classes)):
        lines = []
        for name, scores in (("network", rows), *others.items()):
            if name == "majority":
                continue
            is_k = np.where(label < 0, -1, label == k)
            x, y, _ = metrics.roc_curve(is_k, scores["score"][:, k])
            line = {"label": f"{name} ({metrics.auroc(is_k, scores['score'][:, k]):.3f})", "x": x, "y": y}
            if name == "network":
                lo, hi = metrics.roc_band(is_k, scores["score"][:, k], cases["group"], grid=GRID, resamples=500, seed=0)
                line = {**line, "y": np.interp(GRID, x, y), "x": GRID, "lo": lo, "hi": hi}
            lines.append(line)
        found["roc" if binary else f"roc_{classes[k]}"] = Figure(
            "lines",
            f"ROC: {classes[k]}" if not binary else "ROC curve",
            "How many of the sick are found (sensitivity) for how many of the well called sick. In brackets the AUROC; "
            "the band is the 95 % interval at each point.",
            {"lines": lines, "xlabel": "1 − specificity", "ylabel": "sensitivity", "diagonal": True},
        )
        if binary:
            x, y, _ = metrics.reliability(label, rows["score"][:, 1])
            found["calibration"] = Figure(
                "lines",
                "Calibration",
                "Of the cases given about this probability, how many were positive. On the diagonal, a probability means "
                "what it says.",
                {
                    "lines": [{"label": "network", "x": x, "y": y, "style": "points"}],
                    "xlabel": f"predicted probability of {classes[1]!r}",
                    "ylabel": "observed share",
                    "diagonal": True,
                },
            )
    table = metrics.confusion(label, rows["pred"], len(classes))
    found["confusion"] = Figure(
        "matrix",
        "Confusion matrix",
        "Cases by what they are and what the network called them.",
        {"values": table, "rows": list(classes), "columns": list(classes), "xlabel": "called", "ylabel": "truth"},
    )
    if "image" in cases:
        found["hits_and_misses"] = _pictures(rows, cases, classes)
    return found


def _pictures(rows: Rows, cases: Cases, classes: Sequence[str]) -> Figure:
    label, pred, score = cases["label"], rows["pred"], rows["score"]
    sure, group = rows["sure"], cases["group"]
    shown = 1 if len(classes) == 2 else pred  # the class whose probability is shown
    chance = score[np.arange(len(score)), shown]
    of = np.broadcast_to(shown, pred.shape)
    lines = []
    for name, wanted in (("right, surest", pred == label), ("wrong, surest", pred != label), ("least sure", label >= 0)):
        for k in range(len(classes)) if name != "least sure" else (None,):
            rank = np.flatnonzero(wanted & (label >= 0) & ((label == k) if k is not None else True))
            rank = rank[np.argsort(sure[rank] if k is None else -sure[rank], kind="stable")]
            # One picture a group: eight copies of one case teach nothing.
            _, first = np.unique(group[rank], return_index=True)
            chosen = rank[np.sort(first)][:PICTURES]
            if len(chosen):
                titles = [f"{classes[label[i]]} · P({classes[of[i]]}) {chance[i]:.2f}" for i in chosen]
                images = cases.take(chosen)["image"]
                images = images[..., 0] if images.shape[-1] == 1 else images
                title = name if k is None else f"{classes[k]}\n{name}"
                lines.append({"label": title, "images": images, "titles": titles})
    return Figure(
        "grid",
        "Hits and misses",
        "As the network saw them: the cases it was surest of, right and wrong, and those it was least sure of, one of each "
        "group. Above each: the truth, and the probability that the network gave.",
        {"rows": lines},
    )


def classification_job(
    task: Task,
    *,
    about: About,
    sources: Callable[[], Mapping[str, Any]],
    size: int,
    crop: Callable[[np.ndarray], tuple] | None = None,
    augment: Callable | None = None,
    baselines: Mapping[str, Baseline] | None = None,
) -> Job:
    """A Job of image classification with this task file's defaults.

    Args:
      task: from `classification`.
      about: words of the report; its classes are the labels' names.
      sources: -> {split or "all": Source} of examples with `image` and `label`.
      size: side of the square that images are prepared to.
      crop: what to keep of an image before that.
      augment: in training.
      baselines: majority, logistic and header by default.
    """
    k = len(about.classes)
    defaults = {"logistic": simple.logistic(k), "header": simple.header(k), "majority": simple.majority(k)}
    return Job(
        about=about._replace(definitions={**metrics.DEFINITIONS, **about.definitions}),
        task=task,
        sources=sources,
        read=image_source,
        preprocess=functools.partial(preprocess_image, size=size, crop=crop),
        augment=augment,
        measure=functools.partial(measure, classes=about.classes),
        baselines=defaults if baselines is None else baselines,
        figures=functools.partial(figures, classes=about.classes),
        write=functools.partial(write, classes=about.classes),
        calibrate=calibrate,
        decide=decide,
    )
