"""What training cases tell of each column: clipping bounds, mean and deviation; put into a State where a training begins."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from medjax.cases import Cases
from medjax.core import State
from medjax.models.observed import KNOTS, STATISTICS
from medjax.tasks.record_heads import survival_bins

LOOK = 2**26  # numbers that are held at once
SAMPLE = 2_000_000  # numbers of a column that percentiles are taken of, at most
CLIP = (0.5, 99.5)  # percentiles beyond which values are clipped


def column_statistics(cases: Cases, name: str, *, clip: tuple[float, float] = CLIP) -> dict[str, np.ndarray]:
    """Of each column of `cases[name]` [n, ..., D], NaN left out: low, high (percentiles), and the mean and deviation of what is
    clipped to these, float32 [D]; and knots [KNOTS, D], evenly spaced quantiles. A column without a value gets 0 and 1 and no
    bounds; one without spread a deviation of 1.
    """
    d = cases.columns[name].shape[-1]
    found = {"mean": np.zeros(d), "deviation": np.ones(d), "low": np.full(d, -np.inf), "high": np.full(d, np.inf)}
    found["knots"] = np.zeros((KNOTS, d))
    for k, values in _columns(cases, name):
        if not len(values):
            continue
        part = values if len(values) <= SAMPLE else np.random.default_rng(0).choice(values, SAMPLE)
        low, high = np.percentile(part, clip)
        found["knots"][:, k] = np.quantile(part, np.linspace(0, 1, KNOTS))
        # A column that is nearly always the same keeps its rare values.
        low, high = (low, high) if high > low else (values.min(), values.max())
        clipped = np.clip(values.astype(np.float64), low, high)
        spread = clipped.std()
        found["mean"][k], found["low"][k], found["high"][k] = clipped.mean(), low, high
        found["deviation"][k] = spread if spread > 1e-6 * max(abs(low), abs(high), 1e-6) else 1.0
    return {key: value.astype(np.float32) for key, value in found.items()}


def _columns(cases: Cases, name: str) -> Iterator[tuple[int, np.ndarray]]:
    """(k, finite values of column k), reading as many columns and cases at once as `LOOK` allows."""
    column, index = cases.columns[name], cases.index
    each = max(int(np.prod(column.shape[1:-1])), 1)
    width = max(1, LOOK // max(each * len(index), 1))
    size = max(1, LOOK // (each * column.shape[-1]))
    for first in range(0, column.shape[-1], width):
        parts = [column[index[i : i + size]][..., first : first + width] for i in range(0, len(index), size)]
        block = np.concatenate([np.reshape(part, (-1, part.shape[-1])) for part in parts])
        for k, values in enumerate(block.T):
            yield first + k, values[np.isfinite(values)]


def start_with(columns: Mapping[str, str], *, edges: int = 0) -> Callable[[State, Cases], State]:
    """`start` of a Job: the statistics of the very cases that are trained on, in each fold its own.

    They are part of the State, so that checkpoints hold them and nothing of a held-out patient enters.

    Args:
      columns: {scope of an `Observed` network's `Scale`: the cases' column}.
      edges: bins of a survival time; 0 for none.
    """

    def start(state: State, cases: Cases) -> State:
        found: dict[str, Any] = {scope: column_statistics(cases, name) for scope, name in columns.items()}
        if edges:
            found["edges"] = survival_bins(np.asarray(cases["duration"], np.float64), cases["label"], edges)
        made = {scope: _like(held, found[scope]) for scope, held in state.extra[STATISTICS].items()}
        return state.replace(extra={**state.extra, STATISTICS: made})

    return start


def _like(held: Any, found: Any) -> Any:
    """What the State holds a place for, of what was found."""
    return {name: jnp.asarray(found[name]) for name in held} if isinstance(held, Mapping) else jnp.asarray(found)
