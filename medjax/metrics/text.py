"""Metrics of what is found in texts: entities by strict match, and codes of documents."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from medjax.metrics import binary
from medjax.metrics.classification import mean_of_defined

DEFINITIONS: dict[str, str] = {
    "entity_f1": "2 x right / (found + true), 0 to 1, over the entities of all types together; an entity is right where its "
    "begin, its end and its type are all those of a true one.",
    "entity_precision": "Share of the entities found that are right: begin, end and type, 0 to 1.",
    "entity_recall": "Share of the true entities that are found: begin, end and type, 0 to 1.",
    "macro_f1": "The mean over the types of entities of their own F1 (f1/TYPE), 0 to 1, types that are neither there nor found "
    "left out.",
    "f1": "The F1 of entities of one type (f1/TYPE), 0 to 1: begin, end and type are right.",
}
CODING_DEFINITIONS: dict[str, str] = {
    "micro_f1": "2 TP / (2 TP + FP + FN), 0 to 1, over all pairs of a document and a label together.",
    "macro_f1": "The mean over the labels of their own F1, 0 to 1; labels that no document has and none is given count as 0 "
    "where there are more than 50, and are left out below.",
    "p_at_5": "Precision at 5, 0 to 1: the mean over the documents of the share of the five labels of the highest score that "
    "are true.",
    "p_at_8": "Precision at 8, 0 to 1: the mean over the documents of the share of the eight labels of the highest score that "
    "are true.",
}
# What can be wrong with an entity, besides being right.
KINDS = ("right", "boundary", "type", "boundary and type", "missed", "spurious")
Span = tuple[int, int, int]
Pair = tuple[str, Span | None, Span | None]


def count_entities(truth: Iterable[Sequence[int]], found: Iterable[Sequence[int]], k: int) -> np.ndarray:
    """int32 [3, K]: how many entities of each type are right, found, and true; (begin, end, type) must all agree.

    Args:
      truth, found: spans (begin, end, type), each of them once.
      k: types.
    """
    counts = np.zeros((3, k), np.int32)
    sides = [{tuple(map(int, span)) for span in side} for side in (truth, found)]
    for row, spans in zip(counts, (sides[0] & sides[1], sides[1], sides[0])):
        np.add.at(row, [of for _, _, of in spans], 1)
    return counts


def entities(counts: np.ndarray, types: Sequence[str]) -> dict[str, float]:
    """Entity metrics of counts [n, 3, K] (`count_entities` of each case, or their mean over members), nan where undefined.

    The numbers are those of conlleval and of seqeval for tags that keep the rules of their scheme; where seqeval gives 0 for
    a division by zero, they are nan.
    """
    right, found, true = np.asarray(counts, np.float64).sum(0)
    each = [binary.ratio(2 * r, f + t) for r, f, t in zip(right, found, true)]
    result = {
        "entity_f1": binary.ratio(2 * right.sum(), found.sum() + true.sum()),
        "entity_precision": binary.ratio(right.sum(), found.sum()),
        "entity_recall": binary.ratio(right.sum(), true.sum()),
    }
    if len(types) > 1:
        result |= {"macro_f1": mean_of_defined(each), **{f"f1/{name}": value for name, value in zip(types, each)}}
    return result


def pair_entities(truth: Sequence[Span], found: Sequence[Span]) -> list[Pair]:
    """(kind out of `KINDS`, true entity, one found) of every entity, each once, in the order of the text.

    A true entity and one found are paired: equal ones first, then those of the same place, then those of the same type that
    overlap, then others that overlap, the leftmost first. The rest is missed (nothing found) or spurious (nothing true).
    """
    pairs: list[Pair] = []
    left, right = sorted(set(truth)), sorted(set(found))
    rules = (
        ("right", lambda a, b: a == b),
        ("type", lambda a, b: a[:2] == b[:2]),
        ("boundary", lambda a, b: a[2] == b[2] and a[0] < b[1] and b[0] < a[1]),
        ("boundary and type", lambda a, b: a[0] < b[1] and b[0] < a[1]),
    )
    for kind, agree in rules:
        for span in list(left):
            partner = next((other for other in right if agree(span, other)), None)
            if partner is not None:
                left.remove(span)
                right.remove(partner)
                pairs.append((kind, span, partner))
    pairs += [("missed", span, None) for span in left] + [("spurious", None, span) for span in right]
    return sorted(pairs, key=lambda pair: pair[1] or pair[2] or (0, 0, 0))


def error_kinds(pairs: Iterable[Pair], k: int) -> np.ndarray:
    """int [K, 6]: how many pairs of `pair_entities` are of each of `KINDS`, under the true type, or else the one found."""
    table = np.zeros((k, len(KINDS)), np.int64)
    for kind, true, other in pairs:
        of = true or other
        assert of is not None
        table[of[2], KINDS.index(kind)] += 1
    return table


def micro_f1(label: np.ndarray, pred: np.ndarray) -> float:
    """F1 over all known pairs of document and label: int [n, K], labels of 1, 0 or -1 (missing), decisions of 1 or 0."""
    known = label >= 0
    right = int(((pred == 1) & (label == 1)).sum())
    return binary.ratio(2 * right, int(((pred == 1) & known).sum() + (label == 1).sum()))


def precision_at(label: np.ndarray, score: np.ndarray, k: int) -> float:
    """Mean share of the k labels of the highest score that are true; nan for fewer than k labels or no document.

    Args:
      label: int [n, K]: 1, 0 or -1 (missing), which counts as not true.
      score: float [n, K].
      k: labels that are looked at.
    """
    if label.shape[1] < k or not len(label):
        return float("nan")
    top = np.argpartition(-score, k - 1, axis=1)[:, :k]
    return float((np.take_along_axis(label, top, 1) == 1).mean())


def best_threshold(label: np.ndarray, score: np.ndarray) -> float:
    """The threshold t, on `score >= t`, of the highest `micro_f1`, one for all labels; 0.5 where no label is true."""
    known = label >= 0
    truth, values = label[known] == 1, score[known]
    if not truth.any():
        return 0.5
    order = np.argsort(-values, kind="stable")
    values, right = values[order], np.cumsum(truth[order])
    f1 = 2 * right / (np.arange(1, len(right) + 1) + truth.sum())
    # Equal scores stand or fall together.
    last = np.append(values[1:] != values[:-1], True)
    return float(values[np.where(last, f1, -1).argmax()])


def macro_f1(label: np.ndarray, pred: np.ndarray) -> float:
    """The mean over all K labels of their F1, 0 for one that is neither there nor given; arguments as of `micro_f1`."""
    given, true = pred == 1, label == 1
    both = (given & true).sum(0)
    total = (given & (label >= 0)).sum(0) + true.sum(0)
    return float(np.mean(2 * both / np.maximum(total, 1))) if len(label) else float("nan")
