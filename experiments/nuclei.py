"""Where are the nuclei in this micrograph? A field from stardist's wheel, or any layout of pictures with boxes."""

import functools
from dataclasses import dataclass
from pathlib import Path

from medjax.config import Optimizer, Train
from medjax.core import Job
from medjax.data.layouts import Layout
from medjax.data.nuclei import STARDIST, tiles
from medjax.tasks.boxes import Augmentation, Image, Inference, Network, box_job, find_layout
from medjax.tasks.boxes import Config as BoxConfig
from medjax.tasks.boxes import resolve as resolve_with

CARD = {
    "job": "detect in an image",
    "data": "nuclei in fluorescence microscopy, one field in tiles (3 MB, fetched by pip)",
    "needs": "nothing",
}


@dataclass(frozen=True)
class Config(BoxConfig):
    """Nuclei, by boxes."""

    image: Image = Image(size=128)
    model: Network = Network(width=16, stem=2, strides=(4, 8), anchors=3, features=48)
    optimizer: Optimizer = Optimizer(rate=2e-3, weight_decay=0.02)
    augment: Augmentation = Augmentation(
        shift=0.3, scale=(0.7, 1.5), aspect=0.2, flip=(0.5, 0.5), transpose=0.5, gamma=0.4, gain=0.4
    )
    inference: Inference = Inference(mirror=(0, 1), hit=0.5, overlap=0.4)
    train: Train = Train(steps=800, batch_size=8, eval_every=100, eval_cases=300, checkpoint_every=100, ema=0.98)


PRESETS_OF = {
    "fast": Config(),
    "full": Config(
        model=Network(width=64, stem=2, strides=(4, 8, 16), features=128, depth=4),
        train=Train(steps=5000, batch_size=16, eval_every=500, eval_cases=2000, checkpoint_every=500, ema=0.99),
    ),
}


def find(config: Config) -> Layout:
    """The data at --data.path, else the tiles of stardist's field."""
    return find_layout(config) if config.data.path else tiles()


resolve = functools.partial(resolve_with, find=find)


def build(config: Config) -> Job:
    """The job: nuclei, by boxes."""
    own = not config.data.path
    name, licence = ("stardist's nuclei", STARDIST.licence) if own else (Path(config.data.path or "").name, "")
    job = box_job(config, question="Where are the nuclei in this micrograph?", name=name, licence=licence, find=find)
    return job._replace(about=job.about._replace(unit="field")) if own else job


if __name__ == "__main__":
    from medjax.cli import run_file

    run_file(__file__)
