"""Tokens, their places in the text, and vocabularies."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from medjax.data import tokenize
from medjax.data.tokenize import FIRST, UNKNOWN, Numbers, count_vocabulary, find_tokens, normal


def words(text):
    return [text[a:b] for a, b in find_tokens(text).tolist()]


def test_words_numbers_signs_and_placeholders():
    assert words("Naïve T-cell: 12.5mg β-blocker") == [
        "Naïve",
        "T",
        "-",
        "cell",
        ":",
        "12",
        ".",
        "5",
        "mg",
        "β",
        "-",
        "blocker",
    ]
    assert words("seen by Dr. [**Last Name (un) 12**] on XXXX, ___.") == [
        *("seen", "by", "Dr", ".", "[**Last Name (un) 12**]", "on", "XXXX", ",", "___", ".")
    ]
    assert words("") == words(" \n") == []
    assert {normal("[**2101-1-1**]"), normal("XXXX"), normal("___")} == {tokenize.MASKED}
    assert (normal("B12"), normal("XX"), normal("ÄRZTE")) == ("b00", "xx", "ärzte")


@given(st.text(max_size=60))
def test_tokens_cover_all_but_blanks(text):
    places = find_tokens(text)
    assert places.shape[1] == 2
    assert (places[:, 0] < places[:, 1]).all()
    assert (places[1:, 0] >= places[:-1, 1]).all()
    covered = np.zeros(len(text), bool)
    for a, b in places:
        covered[a:b] = True
    assert all(character.isspace() for character, there in zip(text, covered) if not there)


def test_vocabularies_are_ranked_and_bounded():
    made = count_vocabulary(["Pain", "pain", "in", "in", "in", "left", "knee"], least=1)
    assert made.words == ("in", "pain", "knee", "left")
    assert made.characters[0] == "n"
    assert count_vocabulary(["a", "a", "b"], least=2).words == ("a",)
    assert count_vocabulary(["a", "a", "b"], most=1).words == ("a",)
    numbers = Numbers(made.words, made.characters, 4)
    np.testing.assert_array_equal(numbers.of_words(["IN", "new"]), [FIRST, UNKNOWN])
    letters = numbers.of_characters(["Pain", "in", "é", "knnnnnt"])
    assert letters.dtype == np.uint16
    assert (letters[1, 2:] == 0).all()
    assert letters[2, 0] == UNKNOWN
    np.testing.assert_array_equal(letters[3], numbers.of_characters(["knnt"])[0])
    assert numbers.of_characters([]).shape == (0, 4)
