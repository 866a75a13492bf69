"""Find several labels in an image, each of them there or not: the Task, and defaults for everything else of a Job."""

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
from medjax.errors import InputError
from medjax.tasks import baselines as simple
from medjax.tasks import decisions, pictures
from medjax.tasks.images import Channels, Fit, Windows, image_preprocess, standardised, window_first
from medjax.tasks.saliency import explain_with
from medjax.tasks.supervised import supervised
from medjax.tasks.tables import score_columns, write_cases

BETWEEN = "|"  # names in one field of a table


def multilabel(
    model: nn.Module,
    tx: optax.GradientTransformation,
    *,
    inputs: Callable[[Batch], Any] = standardised,
    views: Callable[[jax.Array], jax.Array] | None = None,
    pos_weight: Sequence[float] | np.ndarray | None = None,
) -> Task:
    """Any number of classes in a case, by a sigmoid and cross-entropy for each.

    The objective is the mean over all known labels of the batch: -(w y log p + (1 - y) log(1 - p)).

    Args:
      model: x -> logits [n, K].
      tx: optimizer.
      inputs: batch -> x.
      views: views of x whose probabilities are averaged at evaluation and prediction, such as `mirrored`.
      pos_weight: weight w of each class's positives [K]; 1 by default.

    Returns:
      Task over batches with an int8 `label` [n, K]: 1, 0, or -1 where it is missing, which counts for nothing. Where a batch
      has a `target` float [n, K] (probabilities of mixed examples, -1 missing), it is learned in the label's place. Rows and
      outputs are `score` [n, K], probabilities.
    """

    return supervised(model, tx, inputs=inputs, loss=label_loss(pos_weight=pos_weight), outputs=label_outputs, views=views)


def label_loss(
    *, pos_weight: Sequence[float] | np.ndarray | None = None, weights: Sequence[float] | np.ndarray | None = None
) -> Callable[[jax.Array, Batch], tuple[jax.Array, jax.Array]]:
    """The loss of `multilabel`: (logits [n, K], batch) -> (mean cross-entropy over the known labels [n], weight [n]).

    Args:
      pos_weight: as there.
      weights: of each label in the mean [K], 1 by default: what several tasks count beside each other.
    """

    def loss(logits: jax.Array, batch: Batch) -> tuple[jax.Array, jax.Array]:
        target = batch.get("target", batch["label"]).astype(jnp.float32)
        if target.ndim == 1:  # cases to predict on have one label, -1, whatever is asked
            target = jnp.broadcast_to(target[:, None], logits.shape)
        each_weight = jnp.ones(target.shape[-1]) if weights is None else jnp.asarray(weights, jnp.float32)
        counts = jnp.where(target >= 0, each_weight, 0.0)
        positive = 1.0 if pos_weight is None else jnp.asarray(pos_weight, jnp.float32)
        # log p and log(1 - p) of the sigmoid, without overflow.
        each = -(positive * target * jax.nn.log_sigmoid(logits) + (1 - target) * jax.nn.log_sigmoid(-logits))
        count = counts.sum(-1)
        return jnp.where(counts > 0, counts * each, 0.0).sum(-1) / jnp.maximum(count, 1e-12), count / each_weight.sum()

    return loss


def label_outputs(logits: jax.Array) -> dict[str, jax.Array]:
    """`score`, the sigmoid of logits [n, K] in float32."""
    return {"score": jax.nn.sigmoid(logits.astype(jnp.float32))}


def measure(rows: Rows, cases: Cases, *, classes: Sequence[str]) -> dict[str, float]:
    """All multi-label metrics of `score` and `pred`."""
    return metrics.multilabel(cases["label"], rows["score"], rows["pred"], tuple(classes))


def write(rows: Rows, cases: Cases, *, classes: Sequence[str]) -> dict[str, str]:
    """{".csv": table} with columns id, patient, truth, pred, score/CLASS..., missing, and group where it is known.

    Several names in a field are joined by "|"; `missing` names the classes whose truth is not known.
    """

    def names(where: np.ndarray) -> list[str]:
        return [BETWEEN.join(name for name, there in zip(classes, row, strict=True) if there) for row in where]

    truth = pictures.per_class(cases["label"], len(classes))
    columns = {"truth": names(truth == 1), "pred": names(rows["pred"]), **score_columns(rows["score"], classes)}
    return {".csv": write_cases(cases, {**columns, "missing": names(truth < 0)})}


def figures(
    rows: Rows, cases: Cases, others: Mapping[str, Rows], *, classes: Sequence[str], windows: Windows = ()
) -> dict[str, Figure]:
    """ROC curves of the classes, each beside the baselines' where they are few, calibration, and hits and misses."""
    truth, score = cases["label"], rows["score"]
    found = pictures.roc_figures(truth, score, cases["group"], {name: r["score"] for name, r in others.items()}, classes)
    found["calibration"] = pictures.calibration(
        truth.ravel(), score.ravel(), xlabel="predicted probability, of all classes together"
    )
    page = pictures.hits_and_misses(rows, cases, classes, windows=windows) if "image" in cases else None
    return found if page is None else {**found, "hits_and_misses": page}


def multilabel_job(
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
    augment: Callable | Augment | None = None,
    baselines: Mapping[str, Baseline] | None = None,
    decide: Decide = decisions.DEFAULT,
    read: Callable[[Sequence[Any]], Any] = image_source,
) -> Job:
    """A Job of several labels an image with this task file's defaults.

    Args:
      task: from `multilabel`.
      about: words of the report; its classes are the labels' names.
      sources: -> {split or "all": Source} of examples with `image` and `label` int8 [K]: 1, 0, or -1 where it is missing.
      size, crop, channels, fit, windows, volumes: how pictures are prepared, see `image_preprocess`.
      augment: in training; with CT windows it takes what these leave, in 0..1.
      baselines: majority, logistic and header by default.
      decide: how scores become decisions; a threshold is chosen for each class.
      read: paths -> Source of unlabelled cases, for prediction.

    Raises:
      InputError: a class name that could not be told apart in a table.
    """
    if odd := [name for name in about.classes if BETWEEN in name]:
        raise InputError(f"the class {odd[0]!r} has a {BETWEEN!r} in its name, which stands between names in tables\nrename it")
    k, classes = len(about.classes), about.classes
    kinds = {"logistic": simple.logistic, "header": simple.header, "majority": simple.majority}
    return Job(
        about=about._replace(definitions={**metrics.DEFINITIONS, **about.definitions}),
        task=task,
        sources=sources,
        read=read,
        preprocess=image_preprocess(size=size, crop=crop, channels=channels, fit=fit, windows=windows, volumes=volumes),
        augment=window_first(augment, windows),
        measure=functools.partial(measure, classes=classes),
        baselines={name: make(k, multilabel=True) for name, make in kinds.items()} if baselines is None else baselines,
        figures=functools.partial(figures, classes=classes, windows=tuple(windows)),
        write=functools.partial(write, classes=classes),
        calibrate=functools.partial(decisions.calibrate_labels, rule=decide),
        decide=decisions.decide_labels,
        explain=explain_with(task, classes, windows=tuple(windows)),
    )
