"""Does this child's chest X-ray show pneumonia? PneumoniaMNIST, 28 x 28, by download or from --data.path; or any layout."""

import functools
from dataclasses import dataclass
from pathlib import Path

from medjax.config import Data, Optimizer, Train
from medjax.core import Job
from medjax.tasks.imaging import Augmentation, Image, Network, image_job, medmnist
from medjax.tasks.imaging import Config as ImageConfig
from medjax.tasks.imaging import resolve as resolve_with

CARD = {
    "job": "classify an image",
    "data": "PneumoniaMNIST, 5,856 chest X-rays of children (4 MB, Zenodo)",
    "needs": "the internet, or --data.path",
}


@dataclass(frozen=True)
class Config(ImageConfig):
    """Pneumonia on chest X-rays."""

    # Nine of ten training pictures show pneumonia: drawn evenly, both classes are learned.
    data: Data = Data(sampling="classes")
    image: Image = Image(size=28, scale="range", mirror=True)
    model: Network = Network(name="resnet18", width=16, dropout=0.3)
    optimizer: Optimizer = Optimizer(rate=3e-3, weight_decay=0.05)
    augment: Augmentation = Augmentation(rotate=10, scale=0.1, shift=0.06, gamma=0.2, gain=0.2)
    train: Train = Train(steps=1500, batch_size=64, eval_every=150, checkpoint_every=150, ema=0.99)


# MedMNIST's own recipe (Yang et al., Scientific Data 2023): ResNet-18 with a small stem, 100 epochs of batches of 128.
PRESETS_OF = {
    "fast": Config(),
    "full": Config(
        model=Network(name="resnet18", dropout=0.0),
        optimizer=Optimizer(rate=1e-3, weight_decay=1e-4),
        train=Train(steps=3700, batch_size=128, eval_every=74, checkpoint_every=370),
    ),
}


find = medmnist("pneumoniamnist")
resolve = functools.partial(resolve_with, find=find)


def build(config: Config) -> Job:
    """The job: pneumonia or not."""
    name = Path(config.data.path).name if config.data.path else "PneumoniaMNIST"
    licence = "" if config.data.path else "CC BY 4.0"
    return image_job(config, question="Does this chest X-ray show pneumonia?", name=name, licence=licence, find=find)


if __name__ == "__main__":
    from medjax.cli import run_file

    run_file(__file__)
