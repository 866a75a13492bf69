"""From cases to rows: the one path for evaluation, prediction and serving, so that numbers and deployment cannot differ."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from medjax.core import Cases, Rows, State
from medjax.engine import Engine


def batches(cases: Cases, batch_size: int) -> Iterator[tuple[dict[str, np.ndarray], int]]:
    """All cases in order, in batches of one fixed shape.

    Yields:
      (batch, n): {name: array [batch_size, ...]} with a bool `mask` and an int32 `index`, the case's place among all; the first
      n are cases. The last batch is filled up by repeating its first case under a false mask, so that padding holds ordinary
      values.
    """
    names = cases.numeric()
    for start in range(0, len(cases), batch_size):
        n = min(batch_size, len(cases) - start)
        rows = np.full(batch_size, start)
        rows[:n] = np.arange(start, start + n)
        part = cases.take(rows)
        yield {**{name: part[name] for name in names}, "mask": np.arange(batch_size) < n, "index": rows.astype(np.int32)}, n


def infer(engine: Engine, state: State, cases: Cases, batch_size: int) -> Rows:
    """Rows {name: array [len(cases), ...]} of `engine.evaluate`, a case each, in the order of the cases."""
    waiting, done = None, []
    for batch, n in batches(cases, batch_size):
        rows = engine.evaluate(state, engine.put(batch))
        # Gather the batch before while the device works on this one.
        if waiting is not None:
            done.append(_cut(engine, *waiting))
        waiting = rows, n
    if waiting is not None:
        done.append(_cut(engine, *waiting))
    return {name: np.concatenate([rows[name] for rows in done]) for name in done[0]} if done else {}


def _cut(engine: Engine, rows: Any, n: int) -> Rows:
    return {name: x[:n] for name, x in engine.gather(rows).items()}
