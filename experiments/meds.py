"""Any task on a data set in MEDS, the Medical Event Data Standard: from everything that was known by the prediction time."""

from dataclasses import dataclass
from pathlib import Path

from medjax.config import Optimizer, Train
from medjax.core import Job
from medjax.tasks.records import Config as RecordConfig
from medjax.tasks.records import Grid, Network, record_job, resolve

__all__ = ["Config", "build", "resolve"]

CARD = {
    "job": "risk from records",
    "data": "a MEDS 0.4 data set: data/**/*.parquet, metadata/, labels/TASK/*.parquet",
    "needs": "--data.path and medjax[records]",
}
YEAR = 365.25 * 24  # hours


@dataclass(frozen=True)
class Config(RecordConfig):
    """The last five years before the prediction, in quarters; codes without values by the sum of their embeddings."""

    grid: Grid = Grid(hours=5 * YEAR, step=YEAR / 4, codes=32)
    model: Network = Network(name="gru", features=64, dropout=0.3, variables=0.1, summary=True, bins=8)
    optimizer: Optimizer = Optimizer(rate=2e-3, weight_decay=0.05)
    train: Train = Train(steps=1000, batch_size=64, eval_every=200, checkpoint_every=200, ema=0.99)


PRESETS_OF = {
    "fast": Config(),
    "full": Config(
        grid=Grid(form="irregular", most=512, codes=64),
        model=Network(name="gru", features=128, layers=2, dropout=0.3, summary=True, bins=8, members=2),
        train=Train(steps=20_000, batch_size=64, eval_every=1000, checkpoint_every=1000, ema=0.999),
    ),
}


def build(config: Config) -> Job:
    """The job: what the task's labels ask."""
    name = Path(config.data.path or "").name
    asked = ", ".join(config.data.classes)
    return record_job(config, question=f"Which of {asked or 'the answers'} is this subject's?", name=name)


if __name__ == "__main__":
    from medjax.cli import run_file

    run_file(__file__)
