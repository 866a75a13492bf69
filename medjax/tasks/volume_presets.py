"""Settings of experiments that take any set of volumes with masks, and leave all else to the plan."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TypeVar

from medjax.config import Optimizer, Train
from medjax.core import Job
from medjax.tasks.masks import Augmentation, Config, Inference, Network, Plan, PlannedTrain, mask_job


@dataclasses.dataclass(frozen=True)
class VolumeConfig(Config):
    """What fits a laptop: with 60 GFLOP a step, 800 steps and the test cases end within 40 minutes on 2 cores."""

    plan: Plan = Plan(memory=2, work=60, voxels=4e6, width=16, blocks=(1,))
    model: Network = Network(deep=False)
    optimizer: Optimizer = Optimizer(rate=2e-3, weight_decay=0.01)
    augment: Augmentation = Augmentation(mirror=(0, 1, 2))
    inference: Inference = Inference(step=0.5)
    train: Train = PlannedTrain(steps=800, eval_every=200, checkpoint_every=200)


C = TypeVar("C", bound=VolumeConfig)


def volume_presets(config: type[C]) -> dict[str, C]:
    """ "fast" as above, and "full" as nnU-Net has it: 1,000 epochs of 250 steps, the residual encoder of its revision for 24 GB
    (Isensee et al., MICCAI 2024).
    """
    full = config(
        plan=Plan(memory=20),
        model=Network(deep=True),
        optimizer=Optimizer(rate=1e-3, weight_decay=3e-5, clip=12),
        augment=Augmentation(mirror=(0, 1, 2)),
        inference=Inference(mirror=(0, 1, 2)),
        train=PlannedTrain(steps=250_000, eval_every=5_000, checkpoint_every=1_000),
    )
    return {"fast": config(), "full": full}


def volume_job(config: VolumeConfig) -> Job:
    """The job: the data's classes at each voxel."""
    name = Path(config.data.path or "").name
    return mask_job(config, question=f"Where are {', '.join(config.data.classes[1:]) or 'the structures'}?", name=name)
