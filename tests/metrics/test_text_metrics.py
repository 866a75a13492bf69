"""Entity metrics against hand-counted cases and the numbers that seqeval 1.2.2 gave for them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medjax.data import tags
from medjax.metrics import text as metrics

TYPES = ("a", "b")
# Sentences of (true tags, tags found), and what seqeval's f1_score, precision_score, recall_score and macro average gave.
SEQEVAL = [
    ([("B-a I-a O B-b", "B-a I-a O B-b")], (1.0, 1.0, 1.0, 1.0)),
    ([("B-a I-a O B-b", "B-a O O B-b")], (0.5, 0.5, 0.5, 0.5)),
    ([("B-a I-a O B-b O", "B-a I-a O B-a B-b")], (0.4, 1 / 3, 0.5, 1 / 3)),
    ([("B-a B-a I-a O", "B-a I-a I-a O"), ("O B-b", "O B-b")], (0.4, 0.5, 1 / 3, 0.5)),
]


def spans(text):
    found, _ = tags.spans_of_tags([tags.split_tag(tag) for tag in text.split()])
    return [(a, b, TYPES.index(name)) for a, b, name in found]


@pytest.mark.parametrize(("sentences", "wanted"), SEQEVAL)
def test_equal_to_seqeval(sentences, wanted):
    counts = np.stack([metrics.count_entities(spans(true), spans(found), 2) for true, found in sentences])
    got = metrics.entities(counts, TYPES)
    assert [got[name] for name in ("entity_f1", "entity_precision", "entity_recall", "macro_f1")] == pytest.approx(wanted)


def test_nothing_there_and_nothing_found_is_no_number():
    none = np.zeros((3, 3, 2), int)
    assert all(np.isnan(value) for value in metrics.entities(none, TYPES).values())
    missed = metrics.entities(np.stack([metrics.count_entities([(0, 1, 0)], [], 2)]), TYPES)
    assert missed["entity_f1"] == missed["entity_recall"] == missed["f1/a"] == 0
    assert np.isnan(missed["entity_precision"])
    assert np.isnan(missed["f1/b"])
    assert missed["macro_f1"] == 0
    assert set(metrics.entities(none[..., :1], ("a",))) == {"entity_f1", "entity_precision", "entity_recall"}


@pytest.mark.parametrize(
    ("truth", "found", "kinds"),
    [
        ([(0, 2, 0)], [(0, 2, 0)], {"right": (0, 1)}),
        ([(0, 2, 0)], [(0, 3, 0)], {"boundary": (0, 1)}),
        ([(0, 2, 0)], [(0, 2, 1)], {"type": (0, 1)}),
        ([(0, 2, 0)], [(1, 3, 1)], {"boundary and type": (0, 1)}),
        ([(0, 2, 1)], [(2, 3, 0)], {"missed": (1, 1), "spurious": (0, 1)}),
        ([(0, 4, 0)], [(0, 1, 0), (2, 4, 0)], {"boundary": (0, 1), "spurious": (0, 1)}),
        ([(0, 4, 0), (5, 6, 1)], [(0, 2, 0), (5, 6, 1)], {"boundary": (0, 1), "right": (1, 1)}),
        ([], [], {}),
    ],
)
def test_errors_by_kind(truth, found, kinds):
    wanted = np.zeros((2, 6), int)
    for kind, (of, n) in kinds.items():
        wanted[of, metrics.KINDS.index(kind)] = n
    np.testing.assert_array_equal(metrics.error_kinds(metrics.pair_entities(truth, found), 2), wanted)


@given(*[st.lists(st.tuples(st.integers(0, 9), st.integers(1, 3), st.integers(0, 1)), max_size=6, unique=True)] * 2)
def test_every_entity_is_counted_once(truth, found):
    truth, found = ([(a, a + n, of) for a, n, of in side] for side in (truth, found))
    table = metrics.error_kinds(metrics.pair_entities(truth, found), 2).sum(0)
    by = dict(zip(metrics.KINDS, table.tolist()))
    assert sum(table) - by["spurious"] == len(truth)
    assert sum(table) - by["missed"] == len(found)
    right, n_found, n_true = metrics.count_entities(truth, found, 2).sum(1)
    assert (right, n_found, n_true) == (by["right"], len(found), len(truth))
