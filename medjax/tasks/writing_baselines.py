"""Simple writers beside the network: the most frequent text, the nearest training text's, the source's first words."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from medjax.cases import Cases, Rows, stack_rows
from medjax.core import Baseline
from medjax.metrics import writing as metrics
from medjax.tasks.documents import decode, encode
from medjax.tasks.linear_text import features, fit_terms

_SENTENCE = re.compile(r"(?<=[.!?])\s+|\n+")
_LIST = re.compile(r"^\d+\.$")  # the number of a list's entry is no sentence
SENTENCES = (1, 2, 3)
ROWS = 4096  # texts that are compared at once


def text_row(written: str, true: str) -> dict[str, Any]:
    """What rows of this job hold of a case: `written` Varying uint8, UTF-8; `runs` float32 [10], see `metrics.count_runs`;
    `rouge` float32 [3]; `exact` float32; `findings` float32 [3, 3], see `metrics.count_findings`.
    """
    return {
        "written": encode(written),
        "runs": metrics.count_runs(written, true),
        "rouge": metrics.rouge(written, true),
        "exact": np.float32(metrics.same(written, true)),
        "findings": metrics.count_findings(written, true),
    }


def _texts(cases: Cases, column: str) -> list[str]:
    return [decode(text) for text in cases[column]]


def _rows(written: Iterable[str], cases: Cases) -> Rows:
    return stack_rows([text_row(text, true) for text, true in zip(written, _texts(cases, "true"), strict=True)])


def _blob(texts: Iterable[str]) -> dict[str, np.ndarray]:
    """Texts as arrays: their bytes in a row, and where each ends."""
    parts = [text.encode() for text in texts]
    return {"bytes": np.frombuffer(b"".join(parts), np.uint8), "ends": np.cumsum([len(p) for p in parts])}


def _from_blob(arrays: Mapping[str, np.ndarray]) -> list[str]:
    ends = arrays["ends"].tolist()
    return [arrays["bytes"][a:b].tobytes().decode() for a, b in zip([0, *ends], ends)]


def _known(cases: Cases) -> Cases:
    return cases.take(np.flatnonzero(cases["label"] >= 0))


def frequent() -> Baseline:
    """The text that was written most often in training, whatever the source; of equals the first by letter."""

    def fit(train: Cases, val: Cases) -> dict[str, np.ndarray]:
        counts = Counter(text.strip() for text in _texts(_known(train), "true"))
        return _blob([min(counts, key=lambda text: (-counts[text], text))])

    def predict(arrays: Mapping[str, np.ndarray], cases: Cases) -> Rows:
        return _rows(_from_blob(arrays) * len(cases), cases)

    return Baseline(fit, predict)


def nearest(vectors: Callable[[Cases], np.ndarray] | None = None) -> Baseline:
    """The text of the training case whose source is nearest by the cosine of the angle.

    Args:
      vectors: cases -> float [n, F]; by default TF-IDF of words, pairs of words, and two to five characters.
    """

    def unit(arrays: Mapping[str, np.ndarray], cases: Cases) -> Any:
        from sklearn.preprocessing import normalize

        return normalize(features(arrays, _texts(cases, "text")) if vectors is None else vectors(cases))

    def fit(train: Cases, val: Cases) -> dict[str, np.ndarray]:
        train = _known(train)
        arrays = fit_terms(_texts(train, "text")) if vectors is None else {}
        x = unit(arrays, train)
        kept = {"x": x} if vectors else {f"x/{name}": getattr(x, name) for name in ("data", "indices", "indptr")}
        return {**arrays, **kept, **_blob(text.strip() for text in _texts(train, "true"))}

    def predict(arrays: Mapping[str, np.ndarray], cases: Cases) -> Rows:
        from scipy.sparse import csr_array

        y = unit(arrays, cases)
        parts = [arrays[f"x/{name}"] for name in ("data", "indices", "indptr")] if vectors is None else []
        x = csr_array(tuple(parts), shape=(len(arrays["ends"]), y.shape[1])) if parts else arrays["x"]
        texts, found = _from_blob(arrays), []
        for begin in range(0, len(cases), ROWS):
            likeness = y[begin : begin + ROWS] @ x.T
            found += np.asarray(likeness.todense() if parts else likeness).argmax(1).tolist()
        return _rows((texts[i] for i in found), cases)

    return Baseline(fit, predict)


def lead() -> Baseline:
    """The first sentences of the source, one to three of them, as gives the higher ROUGE-L on validation data."""

    def written(cases: Cases, count: int) -> list[str]:
        return [" ".join(sentences(text)[:count]) for text in _texts(cases, "text")]

    def fit(train: Cases, val: Cases) -> dict[str, np.ndarray]:
        val = _known(val) if (val["label"] >= 0).any() else _known(train)
        scores = [_rows(written(val, count), val)["rouge"][:, 2].mean() for count in SENTENCES]
        return {"setting": np.array(SENTENCES[int(np.argmax(scores))])}

    def predict(arrays: Mapping[str, np.ndarray], cases: Cases) -> Rows:
        return _rows(written(cases, int(arrays["setting"])), cases)

    return Baseline(fit, predict)


def sentences(text: str) -> list[str]:
    """The sentences of a text, each without blanks around; a list's number stays with what follows it."""
    found: list[str] = []
    for part in filter(None, (part.strip() for part in _SENTENCE.split(text))):
        if found and _LIST.match(found[-1]):
            found[-1] = f"{found[-1]} {part}"
        else:
            found.append(part)
    return found
