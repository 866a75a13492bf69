"""Splits by group, and the audit of leaks that goes with them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from medjax.core import SPLITS
from medjax.data.duplicates import components, same_value
from medjax.errors import InputError


def group_cases(patient: np.ndarray, content: np.ndarray, near: np.ndarray) -> np.ndarray:
    """Group [n]: cases joined by patient, by identical content or by being near-copies must stay on one side of a split.

    Args:
      patient: str [n], "" where unknown.
      content: str [n], digest of the raw content.
      near: int [n], component of near-copies.
    """
    edges = [same_value(patient), same_value(content), same_value(near)]
    i, j = (np.concatenate(side) for side in zip(*edges, strict=True))
    return components(len(patient), i, j)


def rarest_class(label: np.ndarray) -> np.ndarray:
    """What a split of several labels keeps in proportion: the positive class of each case that the fewest cases have.

    Args:
      label: int [n, K] of 1, 0 and -1 (missing).

    Returns:
      int [n]: the class, K where none is positive, -1 where none is known.
    """
    positive = label == 1
    rank = np.argsort(np.argsort(positive.sum(0), kind="stable"))
    rarest = np.where(positive, rank, label.shape[1]).argmin(1)
    found = np.where(positive.any(1), rarest, label.shape[1])
    return np.where((label >= 0).any(1), found, -1)


def split_groups(
    group: np.ndarray,
    label: np.ndarray,
    fractions: Sequence[float],
    *,
    seed: int,
    classes: Sequence[str] = (),
    strict: bool = True,
) -> np.ndarray:
    """Assign whole groups to parts, class by class, until each part has its fraction of the class's cases.

    Args:
      group: int [n].
      label: int [n]; a group of several labels counts under the one that the fewest groups hold.
      fractions: share of each part; they are normalised.
      seed: of the shuffle.
      classes: names for the error message.
      strict: whether every class must stand in every part. Otherwise a class too rare for that is put together with the cases
        without a label.

    Returns:
      int [n]: index of the part.

    Raises:
      InputError: a class has too few groups to stand in every part where it must, or a fraction is not above 0.
    """
    if not min(fractions) > 0:
        raise InputError(
            f"the fractions {', '.join(map(str, fractions))} of the splits are not all above 0\nsee --data.fractions"
        )
    share = np.asarray(fractions, float) / np.sum(fractions)
    rng = np.random.default_rng(seed)
    names, inverse = np.unique(group, return_inverse=True)
    if not strict:
        value, of = np.unique(label, return_inverse=True)
        holders = np.bincount(np.unique(np.stack([of, inverse]), axis=1)[0], minlength=len(value))
        label = np.where(holders[of] < len(share), -1, label)
    values = np.unique(label)
    counts = np.stack([np.bincount(inverse, label == value, len(names)) for value in values])
    order = rng.permutation(len(names))
    part = np.full(len(names), -1)
    holders = (counts > 0).sum(1)
    # The rarest class first: a group that holds several classes is placed where that one needs it.
    for k in np.lexsort((holders, values < 0)):
        free = order[(counts[k, order] > 0) & (part[order] < 0)]
        placed = np.array([counts[k, part == p].sum() for p in range(len(share))])
        # Cases without a label go along; no split needs some.
        lacking = (placed == 0) & (values[k] >= 0)
        if not strict:
            if values[k] < 0:  # the last of all: what is still empty gets one of these
                lacking = np.bincount(part[part >= 0], minlength=len(share)) == 0
            if len(free) < lacking.sum():
                lacking[:] = False
        if len(free) < lacking.sum():
            name = classes[values[k]] if 0 <= values[k] < len(classes) else str(values[k])
            raise InputError(
                f"the class {name!r} has {holders[k]} independent group(s) of cases: too few to stand in all of {len(share)} "
                "splits\nadd cases of other patients, or give the splits as folders train, val and test"
            )
        if len(free):
            part[free] = _cut(counts[k, free], np.maximum(share - placed / counts[k].sum(), 0), lacking)
    return part[inverse]


def _cut(sizes: np.ndarray, wanted: np.ndarray, lacking: np.ndarray) -> np.ndarray:
    """Part [n] of a row of groups: a group goes where its middle falls, and every part that is lacking gets at least one."""
    middle = (np.cumsum(sizes) - sizes / 2) / sizes.sum()
    ends = np.searchsorted(middle, np.cumsum(wanted)[:-1] / wanted.sum())
    for p in range(len(ends)):
        least = (ends[p - 1] if p else 0) + lacking[p]
        ends[p] = min(max(ends[p], least), len(sizes) - lacking[p + 1 :].sum())
    return np.searchsorted(ends, np.arange(len(sizes)), side="right")


def make_splits(
    given: np.ndarray,
    group: np.ndarray,
    label: np.ndarray,
    *,
    fractions: Sequence[float],
    seed: int,
    classes: Sequence[str],
    strict: bool = True,
) -> dict[str, np.ndarray]:
    """Index of the cases of train, val and test; given splits are kept, missing ones are carved out of "all" or "train".

    Args:
      given: str [n], one of train, val, test, all.
      group, label: int [n].
      fractions: of train, val and test.
      seed, classes, strict: see `split_groups`.
    """
    missing = [s for s in SPLITS if not (given == s).any()]
    pool = np.isin(given, ("all", "train"))
    split = given.astype("U5")
    if (given == "all").any() or missing:
        parts = [s for s in SPLITS if s == "train" or s in missing]
        if not pool.any():
            raise InputError(f"the data has no training split, only {', '.join(np.unique(given))}\nadd a train folder")
        share = [fractions[SPLITS.index(s)] for s in parts]
        index = np.flatnonzero(pool)
        where = split_groups(group[index], label[index], share, seed=seed, classes=classes, strict=strict)
        split[index] = np.array(parts)[where]
    return {s: np.flatnonzero(split == s) for s in SPLITS}


def make_folds(
    given: np.ndarray,
    group: np.ndarray,
    label: np.ndarray,
    *,
    folds: int,
    val: float,
    seed: int,
    classes: Sequence[str],
    strict: bool = True,
) -> list[dict[str, np.ndarray]]:
    """Index of the cases of train, val and cv for each fold; a given test split stays out of the folds and stands in each.

    Args:
      given: str [n], one of train, val, test, all.
      group, label: int [n].
      folds: how many, 2 or more.
      val: share of the cases outside of a fold that its training leaves for validation.
      seed, classes, strict: see `split_groups`.

    Returns:
      A dict for each fold: "cv" is the fold itself.
    """
    if folds < 2:
        raise InputError(f"--folds {folds}: must be 2 or more", usage=True)
    test, pool = np.flatnonzero(given == "test"), np.flatnonzero(given != "test")
    part = split_groups(group[pool], label[pool], [1.0] * folds, seed=seed, classes=classes, strict=strict)
    found = []
    for fold in range(folds):
        rest = pool[part != fold]
        inner = split_groups(group[rest], label[rest], (1 - val, val), seed=seed, classes=classes, strict=strict)
        index = {"train": rest[inner == 0], "val": rest[inner == 1], "cv": pool[part == fold]}
        found.append({**index, "test": test} if len(test) else index)
    return found


def keep_share(group: np.ndarray, kind: np.ndarray, share: float, seed: int) -> np.ndarray:
    """bool [n]: the cases of a share of the groups, of each kind at least one group; a smaller share is part of a larger one.

    Args:
      group: [n], what is kept or left out as a whole; it counts under the kind of its first case.
      kind: int [n], such as the label.
      share: above 0, up to 1.
      seed: of the order.
    """
    _, first, at = np.unique(group, return_index=True, return_inverse=True)
    of, kept = kind[first], np.zeros(len(first), bool)
    for k in np.unique(of):
        mine = np.random.default_rng([seed, abs(int(k))]).permutation(np.flatnonzero(of == k))
        kept[mine[: max(1, round(share * len(mine)))]] = True
    return kept[at]


def clear_leaks(
    splits: dict[str, np.ndarray], *, content: np.ndarray, patient: np.ndarray, on_leak: str
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Drop identical content from the training side, and stop at patients shared by two splits.

    The test split loses nothing, the validation split what the test split holds, the training split what either holds. A fold's
    held-out cases stand behind a given test split.

    Returns:
      (splits, counts).

    Raises:
      InputError: a patient in two splits, unless `on_leak` is "report".
    """
    counts: dict[str, Any] = {}
    names = list(splits)
    for i, a in enumerate(names):
        for b in names[i + 1 :]:
            shared = sorted((set(patient[splits[a]]) & set(patient[splits[b]])) - {""})
            if shared and on_leak != "report":
                raise InputError(
                    f"{len(shared)} patient(s) stand in both {a} and {b}: a test on known patients measures memory\n"
                    "mend the splits, or give --data.on_leak report to go on with the count in the report"
                )
            if shared:
                counts[f"patients in both {a} and {b}"] = len(shared)
    kept = dict(splits)
    order = [split for split in ("test", "cv", "val", "train") if split in kept]
    for at, loser in enumerate(order):
        held = set().union(*(content[kept[winner]] for winner in order[:at]))
        twice = np.isin(content[kept[loser]], list(held))
        if twice.any():
            counts[f"identical content dropped from {loser}"] = int(twice.sum())
            kept[loser] = kept[loser][~twice]
    return kept, counts
