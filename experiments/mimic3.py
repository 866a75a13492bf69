"""A task of the MIMIC-III benchmark: death in hospital, decompensation, length of stay, or phenotypes, by --task."""

import dataclasses
from dataclasses import dataclass

from medjax.config import Optimizer, Train
from medjax.core import Job
from medjax.tasks.records import Config as RecordConfig
from medjax.tasks.records import Grid, Network, record_job
from medjax.tasks.records import resolve as resolve_record

CARD = {
    "job": "risk from records",
    "data": "a folder of mimic3-benchmarks, of one task or with several",
    "needs": "--data.path",
}
QUESTIONS = {
    "decompensation": "Does this patient die within the next 24 hours?",
    "length-of-stay": "How long does this patient stay in intensive care?",
    "phenotyping": "Which diseases does this patient in intensive care have?",
}
WHOLE_STAY = 240.0  # hours, where every hour has its question


@dataclass(frozen=True)
class Config(RecordConfig):
    """Hourly steps of the 48 hours before the prediction, or of 240 where there is a question every hour."""

    model: Network = Network(name="lstm", members=2, features=64, dropout=0.3, variables=0.1, summary=True, bins=8)
    optimizer: Optimizer = Optimizer(rate=2e-3, weight_decay=0.05)
    train: Train = Train(steps=1000, batch_size=64, eval_every=200, checkpoint_every=200, ema=0.99)


PRESETS_OF = {
    "fast": Config(),
    "full": Config(
        model=Network(name="channelwise", features=128, dropout=0.3, summary=True, bins=8),
        train=Train(steps=20_000, batch_size=64, eval_every=1000, checkpoint_every=1000, ema=0.999),
    ),
}


def resolve(config: Config) -> Config:
    """As of all records; questions at every hour get a longer grid, and no summary, which would know what comes later."""
    config = resolve_record(config)
    if config.kind != "steps":
        return config
    hours = WHOLE_STAY if config.grid.hours == Grid().hours else config.grid.hours
    model = dataclasses.replace(config.model, summary=False, bins=0)
    return dataclasses.replace(config, grid=dataclasses.replace(config.grid, hours=hours), model=model)


def build(config: Config) -> Job:
    """The job of the task."""
    config = resolve(config)
    question = QUESTIONS.get(config.task, "Does this patient in intensive care die in hospital?")
    return record_job(config, question=question, name="MIMIC-III benchmark")


if __name__ == "__main__":
    from medjax.cli import run_file

    run_file(__file__)
