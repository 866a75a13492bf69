"""Is this lung nodule malignant? CT cubes in NoduleMNIST3D's form, by download or from --data.path, through a 3-D ResNet-18."""

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
    "data": "NoduleMNIST3D, 1,633 CT cubes of 28^3 voxels (27 MB, Zenodo)",
    "needs": "the internet, or --data.path",
}


@dataclass(frozen=True)
class Config(ImageConfig):
    """Malignancy of lung nodules."""

    data: Data = Data(sampling="classes")
    image: Image = Image(size=28, form="volume")
    model: Network = Network(name="resnet18", width=8, dropout=0.3)
    optimizer: Optimizer = Optimizer(rate=3e-3, weight_decay=0.05)
    augment: Augmentation = Augmentation(rotate=20, scale=0.1, shift=0.07, gamma=0.2, gain=0.2)
    train: Train = Train(steps=1000, batch_size=32, eval_every=100, checkpoint_every=100)


PRESETS_OF = {
    "fast": Config(),
    "full": Config(
        model=Network(name="resnet18", dropout=0.3),
        train=Train(steps=4000, batch_size=32, eval_every=200, checkpoint_every=200),
    ),
}


find = medmnist("nodulemnist3d")
resolve = functools.partial(resolve_with, find=find)


def build(config: Config) -> Job:
    """The job: malignant or not."""
    name = Path(config.data.path).name if config.data.path else "NoduleMNIST3D"
    return image_job(config, question="Is this lung nodule malignant?", name=name, find=find)


if __name__ == "__main__":
    from medjax.cli import run_file

    run_file(__file__)
