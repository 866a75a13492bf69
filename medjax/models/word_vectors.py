"""Published word vectors in text form (word2vec, GloVe, fastText), to begin a training from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from medjax.console import say
from medjax.core import State
from medjax.data.tokenize import FIRST, normal
from medjax.errors import InputError


def read_vectors(path: str | Path, words: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Vectors of words out of a file of lines WORD NUMBER NUMBER ..., with or without word2vec's first line "COUNT LENGTH".

    The file's words are brought to the vocabulary's form (`normal`); of several that come to the same the first counts, which
    in such files is the most frequent. The file is read line by line, and only the vectors that are wanted are held.

    Args:
      path: text in UTF-8.
      words: of the vocabulary.

    Returns:
      vectors float32 [len(words), D], zeros for words that the file lacks, and bool [len(words)], which it has.

    Raises:
      InputError: it cannot be read, or a line has another length or holds no numbers.
    """
    places = {word: i for i, word in enumerate(words)}
    found: dict[int, np.ndarray] = {}
    size = 0
    try:
        with open(path, encoding="utf-8", errors="replace", newline="\n") as handle:
            for number, line in enumerate(handle, 1):
                fields = line.rstrip().split(" ")
                if number == 1 and len(fields) == 2:
                    continue
                size = size or len(fields) - 1
                # A word of GloVe's may hold blanks: the numbers are the last fields.
                place = places.get(normal(" ".join(fields[:-size])), -1) if size and len(fields) > size else -2
                if place == -2:
                    raise InputError(f"{path}: row {number} has {len(fields) - 1} numbers, others {size}\nget the file again")
                if place >= 0 and place not in found:
                    found[place] = np.array(fields[-size:], np.float32)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})\ngive word vectors as text") from error
    except ValueError as error:
        raise InputError(f"{path}: row {number} holds no vector ({error})\ngive word vectors as text, not binary") from error
    there = np.zeros(len(words), bool)
    vectors = np.zeros((len(words), size), np.float32)
    for i, vector in found.items():
        there[i], vectors[i] = True, vector
    return vectors, there


def begin_with(path: str | Path, words: Sequence[str], at: Sequence[str] = ("tokens", "embed")) -> Callable[..., State]:
    """`start` of a Job: a State whose embedding of words has the file's vectors, scaled to the deviation of the others.

    Args:
      path: of word vectors.
      words: of the vocabulary, whose numbers begin at FIRST.
      at: names of the modules that hold the embedding, below those that only wrap.

    Raises:
      InputError: what `read_vectors` raises; vectors of another length than the embedding's; no word of the vocabulary.
    """

    def start(state: State, *cases: Any) -> State:
        vectors, there = read_vectors(path, words)
        if not there.any():
            raise InputError(
                f"{path}: has none of {len(words):,} words of the training texts\ngive vectors of the texts' language"
            )

        def put(tree: Any) -> Any:
            if not isinstance(tree, Mapping):
                return tree
            if at[0] in tree and at[-1] in tree[at[0]]:
                table = np.array(tree[at[0]][at[-1]]["embedding"])
                if table.shape[1] != vectors.shape[1]:
                    raise InputError(
                        f"{path}: vectors of length {vectors.shape[1]}, the network's are of {table.shape[1]}\n"
                        f"set --model.words {vectors.shape[1]}"
                    )
                scale = table.std() / max(float(vectors[there].std()), 1e-12)
                table[FIRST:][there] = vectors[there] * scale
                inner = {**tree[at[0]], at[-1]: {"embedding": jnp.asarray(table)}}
                return {**tree, at[0]: inner}
            return {name: put(below) for name, below in tree.items()}

        say(f"{path}: vectors of {int(there.sum()):,} of {len(words):,} words")
        return state.replace(params=put(state.params))

    return start
