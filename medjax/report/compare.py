"""Finished runs side by side: their metrics on the cases that they share, and the paired differences."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medjax import metrics
from medjax.data.duplicates import components, same_value
from medjax.errors import InputError
from medjax.files import write_json, write_text
from medjax.metrics import detection
from medjax.report import answer as say
from medjax.report import words
from medjax.report.html import Notes, fill_template, make_cell
from medjax.report.predictions import Predictions, choose_split, read_predictions

RESAMPLES = 1000

Measure = Callable[[Predictions, np.ndarray], dict[str, float]]


def compare_runs(folders: Sequence[Path]) -> dict[str, Any]:
    """Read finished runs and compare the first with each of the others. See `compare`.

    Args:
      folders: run folders, two or more.

    Raises:
      InputError: a folder is given twice, is not of a finished classification, segmentation or detection, or the runs cannot be
        compared.
    """
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise InputError(f"{', '.join(map(str, folders))}: the same run twice\ngive different runs", usage=True)
    for folder in folders:
        if not (folder / "report.json").is_file():
            raise InputError(f"{folder}: has no report.json\na run writes it when it ends: medjax resume {folder}")
    split = choose_split(folders)
    return compare([read_predictions(folder, split) for folder in folders], split)


def compare(runs: Sequence[Predictions], split: str) -> dict[str, Any]:
    """Metrics of each run on the cases that all of them share, and the first run's differences to each other one.

    All is measured anew from the predictions, on the same bootstrap resamples: of whole patients and groups of cases, a case
    without either being one of its own. Between two classes, and where every case stands for itself, DeLong's test is made too.

    Args:
      runs: two or more, the one that is asked about first.
      split: which the predictions are of.

    Returns:
      What comparison.json holds: task, question, classes, split, `runs` (name, folder, experiment, members, cases),
      `cases` ({"shared", "labelled", "clusters"}), ci_unit, `metrics` {run: {metric: {"value", "ci95", "n"}}}, `comparisons`
      {other run: {metric: {"difference", "ci95"}}}, `delong` {other run: {"difference", "standard_error", "p"}}, `undefined`
      {run: {metric: reason}}, `notes` and definitions. A `ci95` of None comes with a `reason`.

    Raises:
      InputError: tasks, classes, truths or patients differ, or no case is shared.
    """
    names = _name(runs)
    _check_alike(runs)
    shared = _align(runs)
    first = shared[0]
    _check_truth(shared)
    clusters, ci_unit = _cluster(shared)
    measure, left_out, defined_apart = _measure_of(shared, split)
    found = _measure_all(shared, names, clusters, measure)
    notes = _notes(runs, names, split, len(first.id), clusters, left_out)
    if defined_apart:
        notes.append(f"Not compared, as the runs define it otherwise: {', '.join(map(words.name_metric, defined_apart))}")
    delong = {}
    if first.measures is None and first.label.ndim == 1 and len(first.classes) == 2:
        if len(np.unique(clusters)) == len(clusters) and not _grouped(runs):
            delong = {name: _delong(first, other) for name, other in zip(names[1:], shared[1:], strict=True)}
        else:
            notes.append("DeLong's test is left out, since it needs cases that are independent of each other")
    return {
        "task": first.report.get("task"),
        "question": first.report.get("question"),
        "classes": list(first.classes),
        "monitor": first.report.get("monitor"),
        "split": split,
        "runs": [
            {
                "name": name,
                "folder": run.folder,
                "experiment": run.report.get("experiment"),
                "members": len(run.report.get("seeds") or [None]),
                "cases": len(run.id),
            }
            for name, run in zip(names, runs, strict=True)
        ],
        "cases": {"shared": len(first.id), "labelled": _labelled(first), "clusters": len(np.unique(clusters))},
        "ci_unit": ci_unit,
        **found,
        "delong": delong,
        "notes": notes,
        "definitions": {
            name: text
            for name, text in {**metrics.DEFINITIONS, **(first.report.get("definitions") or {})}.items()
            if any(name in of for of in found["metrics"].values())
        },
    }


def _name(runs: Sequence[Predictions]) -> list[str]:
    """A run's folder, with as many folders above it as it takes to tell the runs apart."""
    parts = [run.folder.resolve().parts for run in runs]
    depth = next(d for d in range(1, max(map(len, parts)) + 1) if len({p[-d:] for p in parts}) == len(parts))
    return ["/".join(p[-depth:]) for p in parts]


def _check_alike(runs: Sequence[Predictions]) -> None:
    first = runs[0]
    for run in runs[1:]:
        of = [(r.report.get("task"), r.label.ndim, r.classes) for r in (first, run)]
        if of[0] != of[1]:
            said = [f"{task}{' of several labels' if ndim == 2 else ''} into {', '.join(c)}" for task, ndim, c in of]
            raise InputError(
                f"{first.folder} is {said[0]}, {run.folder} is {said[1]}\ncompare runs of one task with the same classes"
            )


def _align(runs: Sequence[Predictions]) -> list[Predictions]:
    """The cases that all runs have, in the order of the first."""
    places = [{case: place for place, case in enumerate(run.id.tolist())} for run in runs]
    cases = [case for case in places[0] if all(case in place for place in places)]
    if not cases:
        raise InputError("the runs share no case: no id is in the predictions of all\ncompare runs on the same data and split")
    return [_take(run, np.array([place[case] for case in cases])) for run, place in zip(runs, places, strict=True)]


def _take(run: Predictions, index: np.ndarray) -> Predictions:
    fields = ("id", "patient", "label", "pred", "score")
    group = None if run.group is None else run.group[index]
    measures = None if run.measures is None else {name: table[index] for name, table in run.measures.items()}
    return run._replace(group=group, measures=measures, **{name: getattr(run, name)[index] for name in fields})


def _check_truth(runs: Sequence[Predictions]) -> None:
    first = runs[0]
    for run in runs[1:]:
        differs = (run.label != first.label).reshape(len(first.id), -1).any(axis=1)
        _refuse(first, run, differs, "truth", "compare runs that were tested on the same labels")


def _refuse(first: Predictions, run: Predictions, differs: np.ndarray, what: str, mend: str) -> None:
    if differs.any():
        cases, one = words.count_noun(int(differs.sum()), "case"), str(first.id[differs][0])
        raise InputError(f"{first.folder} and {run.folder}: another {what} for {cases}, the first is {one!r}\n{mend}")


def _cluster(runs: Sequence[Predictions]) -> tuple[np.ndarray, str]:
    """(cluster of each case as text [n], "patient", "group" or "case"): patients, joined where any run has a group of cases."""
    first = runs[0]
    patient = first.patient
    for run in runs[1:]:
        differs = (patient != "") & (run.patient != "") & (patient != run.patient)
        _refuse(first, run, differs, "patient", "compare runs on the same data")
        patient = np.where(patient == "", run.patient, patient)
    own = np.where(patient == "", np.char.add("case ", first.id), np.char.add("patient ", patient))
    pairs = [same_value(values) for values in (own, *(run.group for run in runs if run.group is not None))]
    joined = components(len(own), *(np.concatenate(side) for side in zip(*pairs, strict=True)))
    if len(np.unique(joined)) < len(np.unique(own)):
        return np.char.add("group ", joined.astype(str)), "group"
    return own, "patient" if (patient != "").any() else "case"


def _measure_of(runs: Sequence[Predictions], split: str) -> tuple[Measure, list[str], list[str]]:
    """(run, rows -> metrics; the overall metrics that all reports have and predictions do not suffice for; those that are left
    out as the runs' reports define them otherwise, such as by another tolerance or hit rule).
    """
    reported = [set((run.report.get("metrics") or {}).get(split) or {}) for run in runs]
    both = set.intersection(*reported)
    ordinal = "kappa" in both
    boxes = runs[0].report.get("task") == "detection"

    def measure_one(run: Predictions, rows: np.ndarray) -> dict[str, float]:
        if run.measures is not None and boxes:
            known = rows[run.label[rows] >= 0]
            return detection.summarise({name: table[known] for name, table in run.measures.items()}, run.classes)
        if run.measures is not None:
            tables = {name: np.abs(table[rows]) for name, table in run.measures.items()}  # errors of both signs must not cancel
            return metrics.summarise(tables, run.classes)
        values = run.label[rows], run.score[rows], run.pred[rows], run.classes
        return metrics.multilabel(*values) if run.label.ndim == 2 else metrics.classification(*values, ordinal=ordinal)

    given = measure_one(runs[0], np.arange(len(runs[0].id)))
    overall = [name for name in words.sort_metrics(both | set(given)) if "/" not in name]
    said = [run.report.get("definitions") or {} for run in runs]
    # Operating points of classes are each run's own affair.
    apart = [n for n in overall if runs[0].measures is not None and len({of.get(n) for of in said}) > 1]

    def measure(run: Predictions, rows: np.ndarray) -> dict[str, float]:
        return {name: value for name, value in measure_one(run, rows).items() if name.partition("/")[0] not in apart}

    return measure, [name for name in overall if name not in given], [name for name in apart if name in given]


def _measure_all(
    runs: Sequence[Predictions], names: Sequence[str], clusters: np.ndarray, measure: Measure
) -> dict[str, dict[str, Any]]:
    """The entries metrics, comparisons and undefined of `compare`."""
    everyone = np.arange(len(clusters))

    def measure_together(rows: np.ndarray) -> dict[str, float]:
        """METRIC/i is run i's value, and METRIC/-i the first run's less run i's."""
        first, *others = (measure(run, rows) for run in runs)
        found = {f"{metric}/0": value for metric, value in first.items()}
        for i, values in enumerate(others, start=1):
            found |= {f"{metric}/{i}": value for metric, value in values.items()}
            found |= {f"{metric}/-{i}": first[metric] - value for metric, value in values.items()}
        return found

    points = measure_together(everyone)
    intervals = metrics.bootstrap(measure_together, len(clusters), clusters, resamples=RESAMPLES)
    reason, n = metrics.why_no_interval(clusters), _labelled(runs[0])

    def entries(key: str, suffix: str, **more: Any) -> dict[str, dict[str, Any]]:
        found = {}
        for name, value in points.items():
            metric, _, of = name.rpartition("/")
            if of == suffix and math.isfinite(value):
                ci95 = intervals[name]
                found[metric] = {key: value, "ci95": ci95, **more, **({} if ci95 else {"reason": reason})}
        return found

    undefined = {}
    for i, name in enumerate(names):
        lacking = [
            key.rpartition("/")[0] for key, value in points.items() if key.endswith(f"/{i}") and not math.isfinite(value)
        ]
        if lacking:
            why = metrics.why_undefined if runs[0].measures is None else metrics.why_unmeasured
            undefined[name] = {metric: why(metric) for metric in lacking}
    return {
        "metrics": {name: entries("value", str(i), n=n) for i, name in enumerate(names)},
        "comparisons": {name: entries("difference", f"-{i}") for i, name in enumerate(names) if i},
        "undefined": undefined,
    }


def _labelled(run: Predictions) -> int:
    """Cases with a label; of several labels, with one at least."""
    return int((run.label >= 0).reshape(len(run.id), -1).any(axis=1).sum())


def _grouped(runs: Sequence[Predictions]) -> bool:
    """Whether a run knows of groups of cases, such as near-copies, that its predictions do not name."""
    return any(run.report.get("ci_unit") == "group" and run.group is None for run in runs)


def _delong(first: Predictions, other: Predictions) -> dict[str, Any]:
    values = metrics.delong(first.label, first.score[:, 1], other.score[:, 1])
    keys = ("difference", "standard_error", "p")
    return {key: value if math.isfinite(value) else None for key, value in zip(keys, values, strict=True)}


def _notes(
    runs: Sequence[Predictions],
    names: Sequence[str],
    split: str,
    shared: int,
    clusters: np.ndarray,
    left_out: Sequence[str],
) -> list[str]:
    """What a reader must know of the numbers, a sentence each without its full stop."""
    notes = []
    for name, run in zip(names, runs, strict=True):
        if len(run.id) > shared:
            more = words.count_noun(len(run.id) - shared, "case")
            notes.append(f"{name}: {more} of its {words.format_count(len(run.id))} not in every other run, and left out")
    for name, run in zip(names, runs, strict=True):
        members = len(run.report.get("seeds") or ())
        if members > 1 and split != "cv":
            notes.append(f"{name}: the averaged scores of its {members} members")
    if split == "val":
        notes.append("No run was tested: choices were made on these validation cases, so that values flatter")
    prints = {(run.report.get("data") or {}).get("fingerprint") for run in runs}
    if len(prints) > 1:
        same = "ids are" if runs[0].report.get("task") == "segmentation" else "ids and truths are"
        notes.append(f"The runs read different files: cases are held to be the same where their {same}")
    single = np.char.startswith(clusters, "case ")
    if _grouped(runs):
        notes.append(
            "The runs know of groups of cases that belong together, which predictions do not name: these intervals are "
            "narrower than they should be"
        )
    elif single.all():
        notes.append("No patient is known: the intervals take every case as independent of the others")
    if single.any() and not single.all():
        notes.append(f"{words.count_noun(int(single.sum()), 'case')} without a patient, each drawn by itself")
    if left_out:
        notes.append(f"Not compared, as predictions do not suffice for it: {', '.join(map(words.name_metric, left_out))}")
    return notes


def write_comparison(comparison: Mapping[str, Any], out: Path) -> Path:
    """Write OUT/comparison.json and OUT/comparison.html, one file that holds all it shows. Returns the latter's path."""
    write_json(out / "comparison.json", comparison)
    path = out / "comparison.html"
    write_text(path, render(comparison))
    return path


def render(comparison: Mapping[str, Any]) -> str:
    """The page as text."""
    notes = Notes()
    others = list(comparison["comparisons"])
    return fill_template(
        "comparison.html.j2",
        {
            "comparison": comparison,
            "title": f"{comparison['runs'][0]['name']} beside {', '.join(others)}",
            "answer": answer(comparison),
            "first": comparison["runs"][0]["name"],
            "others": others,
            "rows": tabulate(comparison, notes),
            "delong": [(name, describe_delong(of)) for name, of in comparison["delong"].items()],
            "unit": words.pluralise(comparison["ci_unit"]),
            "notes": notes.texts,
        },
    )


def tabulate(comparison: Mapping[str, Any], notes: Notes) -> list[dict[str, Any]]:
    """Rows of the table: {"metric", "cells": the first run, then each other one and the difference to it, with its verdict}."""
    values, differences = comparison["metrics"], comparison["comparisons"]
    rows = []
    for metric in words.sort_metrics(metric for of in values.values() for metric in of):
        cells = []
        for name, of in values.items():
            cells.append({**make_cell(of.get(metric), notes), "verdict": ""})
            if name in differences:
                entry = differences[name].get(metric)
                cells.append({**make_cell(entry, notes, sign=True), "verdict": say.verdict(entry, metric)})
        rows.append({"metric": metric, "cells": cells})
    return rows


def answer(comparison: Mapping[str, Any]) -> str:
    """The comparison in a sentence or two, by the metric that the first run monitors."""
    split, cases = comparison["split"], comparison["cases"]
    metric = words.main_metric(
        {"metrics": {split: next(iter(comparison["metrics"].values()))}, "monitor": comparison["monitor"]}
    )
    noun = say.name_case(comparison)
    where = f"{words.name_split(split).lower().replace(' (pooled)', '')} {noun}"
    if metric is None:
        return f"Nothing could be measured on the {words.count_noun(cases['shared'], where)} that the runs share."
    (first, entry), *others = ((name, of.get(metric)) for name, of in comparison["metrics"].items())
    interval = f" (95 % CI {words.format_interval(entry)})" if words.has_interval(entry) else ""
    said = (
        f"On the {words.count_noun(cases['shared'], where)} that the runs share, {first} reached {words.name_metric(metric)} "
    )
    said += f"{words.format_value(entry['value'])}{interval}."
    for name, other in others:
        difference = comparison["comparisons"][name].get(metric)
        if difference is None:
            said += f" For {name} it is not defined."
            continue
        signed = words.format_value(difference["difference"], sign=True)
        certain = f", 95 % CI {words.format_interval(difference, sign=True)}" if words.has_interval(difference) else ""
        result = {
            "better": f"{first} is better",
            "worse": f"{first} is worse",
            "unclear": "neither is shown to be better",
            "": "whether one is better is not known",
        }[say.verdict(difference, metric)]
        said += f" {name} reached {words.format_value(other['value'])}: {result} (difference {signed}{certain})."
    return said


def describe_delong(of: Mapping[str, Any]) -> str:
    """The test's result in a line."""
    if of["p"] is None:
        return "cannot be made on these cases"
    p = "< 0.001" if of["p"] < 0.001 else f"= {of['p']:.3f}"
    difference, error = words.format_value(of["difference"], sign=True), words.format_value(of["standard_error"])
    return f"difference of the AUROCs {difference}, standard error {error}, p {p}"
