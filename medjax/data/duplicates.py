"""Near-copies of images: the same picture flipped, turned, recompressed or with another contrast."""

from __future__ import annotations

import numpy as np
from scipy import ndimage
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

SIDE = 32  # descriptors are SIDE x SIDE
SIMILAR = 0.9  # correlation of two descriptors above which images are near-copies
SMALLEST = 64  # pixels: a smaller image has too little detail to tell a copy from a likeness
LARGEST_SET = 20_000  # images: the search compares all pairs


def describe(image: np.ndarray) -> np.ndarray:
    """A picture's fine structure, [SIDE * SIDE] float32 of mean 0 and length 1.

    The square root tames contrast, and subtracting a blurred copy removes what all heads or chests share: two patients'
    X-rays correlate above .95 as they are and below .8 so.

    Args:
      image: [H, W] or [H, W, C], at least `SMALLEST` pixels a side.
    """
    grey = image.astype(np.float32).reshape(*image.shape[:2], -1).mean(-1)
    rows, columns = (np.linspace(0, n, SIDE + 1).astype(int) for n in grey.shape)
    sums = np.add.reduceat(np.add.reduceat(grey, rows[:-1], axis=0), columns[:-1], axis=1)
    small = np.sqrt(np.maximum(sums / np.outer(np.diff(rows), np.diff(columns)), 0))
    fine = small - ndimage.gaussian_filter(small, SIDE / 16)
    fine -= fine.mean()
    return (fine / max(float(np.linalg.norm(fine)), 1e-12)).ravel().astype(np.float32)


def near_copies(descriptors: np.ndarray, *, turned: bool = True, block: int = 1024) -> np.ndarray:
    """Component [n] int of each image under "is a near-copy of", chains included.

    Args:
      descriptors: [n, SIDE * SIDE] from `describe`.
      turned: compare in all eight orientations (mirrored and in quarter turns) as well.
    """
    n = len(descriptors)
    square = descriptors.reshape(n, SIDE, SIDE)
    pairs = []
    for flip in (False, True) if turned else (False,):
        for quarter in range(4 if turned else 1):
            other = np.rot90(square[:, :, ::-1] if flip else square, quarter, (1, 2)).reshape(descriptors.shape)
            for start in range(0, n, block):
                near = descriptors[start : start + block] @ other.T > SIMILAR
                i, j = np.nonzero(near)
                pairs.append(np.stack([i + start, j]))
    i, j = np.concatenate(pairs, axis=1) if pairs else np.zeros((2, 0), int)
    return components(n, i, j)


def components(n: int, i: np.ndarray, j: np.ndarray) -> np.ndarray:
    """Connected component [n] of an undirected graph with edges (i, j), numbered by first appearance."""
    _, labels = connected_components(coo_matrix((np.ones(len(i), bool), (i, j)), shape=(n, n)), directed=False)
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse]


def same_value(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Edges (i, j) that join each row to the first row of equal value; empty strings join nothing."""
    _, first, inverse = np.unique(values, return_index=True, return_inverse=True)
    i = np.arange(len(values))
    j = first[inverse]
    if values.dtype.kind == "U":
        j = np.where(values == "", i, j)
    return i, j
