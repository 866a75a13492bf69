"""From rows to a report: baselines on the same cases, intervals, comparisons, predictions, figures, report.json."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medjax import metrics
from medjax.cases import Cases, Rows, average
from medjax.core import Job, State
from medjax.data.load import NOT_POSSIBLE
from medjax.ema import averages
from medjax.files import append_rows, write_bytes, write_json, write_text
from medjax.keep import score_baselines
from medjax.members import Outcome, by_fold, ensemble_point, pool, pool_rows
from medjax.metrics.bootstrap import MIN_CLUSTERS, is_biased
from medjax.metrics.generation import NO_INTERVAL

Together = Callable[[Sequence[Outcome], Cases], Rows]
RESAMPLES = 1000
SHORTCUT = 0.7  # AUROC of the header baseline from which it is called a shortcut
SUBGROUPS = ("sex", "age", "view", "site")
SMALLEST_SUBGROUP = 20


def match_on_header(cases: Cases, others: Mapping[str, Rows]) -> Cases:
    """The cases with a `pair` column, where a two-class header baseline is there to match on."""
    if cases["label"].ndim != 1 or others.get("header", {}).get("score", np.empty((0, 0))).shape[1] != 2:
        return cases
    share = np.clip(others["header"]["score"][:, 1], 1e-3, 1 - 1e-3)
    return cases.extend(pair=metrics.matched_pairs(cases["label"], np.log(share / (1 - share))))


def measure_all(job: Job, cases: Cases, rows: Mapping[str, Sequence[Rows]]) -> dict[str, dict[str, dict[str, Any]]]:
    """Every model's metrics with intervals, and the others' differences to the first, on the same resamples.

    Args:
      job: its `measure` is called on the cases and on each bootstrap resample of whole groups.
      cases: with `label`, `group`, and `pair` where pairs were matched.
      rows: {model: rows of each of its members}, the network first; a metric is the mean over the members, in every resample.

    Returns:
      {"metrics": {model: {metric: {"value", "ci95", "n"}}}, "comparisons": {model: {metric: {"difference", "ci95"}}},
      "undefined": {metric: reason} of the network's}
    """
    group = cases["group"]
    points = {name: _mean([job.measure(r, cases) for r in members]) for name, members in rows.items()}
    draws: dict[str, list[dict[str, float]]] = {name: [] for name in rows}
    reason = metrics.why_no_interval(group) if len(np.unique(group)) < MIN_CLUSTERS else ""
    if not reason:
        for index in metrics.resamples(len(cases), group, RESAMPLES, 0):
            part = cases.take(index)
            for name, members in rows.items():
                draws[name].append(_mean([job.measure({key: x[index] for key, x in r.items()}, part) for r in members]))
    network, known = next(iter(rows)), count_known(cases)

    def with_interval(values: np.ndarray, key: str, value: float, metric: str) -> dict[str, Any]:
        ci = None if reason else metrics.interval(values, value, biased=is_biased(metric))
        entry: dict[str, Any] = {key: value, "ci95": ci}
        if ci is None:
            entry["reason"] = NO_INTERVAL.get(metric) or reason or "undefined in more than half of the resamples"
        return entry

    def column(name: str, metric: str) -> np.ndarray:
        return np.array([d.get(metric, np.nan) for d in draws[name]], float)

    found: dict[str, dict] = {"metrics": {}, "comparisons": {}, "undefined": {}}
    for name, values in points.items():
        found["metrics"][name] = {}
        for metric, value in values.items():
            if not np.isfinite(value):
                if name == network:
                    found["undefined"][metric] = metrics.why_undefined(metric)
                continue
            n = known if metric != "auroc_matched" else int((cases["pair"] >= 0).sum()) // 2
            found["metrics"][name][metric] = {**with_interval(column(name, metric), "value", value, metric), "n": n}
        if name != network:
            found["comparisons"][name] = {
                m: with_interval(column(network, m) - column(name, m), "difference", points[network][m] - values[m], m)
                for m in values
                if np.isfinite(values[m]) and np.isfinite(points[network].get(m, np.nan))
            }
    return found


def _mean(values: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean of each metric over the members; not a number where one of them has none."""
    return {name: float(np.mean([v[name] for v in values])) for name in values[0]} if len(values) > 1 else dict(values[0])


def count_known(cases: Cases) -> int:
    """Cases with a label; of several labels, with one at least."""
    label = cases["label"]
    known = label >= 0 if label.dtype.kind in "iu" else np.isfinite(label)
    return int(known.reshape(len(cases), -1).any(1).sum())


def rows_of_members(job: Job, trained: Sequence[Outcome], split: str) -> tuple[Cases, dict[str, list[Rows]]]:
    """(cases, {model: decided rows of each member}) of a split, the network first; the folds of "cv" are pooled."""
    folds = by_fold(trained)
    if split == "cv":
        parts = [(fold[0].data.cases["cv"], fold) for fold in folds]
        scored = [score_baselines(job, fold[0].baselines, cases) for cases, fold in parts]
        cases = pool([(cases, {}) for cases, _ in parts])[0]
        rows = {"network": [pool_rows([job.decide(f[s].point, f[s].rows[split]) for f in folds]) for s in range(len(folds[0]))]}
        return cases, {**rows, **{name: [pool_rows([part[name] for part in scored])] for name in scored[0]}}
    cases = trained[0].data.cases[split]
    scored = [score_baselines(job, fold[0].baselines, cases) for fold in folds]
    rows = {"network": [job.decide(t.point, t.rows[split]) for t in trained]}
    return cases, {**rows, **{name: [part[name] for part in scored] for name in scored[0]}}


def combined_rows(
    job: Job, trained: Sequence[Outcome], split: str, point: Mapping[str, np.ndarray], together: Together | None = None
) -> Rows:
    """The decided rows that a run stands for: of its only member, or of the members' averaged scores.

    In "cv" each fold has its own operating point, since only its own validation cases are strange to its members.
    """

    def joined(members: Sequence[Outcome]) -> Rows:
        # Label maps have no mean: there the members' outputs are averaged, before they become maps.
        if len(members) > 1 and job.examples is not None and together is not None:
            return together(members, members[0].data.cases[split])
        return average([t.rows[split] for t in members])

    if split == "cv":
        return pool_rows([job.decide(ensemble_point(job, fold, together), joined(fold)) for fold in by_fold(trained)])
    return job.decide(point, joined(trained))


def assess(
    job: Job,
    trained: Sequence[Outcome],
    folder: Path,
    facts: Mapping[str, Any],
    *,
    point: Mapping[str, np.ndarray],
    state: State,
    together: Together | None = None,
) -> dict[str, Any]:
    """Everything a run says of its numbers: predictions/, figures/, report.json and report.html.

    Args:
      job: the job.
      trained: the members; the splits of their rows are measured, the last of them for the baselines and figures. With folds
        their validation splits differ and are not measured.
      folder: where to write.
      facts: further entries of report.json.
      point: the operating point of the members' averaged rows.
      state: of the last member, which `job.explain` explains.
      together: (members, cases) -> rows of their averaged outputs, where rows themselves have no mean.

    Returns:
      The content of report.json.
    """
    about, data = job.about, trained[0].data
    folded = trained[0].member.fold is not None
    splits = [split for split in trained[0].rows if not (folded and split == "val")] or list(trained[0].rows)
    measured: dict[str, Any] = {}
    undefined: dict[str, Any] = {}
    held = {}
    for split in splits:
        cases, rows = rows_of_members(job, trained, split)
        others = {name: members[0] for name, members in rows.items() if name != "network"}
        cases = match_on_header(cases, others)
        found = measure_all(job, cases, rows)
        measured[split] = found["metrics"].pop("network")
        baselines, comparisons = found["metrics"], found["comparisons"]
        undefined |= {f"{name} ({split})": reason for name, reason in found["undefined"].items()}
        network, held[split] = combined_rows(job, trained, split, point, together), cases
        if len(trained) > 1 and split == "test":
            measured["ensemble"] = measure_all(job, cases, {"network": [network]})["metrics"]["network"]
        write_predictions(job, folder / "predictions", split, network, cases)
    shortcut, warnings = audit_shortcut(baselines, split)
    if job.tell is not None:
        warnings = [*job.tell(measured[split]), *warnings]
    if data.audit.get("near_copies", {}).get("search") == NOT_POSSIBLE:
        warnings.append(f"Near-copies of images: {NOT_POSSIBLE}. The splits may share pictures that only look different.")
    described = held if folded else data.cases
    audit = {**data.audit, "shortcut": shortcut, "undefined": undefined}
    audit["prevalence"] = {s: count_classes(c, about.classes) for s, c in described.items()}
    names = {part for values in measured.values() for name in values for part in (name, name.partition("/")[0])}
    report = {
        "task": about.task,
        "title": about.question,
        "question": about.question,
        "classes": list(about.classes),
        "monitor": about.monitor,
        "licence": about.licence,
        "warnings": warnings,
        "data": {
            "name": about.data,
            "fingerprint": data.fingerprint,
            "splits": {s: describe_split(c, about.classes) for s, c in described.items()},
            "audit": audit,
        },
        "metrics": measured,
        "ci_unit": ci_unit(cases, about.unit),
        "definitions": {name: text for name, text in about.definitions.items() if name in names},
        "baselines": baselines,
        "comparisons": comparisons,
        "subgroups": measure_subgroups(job, cases, network),
        "point": {name: np.asarray(value).tolist() for name, value in point.items()},
        **facts,
        "seeds": [describe_member(job, t) for t in trained],
    }
    from medjax.report import figures
    from medjax.report.html import write_html

    (folder / "figures").mkdir(exist_ok=True)
    drawn = job.figures(network, cases, others)
    if job.explain is not None:
        # Of several members one is explained, on the cases that it was measured on.
        own = trained[-1].data.cases[split]
        drawn |= job.explain(averages(state), job.decide(trained[-1].point, trained[-1].rows[split]), own)
    report["figures"] = figures.save(drawn, folder / "figures")
    write_json(folder / "report.json", report)
    write_html(folder)  # last of all: a folder that holds it is finished
    return report


def describe_member(job: Job, trained: Outcome) -> dict[str, Any]:
    """An entry of report.json's `seeds`: a member's own numbers at its own operating point."""
    values = {}
    for split, rows in trained.rows.items():
        found = job.measure(job.decide(trained.point, rows), trained.data.cases[split])
        values[split] = {name: float(value) for name, value in found.items() if np.isfinite(value)}
    return {
        "seed": trained.member.seed,
        "fold": trained.member.fold,
        "best_step": trained.best_step,
        "metrics": values,
    }


def measure_subgroups(job: Job, cases: Cases, rows: Rows) -> dict[str, dict[str, Any]]:
    """{column: {value: {"n", "metrics": {metric: {"value", "ci95"}}}}} of the columns in `SUBGROUPS` that the cases have.

    Ages are put in bands of 20 years. Values of fewer than `SMALLEST_SUBGROUP` cases are left out, and columns with less than
    two values left. Only metrics over all classes are given.
    """
    found: dict[str, dict[str, Any]] = {}
    for column in SUBGROUPS:
        if column not in cases:
            continue
        value = _bands(cases[column]) if column == "age" else cases[column]
        names, counts = np.unique(value, return_counts=True)
        kept = [str(name) for name, count in zip(names, counts) if name and count >= SMALLEST_SUBGROUP]
        if len(kept) < 2:
            continue
        found[column] = {}
        for name in kept:
            index = np.flatnonzero(value == name)
            part = {key: x[index] for key, x in rows.items()}
            entries = measure_all(job, cases.take(index), {"network": [part]})["metrics"]["network"]
            found[column][name] = {"n": len(index), "metrics": {m: entry for m, entry in entries.items() if "/" not in m}}
    return found


def _bands(age: np.ndarray) -> np.ndarray:
    """Ages in years as "0-19", "20-39", ...; "" where it is not known."""
    low = np.where(np.isfinite(age), age // 20 * 20, -1).astype(int)
    return np.array([f"{a}-{a + 19}" if a >= 0 else "" for a in low])


def describe_split(cases: Cases, classes: tuple[str, ...]) -> dict[str, Any]:
    """{"n", "patients", "prevalence"} of report.json, with the number of groups; patients null where none is known."""
    patient = cases["patient"]
    return {
        "n": len(cases),
        "patients": len(np.unique(patient[patient != ""])) or None,
        "groups": len(np.unique(cases["group"])),
        "prevalence": {name: round(share, 6) for name, share in prevalence(cases, classes).items()},
    }


def count_classes(cases: Cases, classes: tuple[str, ...]) -> dict[str, int]:
    """{class: cases of it}; empty where the label is a number."""
    label = cases["label"]
    if label.dtype.kind not in "iu":
        return {}
    counts = (label == 1).sum(0) if label.ndim == 2 else np.bincount(label[label >= 0], minlength=len(classes))
    return dict(zip(classes, counts.tolist(), strict=False))


def prevalence(cases: Cases, classes: tuple[str, ...]) -> dict[str, float]:
    """{class: its share of the cases whose label is known}."""
    counts, label = count_classes(cases, classes), cases["label"]
    known = (label >= 0).sum(0) if label.ndim == 2 else np.full(len(counts), sum(counts.values()))
    return {name: count / max(int(n), 1) for (name, count), n in zip(counts.items(), known)}


def ci_unit(cases: Cases, unit: str = "patient") -> str:
    """What the bootstrap draws: patients (or what `About.unit` names) where each is known and groups are no larger, else
    groups, else single cases.
    """
    patient, groups = cases["patient"], len(np.unique(cases["group"]))
    if (patient != "").all() and len(np.unique(patient)) == groups:
        return unit
    return "group" if groups < len(cases) else "case"


def audit_shortcut(baselines: Mapping[str, Mapping[str, Mapping[str, Any]]], split: str) -> tuple[Any, list[str]]:
    """(entry of the audit or None, warnings) where the header baseline, which sees no content, scores high."""
    auroc = baselines.get("header", {}).get("auroc", {}).get("value", 0.0)
    if auroc < SHORTCUT:
        return None, []
    text = (
        f"Shortcut: the files' size, aspect and depth alone, without the image's content, reach an AUROC of {auroc:.2f} "
        f"on {split}. Part of any network's score here may come from how the files were made, not from disease; "
        "see AUROC on header-matched pairs, which takes that away."
    )
    return {"auroc": auroc, "text": text}, [text]


def write_predictions(job: Job, folder: Path, stem: str, rows: Rows, cases: Cases) -> None:
    """The job's files of predictions as folder/STEM..., each written whole. A table that is there already gets the rows."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in job.write(rows, cases).items():
        path = folder / f"{stem}{name}"
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and path.suffix == ".json":  # lists of boxes
            write_text(path, json.dumps([*json.loads(path.read_text()), *json.loads(text)]))
        elif path.exists():
            append_rows(path, text)
        else:
            write_bytes(path, text) if isinstance(text, bytes) else write_text(path, text)
