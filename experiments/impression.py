"""What does this report come to? The impression written from the findings, or any text from another.

An encoder-decoder with attention, which may copy pieces of what it reads.
"""

import functools
from dataclasses import dataclass
from pathlib import Path

from medjax.config import Optimizer, Train
from medjax.core import Job
from medjax.data.indiana import INDIANA, reports
from medjax.data.layouts import Layout
from medjax.tasks.pairs import Config as PairsConfig
from medjax.tasks.pairs import Network, Text, Write, find_layout, pairs_job
from medjax.tasks.pairs import resolve as resolve_with

CARD = {
    "job": "write clinical text",
    "data": "Indiana University, 3,419 reports of chest X-rays (29 MB, fetched by pip)",
    "needs": "medjax[text]",
}


@dataclass(frozen=True)
class Config(PairsConfig):
    """Impressions of reports."""

    text: Text = Text(most=128, longest=64)
    model: Network = Network(dropout=0.4)
    write: Write = Write(power=1.7)
    optimizer: Optimizer = Optimizer(rate=3e-3, weight_decay=0.01, clip=1.0)
    train: Train = Train(steps=1800, batch_size=32, eval_every=200, checkpoint_every=600, ema=0.99)


PRESETS_OF = {
    "fast": Config(),
    "full": Config(
        text=Text(most=512, longest=128, pieces=8000),
        model=Network(words=256, encoder=256, features=512, layers=2, dropout=0.4),
        write=Write(width=8, power=1.7),
        optimizer=Optimizer(rate=1e-3, weight_decay=0.01, clip=1.0),
        train=Train(steps=40_000, batch_size=64, eval_every=2000, checkpoint_every=2000, ema=0.999),
    ),
}


def find(config: Config) -> Layout:
    """The data at --data.path, else the reports of Indiana University."""
    return find_layout(config) if config.data.path else reports()


resolve = functools.partial(resolve_with, find=find)


def build(config: Config) -> Job:
    """The job: an impression for each report's findings."""
    own = not config.data.path
    name = "Indiana University" if own else Path(str(config.data.path)).name
    question = "What do the findings of this report come to?" if own else "What is to be written from this text?"
    return pairs_job(config, question=question, name=name, licence=INDIANA.licence if own else "", find=find)


if __name__ == "__main__":
    from medjax.cli import run_file

    run_file(__file__)
