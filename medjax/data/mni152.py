"""MNI152: T1, grey and white matter of an average of 152 adults, from nilearn's wheel, as slabs that are hard to see."""

from __future__ import annotations

from typing import Any

import numpy as np

from medjax.data.layouts import Layout
from medjax.data.wheels import Wheel, fetch
from medjax.formats.grid import Grid
from medjax.formats.volume import grid_columns, read_volume
from medjax.physics.mr import bias_field, rician, thick_slices

NILEARN = Wheel(
    package="nilearn",
    version="0.14.1",
    sha256="725206484e9fb3f6691f9c2d20204a068759d5072f12055324702ee0cb2bbe8a",
    licence="wheel BSD-3; MNI ICBM152 2009a, free to use and copy with its notice (Fonov et al., NeuroImage 2011)",
    files=("nilearn/datasets/data/mni_icbm152_*_tal_nlin_sym_09a_converted.nii.gz",),
    size=11_509_444,
)
CLASSES = ("rest", "grey", "white")
THICKNESS = 3  # mm
# Axial slabs of thick slices, from the brain's lower end up: (split, first, behind the last). The average is the same left and
# right, so only height tells cases apart; one slice between slabs is left out, since neighbours are alike.
SLABS = (
    ("train", 0, 8),
    ("val", 9, 17),
    ("train", 18, 26),
    ("test", 27, 35),
    ("train", 36, 44),
    ("test", 45, 52),
)
BIAS, NOISE = 0.5, 20.0  # log of the field, either way; standard deviation, of 255


class Slabs:
    """A Source of the slabs of one split."""

    channels = ("T1",)

    def __init__(self, split: str):
        self.slabs = [(a, b) for name, a, b in SLABS if name == split]
        self.split = split

    def __len__(self) -> int:
        return len(self.slabs)

    def case_id(self, i: int) -> str:
        """Split and first slice."""
        return f"{self.split}/slab{self.slabs[i][0]:02d}"

    def identity(self) -> list[str]:
        """The wheel and all that the slabs are made by."""
        return [f"{NILEARN.sha256}|{self.case_id(i)}|{self.slabs[i]}|{THICKNESS}|{BIAS}|{NOISE}" for i in range(len(self))]

    def __getitem__(self, i: int) -> dict[str, Any]:
        first, last = self.slabs[i]
        folder = fetch(NILEARN) / "nilearn" / "datasets" / "data"
        parts, grid = {}, None
        for kind in ("t1", "gm", "wm"):
            volume = read_volume(folder / f"mni_icbm152_{kind}_tal_nlin_sym_09a_converted.nii.gz")
            parts[kind], grid = thick_slices(volume.pixels[..., 0], THICKNESS)[first:last], volume.grid
        assert grid is not None
        assert grid.affine is not None
        rng = np.random.default_rng([first, last])
        image = parts["t1"] * bias_field(rng, parts["t1"].shape, strength=BIAS)
        image = np.clip(np.rint(rician(rng, image, sigma=NOISE)), 0, np.iinfo(np.uint16).max).astype(np.uint16)
        rest = 255 - parts["gm"] - parts["wm"]
        mask = np.stack([rest, parts["gm"], parts["wm"]]).argmax(0).astype(np.uint8)
        return {
            "id": self.case_id(i),
            "patient": "",
            "path": str(folder),
            "image": image[..., None],
            "mask": mask,
            "label": np.array([(mask == k).any() for k in (1, 2)], np.int8),
            **grid_columns(_slab_grid(grid, first, mask.shape), "nii.gz"),
        }


def _slab_grid(grid: Grid, first: int, shape: tuple[int, ...]) -> Grid:
    """The grid of thick slices from `first` on; the volume's own slices run along its last stored axis, from below."""
    assert grid.affine is not None
    assert grid.axes[0] == 2
    assert not grid.flips[0]
    affine = grid.affine.copy()
    affine[:, 3] += affine[:, 2] * (first * THICKNESS + (THICKNESS - 1) / 2)
    affine[:, 2] *= THICKNESS
    d, h, w = shape
    spacing = tuple(float(n) for n in np.linalg.norm(affine[:3, [grid.axes[0], grid.axes[1], grid.axes[2]]], axis=0))
    return Grid((d, h, w), affine, grid.axes, grid.flips, (spacing[0], spacing[1], spacing[2]))


def slabs() -> Layout:
    """The slabs as a Layout; the wheel is fetched when a case is read."""
    about = "MNI152 in axial slabs of 3 mm slices, with a bias field and Rician noise"
    return Layout({split: Slabs(split) for split in ("train", "val", "test")}, CLASSES, "masks", about)
