"""Tags and spans: round trips, the rule for broken sequences, and which tags may follow each other."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medjax.data import tags

TYPES = ("Disease", "Drug")


@st.composite
def flat(draw):
    """(n, spans) that do not overlap, neighbours of one type included."""
    cuts = sorted(draw(st.sets(st.integers(0, 12), max_size=8)))
    spans = [(a, b, draw(st.integers(0, 1))) for a, b in itertools.pairwise(cuts) if draw(st.booleans())]
    return 12, spans


@pytest.mark.parametrize("scheme", tags.SCHEMES)
@given(flat())
def test_spans_come_back(scheme, made):
    n, spans = made
    numbers = tags.tags_of_spans(spans, n, scheme)
    assert tags.spans_of_numbers(numbers, scheme) == spans
    pairs, first, last = tags.legal(2, scheme)
    assert pairs[numbers[:-1], numbers[1:]].all()
    assert first[numbers[0]]
    assert last[numbers[-1]]
    named = [tags.split_tag(tags.tag_names(TYPES, scheme)[number]) for number in numbers]
    found, broken = tags.spans_of_tags(named)
    assert (found, broken) == ([(a, b, TYPES[of]) for a, b, of in spans], 0)


@given(st.lists(st.integers(0, 8), min_size=1, max_size=10))
def test_the_rules_are_those_of_the_round_trip(numbers):
    """A sequence is legal just where its spans give it again."""
    numbers = np.array(numbers)
    pairs, first, last = tags.legal(2, "iobes")
    kept = pairs[numbers[:-1], numbers[1:]].all() and first[numbers[0]] and last[numbers[-1]]
    again = tags.tags_of_spans(tags.spans_of_numbers(numbers, "iobes"), len(numbers), "iobes")
    assert kept == np.array_equal(again, numbers)


# What seqeval 1.2.2's get_entities gives, last tokens made exclusive.
BROKEN = [
    ("B-a I-a O", [(0, 2, "a")], 0),
    ("I-a I-a O", [(0, 2, "a")], 1),
    ("O I-a B-a", [(1, 2, "a"), (2, 3, "a")], 1),
    ("B-a I-b", [(0, 1, "a"), (1, 2, "b")], 1),
    ("B-a E-a E-a", [(0, 2, "a"), (2, 3, "a")], 1),
    ("S-a I-a", [(0, 1, "a"), (1, 2, "a")], 1),
    ("B-a B-a I-a", [(0, 1, "a"), (1, 3, "a")], 0),
    ("B-a L-a U-b", [(0, 2, "a"), (2, 3, "b")], 0),
    ("O O", [], 0),
    ("", [], 0),
]


@pytest.mark.parametrize(("text", "spans", "broken"), BROKEN)
def test_broken_sequences(text, spans, broken):
    assert tags.spans_of_tags([tags.split_tag(tag) for tag in text.split()]) == (spans, broken)


@pytest.mark.parametrize(
    ("tag", "found"), [("O", ("O", "")), ("B-a-b", ("B", "a-b")), ("U-x", ("S", "x")), ("Q-x", None), ("B", None), ("", None)]
)
def test_tags_are_split(tag, found):
    assert tags.split_tag(tag) == found
