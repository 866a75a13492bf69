"""Regions of several classes, drawn into one array of labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from medjax.errors import InputError

MOST = 254  # classes besides the background: 255 is what is to be ignored

Overlap = Literal["stop", "later"]


def paint(
    path: Path,
    shape: Sequence[int],
    names: Sequence[str],
    regions: Iterable[tuple[int, tuple, np.ndarray]],
    overlap: Overlap,
) -> np.ndarray:
    """Draw regions into an array of labels.

    Args:
      path: the file that they are of, for errors.
      shape: of the array.
      names: of the classes 1, 2, ...
      regions: (class, where in the array, bool of that part), sorted by class.
      overlap: "stop" where classes overlap, or let the "later" of them in `names` have the voxels.

    Returns:
      uint8 of `shape`, 0 where there is no region.

    Raises:
      InputError: classes that overlap; how many voxels do is told. More than MOST classes.
    """
    if len(names) > MOST:
        raise InputError(f"{path}: has {len(names)} classes, the limit is {MOST}\nchoose those that are meant")
    labels = np.zeros(shape, np.uint8)
    shared: Counter[tuple[int, int]] = Counter()
    for value, where, region in regions:
        part = labels[where]
        if overlap == "stop":
            below = part[region]
            counts = np.bincount(below[(below != 0) & (below != value)])
            shared.update({(int(other), value): int(counts[other]) for other in np.flatnonzero(counts)})
        part[region] = value
    if shared:
        (one, other), most = shared.most_common(1)[0]
        raise InputError(
            f"{path}: {shared.total():,} voxels are of several classes, {most:,} of "
            f"{names[one - 1]!r} and {names[other - 1]!r}\n"
            "choose classes that lie apart, or let the later ones have such voxels"
        )
    return labels


def choose(path: Path, known: Sequence[str], wanted: Sequence[str]) -> tuple[str, ...]:
    """The wanted ones of a file's classes, in that order; all of them where none is named. A class may be missing.

    Raises:
      InputError: the file has no class.
    """
    names = tuple(dict.fromkeys(known))
    if not names:
        raise InputError(f"{path}: holds no class\nleave it out")
    return tuple(name for name in dict.fromkeys(wanted) if name in names) if wanted else names
