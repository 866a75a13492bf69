"""Which section of a note does this dialogue belong to? MTS-Dialog, or any table of texts with a label or codes.

A hybrid with TF-IDF features: three networks with label attention, each of which adds a linear model of words and runs of
characters to its own answer, and a logistic regression on the same terms answer together.
"""

from dataclasses import dataclass
from pathlib import Path

from medjax.config import Optimizer, Train
from medjax.core import Job
from medjax.tasks.texts import Config as TextConfig
from medjax.tasks.texts import Network, Text, resolve, text_job

__all__ = ["Config", "build", "resolve"]

CARD = {
    "job": "understand clinical text",
    "data": "MTS-Dialog, 1,701 conversations of doctor and patient (CSV files)",
    "needs": "--data.path",
}


@dataclass(frozen=True)
class Config(TextConfig):
    """Classes of texts."""

    text: Text = Text(most=128, least=2)
    model: Network = Network(
        filters=0, features=64, dropout=0.5, unknown=0.1, members=3, buckets=65_536, terms=1500, ridge=100.0
    )
    optimizer: Optimizer = Optimizer(rate=3e-3, weight_decay=0.05, clip=5.0)
    train: Train = Train(steps=400, batch_size=16, eval_every=50, checkpoint_every=200, ema=0.99)


PRESETS_OF = {
    "fast": Config(),
    "full": Config(
        text=Text(most=1500, least=2),
        model=Network(features=256, layers=2, dropout=0.5, unknown=0.1, buckets=262_144, terms=4000, ridge=100.0),
        train=Train(steps=3000, batch_size=16, eval_every=150, checkpoint_every=600, ema=0.99),
    ),
}


def build(config: Config) -> Job:
    """The job: the section, or what else the labels say."""
    name = Path(config.data.path).name if config.data.path else "MTS-Dialog"
    return text_job(config, question="Which section of a note does this dialogue belong to?", name=name)


if __name__ == "__main__":
    from medjax.cli import run_file

    run_file(__file__)
