"""Records as events: what a Source of a layout of records gives for each case, whatever files they come from.

A case is one stay, admission or person up to a prediction time. Its example holds, besides `id`, `patient`, `label` and `path`:

  times: Varying float32 [k], hours since the record's start, ascending; events of the same time keep the file's order.
  variables: Varying int32 [k], which of the layout's `variables` each event is of.
  values: Varying float32 [k], in the variable's unit; a category's number; NaN for a code that has happened and has no value.
  static: float32 [S], the layout's `statics`, NaN where one is not known.
  end: float32, the prediction time in hours since the start: no event comes after it.
  sex, age, site: where they are known, as for images.

Labels, by the layout's `kind`:

  "single", "ordinal": int, -1 missing.   "multi": int8 [K] of 1, 0, -1.
  "steps": -1, with label_times Varying float32 [m] (ascending hours) and label_values Varying int8 [m]: an answer for each of
    these times, from events up to it alone. With two classes it is 1, 0 or -1 for missing; with more it is the number of a
    class, whose order counts.
  "survival": int, 1 where the event was seen, 0 where the follow-up ended before it, -1 missing; with `duration` float32, the
    time from `end` to either, in the unit that the layout's `about` names.

What cannot be used of an event is left out and counted, by one set of rules for all layouts: see `clean`. A Source's `tally()`
gives these counts of the cases that have been read; preparation keeps them, and the report's audit tells them (`tell`).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

# What is counted: (what, of which variable or file) is the key of a tally.
OUTSIDE = "values outside their plausible range, left out"
CONVERTED = "values in another unit, told by their range and converted"
NOT_FINITE = "values that are infinite or no number, left out"
VALUELESS = "events without a value, left out"
LATE = "events after the end of the record, left out"
EARLY = "events before the start of the record, left out"
UNKNOWN = "events of unknown variables, left out"
UNSORTED = "events that did not stand in the order of time, sorted"
EMPTY = "records without any event, kept"
_NAMED = 6  # variables that a note names

Tally = Counter[tuple[str, str]]


class Conversion(NamedTuple):
    """Another unit that values of a variable come in, whose range does not meet the plausible one: value * factor + offset."""

    unit: str
    low: float
    high: float
    factor: float
    offset: float = 0.0


class Variable(NamedTuple):
    """One thing that is measured or recorded again and again.

    Attributes:
      name: as the files call it.
      unit: of its values; "" where they have none or the files do not say.
      low: least plausible value: what lies below is counted and left out.
      high: greatest plausible value.
      categories: names of its values 0, 1, ... where these are no quantities.
      code: it has no value: that it happened is all there is.
      conversions: other units, where a value outside of the range tells beyond doubt that it is in one of them.
    """

    name: str
    unit: str = ""
    low: float = -math.inf
    high: float = math.inf
    categories: tuple[str, ...] = ()
    code: bool = False
    conversions: tuple[Conversion, ...] = ()


FAHRENHEIT = Conversion("°F", 78.8, 113.0, 5 / 9, -160 / 9)
CELSIUS_RANGE = (26.0, 45.0)


class Events(NamedTuple):
    """Events of one case, in any order of time.

    Attributes:
      times: float64 [k], hours.
      variables: int32 [k].
      values: float64 [k].
    """

    times: np.ndarray
    variables: np.ndarray
    values: np.ndarray


NO_EVENTS = Events(np.empty(0), np.empty(0, np.int32), np.empty(0))


class Rules:
    """The variables' plausible ranges as arrays, for `clean`."""

    def __init__(self, variables: Sequence[Variable]):
        self.names = [v.name for v in variables]
        self.low = np.array([v.low for v in variables])
        self.high = np.array([v.high for v in variables])
        self.code = np.array([v.code for v in variables], bool)
        self.conversions = [(k, c) for k, v in enumerate(variables) for c in v.conversions]


def clean(events: Events, rules: Rules, *, end: float, start: float = 0.0) -> tuple[Events, Tally]:
    """Events that can be used, by time, and counts of what was left out or changed.

    In this order: events after `end` and before `start` are left out; values that are NaN (but for codes) or infinite are left
    out; values that by their range are in another unit are converted; values outside of the plausible range are left out;
    events are sorted by time, those of one time in the order of the file.

    Args:
      events: of one case.
      rules: of the layout's variables.
      end: the last time that may be known, inclusive.
      start: the first.
    """
    tally: Tally = Counter()
    times, variables, values = events
    if not len(times):
        return events, tally

    def count(what: str, hit: np.ndarray) -> None:
        for k, n in zip(*np.unique(variables[hit], return_counts=True)):
            tally[what, rules.names[k]] += int(n)

    code = rules.code[variables]
    late, early = times > end, times < start
    unfinite = ~np.isfinite(values) & ~code
    valueless = np.isnan(values) & unfinite
    keep = ~(late | early | unfinite) & np.isfinite(times)
    count(LATE, late)
    count(EARLY, early)
    count(VALUELESS, valueless & ~late & ~early)
    count(NOT_FINITE, unfinite & ~valueless & ~late & ~early)
    times, variables, values = times[keep], variables[keep], values[keep]
    outside = _outside(variables, values, rules)
    if outside.any():
        values = values.copy()
        for k, other in rules.conversions:
            hit = outside & (variables == k) & (values >= other.low) & (values <= other.high)
            if hit.any():
                values[hit] = values[hit] * other.factor + other.offset
                tally[CONVERTED, f"{rules.names[k]} from {other.unit}"] += int(hit.sum())
        outside = _outside(variables, values, rules)
        count(OUTSIDE, outside)
        times, variables, values = times[~outside], variables[~outside], values[~outside]
    if (np.diff(times) < 0).any():
        order = np.argsort(times, kind="stable")
        times, variables, values = times[order], variables[order], values[order]
    return Events(times, variables, values), tally


def _outside(variables: np.ndarray, values: np.ndarray, rules: Rules) -> np.ndarray:
    with np.errstate(invalid="ignore"):  # a code's NaN is not outside
        return (values < rules.low[variables]) | (values > rules.high[variables])


def tell(tally: Tally) -> list[str]:
    """A line for each kind of thing that was counted, with the variables that it befell most."""
    lines = []
    for what in dict.fromkeys(what for what, _ in tally):
        of = Counter({which: n for (w, which), n in tally.items() if w == what})
        named = [f"{which} {n:,}" for which, n in of.most_common(_NAMED) if which]
        if len(of) > _NAMED:
            named.append(f"{len(of) - _NAMED:,} others")
        lines.append(f"{sum(of.values()):,} {what}" + (f" ({', '.join(named)})" if named else ""))
    return sorted(lines)
