"""Entities in texts as experiments configure them: any layout of texts with spans, a recurrent network over tokens."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from medjax.config import Experiment, Optimizer
from medjax.core import About, Job
from medjax.data.layouts import Layout, open_layout, open_own
from medjax.data.tags import Scheme, tag_names
from medjax.data.tokenize import FIRST, Numbers, count_vocabulary
from medjax.errors import InputError
from medjax.models.tagger import Tagger
from medjax.models.word_vectors import begin_with
from medjax.tasks.documents import Known, count_tokens, read_inputs, suggest_lengths, tokens_of, training_texts
from medjax.tasks.tagging import drop_words, tagging, tagging_job


@dataclasses.dataclass(frozen=True)
class Text:
    """How texts become examples."""

    window: int = 64
    """Tokens of an example; longer texts are cut into several."""
    overlap: int = 16
    """Tokens that neighbouring windows share."""
    characters: int = 16
    """Characters of a token that are looked at."""
    least: int = 1
    """How often a word must stand in training texts to be known."""
    lengths: tuple[int, ...] = ()
    """Lengths in tokens that shorter texts are padded to, each compiled for, with batches of texts of about one length; a few
    that the training texts suggest by default."""
    scheme: Scheme = "iobes"
    """Of the tags that are learned, whatever the files have."""

    def __post_init__(self) -> None:
        if not (self.window > self.overlap >= 0 and self.characters >= 3 and self.least >= 1):
            raise InputError(
                f"--text.window {self.window} must be above --text.overlap {self.overlap}, --text.characters 3 or more",
                usage=True,
            )


@dataclasses.dataclass(frozen=True)
class Network:
    """The network, and how it is regularised."""

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
    dropout: float = 0.5
    """Rate on the tokens' vectors, between layers, and before the scores."""
    unknown: float = 0.1
    """Rate at which a word of a training text is unknown."""


@dataclasses.dataclass(frozen=True)
class Config(Experiment):
    """Settings of a job that finds entities."""

    layout: str = ""
    """How the data lies on disk, as `medjax data` names it; recognised by default."""
    text: Text = Text()
    model: Network = Network()
    optimizer: Optimizer = Optimizer()
    known: Known = Known()


C = TypeVar("C", bound=Config)
Find = Callable[[Any], Layout]


def find_layout(config: Config, **options: Any) -> Layout:
    """The layout of --data.path, which must be one of texts with entities; see `open_own`."""
    return open_own(config.data.path, config.layout, "texts with entities", **{"classes": config.data.classes, **options})


def resolve(config: C, find: Find = find_layout) -> C:
    """The settings with what only the data tells filled in: types of entities, and the words of the training texts."""
    if config.known.words and config.data.classes:
        return config
    layout = find(config)
    parts = training_texts(config, layout)
    known = Known(*count_vocabulary(tokens_of(parts), least=config.text.least))
    lengths = config.text.lengths or suggest_lengths(count_tokens(parts), config.text.window)
    data = dataclasses.replace(config.data, classes=tuple(layout.classes))
    return dataclasses.replace(config, data=data, known=known, text=dataclasses.replace(config.text, lengths=lengths))


def entity_job(config: Config, *, question: str, name: str, licence: str = "", find: Find = find_layout) -> Job:
    """The Job of finding entities.

    Args:
      config: resolved or not.
      question: one sentence a clinician understands.
      name: of the data set.
      licence: of the data set, as far as it is known.
      find: config -> Layout.
    """
    config = resolve(config, find)
    of, types, scheme = config.model, config.data.classes, config.text.scheme
    numbers = Numbers(config.known.words, config.known.characters, config.text.characters)
    model = Tagger(
        len(tag_names(types, scheme)),
        FIRST + len(config.known.words),
        FIRST + len(config.known.characters),
        word_features=of.words,
        filters=of.filters,
        features=of.features,
        layers=of.layers,
        dropout=of.dropout,
    )
    job = tagging_job(
        tagging(model, config.optimizer.make(config.train.steps), k=len(types), scheme=scheme),
        about=About("tagging", question, types, "entity_f1", name, licence),
        sources=lambda: find(config).sources,
        read=lambda inputs: read_texts(inputs, config),
        numbers=numbers,
        window=config.text.window,
        overlap=config.text.overlap,
        lengths=config.text.lengths,
        scheme=scheme,
        augment=drop_words(of.unknown),
    )
    return job._replace(start=begin_with(of.vectors, config.known.words)) if of.vectors else job


def read_texts(inputs: Sequence[str | Path], config: Config) -> Any:
    """Texts to predict on, with or without entities: .txt files and folders of them, or tokens a line in other files."""

    def read(path: Path) -> Layout:
        plain = path.suffix == ".txt" or (path.is_dir() and any(path.rglob("*.txt")))
        return open_layout(path, "text_files" if plain else "conll", classes=config.data.classes, unlabelled=True)

    return read_inputs(inputs, read)
