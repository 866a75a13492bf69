"""Where are the opacities of pneumonia on this chest X-ray? RSNA's challenge of 2018, from where you put it."""

import functools
from dataclasses import dataclass

from medjax.config import Optimizer, Train
from medjax.core import Job
from medjax.data.layouts import Layout
from medjax.tasks.boxes import Augmentation, Image, Inference, Network, box_job, find_layout
from medjax.tasks.boxes import Config as BoxConfig
from medjax.tasks.boxes import resolve as resolve_with

CARD = {
    "job": "detect in an image",
    "data": "yours: --data.path FOLDER of RSNA Pneumonia stage 2",
    "needs": "medjax[imaging]; the challenge's files, which need an account",
}


@dataclass(frozen=True)
class Config(BoxConfig):
    """Opacities, by boxes."""

    image: Image = Image(size=256)
    # Most images hold no opacity, and one false box on such an image costs it all of its score: hence the gate.
    model: Network = Network(width=16, stem=2, strides=(8, 16, 32), anchors=3, features=48, gate=True)
    optimizer: Optimizer = Optimizer(rate=1e-3, weight_decay=0.02)
    augment: Augmentation = Augmentation(shift=0.1, scale=(0.8, 1.25), gamma=0.3, gain=0.3)
    inference: Inference = Inference(most=20, overlap=0.2, least=0.02, keep="rsna")
    train: Train = Train(steps=2000, batch_size=12, eval_every=500, eval_cases=300, checkpoint_every=250, ema=0.99)


PRESETS_OF = {
    "fast": Config(),
    "full": Config(
        image=Image(size=512),
        model=Network(name="resnet50", strides=(8, 16, 32, 64), features=256, depth=4, gate=True),
        train=Train(steps=25_000, batch_size=16, eval_every=2500, eval_cases=2000, checkpoint_every=500, ema=0.999),
    ),
}


def find(config: Config) -> Layout:
    """The boxes of RSNA's table, or any other layout of boxes."""
    return find_layout(config, target="boxes")


resolve = functools.partial(resolve_with, find=find)


def build(config: Config) -> Job:
    """The job: opacities, by boxes; the checkpoint is chosen by the challenge's metric."""
    job = box_job(config, question="Where are the opacities of pneumonia?", name="RSNA Pneumonia", find=find)
    return job._replace(about=job.about._replace(monitor="rsna"))


if __name__ == "__main__":
    from medjax.cli import run_file

    run_file(__file__)
