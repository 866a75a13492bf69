"""Classify images: the Task, and defaults for everything else of a Job."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from medjax import metrics
from medjax.cases import Cases, Rows
from medjax.config import Decide
from medjax.core import About, Augment, Baseline, Batch, Figure, Job, Task
from medjax.data.folders import image_source
from medjax.tasks import baselines as simple
from medjax.tasks import decisions, pictures
from medjax.tasks.decisions import calibrate, decide
from medjax.tasks.images import (
    Channels,
    Fit,
    Windows,
    image_preprocess,
    mirrored,
    preprocess_image,
    standardise,
    standardised,
    window_first,
)
from medjax.tasks.saliency import explain_with
from medjax.tasks.supervised import supervised
from medjax.tasks.tables import score_columns, write_cases

__all__ = [
    "calibrate",
    "classification",
    "classification_job",
    "decide",
    "figures",
    "measure",
    "mirrored",
    "preprocess_image",
    "standardise",
    "write",
]


def classification(
    model: nn.Module,
    tx: optax.GradientTransformation,
    *,
    inputs: Callable[[Batch], Any] = standardised,
    smoothing: float = 0.0,
    class_weights: Sequence[float] | np.ndarray | None = None,
    views: Callable[[jax.Array], jax.Array] | None = None,
) -> Task:
    """One class out of several, by softmax and cross-entropy.

    Args:
      model: x -> logits [n, K].
      tx: optimizer.
      inputs: batch -> x.
      smoothing: label smoothing e: the target is (1 - e) * one-hot + e / K (Szegedy et al., CVPR 2016, section 7).
      class_weights: weight [K] of each class in the mean of the loss, such as `medjax.data.sampling.class_weights`.
      views: views of x whose probabilities are averaged at evaluation and prediction, such as `mirrored`.

    Returns:
      Task over batches with an int `label` [n], -1 where it is missing, and, in place of its one-hot form, a `target` [n, K]
      where an augmentation such as `mixup` gives one; rows and outputs are `score` [n, K], probabilities.
    """

    loss = class_loss(smoothing=smoothing, class_weights=class_weights)
    return supervised(model, tx, inputs=inputs, loss=loss, outputs=class_outputs, views=views)


def class_loss(
    *, smoothing: float = 0.0, class_weights: Sequence[float] | np.ndarray | None = None
) -> Callable[[jax.Array, Batch], tuple[jax.Array, jax.Array]]:
    """The loss of `classification`: (logits [n, K], batch) -> (cross-entropy [n], weight [n], 0 where the label is missing)."""

    def loss(logits: jax.Array, batch: Batch) -> tuple[jax.Array, jax.Array]:
        label = batch["label"]
        k = logits.shape[-1]
        soft = batch["target"] if "target" in batch else jax.nn.one_hot(label, k)
        weight = 1.0 if class_weights is None else soft @ jnp.asarray(class_weights, jnp.float32)
        target = (1 - smoothing) * soft + smoothing / k
        return optax.softmax_cross_entropy(logits, target), jnp.where(label >= 0, weight, 0.0)

    return loss


def class_outputs(logits: jax.Array) -> dict[str, jax.Array]:
    """`score`, the softmax of logits [n, K] in float32."""
    return {"score": jax.nn.softmax(logits.astype(jnp.float32))}


def measure(
    rows: Rows, cases: Cases, *, classes: Sequence[str], ordinal: bool = False, prevalence: float = 0.0
) -> dict[str, float]:
    """All classification metrics of `score` and `pred`.

    Besides: `kappa` where the classes are ordinal; `auroc_matched` where the cases have pairs; `ppv_at_prevalence` and
    `npv_at_prevalence` of two classes where a prevalence is given.
    """
    label = cases["label"]
    found = metrics.classification(label, rows["score"], rows["pred"], tuple(classes), ordinal=ordinal)
    if len(classes) != 2:
        return found
    if "pair" in cases:
        found["auroc_matched"] = metrics.auroc_matched(label, rows["score"][:, 1], cases["pair"])
    if prevalence:
        ppv, npv = metrics.predictive_values(found["sensitivity"], found["specificity"], prevalence)
        found |= {"ppv_at_prevalence": ppv, "npv_at_prevalence": npv}
    return found


def define_at(prevalence: float) -> dict[str, str]:
    """What `ppv_at_prevalence` and `npv_at_prevalence` of `measure` mean."""
    share = f"a prevalence of {100 * prevalence:.4g} %, by Bayes' rule from sensitivity and specificity at the threshold in use"
    return {
        "ppv_at_prevalence": f"Share of cases called positive that would be positive, 0 to 1, at {share}.",
        "npv_at_prevalence": f"Share of cases called negative that would be negative, 0 to 1, at {share}.",
    }


def write(rows: Rows, cases: Cases, *, classes: Sequence[str]) -> dict[str, str]:
    """{".csv": table} with columns id, patient, truth, pred, score/CLASS..., and group where it is known."""
    truth = [classes[label] if label >= 0 else "" for label in cases["label"]]
    pred = [classes[p] for p in rows["pred"]]
    return {".csv": write_cases(cases, {"truth": truth, "pred": pred, **score_columns(rows["score"], classes)})}


def figures(
    rows: Rows, cases: Cases, others: Mapping[str, Rows], *, classes: Sequence[str], windows: Windows = ()
) -> dict[str, Figure]:
    """ROC curves beside the baselines', calibration, confusion, and a page of hits and misses."""
    label, score = cases["label"], rows["score"]
    found: dict[str, Figure] = {}
    if len(classes) == 2:
        beside = {name: r["score"][:, 1] for name, r in others.items()}
        found["roc"] = pictures.roc_beside(label, score[:, 1], cases["group"], beside, title="ROC curve")
        found["calibration"] = pictures.calibration(label, score[:, 1], xlabel=f"predicted probability of {classes[1]!r}")
    else:
        scores, truth = {name: r["score"] for name, r in others.items()}, pictures.per_class(label, len(classes))
        found |= pictures.roc_figures(truth, score, cases["group"], scores, classes)
    table = metrics.confusion(label, rows["pred"], len(classes))
    found["confusion"] = Figure(
        "matrix",
        "Confusion matrix",
        "Cases by what they are and what the network called them.",
        {"values": table, "rows": list(classes), "columns": list(classes), "xlabel": "called", "ylabel": "truth"},
    )
    page = pictures.hits_and_misses(rows, cases, classes, windows=windows) if "image" in cases else None
    return found if page is None else {**found, "hits_and_misses": page}


def classification_job(
    task: Task,
    *,
    about: About,
    sources: Callable[[], Mapping[str, Any]],
    size: int,
    crop: Callable[[np.ndarray], tuple] | None = None,
    channels: Channels = "grey",
    fit: Fit = "squash",
    windows: Windows = (),
    volumes: bool = False,
    ordinal: bool = False,
    augment: Callable | Augment | None = None,
    baselines: Mapping[str, Baseline] | None = None,
    decide: Decide = decisions.DEFAULT,
    read: Callable[[Sequence[Any]], Any] = image_source,
) -> Job:
    """A Job of image classification with this task file's defaults.

    Args:
      task: from `classification`.
      about: words of the report; its classes are the labels' names.
      sources: -> {split or "all": Source} of examples with `image` and `label`.
      size, crop, channels, fit, windows, volumes: how pictures are prepared, see `image_preprocess`.
      ordinal: the classes are grades in their order, and kappa is measured.
      augment: in training; with CT windows it takes what these leave, in 0..1.
      baselines: majority, logistic and header by default.
      decide: how scores become decisions.
      read: paths -> Source of unlabelled cases, for prediction.
    """
    k, classes = len(about.classes), about.classes
    defaults = {"logistic": simple.logistic(k), "header": simple.header(k), "majority": simple.majority(k)}
    definitions = {**metrics.DEFINITIONS, **define_at(decide.prevalence), **about.definitions}
    return Job(
        about=about._replace(definitions=definitions),
        task=task,
        sources=sources,
        read=read,
        preprocess=image_preprocess(size=size, crop=crop, channels=channels, fit=fit, windows=windows, volumes=volumes),
        augment=window_first(augment, windows),
        measure=functools.partial(measure, classes=classes, ordinal=ordinal, prevalence=decide.prevalence),
        baselines=defaults if baselines is None else baselines,
        figures=functools.partial(figures, classes=classes, windows=tuple(windows)),
        write=functools.partial(write, classes=classes),
        calibrate=functools.partial(calibrate, rule=decide),
        decide=decisions.decide,
        explain=explain_with(task, classes, windows=tuple(windows)),
    )
