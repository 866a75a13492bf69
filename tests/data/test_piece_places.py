"""Where byte-pair pieces lie in a text."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("tokenizers")
from medjax.data.pieces import Pieces, learn_pieces

TEXTS = ["Fever and cough since XXXX. Fever and cough again, no fever."] * 5
PIECES = Pieces(learn_pieces(TEXTS, 300))


def said(text):
    return [text[a:b] for a, b in PIECES.cut(text)[0].tolist()]


def test_pieces_lie_where_they_were_found():
    assert said("Fever, [**Dr. Who 3**] and\n ___.") == ["Fever", ",", "[**Dr. Who 3**]", "and", "___", "."]
    places, numbers = PIECES.cut("Fever and fever")
    np.testing.assert_array_equal(numbers, PIECES.encode("Fever and fever"))
    assert places.dtype == numbers.dtype == np.int32
    assert PIECES.cut("")[0].shape == (0, 2)
    assert PIECES.cut(" \n")[1].shape == (0,)


@given(st.text(max_size=40))
def test_pieces_cover_all_but_blanks(text):
    covered = np.zeros(len(text), bool)
    places, numbers = PIECES.cut(text)
    assert len(places) == len(numbers)
    for a, b in places:
        covered[a:b] = True
    assert all(letter.isspace() for letter, there in zip(text, covered) if not there)
    assert (np.diff(places[:, 0]) >= 0).all()
