"""A new model on the class-folder layout: is there a bright spot in the picture?"""

from dataclasses import dataclass

import optax
from new_model import BrightestSpot

from medjax.config import ENGINES, PRESETS, Data, Train
from medjax.core import About, Job
from medjax.data.folders import class_folders
from medjax.tasks.classification import classification, classification_job

CARD = {"job": "classify an image", "data": "yours: --data.path FOLDER with no/ and yes/", "needs": ""}


@dataclass(frozen=True)
class Model:
    """The network."""

    size: int = 32
    """Side of the square image, in pixels."""
    features: int = 4
    """Channels."""


@dataclass(frozen=True)
class Config:
    """Bright spots."""

    data: Data = Data()
    model: Model = Model()
    train: Train = Train(steps=8, batch_size=16, eval_every=4, checkpoint_every=4)
    engine: ENGINES = "auto"
    preset: PRESETS = "fast"


PRESETS_OF = {"fast": Config()}


def build(config: Config) -> Job:
    """The job: the new model in the ready-made classification."""
    classes = ("no", "yes")
    return classification_job(
        classification(BrightestSpot(classes=2, features=config.model.features), optax.adam(1e-2)),
        about=About(
            task="classification",
            question="Is there a bright spot?",
            classes=classes,
            monitor="auroc",
            data=str(config.data.path),
        ),
        sources=lambda: class_folders(config.data.path or "data", classes=classes),
        size=config.model.size,
    )
