"""Which cells are on this blood smear, and where? Pascal VOC's form, or any other layout of pictures with boxes."""

from dataclasses import dataclass
from pathlib import Path

from medjax.config import Optimizer, Train
from medjax.core import Job
from medjax.tasks.boxes import Augmentation, Image, Inference, Network, box_job, resolve
from medjax.tasks.boxes import Config as BoxConfig

__all__ = ["Config", "build", "resolve"]

CARD = {
    "job": "detect in an image",
    "data": "yours: --data.path FOLDER of Annotations/ and JPEGImages/",
    "needs": "blood smears with boxes",
}


@dataclass(frozen=True)
class Config(BoxConfig):
    """Red cells, white cells and platelets."""

    image: Image = Image(size=320)
    model: Network = Network(width=16, stem=2, strides=(8, 16, 32), anchors=3, features=48, box_weight=2.0)
    optimizer: Optimizer = Optimizer(rate=2e-3, weight_decay=0.02)
    augment: Augmentation = Augmentation(shift=0.2, scale=(0.8, 1.25), flip=(0.5, 0.5))
    inference: Inference = Inference(mirror=(1,), overlap=0.5)
    train: Train = Train(steps=2000, batch_size=8, eval_every=200, eval_cases=300, checkpoint_every=200, ema=0.99)


PRESETS_OF = {
    "fast": Config(),
    "full": Config(
        image=Image(size=640),
        model=Network(name="resnet50", strides=(8, 16, 32, 64), features=256, depth=4, box_weight=2.0),
        train=Train(steps=10_000, batch_size=16, eval_every=500, eval_cases=2000, checkpoint_every=500, ema=0.999),
    ),
}


def build(config: Config) -> Job:
    """The job: cells of each kind, by boxes."""
    return box_job(config, question="Which cells are on this blood smear?", name=Path(config.data.path or "").name)


if __name__ == "__main__":
    from medjax.cli import run_file

    run_file(__file__)
