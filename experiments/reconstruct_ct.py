"""What does a CT slice look like of which only a few views were scanned? Slices of yours, whose scans are simulated."""

from dataclasses import dataclass
from pathlib import Path

from medjax.config import Optimizer, Train
from medjax.core import Job
from medjax.tasks.ct_dose import HOUNSFIELD, SOFT_TISSUE, fewer_views
from medjax.tasks.enhance import Adversary, Network, Pictures, TwoPhases, enhance_job
from medjax.tasks.enhance import Config as EnhanceConfig
from medjax.tasks.restoration_baselines import as_input, fixed

CARD = {"job": "reconstruct an image", "data": "yours: --data.path FOLDER of CT slices, DICOM", "needs": "CT, medjax[imaging]"}


@dataclass(frozen=True)
class Scan:
    """The simulated scan."""

    views: int = 60
    """Over half a turn, parallel beam."""
    photons: float = 1e5
    """A ray, I0."""
    electronic: float = 10.0
    """Standard deviation of the detectors' noise, in photons."""


@dataclass(frozen=True)
class Config(EnhanceConfig):
    """CT from few views."""

    scan: Scan = Scan()
    image: Pictures = Pictures(size=256, patch=128, tile=256)
    model: Network = Network("unet", features=24, blocks=4, pixel="square")
    adversary: Adversary = Adversary(weight=0.02)
    optimizer: Optimizer = Optimizer(rate=1e-3, weight_decay=0.0)
    train: Train = TwoPhases(steps=1500, batch_size=4, eval_every=250, checkpoint_every=250, ema=0.99)


PRESETS_OF = {
    "fast": Config(),
    "full": Config(
        image=Pictures(size=512, patch=256, tile=512),
        model=Network("unet", features=48, blocks=5, pixel="square"),
        train=TwoPhases(steps=100_000, batch_size=16, eval_every=5000, checkpoint_every=2500, ema=0.999),
    ),
}


def build(config: Config) -> Job:
    """The job: from filtered back-projection of a few views to the slice."""
    of = config.scan
    return enhance_job(
        config,
        question="What does this CT slice look like, of which only a few views were scanned?",
        name=Path(config.data.path or "").name,
        degrade=fewer_views(views=of.views, photons=of.photons, electronic=of.electronic),
        baselines={"fbp": fixed(as_input, scale=HOUNSFIELD, structure=SOFT_TISSUE)},
        channels=("CT",),
        unit=1000.0,
        window=SOFT_TISSUE,
        stated=f"Simulated: parallel beam, {of.views} views, I0 {of.photons:g}, electronic noise {of.electronic:g}. ",
        scale=HOUNSFIELD,
        structure=SOFT_TISSUE,
    )


if __name__ == "__main__":
    from medjax.cli import run_file

    run_file(__file__)
