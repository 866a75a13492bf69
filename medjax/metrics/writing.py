"""Metrics of written texts: BLEU and ROUGE, counted text by text, so that a resample of texts is a sum."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from medjax.errors import InputError
from medjax.metrics import binary
from medjax.metrics.findings import findings

DEFINITIONS: dict[str, str] = {
    "bleu4": "BLEU-4 over all texts together, 0 to 1: the geometric mean of the shares of written runs of one to four words "
    "that stand in the true text, times the brevity penalty; lower case, sacrebleu's tokenizer 13a and smoothing exp; one "
    "true text each.",
    "rouge_1": "The mean over the texts of the F1 of words shared with the true text, 0 to 1; lower case, words by their stems "
    "(rouge-score).",
    "rouge_2": "As rouge_1, of pairs of neighbouring words.",
    "rouge_l": "The mean over the texts of the F1 of the longest common subsequence of words with the true text, 0 to 1; lower "
    "case, words by their stems (rouge-score).",
    "length_ratio": "Words written / words of the true texts, of all texts together; 1 is best.",
    "exact": "Share of the texts that are the true one, but for case and blanks, 0 to 1.",
    "log_loss": "Mean over the texts of -ln(probability of a piece of the true text, given those before it).",
}
DEFINITIONS |= {
    "clinical_f1": "F1 of the findings that a text states, over all texts together, 0 to 1: a finding is right where the true "
    "text states it too. Sixteen findings of the chest, told by their words, stated unless a cue negates them (NegEx's rules).",
    "clinical_recall": "Share of the findings that the true texts state which the written ones state too, 0 to 1; the rest is "
    "missed or negated.",
    "clinical_precision": "Share of the findings that the written texts state which the true ones state too, 0 to 1.",
}
STATES = ("stated", "negated", "not spoken of")
ORDERS = 4
KINDS = ("rouge1", "rouge2", "rougeL")


def _need(name: str) -> Any:
    try:
        return __import__(name, fromlist=["_"])
    except ImportError as error:
        raise InputError(f'written texts are measured by {name}\ninstall it: pip install "medjax[text]"') from error


@functools.cache
def _tools() -> tuple[Any, Any]:
    bleu = _need("sacrebleu.metrics").BLEU(lowercase=True, effective_order=True)
    return bleu, _need("rouge_score.rouge_scorer").RougeScorer(list(KINDS), use_stemmer=True)


def count_runs(written: str, true: str) -> np.ndarray:
    """float32 [10]: written runs of one to four words that are right, all that are written, and the words of both texts.

    Raises:
      InputError: sacrebleu is not installed.
    """
    found = _tools()[0].sentence_score(written, [true])
    return np.array([*found.counts, *found.totals, found.sys_len, found.ref_len], np.float32)


def bleu(counts: np.ndarray) -> float:
    """BLEU-4 (Papineni et al., ACL 2002, section 2.3) of counts [n, 10] of texts, or their means over members; 0 to 1.

    An order without any right run has 1 / (2 ** k x total), the k-th such order from the shortest (Chen & Cherry, WMT 2014,
    method 3). No written run at all is 0.
    """
    right, total, (written, true) = np.split(np.asarray(counts, np.float64).sum(0), [ORDERS, 2 * ORDERS])
    if not right[0] > 0:
        return 0.0
    halves, logs = 1.0, 0.0
    for a, b in zip(right, total):
        if not b > 0:
            return 0.0
        if not a > 0:
            halves *= 2
            a = 1 / halves
        logs += np.log(a / b)
    brevity = min(0.0, 1 - true / written)
    return float(np.exp(logs / ORDERS + brevity))


def rouge(written: str, true: str) -> np.ndarray:
    """float32 [3]: F1 of words, pairs of words, and the longest common subsequence (Lin, 2004), of one text.

    Raises:
      InputError: rouge-score is not installed.
    """
    found = _tools()[1].score(true, written)
    return np.array([found[kind].fmeasure for kind in KINDS], np.float32)


def count_findings(written: str, true: str) -> np.ndarray:
    """float32 [3, 3]: findings by `STATES` in the true text (rows) and in the written one; those in neither are left out."""
    table = np.zeros((3, 3), np.float32)
    ours, theirs = findings(written), findings(true)
    for term in ours.keys() | theirs.keys():
        table[STATES.index(theirs.get(term, STATES[2])), STATES.index(ours.get(term, STATES[2]))] += 1
    return table


def clinical(tables: np.ndarray) -> dict[str, float]:
    """clinical_f1, clinical_recall and clinical_precision of `count_findings` of texts [n, 3, 3]; nan where undefined."""
    total = np.asarray(tables, np.float64).sum(0)
    right, true, written = total[0, 0], total[0].sum(), total[:, 0].sum()
    return {
        "clinical_f1": binary.ratio(2 * right, true + written),
        "clinical_recall": binary.ratio(right, true),
        "clinical_precision": binary.ratio(right, written),
    }


def same(written: str, true: str) -> bool:
    """Whether two texts are one, but for case and blanks."""
    return written.lower().split() == true.lower().split()
