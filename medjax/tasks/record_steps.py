"""Preparation of records: events become steps of one fixed shape, and a summary of each variable for simple models."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from medjax.cases import Varying
from medjax.data.records import Variable
from medjax.errors import InputError

SUMMARIES = ("mean", "min", "max", "first", "last", "count", "std")  # of each variable's values, in the order of `summary`
KEPT = ("id", "patient", "label", "static", "sex", "age", "site", "duration")
NO_CODE = 0  # fills up a step's list of codes; the codes themselves count from 1
NO_STEP = -1


class Steps(NamedTuple):
    """How events become steps.

    Attributes:
      form: "grid", steps of equal length up to the prediction time; "irregular", one step for each distinct time.
      hours: how far back from the prediction time a grid reaches.
      step: length of a grid's steps in hours.
      most: steps of the irregular form at most; the latest ones are kept.
      value: what stands for several values of one variable in one step.
      codes: different codes of one step that are kept at most, the latest ones.
    """

    form: Literal["grid", "irregular"] = "grid"
    hours: float = 48.0
    step: float = 1.0
    most: int = 128
    value: Literal["mean", "last"] = "mean"
    codes: int = 16

    @property
    def total(self) -> int:
        """Steps of an example, T."""
        return self.most if self.form == "irregular" else max(int(np.ceil(self.hours / self.step - 1e-9)), 1)


def record_preprocess(
    variables: Sequence[Variable], steps: Steps, *, per_step: bool = False
) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """example of events (see `medjax.data.records`) -> example of fixed shapes.

    The result holds what of `KEPT` is there, and

      values: float32 [T, D], in the variables' units, NaN where nothing was observed; D counts the variables that are no codes.
        A value from before the first step stands there where that step has none of its own.
      times: float32 [T], hours since the first step began, at the end of each step of a grid; 0 beyond `length`.
      length: int32, steps up to the prediction time; 1 at least.
      begin: float32, hours from the record's start to the first step's.
      summary: float32 [D * 7 + codes], `SUMMARIES` of each variable over the whole record, NaN (count: 0) where there is none,
        and how often each code is there.
      codes: int32 [T, C], where there are codes: 1 + the code's place among the codes, `NO_CODE` where there are fewer.
      label_steps int32, label_times float32, label_values int8 [T], with per_step: up to which step each question may look,
        `NO_STEP` filling up; `label` becomes the greatest known answer, -1 without one; `unasked` int32 counts the questions of
        before the first step has ended.

    Raises:
      InputError: an event after the prediction time, questions that do not fit, or a number that no variable has.
    """
    return functools.partial(_prepare, variables=tuple(variables), steps=steps, per_step=per_step)


def _prepare(example: Mapping[str, Any], *, variables: tuple[Variable, ...], steps: Steps, per_step: bool) -> dict[str, Any]:
    times, which, values, end = _checked(example, variables)
    code = np.array([v.code for v in variables], bool)
    place = np.where(code, np.cumsum(code) - 1, np.cumsum(~code) - 1)
    at, begin, step_times, length = _place(times, end, steps)
    told = ~code[which] & np.isfinite(values)
    d = int((~code).sum())
    found: dict[str, Any] = {name: example[name] for name in KEPT if name in example}
    if not np.size(found.get("static", 0)):
        del found["static"]  # an array without elements is nothing to a device
    found |= {
        "values": _gather(at[told], place[which[told]], values[told], (steps.total, d), steps.value),
        "times": step_times,
        "length": np.int32(length),
        "begin": np.float32(begin),
    }
    summary = summarise(place[which[told]], values[told], d).ravel()
    if code.any():
        happened = code[which]
        found["codes"] = _list_codes(at[happened], place[which[happened]], steps)
        counts = np.bincount(place[which[happened]], minlength=int(code.sum()))
        summary = np.concatenate([summary, counts.astype(np.float32)])
    found["summary"] = summary
    return found | (_questions(example, begin, steps, length) if per_step else {})


def _checked(example: Mapping[str, Any], variables: tuple[Variable, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """(times float64, variables, values float64, end), sorted by time."""
    times, which, values = (np.asarray(example[name].array) for name in ("times", "variables", "values"))
    end, times, values = float(example["end"]), times.astype(np.float64), values.astype(np.float64)
    if len(times) and not times.max() <= end:
        raise InputError(
            f"{example['id']}: an event at {times.max():.4g} h comes after the prediction time {end:.4g} h\n"
            "the layout must leave out what is not known by then"
        )
    if len(which) and not (which.min() >= 0 and which.max() < len(variables)):
        raise InputError(f"{example['id']}: an event of variable {which.max()}\nthere are 0 to {len(variables) - 1}")
    order = np.argsort(times, kind="stable")
    return times[order], which[order], values[order], end


def _place(times: np.ndarray, end: float, steps: Steps) -> tuple[np.ndarray, float, np.ndarray, int]:
    """(step of each event, under 0 for before the first; hours at which steps begin; times [T]; steps that there are)."""
    full = np.zeros(steps.total, np.float32)
    if steps.form == "irregular":
        distinct, at = np.unique(times, return_inverse=True)
        at = at - max(len(distinct) - steps.most, 0)
        distinct = distinct[-steps.most :]
        begin, length = (float(distinct[0]) if len(distinct) else 0.0), max(len(distinct), 1)
        full[: len(distinct)] = distinct - begin
        return at, begin, full, length
    begin = max(end - steps.total * steps.step, 0.0)
    length = int(np.clip(np.ceil((end - begin) / steps.step - 1e-6), 1, steps.total))
    # What happens at the very end belongs to the last step.
    at = np.minimum(np.floor((times - begin) / steps.step + 1e-6).astype(int), length - 1)
    full[:length] = steps.step * np.arange(1, length + 1)
    return at, begin, full, length


def _gather(
    at: np.ndarray, column: np.ndarray, values: np.ndarray, shape: tuple[int, int], how: Literal["mean", "last"]
) -> np.ndarray:
    """float32 [T, D] of events in the order of time: their last value or mean in each step, NaN where there is none."""
    grid = np.full(shape, np.nan)
    early = at < 0
    grid[0, column[early]] = values[early]  # the last one stays
    at, column, values = at[~early], column[~early], values[~early]
    if how == "last":
        grid[at, column] = values
        return grid.astype(np.float32)
    flat, size = at * shape[1] + column, shape[0] * shape[1]
    count = np.bincount(flat, minlength=size).reshape(shape)
    total = np.bincount(flat, values, size).reshape(shape)
    return np.where(count > 0, total / np.maximum(count, 1), grid).astype(np.float32)


def summarise(column: np.ndarray, values: np.ndarray, d: int) -> np.ndarray:
    """`SUMMARIES` float32 [D, 7] of events int [k], float [k] in the order of time."""
    count = np.bincount(column, minlength=d)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.bincount(column, values, d) / count
        spread = np.sqrt(np.bincount(column, np.square(values - mean[column]), d) / count)
    low, high, first, last = np.full((4, d), np.nan)
    np.fmin.at(low, column, values)
    np.fmax.at(high, column, values)
    first[column[::-1]] = values[::-1]
    last[column] = values
    return np.stack([mean, low, high, first, last, count, spread], 1).astype(np.float32)


def _list_codes(at: np.ndarray, code: np.ndarray, steps: Steps) -> np.ndarray:
    found = np.full((steps.total, steps.codes), NO_CODE, np.int32)
    at = np.maximum(at, 0)
    for step in np.unique(at):
        # Each code once, the latest ones of the step.
        mine = list(dict.fromkeys(code[at == step][::-1].tolist()))[: steps.codes]
        found[step, : len(mine)] = np.array(mine) + 1
    return found


def _questions(example: Mapping[str, Any], begin: float, steps: Steps, length: int) -> dict[str, Any]:
    """The questions of one record: step T - 1 of a grid ends at begin + T * step, and answers for that time or later."""
    none = Varying(np.empty(0))
    times, values = (np.asarray(example.get(name, none).array) for name in ("label_times", "label_values"))
    at = np.floor((times - begin) / steps.step + 1e-6).astype(int) - 1
    kept = at >= 0  # before the first step has ended nothing is known
    times, values, at = times[kept], values[kept], np.minimum(at[kept], length - 1)
    if len(at) > steps.total:
        raise InputError(f"{example['id']}: {len(at)} label times for {steps.total} steps\nmake the steps shorter: --grid.step")
    where, when, what = (
        np.full(steps.total, NO_STEP, np.int32),
        np.zeros(steps.total, np.float32),
        np.full(steps.total, -1, np.int8),
    )
    if "label_times" not in example:  # nobody asks: a risk is given at every step
        where[:length], when[:length] = np.arange(length), begin + steps.step * np.arange(1, length + 1)
    where[: len(at)], when[: len(at)], what[: len(at)] = at, times, values
    label = np.int64(max(values, default=-1))
    return {"label_steps": where, "label_times": when, "label_values": what, "label": label, "unasked": np.int32((~kept).sum())}
