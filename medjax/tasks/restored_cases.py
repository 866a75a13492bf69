"""Cases of a restoration: a worse image beside what counts as the truth, made worse here or given as a pair."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from medjax.cases import Varying
from medjax.data.restored import content_seed
from medjax.errors import InputError
from medjax.formats.image import resize
from medjax.formats.restored import regridded
from medjax.formats.volume import grid_columns, grid_of

# (truth float32 [D, H, W, C], generator seeded by the pixels, spacing float64 [3] in mm or NaN) -> float32 (the worse image
# [D, H / factor, W / factor, C], what counts as the truth).
Degradation = Callable[[np.ndarray, np.random.Generator, np.ndarray], tuple[np.ndarray, np.ndarray]]
_LEAST = 8  # pixels: a smaller picture holds nothing to restore


def prepare(
    example: dict,
    *,
    degrade: Degradation,
    factor: int,
    unit: float = 0.0,
    offset: float = 0.0,
    shrink: Callable[[np.ndarray], np.ndarray] = lambda image: image,
) -> dict:
    """A case as `medjax.tasks.tiles` takes it.

    Args:
      example: of a `medjax.data.restored.RestoreSource`.
      degrade: see `Degradation`.
      factor: by which restored images are larger.
      unit, offset: the network sees (v - offset) / unit; a unit of 0 is the worse image's 99.9th percentile.
      shrink: image -> image, done first to whole images, such as to bound their size.

    Returns:
      the facts of the grid, id and patient as they were, label 0, or -1 where no truth is known, and
        given: float32 [D, h, w, C], truth: float32 [D, h factor, w factor, C], or [0, 0, 0, C].
        scale: float32 [2], offset and unit. flat: whether it is of one value. stored: the file's dtype.

    Raises:
      InputError: a picture that is too small, a pair of another factor.
    """
    name, role = example["id"], example.pop("role")
    image, target = example.pop("image"), example.pop("target", None)
    c, stored = image.shape[-1], (image if target is None else target).dtype
    if role == "degrade":
        small = shrink(image)
        truth, coarser = small.astype(np.float32), [1.0, *(image.shape[a] / small.shape[a] for a in (1, 2))]
        # What the factor leaves over is cut off; a picture of odd size loses a line.
        h, w = (side // factor * factor for side in truth.shape[1:3])
        truth = np.ascontiguousarray(truth[:, :h, :w])
        _check_size(name, truth.shape, factor)
        given, truth = degrade(truth, np.random.default_rng(content_seed(image)), example["spacing"] * coarser)
        grid = grid_of({**example, "shape": image.shape[:3]})
        grid = regridded(grid, given.shape[:3], [coarser[0], coarser[1] * factor, coarser[2] * factor])
        example |= grid_columns(grid, example["form"]) | {"files": example["files"]}
    elif role == "pair":
        given, truth = image.astype(np.float32), target.astype(np.float32)
        if truth.shape[1] != given.shape[1] * factor:
            have = truth.shape[1] // given.shape[1]
            raise InputError(f"{name}: the better image is {have} times as large, not {factor}\ngive --degrade.factor {have}")
    else:
        given, truth = image.astype(np.float32), np.zeros((0, 0, 0, c), np.float32)
    _check_size(name, (given.shape[0], given.shape[1] * factor, given.shape[2] * factor, c), factor)
    if not np.isfinite(truth).all():
        raise InputError(f"{name}: the better image holds NaN or infinite values\nmend or remove it")
    top = unit or float(np.percentile(np.abs(given - offset), 99.9))
    return {
        **example,
        "label": np.int8(-1 if role == "given" else 0),
        "worse": Varying(given),
        "truth": Varying(truth),
        "scale": np.array([offset, top if top > 0 else 1.0], np.float32),
        "flat": np.bool_(np.ptp(truth if truth.size else given) == 0),
        "stored": stored.name,
    }


def _check_size(name: str, shape: Sequence[int], factor: int) -> None:
    if min(shape[1:3]) < max(_LEAST, factor * 2):
        raise InputError(f"{name}: is {shape[1]} x {shape[2]}, too small to restore by {factor}\nleave it out")


def smaller(image: np.ndarray, *, size: int) -> np.ndarray:
    """An image [D, H, W, C] whose longer side is at most `size`, antialiased; as it is where `size` is 0 or it is small."""
    h, w = image.shape[1:3]
    if not size or max(h, w) <= size:
        return image
    shape = (max(1, round(h * size / max(h, w))), max(1, round(w * size / max(h, w))))
    return np.stack([resize(slice_, shape).reshape(*shape, -1) for slice_ in image])


def squared(example: dict, image: np.ndarray, side: int, *, air: float = 0.0) -> tuple[dict, np.ndarray, np.ndarray]:
    """A whole image as a scanner sees it: its longer side at most `side`, in the middle of a square of `air`.

    Args:
      example: its facts, grid included.
      image: [D, H, W, 1].

    Returns:
      (the facts with the new grid, float32 [D, side, side], spacing float64 [3] in mm or NaN).

    Raises:
      InputError: several channels.
    """
    if image.shape[-1] != 1:
        raise InputError(f"{example['id']}: has {image.shape[-1]} channels\ngive images of one")
    small = smaller(image, size=side)[..., 0].astype(np.float32)
    _, h, w = small.shape
    top, left = (side - h) // 2, (side - w) // 2
    whole = np.pad(small, ((0, 0), (top, side - h - top), (left, side - w - left)), constant_values=air)
    coarser = [1.0, *(image.shape[a] / small.shape[a] for a in (1, 2))]
    grid = regridded(grid_of({**example, "shape": image.shape[:3]}), whole.shape, coarser, (0, top, left))
    facts = example | grid_columns(grid, example["form"]) | {"files": example["files"]}
    return facts, whole, example["spacing"] * coarser
