"""Make more of your own images with a GAN: class folders, a table of paths and labels, or a MedMNIST file."""

from dataclasses import dataclass

from medjax.config import Data, Train
from medjax.core import Job
from medjax.tasks.generate import Config as GenerateConfig
from medjax.tasks.generate import Networks, Picture, generate_job, named, resolve

__all__ = ["Config", "build", "resolve"]

CARD = {"job": "generate training data", "data": "yours: --data.path PATH", "needs": "a folder of images, or MedMNIST's npz"}


@dataclass(frozen=True)
class Config(GenerateConfig):
    """Any images, made by class."""

    data: Data = Data(sampling="groups")
    train: Train = Train(steps=4500, batch_size=16, eval_every=900, checkpoint_every=500, ema=0.995)


PRESETS_OF = {
    "fast": Config(),
    "full": Config(
        image=Picture(size=128),
        model=Networks(features=32, most=512, blocks=2),
        train=Train(steps=150_000, batch_size=64, eval_every=5000, checkpoint_every=2500, ema=0.999),
    ),
}


def build(config: Config) -> Job:
    """The job: whatever lies at --data.path."""
    return generate_job(config, question="Can a network make more of these images?", name=named(config.data.path, ""))


if __name__ == "__main__":
    from medjax.cli import run_file

    run_file(__file__)
