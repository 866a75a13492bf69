"""What does this X-ray show? Its report written from the pictures of a study: annotation.json and images.

A convolutional encoder, and a recurrent decoder with attention over the places of all its views.
"""

from dataclasses import dataclass
from pathlib import Path

from medjax.config import Optimizer, Train
from medjax.core import Job
from medjax.tasks.captions import Config as CaptionConfig
from medjax.tasks.captions import Image, Network, Text, caption_job, resolve

__all__ = ["Config", "build", "resolve"]

CARD = {
    "job": "write clinical text",
    "data": "X-rays and their reports, annotation.json and images/ (IU X-ray, MIMIC-CXR)",
    "needs": "--data.path, medjax[text]",
}


@dataclass(frozen=True)
class Config(CaptionConfig):
    """Reports of X-rays."""

    image: Image = Image(size=96)
    text: Text = Text(longest=96)
    model: Network = Network(width=16)
    optimizer: Optimizer = Optimizer(rate=2e-3, weight_decay=0.01, clip=1.0)
    train: Train = Train(steps=2000, batch_size=32, eval_every=400, checkpoint_every=400, ema=0.99)


PRESETS_OF = {
    "fast": Config(),
    "full": Config(
        image=Image(size=224),
        text=Text(longest=150, pieces=6000),
        model=Network(name="resnet50", words=256, features=512, layers=2),
        optimizer=Optimizer(rate=5e-4, weight_decay=0.01, clip=1.0),
        train=Train(steps=40_000, batch_size=32, eval_every=2000, checkpoint_every=2000, ema=0.999),
    ),
}


def build(config: Config) -> Job:
    """The job: a report for each study's pictures."""
    name = Path(config.data.path).name if config.data.path else "X-rays with reports"
    return caption_job(config, question="What does this X-ray show?", name=name)


if __name__ == "__main__":
    from medjax.cli import run_file

    run_file(__file__)
