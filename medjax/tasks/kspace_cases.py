"""Cases of a reconstruction: k-space with what was read of it, simulated from images or as a scanner saved it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from medjax.cases import Varying
from medjax.data.layouts.fastmri import FastMRI, Scan
from medjax.data.restored import content_seed
from medjax.errors import InputError
from medjax.physics import kspace as mr
from medjax.tasks.restored_cases import squared


@dataclasses.dataclass(frozen=True)
class Sampling:
    """Which part of k-space is read."""

    kind: Literal["random", "equispaced", "equispaced_fraction", "magic", "magic_fraction", "poisson"] = "random"
    """Columns by fastMRI's rules, or points that keep a distance (poisson)."""
    acceleration: int = 4
    """How many times fewer columns, or points, are read."""
    centre: float = 0.08
    """Share of the columns read in the middle; of poisson, side of the square over the image's."""


@dataclasses.dataclass(frozen=True)
class Simulation:
    """How whole images become k-space, where that is what is given."""

    size: int = 128
    """Side of the square that slices are brought to, the rest filled with zeros."""
    noise: float = 0.005
    """Standard deviation of both channels, as a share of the slice's maximum."""
    phase: float = 3.14
    """The image's phase varies smoothly within that many radians either way."""
    coils: int = 1
    """Simulated coils around the slice."""


def draw_mask(of: Sampling, shape: tuple[int, int], seed: mr.Seed) -> np.ndarray:
    """bool [H, W] as the settings say."""
    if of.kind == "poisson":
        return mr.poisson_disc(shape, of.acceleration, seed, centre=max(1, round(of.centre * shape[1])))
    return np.broadcast_to(mr.column_mask(of.kind, shape[1], of.acceleration, of.centre, seed), shape).copy()


def simulate(example: dict, *, of: Simulation, sampling: Sampling) -> dict:
    """A slice or volume as a scan of k-space: see `scanned`.

    Args:
      example: of a `medjax.data.restored.RestoreSource` of whole images.
      of, sampling: the settings.
    """
    example.pop("target", None)
    image, role = example.pop("image"), example.pop("role")
    if role == "given":
        raise InputError(f"{example['id']}: is an image, and a reconstruction wants k-space\ngive fastMRI's files")
    rng = np.random.default_rng(content_seed(image))
    example, truth, _ = squared(example, image, of.size)
    spectra, masks = [], []
    for plane in truth:
        maps = mr.birdcage(of.coils, plane.shape) if of.coils > 1 else np.ones((1, *plane.shape), np.complex64)
        seen = maps * (plane * np.exp(1j * mr.smooth_phase(rng, plane.shape, strength=of.phase)))
        noise = rng.standard_normal((2, *seen.shape)) * (of.noise * max(float(plane.max()), 1e-6))
        spectra.append(mr.to_kspace(seen + noise[0] + 1j * noise[1]))
        masks.append(draw_mask(sampling, plane.shape, int(rng.integers(2**31))))
    return scanned(example, np.stack(spectra), np.stack(masks), truth, stored=image.dtype)


def scanned(example: dict, kspace: np.ndarray, sampled: np.ndarray, truth: np.ndarray | None, *, stored: Any) -> dict:
    """A case as this task takes it.

    Args:
      example: id, patient and facts of the grid.
      kspace: complex [D, C, H, W], whole or with zeros where nothing was read.
      sampled: bool [D, H, W], what counts as read.
      truth: float [D, h, w], the magnitude in the middle of the image; None where nobody knows it.
      stored: dtype that images are written in.

    Returns:
      the facts, label 0 or -1, and
        kspace: float32 [D, C, H, W, 2]. sampled: uint8 [D, 1, H, W]. maps: float32 [D, C, H, W, 2] of several coils.
        worse: float32 [D, h, w, 1], zero-filled. truth: float32 [D, h, w, 1], 0 where unknown. scale, flat, stored.

    Raises:
      InputError: k-space of another shape, NaN in it, a mask that samples nothing or all of nothing.
    """
    name = example["id"]
    if kspace.ndim != 4 or sampled.shape != (len(kspace), *kspace.shape[2:]):
        raise InputError(
            f"{name}: k-space is {list(kspace.shape)} and its mask {list(sampled.shape)}, where [slices, coils, rows, columns] "
            "and [slices, rows, columns] are expected\nsave it so, or leave the file out"
        )
    if not np.isfinite(kspace).all():
        raise InputError(f"{name}: k-space holds NaN or infinite values\nmend or remove the file")
    if not sampled.reshape(len(sampled), -1).any(1).all():
        raise InputError(f"{name}: its mask samples nothing\ngive one that reads some of k-space")
    _, c, h, w = kspace.shape
    height, width = (h, w) if truth is None else truth.shape[1:]
    if height > h or width > w:
        raise InputError(f"{name}: the true image is {height} x {width}, larger than its k-space of {h} x {w}\ncheck the file")
    each = zip(kspace, sampled, strict=True)
    maps = np.ones_like(kspace) if c == 1 else np.stack([mr.estimate_sensitivities(k, m.all(0)) for k, m in each])
    scan = {"kspace": kspace, "sampled": sampled[:, None], "maps": maps}
    zero = centre(np.abs(mr.adjoint(kspace, scan)), (height, width)).astype(np.float32)[..., None]
    several = {} if c == 1 else {"maps": Varying(mr.as_pair(maps).astype(np.float32))}
    known = np.zeros_like(zero) if truth is None else truth.astype(np.float32)[..., None]
    top = float(zero.max())
    return {
        **example,
        **several,
        "label": np.int8(-1 if truth is None else 0),
        "kspace": Varying(mr.as_pair(kspace).astype(np.float32)),
        "sampled": Varying(sampled[:, None].astype(np.uint8)),
        "worse": Varying(zero),
        "truth": Varying(known),
        "scale": np.array([0, top if top > 0 else 1.0], np.float32),
        "flat": np.bool_(np.ptp(zero if truth is None else truth) == 0),
        "stored": np.dtype(stored).name,
    }


def centre(image: Any, shape: Sequence[int]) -> Any:
    """The middle [..., h, w] of [..., H, W]."""
    top, left = (image.shape[-2] - shape[0]) // 2, (image.shape[-1] - shape[1]) // 2
    return image[..., top : top + shape[0], left : left + shape[1]]


def named_scans(inputs: Sequence[str | Path]) -> FastMRI:
    """fastMRI's files that a user names, or folders of them, to be reconstructed.

    Raises:
      InputError: none there, two of one name.
    """
    items: dict[str, Scan] = {}
    for given in inputs:
        path = Path(given)
        files = sorted(path.rglob("*.h5")) if path.is_dir() else [path]
        if not files or not files[0].is_file():
            raise InputError(f"{path}: no .h5 files there\ngive fastMRI's files, or folders of them")
        for file in files:
            if file.stem in items:
                raise InputError(f"{file} and {items[file.stem].path} share the id {file.stem!r}\nrename one of them")
            items[file.stem] = Scan(file, file.stem)
    return FastMRI(items.values())


def undersample(example: dict, *, sampling: Sampling, shape: tuple[int, ...]) -> dict:
    """A volume of fastMRI as `scanned` has it: under its own mask, else one seeded by the file's name as fastMRI's are.

    Args:
      example: of `medjax.data.layouts.fastmri.FastMRI`.
      sampling: the mask.
      shape: (coils, rows, columns) that all must have.

    Raises:
      InputError: k-space of another shape, and what `scanned` raises.
    """
    kspace, own, image, file = (example.pop(name) for name in ("kspace", "sampled", "image", "file"))
    label = example.pop("label")
    if kspace.shape[1:] != tuple(shape):
        raise InputError(
            f"{example['id']}: k-space is {list(kspace.shape[1:])} (coils, rows, columns), others are {list(shape)}\n"
            "train on files of one shape: --data.on_error skip leaves others out, --shape says which"
        )
    mask = np.broadcast_to(own, shape[1:]) if own.any() else draw_mask(sampling, (shape[1], shape[2]), tuple(map(ord, file)))
    masks = np.broadcast_to(mask, (len(kspace), *mask.shape))
    made = scanned(example, kspace, masks, image[..., 0], stored=np.float32)
    return made if label >= 0 else {**made, "label": np.int8(-1)}
