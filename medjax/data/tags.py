"""Tags of tokens (IOB2, IOBES and their relatives) and the spans that they mean."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np

Scheme = Literal["iob2", "iobes"]
SCHEMES = ("iob2", "iobes")
OUTSIDE = "O"
# Letters of other schemes (BILOU, BMEWO, IO's I) by what they say: B begins, I goes on, E ends, S is alone.
_LETTERS = {"B": "B", "I": "I", "M": "I", "E": "E", "L": "E", "S": "S", "U": "S", "W": "S"}
_ENDS = ("E", "S")
_BEGINS = ("B", "S")


def split_tag(tag: str) -> tuple[str, str] | None:
    """(letter out of B, I, E, S; type) of a tag such as "B-Disease" or "L-Drug"; ("O", "") of "O"; None of what is no tag."""
    if tag == OUTSIDE:
        return OUTSIDE, ""
    letter, _, name = tag.partition("-")
    return (_LETTERS[letter], name) if letter in _LETTERS and name else None


def spans_of_tags(tags: Sequence[tuple[str, str]]) -> tuple[list[tuple[int, int, str]], int]:
    """Spans (first token, behind the last, type) of a sequence of (letter, type), and how many tags broke the rules.

    The rule of conlleval and of seqeval's default: an entity begins at B and S, and where an I or E follows O, another type, or
    an end (E, S); it ends before the next beginning, O, or another type, and at E and S. A tag breaks the rules where it is
    I or E with nothing before it to go on with.
    """
    spans: list[tuple[int, int, str]] = []
    broken = 0
    start: int | None = None
    before = (OUTSIDE, "")
    for i, (letter, name) in enumerate([*tags, (OUTSIDE, "")]):
        goes_on = start is not None and letter in "IE" and name == before[1] and before[0] not in _ENDS
        if start is not None and not goes_on:
            spans.append((start, i, before[1]))
            start = None
        if letter != OUTSIDE and not goes_on:
            broken += letter not in _BEGINS
            start = i
        before = (letter, name)
    return spans, broken


def tag_names(types: Sequence[str], scheme: Scheme) -> tuple[str, ...]:
    """("O", "B-a", "I-a", ...) of the types, in the order of the tags' numbers."""
    letters = "BI" if scheme == "iob2" else "BIES"
    return (OUTSIDE, *(f"{letter}-{name}" for name in types for letter in letters))


def tags_of_spans(spans: Iterable[tuple[int, int, int]], n: int, scheme: Scheme) -> np.ndarray:
    """Numbers int32 [n] of the tags of token spans (first, behind the last, type) that do not overlap; see `tag_names`."""
    size = 2 if scheme == "iob2" else 4
    tags = np.zeros(n, np.int32)
    for first, stop, of in spans:
        base = 1 + size * of
        tags[first:stop] = base + 1
        tags[first] = base
        if scheme == "iobes":
            tags[stop - 1] = base + (3 if stop - first == 1 else 2)
    return tags


def spans_of_numbers(tags: np.ndarray, scheme: Scheme) -> list[tuple[int, int, int]]:
    """Token spans (first, behind the last, type) of tags' numbers int [n], by the rule of `spans_of_tags`."""
    size = 2 if scheme == "iob2" else 4
    letters = "BI" if scheme == "iob2" else "BIES"
    named = [(OUTSIDE, "") if t == 0 else (letters[(t - 1) % size], str((t - 1) // size)) for t in tags.tolist()]
    return [(first, stop, int(name)) for first, stop, name in spans_of_tags(named)[0]]


def legal(k: int, scheme: Scheme) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which tags may follow each other: (from, to) bool [Y, Y], first bool [Y], last bool [Y], for k types."""
    size = 2 if scheme == "iob2" else 4
    letters = ["O"] + list("BI" if scheme == "iob2" else "BIES") * k
    types = np.array([-1] + [of for of in range(k) for _ in range(size)])
    inside = np.array([letter in "IE" for letter in letters])
    # In IOB2 whatever is inside may end; in IOBES what has begun must end with E.
    is_open = np.array([letter in "BI" for letter in letters]) if scheme == "iobes" else np.zeros(len(letters), bool)
    holds = np.array([letter in "BI" for letter in letters])
    goes_on = inside[None] & holds[:, None] & (types[:, None] == types[None])
    pairs = np.where(inside[None], goes_on, ~is_open[:, None])
    return pairs, ~inside, ~is_open
