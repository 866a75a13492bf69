"""A job's data, ready to train on: prepared, grouped, split and audited."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from medjax.core import Cases, Job
from medjax.data.prepare import Prepared, prepare
from medjax.data.split import clear_leaks, group_cases, make_folds, make_splits
from medjax.errors import InputError

NOT_POSSIBLE = "not searched, since the images are under 64 pixels or more than 20,000"
SEARCHED = {"any": "in any orientation", "upright": "upright only", "off": "not searched"}


class Dataset(NamedTuple):
    """Prepared cases by split, and the audit that report.json shows."""

    cases: dict[str, Cases]
    fingerprint: str
    audit: dict[str, Any]

    def split_fingerprint(self) -> str:
        """SHA-256 over which case stands where: the same only if a resumed run trains and tests on the same sides."""
        h = hashlib.sha256()
        for split, cases in sorted(self.cases.items()):
            h.update("\n".join([split, *sorted(map("|".join, zip(cases["id"], cases["content"], strict=True)))]).encode())
        return h.hexdigest()


def load(job: Job, settings: Any, say: Callable[[str], None]) -> Dataset:
    """Prepare the job's data, split it, and look for leaks.

    Args:
      job: its `sources` and `preprocess` are used.
      settings: `medjax.config.Data`.
      say: told what is being done.

    Raises:
      InputError: see `prepare`, `make_splits` and `clear_leaks`; a split that loses all its cases, a training
        split of one class only.
    """
    prepared, cases, strata = _prepare(job, settings, say)
    index = make_splits(
        cases["given"],
        cases["group"],
        strata,
        fractions=settings.fractions,
        seed=settings.split_seed,
        classes=job.about.classes,
    )
    return _dataset(job, settings, prepared, cases, index)


def load_folds(job: Job, settings: Any, folds: int, say: Callable[[str], None]) -> list[Dataset]:
    """As `load`, a Dataset for each fold of a cross-validation over all cases but those of a given test split.

    Each has the splits "cv", the cases held out, "val", carved out of the others by --data.fractions, and "train"; and "test"
    where the data gives one.
    """
    prepared, cases, strata = _prepare(job, settings, say)
    train, val, _ = settings.fractions
    parts = make_folds(
        cases["given"],
        cases["group"],
        strata,
        folds=folds,
        val=val / (train + val),
        seed=settings.split_seed,
        classes=job.about.classes,
    )
    return [_dataset(job, settings, prepared, cases, index) for index in parts]


def split_fingerprint(datasets: Sequence[Dataset]) -> str:
    """SHA-256 over which case stands where, in all folds: the same only if a resumed run trains and tests on the same sides."""
    prints = [data.split_fingerprint() for data in datasets]
    return prints[0] if len(prints) == 1 else hashlib.sha256("\n".join(prints).encode()).hexdigest()


def _prepare(job: Job, settings: Any, say: Callable[[str], None]) -> tuple[Prepared, Cases, np.ndarray]:
    """(prepared, its cases with groups, int [n] what a split keeps in proportion)."""
    prepared = prepare(job.sources(), job.preprocess, near=settings.near_copies, say=say)
    cases = with_groups(prepared)
    label = cases["label"]
    _check_labels(cases, job.about.classes)
    # Each class is split in proportion; a number to be predicted has no classes.
    return prepared, cases, label if label.dtype.kind in "iu" else np.zeros(len(label), int)


def _dataset(job: Job, settings: Any, prepared: Prepared, cases: Cases, index: dict[str, np.ndarray]) -> Dataset:
    label, classes = cases["label"], job.about.classes
    index, leaks = clear_leaks(index, content=cases["content"], patient=cases["patient"], on_leak=settings.on_leak)
    for split, rows in index.items():
        if not len(rows):
            raise InputError(
                f"the {split} split is empty: all of it stands in a later split too\ngive the splits cases of their own"
            )
    if classes:
        present = np.unique(label[index["train"]])
        present = present[present >= 0]
        if present.size < 2:
            only = f"only the class {classes[present[0]]!r}" if present.size else "no labelled case"
            raise InputError(f"the training split holds {only}\nadd cases of the others")
    audit = _audit(prepared, cases, settings, leaks)
    return Dataset({split: cases.take(rows) for split, rows in index.items()}, prepared.fingerprint, audit)


def load_one(job: Job, settings: Any, split: str, say: Callable[[str], None]) -> Dataset:
    """One split of the job's data, or all of it where the data has no such split: for evaluating a finished run."""
    prepared = prepare(job.sources(), job.preprocess, near=settings.near_copies, say=say)
    cases = with_groups(prepared)
    given = cases["given"]
    whole = not (given == split).any()
    cases = cases.take(np.flatnonzero((given == split) | whole))
    audit = _audit(prepared, cases, settings, {})
    if whole:
        audit["notes"].append(f"the data has no split {split!r}: all of it was taken")
    return Dataset({split: cases}, prepared.fingerprint, audit)


def _check_labels(cases: Cases, classes: Sequence[str]) -> None:
    label = cases["label"]
    if classes and label.dtype.kind in "iu" and label.ndim == 1:
        outside = np.flatnonzero((label < -1) | (label >= len(classes)))
        if len(outside):
            raise InputError(
                f"{cases['id'][outside[0]]}: the label {label[outside[0]]} is outside 0 to {len(classes) - 1} "
                f"({', '.join(classes)})\nmend it, or give -1 where it is missing ({len(outside)} such)"
            )


def _audit(prepared: Prepared, cases: Cases, settings: Any, leaks: dict[str, Any]) -> dict[str, Any]:
    _, copies = np.unique(cases["near"], return_counts=True)
    return {
        "leaks": leaks,
        "near_copies": {
            "groups": int((copies > 1).sum()),
            "files": int(copies[copies > 1].sum()),
            "largest": int(copies.max()),
            "search": _search(prepared, settings.near_copies),
        },
        "notes": _notes(cases["content"], cases["label"], cases["near"]),
    }


def with_groups(prepared: Prepared) -> Cases:
    """The prepared cases with `group`, what must stay on one side of a split."""
    columns = prepared.cases.columns
    return Cases({**columns, "group": group_cases(columns["patient"], columns["content"], columns["near"])})


def _search(prepared: Prepared, wanted: str) -> str:
    if wanted == "off" or prepared.searched:
        return SEARCHED[wanted]
    return NOT_POSSIBLE if "image" in prepared.cases else "not searched: these are no images"


def _notes(content: np.ndarray, label: np.ndarray, near: np.ndarray) -> list[str]:
    notes = []
    for what, key in (("identical content", content), ("near-copies", near)):
        pairs = {(k, v) for k, v in zip(key.tolist(), label.tolist(), strict=True)}
        twice = len(pairs) - len({k for k, _ in pairs})
        if twice:
            notes.append(f"{twice} set(s) of {what} carry different labels")
    return notes
