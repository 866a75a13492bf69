"""What goes into the note? A section of it written from a conversation of doctor and patient, or any text from another.

An encoder-decoder with attention, which may copy pieces of what it reads.
"""

from dataclasses import dataclass
from pathlib import Path

from medjax.config import Optimizer, Train
from medjax.core import Job
from medjax.tasks.pairs import Config as PairsConfig
from medjax.tasks.pairs import Network, Text, Write, pairs_job, resolve

__all__ = ["Config", "build", "resolve"]

CARD = {
    "job": "write clinical text",
    "data": "MTS-Dialog, 1,701 conversations of doctor and patient (CSV files)",
    "needs": "--data.path, medjax[text]",
}


@dataclass(frozen=True)
class Config(PairsConfig):
    """Notes of conversations."""

    text: Text = Text(most=256, longest=96, pieces=3000)
    write: Write = Write(power=1.5)
    optimizer: Optimizer = Optimizer(rate=2e-3, weight_decay=0.02, clip=1.0)
    train: Train = Train(steps=1200, batch_size=16, eval_every=200, checkpoint_every=200, ema=0.99)


PRESETS_OF = {
    "fast": Config(),
    "full": Config(
        text=Text(most=1024, longest=256, pieces=6000),
        model=Network(words=256, encoder=256, features=512, layers=2, dropout=0.4),
        write=Write(power=1.5),
        optimizer=Optimizer(rate=1e-3, weight_decay=0.02, clip=1.0),
        train=Train(steps=12_000, batch_size=32, eval_every=600, checkpoint_every=600, ema=0.999),
    ),
}


def build(config: Config) -> Job:
    """The job: the note, or what else is to be written."""
    name = Path(config.data.path).name if config.data.path else "MTS-Dialog"
    return pairs_job(config, question="What goes into the note?", name=name)


if __name__ == "__main__":
    from medjax.cli import run_file

    run_file(__file__)
