"""Writing as experiments configure it: any layout of pairs of texts, an encoder-decoder with attention that can copy."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np

from medjax.config import Experiment, Optimizer
from medjax.core import About, Job
from medjax.data.layouts import Layout, open_layout, open_own
from medjax.data.pieces import LEAST_PIECES, Pieces, learn_pieces
from medjax.errors import InputError
from medjax.models.writer import TextEncoder, Writer
from medjax.tasks.documents import decode, encode, keep_text, read_inputs, training_texts
from medjax.tasks.writing import suggest_shapes, writing, writing_job


@dataclasses.dataclass(frozen=True)
class Text:
    """How texts become examples."""

    most: int = 160
    """Pieces of a text that are looked at, from its beginning."""
    longest: int = 64
    """Pieces that are written at most, the end among them."""
    pieces: int = 2000
    """Pieces of words that are learned from the training texts, 259 of them single bytes and signs."""
    column: str = ""
    """Of a table: the column of the texts; found by its name by default."""
    target: str = ""
    """Of a table: the column of the texts to write; found by its name by default."""

    def __post_init__(self) -> None:
        if not (self.most >= 1 and self.longest >= 2 and self.pieces >= LEAST_PIECES):
            raise InputError(
                f"--text.most must be 1 or more, --text.longest 2, --text.pieces {LEAST_PIECES} (every byte)", usage=True
            )


@dataclasses.dataclass(frozen=True)
class Network:
    """The network, and how it is regularised."""

    words: int = 128
    """Length of a piece's vector."""
    encoder: int = 128
    """Units of the encoder's layers, in each direction."""
    features: int = 256
    """Units of the decoder's layers."""
    layers: int = 1
    """Layers of the encoder, and of the decoder."""
    dropout: float = 0.3
    """Rate on the pieces' vectors, between layers, and before the softmax."""


@dataclasses.dataclass(frozen=True)
class Write:
    """How a text is written."""

    how: Literal["beam", "sample"] = "beam"
    """The best text of a beam, or one drawn at random."""
    width: int = 4
    """Texts that a beam keeps; 1 takes the most probable piece each time."""
    block: int = 3
    """Runs of so many pieces may not stand twice in a text; 0 for any."""
    power: float = 1.0
    """What longer texts gain: their log-probability is divided by ((5 + pieces) / 6) to this power."""
    share: float = 0.9
    """Of samples: each piece is drawn from the most probable ones that together have this share."""
    temperature: float = 1.0
    """Of samples: below 1 the probable pieces become more so."""

    def __post_init__(self) -> None:
        if self.width < 1 or self.block < 0 or not 0 < self.share <= 1 or self.temperature <= 0 or self.power < 0:
            raise InputError(
                "--write.width must be 1 or more, --write.block and --write.power 0 or more, --write.share in (0, 1], "
                "--write.temperature above 0",
                usage=True,
            )


@dataclasses.dataclass(frozen=True)
class Known:
    """What only the training texts tell; filled in from them."""

    pieces: tuple[str, ...] = ()
    """Merges of byte-pair encoding, in their order."""
    shapes: tuple[tuple[int, int], ...] = ()
    """Pieces of a text and of what is to be written that examples are padded to, each compiled for, ascending."""


@dataclasses.dataclass(frozen=True)
class Config(Experiment):
    """Settings of a writer."""

    layout: str = ""
    """How the data lies on disk, as `medjax data` names it; recognised by default."""
    text: Text = Text()
    model: Network = Network()
    write: Write = Write()
    optimizer: Optimizer = Optimizer()
    known: Known = Known()


C = TypeVar("C", bound=Config)
Find = Callable[[Any], Layout]


def find_layout(config: Config, **options: Any) -> Layout:
    """The layout of --data.path, which must be one of pairs of texts; see `open_own`."""
    wanted = {"text": config.text.column, "target": config.text.target, "write": True, **options}
    return open_own(config.data.path, config.layout, "pairs of texts", **wanted)


def resolve(config: C, find: Find = find_layout) -> C:
    """The settings with what only the data tells filled in: the pieces of the training texts."""
    if config.known.pieces:
        return config
    parts = training_texts(config, find(config), _both)
    texts, targets = ([decode(text) for cases in parts for text in cases[name]] for name in ("text", "true"))
    merges = learn_pieces([*texts, *targets], config.text.pieces)
    pieces = Pieces(merges)
    counts = [np.array([len(pieces.encode(text)) for text in side]) for side in (texts, targets)]
    shapes = suggest_shapes(counts[0], counts[1] + 1, source=config.text.most, most=config.text.longest)
    return dataclasses.replace(config, known=Known(merges, shapes))


def _both(example: dict[str, Any]) -> dict[str, Any]:
    return {"label": -1, **keep_text(example), "true": encode(example.get("target", ""))}


def pairs_job(config: Config, *, question: str, name: str, licence: str = "", find: Find = find_layout) -> Job:
    """The Job of a writer.

    Args:
      config: resolved or not.
      question: one sentence a clinician understands.
      name: of the data set.
      licence: of the data set, as far as it is known.
      find: config -> Layout.
    """
    config = resolve(config, find)
    of, pieces = config.model, Pieces(config.known.pieces)
    encoder = TextEncoder(of.encoder, layers=of.layers, dropout=of.dropout)
    model = Writer(pieces.size, encoder, of.words, of.features, of.layers, of.dropout)
    task = writing(
        model, config.optimizer.make(config.train.steps), most=config.text.longest, **dataclasses.asdict(config.write)
    )
    return writing_job(
        task,
        about=About("text generation", question, (), "rouge_l", name, licence),
        sources=lambda: find(config).sources,
        read=lambda inputs: read_texts(inputs, config),
        pieces=pieces,
        shapes=config.known.shapes,
    )


def read_texts(inputs: Sequence[str | Path], config: Config) -> Any:
    """Texts to write from: .txt files, folders of them, or tables with a column of texts."""

    def read(path: Path) -> Layout:
        name = "text_files" if path.is_dir() or path.suffix == ".txt" else "text_table"
        return open_layout(path, name, text=config.text.column, unlabelled=True)

    return read_inputs(inputs, read)
