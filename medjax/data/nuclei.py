"""Nuclei under the microscope: a field of 125, outlined by hand, in tiles: the left side to learn from, the right to test."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy import ndimage

from medjax.data.boxes import BoxItem, by_split
from medjax.data.layouts import Layout
from medjax.data.wheels import Wheel, fetch
from medjax.formats.facts import Picture
from medjax.formats.picture import read_picture

STARDIST = Wheel(
    package="stardist",
    version="0.9.2",
    sha256="2316c0feb7bd5621e7a277cb3868df475c338943c591925c420ee3622c42f023",
    licence="BSD-3-Clause",
    files=("stardist/data/images/img2d.tif", "stardist/data/images/mask2d.tif"),
    size=3_071_290,
    python="3.11",
    platform="manylinux_2_28_x86_64",
)
TILE = 128
WHOLE = 0.5  # share of a nucleus that a tile must hold for it to count there
# (first row, last, first column, last, step from tile to tile) in pixels; tiles of one field overlap, those of two never do.
FIELDS = {
    "train": ("upper left", 0, 384, 0, 256, 64),
    "val": ("lower left", 384, 512, 0, 256, 64),
    "test": ("right", 0, 512, 256, 512, 128),
}


def tiles() -> Layout:
    """stardist's example of 512 x 512 pixels, fetched at first use, as tiles of 128 with a box around each nucleus.

    A nucleus that a tile cuts has the box of its part there; where that is less than half of it, it counts neither way. Each
    field is a `patient`: there is but one specimen.

    Raises:
      InputError: the wheel cannot be fetched.
    """
    folder = fetch(STARDIST) / "stardist" / "data" / "images"
    image, mask = folder / "img2d.tif", read_picture(folder / "mask2d.tif").pixels
    items = []
    for split, (field, y0, y1, x0, x1, step) in FIELDS.items():
        for y in range(y0, y1 - TILE + 1, step):
            for x in range(x0, x1 - TILE + 1, step):
                boxes, cut = boxes_of(mask, y, x)
                none = np.zeros(len(boxes), np.int32)
                name = f"{y:03d}_{x:03d}"
                items.append((split, BoxItem(image, name, boxes, none, cut, field, (), (TILE, TILE), "", (y, x, TILE))))
    about = f"stardist's example: {len(items)} tiles of one field of {len(np.unique(mask)) - 1} nuclei"
    return Layout(by_split(items, ("nucleus",), folder, read=read_tile), ("nucleus",), "boxes", about)


def boxes_of(mask: np.ndarray, y: int, x: int, tile: int = TILE) -> tuple[np.ndarray, np.ndarray]:
    """(boxes [m, 4] of what a tile shows of each nucleus, bool [m] whether that is less than `WHOLE` of it).

    Args:
      mask: [H, W], a number for each nucleus, 0 outside.
      y, x: first row and column of the tile.
      tile: its side.
    """
    part = mask[y : y + tile, x : x + tile]
    size, here = np.bincount(mask.ravel()), np.bincount(part.ravel(), minlength=int(mask.max()) + 1)
    found, cut = [], []
    for number, places in enumerate(ndimage.find_objects(part), 1):
        if places is not None:
            rows, columns = places
            found.append([columns.start, rows.start, columns.stop, rows.stop])
            cut.append(bool(here[number] < WHOLE * size[number]))
    return np.array(found, np.float64).reshape(-1, 4), np.array(cut, bool)


def read_tile(item: BoxItem) -> Picture:
    """The tile of an item's image."""
    y, x, tile = item.part
    whole = read_picture(Path(item.path))
    return whole._replace(pixels=whole.pixels[y : y + tile, x : x + tile])
