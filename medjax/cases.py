"""Columns of cases, of one shape or of many, in memory or on disk, gathered when they are asked for; and rows.

Columns are NumPy arrays, whose first axis is the cases, or `Ragged`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

Rows = dict[str, Any]  # {name: array [n, ...]}, one row an example


class Varying(NamedTuple):
    """A value whose shape differs from case to case; a column of them is `Ragged`."""

    array: np.ndarray


class Cases:
    """Columns of a set of cases, some of them memory-mapped: `cases["label"]` is gathered when it is asked for.

    Args:
      columns: {name: array [N, ...]} over the whole data set.
      index: int [n], the rows that belong to this set, in order; all of them by default.
    """

    def __init__(self, columns: Mapping[str, Any], index: np.ndarray | None = None):
        self.columns = columns
        size = len(next(iter(columns.values()))) if columns else 0
        self.index = np.arange(size) if index is None else np.asarray(index)

    def __getitem__(self, name: str) -> Any:
        part = self.columns[name][self.index]
        return part if isinstance(part, Ragged) else np.asarray(part)

    def __contains__(self, name: str) -> bool:
        return name in self.columns

    def __len__(self) -> int:
        """Number of cases (not of columns)."""
        return len(self.index)

    def numeric(self) -> list[str]:
        """Names of the columns that go to a device: numbers and booleans, not text."""
        return [name for name, column in self.columns.items() if column.dtype.kind in "biuf"]

    def take(self, rows: np.ndarray) -> Cases:
        """The given rows (int [k] or bool [n]) of this set, repeats allowed."""
        return Cases(self.columns, self.index[rows])

    def some(self, most: int) -> Cases:
        """So many of them, spread evenly over this set; all where `most` is 0 or there are no more."""
        return self.take(np.arange(most) * len(self) // most) if 0 < most < len(self) else self

    def extend(self, **columns: np.ndarray) -> Cases:
        """This set with further columns of length n; its rows are numbered anew."""
        kept: dict[str, Any] = {name: _Gather(column, self.index) for name, column in self.columns.items()}
        return Cases({**kept, **columns}, np.arange(len(self)))


class Ragged:
    """A column of arrays that differ in shape: volumes, records, documents. One flat array, which may lie on disk.

    `column[i]` with a whole number is a case's array, a view of the flat one; with an index or slice it is a Ragged of those.

    Attributes:
      flat: all values in a row, [sum of sizes].
      starts: int64 [n], where each case begins.
      shapes: int64 [n, ndim].
      dtype: object, so that nothing takes the column for numbers of one shape; the values' own is `flat.dtype`.
    """

    dtype = np.dtype(object)

    def __init__(self, flat: np.ndarray, starts: np.ndarray, shapes: np.ndarray):
        self.flat, self.starts, self.shapes = flat, starts, shapes

    @classmethod
    def of(cls, arrays: Sequence[np.ndarray]) -> Ragged:
        """A column in memory from arrays of one dtype and number of axes."""
        shapes = np.array([a.shape for a in arrays], np.int64)
        sizes = shapes.prod(1)
        return cls(np.concatenate([np.ravel(a) for a in arrays]), np.cumsum(sizes) - sizes, shapes)

    @property
    def shape(self) -> tuple[int, ...]:
        """(n,): one entry a case."""
        return (len(self.starts),)

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, i: Any) -> Any:
        if isinstance(i, int | np.integer):
            start, shape = self.starts[i], self.shapes[i]
            return self.flat[start : start + int(shape.prod())].reshape(shape)
        return Ragged(self.flat, self.starts[i], self.shapes[i])

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[i] for i in range(len(self)))


def stack_rows(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Rows {name: value} of single cases as columns, `Ragged` where values are `Varying`."""
    columns: dict[str, Any] = {}
    for name, first in rows[0].items():
        values = [row[name] for row in rows]
        columns[name] = Ragged.of([v.array for v in values]) if isinstance(first, Varying) else np.stack(values)
    return columns


def average(rows: Sequence[Rows]) -> Rows:
    """The mean of several members' rows over the same cases: an ensemble. Columns that are no floats must agree; those of
    arrays that differ in shape have no mean, and are left out.
    """
    if len(rows) == 1:
        return rows[0]
    found: Rows = {}
    for name, first in rows[0].items():
        if isinstance(first, Ragged):
            continue
        columns = [np.asarray(r[name]) for r in rows]
        if first.dtype.kind == "f":
            found[name] = np.mean(columns, axis=0, dtype=np.float64).astype(first.dtype)
        elif all(np.array_equal(first, column) for column in columns):
            found[name] = first
        else:
            raise ValueError(f"members differ in {name!r}, which is {first.dtype}: there is no mean of it")
    return found


def concatenate(columns: Sequence[Any]) -> Any:
    """Columns of the same kind, one after the other."""
    if isinstance(columns[0], Ragged):
        return Ragged.of([array for column in columns for array in column])
    return np.concatenate(columns)


class _Gather:
    """`column[index]`, not yet read."""

    def __init__(self, column: Any, index: np.ndarray):
        self.column, self.index = column, index
        self.dtype, self.shape = column.dtype, (len(index), *column.shape[1:])

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        return self.column[self.index[rows]]
