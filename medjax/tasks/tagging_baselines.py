"""Simple taggers beside the network: each word's most frequent tag, and a dictionary of the training entities."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

import numpy as np

from medjax.cases import Cases, Rows, stack_rows
from medjax.core import Baseline
from medjax.data import tags as schemes
from medjax.data.tokenize import normal
from medjax.metrics import text as metrics
from medjax.tasks.documents import decode
from medjax.tasks.spans import entity_row, in_text, on_tokens

LONGEST = 12  # tokens of a dictionary's entry
SHARES = (0.1, 0.3, 0.5, 0.7)  # of an entry's places in training texts that must be entities


def _texts(cases: Cases) -> Iterator[tuple[list[str], np.ndarray, np.ndarray]]:
    """(tokens as `normal` gives them, their places int [k, 2], true spans int [m, 3]) of each case."""
    columns = {name: cases[name] for name in ("text", "tokens", "spans")}
    for i in range(len(cases)):
        text, tokens = decode(columns["text"][i]), columns["tokens"][i]
        yield [normal(text[a:b]) for a, b in tokens.tolist()], tokens, columns["spans"][i]


def frequent_tag(k: int) -> Baseline:
    """The tag that a word has most often in training texts, O for words that are new (the baseline of CoNLL's shared tasks).

    Args:
      k: types of entities.
    """

    def fit(train: Cases, val: Cases) -> dict[str, np.ndarray]:
        counts: dict[str, Counter[int]] = {}
        for words, tokens, spans in _texts(train):
            tags = schemes.tags_of_spans(on_tokens(spans, tokens), len(tokens), "iob2")
            for word, tag in zip(words, tags.tolist()):
                counts.setdefault(word, Counter())[tag] += 1
        most = {word: max(of, key=lambda tag: (of[tag], -tag)) for word, of in counts.items()}
        tagged = {word: tag for word, tag in most.items() if tag}
        return {"words": np.array(list(tagged), "U"), "tags": np.array(list(tagged.values()), np.int32)}

    def predict(arrays: Mapping[str, np.ndarray], cases: Cases) -> Rows:
        known = dict(zip(arrays["words"].tolist(), arrays["tags"].tolist()))
        rows = []
        for words, tokens, truth in _texts(cases):
            found = schemes.spans_of_numbers(np.array([known.get(word, 0) for word in words], np.int32), "iob2")
            rows.append(entity_row(truth, in_text(found, tokens), k))
        return stack_rows(rows)

    return Baseline(fit, predict)


def dictionary(k: int) -> Baseline:
    """The entities of training texts wherever their words stand, the longest first, from left to right.

    An entry must be an entity in a share of its places in training texts, which is chosen by entity F1 on validation data.

    Args:
      k: types of entities.
    """

    def fit(train: Cases, val: Cases) -> dict[str, np.ndarray]:
        named: dict[str, Counter[int]] = {}
        lines = []
        for words, tokens, spans in _texts(train):
            lines.append(words)
            for first, stop, of in on_tokens(spans, tokens):
                if stop - first <= LONGEST:
                    named.setdefault(" ".join(words[first:stop]), Counter())[of] += 1
        everywhere = Counter(
            phrase
            for words in lines
            for n in range(1, LONGEST + 1)
            for i in range(len(words) - n + 1)
            if (phrase := " ".join(words[i : i + n])) in named
        )
        entries = {phrase: max(of, key=lambda t: (of[t], -t)) for phrase, of in named.items()}
        share = np.array([sum(named[phrase].values()) / everywhere[phrase] for phrase in entries])
        arrays = {"phrases": np.array(list(entries), "U"), "types": np.array(list(entries.values()), np.int32)}
        best: tuple[float, dict[str, np.ndarray]] = (-1.0, {})
        for least in SHARES:
            kept = {name: x[share >= least] for name, x in arrays.items()}
            f1 = metrics.entities(predict(kept, val)["counts"], ("",) * k)["entity_f1"]
            if not f1 <= best[0]:
                best = f1 if np.isfinite(f1) else -1.0, {**kept, "setting": np.array(least)}
        return best[1]

    def predict(arrays: Mapping[str, np.ndarray], cases: Cases) -> Rows:
        known = dict(zip(arrays["phrases"].tolist(), arrays["types"].tolist()))
        rows = []
        for words, tokens, truth in _texts(cases):
            found, i = [], 0
            while i < len(words):
                sizes = range(min(LONGEST, len(words) - i), 0, -1)
                n = next((n for n in sizes if " ".join(words[i : i + n]) in known), 0)
                if n:
                    found.append((i, i + n, known[" ".join(words[i : i + n])]))
                i += max(n, 1)
            rows.append(entity_row(truth, in_text(found, tokens), k))
        return stack_rows(rows)

    return Baseline(fit, predict)
