"""Volumes on their way to a network and back: prepared once, cut into patches, covered by windows, joined on their own grid."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import ndimage

from medjax.cases import Cases, Varying
from medjax.data.volumes import IGNORE
from medjax.formats.image import otsu_threshold

UNIT = 1000  # a standard deviation, or half of a range, in the int16 that a prepared volume holds
POINTS = 1000  # places kept of each class, to draw patches around
HALF_FLOATS = 2**28  # values of a slab from which it is kept in half precision: 1 GiB of singles
Shape = tuple[int, int, int]


class Geometry(NamedTuple):
    """How volumes are brought to one resolution and cut.

    Attributes:
      patch: (D, H, W) that the network sees; D = 1 makes it a network of slices.
      spacing: target in mm; () leaves the grid as it is.
      size: (D, H, W) that each whole volume is resized to, in place of a spacing; () keeps the sizes that the spacing gives.
      margin: how much larger than the patch training examples are cut, so that turning one does not turn in what is unknown.
      foreground: share of the training examples that hold a voxel of a class drawn at random among those that the case has.
      step: distance of neighbouring windows, as a fraction of the patch.
    """

    patch: Shape
    spacing: tuple[float, ...] = ()
    size: tuple[int, ...] = ()
    margin: float = 1.2
    foreground: float = 1 / 3
    step: float = 0.5

    def cut_shape(self) -> Shape:
        """The shape that training examples are cut in."""
        grow = [n if n == 1 or self.size else int(np.ceil(n * self.margin / 2)) * 2 for n in self.patch]
        return (grow[0], grow[1], grow[2])


def resize_linear(array: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Linear interpolation of the leading axes to a shape, voxels being cells: index i reads at (i + 1/2) n / m - 1/2.

    Args:
      array: float [*S, ...].
      shape: of the same number of axes as S.

    Returns:
      float32 [*shape, ...]; edges go on outside.
    """
    array = np.asarray(array, np.float32)
    for axis, m in enumerate(shape):
        n = array.shape[axis]
        if n == m:
            continue
        low, share = _neighbours(n, m)
        share = share.reshape(-1, *[1] * (array.ndim - axis - 1)).astype(np.float32)
        below, above = np.take(array, low, axis), np.take(array, np.minimum(low + 1, n - 1), axis)
        array = below + (above - below) * share
    return array


def _neighbours(n: int, m: int) -> tuple[np.ndarray, np.ndarray]:
    """For m cells over n: the lower of the two cells that each lies between, and the share of the upper one."""
    at = np.clip((np.arange(m) + 0.5) * (n / m) - 0.5, 0, n - 1)
    low = np.floor(at).astype(int)
    return low, at - low


def resize_image(image: np.ndarray, shape: Shape) -> np.ndarray:
    """A volume [D, H, W, C] by `resize_linear`, after a Gaussian blur of (n / m - 1) / 2 voxels along axes that shrink from n
    to m, so that nothing aliases.
    """
    image = image.astype(np.float32)
    sigma = [max(0.0, (n / m - 1) / 2) for n, m in zip(image.shape, shape, strict=False)]
    if any(sigma):
        image = ndimage.gaussian_filter(image, [*sigma, 0], mode="nearest")
    return resize_linear(image, shape)


def resize_labels(labels: np.ndarray, shape: Shape) -> np.ndarray:
    """Label values uint8 [D, H, W] on another grid: at each voxel the value whose indicator is interpolated highest."""
    if labels.shape == tuple(shape):
        return labels
    values = np.unique(labels)
    best, found = np.full(shape, -1, np.float32), np.zeros(shape, np.uint8)
    for value in values:
        here = resize_linear(labels == value, shape)
        found[here > best] = value
        best = np.maximum(best, here)
    return found


def preprocess_volume(example: dict, *, geometry: Geometry, normalise: Sequence[str]) -> dict:
    """A volume to the resolution of training, in int16, beside its labels there and on its own grid.

    Args:
      example: as a Source of volumes with masks gives it: `image` [D, H, W, C], `mask` uint8 [D, H, W], `label` int8 [K - 1],
        `spacing` [3] mm (NaN unknown) and the other facts of its grid.
      geometry: the target.
      normalise: of each channel: "ct" keeps Hounsfield units; "zscore" is (v - mean) / sd * UNIT over the volume, or over what
        is not 0 where a tenth and more of it is; "tissue" over what is above Otsu's threshold, for air that is noise and
        takes more of one volume than of another; "range" brings the range of the dtype (of floats their own) to -UNIT..UNIT.

    Returns:
      id, patient, label, facts of the grid as they were, and
        image: int16 [d, h, w, C], labels: uint8 [d, h, w], of the part that is not all 0 (of CT, all of it).
        truth: uint8 [D, H, W], the mask on its own grid.
        box: int32 [3, 2], where that part begins and ends on that grid.
        points: int16 [m, 4], (class, i, j, k) of up to `POINTS` voxels of each class.
    """
    image, mask = example["image"], example["mask"]
    box = _content_box(image) if "ct" not in normalise else np.array([(0, n) for n in image.shape[:3]])
    inside = tuple(slice(a, b) for a, b in box)
    part = image[inside]
    shape = target_shape(part.shape[:3], example["spacing"], geometry)
    channels = [
        _to_int16(resize_image(_normalised(part[..., c : c + 1], how), shape)[..., 0]) for c, how in enumerate(normalise)
    ]
    labels = resize_labels(mask[inside], shape)
    kept = {name: value for name, value in example.items() if name not in ("image", "mask", "path")}
    return {
        **kept,
        "image": Varying(np.stack(channels, -1)),
        "labels": Varying(labels),
        "truth": Varying(np.ascontiguousarray(mask)),
        "box": box.astype(np.int32),
        "points": Varying(_points(labels)),
    }


def target_shape(shape: Sequence[int], spacing: np.ndarray, geometry: Geometry) -> Shape:
    """The shape that a volume of this shape and spacing is brought to."""
    if geometry.size:
        d, h, w = geometry.size
        return d, h, w
    if not geometry.spacing or not np.isfinite(spacing).all():
        return shape[0], shape[1], shape[2]
    d, h, w = (max(1, round(n * have / want)) for n, have, want in zip(shape, spacing, geometry.spacing, strict=True))
    return d, h, w


def _content_box(image: np.ndarray) -> np.ndarray:
    """[3, 2]: begin and end along each axis of what is not 0 in all channels; the whole where nothing is."""
    some = (image != 0).any(-1)
    if not some.any():
        return np.array([(0, n) for n in some.shape])
    ends = [np.flatnonzero(some.any(tuple(a for a in range(3) if a != axis)))[[0, -1]] for axis in range(3)]
    return np.array([(low, high + 1) for low, high in ends])


def _normalised(channel: np.ndarray, how: str) -> np.ndarray:
    values = channel.astype(np.float32)
    if how == "ct":
        return values
    if how == "range":
        whole = np.iinfo(channel.dtype) if channel.dtype.kind in "iu" else None
        low, high = (whole.min, whole.max) if whole else (float(values.min()), float(values.max()))
        return (values - low) * (2 * UNIT / max(high - low, 1e-12)) - UNIT
    if how == "tissue":
        inside = values >= otsu_threshold(values)
    else:
        inside = values != 0 if (values == 0).mean() >= 0.1 else np.ones(values.shape, bool)
    measured = values[inside] if inside.any() else values
    return (values - measured.mean(dtype=np.float64)) * (UNIT / max(float(measured.std(dtype=np.float64)), 1e-6))


def _to_int16(values: np.ndarray) -> np.ndarray:
    limits = np.iinfo(np.int16)
    return np.clip(np.rint(values), limits.min, limits.max).astype(np.int16)


def _points(labels: np.ndarray) -> np.ndarray:
    rng = np.random.default_rng(0)
    found = [np.empty((0, 4), np.int16)]
    for value in np.unique(labels):
        if value in (0, IGNORE):
            continue
        where = np.flatnonzero(labels == value)
        if len(where) > POINTS:
            where = np.sort(rng.choice(where, POINTS, replace=False))
        at = np.stack(np.unravel_index(where, labels.shape), -1)
        found.append(np.concatenate([np.full((len(at), 1), value), at], 1).astype(np.int16))
    return np.concatenate(found)


def cut(cases: Cases, rng: np.random.Generator, *, geometry: Geometry, fill: Sequence[int]) -> dict[str, np.ndarray]:
    """A training example of each case: `image` int16 [n, *S, C] and `labels` uint8 [n, *S], S = `geometry.cut_shape()`.

    A slice (D = 1) has no first axis. Outside of the volume the image is `fill` and the labels are to be ignored.

    Args:
      cases: with the columns of `preprocess_volume`.
      rng: decides where.
      geometry: of the cut.
      fill: value of each channel outside.
    """
    shape = geometry.cut_shape()
    images, labels, points = cases["image"], cases["labels"], cases["points"]
    x = np.empty((len(cases), *shape, len(fill)), np.int16)
    y = np.empty((len(cases), *shape), np.uint8)
    for i in range(len(cases)):
        size = labels.shapes[i]
        # Where the patch fits, it lies inside; where it does not, anywhere that covers the volume.
        low, high = np.minimum(0, size - shape), np.maximum(0, size - shape)
        start = rng.integers(low, high + 1)
        wanted = rng.random() < geometry.foreground
        if wanted and len(points[i]):
            there = points[i]
            kind = rng.choice(np.unique(there[:, 0]))
            at = there[rng.choice(np.flatnonzero(there[:, 0] == kind)), 1:].astype(int)
            # Anywhere in the part of the patch that stays when the margin goes.
            inner = np.asarray(geometry.patch)
            begin = at - (np.asarray(shape) - inner) // 2 - rng.integers(0, inner)
            start = np.clip(begin, low, high)
        x[i], y[i] = _take(images[i], start, shape, fill), _take(labels[i], start, shape, IGNORE)
    return {"image": x[:, 0], "labels": y[:, 0]} if shape[0] == 1 else {"image": x, "labels": y}


def _take(array: np.ndarray, start: np.ndarray, shape: Shape, fill: Any) -> np.ndarray:
    """array[start : start + shape], with `fill` outside."""
    first, last = np.maximum(start, 0), np.minimum(start + shape, array.shape[:3])
    inside = array[tuple(slice(a, b) for a, b in zip(first, last, strict=True))]
    if inside.shape[:3] == tuple(shape):
        return inside
    out = np.empty((*shape, *array.shape[3:]), array.dtype)
    out[...] = fill
    out[tuple(slice(a, b) for a, b in zip(first - start, last - start, strict=True))] = inside
    return out


def window_starts(size: int, patch: int, step: float) -> list[int]:
    """Where the windows along an axis begin: evenly spread, at most `step` of a patch apart, the last at the end.

    An axis shorter than the patch has one window that begins before it, at -(patch - size) // 2.
    """
    if size <= patch:
        return [-((patch - size) // 2)]
    count = int(np.ceil((size - patch) / (patch * step))) + 1
    return [round(at) for at in np.linspace(0, size - patch, count)]


def windows(cases: Cases, i: int, quick: bool, *, geometry: Geometry, fill: Sequence[int]) -> Iterator[dict[str, np.ndarray]]:
    """The windows of case i, the first axis changing slowest: `image` and `labels` as of `cut`, in the patch's shape.

    Args:
      cases, geometry, fill: as of `cut`.
      i: which case.
      quick: windows that do not overlap more than they must.
    """
    one = cases.take(np.array([i]))
    image, labels = one["image"][0], one["labels"][0]
    for start in itertools.product(*_all_starts(labels.shape, geometry, quick)):
        x = _take(image, np.array(start), geometry.patch, fill)
        y = _take(labels, np.array(start), geometry.patch, IGNORE)
        yield {"image": x[0], "labels": y[0]} if geometry.patch[0] == 1 else {"image": x, "labels": y}


def _all_starts(shape: Sequence[int], geometry: Geometry, quick: bool) -> list[list[int]]:
    # Slices are seen once each: neighbours do not overlap.
    steps = [1.0 if quick or patch == 1 else geometry.step for patch in geometry.patch]
    return [window_starts(n, patch, step) for n, patch, step in zip(shape, geometry.patch, steps, strict=True)]


@functools.lru_cache(maxsize=64)
def _weights(size: int, patch: int, starts: tuple[int, ...]) -> list[np.ndarray]:
    """Along an axis, the weights [patch] of each window: a Gaussian of an eighth of the patch, made to sum to 1 at each voxel.

    The Gaussian over space is the product of these, and so is its sum over all windows, since they lie on a grid.
    """
    offset = np.arange(patch) - (patch - 1) / 2
    bell = np.maximum(np.exp(-0.5 * (offset / (patch / 8)) ** 2), 1e-4)
    total = np.zeros(size + 2 * patch)
    for start in starts:
        total[start + patch : start + 2 * patch] += bell
    return [(bell / total[start + patch : start + 2 * patch]).astype(np.float32) for start in starts]


def join_planes(
    outputs: Iterator[np.ndarray], shape: Sequence[int], geometry: Geometry, *, quick: bool = False
) -> Iterator[np.ndarray]:
    """Planes [h, w, K] of the windows' weighted mean, from the first to the last.

    Only a slab as thick as a patch is held at a time: 100 classes on 512 x 512 need 6 GB for a patch 64 deep, or 3 where that
    is over `HALF_FLOATS` values and the slab is kept in half precision.

    Args:
      outputs: [*patch, K] of each window, in the order of `windows`.
      shape: (d, h, w) of the prepared volume.
      geometry: that the windows were made by.
      quick: as of `windows`.
    """
    starts = _all_starts(shape, geometry, quick)
    weights = [_weights(n, p, tuple(s)) for n, p, s in zip(shape, geometry.patch, starts, strict=True)]
    d, h, w = shape
    slab: np.ndarray | None = None
    done = 0  # planes given; slab[0] is plane `done`
    for z, (start, weight) in enumerate(zip(starts[0], weights[0], strict=True)):
        for (y, wy), (x, wx) in itertools.product(zip(starts[1], weights[1]), zip(starts[2], weights[2])):
            out = next(outputs)
            out = out[None] if geometry.patch[0] == 1 and out.ndim == 3 else out
            if slab is None:
                k = out.shape[-1]
                dtype = np.float16 if geometry.patch[0] * h * w * k > HALF_FLOATS else np.float32
                slab = np.zeros((min(geometry.patch[0], d), h, w, k), dtype)
            bell = (weight[:, None, None] * wy[:, None] * wx)[..., None]
            (a0, a1), (b0, b1), (c0, c1) = (
                (max(at, 0), min(at + p, n)) for at, p, n in zip((start, y, x), geometry.patch, shape, strict=True)
            )
            inside = np.s_[a0 - start : a1 - start, b0 - y : b1 - y, c0 - x : c1 - x]
            slab[a0 - done : a1 - done, b0:b1, c0:c1] += out[inside] * bell[inside]
        assert slab is not None
        until = d if z + 1 == len(starts[0]) else starts[0][z + 1]
        for plane in slab[: until - done]:
            yield plane.astype(np.float32)
        if until < d:
            kept = len(slab) - (until - done)
            for plane in range(kept):  # one by one, for a copy of the slab would be gigabytes
                slab[plane] = slab[plane + until - done]
            slab[kept:] = 0
            done = until


def planes_to_labels(planes: Iterator[np.ndarray], shape: Sequence[int], out: Sequence[int]) -> np.ndarray:
    """The class of the highest value at each voxel, uint8 [*out], where planes [h, w, K] are interpolated linearly to `out`.

    Args:
      planes: of a volume of this `shape`, in order.
      shape: (d, h, w).
      out: (D, H, W), cells that cover the same box.
    """
    labels = np.empty(tuple(out), np.uint8)
    if tuple(shape) == tuple(out):
        for z, plane in enumerate(planes):
            labels[z] = plane.argmax(-1)
        return labels
    low, share = _neighbours(shape[0], out[0])
    at = -1
    below = above = np.empty(0)
    for z in range(out[0]):
        while at < min(low[z] + 1, shape[0] - 1):
            below, above, at = above, resize_linear(next(planes), out[1:]), at + 1
        if at == low[z]:  # the last plane, or the only one
            labels[z] = above.argmax(-1)
        else:
            labels[z] = (below + (above - below) * np.float32(share[z])).argmax(-1)
    return labels


def on_own_grid(labels: np.ndarray, box: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Labels of the part `box` [3, 2] in a volume of zeros of this shape."""
    if labels.shape == tuple(shape):
        return labels
    whole = np.zeros(tuple(shape), np.uint8)
    whole[tuple(slice(a, b) for a, b in box)] = labels
    return whole
