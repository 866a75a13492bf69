"""Any set of MedMNIST, in two or three dimensions: --flag pathmnist, by download or from --data.path."""

from dataclasses import dataclass
from pathlib import Path

from medjax.config import Data, Optimizer, Train
from medjax.core import Job
from medjax.data.layouts import Layout
from medjax.tasks.imaging import Augmentation, Image, Network, image_job, medmnist
from medjax.tasks.imaging import Config as ImageConfig
from medjax.tasks.imaging import resolve as resolve_with

CARD = {
    "job": "classify an image",
    "data": "any MedMNIST set, BreastMNIST (1 MB, Zenodo) unless another is named",
    "needs": "the internet, or --data.path",
}


@dataclass(frozen=True)
class Config(ImageConfig):
    """A MedMNIST set."""

    flag: str = "breastmnist"
    """The set: pathmnist, chestmnist, dermamnist, octmnist, retinamnist, organamnist, nodulemnist3d and so on."""
    resolution: int = 28
    """Of the file to fetch: 28, 64, 128 or 224 pixels; 28 or 64 in three dimensions."""
    data: Data = Data()
    image: Image = Image(size=28)
    model: Network = Network(name="resnet18", width=16, dropout=0.3)
    optimizer: Optimizer = Optimizer(rate=3e-3, weight_decay=0.05)
    augment: Augmentation = Augmentation(rotate=15, scale=0.1, shift=0.1)
    train: Train = Train(steps=2000, batch_size=64, eval_every=200, checkpoint_every=200)


# The published recipe (Yang et al., Scientific Data 2023): ResNet-18 with a small stem, batches of 128, no augmentation.
STILL = Augmentation(rotate=0, scale=0, shift=0, flip=0, gamma=0, gain=0, noise=0)
PRESETS_OF = {
    "fast": Config(),
    "full": Config(
        model=Network(name="resnet18", dropout=0.0),
        optimizer=Optimizer(rate=1e-3, weight_decay=1e-4),
        augment=STILL,
        train=Train(steps=20_000, batch_size=128, eval_every=500, checkpoint_every=500),
    ),
}


def find(config: Config) -> Layout:
    """The file at --data.path, else the set of that name."""
    return medmnist(config.flag, config.resolution)(config)


def resolve(config: Config) -> Config:
    """The settings with what the data tells."""
    return resolve_with(config, find)


def build(config: Config) -> Job:
    """The job of the chosen set."""
    name = Path(config.data.path).name if config.data.path else config.flag
    return image_job(config, question=f"Which class of {name} is this image of?", name=name, licence="CC BY 4.0", find=find)


if __name__ == "__main__":
    from medjax.cli import run_file

    run_file(__file__)
