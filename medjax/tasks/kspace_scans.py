"""Magnetic resonance for `medjax.tasks.reconstruct`: part of k-space, read by one coil or several."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from medjax.core import Baseline, Batch
from medjax.metrics.restoration import MAXIMUM
from medjax.physics import kspace as mr
from medjax.tasks import restoration_baselines as simple
from medjax.tasks.kspace_cases import Sampling, centre, draw_mask
from medjax.tasks.reconstruct import Acquisition

BANK = 64  # masks that training draws from
WEIGHTS = (0.001, 0.002, 0.004, 0.008, 0.016, 0.032)  # of total variation that are tried


def acquisition(sampling: Sampling, shape: tuple[int, int], coils: int) -> Acquisition:
    """Of cases from `medjax.tasks.kspace_cases.scanned`.

    Args:
      sampling: the kind of masks that training draws.
      shape: of k-space, (H, W).
      coils: 1 or several.
    """
    return Acquisition(
        mr.SCANNER, _columns(coils), given, magnitude, mirror, drawn_anew(sampling, shape), shape, "the points that were read"
    )


def baselines(coils: int) -> dict[str, Baseline]:
    """Zeros where nothing was read; compressed sensing with total variation, its weight tuned."""
    compared: dict[str, Any] = {"scale": MAXIMUM, "structure": MAXIMUM}
    return {
        "zero_filled": simple.fixed(simple.as_input, **compared),
        "tv": simple.tuned(tv, WEIGHTS, columns=_columns(coils), **compared),
    }


def _columns(coils: int) -> tuple[str, ...]:
    return ("kspace", "sampled", "truth", *(("maps",) if coils > 1 else ()))


def given(batch: Batch) -> dict[str, jax.Array]:
    """What networks take, in units of the case: {kspace, maps complex [n, C, H, W], sampled [n, 1, H, W]}."""
    spectrum = mr.as_complex(batch["kspace"]) / batch["scale"][:, 1, None, None, None]
    maps = mr.as_complex(batch["maps"]) if "maps" in batch else jnp.ones_like(spectrum)
    sampled = batch["sampled"].astype(jnp.float32)
    return {"kspace": spectrum * sampled, "sampled": sampled, "maps": maps}


def magnitude(pair: jax.Array, batch: Batch) -> jax.Array:
    """|x| of [n, H, W, 2], its middle as large as the truth, [n, h, w, 1]."""
    image = jnp.sqrt(jnp.square(pair).sum(-1) + 1e-12)
    return centre(image, batch["truth"].shape[1:3])[..., None]


def mirrored(kspace: Any, axis: int) -> Any:
    """k-space [..., H, W], or a mask of it, of the image mirrored along an axis, -2 or -1, to the phase of one pixel.

    Frequency k becomes -k; of an even number of them the first has itself for a partner.
    """
    xp = np if isinstance(kspace, np.ndarray) else jnp
    turned = xp.flip(kspace, axis)
    return turned if kspace.shape[axis] % 2 else xp.roll(turned, 1, axis)


def mirror(batch: Batch, axes: tuple[int, ...]) -> dict[str, Any]:
    """A batch of the images mirrored along axes out of -2 and -1; the truth stays as it is."""
    new = dict(batch)
    image = mr.to_image(mr.as_complex(batch["kspace"]))
    new["kspace"] = mr.as_pair(mr.to_kspace(jnp.flip(image, axes) if axes else image))
    for axis in axes:
        new["sampled"] = mirrored(new["sampled"], axis)
        if "maps" in batch:
            new["maps"] = jnp.flip(new["maps"], axis - 1)
    return new


def drawn_anew(sampling: Sampling, shape: tuple[int, int]) -> Callable[[jax.Array, Batch], dict[str, Any]]:
    """Training examples mirrored, up and down and left and right, each under a mask of a bank of its own kind."""
    bank = jnp.asarray(np.stack([draw_mask(sampling, shape, k) for k in range(BANK)]), jnp.uint8)

    def augment(key: jax.Array, example: Batch) -> dict[str, Any]:
        keys = jax.random.split(key, 3)
        down, across = jax.random.bernoulli(keys[0]), jax.random.bernoulli(keys[1])

        def turn(image: jax.Array, rows: int) -> jax.Array:
            image = jnp.where(down, jnp.flip(image, rows), image)
            return jnp.where(across, jnp.flip(image, rows + 1), image)

        new = {**example, "truth": turn(example["truth"], 0)}
        seen = turn(mr.to_image(mr.as_complex(example["kspace"])), 1)
        new["kspace"] = mr.as_pair(mr.to_kspace(seen))
        if "maps" in example:
            new["maps"] = turn(example["maps"], 1)
        new["sampled"] = bank[jax.random.randint(keys[2], (), 0, BANK)][None]
        return new

    return augment


def tv(*columns: Any, iterations: int = 60) -> np.ndarray:
    """Compressed sensing with total variation (`medjax.physics.kspace.total_variation`), slice by slice."""
    *arrays, setting, unit = columns
    kspace, sampled, truth, *maps = arrays
    out = []
    for z in range(len(kspace)):
        spectrum = mr.as_complex(np.asarray(kspace[z])).astype(np.complex64) / np.float32(unit)
        sensitivities = mr.as_complex(np.asarray(maps[0][z])).astype(np.complex64) if maps else np.ones_like(spectrum)
        image = _tv(spectrum, sampled[z].astype(np.float32), sensitivities, np.float32(setting), iterations)
        out.append(centre(np.abs(np.asarray(image)), truth.shape[1:3])[..., None] * unit)
    return np.stack(out).astype(np.float32)


@functools.partial(jax.jit, static_argnums=4)
def _tv(kspace: jax.Array, sampled: jax.Array, maps: jax.Array, weight: jax.Array, iterations: int) -> jax.Array:
    scan = {"kspace": kspace, "sampled": sampled, "maps": maps}
    return mr.total_variation(scan, weight, iterations=iterations)
