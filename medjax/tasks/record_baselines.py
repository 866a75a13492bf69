"""Simple models beside a network over records: logistic regression and boosted trees on summaries of each variable.

Each is fitted with scikit-learn on training cases, its settings are chosen on validation cases, and it is kept as plain arrays,
so that a run can score new data without unpickling anything.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.special import expit, logit, softmax

from medjax.cases import Cases, Rows
from medjax.core import Baseline
from medjax.tasks.baselines import SURE, best_setting, linear_classes, linear_labels
from medjax.tasks.record_statistics import CLIP

FIT_ROWS = 50_000  # rows a baseline is fitted on at most
RIDGE = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
# (leaves, learning rate, smallest leaf) of the trees; how many there are is chosen besides.
TREES = ((4, 0.1, 20), (8, 0.06, 20), (16, 0.05, 40))
ROUNDS, EVERY = 300, 20
SMALL = 2**17  # numbers in a table below which threads cost more than they bring, above all beside other work


class Question(NamedTuple):
    """What is asked of cases, as a table.

    Attributes:
      inputs: cases -> float [R, F], NaN where something is not known.
      truth: cases -> int [R] of K classes, or int8 [R, K] of labels; -1 where it is missing.
      rows: (cases, scores [R, K]) -> rows of the network's form.
      classes: K.
      multilabel: whether truth is [R, K].
    """

    inputs: Callable[[Cases], np.ndarray]
    truth: Callable[[Cases], np.ndarray]
    rows: Callable[[Cases, np.ndarray], Rows]
    classes: int
    multilabel: bool = False


def summaries(cases: Cases) -> np.ndarray:
    """float32 [n, F]: the summary of every variable, and what is known once."""
    parts = [np.asarray(cases[name], np.float32) for name in ("summary", "static") if name in cases]
    return np.concatenate(parts, 1)


def majority(question: Question) -> Baseline:
    """The training set's prevalence for every row."""

    def fit(train: Cases, val: Cases) -> dict[str, np.ndarray]:
        label = question.truth(train)
        if question.multilabel:
            known = label >= 0
            return {"prior": (label == 1).sum(0) / np.maximum(known.sum(0), 1)}
        return {"prior": np.bincount(label[label >= 0], minlength=question.classes) / max((label >= 0).sum(), 1)}

    def predict(arrays: Mapping[str, np.ndarray], cases: Cases) -> Rows:
        return question.rows(cases, np.tile(arrays["prior"], (len(question.truth(cases)), 1)))

    return Baseline(fit, predict)


def logistic(question: Question) -> Baseline:
    """Logistic regression on clipped standard scores, 0 where unknown, and on what is unknown; the ridge penalty is chosen by
    log-loss on validation data.
    """

    def fit(train: Cases, val: Cases) -> dict[str, np.ndarray]:
        x, label = _labelled(question, train)
        with np.errstate(all="ignore"):
            low, high = np.nanpercentile(_some(x), CLIP, axis=0)
            clipped = np.clip(x, low, high)
            scale = {"low": low, "high": high, "mean": np.nanmean(_some(clipped), 0), "deviation": np.nanstd(_some(clipped), 0)}
        scale = {name: np.nan_to_num(value) for name, value in scale.items()}
        scale["deviation"][scale["deviation"] < 1e-6] = 1.0
        held, of_truth = _labelled(question, val)
        made, of_val = _standard(scale, x), _standard(scale, held)

        def candidate(c: float) -> tuple[dict[str, np.ndarray], np.ndarray]:
            fitted = linear_labels(made, label, c) if question.multilabel else linear_classes(made, label, c, question.classes)
            return {**scale, **fitted}, score(fitted, of_val)

        return best_setting(candidate, RIDGE, of_truth)

    def score(arrays: Mapping[str, np.ndarray], x: np.ndarray) -> np.ndarray:
        logits = x @ arrays["coef"].T + arrays["intercept"]
        return expit(logits) if question.multilabel else softmax(logits, axis=1)

    def predict(arrays: Mapping[str, np.ndarray], cases: Cases) -> Rows:
        return question.rows(cases, score(arrays, _standard(arrays, question.inputs(cases))))

    return Baseline(fit, predict)


def _some(x: np.ndarray) -> np.ndarray:
    """The table with a row of zeros where a column would be all unknown."""
    return np.where(np.isnan(x).all(0), 0.0, x)


def _standard(scale: Mapping[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    known = ~np.isnan(x)
    scaled = (np.clip(x, scale["low"], scale["high"]) - scale["mean"]) / scale["deviation"]
    return np.concatenate([np.where(known, scaled, 0.0), ~known], 1)


def _labelled(question: Question, cases: Cases) -> tuple[np.ndarray, np.ndarray]:
    """(inputs, truth) of the rows with a label, one at least of several; `FIT_ROWS` of them at most, drawn at random."""
    x, label = question.inputs(cases), question.truth(cases)
    known = np.flatnonzero((label >= 0).reshape(len(label), -1).any(1))
    if len(known) > FIT_ROWS:
        known = np.sort(np.random.default_rng(0).choice(known, FIT_ROWS, replace=False))
    return x[known], label[known]


def boosting(question: Question) -> Baseline:
    """Gradient boosting of trees over histograms (Ke et al., NeurIPS 2017; scikit-learn's); leaves, rate and number of trees
    are chosen by log-loss on validation data.
    """

    def fit(train: Cases, val: Cases) -> dict[str, np.ndarray]:
        x, label = _labelled(question, train)
        of_val, of_truth = _labelled(question, val)
        if not question.multilabel:
            return _boost(x, label, of_val, of_truth, question.classes)
        parts = [_boost(x[y >= 0], y[y >= 0], of_val, t, 2) for y, t in zip(label.T, of_truth.T, strict=True)]
        return {f"{k}/{name}": value for k, part in enumerate(parts) for name, value in part.items()}

    def predict(arrays: Mapping[str, np.ndarray], cases: Cases) -> Rows:
        x = question.inputs(cases)
        if not question.multilabel:
            return question.rows(cases, predict_trees(arrays, x))
        parts = [{n.partition("/")[2]: a for n, a in arrays.items() if n.startswith(f"{k}/")} for k in range(question.classes)]
        return question.rows(cases, np.stack([predict_trees(part, x)[:, 1] for part in parts], 1))

    return Baseline(fit, predict)


def _boost(x: np.ndarray, y: np.ndarray, x_val: np.ndarray, y_val: np.ndarray, k: int) -> dict[str, np.ndarray]:
    """The best forest of the grid `TREES`, cut where validation loss is least; of one class alone its prevalence."""
    from sklearn.ensemble import HistGradientBoostingClassifier
    from threadpoolctl import threadpool_limits

    present = np.unique(y)
    if len(present) < 2:
        share = np.clip(np.bincount(y, minlength=k) / max(len(y), 1) if len(y) else np.full(k, 1 / k), SURE, 1 - SURE)
        base = np.array([logit(share[1])]) if k == 2 else np.log(share)
        return {"base": base, "classes": np.arange(k), "k": np.array(k), "root": np.zeros((0, len(base)), int), **_NO_NODES}

    def candidate(setting: float) -> tuple[dict[str, np.ndarray], np.ndarray]:
        leaves, rate, least = TREES[int(setting)]
        model = HistGradientBoostingClassifier(
            learning_rate=rate,
            max_iter=ROUNDS,
            max_leaf_nodes=leaves,
            min_samples_leaf=least,
            l2_regularization=1.0,
            early_stopping=False,
            random_state=0,
        )
        with threadpool_limits(limits=1 if x.size < SMALL else None, user_api="openmp"):
            model.fit(_some(x), y)  # it does not take a column of NaN alone; in one of zeros it finds no split
        arrays = tree_arrays(model, k)
        rounds = range(EVERY, ROUNDS + 1, EVERY)

        def cut(n: float) -> tuple[dict[str, np.ndarray], np.ndarray]:
            return {**arrays, "root": arrays["root"][: int(n)]}, scores[int(n)]

        scores = dict(zip(rounds, staged_trees(arrays, x_val, list(rounds)), strict=True))
        made = best_setting(cut, tuple(rounds), y_val)
        made["rounds"] = made.pop("setting")
        return made, scores[int(made["rounds"])]

    return best_setting(candidate, tuple(range(len(TREES))), y_val)


_NO_NODES: dict[str, np.ndarray] = {
    **{name: np.zeros(0, int) for name in ("left", "right", "feature")},
    **{name: np.zeros(0) for name in ("threshold", "value")},
    "missing_left": np.zeros(0, bool),
}


def tree_arrays(model: Any, k: int) -> dict[str, np.ndarray]:
    """A fitted HistGradientBoostingClassifier as arrays, of trees without categorical features.

    Returns:
      root int [rounds, trees a round], and of all nodes in a row left, right (-1 in a leaf), feature, threshold, missing_left,
      value (of a leaf, in logits); base [trees a round], the logits before any tree; classes: those that training holds; k.
    """
    rounds = model._predictors
    nodes = [tree.nodes for trees in rounds for tree in trees]
    starts = np.cumsum([0] + [len(n) for n in nodes[:-1]])

    def column(name: str) -> np.ndarray:
        return np.concatenate([n[name] for n in nodes])

    def moved(name: str) -> np.ndarray:
        return np.concatenate([np.where(n["is_leaf"], -1, n[name].astype(np.int64) + at) for n, at in zip(nodes, starts)])

    return {
        "root": starts.reshape(len(rounds), -1),
        "left": moved("left"),
        "right": moved("right"),
        "feature": column("feature_idx").astype(np.int64),
        "threshold": column("num_threshold"),
        "missing_left": column("missing_go_to_left").astype(bool),
        "value": column("value"),
        "base": np.ravel(model._baseline_prediction).astype(np.float64),
        "classes": np.asarray(model.classes_, np.int64),
        "k": np.array(k),
    }


def predict_trees(arrays: Mapping[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    """Probabilities [n, K] of boosted trees kept as `tree_arrays` for x [n, F], NaN where something is not known."""
    return staged_trees(arrays, x, [len(arrays["root"])])[0]


def staged_trees(arrays: Mapping[str, np.ndarray], x: np.ndarray, rounds: Sequence[int]) -> list[np.ndarray]:
    """As `predict_trees`, after each of so many rounds, ascending."""
    x = np.asarray(x, np.float64)
    logits = np.tile(arrays["base"], (len(x), 1))
    row, found, done = np.arange(len(x)), [], 0
    for until in rounds:
        for roots in arrays["root"][done:until]:
            for tree, root in enumerate(roots):
                logits[:, tree] += _walk(arrays, x, row, int(root))
        done = until
        found.append(_to_classes(arrays, logits))
    return found


def _walk(arrays: Mapping[str, np.ndarray], x: np.ndarray, row: np.ndarray, root: int) -> np.ndarray:
    node = np.full(len(x), root)
    while (arrays["left"][node] >= 0).any():
        given = x[row, arrays["feature"][node]]
        low = np.where(np.isnan(given), arrays["missing_left"][node], given <= arrays["threshold"][node])
        node = np.where(arrays["left"][node] < 0, node, np.where(low, arrays["left"][node], arrays["right"][node]))
    return arrays["value"][node]


def _to_classes(arrays: Mapping[str, np.ndarray], logits: np.ndarray) -> np.ndarray:
    """Logits of trees -> [n, K]; a class that training lacks is never given."""
    if logits.shape[1] == 1:
        positive = expit(logits[:, 0])
        share = np.stack([1 - positive, positive], 1)
    else:
        share = softmax(logits, axis=1)
    full = np.zeros((len(logits), int(arrays["k"])))
    full[:, arrays["classes"]] = share
    return full
