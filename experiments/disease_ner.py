"""Which diseases does this text name? NCBI disease corpus, or any layout of texts with entities, of one type or several."""

from dataclasses import dataclass
from pathlib import Path

from medjax.config import Optimizer, Train
from medjax.core import Job
from medjax.tasks.entities import Config as EntityConfig
from medjax.tasks.entities import Network, Text, entity_job, resolve

__all__ = ["Config", "build", "resolve"]

CARD = {
    "job": "understand clinical text",
    "data": "NCBI disease corpus, 793 abstracts with the diseases that they name (CoNLL files)",
    "needs": "--data.path",
}


@dataclass(frozen=True)
class Config(EntityConfig):
    """Entities in sentences."""

    text: Text = Text(window=48)
    optimizer: Optimizer = Optimizer(rate=3e-3, weight_decay=0.01, clip=5.0)
    train: Train = Train(steps=2000, batch_size=32, eval_every=250, checkpoint_every=500, ema=0.99)


PRESETS_OF = {
    "fast": Config(),
    "full": Config(
        text=Text(window=128, characters=24),
        model=Network(words=200, filters=100, features=256, layers=2),
        train=Train(steps=20_000, batch_size=32, eval_every=500, checkpoint_every=1000, ema=0.999),
    ),
}


def build(config: Config) -> Job:
    """The job: where entities begin and end, and of which type they are."""
    name = Path(config.data.path).name if config.data.path else "NCBI disease corpus"
    return entity_job(config, question="Which diseases does this text name, and where?", name=name)


if __name__ == "__main__":
    from medjax.cli import run_file

    run_file(__file__)
