"""Generated beside real images: Frechet and kernel distances, inception score, manifolds, nearest neighbours.

Pure NumPy in float64. Features [n, F] are of whatever network the caller names: numbers of two networks do not compare.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import ArrayLike

NEIGHBOURS = 3  # of Kynkaanniemi et al.
BLOCK = 1024  # rows of a distance matrix at a time
# A bootstrap resample repeats images, and repeated images lie at no distance from themselves.
NO_INTERVAL: Mapping[str, str] = dict.fromkeys(
    ("fid", "kid"),
    "a bootstrap resample repeats images, which moves this distance by more than drawing other images would; "
    "train several seeds, and see their values",
)


def frechet_distance(a: ArrayLike, b: ArrayLike) -> float:
    """|m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)) of two sets of features: FID (Heusel et al., NeurIPS 2017, equation 6).

    The trace of the root is that of the symmetric (C_a^(1/2) C_b C_a^(1/2))^(1/2), which has the same eigenvalues. It is
    biased: fewer images give larger values.

    Args:
      a, b: [n, F], [m, F], n and m at least 2.

    Returns:
      0 and more; nan with less than two rows.
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if min(len(a), len(b)) < 2:
        return float("nan")
    of_a, of_b = (np.atleast_2d(np.cov(x, rowvar=False)) for x in (a, b))
    values, vectors = np.linalg.eigh(of_a)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    mixed = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ of_b @ root), 0)).sum()
    return float(max(np.square(a.mean(0) - b.mean(0)).sum() + np.trace(of_a) + np.trace(of_b) - 2 * mixed, 0.0))


def kernel_distance(a: ArrayLike, b: ArrayLike, *, subsets: int = 100, size: int = 1000, seed: int = 0) -> float:
    """Unbiased squared MMD under the kernel (x . y / F + 1)^3: KID (Binkowski et al., ICLR 2018, section 4).

    Args:
      a, b: [n, F], [m, F].
      subsets: how many pairs of random subsets the mean is over, where a set has more rows than `size`; else all rows, once.
      size: rows of a subset.
      seed: of the subsets.

    Returns:
      About 0 for sets of one distribution, also below 0; nan with less than two rows.
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if min(len(a), len(b)) < 2:
        return float("nan")
    if max(len(a), len(b)) <= size:
        return _mmd(a, b)
    rng = np.random.default_rng(seed)
    drawn = [[x[rng.choice(len(x), min(size, len(x)), replace=False)] for x in (a, b)] for _ in range(subsets)]
    return float(np.mean([_mmd(*pair) for pair in drawn]))


def _mmd(a: np.ndarray, b: np.ndarray) -> float:
    n, m = len(a), len(b)
    within_a, within_b, between = (_cubic(x, y) for x, y in ((a, a), (b, b), (a, b)))
    own_a = (within_a.sum() - np.trace(within_a)) / (n * (n - 1))
    own_b = (within_b.sum() - np.trace(within_b)) / (m * (m - 1))
    return float(own_a + own_b - 2 * between.mean())


def _cubic(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return (x @ y.T / x.shape[1] + 1) ** 3


def inception_score(score: ArrayLike) -> float:
    """exp(mean_i KL(p_i || mean p)) of class probabilities: Salimans et al., NeurIPS 2016, section 4.

    Args:
      score: [n, K], rows that sum to 1.

    Returns:
      1 (all alike, or never sure) to K (always sure, all classes alike often); nan without rows.
    """
    p = np.asarray(score, np.float64)
    if not len(p):
        return float("nan")
    mean = p.mean(0)
    terms = np.where(p > 0, p * (np.log(np.maximum(p, 1e-300)) - np.log(np.maximum(mean, 1e-300))), 0.0)
    return float(np.exp(terms.sum(1).mean()))


def covered(points: ArrayLike, reference: ArrayLike, *, k: int = NEIGHBOURS) -> np.ndarray:
    """Which points lie on the reference's manifold: within some reference point's distance to its k-th nearest neighbour.

    Kynkaanniemi et al., NeurIPS 2019, equations 1 and 2: the mean over generated points with real reference is precision, over
    real points with generated reference recall.

    Args:
      points: [n, F].
      reference: [m, F], m above k.
      k: neighbours, the point itself not counted.

    Returns:
      bool [n]; all false where the reference is too small.
    """
    points, reference = np.asarray(points, np.float64), np.asarray(reference, np.float64)
    if len(reference) <= k:
        return np.zeros(len(points), bool)
    radius = np.concatenate([np.partition(part, k, axis=1)[:, k] for part in _distances(reference, reference)])
    return np.concatenate([(part <= radius).any(1) for part in _distances(points, reference)] or [np.zeros(0, bool)])


def nearest(
    points: ArrayLike, reference: ArrayLike, *, group: ArrayLike = (), of: ArrayLike = ()
) -> tuple[np.ndarray, np.ndarray]:
    """(distance [n], place int [n]) of each point's nearest reference point.

    Args:
      points: [n, F].
      reference: [m, F].
      group, of: [n], [m], where given: a reference point of the point's own group, such as its near-copies, does not count.

    Returns:
      Distances are infinite where no reference point counts.
    """
    points, reference, group, of = map(np.asarray, (points, reference, group, of))
    found, places, start = [], [], 0
    for part in _distances(points.astype(np.float64), reference.astype(np.float64)):
        if len(of):
            part = np.where(group[start : start + len(part), None] == of[None, :], np.inf, part)
        places.append(part.argmin(1))
        found.append(part.min(1))
        start += len(part)
    if not found:
        return np.zeros(0), np.zeros(0, int)
    return np.concatenate(found), np.concatenate(places)


def _distances(x: np.ndarray, y: np.ndarray) -> Iterator[np.ndarray]:
    """Euclidean distances of blocks of rows of x to all of y."""
    lengths = np.square(y).sum(1)
    for start in range(0, len(x), BLOCK):
        part = x[start : start + BLOCK]
        squares = np.square(part).sum(1)[:, None] + lengths - 2 * part @ y.T
        yield np.sqrt(np.maximum(squares, 0))
