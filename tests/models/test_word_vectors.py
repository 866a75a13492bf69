"""Word vectors in text form."""

import numpy as np
import pytest

from medjax.config import Data
from medjax.core import State
from medjax.data.tokenize import FIRST
from medjax.errors import InputError
from medjax.models.word_vectors import begin_with, read_vectors
from medjax.tasks import entities
from medjax.tasks.documents import Known

WORDS = ("fever", "ménière", "b00", "new york")


def write(tmp_path, text):
    path = tmp_path / "vectors.txt"
    path.write_bytes(text.encode())
    return path


@pytest.mark.parametrize("head", ["", "5 3\n"])
def test_vectors_are_found_in_the_vocabularys_form(tmp_path, head):
    text = head + "Fever 1 2 3\nfever 9 9 9\nMénière 4 5 6\nB12 7 8 9\nother 0 0 0\n"
    vectors, there = read_vectors(write(tmp_path, text), WORDS)
    assert there.tolist() == [True, True, True, False]
    np.testing.assert_array_equal(vectors, [[1, 2, 3], [4, 5, 6], [7, 8, 9], [0, 0, 0]])
    glove, found = read_vectors(write(tmp_path, "fever 1 2 3\nnew york 4 5 6\n"), WORDS)
    assert found.tolist() == [True, False, False, True]
    np.testing.assert_array_equal(glove[3], [4, 5, 6])


@pytest.mark.parametrize(("text", "says"), [("a 1 2 3\nb 1\n", "row 2"), ("fever 1 x 3\n", "row 1"), ("\0\1\2\n", "row 1")])
def test_what_is_no_vector_is_named(tmp_path, text, says):
    with pytest.raises(InputError, match=says):
        read_vectors(write(tmp_path, text), WORDS)
    with pytest.raises(InputError, match="cannot be read"):
        read_vectors(tmp_path / "none", WORDS)


def test_a_training_begins_with_them(tmp_path):
    path = write(tmp_path, "fever 1 2 3\nb00 3 2 1\n")
    table = np.random.default_rng(0).normal(size=(FIRST + 4, 3)).astype(np.float32)
    params = {"model": {"tokens": {"embed": {"embedding": table}, "letters": 1}, "scores": 2}}
    state = State(None, params, None, None, None)
    new = begin_with(path, WORDS)(state).params["model"]
    made = np.asarray(new["tokens"]["embed"]["embedding"])
    assert (new["tokens"]["letters"], new["scores"]) == (1, 2)
    np.testing.assert_array_equal(made[[0, 1, 3, 5]], table[[0, 1, 3, 5]])
    np.testing.assert_allclose(made[2] / made[4], [1 / 3, 1, 3], rtol=1e-6)
    assert made[[2, 4]].std() == pytest.approx(table.std(), rel=1e-5)
    wide = {"tokens": {"embed": {"embedding": np.zeros((6, 5))}}}
    with pytest.raises(InputError, match=r"--model\.words 3"):
        begin_with(path, WORDS)(State(None, wide, None, None, None))
    with pytest.raises(InputError, match="none of 1 words"):
        begin_with(path, ("zebra",))(state)


def test_a_job_takes_them():
    config = entities.Config(data=Data(classes=("a",)), known=Known(WORDS, ("f",)))
    assert entities.entity_job(config, question="?", name="x").start is None
    config = entities.Config(data=Data(classes=("a",)), known=Known(WORDS, ("f",)), model=entities.Network(vectors="v.txt"))
    assert entities.entity_job(config, question="?", name="x").start is not None
