"""Text classification as experiments configure it: any layout of texts with labels, recurrences with label attention."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np

from medjax.config import Decide, Experiment, Optimizer
from medjax.core import About, Job
from medjax.data.layouts import Layout, open_layout, open_own
from medjax.data.pieces import LEAST_PIECES, Pieces, learn_pieces
from medjax.data.tokenize import FIRST, Numbers, count_vocabulary
from medjax.errors import InputError
from medjax.models.reader import Bag, Reader, SideBySide, Summed
from medjax.models.word_vectors import begin_with
from medjax.tasks.documents import (
    Known,
    as_it_is,
    count_tokens,
    read_inputs,
    suggest_lengths,
    texts_of,
    tokens_of,
    training_texts,
)
from medjax.tasks.tagging import drop_words
from medjax.tasks.text_classes import MANY, text_classes_job
from medjax.tasks.text_network import begin_bag, begin_one_by_one, reading


@dataclasses.dataclass(frozen=True)
class Text:
    """How texts become examples."""

    most: int = 256
    """Tokens of a text that are looked at, from its beginning."""
    lengths: tuple[int, ...] = ()
    """Lengths in tokens that texts are padded to, each compiled for, with batches of texts of about one length, the last in
    place of --text.most; a few that the training texts suggest by default."""
    pieces: int = 0
    """Byte-pair pieces of words that stand in place of words, learned from the training texts, so many at most; 0 for words."""
    sections: tuple[str, ...] = ()
    """Headed sections of a text that are looked at, such as findings and impression; all by default."""
    characters: int = 16
    """Characters of a token that are looked at."""
    least: int = 1
    """How often a word must stand in training texts to be known."""
    column: str = ""
    """Of a table: the column of the texts; found by its name by default."""

    def __post_init__(self) -> None:
        if not (self.most >= 1 and self.characters >= 3 and self.least >= 1):
            raise InputError("--text.most and --text.least must be 1 or more, --text.characters 3 or more", usage=True)
        if list(self.lengths) != sorted(set(self.lengths)) or (self.lengths and self.lengths[0] < 1):
            raise InputError("--text.lengths must be 1 or more, each more than the one before", usage=True)
        if 0 < self.pieces < LEAST_PIECES:
            raise InputError(f"--text.pieces must be {LEAST_PIECES} or more, which spell any text; or 0 for words", usage=True)


@dataclasses.dataclass(frozen=True)
class Network:
    """The network, and how it is regularised."""

    cell: Literal["lstm", "gru"] = "lstm"
    """Of the recurrence."""
    words: int = 100
    """Length of a word's vector."""
    vectors: str | None = None
    """Published word vectors to begin from, word2vec's, GloVe's or fastText's in text form; random ones by default."""
    filters: int = 50
    """Length of the vector that a token's characters give; 0 leaves them out."""
    features: int = 100
    """Units of each layer and direction."""
    layers: int = 1
    """Recurrent layers."""
    dropout: float = 0.3
    """Rate on the tokens' vectors, between layers, and before the attention."""
    unknown: float = 0.05
    """Rate at which a word of a training text is unknown."""
    smoothing: float = 0.0
    """Label smoothing, of one class out of several."""
    members: int = 1
    """Such networks side by side, which answer together."""
    buckets: int = 0
    """Rows of a table of words, pairs of words and runs of characters, whose linear model by TF-IDF each network adds to its
    own answer (a hybrid); 0 leaves it out."""
    terms: int = 512
    """Of these terms the most that are taken of a text, those of the greatest weight."""
    forget: float = 0.3
    """Rate at which a term is left out in training."""
    ridge: float = 0.0
    """Above 0 another such linear model answers beside the networks, a logistic regression with this inverse penalty that is
    fitted once at the beginning; not of more than 50 classes."""


@dataclasses.dataclass(frozen=True)
class Config(Experiment):
    """Settings of a text classification."""

    layout: str = ""
    """How the data lies on disk, as `medjax data` names it; recognised by default."""
    kind: Literal["auto", "single", "multi"] = "auto"
    """One label a text or any number; the layout's own by default."""
    text: Text = Text()
    model: Network = Network()
    optimizer: Optimizer = Optimizer()
    decide: Decide = Decide()
    known: Known = Known()


C = TypeVar("C", bound=Config)
Find = Callable[[Any], Layout]


def find_layout(config: Config, **options: Any) -> Layout:
    """The layout of --data.path, which must be one of texts with labels; see `open_own`."""
    wanted = {"classes": config.data.classes, "labels": config.data.labels, "text": config.text.column, **options}
    return open_own(config.data.path, config.layout, "texts", **wanted)


def resolve(config: C, find: Find = find_layout) -> C:
    """The settings with what only the data tells filled in: classes, kind of label, and of the training texts the words, or
    pieces of words, and lengths to pad to.
    """
    if config.known.characters and config.data.classes and config.kind != "auto":
        return config
    layout, text = find(config), config.text
    kind: Any = layout.kind if config.kind == "auto" else config.kind
    parts = training_texts(config, layout, functools.partial(as_it_is, sections=text.sections))
    known, counts = Known(*count_vocabulary(tokens_of(parts), least=text.least)), count_tokens(parts)
    if text.pieces:
        merges = learn_pieces(texts_of(parts), text.pieces)
        known = Known((), known.characters, merges)
        made = Pieces(merges)
        counts = np.array([len(made.encode(of)) for of in texts_of(parts)])
    lengths = text.lengths or suggest_lengths(counts, text.most)
    data = dataclasses.replace(config.data, classes=tuple(config.data.classes or layout.classes))
    return dataclasses.replace(config, data=data, kind=kind, known=known, text=dataclasses.replace(text, lengths=lengths))


def text_job(
    config: Config, *, question: str, name: str, licence: str = "", find: Find = find_layout, unit: str = "patient"
) -> Job:
    """The Job of a text classification.

    Args:
      config: resolved or not.
      question: one sentence a clinician understands.
      name: of the data set.
      licence: of the data set, as far as it is known.
      find: config -> Layout.
      unit: what the data calls a `patient`, see `About`.
    """
    config = resolve(config, find)
    of, multi = config.model, config.kind == "multi"
    if of.vectors and config.text.pieces:
        raise InputError("--model.vectors are of words\nleave out --text.pieces", usage=True)
    words = Pieces(config.known.pieces).size if config.text.pieces else FIRST + len(config.known.words)
    k = len(config.data.classes)
    members: list[Any] = [
        Reader(
            k,
            words,
            FIRST + len(config.known.characters),
            word_features=of.words,
            filters=of.filters,
            cell=of.cell,
            features=of.features,
            layers=of.layers,
            dropout=of.dropout,
        )
        for _ in range(of.members)
    ]
    if of.buckets:
        members = [Summed((member, Bag(k, of.buckets, of.forget))) for member in members]
        members += [Bag(k, of.buckets, fitted=True)] if of.ridge and k <= MANY else []
    tx = config.optimizer.make(config.train.steps)
    task = reading(SideBySide(tuple(members)), tx, multi=multi, smoothing=of.smoothing)
    monitor = "micro_f1" if multi else "accuracy"
    job = text_classes_job(
        task,
        about=About("text classification", question, config.data.classes, monitor, name, licence, unit=unit),
        sources=lambda: find(config).sources,
        read=lambda inputs: read_texts(inputs, config),
        numbers=Numbers(config.known.words, config.known.characters, config.text.characters),
        lengths=config.text.lengths or (config.text.most,),
        terms=of.terms if of.buckets else 0,
        buckets=of.buckets,
        merges=config.known.pieces,
        sections=config.text.sections,
        multi=multi,
        augment=drop_words(of.unknown),
        decide=config.decide,
    )
    vectors = begin_with(of.vectors, config.known.words) if of.vectors else None
    return job._replace(start=begin_one_by_one(begin_bag(of.ridge) if of.buckets else None, vectors))


def read_texts(inputs: Sequence[str | Path], config: Config) -> Any:
    """Texts to classify: .txt files, folders of them, or tables with a column of texts."""

    def read(path: Path) -> Layout:
        name = "text_files" if path.is_dir() or path.suffix == ".txt" else "text_table"
        return open_layout(path, name, classes=config.data.classes, text=config.text.column, unlabelled=True)

    return read_inputs(inputs, read)
