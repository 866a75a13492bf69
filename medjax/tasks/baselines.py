"""Simple classifiers beside the network: majority, logistic regression on pixels, and a forest on what is known without them.

Each is fitted with scikit-learn and kept as plain arrays, so that a run can score new data without unpickling anything. With
`multilabel` a case has several labels int [n, K] of 1, 0 or -1 (missing): each label is a yes-or-no question of its own, fitted
on the cases where it is known, and the setting is the best on average over the labels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from scipy.special import expit, logit, softmax

from medjax.cases import Cases, Rows
from medjax.core import Baseline
from medjax.metrics import log_loss

PIXELS = 64  # side that images are reduced to for the linear model
VOXELS = 28  # largest side that volumes are reduced to
COMPONENTS = 100
FIT_CASES = 20_000  # cases a baseline is fitted on at most
FIT_VALUES = 2**27  # numbers of theirs, which are held in memory
READ_CASES = 1_000  # cases whose pixels are held at once before they are reduced
TREES, TREES_A_LABEL = 200, 50
SURE = 1e-6  # how near to 0 or 1 a baseline's probability may be


def majority(k: int, *, multilabel: bool = False) -> Baseline:
    """The training set's prevalence for every case.

    Args:
      k: number of classes.
      multilabel: several labels a case.
    """

    def fit(train: Cases, val: Cases) -> dict[str, np.ndarray]:
        label = train["label"]
        if multilabel:
            return {"prior": np.array([_prior(column) for column in label.T])}
        return {"prior": np.bincount(label[label >= 0], minlength=k) / max((label >= 0).sum(), 1)}

    def predict(arrays: Mapping[str, np.ndarray], cases: Cases) -> Rows:
        return {"score": np.tile(arrays["prior"], (len(cases), 1))}

    return Baseline(fit, predict)


def logistic(k: int, *, multilabel: bool = False) -> Baseline:
    """Logistic regression on scaled pixels reduced by PCA; the ridge penalty is chosen by log-loss on validation data.

    Args: as of `majority`.
    """

    def fit(train: Cases, val: Cases) -> dict[str, np.ndarray]:
        from sklearn.decomposition import PCA

        most = FIT_VALUES // _pixels(train.take(np.arange(1))["image"]).size
        train, val = _labelled(train, most), _labelled(val, most)
        x = np.concatenate(list(_read_pixels(train)))
        pca = PCA(min(COMPONENTS, len(x) - 1, x.shape[1]), svd_solver="randomized", random_state=0).fit(x)
        # Whitening would blow a component of rounding noise up to the size of the others.
        kept = pca.explained_variance_ > 1e-6 * pca.explained_variance_[0]
        scale = np.sqrt(pca.explained_variance_[kept])
        project = {"mean": pca.mean_, "components": (pca.components_[kept] / scale[:, None]).T}
        reduced, label = (x - project["mean"]) @ project["components"], train["label"]
        of_val = reduce(project, val)

        def candidate(c: float) -> tuple[dict[str, np.ndarray], np.ndarray]:
            fitted = linear_labels(reduced, label, c) if multilabel else linear_classes(reduced, label, c, k)
            return {**project, **fitted}, score(fitted, of_val)

        return best_setting(candidate, (1e-4, 1e-3, 1e-2, 1e-1, 1.0), val["label"])

    def reduce(arrays: Mapping[str, np.ndarray], cases: Cases) -> np.ndarray:
        return np.concatenate([(x - arrays["mean"]) @ arrays["components"] for x in _read_pixels(cases)])

    def score(arrays: Mapping[str, np.ndarray], reduced: np.ndarray) -> np.ndarray:
        logits = reduced @ arrays["coef"].T + arrays["intercept"]
        return expit(logits) if multilabel else softmax(logits, axis=1)

    def predict(arrays: Mapping[str, np.ndarray], cases: Cases) -> Rows:
        return {"score": score(arrays, reduce(arrays, cases))}

    return Baseline(fit, predict)


def header(k: int, *, multilabel: bool = False) -> Baseline:
    """A random forest on `header`, all that is known of a case without its content. If it scores high, there is a shortcut.

    The smallest leaf is chosen by log-loss on validation data (Breiman, Machine Learning 45, 2001).

    Args: as of `majority`.
    """

    def fit(train: Cases, val: Cases) -> dict[str, np.ndarray]:
        train, val = _labelled(train), _labelled(val)
        x, label = train["header"], train["label"]

        def candidate(leaf: float) -> tuple[dict[str, np.ndarray], np.ndarray]:
            made = _forest_of_labels(x, label, int(leaf)) if multilabel else _forest(x, label, int(leaf), k, TREES)
            return made, predict(made, val)["score"]

        return best_setting(candidate, (3, 10, 30), val["label"])

    def predict(arrays: Mapping[str, np.ndarray], cases: Cases) -> Rows:
        x = np.asarray(cases["header"], np.float32)
        if not multilabel:
            return {"score": _vote(arrays, arrays["root"], x)}
        columns = [_vote(arrays, roots, x) for roots in np.split(arrays["root"], np.cumsum(arrays["trees"])[:-1])]
        return {"score": np.stack([column[:, 1] for column in columns], axis=1)}

    return Baseline(fit, predict)


def _vote(arrays: Mapping[str, np.ndarray], root: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Mean over the trees that begin at the nodes `root` of their leaves' shares, [n, K]."""
    node = np.tile(root, (len(x), 1))
    row = np.arange(len(x))[:, None]
    while (arrays["left"][node] >= 0).any():
        low = x[row, np.maximum(arrays["feature"][node], 0)] <= arrays["threshold"][node]
        leaf = arrays["left"][node] < 0
        node = np.where(leaf, node, np.where(low, arrays["left"][node], arrays["right"][node]))
    return arrays["value"][node].mean(1)


def best_setting(candidate: Callable[[float], tuple], settings: tuple, label: np.ndarray) -> dict[str, np.ndarray]:
    """The candidate (arrays, score of validation data) of the smallest log-loss; its setting is kept as `setting`."""
    best = np.inf
    arrays: dict[str, np.ndarray] = {}
    for setting in settings:
        made, score = candidate(setting)
        loss = _loss(label, np.clip(score, SURE, 1))
        if loss < best or not arrays:
            best, arrays = loss, {**made, "setting": np.array(setting)}
    return arrays


def _loss(label: np.ndarray, score: np.ndarray) -> float:
    if label.ndim == 2:
        losses = [log_loss(y, p) for y, p in zip(label.T, score.T, strict=True) if (y >= 0).any()]
        return float(np.mean(losses)) if losses else np.inf
    if score.shape[1] == 2:
        return log_loss(label, score[:, 1])
    return float(-np.log(score[np.arange(len(label)), label]).mean())


def _labelled(cases: Cases, most: int = FIT_CASES) -> Cases:
    """The cases with a label, one at least of several; at most `FIT_CASES` and `most` of them, drawn at random."""
    most = min(most, FIT_CASES)
    known = np.flatnonzero((cases["label"] >= 0).reshape(len(cases), -1).any(1))
    if len(known) > most:
        known = np.sort(np.random.default_rng(0).choice(known, most, replace=False))
    return cases.take(known)


def _read_pixels(cases: Cases) -> Iterator[np.ndarray]:
    """`_pixels` of the cases, a part at a time, since images are far larger than what is left of them."""
    for start in range(0, len(cases), READ_CASES):
        yield _pixels(cases.take(np.arange(start, min(start + READ_CASES, len(cases))))["image"])


def _pixels(images: np.ndarray) -> np.ndarray:
    """Images [n, H, W, C] or volumes [n, D, H, W, C], integer -> float32 [n, features], reduced by averaging blocks to
    `PIXELS` a side or a little more, or to `VOXELS` or less.
    """
    n, channels, shape = len(images), images.shape[-1], []
    images = images.astype(np.float32)
    for axis, length in enumerate(images.shape[1:-1], start=1):
        step = max(1, length // PIXELS) if images.ndim == 4 else -(-length // VOXELS)
        images = np.take(images, np.arange(length // step * step), axis=axis) if length % step else images
        shape += [length // step, step]
    blocks = images.reshape(n, *shape, channels).mean(tuple(range(2, 2 + len(shape), 2)))
    return blocks.reshape(n, -1) / 255.0


def _prior(label: np.ndarray) -> float:
    """The share of positives among known labels [n]; one half where none is known."""
    known = label >= 0
    return float((label[known] == 1).mean()) if known.any() else 0.5


def linear_classes(x: np.ndarray, label: np.ndarray, c: float, k: int) -> dict[str, np.ndarray]:
    """`coef` [K, F] and `intercept` [K] of a logistic regression of x [n, F] on label int [n] in 0 to K - 1, ridge 1 / c."""
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=c, max_iter=2000).fit(x, label)
    return {"coef": _all_classes(model, "coef_", k), "intercept": _all_classes(model, "intercept_", k)}


def linear_labels(x: np.ndarray, label: np.ndarray, c: float) -> dict[str, np.ndarray]:
    """As `linear_classes` for labels [n, K] of 1, 0 or -1 (missing), each by itself; a label of one kind its prevalence."""
    from sklearn.linear_model import LogisticRegression

    coef = np.zeros((label.shape[1], x.shape[1]))
    intercept = logit(np.clip([_prior(column) for column in label.T], SURE, 1 - SURE))
    for k, column in enumerate(label.T):
        known = column >= 0
        if len(np.unique(column[known])) == 2:
            model = LogisticRegression(C=c, max_iter=2000).fit(x[known], column[known])
            coef[k], intercept[k] = model.coef_[0], model.intercept_[0]
    return {"coef": coef, "intercept": intercept}


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


def _forest(x: np.ndarray, label: np.ndarray, leaf: int, k: int, trees: int) -> dict[str, np.ndarray]:
    from sklearn.ensemble import RandomForestClassifier

    return _forest_arrays(RandomForestClassifier(trees, min_samples_leaf=leaf, random_state=0).fit(x, label), k)


def _forest_of_labels(x: np.ndarray, label: np.ndarray, leaf: int) -> dict[str, np.ndarray]:
    """A forest a label, one behind the other; `trees` [K] counts each one's. A label that is nowhere known gets one half."""
    forests, start = [], 0
    for column in label.T:
        known = column >= 0
        if known.any():
            made = _forest(x[known], column[known], leaf, 2, TREES_A_LABEL)
        else:
            none = np.array([-1])
            made = {"root": np.zeros(1, int), "left": none, "right": none, "feature": none, "threshold": none.astype(float)}
            made["value"] = np.full((1, 2), 0.5)
        for name in ("left", "right"):
            made[name] = np.where(made[name] < 0, -1, made[name] + start)
        forests.append({**made, "root": made["root"] + start, "trees": np.array([len(made["root"])])})
        start += len(made["left"])
    return {name: np.concatenate([forest[name] for forest in forests]) for name in forests[0]}


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
