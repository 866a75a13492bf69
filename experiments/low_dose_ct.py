"""What would this low-dose CT look like at full dose? Slices of yours, their doses simulated, or the LDCT challenge's pairs."""

from dataclasses import dataclass
from pathlib import Path

from medjax.config import Optimizer, Train
from medjax.core import Job
from medjax.physics.ct import MU_WATER
from medjax.tasks.ct_dose import HOUNSFIELD, SOFT_TISSUE, less_dose
from medjax.tasks.enhance import Adversary, Network, Pictures, TwoPhases, enhance_job
from medjax.tasks.enhance import Config as EnhanceConfig

CARD = {
    "job": "enhance an image",
    "data": "yours: --data.path FOLDER of CT slices (DICOM), or of full_3mm/ and quarter_3mm/",
    "needs": "CT, medjax[imaging,restore]",
}


@dataclass(frozen=True)
class Dose:
    """The simulated scans."""

    views: int = 720
    """Over half a turn, parallel beam."""
    full: float = 1e5
    """Photons a ray of the full dose, I0."""
    low: float = 2.5e4
    """Of the low dose."""
    electronic: float = 10.0
    """Standard deviation of the detectors' noise, in photons."""


@dataclass(frozen=True)
class Config(EnhanceConfig):
    """CT at a quarter of the dose."""

    dose: Dose = Dose()
    image: Pictures = Pictures(size=256, patch=64, tile=256)
    model: Network = Network("unet", features=24, blocks=2, pixel="square")
    adversary: Adversary = Adversary(weight=0.02)
    optimizer: Optimizer = Optimizer(rate=1e-3, weight_decay=0.0)
    train: Train = TwoPhases(steps=2500, batch_size=8, eval_every=250, checkpoint_every=250, ema=0.99)


PRESETS_OF = {
    "fast": Config(),
    "full": Config(
        image=Pictures(size=512, patch=96, tile=512),
        model=Network("redcnn", features=96, pixel="square"),
        train=TwoPhases(steps=100_000, batch_size=16, eval_every=5000, checkpoint_every=2500, ema=0.999),
    ),
}


def build(config: Config) -> Job:
    """The job: from a quarter of the dose to the whole."""
    of = config.dose
    stated = f"Where one scan is given both doses are simulated: parallel beam, {of.views} views, I0 {of.full:g} (truth) and "
    stated += f"{of.low:g}, electronic noise {of.electronic:g}, mu of water {MU_WATER} per mm, filtered back-projection. "
    return enhance_job(
        config,
        question="What would this low-dose CT slice look like at full dose?",
        name=Path(config.data.path or "").name,
        degrade=less_dose(views=of.views, full=of.full, low=of.low, electronic=of.electronic),
        channels=("CT",),
        unit=1000.0,
        scale=HOUNSFIELD,
        structure=SOFT_TISSUE,
        window=SOFT_TISSUE,
        stated=stated,
    )


if __name__ == "__main__":
    from medjax.cli import run_file

    run_file(__file__)
