"""One task of the mimic3-benchmarks: PATH/{train,test}/SUBJECT_episodeK_timeseries.csv with their listfile.csv."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from medjax.data.layouts import Layout
from medjax.data.record_source import Found, Item, RecordSource, check_ids
from medjax.data.records import CELSIUS_RANGE, FAHRENHEIT, UNKNOWN, Conversion, Events, Tally, Variable
from medjax.errors import InputError
from medjax.formats.table import Table, open_table, read_table

MORTALITY, DECOMPENSATION, STAY, PHENOTYPING = TASKS = (
    "in-hospital-mortality",
    "decompensation",
    "length-of-stay",
    "phenotyping",
)
# Upper bounds of the benchmark's ten classes of what remains of a stay, in hours.
STAY_BOUNDS = (24.0, 48.0, 72.0, 96.0, 120.0, 144.0, 168.0, 192.0, 336.0)
STAY_CLASSES = ("under 1 day", *(f"{d} to {d + 1} days" for d in range(1, 8)), "8 to 14 days", "over 14 days")
UNSEEN = "values of an unknown category, left out"
_MORTALITY_HOURS = 48.0
_NAME = re.compile(r"(\d+)_episode\d+_timeseries\.csv")
_WHERE = "expected PATH/train/*_timeseries.csv and PATH/test/*_timeseries.csv, each with a listfile.csv"

_EYE = (*("None", "1 No Response", "2 To pain", "To Pain", "3 To speech", "To Speech", "4 Spontaneously", "Spontaneously"),)
_MOTOR = (
    *("1 No Response", "No response", "2 Abnorm extensn", "Abnormal extension", "3 Abnorm flexion", "Abnormal Flexion"),
    *("4 Flex-withdraws", "Flex-withdraws", "5 Localizes Pain", "Localizes Pain", "6 Obeys Commands", "Obeys Commands"),
)
_VERBAL = (
    *("No Response-ETT", "1.0 ET/Trach", "1 No Response", "No Response", "2 Incomp sounds", "Incomprehensible sounds"),
    *("3 Inapprop words", "Inappropriate Words", "4 Confused", "Confused", "5 Oriented", "Oriented"),
)
# 12 quantities and 5 variables of 47 categories; with a mask for each of the 17 they make the benchmark's 76 inputs. The names
# are the files' own. Ranges are wide: what is left out are slips.
VARIABLES = (
    Variable("Capillary refill rate", categories=("0.0", "1.0")),
    Variable("Diastolic blood pressure", "mmHg", 5, 250),
    Variable("Fraction inspired oxygen", "fraction", 0.2, 1.1, conversions=(Conversion("%", 20, 110, 0.01),)),
    Variable("Glascow coma scale eye opening", categories=_EYE),
    Variable("Glascow coma scale motor response", categories=_MOTOR),
    Variable("Glascow coma scale total", categories=tuple(str(k) for k in range(3, 16))),
    Variable("Glascow coma scale verbal response", categories=_VERBAL),
    Variable("Glucose", "mg/dL", 5, 2000),
    Variable("Heart Rate", "1/min", 5, 350),
    Variable("Height", "cm", 40, 240),
    Variable("Mean blood pressure", "mmHg", 10, 300),
    Variable("Oxygen saturation", "%", 20, 100),
    Variable("Respiratory rate", "1/min", 1, 120),
    Variable("Systolic blood pressure", "mmHg", 20, 350),
    Variable("Temperature", "°C", *CELSIUS_RANGE, conversions=(FAHRENHEIT,)),
    Variable("Weight", "kg", 20, 350),
    Variable("pH", "", 6.5, 8),
)
_PLACES = {variable.name: k for k, variable in enumerate(VARIABLES)}


class _List(NamedTuple):
    """A table of labels: its split, the table, and the folder of its stays."""

    split: str
    table: Table
    folder: Path


class _Episodes(RecordSource):
    def read(self, item: Item) -> Found:
        return _read(item.place)


def sources(path: str | Path, *, task: str = "") -> Layout:
    """Read a task of the benchmark, told by its listfiles, with the benchmark's own splits.

    In-hospital mortality (the first 48 hours) is of kind "single", phenotyping (the whole stay) "multi". Decompensation and
    length of stay ask again every hour of a stay: one case a stay, kind "steps", its rows grouped. What remains of a stay is
    answered as the number of one of `STAY_CLASSES`, the benchmark's ten. A patient's stays share its SUBJECT.

    train_listfile.csv, val_listfile.csv and test_listfile.csv are taken where they are; else train/listfile.csv and
    test/listfile.csv.

    Args:
      path: the task's folder, or one with several tasks.
      task: which of these; in-hospital-mortality by default.

    Raises:
      InputError: no such files, listfiles of another form, a stay twice or without its file; while reading, a file that is not
        of this form, or whose hours go back.
    """
    root = Path(path)
    if not root.is_dir():
        raise InputError(f"{root}: no such folder\n{_WHERE}")
    if task and task not in TASKS:
        raise InputError(f"there is no task {task!r}\nthere are {', '.join(TASKS)}", usage=True)
    within = [root / name for name in (task, *TASKS) if name and (root / name).is_dir()]
    root = within[0] if within else root
    lists = _lists(root)
    if not lists:
        raise InputError(f"{root}: holds no listfile.csv\n{_WHERE}")
    kinds = {_task(one.table) for one in lists}
    if len(kinds) > 1:
        # A few rows of decompensation may all be 0 or 1 hours; the longer lists know better.
        kinds = {STAY} if kinds == {STAY, DECOMPENSATION} else kinds
    if len(kinds) != 1 or (task and task not in kinds):
        raise InputError(f"{root}: its listfiles are of {' and '.join(sorted(kinds))}\ngive the folder of one task")
    (found,) = kinds
    items = {one.split: _items(one, root, found) for one in lists}
    everything = [item for part in items.values() for item in part]
    check_ids(everything, root)
    classes = _classes(lists[0].table, found)
    sources = {split: _Episodes(part, VARIABLES) for split, part in items.items()}
    hours = "the first 48 hours" if found == MORTALITY else "whole stays"
    about = f"{len(everything):,} stays of the MIMIC-III benchmark's {found}: {hours}, {len(VARIABLES)} variables"
    kind: Any = {MORTALITY: "single", PHENOTYPING: "multi"}.get(found, "steps")
    return Layout(sources, classes, kind, about, VARIABLES)


def sniff(path: str | Path) -> str:
    """Why this looks like a task of the benchmark; "" where it does not."""
    root = Path(path)
    for folder in (root, *(root / task for task in TASKS)):
        for part in ("train", "test"):
            if (folder / part).is_dir() and any((folder / part).glob("*_episode*_timeseries.csv")):
                return f"{folder.name}/{part} holds episodes of the MIMIC-III benchmark"
    return ""


def _lists(root: Path) -> list[_List]:
    found = []
    for split in ("train", "val", "test"):
        folder = "test" if split == "test" else "train"  # validation stays lie among those for training
        for file in (root / f"{split}_listfile.csv", root / split / "listfile.csv"):
            if file.is_file():
                found.append(_List(split, read_table(file), root / (split if (root / split).is_dir() else folder)))
                break
    return found


def _task(table: Table) -> str:
    """Which task a listfile is of."""
    table.need("stay")
    period = table.find("period_length")
    if not table.rows:
        raise InputError(f"{table.path}: has no rows\nmake the task's files again")
    if period is None:
        table.need("y_true")
        return MORTALITY
    if (label := table.find("y_true")) is None:
        if len(table.columns) < 4:
            raise InputError(f"{table.path}: has neither y_true nor phenotypes\nit has {', '.join(table.columns)}")
        return PHENOTYPING
    return DECOMPENSATION if {row[label] for row in table.rows} <= {"0", "1"} else STAY


def _classes(table: Table, task: str) -> tuple[str, ...]:
    if task == PHENOTYPING:
        taken = {table.need("stay"), table.need("period_length")}
        return tuple(column for column in table.columns if column not in taken)
    if task == STAY:
        return STAY_CLASSES
    return ("survived", "died in hospital") if task == MORTALITY else ("stable", "dies within 24 hours")


def _items(one: _List, root: Path, task: str) -> list[Item]:
    table = one.table
    stay, period = table.need("stay"), table.find("period_length")
    grouped: dict[str, list[dict[str, str]]] = {}
    for row in table.rows:
        grouped.setdefault(row[stay], []).append(row)
    steps = task in (DECOMPENSATION, STAY)
    found = []
    present = {file.name for file in one.folder.iterdir()} if one.folder.is_dir() else set()
    if missing := [name for name in grouped if name not in present]:
        raise InputError(
            f"{table.path}: {len(missing):,} of {len(grouped):,} stays are not in {one.folder}, the first {missing[0]!r}\n"
            "put them there, or remove their rows"
        )
    for name, rows in grouped.items():
        named = _NAME.fullmatch(name)
        if not named:
            raise InputError(f"{table.path}: {name!r} is not called SUBJECT_episodeK_timeseries.csv\ngive it such a name")
        if len(rows) > 1 and not steps:
            raise InputError(f"{table.path}: names {name} twice\nkeep one row for each stay")
        hours = [_number(table, row, period) if period else _MORTALITY_HOURS for row in rows]
        file = one.folder / name
        id = file.relative_to(root).as_posix().removesuffix("_timeseries.csv")
        item = Item(id, named[1], -1, file, max(hours))
        if steps:
            order = np.argsort(hours, kind="stable")
            if len(set(hours)) < len(hours):
                raise InputError(f"{table.path}: names {name} twice at one period_length\nkeep one row for each")
            answers = [_answer(table, rows[k], task) for k in order]
            item = item._replace(steps=(tuple(hours[k] for k in order), tuple(answers)))
        elif task == PHENOTYPING:
            item = item._replace(label=tuple(_flag(table, rows[0], column) for column in _classes(table, task)))
        else:
            item = item._replace(label=_flag(table, rows[0], table.need("y_true")))
        found.append(item)
    return found


def _answer(table: Table, row: dict[str, str], task: str) -> int:
    label = table.need("y_true")
    if task == DECOMPENSATION:
        return _flag(table, row, label)
    return int(np.searchsorted(STAY_BOUNDS, _number(table, row, label), side="right"))


def _number(table: Table, row: dict[str, str], column: str) -> float:
    try:
        value = float(row[column])
        if not math.isfinite(value):
            raise ValueError
        return value
    except ValueError as error:
        raise InputError(f"{table.path}: {row[column]!r} in the column {column} is no number\nmend the row") from error


def _flag(table: Table, row: dict[str, str], column: str) -> int:
    if row[column] not in ("0", "1", "", "-1"):
        raise InputError(f"{table.path}: {row[column]!r} in the column {column} is no label\ngive 1, 0, or blank")
    return int(row[column] or -1)


def _read(path: Path) -> Found:
    times: list[float] = []
    variables: list[int] = []
    values: list[float] = []
    tally: Tally = Counter()
    with open_table(path) as (columns, lines):
        if columns[:1] != ("Hours",):
            raise InputError(f"{path}: does not begin with the column Hours\nmake the task's files again")
        places = [_PLACES.get(name, -1) for name in columns[1:]]
        if max(places, default=-1) < 0:
            raise InputError(f"{path}: has none of the benchmark's variables\nit has {', '.join(columns[:6])}...")
        before = -math.inf
        for number, line in enumerate(lines, 2):
            try:
                time = float(line[0])
            except ValueError as error:
                raise InputError(f"{path}: row {number} begins with {line[0]!r}, not with hours\nmend the row") from error
            if time < before:
                raise InputError(f"{path}: row {number} goes back in time, to {time:g} hours\nput the rows in order of time")
            before = time
            for k, name, text in zip(places, columns[1:], line[1:]):
                if not text:
                    continue
                if k < 0:
                    tally[UNKNOWN, name] += 1
                    continue
                value = _value(path, number, k, text)
                if value is None:
                    tally[UNSEEN, f"{name}: {text}"] += 1
                    continue
                times.append(time)
                variables.append(k)
                values.append(value)
    return Found(Events(np.array(times), np.array(variables, np.int32), np.array(values)), tally=tally)


def _value(path: Path, number: int, variable: int, text: str) -> float | None:
    """A quantity, or the place of a category; None for a category that is none."""
    found = _CATEGORY[variable].get(text) if _CATEGORY[variable] else None
    if found is not None:
        return float(found)
    try:
        value = float(text)
    except ValueError as error:
        if _CATEGORY[variable]:
            return None
        name = VARIABLES[variable].name
        raise InputError(f"{path}: row {number}: {text!r} of {name} is no number\nmend the row") from error
    if not _CATEGORY[variable]:
        return value
    place = _NUMBERED[variable].get(value)
    return None if place is None else float(place)


def _numbered(categories: Sequence[str]) -> dict[float, int]:
    """{number: place} of categories that are numbers, which files write with a decimal or without."""
    return {float(name): k for k, name in enumerate(categories) if re.fullmatch(r"\d+(\.\d+)?", name)}


_CATEGORY = [{name: k for k, name in enumerate(variable.categories)} for variable in VARIABLES]
_NUMBERED = [_numbered(variable.categories) for variable in VARIABLES]
