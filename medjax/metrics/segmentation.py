"""Measures of one case's label map, their summary over cases, and what is done where a mask is empty.

Border: the voxels of a mask with a neighbour across a face (6 in a volume, 4 where an axis has length 1) that is outside it.
What lies beyond the image is outside, so a mask that is cut off has a border there. Along an axis of length 1 there is no
border: a picture's surfaces are lines, not its whole area.

Ignored voxels (truth 255) are taken out of truth and prediction alike, as if the image ended there: they count for no volume
and no overlap, a mask that runs into them has a border where they begin, and distances may cross them.

Empty masks: in both, every measure but the volumes is NaN, which means leave out, and `count_excluded` says how often. In one
of the two, dice, iou and nsd are 0 and hd95 is the image's diagonal, longer than any distance in it. Were such cases left out
of hd95 as undefined, a network would look better the more structures it misses (Reinke et al., Understanding metric-related
pitfalls in image analysis validation, Nature Methods 21, 2024, on missing values).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy import ndimage
from scipy.spatial import KDTree

# What `summarise` gives; the volumes themselves describe the patients, not the network.
MEASURES = ("dice", "iou", "hd95", "nsd", "volume_error")

_BORDER = "borders (voxels with a face neighbour outside the mask or the image; in a picture, within its plane)"
_ZERO = "0 where one of truth and prediction is empty. "
_MEAN = (
    "The mean over the foreground classes of each one's mean over the cases, NAME/CLASS; a class that is in neither truth nor "
    "prediction of a case is left out there, and counted."
)
DEFINITIONS: dict[str, str] = {
    "dice": f"Dice coefficient of a case's voxels, 2 TP / (2 TP + FP + FN), 0 to 1; {_ZERO}{_MEAN}",
    "iou": f"Intersection over union (Jaccard) of a case's voxels, TP / (TP + FP + FN), 0 to 1; {_ZERO}{_MEAN}",
    "hd95": f"Hausdorff distance, 95 %, in mm where the spacing is known, else in pixels, lower is better: the greater of the "
    f"two directed 95th percentiles of the Euclidean distances between {_BORDER}; the image's diagonal where one of truth and "
    f"prediction is empty, so that a missed structure cannot improve the mean. {_MEAN}",
    "nsd": f"Normalised surface Dice, 0 to 1: the share of the voxels of both {_BORDER} that lie within the tolerance (1 mm, "
    f"or 1 pixel where the spacing is not known, unless set otherwise) of the other's border; {_ZERO}{_MEAN}",
    "volume_error": "Absolute difference of predicted and true volume, in ml where the spacing is known, else in voxels; 0 is "
    "best. The mean over the foreground classes of each one's mean over the cases, NAME/CLASS.",
}

# Distances are compared with the tolerance up to this share of it: 0.7 mm is often 0.699999988 in a header, and three steps
# of 0.3 are not 0.9 in binary.
_NEAR = 1e-6
# Where fewer than one voxel in so many is a border voxel to ask for, a tree of the other border's points is faster than a
# distance transform of all voxels: three tissues of a head on 155 x 240 x 240 voxels took 0.9 s of CPU against 3.2, and 2.3
# against 9.4 with speckle predicted everywhere. At one in 17, far apart, the tree is 3 times slower.
_SPARSE = 20


def why_unmeasured(name: str) -> str:
    """Why a measure of this module (NAME or NAME/CLASS) is nan over all cases, in words for a report."""
    if name.split("/")[0] == "volume_error":
        return "no case in which the class is annotated"
    return "the class is in neither truth nor prediction of any case"


def measure_case(
    truth: ArrayLike,
    pred: ArrayLike,
    *,
    classes: int,
    spacing: ArrayLike | None = None,
    tolerance: float = 1.0,
    ignore: int = 255,
) -> dict[str, np.ndarray]:
    """Overlap, surface distance and volume of every foreground class of one case.

    dice = 2 |T & P| / (|T| + |P|) (Dice, Ecology 26, 1945) and iou = |T & P| / |T | P|, over voxels. hd95 = max(p95 of the
    distances from T's border to P's, p95 of those from P's to T's), percentiles interpolated linearly (Huttenlocher et al.,
    IEEE PAMI 15, 1993, with a quantile for the maximum). nsd = (T's border voxels within `tolerance` of P's border + P's
    within it of T's) / (all of both) (Nikolov et al., arXiv:1809.04430, 2018; JMIR 23, e26151, 2021), with border voxels
    counted in place of their surface area. The module's text says what a border is, and what happens to empty masks.

    Args:
      truth: uint8 [D, H, W], 0 background, 1 to K - 1, or `ignore`.
      pred: uint8 [D, H, W], 0 to K - 1.
      classes: K, with the background.
      spacing: mm [3] along D, H, W; None or NaN where it is not known. The spacing along an axis of length 1 matters for
        volumes only.
      tolerance: of nsd, in mm or pixels as the distances are.
      ignore: truth's value for voxels that do not count.

    Returns:
      float64 [K - 1] each: dice, iou, nsd (0 to 1), hd95 (mm; pixels where the spacing along an axis longer than 1 is not
      known), volume, volume_pred and volume_error = volume_pred - volume (ml; voxels where a spacing is not known).

    Raises:
      ValueError: shapes differ or are not [D, H, W], values are not whole numbers or no class, spacing or tolerance is not
        positive.
    """
    truth, pred = _checked(np.asarray(truth), np.asarray(pred), classes, ignore)
    mm = np.full(3, np.nan) if spacing is None else np.asarray(spacing, np.float64)
    if mm.shape != (3,) or (mm <= 0).any() or np.isinf(mm).any():
        raise ValueError(f"spacing must be three positive lengths in mm (NaN: not known), not {mm}")
    if not tolerance >= 0:
        raise ValueError(f"the tolerance of nsd must be 0 or more, not {tolerance}")
    # A single voxel is all border.
    axes = [axis for axis in range(3) if truth.shape[axis] > 1] or [0, 1, 2]
    step = np.where(np.isnan(mm), 1.0, mm) if np.isfinite(mm[axes]).all() else np.ones(3)
    diagonal = float(np.linalg.norm((np.array(truth.shape) * step)[axes]))
    voxel = 1.0 if np.isnan(mm).any() else float(mm.prod()) / 1000

    found = {name: np.full(classes - 1, np.nan) for name in ("dice", "iou", "hd95", "nsd")}
    size, size_pred = np.zeros((2, classes - 1), np.int64)
    boxes = [ndimage.find_objects(labels, max_label=classes - 1) for labels in (truth, pred)]
    for at, (of_truth, of_pred) in enumerate(zip(*boxes, strict=True)):
        if of_truth is None and of_pred is None:
            continue
        # Neither mask goes on outside the box, so borders and distances within it are those of the whole image.
        box = _union(of_truth or of_pred, of_pred or of_truth)
        a, b = truth[box] == at + 1, pred[box] == at + 1
        both, size[at], size_pred[at] = (np.count_nonzero(mask) for mask in (a & b, a, b))
        total = size[at] + size_pred[at]
        found["dice"][at], found["iou"][at] = 2 * both / total, both / (total - both)
        if not size[at] or not size_pred[at]:
            found["hd95"][at], found["nsd"][at] = diagonal, 0.0
            continue
        a, b = _border(a, axes), _border(b, axes)
        there, back = _distances(a, b, step), _distances(b, a, step)
        found["hd95"][at] = max(np.percentile(there, 95), np.percentile(back, 95))
        near = sum(np.count_nonzero(apart <= tolerance * (1 + _NEAR)) for apart in (there, back))
        found["nsd"][at] = near / (len(there) + len(back))
    error = (size_pred - size) * voxel
    return {**found, "volume": size * voxel, "volume_pred": size_pred * voxel, "volume_error": error}


def overlap(truth: ArrayLike, pred: ArrayLike, *, classes: int, ignore: int = 255) -> dict[str, np.ndarray]:
    """{"dice", "iou"} of `measure_case`, each float64 [K - 1], without its surfaces: for a look in passing."""
    truth, pred = _checked(np.asarray(truth), np.asarray(pred), classes, ignore)
    pairs = np.bincount(truth.ravel().astype(np.int64) * classes + pred.ravel(), minlength=classes**2).reshape(classes, classes)
    both, total = np.diag(pairs)[1:], (pairs.sum(0) + pairs.sum(1))[1:]
    with np.errstate(invalid="ignore"):  # 0 / 0, the NaN of a class that is in neither
        return {"dice": 2 * both / total, "iou": both / (total - both)}


def _checked(truth: np.ndarray, pred: np.ndarray, classes: int, ignore: int) -> tuple[np.ndarray, np.ndarray]:
    """Both label maps with 0 where the truth is to be ignored."""
    if truth.ndim != 3 or truth.shape != pred.shape or not truth.size:
        raise ValueError(f"truth and pred must both be [D, H, W], but have shapes {truth.shape} and {pred.shape}")
    if truth.dtype.kind not in "iu" or pred.dtype.kind not in "iu":
        raise ValueError(f"truth and pred must be whole numbers, not {truth.dtype} and {pred.dtype}")
    if classes < 2:
        raise ValueError(f"a segmentation has a background and 1 class or more, not {classes} classes in all")
    left_out = truth == ignore
    if left_out.any():
        truth, pred = np.where(left_out, 0, truth), np.where(left_out, 0, pred)
    for name, labels in (("truth", truth), ("pred", pred)):
        if labels.max() >= classes or labels.min() < 0:
            raise ValueError(f"{name} must be 0 to {classes - 1}, but goes from {labels.min()} to {labels.max()}")
    return truth, pred


def _union(a: tuple[slice, ...], b: tuple[slice, ...]) -> tuple[slice, ...]:
    """The smallest box that holds both."""
    return tuple(slice(min(x.start, y.start), max(x.stop, y.stop)) for x, y in zip(a, b, strict=True))


def _border(mask: np.ndarray, axes: Sequence[int]) -> np.ndarray:
    """bool [D, H, W]: voxels of the mask whose neighbour before or after, along one of the axes, is outside it or the array."""
    inside = mask.copy()
    for axis in axes:
        along, within = np.moveaxis(mask, axis, 0), np.moveaxis(inside, axis, 0)
        within[1:] &= along[:-1]
        within[:-1] &= along[1:]
        within[[0, -1]] = False
    return mask & ~inside


def _distances(of: np.ndarray, to: np.ndarray, step: np.ndarray) -> np.ndarray:
    """From every voxel of the border `of` to the nearest of the border `to`.

    Args:
      of: bool [D, H, W].
      to: bool [D, H, W], with a voxel or more.
      step: float64 [3], length of a voxel's sides.

    Returns:
      float64 [voxels of `of`], in the unit of `step`.
    """
    points, apart = np.argwhere(of), ~to[of]
    asked = points[apart]
    distance = np.zeros(len(points))
    if len(asked) * _SPARSE < of.size:
        # Halving boxes, not points: queries far from all points, equally far from many, took a balanced tree 4 times longer.
        tree = KDTree(np.argwhere(to) * step, balanced_tree=False, compact_nodes=False)
        distance[apart] = tree.query(asked * step)[0]
    else:
        # Only the nearest voxel's place: distances of all voxels would take several times the memory.
        place = ndimage.distance_transform_edt(~to, sampling=step, return_distances=False, return_indices=True)
        distance[apart] = np.linalg.norm((place[:, of].T[apart] - asked) * step, axis=1)
    return distance


def summarise(tables: Mapping[str, np.ndarray], classes: Sequence[str]) -> dict[str, float]:
    """The measures of a set of cases: of each class the mean over its cases without NaN, then the mean over the classes.

    Args:
      tables: {name: float [n, K - 1]}, `measure_case` of n cases stacked, with NaN also where a class is not annotated in a
        case. Names that are not in `MEASURES` (the volumes) are passed over.
      classes: the K - 1 foreground names.

    Returns:
      {name: float}, and with two classes or more {name/CLASS: float} after them. A class without any case is nan and is left
      out of the mean over classes.

    Raises:
      ValueError: a table is not [n, K - 1].
    """
    overall: dict[str, float] = {}
    each: dict[str, float] = {}
    for name in MEASURES:
        if name not in tables:
            continue
        table = np.asarray(tables[name], np.float64)
        if table.ndim != 2 or table.shape[1] != len(classes):
            raise ValueError(f"{name} must be [n, {len(classes)}] for the classes {list(classes)}, but has shape {table.shape}")
        defined = table == table  # not NaN
        counts = defined.sum(axis=0).tolist()
        sums = np.where(defined, table, 0.0).sum(axis=0).tolist()
        means = [total / count if count else float("nan") for total, count in zip(sums, counts, strict=True)]
        known = [mean for mean, count in zip(means, counts, strict=True) if count]
        overall[name] = sum(known) / len(known) if known else float("nan")
        if len(classes) > 1:
            each.update({f"{name}/{of}": mean for of, mean in zip(classes, means, strict=True)})
    return {**overall, **each}


def count_excluded(tables: Mapping[str, np.ndarray]) -> dict[str, int]:
    """How many values (a class of a case each) of the tables that `summarise` takes are NaN, and so left out of its means."""
    return {name: int(np.isnan(tables[name]).sum()) for name in MEASURES if name in tables}


def largest_component(labels: ArrayLike, class_index: int) -> np.ndarray:
    """A copy of a label map with nothing of a class but its largest connected component; the rest of it becomes 0.

    Voxels are connected across faces, edges and corners (26 neighbours; 8 in a picture). Of components of one size the first
    in the order of the array stays.

    Args:
      labels: uint8 [D, H, W].
      class_index: the class, 1 to K - 1.

    Returns:
      uint8 [D, H, W], the dtype of `labels`.
    """
    labels = np.array(labels)
    box = ndimage.find_objects(labels, max_label=class_index)[-1]
    if box is None:
        return labels
    crop = labels[box]
    mask = crop == class_index
    parts, count = ndimage.label(mask, structure=np.ones((3, 3, 3), bool))
    if count > 1:
        sizes = np.bincount(parts.ravel())
        crop[mask & (parts != 1 + sizes[1:].argmax())] = 0
    return labels


def bland_altman(truth: ArrayLike, pred: ArrayLike) -> tuple[float, float, float]:
    """Bias and 95 % limits of agreement of two measurements: mean difference, and that -+ 1.96 standard deviations (n - 1).

    Bland & Altman, Lancet 327, 1986.

    Args:
      truth: float [n], for instance true volumes in ml.
      pred: float [n]; pairs with a NaN are dropped.

    Returns:
      (bias, lo, hi) of pred - truth; limits are nan with fewer than two pairs, the bias without any.

    Raises:
      ValueError: the two are not both [n].
    """
    truth, pred = np.asarray(truth, np.float64), np.asarray(pred, np.float64)
    if truth.ndim != 1 or truth.shape != pred.shape:
        raise ValueError(f"truth and pred must both be [n], but have shapes {truth.shape} and {pred.shape}")
    difference = pred - truth
    difference = difference[~np.isnan(difference)]
    bias = float(difference.mean()) if len(difference) else float("nan")
    half = 1.96 * float(difference.std(ddof=1)) if len(difference) > 1 else float("nan")
    return bias, bias - half, bias + half
