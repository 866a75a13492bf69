"""Sources of records: what a layout lists becomes examples, and what is left out of them is counted."""

from __future__ import annotations

import math
import types
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from medjax.cases import Varying
from medjax.data.records import EMPTY, Events, Rules, Tally, Variable, clean
from medjax.errors import InputError


class Item(NamedTuple):
    """A record as a layout lists it.

    Attributes:
      id: of the case.
      patient: whose it is; "" where it is unknown.
      label: a class, or a tuple of 1, 0 and -1 for several labels; -1 where it is missing.
      place: where its events lie: a file, or what the Source's `read` takes.
      end: the prediction time, hours since the start; infinite for the time of the last event.
      static: values of the layout's `statics`, where the listing knows them.
      known: values of the source's `columns`.
      steps: (hours, answers) of labels by time.
      duration: of kind "survival".
    """

    id: str
    patient: str
    label: int | tuple[int, ...]
    place: Any
    end: float = math.inf
    static: tuple[float, ...] = ()
    known: tuple[Any, ...] = ()
    steps: tuple[tuple[float, ...], tuple[int, ...]] | None = None
    duration: float = math.nan


class Found(NamedTuple):
    """What `read` has found of a record: its events, what it tells of the case besides, and counts.

    Attributes:
      events: in the file's order, nothing left out yet that `clean` leaves out.
      static: values of the layout's `statics`; None where the listing has them.
      known: {name: value} of the source's `columns`, where the file tells them and not the listing.
      tally: what reading has left out.
    """

    events: Events
    static: Sequence[float] | None = None
    known: Mapping[str, Any] = types.MappingProxyType({})
    tally: Tally = Counter()  # noqa: RUF012, never changed


class RecordSource:
    """Records as the examples that `medjax.data.records` describes. A layout's own class says how one is read.

    Attributes:
      items: the records.
      variables: of the layout.
      columns: names of what is known besides, out of sex, age and site.
    """

    def __init__(
        self, items: Iterable[Item], variables: Sequence[Variable], columns: Sequence[str] = (), tally: Tally | None = None
    ):
        self.items = list(items)
        self.variables = tuple(variables)
        self.columns = tuple(columns)
        self._rules = Rules(self.variables)
        self._listed = Counter(tally or {})
        self._counts: dict[int, Tally] = {}  # by case, so that one which is read twice counts once

    def read(self, item: Item) -> Found:
        """The record's events and what its file tells besides."""
        raise NotImplementedError

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, i: int) -> dict[str, Any]:
        item = self.items[i]
        found = self.read(item)
        events, tally = clean(found.events, self._rules, end=item.end)
        tally = tally + found.tally
        if not len(events.times):
            tally[EMPTY, ""] += 1
        self._counts[i] = tally
        end = item.end if math.isfinite(item.end) else max(events.times, default=0.0)
        known = {**dict(zip(self.columns, item.known)), **found.known}
        example = {
            "id": item.id,
            "patient": item.patient,
            "label": np.array(item.label, np.int8) if isinstance(item.label, tuple) else item.label,
            "path": str(item.place) if isinstance(item.place, Path) else item.id,
            "times": Varying(events.times.astype(np.float32)),
            "variables": Varying(events.variables.astype(np.int32)),
            "values": Varying(events.values.astype(np.float32)),
            "static": np.array(item.static if found.static is None else found.static, np.float32),
            "end": np.float32(end),
            **known,
        }
        if item.steps is not None:
            example["label_times"] = Varying(np.array(item.steps[0], np.float32))
            example["label_values"] = Varying(np.array(item.steps[1], np.int8))
        if not math.isnan(item.duration):
            example["duration"] = np.float32(item.duration)
        return example

    def case_id(self, i: int) -> str:
        """The id of a case, also where its file cannot be read."""
        return self.items[i].id

    def tally(self) -> Tally:
        """Counts of what was left out or changed, by the listing and in the cases that have been read so far."""
        total = Counter(self._listed)
        for counts in list(self._counts.values()):
            total.update(counts)
        return total

    def identity(self) -> Iterable[str]:
        """What a prepared cache is keyed by: all that the listing says, sizes and times, without reading the records."""
        yield f"{self.variables}|{self.columns}|{sorted(self._listed.items())}"
        for item in self.items:
            yield f"{item}|{self.state(item)}"

    def state(self, item: Item) -> str:
        """What changes when a record's content does: by default its file's size and time."""
        return file_state(item.place) if isinstance(item.place, Path) else ""


def file_state(path: Path) -> str:
    """A file's size and time; what is wrong with it where it cannot be asked, which is told when it is read."""
    try:
        stat = path.stat()
        return f"{stat.st_size}|{stat.st_mtime_ns}"
    except OSError as error:
        return str(error.strerror)


def check_ids(items: Sequence[Item], where: Path) -> None:
    """Whether every record has an id of its own.

    Raises:
      InputError: the first id that two have.
    """
    id, n = Counter(item.id for item in items).most_common(1)[0] if items else ("", 0)
    if n > 1:
        raise InputError(f"{where}: {n} records share the id {id!r}\nkeep one of them, or give them ids of their own")


def check_answers(where: Path, ids: Sequence[str], answers: Mapping[str, Any], what: str = "outcome") -> None:
    """Whether every record has an answer.

    Raises:
      InputError: how many have none, and the first.
    """
    if lost := [id for id in ids if id not in answers]:
        raise InputError(
            f"{where}: has no {what} for {len(lost):,} of {len(ids):,} records, the first {lost[0]!r}\n"
            f"add its row, with a missing {what} where it is not known, or remove the record"
        )
