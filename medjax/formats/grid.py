"""Where the voxels of an image lie: its grid in the patient, and how its file orders them."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from medjax.errors import InputError

# How far two grids of one case may lie apart: a hundredth of a voxel, measured at the corners of the image.
NEAR = 1e-2


class Grid(NamedTuple):
    """The place of an array [D, H, W] in medjax's order: i from inferior to superior, j from anterior to posterior, k from the
    patient's right to the left, or the nearest to it that permuting and flipping the file's axes gives.

    A picture without geometry (PNG, TIFF) is one slice [1, H, W] as it stands, `affine` None.

    Attributes:
      shape: (D, H, W).
      affine: float64 [4, 4], (a, b, c, 1) of the array as its file stores it, index by index, to mm (right-anterior-superior);
        None where the file has no geometry. It is kept to the bit, so that what is written back lies where the input did.
      axes: the stored axis that each axis of the array is.
      flips: whether an axis runs against the stored one.
      spacing: mm between neighbours along the axes of the array; None where it is not known.
    """

    shape: tuple[int, int, int]
    affine: np.ndarray | None = None
    axes: tuple[int, int, int] = (0, 1, 2)
    flips: tuple[bool, bool, bool] = (False, False, False)
    spacing: tuple[float, float, float] | None = None

    def from_stored(self, array: np.ndarray) -> np.ndarray:
        """An array in its file's order, spatial axes first, in medjax's order."""
        rest = range(3, array.ndim)
        return np.flip(array.transpose(*self.axes, *rest), tuple(axis for axis in range(3) if self.flips[axis]))

    def to_stored(self, array: np.ndarray) -> np.ndarray:
        """The inverse of `from_stored`."""
        rest = range(3, array.ndim)
        flipped = np.flip(array, tuple(axis for axis in range(3) if self.flips[axis]))
        return flipped.transpose(*np.argsort(self.axes), *rest)

    def to_world(self) -> np.ndarray:
        """float64 [4, 4], (i, j, k, 1) of the array in medjax's order to mm.

        Raises:
          ValueError: the grid has no geometry.
        """
        if self.affine is None:
            raise ValueError("a grid without an affine lies nowhere")
        step = np.zeros((4, 4))
        step[3, 3] = 1
        for axis, (stored, flip) in enumerate(zip(self.axes, self.flips, strict=True)):
            step[stored, axis] = -1 if flip else 1
            step[stored, 3] = self.shape[axis] - 1 if flip else 0
        return self.affine @ step


def check_same_place(image: Path | str, grid: Grid, mask: Path | str, other: Grid) -> None:
    """Raise an InputError unless a mask lies where its image does: the same shape, and corners within `NEAR` of a voxel."""
    if grid.shape != other.shape:
        raise InputError(
            f"{mask}: has the shape {list(other.shape)}, its image {image} {list(grid.shape)}\n"
            "resample the mask to the image's grid, or leave the case out"
        )
    if (grid.affine is None) != (other.affine is None):
        without = image if grid.affine is None else mask
        raise InputError(f"{without}: has no geometry, and its {'mask' if without == image else 'image'} has\ngive both one")
    if grid.affine is None or other.affine is None:
        return
    ends = np.array(np.meshgrid(*[(0, n - 1) for n in grid.shape], indexing="ij")).reshape(3, -1)
    corners = np.concatenate([ends, np.ones((1, ends.shape[1]))])
    apart = np.linalg.norm((grid.to_world() @ corners - other.to_world() @ corners)[:3], axis=0).max()
    voxel = np.linalg.norm(grid.to_world()[:3, :3], axis=0).min()
    if not apart <= NEAR * voxel:
        raise InputError(
            f"{mask}: lies up to {apart:.3g} mm away from its image {image}: their affines differ\n"
            "mend the one that is wrong, or resample the mask to the image's grid"
        )
