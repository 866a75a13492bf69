"""From cases to rows: the one path for evaluation, prediction and serving, so that numbers and deployment cannot differ."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from medjax.cases import Cases, Rows, average, stack_rows
from medjax.core import Examples, State
from medjax.engine import Engine

Batches = Iterator[tuple[dict[str, np.ndarray], int]]
Merge = Callable[[Sequence[Rows]], Rows]


def batches(cases: Cases, batch_size: int) -> Batches:
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


def window_batches(cases: Cases, batch_size: int, examples: Examples, *, quick: bool = False) -> Batches:
    """As `batches`, of the windows of all cases, each with its case's own numbers; short cases share a batch. Where examples
    are of several lengths, cases come in order of these.
    """
    names = cases.numeric()
    waiting: list[tuple[int, Mapping[str, np.ndarray]]] = []

    def batch() -> tuple[dict[str, np.ndarray], int]:
        n = len(waiting)
        filled = [*waiting, *[waiting[0]] * (batch_size - n)]
        rows = np.array([i for i, _ in filled])
        part = cases.take(rows)
        cut = {name: np.stack([window[name] for _, window in filled]) for name in filled[0][1]}
        waiting.clear()
        own = {name: part[name] for name in names}
        return {**own, "mask": np.arange(batch_size) < n, "index": rows.astype(np.int32), **cut}, n

    lengths = np.zeros(len(cases)) if examples.sizes is None else examples.sizes(cases)
    order = np.argsort(lengths, kind="stable")
    for i, before in zip(order.tolist(), [order[0], *order[:-1]] if len(order) else []):
        if waiting and lengths[i] != lengths[before]:
            yield batch()
        for window in examples.windows(cases, i, quick):
            waiting.append((i, window))
            if len(waiting) == batch_size:
                yield batch()
    if waiting:
        yield batch()


def each_shape(parts: Sequence[Cases], batch_size: int, examples: Examples | None) -> list[dict[str, np.ndarray]]:
    """A batch of each shape that evaluation gives of these parts of the data, to compile for, the longest last."""
    if examples is None:
        return [next(batches(parts[0], batch_size))[0]]
    ones: dict[int, Cases] = {}
    for cases in parts:
        lengths = np.zeros(1, int) if examples.sizes is None else examples.sizes(cases)
        for length, row in zip(*np.unique(lengths, return_index=True)):
            ones.setdefault(int(length), cases.take(np.array([row])))
    return [next(window_batches(ones[length], batch_size, examples, quick=True))[0] for length in sorted(ones)]


def infer(
    engine: Engine,
    states: State | Sequence[State],
    cases: Cases,
    batch_size: int,
    examples: Examples | None = None,
    *,
    quick: bool = False,
) -> Rows:
    """Rows {name: array [len(cases), ...]} of `engine.evaluate`, a case each, in the order of the cases.

    Args:
      engine: of the task.
      states: one, or those of an ensemble, whose outputs are averaged.
      cases: to look at.
      batch_size: examples in a batch.
      examples: how a case becomes examples and is put together again, where it is not an example itself.
      quick: see `Examples`.
    """
    states = [states] if isinstance(states, State) else list(states)
    if examples is None:
        done = [rows for rows, _ in _outputs(engine, states, batches(cases, batch_size), average)]
        return {name: np.concatenate([rows[name] for rows in done]) for name in done[0]} if done else {}
    made = window_batches(cases, batch_size, examples, quick=quick)
    windows = _each(_outputs(engine, states, made, examples.merge or average))
    rows: dict[int, dict[str, Any]] = {}
    for i, mine in itertools.groupby(windows, key=lambda window: window[0]):
        rows[i] = examples.join(cases, i, (row for _, row in mine), quick)
    if len(rows) != len(cases):
        raise ValueError(f"{len(rows)} of {len(cases)} cases have a window; Examples.windows must give each one at least")
    return stack_rows([rows[i] for i in range(len(cases))]) if rows else {}


def _outputs(engine: Engine, states: Sequence[State], made: Batches, merge: Merge) -> Iterator[tuple[Rows, np.ndarray]]:
    """The (merged) rows of each batch and the places of their cases, padding cut off."""
    waiting = None
    for batch, n in made:
        placed = engine.put(batch)
        rows = [engine.evaluate(state, placed) for state in states]
        # Gather the batch before while the device works on this one.
        if waiting is not None:
            yield _cut(engine, merge, *waiting)
        waiting = rows, batch["index"][:n]
    if waiting is not None:
        yield _cut(engine, merge, *waiting)


def _cut(engine: Engine, merge: Merge, rows: Sequence[Any], index: np.ndarray) -> tuple[Rows, np.ndarray]:
    return merge([{name: x[: len(index)] for name, x in engine.gather(of).items()} for of in rows]), index


def _each(outputs: Iterable[tuple[Rows, np.ndarray]]) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
    """(place of the case, row) of every row."""
    for rows, index in outputs:
        for k, i in enumerate(index.tolist()):
            yield i, {name: column[k] for name, column in rows.items()}
