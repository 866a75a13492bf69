"""Images on their way to a restoring network and back: training patches, tiles that cover slices, and slices without seams."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from medjax.cases import Cases, Varying
from medjax.core import Examples
from medjax.tasks.volumes import window_starts

IMAGE = "image"  # outputs whose name begins so are images: "image", "image/adversarial"


Row = Callable[[Cases, int, dict[str, np.ndarray], bool], dict[str, Any]]


class Tiling(NamedTuple):
    """How slices are cut.

    Attributes:
      patch: side of training patches, on the grid of the worse image.
      tile: side of the tiles of inference, likewise.
      factor: how much larger than the worse image's the sides of the better one are.
      step: distance of neighbouring tiles, as a fraction of the tile.
    """

    patch: int
    tile: int
    factor: int = 1
    step: float = 0.75


def cut(cases: Cases, rng: np.random.Generator, *, tiling: Tiling) -> dict[str, np.ndarray]:
    """A patch of a random slice of each case: `worse` float32 [n, p, p, C] and `truth` [n, p f, p f, C].

    A slice smaller than the patch goes on as its edges.

    Args:
      cases: with `worse` [D, h, w, C] and `truth` [D, h f, w f, C], see `medjax.tasks.restored_cases.prepare`.
      rng: decides where.
      tiling: of the cut.
    """
    p, f = tiling.patch, tiling.factor
    given, truth = cases["worse"], cases["truth"]
    xs, ys = [], []
    for i in range(len(cases)):
        image = given[i]
        d, h, w, _ = image.shape
        z, y, x = rng.integers(d), rng.integers(max(h - p, 0) + 1), rng.integers(max(w - p, 0) + 1)
        xs.append(_square(image[z, y : y + p, x : x + p], p))
        ys.append(_square(truth[i][z, y * f : (y + p) * f, x * f : (x + p) * f], p * f))
    return {"worse": np.stack(xs), "truth": np.stack(ys)}


def _square(part: np.ndarray, side: int) -> np.ndarray:
    """A part [h, w, C] as [side, side, C], its last rows and columns repeated."""
    h, w, _ = part.shape
    if (h, w) == (side, side):
        return part.astype(np.float32)
    return np.pad(part, ((0, side - h), (0, side - w), (0, 0)), "edge").astype(np.float32)


def windows(cases: Cases, i: int, quick: bool, *, tiling: Tiling) -> Iterator[dict[str, np.ndarray]]:
    """The tiles of case i, slice by slice, as `cut` gives patches; `truth` is 0 where nobody knows it."""
    given, truth, f = cases["worse"][i], cases["truth"][i], tiling.factor
    for z in range(len(given)):
        for y in _starts(given.shape[1], tiling, quick):
            for x in _starts(given.shape[2], tiling, quick):
                here = np.s_[z, y : y + tiling.tile, x : x + tiling.tile]
                tile = _square(given[here], tiling.tile)
                if not truth.size:
                    yield {
                        "worse": tile,
                        "truth": np.zeros((*(side * f for side in tile.shape[:2]), truth.shape[-1]), np.float32),
                    }
                    continue
                there = np.s_[z, y * f : (y + tiling.tile) * f, x * f : (x + tiling.tile) * f]
                yield {"worse": tile, "truth": _square(truth[there], tiling.tile * f)}


def _starts(size: int, tiling: Tiling, quick: bool) -> list[int]:
    """Where tiles begin; a slice that is smaller lies at the beginning of its only tile."""
    return [max(start, 0) for start in window_starts(size, tiling.tile, 1.0 if quick else tiling.step)]


@functools.lru_cache(maxsize=64)
def _weights(size: int, tile: int, starts: tuple[int, ...]) -> list[np.ndarray]:
    """Along an axis, the weights [tile] of each tile: a triangle, made to sum to 1 at each pixel."""
    bell = np.minimum(np.arange(tile) + 1, tile - np.arange(tile)).astype(np.float64)
    total = np.zeros(max(size, tile))
    for start in starts:
        total[start : start + tile] += bell
    return [(bell / total[start : start + tile]).astype(np.float32) for start in starts]


def join_tiles(
    outputs: Iterator[dict[str, np.ndarray]], shape: Sequence[int], tiling: Tiling, *, quick: bool = False
) -> tuple[dict[str, np.ndarray], dict[str, list[float]]]:
    """({name: volume [D, h f, w f, C]} of what is an image, {name: values} of every other output) from tiles in order.

    Args:
      outputs: of each tile.
      shape: (D, h, w) of the worse image.
      tiling, quick: as the tiles were made by.
    """
    d, h, w = shape
    f = tiling.factor
    rows, columns = (_starts(n, tiling, quick) for n in (h, w))
    tall, wide = (_weights(n * f, tiling.tile * f, tuple(at * f for at in starts)) for n, starts in ((h, rows), (w, columns)))
    volumes: dict[str, np.ndarray] = {}
    rest: dict[str, list[float]] = {}
    for z in range(d):
        for y, wy in zip(rows, tall, strict=True):
            for x, wx in zip(columns, wide, strict=True):
                for name, value in next(outputs).items():
                    if not name.startswith(IMAGE):
                        rest.setdefault(name, []).append(float(value))
                        continue
                    if name not in volumes:
                        volumes[name] = np.zeros((d, h * f, w * f, value.shape[-1]), np.float32)
                    there = volumes[name][z, y * f : (y + tiling.tile) * f, x * f : (x + tiling.tile) * f]
                    a, b = there.shape[:2]
                    there += value[:a, :b] * (wy[:a, None] * wx[None, :b])[..., None]
    return volumes, rest


def examples(tiling: Tiling, row: Row) -> Examples:
    """Patches, tiles, and a case's row: `row(cases, i, images in the case's own units, quick)`, the means of other outputs, and
    the images themselves unless it was a quick look.

    A case's units are v * unit + offset by its column `scale`, float32 [2] (offset, unit).
    """

    def join(cases: Cases, i: int, outputs: Iterator[dict[str, np.ndarray]], quick: bool) -> dict[str, Any]:
        shape = cases["worse"].shapes[i][:3]
        return _case_row(cases, i, *join_tiles(outputs, shape, tiling, quick=quick), row, quick)

    return Examples(functools.partial(cut, tiling=tiling), functools.partial(windows, tiling=tiling), join)


def _case_row(
    cases: Cases, i: int, images: dict[str, np.ndarray], rest: Mapping[str, Sequence[float]], row: Row, quick: bool
) -> dict[str, Any]:
    offset, unit = cases["scale"][i]
    images = {name: image * unit + offset for name, image in images.items()}
    found = {name: np.float64(np.mean(values)) for name, values in rest.items()} | row(cases, i, images, quick)
    return found if quick else {**found, **{name: Varying(image) for name, image in images.items()}}


def slices(names: Sequence[str], row: Row) -> Examples:
    """Whole slices of what is no image, such as k-space: columns [D, ...] of one shape in all cases but for D.

    Args:
      names: the columns that a network needs.
      row: as of `examples`; images come back as [D, h, w, C].
    """

    def cut_slices(cases: Cases, rng: np.random.Generator) -> dict[str, np.ndarray]:
        held = {name: cases[name] for name in names}
        at = [int(rng.integers(len(held[names[0]][i]))) for i in range(len(cases))]
        return {name: np.stack([column[i][z] for i, z in enumerate(at)]) for name, column in held.items()}

    def each_slice(cases: Cases, i: int, quick: bool) -> Iterator[dict[str, np.ndarray]]:
        held = {name: cases[name][i] for name in names}
        for z in range(len(held[names[0]])):
            yield {name: column[z] for name, column in held.items()}

    def join(cases: Cases, i: int, outputs: Iterator[dict[str, np.ndarray]], quick: bool) -> dict[str, Any]:
        done = list(outputs)
        images = {name: np.stack([one[name] for one in done]) for name in done[0] if name.startswith(IMAGE)}
        rest = {name: [float(one[name]) for one in done] for name in done[0] if not name.startswith(IMAGE)}
        return _case_row(cases, i, images, rest, row, quick)

    return Examples(cut_slices, each_slice, join)
