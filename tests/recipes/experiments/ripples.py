"""A new data set, made in memory, with a ready-made network: are there stripes in the noise?"""

from dataclasses import dataclass

import optax
from new_data import Ripples

from medjax.config import ENGINES, PRESETS, Data, Train
from medjax.core import About, Job
from medjax.models.resnet import ResNet
from medjax.tasks.classification import classification, classification_job

CARD = {"job": "classify an image", "data": "stripes in noise, made in memory", "needs": ""}


@dataclass(frozen=True)
class Config:
    """Stripes in noise."""

    data: Data = Data(near_copies="off")
    train: Train = Train(steps=8, batch_size=16, eval_every=4, checkpoint_every=4)
    engine: ENGINES = "auto"
    preset: PRESETS = "fast"


PRESETS_OF = {"fast": Config()}


def build(config: Config) -> Job:
    """The job: the new data through the ready-made classification."""
    return classification_job(
        classification(ResNet(classes=2, width=4, blocks=(1,)), optax.adam(1e-2)),
        about=About(
            task="classification",
            question="Are there stripes in the noise?",
            classes=("plain", "striped"),
            monitor="auroc",
            data="ripples",
        ),
        sources=lambda: {"all": Ripples(patients=60)},  # or "train", "val" and "test", where the data comes split
        size=32,
    )
