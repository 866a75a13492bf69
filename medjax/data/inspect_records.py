"""What is in a folder of records: cases, patients, labels, and the events of each variable. Nothing is trained or kept."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from medjax.core import SPLITS
from medjax.data.digests import digest
from medjax.data.inspect import quantiles
from medjax.data.layouts import Layout
from medjax.data.records import Tally, tell
from medjax.errors import InputError

_MEASURED = 2000  # records whose values are kept for the quantiles


def report(found: Layout, root: Path, *, limit: int, advance: Callable[[int], None] = lambda n: None) -> dict[str, Any]:
    """Read records and count; what cannot be read is listed, not raised. No patient is named.

    Args:
      found: a layout of records.
      root: the data folder, which error messages are told without.
      limit: where there are more records, so many are drawn at random.
      advance: told of each record that has been read.

    Returns:
      {"cases", "read", "splits": {split: {"n", "read", "patients", "classes": {class: count}, "missing"}}, "patients",
      "variables": {name: {"unit", "code", "events", "cases", "value": quantiles}}, "statics": {name: how many records have it},
      "events", "hours": quantiles of a record's count of events and of its end, "audit": {"leaks", "identical"}, "notes",
      "broken"}. Of labels step by step, "classes" counts answers.

    Raises:
      InputError: no record can be read.
    """
    todo = [(split, i) for split in (*SPLITS, "all") if split in found.sources for i in range(len(found.sources[split]))]
    total = Counter(split for split, _ in todo)
    if len(todo) > limit:
        todo = [todo[k] for k in np.sort(np.random.default_rng(0).choice(len(todo), limit, replace=False))]
    size = len(found.variables)
    events, cases = np.zeros(size, np.int64), np.zeros(size, np.int64)
    measured = set(np.random.default_rng(1).permutation(len(todo))[:_MEASURED].tolist())
    kept: list[tuple[np.ndarray, np.ndarray]] = []
    statics = np.zeros(len(found.statics), np.int64)
    lengths, ends, content, broken = [], [], [], []
    labels: dict[str, Counter[int]] = {split: Counter() for split in total}
    patients: dict[str, list[str]] = {split: [] for split in total}
    for at, (split, i) in enumerate(todo):
        source = found.sources[split]
        try:
            example = source[i]
        except (InputError, OSError) as error:
            broken.append({"id": source.case_id(i), "reason": str(error).splitlines()[0].replace(f"{root}{os.sep}", "")})
            continue
        finally:
            advance(1)
        counts = np.bincount(example["variables"].array, minlength=size)
        events += counts
        cases += counts > 0
        if at in measured:
            kept.append((example["variables"].array, example["values"].array))
        statics += np.isfinite(example["static"])
        lengths.append(len(example["times"].array))
        ends.append(float(example["end"]))
        content.append(digest(example))
        labels[split].update(_answers(example, found.kind))
        patients[split].append(example["patient"])
    if not lengths:
        first = f": {broken[0]['reason']}" if broken else ""
        raise InputError(f"{root}: none of {len(todo):,} records can be read{first}\ncheck the path")
    variables, values = (np.concatenate(column) for column in zip(*kept)) if kept else (np.empty(0, int), np.empty(0))
    seen = [patient for part in patients.values() for patient in part]
    tally: Tally = sum((source.tally() for source in found.sources.values() if hasattr(source, "tally")), Counter())
    _, twins = np.unique(content, return_counts=True)
    return {
        "cases": sum(total.values()),
        "read": len(lengths),
        "splits": {
            split: {
                "n": n,
                "read": len(patients[split]),
                "patients": len(set(patients[split]) - {""}),
                "classes": {name: labels[split][k] for k, name in enumerate(found.classes)},
                "missing": labels[split][-1],
            }
            for split, n in total.items()
        },
        "patients": len(set(seen) - {""}),
        "variables": {
            variable.name: {
                "unit": variable.unit,
                "code": variable.code,
                "events": int(events[k]),
                "cases": int(cases[k]),
                "value": None if variable.code or variable.categories else quantiles(values[variables == k]),
            }
            for k, variable in enumerate(found.variables)
        },
        "statics": dict(zip(found.statics, statics.tolist(), strict=True)),
        "events": quantiles(np.array(lengths)),
        "hours": quantiles(np.array(ends)),
        "audit": {
            "leaks": leaks(patients),
            "identical": {"sets": int((twins > 1).sum()), "files": int(twins[twins > 1].sum())},
        },
        "notes": tell(tally),
        "broken": broken,
    }


def _answers(example: Mapping[str, Any], kind: str) -> list[int]:
    """The classes that a record counts for; -1 where it has no label."""
    if kind == "multi":
        label = np.asarray(example["label"])
        return np.flatnonzero(label == 1).tolist() if (label >= 0).any() else [-1]
    if kind == "steps":
        return example["label_values"].array.tolist()
    return [int(example["label"])]


def leaks(patients: Mapping[str, list[str]]) -> dict[str, int]:
    """{"patients in train and test": how many} of pairs of splits that share some."""
    parts = {split: set(patients[split]) - {""} for split in SPLITS if split in patients}
    pairs = [(a, b) for k, a in enumerate(parts) for b in list(parts)[k + 1 :]]
    return {f"patients in {a} and {b}": len(parts[a] & parts[b]) for a, b in pairs if parts[a] & parts[b]}
