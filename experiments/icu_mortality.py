"""Does this patient in intensive care die in hospital? PhysioNet Challenge 2012, or any layout of records."""

from dataclasses import dataclass
from pathlib import Path

from medjax.config import Optimizer, Train
from medjax.core import Job
from medjax.tasks.records import Config as RecordConfig
from medjax.tasks.records import Grid, Network, record_job, resolve

__all__ = ["Config", "build", "resolve"]

CARD = {
    "job": "risk from records",
    "data": "PhysioNet Challenge 2012, 4,000 stays in intensive care (set-a and its outcomes)",
    "needs": "--data.path",
}


@dataclass(frozen=True)
class Config(RecordConfig):
    """Death in hospital from the first 48 hours in intensive care."""

    grid: Grid = Grid(step=4)
    model: Network = Network(name="gru", members=8, features=64, dropout=0.5, variables=0.3, summary=True, bins=8)
    optimizer: Optimizer = Optimizer(rate=2e-3, weight_decay=0.05)
    train: Train = Train(steps=600, batch_size=64, eval_every=100, checkpoint_every=200, ema=0.99)


PRESETS_OF = {
    "fast": Config(),
    "full": Config(grid=Grid(step=1), model=Network(members=12, features=64, dropout=0.5, variables=0.3, summary=True, bins=8)),
}


def build(config: Config) -> Job:
    """The job: death in hospital or not."""
    name = Path(config.data.path).name if config.data.path else "PhysioNet Challenge 2012"
    return record_job(config, question="Does this patient in intensive care die in hospital?", name=name)


if __name__ == "__main__":
    from medjax.cli import run_file

    run_file(__file__)
