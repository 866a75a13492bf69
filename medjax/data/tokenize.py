"""Tokens and their numbers: where words lie in a text, and the words and characters that a training knows."""

from __future__ import annotations

import itertools
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

PADDING, UNKNOWN = 0, 1  # numbers of no token, and of a token that training did not see; the others begin at 2
FIRST = 2
MASKED = "xxxx"  # how a de-identified name, date or place is called among the words
# Left by de-identification: MIMIC's [**...**], and runs of X or _ as in the IU reports and MIMIC-IV.
PLACEHOLDER = re.compile(r"\[\*\*[^\[\]]*?\*\*\]|\bX{3,}\b|_{3,}")
# A placeholder is one token; so is a run of letters, one of digits, and each other sign.
_TOKEN = re.compile(rf"{PLACEHOLDER.pattern}|[^\W\d_]+|\d+|[^\w\s]|_")


def find_tokens(text: str) -> np.ndarray:
    """Begin and end of each token int32 [k, 2], in characters: words, numbers, single signs, de-identification's placeholders.

    Letters are those of Unicode; blanks belong to no token.
    """
    return np.array([match.span() for match in _TOKEN.finditer(text)], np.int32).reshape(-1, 2)


def normal(token: str) -> str:
    """A token as the vocabulary has it: lower case, each digit 0, and one word for all placeholders."""
    if PLACEHOLDER.fullmatch(token):
        return MASKED
    return re.sub(r"\d", "0", token.lower())


class Vocabulary(NamedTuple):
    """What a training knows, the most frequent first.

    Attributes:
      words: as `normal` gives them; the i-th has the number FIRST + i.
      characters: likewise, each as it is.
    """

    words: tuple[str, ...]
    characters: tuple[str, ...]


def count_vocabulary(tokens: Iterable[str], *, least: int = 1, most: int = 0) -> Vocabulary:
    """The words and characters of tokens, the most frequent first, equals in the order of their letters.

    Args:
      tokens: of the training documents.
      least: how often a word must be there.
      most: words at most; 0 sets no bound.
    """
    seen = Counter(tokens)
    words: Counter[str] = Counter()
    characters: Counter[str] = Counter()
    for token, n in seen.items():
        words[normal(token)] += n
        for character in token:
            characters[character] += n
    kept = [word for word in _ranked(words) if words[word] >= least]
    return Vocabulary(tuple(kept[:most] if most else kept), tuple(_ranked(characters)))


def _ranked(counts: Counter[str]) -> list[str]:
    return sorted(counts, key=lambda name: (-counts[name], name))


class Numbers:
    """The numbers of a vocabulary's words and characters.

    Args:
      words, characters: as in `Vocabulary`.
      width: characters of a token; longer ones lose their middle, since ends tell most.
    """

    def __init__(self, words: Sequence[str], characters: Sequence[str], width: int):
        self.words = {word: FIRST + i for i, word in enumerate(words)}
        self.characters = {character: FIRST + i for i, character in enumerate(characters)}
        self.width = width

    def of_words(self, tokens: Sequence[str]) -> np.ndarray:
        """int32 [k]."""
        return np.array([self.words.get(normal(token), UNKNOWN) for token in tokens], np.int32)

    def of_characters(self, tokens: Sequence[str]) -> np.ndarray:
        """uint16 [k, width], PADDING behind a token's end."""
        found = np.zeros((len(tokens), self.width), np.uint16)
        head = self.width - self.width // 3
        for i, token in enumerate(tokens):
            if len(token) > self.width:
                token = token[:head] + token[head - self.width :]
            found[i, : len(token)] = [min(self.characters.get(c, UNKNOWN), 65535) for c in token]
        return found


def hashed_grams(text: str, tokens: np.ndarray, buckets: int) -> tuple[np.ndarray, np.ndarray]:
    """Words, pairs of words, and runs of two to five characters within a word, as places in a table (Weinberger et al., ICML
    2009), with weights (1 + log count) / norm, the norm Euclidean.

    Args:
      text: Unicode.
      tokens: begin and end of each, int [k, 2].
      buckets: places there are; different terms may share one.

    Returns:
      places int32 [m], ascending and distinct; weights float32 [m].
    """
    words = [normal(text[a:b]) for a, b in tokens.tolist()]
    terms = [*words, *(f"{a} {b}" for a, b in itertools.pairwise(words))]
    for word in words:
        edged = f"<{word}>"
        terms += [f"#{edged[i : i + n]}" for n in range(2, 6) for i in range(len(edged) - n + 1)]
    # crc32 is the same on all machines, unlike Python's own hash.
    places, counts = np.unique([zlib.crc32(term.encode()) % buckets for term in terms], return_counts=True)
    weights = 1 + np.log(counts)
    return places.astype(np.int32), (weights / max(np.linalg.norm(weights), 1e-12)).astype(np.float32)
