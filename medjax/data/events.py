"""Long tables of events, read once into columns on disk that are sorted by case and time, in bounded memory.

A table of (case, time, variable, value) with hundreds of millions of rows, in any order, is streamed in blocks. Rows go into
bucket files by their case, then each bucket is sorted by itself. At any time memory holds one block of the table, one bucket
(the table over the number of buckets, some 20 bytes a row and as much again for sorting), and one entry for each different case
and variable. On disk a finished store takes 16 bytes a row, and 20 more while it is being made.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from medjax import console
from medjax.data.digests import code_digest
from medjax.data.record_source import Found, Item, RecordSource, file_state
from medjax.data.records import UNKNOWN, UNSORTED, Events, Tally
from medjax.files import cache_dir, publish, staging, write_json

VERSION = 1  # of the store's layout
STATIC = -np.inf  # the time of what has none, before all others
_BUCKET_BYTES = 32 * 2**20  # of the table's files, for one bucket
_MOST_BUCKETS = 256  # open files at once
_ROW = np.dtype([("case", "<i4"), ("time", "<f8"), ("variable", "<i4"), ("value", "<f4")])
_COLUMNS: dict[str, Any] = {"times": np.dtype("<f8"), "variables": np.dtype("<i4"), "values": np.dtype("<f4")}


class Block(NamedTuple):
    """Some rows of a table.

    Attributes:
      cases: pyarrow array of text or whole numbers, no nulls.
      times: float64 [n], hours since whatever the layout counts from; `STATIC` for what has no time.
      variables: pyarrow array of text, no nulls.
      values: float [n], NaN where there is none.
      tally: what was left out of these rows.
    """

    cases: Any
    times: np.ndarray
    variables: Any
    values: np.ndarray
    tally: Tally = Counter()  # noqa: RUF012, never changed


class Store:
    """A finished store.

    Attributes:
      key: of the files and the code that it was made from.
      cases: {id: number}, in the order of their first event.
      names: of the variables, in the order of theirs.
      rows: int64 [variables], how many dated events are of each.
      valued: int64 [variables], how many of these have a value.
      times, variables, values: memory-mapped, all events by case (not in the order of their numbers) and time.
      tally: what making it has left out.
    """

    def __init__(self, folder: Path):
        about = json.loads((folder / "about.json").read_text(encoding="utf-8"))
        self.key = folder.name
        self.cases = {id: k for k, id in enumerate(about["cases"])}
        self.names: list[str] = about["variables"]
        self.rows, self.valued = (np.array(about[name], np.int64) for name in ("rows", "valued"))
        self.tally: Tally = Counter({(what, which): n for what, which, n in about["tally"]})
        self._spans = np.load(folder / "spans.npy", allow_pickle=False)
        n = about["events"]
        self.times, self.variables, self.values = (
            # An empty file cannot be mapped.
            np.memmap(folder / name, dtype, "r", shape=(n,)) if n else np.empty(0, dtype)
            for name, dtype in _COLUMNS.items()
        )

    def __len__(self) -> int:
        """Number of events."""
        return len(self.times)

    def span(self, case: int) -> tuple[int, int]:
        """The first of a case's events, and the one after the last; (0, 0) for a number below 0, which has none."""
        return (int(self._spans[case, 0]), int(self._spans[case, 1])) if case >= 0 else (0, 0)

    def first_time(self, case: int) -> float:
        """Hours of a case's first dated event; NaN where it has none."""
        start, stop = self.span(case)
        times = self.times[start:stop]
        at = int(np.searchsorted(times, STATIC, side="right"))
        return float(times[at]) if at < len(times) else np.nan

    def statics(self, case: int) -> list[tuple[int, float]]:
        """(variable, value) of a case's events without a time, in the order of the file."""
        start, stop = self.span(case)
        stop = start + int(np.searchsorted(self.times[start:stop], STATIC, side="right"))
        return list(zip(self.variables[start:stop].tolist(), self.values[start:stop].tolist()))


def open_store(files: Sequence[Path], blocks: Callable[[], Iterable[Block]], *settings: Any) -> Store:
    """Read tables into a store, or find that it was done before.

    Args:
      files: what is read; their names, sizes and times are the store's key, with the code of `blocks` and `settings`.
      blocks: the rows, in the files' order.
      *settings: what else `blocks` depends on.

    Raises:
      InputError: what `blocks` raises.
    """
    h = hashlib.sha256(f"{VERSION}|{settings}|{code_digest((blocks, _write))}".encode())
    for file in files:
        h.update(f"|{file.absolute()}|{file_state(file)}".encode())
    folder = cache_dir() / "events" / h.hexdigest()[:24]
    if not (folder / "about.json").is_file():
        folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        size = sum(file.stat().st_size for file in files if file.is_file())
        console.say(f"reading {files[0].name} and what belongs to it ({size / 1e6:,.0f} MB), once")
        with staging(folder.parent) as work:
            _write(work, blocks(), min(_MOST_BUCKETS, 1 + size // _BUCKET_BYTES))
            publish(work, folder)
    return Store(folder)


def _write(work: Path, blocks: Iterable[Block], buckets: int) -> None:
    cases, variables = _Numbers(), _Numbers()
    tally: Tally = Counter()
    paths = [work / f"bucket{k}" for k in range(buckets)]
    rows, valued = Counter[int](), Counter[int]()
    with contextlib.ExitStack() as stack:
        handles = [stack.enter_context(open(path, "wb")) for path in paths]
        for block in blocks:
            tally.update(block.tally)
            part = np.empty(len(block.times), _ROW)
            part["case"], part["variable"] = cases.of(block.cases), variables.of(block.variables)
            part["time"], part["value"] = block.times, block.values
            dated = part["time"] != STATIC
            for counter, hit in ((rows, dated), (valued, dated & ~np.isnan(part["value"]))):
                for k, n in zip(*np.unique(part["variable"][hit], return_counts=True)):
                    counter[int(k)] += int(n)
            bucket = (part["case"] % buckets).astype(np.uint16)
            part = part[np.argsort(bucket, kind="stable")]
            ends = np.cumsum(np.bincount(bucket, minlength=buckets))
            for handle, piece in zip(handles, np.split(part, ends[:-1])):
                handle.write(piece.tobytes())
    spans = np.zeros((len(cases.names), 2), np.int64)
    done = unsorted = 0
    with contextlib.ExitStack() as stack:
        outs = {name: stack.enter_context(open(work / name, "wb")) for name in _COLUMNS}
        for path in paths:
            part = np.fromfile(path, _ROW)
            path.unlink()
            case, time = part["case"], part["time"]
            order = np.argsort(case, kind="stable")
            before, after = order[:-1], order[1:]
            back = (time[after] < time[before]) & (case[after] == case[before]) & (time[after] != STATIC)
            unsorted += int(back.sum())
            order = np.lexsort((time, case))  # stable: events of one time stay in the file's order
            part = part[order]
            for name, out in outs.items():
                out.write(part[name[:-1]].astype(_COLUMNS[name]).tobytes())
            found, first, counts = np.unique(part["case"], return_index=True, return_counts=True)
            spans[found, 0], spans[found, 1] = done + first, done + first + counts
            done += len(part)
    if unsorted:
        tally[UNSORTED, ""] += unsorted
    np.save(work / "spans.npy", spans, allow_pickle=False)
    write_json(
        work / "about.json",
        {
            "events": done,
            "cases": list(cases.names),
            "variables": list(variables.names),
            "rows": [rows[k] for k in range(len(variables.names))],
            "valued": [valued[k] for k in range(len(variables.names))],
            "tally": [(what, which, n) for (what, which), n in tally.items()],
        },
    )


class _Numbers:
    """Numbers 0, 1, ... for texts in the order in which they first come."""

    def __init__(self) -> None:
        self.names: dict[str, int] = {}

    def of(self, texts: Any) -> np.ndarray:
        """int32 [n] for a pyarrow array."""
        coded = texts.dictionary_encode()
        numbers = [self.names.setdefault(str(text), len(self.names)) for text in coded.dictionary.to_pylist()]
        return np.array(numbers, np.int32)[coded.indices.to_numpy(zero_copy_only=False)]


class Column(NamedTuple):
    """What a store's variable becomes: variable `to` of the layout (-1: left out), its values * factor + offset.

    `why` is what it is counted as where it is left out, or changed; "" counts nothing.
    """

    to: int
    factor: float = 1.0
    offset: float = 0.0
    why: str = UNKNOWN


class StoredSource(RecordSource):
    """Records out of a store. `place` of an item is (number of the case, or -1 for one without events; hours of its start).

    Args:
      items: the records.
      variables: of the layout.
      columns: names of what is known besides.
      tally: counts of the listing.
      store: where the events lie.
      mapping: what becomes of the store's variables, in their order.
    """

    def __init__(
        self,
        items: Iterable[Item],
        variables: Sequence[Any],
        columns: Sequence[str] = (),
        tally: Tally | None = None,
        *,
        store: Store,
        mapping: Sequence[Column],
    ):
        super().__init__(items, variables, columns, tally)
        self.store, self.mapping = store, tuple(mapping)
        self._to = np.array([column.to for column in mapping], np.int32)
        self._factor, self._offset = (np.array([column[k] for column in mapping], np.float64) for k in (1, 2))
        self._changed = (self._factor != 1) | (self._offset != 0)

    def read(self, item: Item) -> Found:
        """The case's dated events, their variables and units as the layout has them."""
        case, origin = item.place
        start, stop = self.store.span(case)
        start += int(np.searchsorted(self.store.times[start:stop], STATIC, side="right"))
        times = np.array(self.store.times[start:stop]) - origin
        coded = np.array(self.store.variables[start:stop])
        values = np.array(self.store.values[start:stop], np.float64) * self._factor[coded] + self._offset[coded]
        tally: Tally = Counter()
        lost = self._to[coded] < 0
        for k, n in zip(*np.unique(coded[(lost | self._changed[coded]) & (times <= item.end)], return_counts=True)):
            if self.mapping[k].why:
                tally[self.mapping[k].why, self.store.names[k].replace(SEPARATOR, " in ")] += int(n)
        return Found(Events(times[~lost], self._to[coded[~lost]], values[~lost]), tally=tally)

    def identity(self) -> Iterator[str]:
        """As for all records, and the store's key."""
        yield f"{self.store.key}|{self.mapping}"
        yield from super().identity()

    def state(self, item: Item) -> str:
        """Nothing: the store's key is in `identity`."""
        return ""


SEPARATOR = "\x1f"  # between a variable and its unit, which are one variable to a store
