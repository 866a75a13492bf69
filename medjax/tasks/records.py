"""Records as experiments configure them: any layout of events, any recurrent network, and what is asked of it."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from medjax import metrics
from medjax.core import About, Batch, Job
from medjax.data.aligned import aligned
from medjax.data.layouts import Joined, Layout, detect, open_layout, open_own
from medjax.data.records import Variable
from medjax.errors import InputError
from medjax.tasks import record_answers, record_baselines
from medjax.tasks.classification import class_loss, class_outputs, define_at
from medjax.tasks.multilabel import label_loss, label_outputs
from medjax.tasks.record_figures import explain_records
from medjax.tasks.record_heads import Head, each_step, survival, whole_record
from medjax.tasks.record_network import input_names, make_network
from medjax.tasks.record_settings import Config, Grid, Known, Network, Target
from medjax.tasks.record_statistics import start_with
from medjax.tasks.record_steps import Steps, record_preprocess
from medjax.tasks.supervised import supervised

__all__ = ["Config", "Grid", "Known", "Network", "Target", "find_layout", "read_records", "record_job", "resolve"]

C = TypeVar("C", bound=Config)
Find = Callable[[Any], Layout]


def find_layout(config: Config, **options: Any) -> Layout:
    """The layout of --data.path, which must be one of records; see `open_own`."""
    wanted = {"labels": config.data.labels, "classes": config.data.classes, "task": config.task, **options}
    return open_own(config.data.path, config.layout, "records", **wanted)


def resolve(config: C, find: Find = find_layout) -> C:
    """The settings with what only the data tells filled in: layout, classes, kind of label, variables.

    What is counted over patients (means, deviations, bins) is not among it: each training takes it from its own cases.
    """
    if config.known.variables and config.data.classes and config.kind != "auto":
        return config
    found = find(config)
    name = config.layout or (next(iter(detect(config.data.path)), "") if config.data.path else "")
    kind: Any = found.kind if config.kind == "auto" else config.kind
    variables = found.variables
    known = Known(
        tuple(v.name for v in variables),
        tuple(v.unit for v in variables),
        tuple(v.categories for v in variables),
        tuple(v.code for v in variables),
        found.statics,
    )
    data = dataclasses.replace(config.data, classes=tuple(config.data.classes or found.classes))
    return dataclasses.replace(config, layout=name, data=data, kind=kind, known=known)


def make_head(config: Config) -> Head:
    """The loss and the outputs of what is asked."""
    of, kind = config.target, config.kind
    if kind == "steps":
        return each_step()
    if kind == "survival":
        return survival(of.horizon)
    if kind == "multi":
        return whole_record(label_loss(weights=of.weights or None), label_outputs, deep=of.deep)
    return whole_record(class_loss(smoothing=of.smoothing), class_outputs, deep=of.deep)


def make_kind(config: Config) -> record_answers.Kind:
    """Measures, decisions and tables of what is asked."""
    classes, rule = config.data.classes, config.decide
    if config.kind == "steps":
        return record_answers.every_step(classes, rule)
    if config.kind == "survival":
        return record_answers.by_horizon(classes, rule, horizon=config.target.horizon)
    if config.kind == "multi":
        return record_answers.several_labels(classes, rule)
    return record_answers.one_class(classes, rule, ordinal=config.kind == "ordinal")


def record_job(config: Config, *, question: str, name: str, licence: str = "", find: Find = find_layout) -> Job:
    """The Job of a question to records.

    Args:
      config: resolved or not.
      question: one sentence a clinician understands.
      name: of the data set.
      licence: of the data set, as far as it is known.
      find: config -> Layout.
    """
    config = resolve(config, find)
    _check(config)
    steps, kind, head = Steps(**dataclasses.asdict(config.grid)), make_kind(config), make_head(config)
    tx = config.optimizer.make(config.train.steps)
    inputs = input_names(config)
    task = supervised(
        make_network(config),
        tx,
        inputs=lambda batch: {name: batch[name] for name in inputs},
        loss=head.loss,
        outputs=head.outputs,
    )
    columns = {"scale": "values", **({"scale_static": "static"} if config.known.statics else {})}
    simple = {
        "gbdt": record_baselines.boosting(kind.question),
        "logistic": record_baselines.logistic(kind.question),
        "majority": record_baselines.majority(kind.question),
    }
    definitions = {**metrics.DEFINITIONS, **metrics.RISK_DEFINITIONS, **define_at(config.decide.prevalence)}
    about = About("records", question, config.data.classes, kind.monitor, name, licence, definitions=definitions)
    return Job(
        about=about,
        task=task,
        sources=lambda: aligned(find(config), config.known.variables, config.known.statics),
        read=lambda inputs: read_records(inputs, config),
        preprocess=record_preprocess(config.known.rebuild(), steps, per_step=config.kind == "steps"),
        augment=drop_observations(config.model.inputs, config.model.variables),
        measure=kind.measure,
        baselines=simple,
        figures=kind.figures,
        write=kind.write,
        calibrate=kind.calibrate,
        decide=kind.decide,
        explain=explain_records(task, columns_of(config), risk_of(config), inputs, positive=config.data.classes[-1]),
        check=functools.partial(record_answers.check_questions, classes=config.data.classes)
        if config.kind == "steps"
        else None,
        start=start_with(columns, edges=config.target.bins if config.kind == "survival" else 0),
    )


def columns_of(config: Config) -> tuple[Variable, ...]:
    """The variables that have a column of values."""
    return tuple(v for v in config.known.rebuild() if not v.code)


def risk_of(config: Config) -> Callable[[Mapping[str, Any], Any], Any]:
    """(outputs or rows, length [n]) -> what is explained of them [n]: the probability of the second of two classes, at the last
    valid step where there are many; of several grades their mean as a share of the highest; of several labels the first one's.
    """
    k, kind = len(config.data.classes), config.kind

    def risk(outputs: Mapping[str, Any], length: Any) -> Any:
        score = jnp.asarray(outputs["score"])
        if kind == "multi":
            return score[:, 0]
        if kind == "steps":
            score = jnp.take_along_axis(score, jnp.maximum(jnp.asarray(length) - 1, 0)[:, None, None], 1)[:, 0]
        return score[:, 1] if k == 2 else (score * jnp.arange(k) / max(k - 1, 1)).sum(-1)

    return risk


def _check(config: Config) -> None:
    if config.kind == "survival" and not config.target.horizon:
        raise InputError("a survival time needs the time by which risks are given: --target.horizon", usage=True)
    if config.kind == "steps" and config.grid.form != "grid":
        raise InputError("--grid.form irregular: questions at many times need a grid", usage=True)
    weights, classes = config.target.weights, config.data.classes
    if weights and (config.kind != "multi" or len(weights) != len(classes) or not min(weights) > 0):
        raise InputError(
            f"--target.weights: {len(weights)} weights, above 0, for {len(classes)} labels of kind multi", usage=True
        )


def drop_observations(rate: float, variables: float) -> Callable | None:
    """Augmentation of a record: observations are missing, each with probability `rate`, and with `variables` all of one
    variable's; None for rates of 0.
    """
    if not rate and not variables:
        return None

    def augment(key: jax.Array, example: Batch) -> Batch:
        values = example["values"]
        each, whole = jax.random.split(key)
        dropped = jax.random.bernoulli(each, rate, values.shape) | jax.random.bernoulli(whole, variables, values.shape[-1:])
        return {**example, "values": jnp.where(dropped, jnp.nan, values)}

    return augment


def read_records(inputs: Sequence[str | Path], config: Config) -> Any:
    """Records to predict on: files or folders of the run's layout, with or without outcomes."""
    sources: dict[str, Any] = {}
    for path in inputs:
        found = open_layout(path, config.layout, unlabelled=True, labels=config.data.labels, task=config.task)
        sources |= {
            f"{path}|{split}": source for split, source in aligned(found, config.known.variables, config.known.statics).items()
        }
    return Joined(sources)
