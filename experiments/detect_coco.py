"""Detect in your own images: COCO, Pascal VOC, YOLO, LUNA16, or any other layout of boxes that medjax knows."""

from dataclasses import dataclass
from pathlib import Path

from medjax.config import Optimizer, Train
from medjax.core import Job
from medjax.tasks.boxes import Augmentation, Image, Inference, Network, box_job, resolve
from medjax.tasks.boxes import Config as BoxConfig

__all__ = ["Config", "build", "resolve"]

CARD = {"job": "detect in an image", "data": "yours: --data.path PATH", "needs": "images with boxes"}


@dataclass(frozen=True)
class Config(BoxConfig):
    """Any detection."""

    image: Image = Image(size=320)
    model: Network = Network(width=16, stem=2, anchors=3, features=48, box_weight=2.0)
    optimizer: Optimizer = Optimizer(rate=2e-3, weight_decay=0.02)
    augment: Augmentation = Augmentation()
    inference: Inference = Inference()
    train: Train = Train(steps=2000, batch_size=8, eval_every=250, eval_cases=300, checkpoint_every=250, ema=0.99)


PRESETS_OF = {
    "fast": Config(),
    "full": Config(
        image=Image(size=800),
        model=Network(name="resnet50", strides=(8, 16, 32, 64, 128), features=256, depth=4, box_weight=2.0),
        train=Train(steps=30_000, batch_size=16, eval_every=1500, eval_cases=2000, checkpoint_every=500, ema=0.999),
    ),
}


def build(config: Config) -> Job:
    """The job: whatever lies at --data.path."""
    return box_job(config, question="What is where in this image?", name=Path(config.data.path or "").name)


if __name__ == "__main__":
    from medjax.cli import run_file

    run_file(__file__)
