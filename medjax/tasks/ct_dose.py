"""CT slices as scans of less dose or fewer views show them: degradations for `medjax.tasks.enhance`, and ranges of values."""

from __future__ import annotations

import functools

import numpy as np

from medjax.metrics.restoration import Scale
from medjax.physics.ct import scan
from medjax.tasks.restored_cases import Degradation

HOUNSFIELD = Scale(-1000, 1000)  # PSNR
SOFT_TISSUE = Scale(-160, 240)  # SSIM and figures
PIXEL = 0.7  # mm, of a slice that does not tell


def less_dose(*, views: int, full: float, low: float, electronic: float) -> Degradation:
    """The truth is a scan of `full` photons a ray, the worse image one of `low`, both reconstructed alike."""
    return functools.partial(_scanned, views=views, photons=(low, full), electronic=electronic)


def fewer_views(*, views: int, photons: float, electronic: float) -> Degradation:
    """The truth is the slice itself, the worse image a scan of a few views."""
    return functools.partial(_scanned, views=views, photons=(photons,), electronic=electronic)


def _scanned(
    truth: np.ndarray,
    rng: np.random.Generator,
    spacing: np.ndarray,
    *,
    views: int,
    photons: tuple[float, ...],
    electronic: float,
) -> tuple[np.ndarray, np.ndarray]:
    pixel = float(spacing[1]) if np.isfinite(spacing[1]) else PIXEL
    stacks: list[list[np.ndarray]] = [[] for _ in photons]
    for image in truth[..., 0]:
        for stack, seen in zip(stacks, scan(rng, image, pixel=pixel, views=views, photons=photons, electronic=electronic)):
            stack.append(seen[..., None])
    made = [np.stack(stack) for stack in stacks]
    return made[0], made[1] if len(made) > 1 else truth
