"""Confidence intervals by the bootstrap, clustered: rows of one patient are drawn together or not at all.

Cluster bootstrap: Davison & Hinkley, Bootstrap Methods and their Application (1997), section 3.8. Intervals are percentile
intervals of 95 %.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike

Measure = Callable[[np.ndarray], Mapping[str, float]]

MIN_CLUSTERS = 10
LEVELS = (0.025, 0.975)
# A resample repeats cases and lacks others, which moves these metrics to one side on average. Widening the interval up to the
# point estimate would hide that, so theirs is left as it comes.
BIASED = ("ece", "hd95", "fid", "kid")


def number_clusters(clusters: ArrayLike) -> np.ndarray:
    """Cluster numbers int64 [n], 0, 1, ... in the order of first appearance. A NaN is a cluster of its own each time."""
    numbers: dict = {}
    values = np.asarray(clusters)
    return np.fromiter((numbers.setdefault(value, len(numbers)) for value in values.tolist()), np.int64, len(values))


def resamples(n: int, clusters: ArrayLike, count: int = 1000, seed: int = 0) -> Iterator[np.ndarray]:
    """Draws bootstrap resamples: as many clusters as there are, with replacement, with all their rows.

    Args:
      n: rows.
      clusters: [n] of any dtype, the cluster of each row.
      count: resamples.
      seed: the same seed gives the same resamples.

    Yields:
      int64 [m] row indices; m differs where clusters differ in size.

    Raises:
      ValueError: `clusters` is not of length n.
    """
    number = number_clusters(clusters)
    if len(number) != n:
        raise ValueError(f"{n} rows but {len(number)} cluster names")
    # A generator function would raise only at the first draw.
    return _draw(number, count, seed)


def _draw(number: np.ndarray, count: int, seed: int) -> Iterator[np.ndarray]:
    rng = np.random.Generator(np.random.PCG64(seed))
    rows = np.argsort(number, kind="stable")
    sizes = np.bincount(number)
    starts = np.cumsum(sizes) - sizes
    for _ in range(count):
        drawn = rng.integers(len(sizes), size=len(sizes)) if len(sizes) else np.empty(0, np.int64)
        size = sizes[drawn]
        # Row number within the concatenated clusters, less where its cluster begins there, plus where it begins in `rows`.
        shift = starts[drawn] - (np.cumsum(size) - size)
        yield rows[np.arange(size.sum()) + np.repeat(shift, size)]


def interval(values: ArrayLike, point: float, *, biased: bool = False) -> list[float] | None:
    """The 95 % percentile interval [lo, hi] of bootstrap values.

    Args:
      values: float [r], one a resample; those that are not finite are left out.
      point: the value on all cases, which the interval is made to hold unless `biased`.
      biased: leave the interval as it comes.

    Returns:
      None where more than half of the values, or `point`, are not finite.
    """
    values = np.asarray(values, np.float64)
    finite = values[np.isfinite(values)]
    if not len(finite) or 2 * len(finite) < len(values) or not np.isfinite(point):
        return None
    lo, hi = np.quantile(finite, LEVELS)
    if not biased:
        # The percentile interval of a bounded or discrete statistic may miss the estimate (an AUROC near 1, a few cases, the
        # resamples that are undefined and left out), and an interval without its estimate cannot be read.
        lo, hi = min(lo, point), max(hi, point)
    return [float(lo), float(hi)]


def is_biased(name: str) -> bool:
    """Whether the bootstrap distribution of the metric (NAME or NAME/CLASS) is biased."""
    return name.split("/")[0] in BIASED


def bootstrap(
    measure: Measure, n: int, clusters: ArrayLike, *, resamples: int = 1000, seed: int = 0
) -> dict[str, list[float] | None]:
    """95 % intervals of all that `measure` gives.

    Args:
      measure: maps row indices int [m], repeats included, to {name: float}; a name may be nan or missing in a resample.
      n: rows.
      clusters: [n] of any dtype.
      resamples: how many.
      seed: of the resamples.

    Returns:
      {name: [lo, hi]} for the names that `measure` gives on all rows. None with fewer than 10 clusters, where more than half
      of the resamples are undefined, or where the value itself is: `why_no_interval` says which.
    """
    point = measure(np.arange(n))
    found = _replicate([measure], [list(point)], n, clusters, resamples, seed)[0]
    return {name: interval(found[name], value, biased=is_biased(name)) for name, value in point.items()}


def paired_bootstrap(
    measure_a: Measure, measure_b: Measure, n: int, clusters: ArrayLike, *, resamples: int = 1000, seed: int = 0
) -> dict[str, dict]:
    """95 % intervals of the differences a - b, both measured on the same resamples.

    Args:
      measure_a: as `bootstrap` takes it.
      measure_b: likewise, on the same rows.
      n: rows.
      clusters: [n] of any dtype.
      resamples: how many.
      seed: of the resamples.

    Returns:
      {name: {"difference": float, "ci95": [lo, hi] or None}} for the names that both give on all rows. The difference is nan
      where one of the two is.
    """
    all_rows = np.arange(n)
    a, b = measure_a(all_rows), measure_b(all_rows)
    names = [name for name in a if name in b]
    of_a, of_b = _replicate([measure_a, measure_b], [names, names], n, clusters, resamples, seed)
    result = {}
    for name in names:
        difference = float(a[name]) - float(b[name])
        ci95 = interval(of_a[name] - of_b[name], difference, biased=is_biased(name))
        result[name] = {"difference": difference, "ci95": ci95}
    return result


def _replicate(
    measures: Sequence[Measure], names: Sequence[list[str]], n: int, clusters: ArrayLike, count: int, seed: int
) -> list[dict[str, np.ndarray]]:
    """{name: values [count]} of each measure on shared resamples; nan throughout with too few clusters."""
    number = number_clusters(clusters)
    tables = [{name: np.full(count, np.nan) for name in wanted} for wanted in names]
    draws = resamples(n, number, count, seed)
    if number.max(initial=-1) + 1 < MIN_CLUSTERS:
        return tables
    for at, index in enumerate(draws):
        for measure, table in zip(measures, tables, strict=True):
            values = measure(index)
            for name in table:
                table[name][at] = values.get(name, np.nan)
    return tables


def band(
    curve: Callable[[np.ndarray], np.ndarray], clusters: ArrayLike, *, resamples: int = 1000, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Pointwise 95 % band (lo [k], hi [k]) of a curve, `curve(index int [m]) -> float [k]`; nan where `interval` gives none."""

    def measure(index: np.ndarray) -> dict[str, float]:
        return {str(at): float(height) for at, height in enumerate(curve(index))}

    found = bootstrap(measure, len(np.asarray(clusters)), clusters, resamples=resamples, seed=seed)
    ends = np.array([(np.nan, np.nan) if ends is None else ends for ends in found.values()]).reshape(-1, 2)
    return ends[:, 0], ends[:, 1]


def why_no_interval(clusters: ArrayLike) -> str:
    """The reason to give with an interval that is None."""
    count = number_clusters(clusters).max(initial=-1) + 1
    if count < MIN_CLUSTERS:
        return f"{count} clusters, and an interval needs {MIN_CLUSTERS}"
    return "undefined on all cases or in more than half of the bootstrap resamples"
