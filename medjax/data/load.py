"""A job's data, ready to train on: prepared, grouped, split and audited."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from medjax.cases import Cases, Ragged
from medjax.core import Job
from medjax.data.prepare import Prepared, prepare
from medjax.data.split import clear_leaks, group_cases, keep_share, make_folds, make_splits, rarest_class
from medjax.data.tables import split_by_file
from medjax.errors import InputError

NOT_POSSIBLE = "not searched, since the images are under 64 pixels or more than 20,000"
SKIPPED_SHOWN = 20
SEARCHED = {"any": "in any orientation", "upright": "upright only", "off": "not searched"}


class Dataset(NamedTuple):
    """Prepared cases by split, the audit that report.json shows, and (id, reason) of every case that was left out."""

    cases: dict[str, Cases]
    fingerprint: str
    audit: dict[str, Any]
    skipped: tuple[tuple[str, str], ...] = ()

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
      InputError: see `prepare`, `split_by_file`, `make_splits` and `clear_leaks`; a split that loses all its cases, a training
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
        strict=cases["label"].ndim == 1,
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
        strict=cases["label"].ndim == 1,
    )
    return [_dataset(job, settings, prepared, cases, index) for index in parts]


def split_fingerprint(datasets: Sequence[Dataset]) -> str:
    """SHA-256 over which case stands where, in all folds: the same only if a resumed run trains and tests on the same sides."""
    prints = [data.split_fingerprint() for data in datasets]
    return prints[0] if len(prints) == 1 else hashlib.sha256("\n".join(prints).encode()).hexdigest()


def _prepare(
    job: Job, settings: Any, say: Callable[[str], None], *, elsewhere: bool = False
) -> tuple[Prepared, Cases, np.ndarray]:
    """(prepared, its cases with groups, int [n] what a split keeps in proportion).

    Where the data may be from `elsewhere`, a split file that names none of the cases is of other data, and left alone.
    """
    prepared = prepare(job.sources(), job.preprocess, near=settings.near_copies, on_error=settings.on_error, say=say)
    cases = with_groups(prepared)
    if settings.splits:
        skipped = [name for name, _ in prepared.skipped]
        given = split_by_file(settings.splits, cases, skipped=skipped, elsewhere=elsewhere)
        cases = Cases({**cases.columns, "given": given})
    label = cases["label"]
    _check_labels(cases, job.about.classes)
    if label.dtype.kind not in "iu":  # a number to be predicted has no classes
        return prepared, cases, np.zeros(len(label), int)
    return prepared, cases, label if label.ndim == 1 else rarest_class(label)


def _dataset(job: Job, settings: Any, prepared: Prepared, cases: Cases, index: dict[str, np.ndarray]) -> Dataset:
    label, classes = cases["label"], job.about.classes
    if empty := [split for split, rows in index.items() if not len(rows)]:
        groups = len(np.unique(cases["group"]))
        raise InputError(
            f"the {empty[0]} split is empty: the {len(cases)} cases are {groups} group(s) by patient and near-copies\n"
            "add cases of other patients, or look for near-copies less strictly: --data.near_copies off"
        )
    index, leaks = clear_leaks(index, content=cases["content"], patient=cases["patient"], on_leak=settings.on_leak)
    for split, rows in index.items():
        if not len(rows):
            raise InputError(
                f"the {split} split is empty: all of it stands in a later split too\ngive the splits cases of their own"
            )
    audit = _audit(prepared, cases, settings, leaks)
    if settings.fraction < 1:
        before, kinds = len(index["train"]), label if label.ndim == 1 else rarest_class(label)
        train = index["train"]
        kept = keep_share(cases["group"][train], kinds[train], settings.fraction, settings.split_seed)
        index = {**index, "train": train[kept]}
        audit["notes"].append(
            f"trained on {len(index['train'])} of {before} training cases: --data.fraction {settings.fraction:g}"
        )
    parts = {split: cases.take(rows) for split, rows in index.items()}
    if job.check is not None:
        audit["notes"] += job.check(parts["train"])
    elif classes:
        audit["notes"] += _check_training(label[index["train"]], classes)
    return Dataset(parts, prepared.fingerprint, audit, prepared.skipped)


def _check_training(label: np.ndarray, classes: Sequence[str]) -> list[str]:
    """Notes on what the training split cannot teach.

    Args:
      label: int [n], or int8 [n, K].

    Raises:
      InputError: it cannot teach anything.
    """
    if label.ndim == 1:
        present = np.unique(label[label >= 0])
        if present.size < 2:
            only = f"only the class {classes[present[0]]!r}" if present.size else "no labelled case"
            raise InputError(f"the training split holds {only}\nadd cases of the others")
        return []
    lacks = {"positive": ~(label == 1).any(0), "negative": ~(label == 0).any(0)}
    if (lacks["positive"] | lacks["negative"]).all():
        raise InputError("the training split holds no class with both positive and negative cases\nadd cases of the others")
    return [
        f"no {kind} case in the training split: {', '.join(name for name, lack in zip(classes, lacking) if lack)}"
        for kind, lacking in lacks.items()
        if lacking.any()
    ]


def load_one(job: Job, settings: Any, split: str, say: Callable[[str], None]) -> Dataset:
    """One split of the job's data, or all of it where the data has no such split: for evaluating a finished run."""
    prepared, cases, _ = _prepare(job, settings, say, elsewhere=True)
    given = cases["given"]
    whole = not (given == split).any()
    cases = cases.take(np.flatnonzero((given == split) | whole))
    audit = _audit(prepared, cases, settings, {})
    if whole:
        audit["notes"].append(f"the data has no split {split!r}: all of it was taken")
    return Dataset({split: cases}, prepared.fingerprint, audit, prepared.skipped)


def _check_labels(cases: Cases, classes: Sequence[str]) -> None:
    label = cases["label"]
    if not classes or label.dtype.kind not in "iu":
        return
    if label.ndim == 2 and label.shape[1] != len(classes):
        raise InputError(f"{cases['id'][0]}: has {label.shape[1]} labels for {len(classes)} classes\ngive one for each class")
    most = len(classes) - 1 if label.ndim == 1 else 1
    outside = np.argwhere((label < -1) | (label > most))
    if len(outside):
        raise InputError(
            f"{cases['id'][outside[0][0]]}: the label {label[tuple(outside[0])]} is outside 0 to {most} "
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
        "notes": [*prepared.notes, *_notes(cases["content"], cases["label"], cases["near"])],
        **({"skipped": _tell_skipped(prepared.skipped)} if prepared.skipped else {}),
    }


def _tell_skipped(skipped: Sequence[tuple[str, str]]) -> dict[str, Any]:
    return {"count": len(skipped), "first": [f"{name}: {reason}" for name, reason in skipped[:SKIPPED_SHOWN]]}


def with_groups(prepared: Prepared) -> Cases:
    """The prepared cases with `group`, what must stay on one side of a split."""
    columns = prepared.cases.columns
    return Cases({**columns, "group": group_cases(columns["patient"], columns["content"], columns["near"])})


def _search(prepared: Prepared, wanted: str) -> str:
    if wanted == "off" or prepared.searched:
        return SEARCHED[wanted]
    if "image" not in prepared.cases:
        return "not searched: these are no images"
    volumes = isinstance(prepared.cases.columns["image"], Ragged)
    return "not searched: these are volumes" if volumes else NOT_POSSIBLE


def _notes(content: np.ndarray, label: np.ndarray, near: np.ndarray) -> list[str]:
    notes = []
    for what, key in (("identical content", content), ("near-copies", near)):
        pairs = {(k, str(v)) for k, v in zip(key.tolist(), label.tolist(), strict=True)}
        twice = len(pairs) - len({k for k, _ in pairs})
        if twice:
            notes.append(f"{twice} set(s) of {what} carry different labels")
    return notes
