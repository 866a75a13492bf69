"""Which tissue is where in this brain MR? Grey and white matter of MNI152, made hard to see; or any layout of masks."""

import functools
from dataclasses import dataclass
from pathlib import Path

from medjax.config import Optimizer, Train
from medjax.core import Job
from medjax.data.layouts import Layout
from medjax.data.mni152 import NILEARN, slabs
from medjax.tasks.masks import Augmentation, Inference, Network, Plan, PlannedTrain, find_layout, mask_job
from medjax.tasks.masks import Config as MaskConfig
from medjax.tasks.masks import resolve as resolve_with

CARD = {
    "job": "segment an image",
    "data": "MNI152, grey and white matter of an average brain (11 MB, fetched by pip)",
    "needs": "medjax[imaging]",
}


@dataclass(frozen=True)
class Config(MaskConfig):
    """Brain tissue on MR."""

    # Small patches: one that holds the whole head lets the network learn which brain it is, of three, by heart.
    plan: Plan = Plan(memory=2, work=40, width=16, blocks=(1,), patch=(8, 64, 64), normalise=("tissue",))
    model: Network = Network(deep=False)
    optimizer: Optimizer = Optimizer(rate=2e-3, weight_decay=0.01)
    augment: Augmentation = Augmentation(rotate=90, scale=(0.7, 1.4), mirror=(1, 2), bias=0.3)
    inference: Inference = Inference(mirror=(2,))
    train: Train = PlannedTrain(steps=800, eval_every=100, checkpoint_every=100, ema=0.99)


PRESETS_OF = {
    "fast": Config(),
    "full": Config(
        plan=Plan(memory=20, normalise=("tissue",)),
        model=Network(deep=True),
        train=PlannedTrain(steps=20_000, eval_every=1000, checkpoint_every=500),
    ),
}


def find(config: Config) -> Layout:
    """The data at --data.path, else the slabs of MNI152."""
    return find_layout(config) if config.data.path else slabs()


resolve = functools.partial(resolve_with, find=find)


def build(config: Config) -> Job:
    """The job: grey matter, white matter, or neither."""
    name = Path(config.data.path).name if config.data.path else "MNI152"
    licence = "" if config.data.path else NILEARN.licence
    return mask_job(config, question="Which tissue is where in this brain MR?", name=name, licence=licence, find=find)


if __name__ == "__main__":
    from medjax.cli import run_file

    run_file(__file__)
