"""Classify your own images: class folders, a table of paths and labels, MedMNIST, or any other layout that medjax knows."""

from dataclasses import dataclass
from pathlib import Path

from medjax.config import Data, Optimizer, Train
from medjax.core import Job
from medjax.tasks.imaging import Augmentation, Image, Network, image_job, resolve
from medjax.tasks.imaging import Config as ImageConfig

__all__ = ["Config", "build", "resolve"]

CARD = {"job": "classify an image", "data": "yours: --data.path PATH", "needs": "a folder of images"}


@dataclass(frozen=True)
class Config(ImageConfig):
    """Any image classification."""

    data: Data = Data(sampling="groups")
    image: Image = Image(size=64)
    model: Network = Network(name="resnet18", width=16, dropout=0.3, smoothing=0.05)
    optimizer: Optimizer = Optimizer(rate=3e-3, weight_decay=0.05)
    augment: Augmentation = Augmentation(rotate=15, scale=0.15, shift=0.06, gamma=0.4, gain=0.3)
    train: Train = Train(steps=2000, batch_size=32, eval_every=200, checkpoint_every=200)


PRESETS_OF = {
    "fast": Config(),
    "full": Config(
        image=Image(size=224),
        model=Network(name="resnet50", dropout=0.3, smoothing=0.05),
        optimizer=Optimizer(rate=1e-3, weight_decay=0.05),
        train=Train(steps=20_000, batch_size=64, eval_every=1000, checkpoint_every=500),
    ),
}


def build(config: Config) -> Job:
    """The job: whatever lies at --data.path."""
    return image_job(config, question="Which class is this image of?", name=Path(config.data.path or "").name)


if __name__ == "__main__":
    from medjax.cli import run_file

    run_file(__file__)
