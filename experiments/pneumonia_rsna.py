"""Does this chest X-ray show opacities of pneumonia? RSNA stage 2, DICOM and two tables, through a pretrained ResNet-50."""

from dataclasses import dataclass
from typing import Literal

from medjax.config import Data, Optimizer, Train
from medjax.core import Job
from medjax.data.layouts import Layout
from medjax.tasks.imaging import Augmentation, Image, Network, find_layout, image_job
from medjax.tasks.imaging import Config as ImageConfig
from medjax.tasks.imaging import resolve as resolve_with

CARD = {
    "job": "classify an image",
    "data": "RSNA Pneumonia Detection Challenge, stage 2 (Kaggle, 26,684 DICOM files)",
    "needs": "--data.path FOLDER and medjax[imaging]; --model.weights PATH for a pretrained ResNet-50",
}


@dataclass(frozen=True)
class Config(ImageConfig):
    """Pneumonia on the RSNA set."""

    target: Literal["binary", "three"] = "binary"
    """Opacity or not, or Normal, No Lung Opacity / Not Normal, Lung Opacity."""
    layout: str = "rsna_pneumonia"
    data: Data = Data(fractions=(0.7, 0.1, 0.2))
    image: Image = Image(size=128, form="grey")
    model: Network = Network(name="resnet50", dropout=0.2)
    optimizer: Optimizer = Optimizer(rate=3e-4, weight_decay=0.05, layer_decay=0.8)
    augment: Augmentation = Augmentation(rotate=10, scale=0.1, shift=0.05, gamma=0.2, gain=0.2)
    train: Train = Train(steps=1500, batch_size=16, eval_every=250, checkpoint_every=250)


PRESETS_OF = {
    "fast": Config(),
    "full": Config(
        image=Image(size=512, form="grey"),
        train=Train(steps=20_000, batch_size=32, eval_every=1000, checkpoint_every=500),
    ),
}


def find(config: Config) -> Layout:
    """The challenge's folder."""
    return find_layout(config, target=config.target)


def resolve(config: Config) -> Config:
    """The settings with what the data tells."""
    return resolve_with(config, find)


def build(config: Config) -> Job:
    """The job: opacity or not, or the three classes."""
    return image_job(config, question="Does this chest X-ray show pneumonia?", name="RSNA Pneumonia, stage 2", find=find)


if __name__ == "__main__":
    from medjax.cli import run_file

    run_file(__file__)
