"""Simple segmenters beside the network: by a voxel's intensity alone, and by its place alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from scipy import ndimage

from medjax.cases import Cases, Rows, stack_rows
from medjax.core import Baseline
from medjax.data.volumes import IGNORE

BINS = 256
SIDE = 48  # cells of the location table along an axis, at most
VOXELS = 200_000  # of each training case that are counted at most
Score = Callable[[Cases, int, np.ndarray], Mapping[str, np.ndarray]]


def threshold_table(classes: int, intensity: Sequence[tuple[float, float, float, float]], score: Score) -> Baseline:
    """The most frequent class of the training voxels of the same intensity, in `BINS` bins of the first channel.

    The bins are equally full of training voxels; counts are smoothed over neighbours by a width chosen on validation data.

    Args:
      classes: K.
      intensity: of the prepared image, see `segmentation.scaled`; values are clipped to it first.
      score: (cases, i, labels on the prepared grid) -> the measures of a case.
    """
    low, high = intensity[0][:2]

    def values_of(cases: Cases, i: int) -> np.ndarray:
        return np.clip(cases["image"][i][..., 0], low, high)

    def fit(train: Cases, val: Cases) -> dict[str, np.ndarray]:
        seen, labels = _sample(train, values_of)
        edges = np.unique(np.quantile(seen, np.linspace(0, 1, BINS + 1)[1:-1]))
        counts = np.zeros((len(edges) + 1, classes))
        np.add.at(counts, (np.searchsorted(edges, seen, side="right"), labels), 1)
        options = [{"edges": edges, "table": _best(counts, width)} for width in (0, 1, 3)]
        return max(options, key=lambda arrays: _agreement(arrays, val))

    def labels_of(arrays: Mapping[str, np.ndarray], cases: Cases, i: int) -> np.ndarray:
        return arrays["table"][np.searchsorted(arrays["edges"], values_of(cases, i), side="right")]

    def _agreement(arrays: Mapping[str, np.ndarray], cases: Cases) -> float:
        seen, labels = _sample(cases, values_of)
        found = arrays["table"][np.searchsorted(arrays["edges"], seen, side="right")]
        return float(np.mean([(found[labels == k] == k).mean() for k in np.unique(labels)]))

    def predict(arrays: Mapping[str, np.ndarray], cases: Cases) -> Rows:
        return stack_rows([score(cases, i, labels_of(arrays, cases, i)) for i in range(len(cases))])

    return Baseline(fit, predict)


def location_table(classes: int, score: Score) -> Baseline:
    """The most frequent class at the same relative place in the training cases, on a grid of at most `SIDE` cells an axis."""

    def fit(train: Cases, val: Cases) -> dict[str, np.ndarray]:
        labels = train["labels"]
        side = np.minimum(np.median(labels.shapes, axis=0).astype(int), SIDE)
        counts = np.zeros((*side, classes))
        for i in range(len(train)):
            part = labels[i]
            places = [np.minimum(((np.arange(n) + 0.5) * s / n).astype(int), s - 1) for n, s in zip(part.shape, side)]
            flat = np.ravel_multi_index(np.ix_(*places), tuple(side))
            known = part != IGNORE
            np.add.at(counts.reshape(-1, classes), (np.broadcast_to(flat, part.shape)[known], part[known]), 1)
        return {"table": counts.argmax(-1).astype(np.uint8)}

    def predict(arrays: Mapping[str, np.ndarray], cases: Cases) -> Rows:
        table, shapes = arrays["table"], cases["labels"].shapes
        rows = []
        for i in range(len(cases)):
            places = [np.minimum(((np.arange(n) + 0.5) * s / n).astype(int), s - 1) for n, s in zip(shapes[i], table.shape)]
            rows.append(score(cases, i, table[np.ix_(*places)]))
        return stack_rows(rows)

    return Baseline(fit, predict)


def _sample(cases: Cases, values_of: Callable[[Cases, int], np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """(values [m], labels [m]) of voxels of all cases, evenly spread over each."""
    values, labels = [], []
    for i in range(len(cases)):
        flat = cases["labels"][i].ravel()
        step = max(1, len(flat) // VOXELS)
        known = np.flatnonzero(flat[::step] != IGNORE) * step
        values.append(values_of(cases, i).ravel()[known])
        labels.append(flat[known])
    return np.concatenate(values), np.concatenate(labels)


def _best(counts: np.ndarray, width: int) -> np.ndarray:
    smooth = ndimage.gaussian_filter1d(counts, width, axis=0, mode="nearest") if width else counts
    return smooth.argmax(-1).astype(np.uint8)
