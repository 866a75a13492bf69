"""CT slices as scans of less dose show them: a degradation for `medjax.tasks.enhance`, and ranges of values."""

from __future__ import annotations

import functools

import numpy as np

from medjax.errors import InputError
from medjax.metrics.restoration import Scale
from medjax.physics.ct import scan
from medjax.tasks.restored_cases import Degradation

HOUNSFIELD = Scale(-1000, 1000)  # PSNR
SOFT_TISSUE = Scale(-160, 240)  # SSIM and figures


def pixel_of(spacing: np.ndarray) -> float:
    """The side of a pixel in mm, from spacing [3].

    Raises:
      InputError: nobody tells it, and a ray's absorption hangs on it.
    """
    if not np.isfinite(spacing[1]):
        raise InputError("the slice does not tell its pixels' size, which a simulated scan needs\ngive DICOM or NIfTI")
    return float(spacing[1])


def less_dose(*, views: int, full: float, low: float, electronic: float) -> Degradation:
    """The truth is a scan of `full` photons a ray, the worse image one of `low`, both reconstructed alike."""
    return functools.partial(_scanned, views=views, photons=(low, full), electronic=electronic)


def _scanned(
    truth: np.ndarray,
    rng: np.random.Generator,
    spacing: np.ndarray,
    *,
    views: int,
    photons: tuple[float, float],
    electronic: float,
) -> tuple[np.ndarray, np.ndarray]:
    see = functools.partial(scan, rng, pixel=pixel_of(spacing), views=views, photons=photons, electronic=electronic)
    both = [see(image) for image in truth[..., 0]]
    worse, better = (np.stack(stack)[..., None] for stack in zip(*both, strict=True))
    return worse, better
