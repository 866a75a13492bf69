"""Small images to restore, and settings under which that takes seconds; for tests."""

import dataclasses

import numpy as np
from scipy import ndimage

import medjax
from medjax.formats.grid import Grid
from medjax.formats.volume import grid_columns
from medjax.tasks.enhance import Adversary, Config, Network, Pictures, TwoPhases, Worse, enhance_job

STEPS = {"steps": 8, "adversarial_steps": 4, "batch_size": 4, "eval_every": 4, "checkpoint_every": 4, "ema": 0.9}


def phantom(seed, shape=(44, 41)):
    """A smooth slice with edges, 16 bit, of a range that 8 bits would not tell apart."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: shape[0], : shape[1]]
    image = np.zeros(shape)
    for _ in range(6):
        cy, cx, r = rng.uniform(8, 34), rng.uniform(8, 34), rng.uniform(3, 10)
        image += rng.uniform(0.2, 1) * (np.hypot(y - cy, x - cx) < r)
    image = ndimage.gaussian_filter(image, 0.7)
    return (image * 900 + 1000).astype(np.uint16)


def settings(path, **more):
    config = Config(
        data=medjax.config.Data(path=str(path), near_copies="off"),
        worse=Worse(factor=2, noise=0.01),
        image=Pictures(patch=12, tile=16),
        model=Network(features=8, blocks=0),  # the layers around the blocks are enough here
        adversary=Adversary(features=4, r1=0.0),
        train=TwoPhases(**STEPS),
    )
    return dataclasses.replace(config, **more)


def job_of(config):
    return enhance_job(config, question="What would it look like?", name="scans")


def case(image, role="degrade", **more):
    grid = grid_columns(Grid(image.shape[:3]), "png")
    return {"id": "a", "patient": "", "image": image, "role": role, **grid, **more}
