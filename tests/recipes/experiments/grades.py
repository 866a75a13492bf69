"""A new task on a data set of its own: is the disc small, middling or large?"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import optax
from new_task import grading, grading_job

from medjax.config import ENGINES, PRESETS, Data, Train
from medjax.core import About, Job
from medjax.models.resnet import ResNet

CARD = {"job": "grade an image", "data": "discs in noise, made in memory", "needs": ""}
GRADES = ("small", "middling", "large")


class Discs:
    """Pictures [32, 32] uint8 of a disc in noise; its radius is 4, 8 or 12 pixels, less or more a little."""

    def __len__(self) -> int:
        return 120

    def __getitem__(self, i: int) -> dict[str, Any]:
        rng = np.random.default_rng(i)
        grade = i % 3
        y, x = np.mgrid[:32, :32] - 15.5
        disc = y**2 + x**2 < (4 * (1 + grade) + rng.normal(0, 0.5)) ** 2
        return {"id": f"disc{i:03d}", "image": (rng.normal(60, 10, (32, 32)) + 100 * disc).astype(np.uint8), "label": grade}


def add_channel(example: dict) -> dict:
    """The image as [32, 32, 1]."""
    return {**example, "image": example["image"][..., None]}


@dataclass(frozen=True)
class Config:
    """Size of a disc."""

    data: Data = Data(near_copies="off")
    train: Train = Train(steps=100, batch_size=16, eval_every=50, checkpoint_every=50)
    engine: ENGINES = "auto"
    preset: PRESETS = "fast"


PRESETS_OF = {"fast": Config()}


def build(config: Config) -> Job:
    """The job: the new task around a ready-made network."""
    return grading_job(
        grading(ResNet(classes=len(GRADES) - 1, width=4, blocks=(1,)), optax.adam(1e-2)),
        about=About(
            task="grading",
            question="Is the disc small, middling or large?",
            classes=GRADES,
            monitor="mae",
            higher_is_better=False,
            definitions={},
            data="discs",
        ),
        sources=lambda: {"all": Discs()},
        preprocess=add_channel,
    )
