"""A task of one's own: grade a picture on an ordered scale. It is the builder of a Task, and the parts of a Job around it."""

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
from sklearn.metrics import cohen_kappa_score

from medjax.cases import Cases, Rows
from medjax.core import About, Baseline, Batch, Figure, Job, Task
from medjax.data.augment import to_unit
from medjax.data.folders import image_source
from medjax.tasks.supervised import supervised

DEFINITIONS = {
    "mae": "Mean distance of called and true grade, in grades, lower is better.",
    "kappa": "Cohen's kappa with quadratic weights, 1 for perfect agreement and 0 for that of chance.",
}


def grading(model: nn.Module, tx: optax.GradientTransformation) -> Task:
    """One of K ordered grades by K - 1 questions "is it above grade k?" (Niu et al., CVPR 2016, section 3).

    `model` answers with logits [n, K - 1]; rows and outputs are `score` [n, K], the probability of each grade.
    """

    def loss(logits: jax.Array, batch: Batch) -> tuple[jax.Array, jax.Array]:
        label = batch["label"]
        above = label[:, None] > jnp.arange(logits.shape[1])
        return optax.sigmoid_binary_cross_entropy(logits, above).sum(1), (label >= 0).astype(jnp.float32)

    def outputs(logits: jax.Array) -> dict[str, jax.Array]:
        # To be above grade 2 is to be above grade 1: answers that disagree are brought down to the lowest before.
        above = jax.lax.cummin(jax.nn.sigmoid(logits), axis=1)
        edges = jnp.pad(above, ((0, 0), (1, 1)), constant_values=((0, 0), (1, 0)))
        return {"score": edges[:, :-1] - edges[:, 1:]}

    return supervised(model, tx, inputs=lambda batch: to_unit(batch["image"]), loss=loss, outputs=outputs)


def decide(point: Mapping[str, np.ndarray], rows: Rows) -> Rows:
    """Add `pred` [n]: the median grade, which has the smallest expected distance from the truth."""
    return {**rows, "pred": (rows["score"].cumsum(1) < 0.5).sum(1)}


def measure(rows: Rows, cases: Cases) -> dict[str, float]:
    """{"mae", "kappa"} over the cases whose grade is known."""
    known = cases["label"] >= 0
    truth, pred = cases["label"][known], rows["pred"][known]
    kappa = cohen_kappa_score(truth, pred, weights="quadratic") if len(np.union1d(truth, pred)) > 1 else np.nan
    return {"mae": np.abs(truth - pred).mean(), "kappa": kappa}


def write(rows: Rows, cases: Cases, *, classes: Sequence[str]) -> dict[str, str]:
    """{".csv": table} with columns id, patient, truth, pred, score/GRADE..."""
    out = io.StringIO()
    table = csv.writer(out, lineterminator="\n")
    table.writerow(["id", "patient", "truth", "pred", *(f"score/{name}" for name in classes)])
    for i in range(len(cases)):
        truth = classes[cases["label"][i]] if cases["label"][i] >= 0 else ""
        scores = (f"{s:.6g}" for s in rows["score"][i])
        table.writerow([cases["id"][i], cases["patient"][i], truth, classes[rows["pred"][i]], *scores])
    return {".csv": out.getvalue()}


def figures(rows: Rows, cases: Cases, others: Mapping[str, Rows], *, classes: Sequence[str]) -> dict[str, Figure]:
    """How far from the truth the calls are."""
    distance = (rows["pred"] - cases["label"])[cases["label"] >= 0]
    edges = np.arange(-len(classes), len(classes)) + 0.5
    bars = {"label": "network", "edges": edges, "counts": np.histogram(distance, edges)[0]}
    data = {"groups": [bars], "xlabel": "called minus true grade", "ylabel": "cases"}
    return {"distance": Figure("bars", "Distance from the truth", "At 0, the call is right.", data)}


def _fit_median(train: Cases, val: Cases) -> dict[str, np.ndarray]:
    return {"grade": np.array(int(np.median(train["label"][train["label"] >= 0])))}


def median(k: int) -> Baseline:
    """The training set's median grade for every case. A baseline is two functions with plain arrays between them."""
    return Baseline(_fit_median, lambda arrays, cases: {"score": np.tile(np.eye(k)[arrays["grade"]], (len(cases), 1))})


def grading_job(
    task: Task, *, about: About, sources: Callable[[], Mapping[str, Any]], preprocess: Callable[[dict], dict]
) -> Job:
    """A Job with this task's measure, baseline, figures and tables."""
    return Job(
        about=about._replace(definitions={**DEFINITIONS, **about.definitions}),
        task=task,
        sources=sources,
        read=image_source,
        preprocess=preprocess,
        augment=None,
        measure=measure,
        baselines={"median": median(len(about.classes))},
        figures=functools.partial(figures, classes=about.classes),
        write=functools.partial(write, classes=about.classes),
        decide=decide,
    )
