"""What all jobs on texts share: texts as columns, their tokens, lengths, and the words of the training texts."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from medjax.cases import Cases, Varying
from medjax.console import say
from medjax.data.layouts import Joined, Layout
from medjax.data.load import load, load_folds
from medjax.data.sections import chosen
from medjax.data.texts import check_ids
from medjax.data.tokenize import find_tokens


@dataclasses.dataclass(frozen=True)
class Known:
    """What only the training texts tell; filled in from them."""

    words: tuple[str, ...] = ()
    """The most frequent first."""
    characters: tuple[str, ...] = ()
    """Likewise."""
    pieces: tuple[str, ...] = ()
    """Merges of byte-pair encoding in their order, where pieces stand in place of words."""


SHARES = (0.6, 0.9, 1.0)  # of the texts, see `suggest_lengths`
KEPT = ("id", "patient", "label", "sex", "age", "site", "whole")


def encode(text: str) -> Varying:
    """A text as uint8 [k], UTF-8: a column of texts that may lie on disk."""
    return Varying(np.frombuffer(text.encode(), np.uint8))


def decode(column: np.ndarray) -> str:
    """The text that `encode` made a column's array of."""
    return np.asarray(column).tobytes().decode()


def place_tokens(example: Mapping[str, Any]) -> np.ndarray:
    """Begin and end of an example's tokens int32 [k, 2]: its own, else those of `find_tokens`."""
    return example["tokens"].array if "tokens" in example else find_tokens(example["text"])


def keep_text(example: Mapping[str, Any]) -> dict[str, Any]:
    """What every prepared text holds: `KEPT` as far as they are there, and `text` uint8, UTF-8, `Varying`."""
    return {**{name: example[name] for name in KEPT if name in example}, "text": encode(example["text"])}


def only(example: Mapping[str, Any], sections: Sequence[str]) -> Mapping[str, Any]:
    """The example with nothing of its text but the sections of these names, a line end between, and `whole`, whether it has
    none of them and stays as it is; unchanged where none are named.
    """
    if not sections:
        return example
    text = example["text"]
    places = chosen(text, sections)
    kept = {name: value for name, value in example.items() if name not in ("tokens", "spans")}
    said = "\n".join(text[begin:end] for begin, end in places) if places else text
    return {**kept, "text": said, "whole": np.bool_(not places)}


def as_it_is(example: Mapping[str, Any], sections: Sequence[str] = ()) -> dict[str, Any]:
    """A text, or `only` sections of it, with its tokens."""
    example = only(example, sections)
    return {**keep_text(example), "tokens": Varying(place_tokens(example))}


def training_texts(
    config: Any, layout: Layout, preprocess: Callable[[dict[str, Any]], dict[str, Any]] = as_it_is
) -> list[Cases]:
    """The texts that will be trained on, by the very split of the training; with folds of all but a given test split."""
    job: Any = SimpleNamespace(
        sources=lambda: layout.sources,
        preprocess=preprocess,
        about=SimpleNamespace(classes=layout.classes),
        check=lambda cases: [],
    )
    say("reading the words of the training texts")
    if config.folds:
        first = load_folds(job, config.data, config.folds, lambda text: None)[0].cases
        return [first[split] for split in ("train", "val", "cv")]
    return [load(job, config.data, lambda text: None).cases["train"]]


def tokens_of(parts: Iterable[Cases]) -> Iterator[str]:
    """Every token of the cases, in their order."""
    for cases in parts:
        texts, places = cases["text"], cases["tokens"]
        for i in range(len(cases)):
            text = decode(texts[i])
            for begin, end in places[i].tolist():
                yield text[begin:end]


def texts_of(parts: Iterable[Cases]) -> Iterator[str]:
    """Every text of the cases, in their order."""
    return (decode(text) for cases in parts for text in cases["text"])


def read_inputs(inputs: Sequence[str | Path], read: Callable[[Path], Layout]) -> Joined:
    """The texts of several inputs, for prediction, one after the other.

    Raises:
      InputError: two have one id, by which their predictions could not be told apart; and what `read` raises.
    """
    layouts = [read(Path(path)) for path in inputs]
    sources = {f"{i}|{split}": source for i, of in enumerate(layouts) for split, source in of.sources.items()}
    check_ids([document for source in sources.values() for document in source.documents], ", ".join(map(str, inputs[:3])))
    return Joined(sources)


def count_tokens(parts: Iterable[Cases]) -> np.ndarray:
    """How many tokens each text has, int [n]."""
    return np.concatenate([cases["tokens"].shapes[:, 0] for cases in parts])


def suggest_lengths(counts: np.ndarray, most: int) -> tuple[int, ...]:
    """The few lengths that texts of so many tokens are best padded to, ascending: `SHARES` of them fit into each, in multiples
    of four, `most` tokens at most.
    """
    reached = np.quantile(np.minimum(counts, most), SHARES, method="inverted_cdf")
    return tuple(sorted({min(-(-int(n) // 4) * 4, most) for n in np.maximum(reached, 1)}))


def padded(counts: np.ndarray, lengths: Sequence[int]) -> np.ndarray:
    """The least of the lengths, ascending, that so many tokens fit into; the last for more, int [n]."""
    return np.asarray(lengths)[np.searchsorted(lengths, np.minimum(counts, lengths[-1]))]
