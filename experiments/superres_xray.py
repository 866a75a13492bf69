"""What would this coarse X-ray look like on a finer grid? Pictures of yours, or pairs of a coarse and a fine one each."""

from dataclasses import dataclass
from pathlib import Path

from medjax.config import Optimizer, Train
from medjax.core import Job
from medjax.tasks.enhance import Adversary, Network, Pictures, TwoPhases, Worse, enhance_job
from medjax.tasks.enhance import Config as EnhanceConfig

CARD = {
    "job": "enhance an image",
    "data": "yours: --data.path FOLDER of X-rays, or of input/ and target/",
    "needs": "X-rays; medjax[imaging] for DICOM",
}


@dataclass(frozen=True)
class Config(EnhanceConfig):
    """X-rays, enlarged twice."""

    worse: Worse = Worse(factor=2, how="photons", photons=2000)
    image: Pictures = Pictures(size=512, patch=32, tile=128)
    model: Network = Network(features=24, blocks=2)
    adversary: Adversary = Adversary(features=24)
    optimizer: Optimizer = Optimizer(rate=1e-3, weight_decay=0.0)
    train: Train = TwoPhases(steps=1500, adversarial_steps=0, batch_size=8, eval_every=250, checkpoint_every=250, ema=0.99)


PRESETS_OF = {
    "fast": Config(),
    "full": Config(
        image=Pictures(size=0, patch=64, tile=256),
        model=Network(features=64, blocks=16, structure=0.1),
        train=TwoPhases(
            steps=200_000, adversarial_steps=100_000, batch_size=16, eval_every=10_000, checkpoint_every=5000, ema=0.999
        ),
    ),
}


def build(config: Config) -> Job:
    """The job: from coarse pixels and few photons to fine ones."""
    question = "What would this coarse X-ray look like on a finer grid?"
    return enhance_job(config, question=question, name=Path(config.data.path or "").name)


if __name__ == "__main__":
    from medjax.cli import run_file

    run_file(__file__)
