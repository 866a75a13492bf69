"""From rows to a report: baselines on the same cases, intervals, comparisons, predictions, figures, report.json."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from medjax import metrics
from medjax.core import Cases, Job, Rows
from medjax.data.load import NOT_POSSIBLE, Dataset
from medjax.errors import InputError
from medjax.files import write_bytes, write_json, write_text
from medjax.metrics.bootstrap import MIN_CLUSTERS, is_biased

RESAMPLES = 1000
SHORTCUT = 0.7  # AUROC of the header baseline from which it is called a shortcut
BASELINES, SEEN = "baselines.npz", "seen.txt"


def fit_baselines(job: Job, train: Cases, val: Cases) -> dict[str, dict[str, np.ndarray]]:
    """{baseline: arrays}, fitted on train; its settings and its operating point (`point/...`) are chosen on val."""
    fitted = {}
    for name, baseline in job.baselines.items():
        arrays = baseline.fit(train, val)
        point = job.calibrate(baseline.predict(arrays, val), val)
        fitted[name] = {**arrays, **{f"point/{key}": value for key, value in point.items()}}
    return fitted


def save_seen(folder: Path, *cases: Cases) -> None:
    """Remember the content of the cases that the run has learned from, by digest."""
    write_text(folder / SEEN, "".join(f"{digest}\n" for part in cases for digest in part["content"]))


def load_seen(folder: Path) -> list[str]:
    """Digests that `save_seen` wrote."""
    return (folder / SEEN).read_text().split()


def save_baselines(folder: Path, fitted: Mapping[str, Mapping[str, np.ndarray]], point: Mapping[str, np.ndarray]) -> None:
    """Baselines and the network's operating point as plain arrays in one file."""
    flat: dict[str, Any] = {
        f"{name}|{key}": np.asarray(value)
        for name, arrays in {**fitted, "": {**point}}.items()
        for key, value in arrays.items()
    }
    out = io.BytesIO()
    np.savez_compressed(out, **flat)
    write_bytes(folder / BASELINES, out.getvalue())


def load_baselines(folder: Path) -> tuple[dict[str, dict[str, np.ndarray]], dict[str, np.ndarray]]:
    """(baselines, the network's operating point) that `save_baselines` wrote.

    Raises:
      InputError: the run has not come so far.
    """
    path = folder / BASELINES
    if not path.is_file():
        raise InputError(f"{folder}: the run is not finished\ngo on with it: medjax resume {folder}")
    fitted: dict[str, dict[str, np.ndarray]] = {}
    with np.load(path, allow_pickle=False) as flat:
        for key in flat.files:
            name, _, array = key.partition("|")
            fitted.setdefault(name, {})[array] = flat[key]
    return fitted, fitted.pop("", {})


def score_baselines(job: Job, fitted: Mapping[str, Mapping[str, np.ndarray]], cases: Cases) -> dict[str, Rows]:
    """{baseline: rows}, decided at each one's own operating point."""
    found = {}
    for name, arrays in fitted.items():
        point = {key.removeprefix("point/"): value for key, value in arrays.items() if key.startswith("point/")}
        found[name] = job.decide(point, job.baselines[name].predict(arrays, cases))
    return found


def match_on_header(cases: Cases, others: Mapping[str, Rows]) -> Cases:
    """The cases with a `pair` column, where a two-class header baseline is there to match on."""
    if others.get("header", {}).get("score", np.empty((0, 0))).shape[1] != 2:
        return cases
    share = np.clip(others["header"]["score"][:, 1], 1e-3, 1 - 1e-3)
    return cases.extend(pair=metrics.matched_pairs(cases["label"], np.log(share / (1 - share))))


def measure_all(job: Job, cases: Cases, rows: Mapping[str, Rows]) -> dict[str, dict[str, dict[str, Any]]]:
    """Every model's metrics with intervals, and the others' differences to the first, on the same resamples.

    Args:
      job: its `measure` is called on the cases and on each bootstrap resample of whole groups.
      cases: with `label`, `group`, and `pair` where pairs were matched.
      rows: {model: rows}, the network first.

    Returns:
      {"metrics": {model: {metric: {"value", "ci95", "n"}}}, "comparisons": {model: {metric: {"difference", "ci95"}}},
      "undefined": {metric: reason} of the network's}
    """
    group, label = cases["group"], cases["label"]
    points = {name: job.measure(r, cases) for name, r in rows.items()}
    draws: dict[str, list[dict[str, float]]] = {name: [] for name in rows}
    reason = metrics.why_no_interval(group) if len(np.unique(group)) < MIN_CLUSTERS else ""
    if not reason:
        for index in metrics.resamples(len(cases), group, RESAMPLES, 0):
            part = cases.take(index)
            for name, r in rows.items():
                draws[name].append(job.measure({key: x[index] for key, x in r.items()}, part))
    network = next(iter(rows))
    known = int((label >= 0).sum() if label.dtype.kind in "iu" else np.isfinite(label).sum())

    def with_interval(values: np.ndarray, key: str, value: float, metric: str) -> dict[str, Any]:
        ci = None if reason else metrics.interval(values, value, biased=is_biased(metric))
        entry: dict[str, Any] = {key: value, "ci95": ci}
        if ci is None:
            entry["reason"] = reason or "undefined in more than half of the resamples"
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


def assess(
    job: Job,
    data: Dataset,
    rows: Mapping[str, Rows],
    point: Mapping[str, np.ndarray],
    fitted: Mapping[str, Mapping[str, np.ndarray]],
    folder: Path,
    facts: Mapping[str, Any],
) -> dict[str, Any]:
    """Everything a run says of its numbers: predictions/, figures/, report.json and report.html.

    Args:
      job: the job.
      data: all splits; those named in `rows` are measured, the last of them for the baselines and figures.
      rows: {split: rows of the network}.
      point: the network's operating point, from validation data.
      fitted: the baselines.
      folder: where to write.
      facts: further entries of report.json.

    Returns:
      The content of report.json.
    """
    measured, comparisons = {}, {}
    undefined: dict[str, Any] = {}
    for split, raw in rows.items():
        network = job.decide(point, raw)
        others = score_baselines(job, fitted, data.cases[split])
        cases = match_on_header(data.cases[split], others)
        found = measure_all(job, cases, {"network": network, **others})
        measured[split] = found["metrics"].pop("network")
        baselines, comparisons = found["metrics"], found["comparisons"]
        undefined |= {f"{name} ({split})": reason for name, reason in found["undefined"].items()}
        write_predictions(job, folder / "predictions", split, network, cases)
    shortcut, warnings = audit_shortcut(baselines, split)
    if data.audit.get("near_copies", {}).get("search") == NOT_POSSIBLE:
        warnings.append(f"Near-copies of images: {NOT_POSSIBLE}. The splits may share pictures that only look different.")
    about = job.about
    audit = {**data.audit, "shortcut": shortcut, "undefined": undefined}
    audit["prevalence"] = {s: count_classes(c, about.classes) for s, c in data.cases.items()}
    names = {name.split("/")[0] for values in measured.values() for name in values}
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
            "splits": {s: describe_split(c, about.classes) for s, c in data.cases.items()},
            "audit": audit,
        },
        "metrics": measured,
        "ci_unit": ci_unit(cases),
        "definitions": {name: text for name, text in about.definitions.items() if name in names},
        "baselines": baselines,
        "comparisons": comparisons,
        "point": {name: np.asarray(value).tolist() for name, value in point.items()},
        **{key: value for key, value in facts.items() if key != "seed"},
    }
    values = {split: {name: entry["value"] for name, entry in entries.items()} for split, entries in measured.items()}
    report["seeds"] = [{"seed": facts.get("seed"), "fold": None, "metrics": values}]
    from medjax.report import figures
    from medjax.report.html import write_html

    (folder / "figures").mkdir(exist_ok=True)
    report["figures"] = figures.save(job.figures(network, cases, others), folder / "figures")
    write_json(folder / "report.json", report)
    write_html(folder)  # last of all: a folder that holds it is finished
    return report


def describe_split(cases: Cases, classes: tuple[str, ...]) -> dict[str, Any]:
    """{"n", "patients", "prevalence"} of report.json, with the number of groups; patients null where none is known."""
    patient, counts = cases["patient"], count_classes(cases, classes)
    known = max(sum(counts.values()), 1)
    return {
        "n": len(cases),
        "patients": len(np.unique(patient[patient != ""])) or None,
        "groups": len(np.unique(cases["group"])),
        "prevalence": {name: round(count / known, 6) for name, count in counts.items()},
    }


def count_classes(cases: Cases, classes: tuple[str, ...]) -> dict[str, int]:
    """{class: cases of it}; empty where the label is a number."""
    label = cases["label"]
    if label.dtype.kind not in "iu":
        return {}
    return dict(zip(classes, np.bincount(label[label >= 0], minlength=len(classes)).tolist(), strict=False))


def ci_unit(cases: Cases) -> str:
    """What the bootstrap draws: patients where each is known and groups are no larger, else groups, else single cases."""
    patient, groups = cases["patient"], len(np.unique(cases["group"]))
    if (patient != "").all() and len(np.unique(patient)) == groups:
        return "patient"
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
    """The job's files of predictions as folder/STEM..., each written whole."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in job.write(rows, cases).items():
        write_text(folder / f"{stem}{name}", text)
