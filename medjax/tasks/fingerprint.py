"""What a planner has to know of a data set of images and masks: its fingerprint (Isensee et al., Nature Methods 2021)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from medjax.errors import InputError

IGNORE = 255  # of a mask: not annotated
PERCENTILES = (0.5, 50.0, 99.5)


class Fingerprint(NamedTuple):
    """The facts of a data set that decide on a plan.

    Attributes:
      shapes: int64 [n, 3], (D, H, W) of each case in medjax's order.
      spacings: float64 [n, 3], mm along the same axes; NaN unknown.
      channels: the modality of each channel, such as "CT" or "T1".
      classes: background included.
      kinds: NumPy's names of the dtypes that the cases are stored in; empty where only headers were read.
      counts: int64 [n, classes - 1], voxels of each foreground class, -1 where it is not annotated; None: headers only.
      intensity: float64 [C, 5], percentiles .5, 50, 99.5, mean and standard deviation of the foreground's voxels, all cases
        together; None where there is no foreground, or only headers were read.
    """

    shapes: np.ndarray
    spacings: np.ndarray
    channels: tuple[str, ...]
    classes: int
    kinds: tuple[str, ...] = ()
    counts: np.ndarray | None = None
    intensity: np.ndarray | None = None


def fingerprint_geometry(shapes: Any, spacings: Any = None, *, channels: Sequence[str], classes: int) -> Fingerprint:
    """A fingerprint from headers alone.

    Args:
      shapes: int [n, 3], (D, H, W).
      spacings: float [n, 3] in mm, NaN unknown; None: all unknown.
      channels: the modality of each channel.
      classes: background included.

    Raises:
      InputError: no cases, a side under 1, a spacing that is not above 0, under 2 classes, no channel.
    """
    shapes = np.asarray(shapes, np.int64).reshape(-1, 3)
    spacings = np.full(shapes.shape, np.nan) if spacings is None else np.asarray(spacings, np.float64).reshape(-1, 3)
    if not len(shapes) or len(shapes) != len(spacings):
        raise InputError(f"a data set has {len(shapes)} shapes and {len(spacings)} spacings\ngive one of each for every case")
    if (shapes < 1).any():
        case = int(np.flatnonzero((shapes < 1).any(1))[0])
        raise InputError(f"case {case}: has the shape {shapes[case].tolist()}\nleave it out: an image has at least one voxel")
    wrong = ~np.isnan(spacings) & ~((spacings > 0) & np.isfinite(spacings))
    if wrong.any():
        case = int(np.flatnonzero(wrong.any(1))[0])
        raise InputError(f"case {case}: has the spacing {spacings[case].tolist()} mm\nmend its header, or leave it out")
    if classes < 2 or not channels:
        raise InputError(f"{classes} classes and {len(channels)} channels\nsegmentation needs 2 classes and a channel at least")
    return Fingerprint(shapes, spacings, tuple(channels), int(classes))


def fingerprint(
    cases: Iterable[Mapping[str, Any]], *, channels: Sequence[str], classes: int, voxels: int = 10_000, seed: int = 0
) -> Fingerprint:
    """A fingerprint from examples, looked at one at a time: `from_facts` of each one's `case_facts`."""
    facts = [case_facts(case, channels=channels, classes=classes, voxels=voxels, seed=seed) for case in cases]
    return from_facts(facts, channels=channels, classes=classes)


def case_facts(
    case: Mapping[str, Any], *, channels: Sequence[str], classes: int, voxels: int = 10_000, seed: int = 0
) -> dict[str, Any]:
    """What a fingerprint takes of a case, in arrays of one shape for all cases, so that it can be kept and asked for again.

    Args:
      case: `id`, `image` [D, H, W, C], `mask` (or `labels`) uint8 [D, H, W] with 255 for "not annotated", `spacing` [3] mm (NaN
        unknown), and perhaps `label` int8 [classes - 1], -1 for a class that was not annotated.
      channels: the modality of each channel.
      classes: background included.
      voxels: at most so many foreground voxels are drawn and kept.
      seed: of the draw.

    Returns:
      id, patient and label of the case; shape int64 [3], spacing float64 [3], counts int64 [classes - 1], -1 where a class is
      not annotated, dtype of the image (its NumPy name), drawn float32 [voxels, C], NaN behind the last.

    Raises:
      InputError: an image with another number of channels; a mask of another shape, or with a class too many.
    """
    image, mask = np.asarray(case["image"]), np.asarray(case["mask"] if "mask" in case else case["labels"])
    name = case.get("id", "a case")
    if image.ndim != 4 or image.shape[-1] != len(channels) or mask.shape != image.shape[:3]:
        raise InputError(
            f"{name}: image {list(image.shape)} and mask {list(mask.shape)}, not [D, H, W, {len(channels)}] and [D, H, W]\n"
            "give every case the same channels, and its mask the image's grid"
        )
    seen = np.bincount(mask.ravel(), minlength=IGNORE + 1)
    if seen[classes:IGNORE].any():
        worst = classes + int(np.flatnonzero(seen[classes:IGNORE])[0])
        raise InputError(f"{name}: its mask holds class {worst}, of {classes} classes\nname that class too, or set it to 255")
    counts = seen[1:classes].astype(np.int64)
    known = case.get("known", case.get("label"))
    if known is not None:
        counts = np.where(np.asarray(known) < 0, -1, counts)
    elif seen[IGNORE] == mask.size:
        counts = np.full(classes - 1, -1)
    where = np.flatnonzero((mask > 0) & (mask < IGNORE))
    if len(where) > voxels:
        where = np.random.default_rng((seed, len(where))).choice(where, voxels, replace=False)
    drawn = np.full((voxels, len(channels)), np.nan, np.float32)
    drawn[: len(where)] = image.reshape(-1, len(channels))[where]
    spacing = np.asarray(case["spacing"], np.float64)
    label = np.zeros(classes - 1, np.int8) if known is None else known
    facts = {"shape": np.array(mask.shape), "spacing": spacing, "counts": counts, "dtype": image.dtype.name, "drawn": drawn}
    return {"id": name, "patient": case.get("patient", ""), "label": label, **facts}


def from_facts(facts: Sequence[Mapping[str, Any]], *, channels: Sequence[str], classes: int) -> Fingerprint:
    """A fingerprint from the `case_facts` of each case.

    Raises:
      InputError: no cases, or as `fingerprint_geometry`.
    """
    if not facts:
        raise InputError("a data set has no cases\ncheck --data.path")
    shapes, spacings = np.stack([f["shape"] for f in facts]), np.stack([f["spacing"] for f in facts])
    found = fingerprint_geometry(shapes, spacings, channels=channels, classes=classes)
    values = np.concatenate([f["drawn"] for f in facts]).astype(np.float64)
    values = values[np.isfinite(values).all(1)]
    intensity = None
    if len(values):
        intensity = np.stack([*np.percentile(values, PERCENTILES, axis=0), values.mean(0), values.std(0)], axis=1)
    kinds = tuple(sorted({str(f["dtype"]) for f in facts}))
    return found._replace(kinds=kinds, counts=np.stack([f["counts"] for f in facts]), intensity=intensity)
