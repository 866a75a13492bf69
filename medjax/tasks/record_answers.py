"""What is said of a network's answers to records: measures, decisions and tables, by the kind of label."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from medjax import metrics
from medjax.cases import Cases, Rows
from medjax.config import Decide
from medjax.core import Figure
from medjax.errors import InputError
from medjax.tasks import classification, decisions, multilabel, pictures
from medjax.tasks.record_baselines import Question, summaries


class Kind(NamedTuple):
    """The parts of a Job that depend on the kind of label; see `core.Job`, and `Question` for the baselines."""

    measure: Callable[[Rows, Cases], dict[str, float]]
    calibrate: Callable[[Rows, Cases], dict[str, np.ndarray]]
    decide: Callable[[Mapping[str, np.ndarray], Rows], Rows]
    write: Callable[[Rows, Cases], dict[str, str]]
    figures: Callable[[Rows, Cases, Mapping[str, Rows]], dict[str, Figure]]
    question: Question
    monitor: str


def one_class(classes: Sequence[str], rule: Decide, *, ordinal: bool) -> Kind:
    """One class out of several a record, in their order where `ordinal`."""

    def measure(rows: Rows, cases: Cases) -> dict[str, float]:
        found = classification.measure(rows, cases, classes=classes, ordinal=ordinal, prevalence=rule.prevalence)
        return found | _more(cases["label"], rows["score"], rows["pred"], ordinal)

    def figures(rows: Rows, cases: Cases, others: Mapping[str, Rows]) -> dict[str, Figure]:
        found = classification.figures(rows, cases, others, classes=classes)
        return found | _decision(cases["label"], rows["score"], {name: r["score"] for name, r in others.items()})

    return Kind(
        measure,
        functools.partial(decisions.calibrate, rule=rule),
        decisions.decide,
        functools.partial(classification.write, classes=classes),
        figures,
        Question(summaries, lambda cases: cases["label"], lambda cases, score: {"score": score}, len(classes)),
        "kappa" if ordinal else "auroc",
    )


def several_labels(classes: Sequence[str], rule: Decide) -> Kind:
    """Any number of labels a record."""

    def truth(cases: Cases) -> np.ndarray:
        return pictures.per_class(cases["label"], len(classes))

    return Kind(
        functools.partial(multilabel.measure, classes=classes),
        functools.partial(decisions.calibrate_labels, rule=rule),
        decisions.decide_labels,
        functools.partial(multilabel.write, classes=classes),
        functools.partial(multilabel.figures, classes=classes),
        Question(summaries, truth, lambda cases, score: {"score": score}, len(classes), multilabel=True),
        "auroc",
    )


def by_horizon(classes: Sequence[str], rule: Decide, *, horizon: float) -> Kind:
    """The time to an event: order of the risks, and the risk by a horizon against what is known by then."""

    def truth(cases: Cases) -> np.ndarray:
        return known_by(cases["label"], np.asarray(cases["duration"], np.float64), horizon)

    def measure(rows: Rows, cases: Cases) -> dict[str, float]:
        label, risk = truth(cases), rows["score"][:, 1]
        found = {"c_index": metrics.c_index(cases["duration"], cases["label"], risk)}
        found |= metrics.classification(label, rows["score"], rows["pred"], tuple(classes))
        return found | _more(label, rows["score"], rows["pred"], False)

    def calibrate(rows: Rows, cases: Cases) -> dict[str, np.ndarray]:
        return decisions.calibrate(rows, Cases({"label": truth(cases)}), rule=rule)

    def write(rows: Rows, cases: Cases) -> dict[str, str]:
        known = {"label": truth(cases)} | {name: cases[name] for name in ("id", "patient", "group") if name in cases}
        return classification.write(rows, Cases(known), classes=classes)

    def figures(rows: Rows, cases: Cases, others: Mapping[str, Rows]) -> dict[str, Figure]:
        at = cases.extend(label=truth(cases))
        found = classification.figures(rows, at, others, classes=classes)
        return found | _decision(at["label"], rows["score"], {name: r["score"] for name, r in others.items()})

    question = Question(summaries, truth, lambda cases, score: {"score": score}, 2)
    return Kind(measure, calibrate, decisions.decide, write, figures, question, "c_index")


def known_by(event: np.ndarray, duration: np.ndarray, horizon: float) -> np.ndarray:
    """int [n]: 1 where the event came by the horizon, 0 where the record outlived it, -1 where its follow-up ended before."""
    known = (event >= 0) & np.isfinite(duration)
    return np.where(known & (event == 1) & (duration <= horizon), 1, np.where(known & (duration >= horizon), 0, -1))


def every_step(classes: Sequence[str], rule: Decide) -> Kind:
    """A class at each of many times a record; the rows of the table, and what metrics count, are these times."""
    k = len(classes)

    def flat(rows: Rows, cases: Cases) -> tuple[Cases, Rows]:
        asked = questions(cases)
        at = asked["record"], asked["step"]
        return Cases(asked), {name: rows[name][at] for name in ("score", "pred") if name in rows}

    def measure(rows: Rows, cases: Cases) -> dict[str, float]:
        asked, given = flat(rows, cases)
        found = metrics.classification(asked["label"], given["score"], given["pred"], tuple(classes), ordinal=k > 2)
        found |= _more(asked["label"], given["score"], given["pred"], k > 2)
        return (
            found
            if k > 2
            else found | metrics.alarm_metrics(asked["record"], asked["hours"], asked["label"], given["pred"] == 1)
        )

    def calibrate(rows: Rows, cases: Cases) -> dict[str, np.ndarray]:
        asked, given = flat(rows, cases)
        return decisions.calibrate(given, asked, rule=rule)

    def decide(point: Mapping[str, np.ndarray], rows: Rows) -> Rows:
        shape = rows["score"].shape
        found = decisions.decide(point, {"score": rows["score"].reshape(-1, k)})
        return {**rows, **{name: a.reshape(*shape[:2], *a.shape[1:]) for name, a in found.items()}}

    def write(rows: Rows, cases: Cases) -> dict[str, str]:
        asked, given = flat(rows, cases)
        return classification.write(given, asked, classes=classes)

    def figures(rows: Rows, cases: Cases, others: Mapping[str, Rows]) -> dict[str, Figure]:
        asked, given = flat(rows, cases)
        beside = {name: flat(r, cases)[1] for name, r in others.items()}
        found = classification.figures(given, asked, beside, classes=classes)
        return found | _decision(asked["label"], given["score"], {name: r["score"] for name, r in beside.items()})

    def back(cases: Cases, score: np.ndarray) -> Rows:
        asked = questions(cases)
        full = np.full((*cases["label_steps"].shape, k), np.nan)
        full[asked["record"], asked["step"]] = score
        return {"score": full}

    question = Question(step_summaries, lambda cases: questions(cases)["label"], back, k)
    return Kind(measure, calibrate, decide, write, figures, question, "kappa" if k > 2 else "auroc")


def questions(cases: Cases) -> dict[str, Any]:
    """The questions of per-step labels in a row: record and step int [m], hours, label, id RECORD:HOUR, patient and group."""
    at = cases["label_steps"]
    record, which = np.nonzero(at >= 0)
    hours = cases["label_times"][record, which]
    found = {"record": record, "step": at[record, which], "hours": hours, "label": cases["label_values"][record, which]}
    found |= {name: cases[name][record] for name in ("patient", "group") if name in cases}
    found["id"] = np.array([f"{name}:{hour:g}" for name, hour in zip(cases["id"][record], hours)], str)
    return found


def check_questions(cases: Cases, *, classes: Sequence[str]) -> list[str]:
    """`check` of a Job of questions at steps: notes on questions that the grid cannot answer.

    Raises:
      InputError: the answers are of less than two classes.
    """
    present = np.unique(cases["label_values"][cases["label_values"] >= 0])
    if len(present) < 2:
        only = f"only answers of {classes[present[0]]!r}" if len(present) else "no answer"
        raise InputError(f"the training split holds {only}\nadd records of the others, or a longer grid: --grid.hours")
    lost, asked = int(cases["unasked"].sum()), int((cases["label_steps"] >= 0).sum())
    if not lost:
        return []
    return [f"of {lost + asked:,} training questions {lost:,} come before the grid's first step ends: see --grid.hours"]


def step_summaries(cases: Cases) -> np.ndarray:
    """float32 [m, F]: for each question the summary of every variable's steps up to its own, and what is known once."""
    at = cases["label_steps"]
    parts = []
    for i in range(len(cases)):
        steps = at[i][at[i] >= 0]
        if len(steps):
            parts.append(running_summaries(np.asarray(cases.columns["values"][cases.index[i]]))[steps])
    record = np.nonzero(at >= 0)[0]
    made = np.concatenate(parts) if parts else np.empty((0, 0), np.float32)
    return np.concatenate([made, cases["static"][record]], 1) if "static" in cases else made


def running_summaries(values: np.ndarray) -> np.ndarray:
    """float32 [T, D * 7] of values [T, D] with NaN: `record_steps.SUMMARIES` of the steps up to each."""
    known = ~np.isnan(values)
    filled = np.where(known, values, 0.0).astype(np.float64)
    count = known.cumsum(0)
    some = np.maximum(count, 1)
    mean = filled.cumsum(0) / some
    spread = np.sqrt(np.maximum(np.square(filled).cumsum(0) / some - mean**2, 0))
    last = np.maximum.accumulate(np.where(known, np.arange(len(values))[:, None], -1), 0)
    latest = np.take_along_axis(filled, np.maximum(last, 0), 0)
    first = np.take_along_axis(filled, np.argmax(known, 0)[None], 0)
    low, high = np.fmin.accumulate(values, 0), np.fmax.accumulate(values, 0)
    parts = [mean, low, high, np.broadcast_to(first, values.shape), latest, count, spread]
    parts = [a if a is count else np.where(count > 0, a, np.nan) for a in parts]
    return np.stack(parts, -1).reshape(len(values), -1).astype(np.float32)


def _more(label: np.ndarray, score: np.ndarray, pred: np.ndarray, ordinal: bool) -> dict[str, float]:
    """What records add to the measures of a classification."""
    k = score.shape[1]
    if k == 2:
        return {"min_se_pp": metrics.min_se_pp(label, score[:, 1])}
    if not ordinal:
        return {}
    known = label >= 0
    mad = float(np.abs(label[known] - pred[known]).mean()) if known.any() else float("nan")
    return {"kappa_linear": metrics.kappa(label, pred, k, power=1), "mad": mad}


def _decision(label: np.ndarray, score: np.ndarray, others: Mapping[str, np.ndarray]) -> dict[str, Figure]:
    """The decision curve of a yes-or-no question."""
    if score.shape[1] != 2 or not ((label == 0).any() and (label == 1).any()):
        return {}
    beside = {name: s[:, 1] for name, s in others.items() if name != "majority"}
    return {"decision_curve": pictures.decision_curve(label, score[:, 1], beside)}
