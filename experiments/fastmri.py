"""What does a scan look like of whose k-space a part was read? fastMRI's knees or brains, of one coil or of several."""

import dataclasses
import functools
from dataclasses import dataclass
from pathlib import Path

from medjax.config import Optimizer, Train
from medjax.core import Job
from medjax.data.layouts import open_own
from medjax.data.layouts.fastmri import read_scan
from medjax.tasks.enhance import TwoPhases
from medjax.tasks.kspace_cases import Sampling, named_scans, undersample
from medjax.tasks.kspace_scans import acquisition, baselines
from medjax.tasks.reconstruct import Config as ReconstructConfig
from medjax.tasks.reconstruct import Network, reconstruct_job

CARD = {
    "job": "reconstruct an image",
    "data": "yours: --data.path FOLDER that holds singlecoil_train, or multicoil_train",
    "needs": "fastMRI (by agreement), medjax[restore]",
}


@dataclass(frozen=True)
class Config(ReconstructConfig):
    """fastMRI."""

    shape: tuple[int, ...] = ()
    """(coils, rows, columns) of k-space, the first file's by default; files of others are refused, or skipped."""
    sampling: Sampling = Sampling("random", 4, 0.08)
    model: Network = Network("unet", features=16, depth=3)
    optimizer: Optimizer = Optimizer(rate=1e-3, weight_decay=0.0)
    train: Train = TwoPhases(steps=1000, batch_size=2, eval_every=250, checkpoint_every=250, ema=0.99)


PRESETS_OF = {
    "fast": Config(),
    "full": Config(
        model=Network("varnet", features=18, depth=4, cascades=12, structure=1.0),
        optimizer=Optimizer(rate=3e-4, weight_decay=0.0),
        train=TwoPhases(steps=200_000, batch_size=1, eval_every=10_000, checkpoint_every=5000, ema=0.999),
    ),
}


def resolve(config: Config) -> Config:
    """The settings with the shape of k-space filled in."""
    if config.shape:
        return config
    source = next(iter(open_own(config.data.path, "fastmri", "k-space").sources.values()))
    return dataclasses.replace(config, shape=read_scan(source.items[0].path)[0].shape[1:])


def build(config: Config) -> Job:
    """The job: from part of k-space to the root of the sum of squares of all of it."""
    config = resolve(config)
    coils, height, width = config.shape
    return reconstruct_job(
        config,
        acquisition(config.sampling, (height, width), coils),
        question="What does this scan look like, of whose k-space only a part was read?",
        name=Path(config.data.path or "").name,
        sources=lambda: open_own(config.data.path, "fastmri", "k-space").sources,
        read=named_scans,
        preprocess=functools.partial(undersample, sampling=config.sampling, shape=tuple(config.shape)),
        baselines=baselines(coils),
        stated=f"Retrospective: {config.sampling.kind} mask, {config.sampling.acceleration} times fewer columns. ",
    )


if __name__ == "__main__":
    from medjax.cli import run_file

    run_file(__file__)
