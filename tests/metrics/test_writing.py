"""BLEU and ROUGE of single texts, summed, against the libraries' own over all texts."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medjax.metrics import writing

sacrebleu = pytest.importorskip("sacrebleu")
WORDS = ["No", "acute", "disease.", "XXXX", "effusion", "2.5", "cm", "heart,", "size", "normal"]
texts = st.lists(st.sampled_from(WORDS), max_size=12).map(" ".join)


@settings(deadline=None)
@given(st.lists(st.tuples(texts, texts.filter(bool)), min_size=1, max_size=8))
def test_summed_counts_give_the_bleu_of_the_corpus(pairs):
    counts = np.stack([writing.count_runs(*pair) for pair in pairs])
    own = sacrebleu.corpus_bleu([a for a, _ in pairs], [[b for _, b in pairs]], lowercase=True)
    assert writing.bleu(counts) == pytest.approx(own.score / 100, abs=1e-9)


def test_by_hand():
    # "the heart is normal" against "the heart is big": 3 of 4 words, 2 of 3 pairs, 1 of 2 triples, 0 of 1 (then 1 / 2).
    counts = writing.count_runs("The heart is normal", "the heart is big")
    assert counts.tolist() == [3, 2, 1, 0, 4, 3, 2, 1, 4, 4]
    assert writing.bleu(counts[None]) == pytest.approx((3 / 4 * 2 / 3 * 1 / 2 * 1 / 2) ** 0.25)
    one, two, longest = writing.rouge("The heart is normal", "the heart is big")
    assert (one, two, longest) == pytest.approx((0.75, 2 / 3, 0.75))
    assert writing.rouge("", "a")[0] == 0
    assert writing.bleu(writing.count_runs("", "the heart")[None]) == 0
    table = writing.count_findings("No effusion. Small nodule.", "Effusion. There is a nodule, no pneumothorax.")
    assert table.tolist() == [[1, 1, 0], [0, 0, 1], [0, 0, 0]]
    assert writing.clinical(table[None]) == pytest.approx(
        {"clinical_f1": 2 / 3, "clinical_recall": 1 / 2, "clinical_precision": 1}
    )
    assert writing.same("No  Acute disease", "no acute disease")
