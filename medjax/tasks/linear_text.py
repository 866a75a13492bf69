"""The linear model of texts beside the network: logistic regression on TF-IDF of words and characters, kept as arrays."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from scipy.special import expit, logit, softmax

from medjax.cases import Cases, Rows
from medjax.core import Baseline
from medjax.tasks import baselines as simple
from medjax.tasks.documents import decode

KINDS: Mapping[str, dict[str, Any]] = {
    "word": {"analyzer": "word", "ngram_range": (1, 2), "token_pattern": r"(?u)\b\w+\b"},
    "char": {"analyzer": "char_wb", "ngram_range": (2, 5)},
}
LEAST, MOST = 2, 60_000  # texts that a term stands in; terms of each kind
SETTINGS = (1.0, 10.0, 100.0)  # 1 / ridge
MOST_TEXTS = 50_000  # that it is fitted on
LABELS = 50  # labels of their own model at most, the most frequent; the others get their prevalence


def _texts(cases: Cases) -> list[str]:
    column = cases["text"]
    return [decode(column[i]) for i in range(len(cases))]


def _vectorizer(kind: str, **settings: Any) -> Any:
    from sklearn.feature_extraction.text import TfidfVectorizer

    return TfidfVectorizer(**KINDS[kind], sublinear_tf=True, dtype=np.float32, **settings)


def features(arrays: Mapping[str, np.ndarray], texts: Iterable[str]) -> Any:
    """Sparse float32 [n, F] of texts, from terms and weights that `logistic` has kept."""
    from scipy.sparse import hstack

    texts, parts = list(texts), []
    for kind in KINDS:
        terms = arrays[f"terms/{kind}"].tolist()
        made = _vectorizer(kind, vocabulary={term: i for i, term in enumerate(terms)})
        made.idf_ = arrays[f"idf/{kind}"]
        parts.append(made.transform(texts))
    return hstack(parts, format="csr")


def fit_terms(texts: Iterable[str]) -> dict[str, np.ndarray]:
    """The terms of training texts and their weights, as arrays."""
    texts = list(texts)
    arrays: dict[str, np.ndarray] = {}
    for kind in KINDS:
        made = _vectorizer(kind, min_df=min(LEAST, len(texts)), max_features=MOST)
        try:
            made.fit(texts)
        except ValueError:  # no term is in two texts
            made = _vectorizer(kind).fit(texts)
        terms = made.get_feature_names_out()
        arrays |= {f"terms/{kind}": terms.astype("U"), f"idf/{kind}": made.idf_.astype(np.float32)}
    return arrays


def logistic(k: int, *, multilabel: bool = False) -> Baseline:
    """Logistic regression on TF-IDF of words, pairs of words, and two to five characters; its ridge is chosen on validation
    data.

    Args:
      k: number of classes.
      multilabel: several labels a case; beyond `LABELS` of them the rarer ones get their prevalence.
    """

    def fit(train: Cases, val: Cases) -> dict[str, np.ndarray]:
        train, val = _labelled(train), _labelled(val)
        terms = fit_terms(_texts(train))
        x, of_val, label = features(terms, _texts(train)), features(terms, _texts(val)), train["label"]

        def candidate(c: float) -> tuple[dict[str, np.ndarray], np.ndarray]:
            fitted = _labels(x, label, c) if multilabel else simple.linear_classes(x, label, c, k)
            fitted = {name: array.astype(np.float32) for name, array in fitted.items()}
            return {**terms, **fitted}, score(fitted, of_val)

        return simple.best_setting(candidate, SETTINGS, val["label"])

    def score(arrays: Mapping[str, np.ndarray], x: Any) -> np.ndarray:
        logits = x @ arrays["coef"].T + arrays["intercept"]
        return expit(logits) if multilabel else softmax(logits, axis=1)

    def predict(arrays: Mapping[str, np.ndarray], cases: Cases) -> Rows:
        return {"score": score(arrays, features(arrays, _texts(cases)))}

    return Baseline(fit, predict)


def _labelled(cases: Cases) -> Cases:
    """The cases with a label, one at least of several; at most `MOST_TEXTS` of them, drawn at random."""
    known = np.flatnonzero((cases["label"] >= 0).reshape(len(cases), -1).any(1))
    if len(known) > MOST_TEXTS:
        known = np.sort(np.random.default_rng(0).choice(known, MOST_TEXTS, replace=False))
    return cases.take(known)


def _labels(x: Any, label: np.ndarray, c: float) -> dict[str, np.ndarray]:
    often = np.sort(np.argsort(-(label == 1).sum(0), kind="stable")[:LABELS])
    fitted = simple.linear_labels(x, label[:, often], c)
    # The others' coefficients are zero, and their intercepts the prevalence's.
    share = (label == 1).sum(0) / np.maximum((label >= 0).sum(0), 1)
    coef = np.zeros((label.shape[1], x.shape[1]), np.float32)
    intercept = logit(np.clip(share, simple.SURE, 1 - simple.SURE))
    coef[often], intercept[often] = fitted["coef"], fitted["intercept"]
    return {"coef": coef, "intercept": intercept}
