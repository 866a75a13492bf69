"""Simple classifiers beside the network: majority, logistic regression on pixels, and a forest on what is known without them.

Each is fitted with scikit-learn and kept as plain arrays, so that a run can score new data without unpickling anything.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from scipy.special import softmax

from medjax.core import Baseline, Cases, Rows
from medjax.metrics import log_loss

PIXELS = 64  # side that images are reduced to for the linear model
COMPONENTS = 100
FIT_CASES = 20_000  # cases a baseline is fitted on at most


def majority(k: int) -> Baseline:
    """The training set's prevalence for every case.

    Args:
      k: number of classes.
    """

    def fit(train: Cases, val: Cases) -> dict[str, np.ndarray]:
        label = train["label"]
        return {"prior": np.bincount(label[label >= 0], minlength=k) / max((label >= 0).sum(), 1)}

    def predict(arrays: Mapping[str, np.ndarray], cases: Cases) -> Rows:
        return {"score": np.tile(arrays["prior"], (len(cases), 1))}

    return Baseline(fit, predict)


def logistic(k: int) -> Baseline:
    """Logistic regression on scaled pixels reduced by PCA; the ridge penalty is chosen by log-loss on validation data."""

    def fit(train: Cases, val: Cases) -> dict[str, np.ndarray]:
        from sklearn.decomposition import PCA
        from sklearn.linear_model import LogisticRegression

        train, val = _labelled(train), _labelled(val)
        x = _pixels(train["image"])
        pca = PCA(min(COMPONENTS, len(x) - 1, x.shape[1]), svd_solver="randomized", random_state=0).fit(x)
        # Whitening would blow a component of rounding noise up to the size of the others.
        kept = pca.explained_variance_ > 1e-6 * pca.explained_variance_[0]
        scale = np.sqrt(pca.explained_variance_[kept])
        project = {"mean": pca.mean_, "components": (pca.components_[kept] / scale[:, None]).T}

        def candidate(c: float) -> dict[str, np.ndarray]:
            model = LogisticRegression(C=c, max_iter=2000).fit((x - project["mean"]) @ project["components"], train["label"])
            return {**project, "coef": _all_classes(model, "coef_", k), "intercept": _all_classes(model, "intercept_", k)}

        return _best(candidate, (1e-4, 1e-3, 1e-2, 1e-1, 1.0), predict, val, k)

    def predict(arrays: Mapping[str, np.ndarray], cases: Cases) -> Rows:
        reduced = (_pixels(cases["image"]) - arrays["mean"]) @ arrays["components"]
        return {"score": softmax(reduced @ arrays["coef"].T + arrays["intercept"], axis=1)}

    return Baseline(fit, predict)


def header(k: int) -> Baseline:
    """A random forest on `header`, all that is known of a case without its content. If it scores high, there is a shortcut.

    The smallest leaf is chosen by log-loss on validation data (Breiman, Machine Learning 45, 2001).
    """

    def fit(train: Cases, val: Cases) -> dict[str, np.ndarray]:
        from sklearn.ensemble import RandomForestClassifier

        train, val = _labelled(train), _labelled(val)

        def candidate(leaf: float) -> dict[str, np.ndarray]:
            forest = RandomForestClassifier(200, min_samples_leaf=int(leaf), random_state=0)
            return _forest_arrays(forest.fit(train["header"], train["label"]), k)

        return _best(candidate, (3, 10, 30), predict, val, k)

    def predict(arrays: Mapping[str, np.ndarray], cases: Cases) -> Rows:
        x = np.asarray(cases["header"], np.float32)
        node = np.tile(arrays["root"], (len(x), 1))
        row = np.arange(len(x))[:, None]
        while (arrays["left"][node] >= 0).any():
            low = x[row, np.maximum(arrays["feature"][node], 0)] <= arrays["threshold"][node]
            leaf = arrays["left"][node] < 0
            node = np.where(leaf, node, np.where(low, arrays["left"][node], arrays["right"][node]))
        return {"score": arrays["value"][node].mean(1)}

    return Baseline(fit, predict)


def _best(candidate: Callable[[float], dict], settings: tuple, predict: Callable, val: Cases, k: int) -> dict[str, np.ndarray]:
    """The candidate of the smallest log-loss on validation data; its setting is kept as `setting`."""
    label, best, arrays = val["label"], np.inf, {}
    for setting in settings:
        made = {**candidate(setting), "setting": np.array(setting)}
        score = np.clip(predict(made, val)["score"], 1e-6, 1)
        loss = -np.log(score[np.arange(len(label)), label]).mean() if k > 2 else log_loss(label, score[:, 1])
        if loss < best:
            best, arrays = loss, made
    return arrays


def _labelled(cases: Cases) -> Cases:
    known = np.flatnonzero(cases["label"] >= 0)
    if len(known) > FIT_CASES:
        known = np.sort(np.random.default_rng(0).choice(known, FIT_CASES, replace=False))
    return cases.take(known)


def _pixels(images: np.ndarray) -> np.ndarray:
    """Images [n, H, W, C] integer -> float32 [n, features], reduced to `PIXELS` a side by averaging blocks."""
    step = max(1, images.shape[1] // PIXELS)
    n, height, width, channels = images.shape
    cut = images[:, : height // step * step, : width // step * step].astype(np.float32)
    blocks = cut.reshape(n, height // step, step, width // step, step, channels).mean((2, 4))
    return blocks.reshape(n, -1) / 255.0


def _all_classes(model: Any, name: str, k: int) -> np.ndarray:
    """scikit-learn's coefficients as one row a class; a class that training lacks can never be chosen."""
    values = getattr(model, name)
    if len(model.classes_) == 2:  # scikit-learn keeps the second class's only
        values = np.concatenate([np.zeros_like(values), values])
    full = np.zeros((k, *values.shape[1:]))
    if name == "intercept_":
        full[:] = -1e9
    full[model.classes_] = values
    return full


def _forest_arrays(forest: Any, k: int) -> dict[str, np.ndarray]:
    trees = [e.tree_ for e in forest.estimators_]
    root = np.cumsum([0] + [t.node_count for t in trees[:-1]])

    def moved(children: np.ndarray, at: int) -> np.ndarray:
        return np.where(children < 0, -1, children + at)

    value = np.zeros((sum(t.node_count for t in trees), k))
    counts = np.concatenate([t.value[:, 0] for t in trees])
    value[:, forest.classes_] = counts / counts.sum(1, keepdims=True)
    return {
        "root": root,
        "left": np.concatenate([moved(t.children_left, at) for t, at in zip(trees, root, strict=True)]),
        "right": np.concatenate([moved(t.children_right, at) for t, at in zip(trees, root, strict=True)]),
        "feature": np.concatenate([t.feature for t in trees]),
        "threshold": np.concatenate([t.threshold for t in trees]),
        "value": value,
    }
