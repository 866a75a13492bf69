"""Computed tomography of few views for `medjax.tasks.reconstruct`: slices whose scans are simulated, held to their readings."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from medjax.cases import Varying
from medjax.core import Baseline, Batch
from medjax.data.restored import content_seed
from medjax.errors import InputError
from medjax.physics import ct
from medjax.tasks import restoration_baselines as simple
from medjax.tasks.ct_dose import HOUNSFIELD, SOFT_TISSUE, pixel_of
from medjax.tasks.reconstruct import Acquisition
from medjax.tasks.restored_cases import squared

AIR, WATER = -1000.0, 1000.0  # networks see (HU - AIR) / WATER: attenuation over that of water


def simulate(example: dict, *, size: int, views: int, photons: float, electronic: float) -> dict:
    """A slice or volume as a scan of few views.

    Args:
      example: of a `medjax.data.restored.RestoreSource` of whole images, Hounsfield units.
      size: side of the square that slices are brought to, the rest filled with air.
      views: over half a turn, parallel beam.
      photons: a ray, I0.
      electronic: standard deviation of the detectors' noise, in photons.

    Returns:
      the facts of the grid, label 0, scale, flat, stored as of `medjax.tasks.restored_cases.prepare`, and
        readings: float32 [D, views, detectors], line integrals in pixels of water.
        worse: float32 [D, size, size, 1], filtered back-projection. truth: likewise, the slice itself, air where it has less.

    Raises:
      InputError: an image to be reconstructed, several channels, a slice that does not tell its pixels' size.
    """
    example.pop("target", None)
    image, role = example.pop("image"), example.pop("role")
    if role == "given":
        raise InputError(f"{example['id']}: is an image, and a reconstruction wants readings\ngive slices to medjax evaluate")
    rng = np.random.default_rng(content_seed(image))
    example, truth, spacing = squared(example, image, size, air=AIR)
    unit = ct.MU_WATER * pixel_of(spacing)
    angles, count = ct.view_angles(views), ct.detectors(size)
    readings, worse = [], []
    for plane in truth:
        seen = ct.simulate(np.maximum(1 + plane / WATER, 0) * unit, angles, count)
        seen = ct.noisy_readings(rng, seen, photons=photons, electronic=electronic) / unit
        readings.append(seen.astype(np.float32))
        worse.append((ct.filtered_back_projection(seen, angles, size) * WATER + AIR)[..., None])
    return {
        **example,
        "label": np.int8(0),
        "readings": Varying(np.stack(readings)),
        "worse": Varying(np.stack(worse).astype(np.float32)),
        "truth": Varying(truth[..., None]),
        "scale": np.array([AIR, WATER], np.float32),
        "flat": np.bool_(np.ptp(truth) == 0),
        "stored": image.dtype.name,
    }


def acquisition(views: int, size: int) -> Acquisition:
    """Of cases from `simulate`."""
    return Acquisition(
        scanner=ct.scanner(views, size),
        columns=("readings", "truth"),
        given=lambda batch: {"readings": batch["readings"]},
        shown=lambda image, batch: image,
        mirror=mirror,
        augment=mirrored_at_random,
        shape=(size, size),
        read="the rays that were read",
    )


def baselines() -> dict[str, Baseline]:
    """Filtered back-projection, and total variation on it, its weight tuned."""
    compared: dict[str, Any] = {"scale": HOUNSFIELD, "structure": SOFT_TISSUE}
    return {
        "fbp": simple.fixed(simple.as_input, **compared),
        "tv": simple.tuned(simple.tv, (0.02, 0.04, 0.08, 0.16, 0.32), **compared),
    }


def mirrored(readings: jax.Array, axis: int) -> jax.Array:
    """Readings [..., views, D] over half a turn of the image mirrored along axis -2 (up and down) or -1.

    Mirrored left and right, the view at angle a is the one that was at pi - a; up and down, the same seen from behind. Of
    evenly spread views that is view V - v, and view 0 at angle pi is view 0 from behind.
    """
    first, rest = readings[..., :1, :], readings[..., :0:-1, :]
    behind = functools.partial(jnp.flip, axis=-1)
    return jnp.concatenate([behind(first), rest] if axis == -1 else [first, behind(rest)], -2)


def mirror(batch: Batch, axes: tuple[int, ...]) -> dict[str, Any]:
    """A batch of the images mirrored along axes out of -2 and -1; the truth stays as it is."""
    return {**batch, "readings": functools.reduce(mirrored, axes, batch["readings"])}


def mirrored_at_random(key: jax.Array, example: Batch) -> dict[str, Any]:
    """A training slice mirrored up and down, and left and right, each by chance: readings [V, D] and truth [h, w, 1]."""
    readings, truth = example["readings"], example["truth"]
    for axis, one in zip((-2, -1), jax.random.split(key)):
        turn = jax.random.bernoulli(one)
        readings = jnp.where(turn, mirrored(readings, axis), readings)
        truth = jnp.where(turn, jnp.flip(truth, axis - 1), truth)
    return {**example, "readings": readings, "truth": truth}
