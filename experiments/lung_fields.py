"""Where are the lungs on this chest X-ray? A folder of images and masks, or any other layout of pictures with masks."""

from dataclasses import dataclass
from pathlib import Path

from medjax.config import Optimizer, Train
from medjax.core import Job
from medjax.tasks.masks import Augmentation, Inference, Network, Plan, PlannedTrain, mask_job, resolve
from medjax.tasks.masks import Config as MaskConfig

__all__ = ["Config", "build", "resolve"]

CARD = {
    "job": "segment an image",
    "data": "yours: --data.path FOLDER of images/ and masks/",
    "needs": "chest X-rays with masks",
}


@dataclass(frozen=True)
class Config(MaskConfig):
    """Lung fields on chest X-rays."""

    plan: Plan = Plan(size=128, width=16, blocks=(1,), normalise=("zscore",))
    model: Network = Network(deep=False)
    optimizer: Optimizer = Optimizer(rate=2e-3, weight_decay=0.01)
    augment: Augmentation = Augmentation(rotate=15, scale=(0.85, 1.2), moved=0.5, mirror=(1,))
    inference: Inference = Inference(mirror=(1,), tolerance=2)
    train: Train = PlannedTrain(steps=1500, batch_size=8, eval_every=150, checkpoint_every=150, ema=0.99)


PRESETS_OF = {
    "fast": Config(),
    "full": Config(
        plan=Plan(size=512, width=32, memory=24, normalise=("zscore",)),
        model=Network(deep=True),
        train=PlannedTrain(steps=20_000, batch_size=12, eval_every=1000, checkpoint_every=500),
    ),
}


def build(config: Config) -> Job:
    """The job: lung or not, at each pixel."""
    return mask_job(config, question="Where are the lungs on this chest X-ray?", name=Path(config.data.path or "").name)


if __name__ == "__main__":
    from medjax.cli import run_file

    run_file(__file__)
