"""The members of a run: one training for each seed and each fold, averaged and pooled in its report."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from medjax.cases import Cases, Rows, average, concatenate
from medjax.core import Job
from medjax.data.load import Dataset

ENSEMBLE = "ensemble"  # whose operating point goes with the members' averaged rows


class Member(NamedTuple):
    """One training of a run.

    Attributes:
      name: of its folder in checkpoints/; empty for the only one.
      seed: of weights, data order and augmentation.
      fold: the part of the data that it never sees, None without --folds.
    """

    name: str
    seed: int
    fold: int | None


class Outcome(NamedTuple):
    """A member that has been trained, and what it says of its cases.

    Attributes:
      member: which.
      data: its cases by split.
      rows: {split: rows}, before any decision.
      point: its operating point, from its validation cases.
      baselines: {baseline: arrays}, fitted on its training cases; members of one fold share them.
      best_step: of its chosen checkpoint.
    """

    member: Member
    data: Dataset
    rows: Mapping[str, Rows]
    point: Mapping[str, np.ndarray]
    baselines: Mapping[str, Mapping[str, np.ndarray]]
    best_step: int


def list_members(config: Any) -> list[Member]:
    """The members of a run, fold by fold; seeds count up from --train.seed."""
    seeds, folds = getattr(config, "seeds", 1), getattr(config, "folds", 0)
    found = []
    for fold in range(folds) if folds else (None,):
        for seed in range(config.train.seed, config.train.seed + seeds):
            parts = ([] if fold is None else [f"fold{fold}"]) + ([f"seed{seed}"] if seeds > 1 else [])
            found.append(Member("-".join(parts), seed, fold))
    return found


def checkpoint_folder(folder: Path, member: Member) -> Path:
    """Where a member's checkpoints lie."""
    return folder / "checkpoints" / member.name if member.name else folder / "checkpoints"


def pool(parts: Sequence[tuple[Cases, Rows]]) -> tuple[Cases, Rows]:
    """Cases and rows of several folds, one after the other."""
    cases = Cases(parts[0][0].columns, np.concatenate([c.index for c, _ in parts]))
    return cases, pool_rows([rows for _, rows in parts])


def pool_rows(parts: Sequence[Rows]) -> Rows:
    """Rows of several folds, one after the other."""
    return {name: concatenate([rows[name] for rows in parts]) for name in parts[0]}


def by_fold(members: Sequence[Outcome]) -> list[list[Outcome]]:
    """The members of each fold, in order."""
    found: dict[int | None, list[Outcome]] = {}
    for outcome in members:
        found.setdefault(outcome.member.fold, []).append(outcome)
    return list(found.values())


def ensemble_point(
    job: Job, members: Sequence[Outcome], together: Callable[[Sequence[Outcome], Cases], Rows] | None = None
) -> Mapping[str, np.ndarray]:
    """The operating point of the members' averaged rows: chosen on validation cases, each scored by members that have not
    trained on it, and pooled over the folds. `together` gives rows of outputs that have no mean (`Examples.merge`).
    """
    if len(members) == 1:
        return members[0].point
    merges = job.examples is not None and job.examples.merge is not None

    def joined(fold: Sequence[Outcome]) -> Rows:
        if merges and together is not None and len(fold) > 1:
            return together(fold, fold[0].data.cases["val"])
        return average([t.rows["val"] for t in fold])

    parts = [(fold[0].data.cases["val"], joined(fold)) for fold in by_fold(members)]
    cases, rows = pool(parts)
    return job.calibrate(rows, cases)
