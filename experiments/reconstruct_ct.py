"""What does a CT slice look like of which only a few views were scanned? Slices of yours, whose scans are simulated."""

import functools
from dataclasses import dataclass
from pathlib import Path

from medjax.config import Optimizer, Train
from medjax.core import Job
from medjax.data.restored import given_images, whole_images
from medjax.errors import InputError
from medjax.tasks.ct_dose import HOUNSFIELD, SOFT_TISSUE
from medjax.tasks.ct_scans import acquisition, baselines, simulate
from medjax.tasks.enhance import Adversary, TwoPhases
from medjax.tasks.reconstruct import Config as ReconstructConfig
from medjax.tasks.reconstruct import Network, reconstruct_job

CARD = {
    "job": "reconstruct an image",
    "data": "yours: --data.path FOLDER of CT slices, DICOM or NIfTI",
    "needs": "CT, medjax[imaging,restore]",
}


@dataclass(frozen=True)
class Scan:
    """The simulated scan."""

    size: int = 256
    """Side of the square that slices are brought to, in pixels."""
    views: int = 60
    """Over half a turn, parallel beam."""
    photons: float = 1e5
    """A ray, I0."""
    electronic: float = 10.0
    """Standard deviation of the detectors' noise, in photons."""


@dataclass(frozen=True)
class Config(ReconstructConfig):
    """CT from few views."""

    scan: Scan = Scan()
    model: Network = Network("varnet", features=16, depth=3, cascades=2, structure=0.0)
    adversary: Adversary = Adversary(weight=0.02)
    optimizer: Optimizer = Optimizer(rate=1e-3, weight_decay=0.0)
    train: Train = TwoPhases(steps=700, batch_size=2, eval_every=100, checkpoint_every=100, ema=0.99)


PRESETS_OF = {
    "fast": Config(),
    "full": Config(
        scan=Scan(size=512),
        model=Network("varnet", features=32, depth=4, cascades=6, structure=0.0),
        train=TwoPhases(steps=50_000, batch_size=4, eval_every=2500, checkpoint_every=2500, ema=0.999),
    ),
}


def build(config: Config) -> Job:
    """The job: from the readings of a few views to the slice."""
    of, path = config.scan, config.data.path
    if not path:
        raise InputError("this experiment has no data of its own\ngive yours: --data.path PATH", usage=True)
    return reconstruct_job(
        config,
        acquisition(of.views, of.size),
        question="What does this CT slice look like, of which only a few views were scanned?",
        name=Path(path).name,
        sources=lambda: whole_images(path),
        read=given_images,
        preprocess=functools.partial(simulate, size=of.size, views=of.views, photons=of.photons, electronic=of.electronic),
        baselines=baselines(),
        stated=f"Simulated: parallel beam, {of.views} views, I0 {of.photons:g}, electronic noise {of.electronic:g}. ",
        scale=HOUNSFIELD,
        structure=SOFT_TISSUE,
        window=SOFT_TISSUE,
    )


if __name__ == "__main__":
    from medjax.cli import run_file

    run_file(__file__)
