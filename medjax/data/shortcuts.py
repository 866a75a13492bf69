"""How well classes are told apart without looking at the content: a network will find that out too."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from medjax import metrics
from medjax.cases import Cases
from medjax.core import Baseline
from medjax.data.split import make_folds, rarest_class
from medjax.errors import InputError

FITTED = 2_000  # cases that are looked at at most
FOLDS = (5, 3)  # fewer where the classes are small
WORDS = 10  # different words of a column that are told apart
RESAMPLES = 200


def find_shortcuts(cases: Cases, classes: Sequence[str], header: Callable[..., Baseline]) -> dict[str, dict[str, Any]]:
    """AUROC of what is known of a case besides its content, in cross-validation by group.

    Args:
      cases: label, group, `header` (float [n, d], what is known of the file) and, if known, sex, age, view, site; at most
        `FITTED` of them are used, drawn at random.
      classes: names of the labels.
      header: (number of classes, multilabel=bool) -> the baseline that is fitted.

    Returns:
      {"size": entry, and "sex and age", "view and site", or one of the two, where they are known and differ}. An entry is
      {"auroc", "ci95", "n", "by_class"}, one-versus-rest and averaged over the classes, or {"reason"} why there is none.
    """
    if len(cases) > FITTED:
        cases = cases.take(np.sort(np.random.default_rng(0).choice(len(cases), FITTED, replace=False)))
    inputs = {"size": cases["header"]}
    for columns in (("sex", "age"), ("view", "site")):
        known = {column: _to_numbers(cases[column]) for column in columns if column in cases}
        telling = {column: x for column, x in known.items() if (x != x[:1]).any()}
        if telling:
            inputs[" and ".join(telling)] = np.concatenate(list(telling.values()), axis=1)
    return {name: _cross_validate(x, cases["label"], cases["group"], classes, header) for name, x in inputs.items()}


def _to_numbers(column: np.ndarray) -> np.ndarray:
    """A column as features [n, d] float32: words as indicators of the most frequent ones, an unknown age as -1."""
    if column.dtype.kind == "f":
        return np.nan_to_num(column, nan=-1.0).astype(np.float32)[:, None]
    words = [word for word, _ in Counter(column.tolist()).most_common(WORDS)]
    return np.stack([column == word for word in words], axis=1).astype(np.float32)


def _cross_validate(
    x: np.ndarray, label: np.ndarray, group: np.ndarray, classes: Sequence[str], header: Callable[..., Baseline]
) -> dict[str, Any]:
    if (x == x[:1]).all():
        return {"reason": "the same for all cases"}
    several = label.ndim == 2
    kept = np.flatnonzero((label >= 0).any(1) if several else label >= 0)
    x, label, group = x[kept], label[kept], group[kept]
    score, fold = _score_out_of_fold(x, label, group, len(classes), header)
    if not len(score):
        return {"reason": f"a class has too few independent groups of cases for {FOLDS[-1]} folds"}
    shown = [1] if len(classes) == 2 and not several else range(len(classes))
    truth = {k: label[:, k].astype(int) if several else (label == k).astype(int) for k in shown}
    truth = {k: of for k, of in truth.items() if {0, 1} <= set(of.tolist())}

    def measure(rows: np.ndarray) -> dict[str, float]:
        found = np.array([_auroc_within(of[rows], score[rows, k], fold[rows]) for k, of in truth.items()])
        return {"auroc": float(found[np.isfinite(found)].mean()) if np.isfinite(found).any() else float("nan")}

    if not truth:
        return {"reason": "no class has cases with it and cases without it"}
    return {
        "auroc": measure(np.arange(len(label)))["auroc"],
        "ci95": metrics.bootstrap(measure, len(label), group, resamples=RESAMPLES)["auroc"],
        "n": len(label),
        "by_class": {classes[k]: _auroc_within(of, score[:, k], fold) for k, of in truth.items()},
    }


def _auroc_within(label: np.ndarray, score: np.ndarray, fold: np.ndarray) -> float:
    """AUROC over the pairs of a positive and a negative of the same fold; NaN without such a pair.

    Across folds it would be pulled below one half where nothing can be learned: a fold with more positives than the others
    leaves fewer to learn from, and is given lower scores.
    """
    ranked = pairs = 0.0
    for part in np.unique(fold):
        here = label[fold == part]
        n = float((here == 1).sum() * (here == 0).sum())
        if n:
            pairs += n
            ranked += n * metrics.auroc(here, score[fold == part])
    return ranked / pairs if pairs else float("nan")


def _score_out_of_fold(
    x: np.ndarray, label: np.ndarray, group: np.ndarray, k: int, header: Callable[..., Baseline]
) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities [n, k] by a baseline that has not seen the case's group, and folds [n]; empty with too few groups."""
    several = label.ndim == 2
    cases = Cases({"header": x, "label": label})
    given = np.full(len(label), "all")
    strata = rarest_class(label) if several else label
    for folds in FOLDS:
        try:
            parts = make_folds(given, group, strata, folds=folds, val=0.2, seed=0, classes=(), strict=not several)
        except InputError:  # a class has fewer groups than folds
            continue
        score, fold = np.full((len(label), k), np.nan), np.zeros(len(label), int)
        baseline = header(k, multilabel=several)
        for number, part in enumerate(parts):
            fold[part["cv"]] = number
            arrays = baseline.fit(cases.take(part["train"]), cases.take(part["val"]))
            score[part["cv"]] = baseline.predict(arrays, cases.take(part["cv"]))["score"]
        return score, fold
    return np.empty((0, k)), np.empty(0, int)
