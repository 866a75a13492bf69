"""A folder with a long table of events (id, time, variable, value, perhaps unit) and a table of labels, CSV or Parquet."""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from medjax.data.blocks import batches_of, header, is_table, parse_time, read_rows, to_block
from medjax.data.events import Block, Store, StoredSource, open_store
from medjax.data.layouts import Layout
from medjax.data.record_source import Item
from medjax.data.records import Tally, Variable
from medjax.data.tables import PATIENTS, known_columns, read_split
from medjax.data.units import COMMON, unify
from medjax.errors import InputError
from medjax.formats.table import Table, parse_age, parse_sex

IDS = ("id", "case_id", "case", "stay_id", "record_id", "encounter_id", "admission_id", "hadm_id", "subject_id", *PATIENTS)
TIMES = ("time", "hours", "hour", "timestamp", "datetime", "charttime", "date")
NAMES = ("variable", "code", "parameter", "item", "itemid", "measurement", "concept", "name")
VALUES = ("value", "numeric_value", "valuenum", "result")
UNITS = ("unit", "units", "valueuom", "uom")
LABELS = ("label", "class", "outcome", "target", "diagnosis", "event", "y_true", "y")
ENDS = ("prediction_time", "end", *TIMES)
STARTS = ("start", "admission_time", "admittime", "intime")
WITHOUT_LABEL = "records with events and without a label, left out"
_FLAGS = {"1": 1, "1.0": 1, "true": 1, "0": 0, "0.0": 0, "false": 0, "": -1, "-1": -1, "-1.0": -1}
_ONE_HOT = 20  # the most different texts in a column that becomes statics
_WHERE = "expected a table of id, time, variable and value, and one of id and label, beside each other"


class _Tables(NamedTuple):
    events: Table
    labels: Table
    ranges: Table | None


class _Roles(NamedTuple):
    """Columns of the table of labels."""

    id: str
    labels: tuple[str, ...]
    end: str | None
    start: str | None
    patient: str | None
    split: str | None
    duration: str | None
    known: dict[str, str]
    statics: tuple[str, ...]


def sources(
    path: str | Path, *, labels: Sequence[str] = (), classes: Sequence[str] = (), end: float = 0.0, most: int = 1024
) -> Layout:
    """Read a table of events and a table of labels, which are found in a folder by their columns, upper and lower case alike.

    Events: an id (id, stay_id, subject_id, ...), `time`, `variable` (code, item, parameter), `value`, and perhaps `unit`. Times
    are hours since the record's start, or ISO dates. Rows may come in any order. A variable without any value is a code.

    Labels: the id, `label` (class, outcome, target, or the columns named; several columns of 1, 0 and blanks are asked one by
    one), and as it pleases `patient`, `split`, `sex`, `age`, `site`, a prediction `time`, a `start` (of dates; the first event
    otherwise), `duration` (the label then is whether the event was seen: kind "survival"). All other columns are statics:
    numbers as they are, texts of few kinds one-hot. Several rows of an id with times of their own are answers step by step.

    No event after the prediction time enters. Without one all events do.

    A table of variable, low, high and perhaps unit gives plausible ranges.

    Args:
      path: the folder, or the table of events.
      labels: columns of the labels, where they are not to be found as above.
      classes: class names in the order of the labels, where one column names them; in sorted order by default.
      end: hours since the start that may be used, where the table has no prediction time; 0 is all.
      most: variables to keep, those with the most events.

    Raises:
      InputError: no such tables or columns, an id twice, a label or time that is none, a table that cannot be read.
    """
    tables = _find(Path(path))
    table = read_rows(tables.labels.path)
    if not table.rows:
        raise InputError(f"{table.path}: has no rows\nadd one for each record")
    roles = _roles(table, labels)
    store = _store(tables.events)
    variables, mapping = unify(store, COMMON | _ranges(tables.ranges), most=most)
    names, values, kind = _labels(table, roles, classes)
    statics, static = _statics(table, roles)
    grouped: dict[str, list[int]] = {}
    for number, row in enumerate(table.rows):
        if not row[roles.id]:
            raise InputError(f"{table.path}: row {number + 2} has no {roles.id}\nfill it in")
        grouped.setdefault(row[roles.id], []).append(number)
    ends = [_time(table, row, roles.end) for row in table.rows]
    steps = any(len(rows) > 1 for rows in grouped.values())
    if steps:
        _check_steps(table, roles, grouped, ends, kind)
        kind = "steps"
    dated = _dated(table, roles, tables.events)
    items = []
    for id, rows in grouped.items():
        row = table.rows[rows[0]]
        case = store.cases.get(id, -1)
        origin = _origin(table, row, roles, store, case) if dated else 0.0
        last = max(ends[k] for k in rows) - origin
        item = Item(
            id=id,
            patient=row[roles.patient] if roles.patient else "",
            label=-1 if steps else values[rows[0]],
            place=(case, origin),
            end=last if math.isfinite(last) else end or math.inf,
            static=static[rows[0]],
            known=_known(row, roles.known),
            duration=_number(table, row, roles.duration) if roles.duration else math.nan,
        )
        if steps:
            order = sorted(rows, key=lambda k: ends[k])
            item = item._replace(steps=(tuple(ends[k] - origin for k in order), tuple(values[k] for k in order)))
        items.append((read_split(table.path, id, row[roles.split]) or "all" if roles.split else "all", item))
    tally: Tally = store.tally + Counter({(WITHOUT_LABEL, ""): len(store.cases.keys() - grouped.keys())})
    found: dict[str, Any] = {}
    for split in dict.fromkeys(split for split, _ in items):
        part = [item for s, item in items if s == split]
        # What the listing has left out is told once.
        found[split] = StoredSource(
            part, variables, tuple(roles.known), tally if not found else None, store=store, mapping=mapping
        )
    until = f"up to each one's {roles.end}" if roles.end else f"up to {end:g} hours" if end else "all of them"
    about = (
        f"{len(items):,} records of {table.path.name} with {len(store):,} events of {len(variables):,} variables in "
        f"{tables.events.path.name}, {until}; statics: {', '.join(statics) or 'none'}"
    )
    return Layout(found, names, kind, about, tuple(variables), statics)


def sniff(path: str | Path) -> str:
    """Why this looks like a long table with labels; "" where it does not."""
    try:
        tables = _find(Path(path))
        roles = _roles(read_rows(tables.labels.path), ())
    except InputError:
        return ""
    return f"{tables.events.path.name} holds events and {tables.labels.path.name} the label {', '.join(roles.labels[:4])}"


def _find(path: Path) -> _Tables:
    """The tables by their columns."""
    folder = path if path.is_dir() else path.parent
    if not path.exists():
        raise InputError(f"{path}: no such file or folder\n{_WHERE}")
    heads = [header(file) for file in sorted(folder.iterdir()) if is_table(file)]
    events = [h for h in heads if all(h.find(*names) for names in (IDS, TIMES, NAMES)) and (h.find(*VALUES) or h.find("code"))]
    if path.is_file():
        events = [h for h in events if h.path == path]
    ranges = [h for h in heads if h not in events and h.find(*NAMES) and h.find("low", "min") and h.find("high", "max")]
    rest = [h for h in heads if h not in events and h not in ranges and h.find(*IDS)]
    rest = [h for h in rest if h.find(*LABELS)] or rest
    for what, found in (("events", events), ("labels", rest)):
        if len(found) != 1:
            named = f", {' and '.join(h.path.name for h in found[:3])}" if found else ""
            raise InputError(f"{folder}: holds {len(found)} tables of {what}{named}, where one is wanted\n{_WHERE}")
    return _Tables(events[0], rest[0], ranges[0] if ranges else None)


def _roles(table: Table, labels: Sequence[str]) -> _Roles:
    id, end, start = table.need(*IDS), table.find(*ENDS), table.find(*STARTS)
    patient, split, duration = table.find(*PATIENTS), table.find("split"), table.find("duration")
    known = {name: column for name, column in known_columns(table).items() if name != "view"}
    taken = {id, end, start, patient, split, duration, *known.values()}
    rest = [column for column in table.columns if column not in taken]
    named = tuple(table.need(name) for name in labels)
    if not named and (column := table.find(*LABELS)):
        named = (column,)
    if not named:
        named = tuple(c for c in rest if {r[c].lower() for r in table.rows} <= _FLAGS.keys() and any(r[c] for r in table.rows))
    if not named:
        raise InputError(
            f"{table.path}: has no column label (or outcome, target...) and none of only 0 and 1\n"
            f"name the columns: --data.labels A B, out of {', '.join(table.columns)}"
        )
    return _Roles(id, named, end, start, patient, split, duration, known, tuple(c for c in rest if c not in named))


def _labels(table: Table, roles: _Roles, classes: Sequence[str]) -> tuple[tuple[str, ...], list[Any], Any]:
    """(class names, label of each row, kind)."""

    def flag(row: dict[str, str], column: str) -> int:
        if row[column].lower() not in _FLAGS:
            raise InputError(f"{table.path}: {row[column]!r} in the column {column} is no label\ngive 1, 0, or blank")
        return _FLAGS[row[column].lower()]

    if len(roles.labels) > 1:
        return roles.labels, [tuple(flag(row, c) for c in roles.labels) for row in table.rows], "multi"
    (column,) = roles.labels
    texts = {row[column] for row in table.rows} - {"", "-1"}
    if {text.lower() for text in texts} <= _FLAGS.keys():
        names = tuple(classes) or (f"no {column}", column)
        return names, [flag(row, column) for row in table.rows], "survival" if roles.duration else "single"
    names = tuple(classes) or tuple(sorted(texts))
    if strange := sorted(texts - set(names)):
        raise InputError(f"{table.path}: {strange[0]!r} in the column {column} is not one of the classes {', '.join(names)}")
    places = {name: k for k, name in enumerate(names)} | {"": -1, "-1": -1}
    return names, [places[row[column]] for row in table.rows], "single"


def _check_steps(table: Table, roles: _Roles, grouped: dict[str, list[int]], ends: list[float], kind: str) -> None:
    id = next(id for id, rows in grouped.items() if len(rows) > 1)
    if roles.end is None or kind != "single":
        raise InputError(f"{table.path}: names {id!r} twice\nkeep one row for each record, or give one label with a time")
    for id, rows in grouped.items():
        if len({ends[k] for k in rows}) < len(rows):
            raise InputError(f"{table.path}: names {id!r} twice at one {roles.end}\nkeep one row for each time")
        if roles.split and len({table.rows[k][roles.split] for k in rows}) > 1:
            raise InputError(f"{table.path}: puts {id!r} into two splits\nkeep one of them")


def _statics(table: Table, roles: _Roles) -> tuple[tuple[str, ...], list[tuple[float, ...]]]:
    """(names, values of each row): age, sex, numbers as they are, texts of few kinds one-hot; other columns are no use."""
    names: list[str] = []
    columns: list[list[float]] = []
    for name, column in {**roles.known, **{c: c for c in roles.statics}}.items():
        texts = [row[column] for row in table.rows]
        if name == "age":
            names.append("age")
            columns.append([parse_age(text) for text in texts])
        elif name == "sex":
            names.append("male")
            columns.append([{"M": 1.0, "F": 0.0}.get(parse_sex(text), math.nan) for text in texts])
        elif name != "site" and all(_is_number(text) for text in texts):
            names.append(name)
            columns.append([float(text) if text else math.nan for text in texts])
        elif name != "site" and len(kinds := sorted(set(texts) - {""})) <= _ONE_HOT:
            names += [f"{name}: {kind}" for kind in kinds]
            columns += [[float(text == kind) if text else math.nan for text in texts] for kind in kinds]
    return tuple(names), list(zip(*columns)) if columns else [()] * len(table.rows)


def _is_number(text: str) -> bool:
    try:
        return not text or math.isfinite(float(text))
    except ValueError:
        return False


def _known(row: dict[str, str], columns: dict[str, str]) -> tuple[Any, ...]:
    read: dict[str, Any] = {"sex": parse_sex, "age": parse_age}
    return tuple(read.get(name, str)(row[column]) for name, column in columns.items())


def _number(table: Table, row: dict[str, str], column: str) -> float:
    if not row[column] or not _is_number(row[column]):
        raise InputError(f"{table.path}: {row[column]!r} in the column {column} is no number\nmend or remove the row")
    return float(row[column])


def _time(table: Table, row: dict[str, str], column: str | None) -> float:
    if column is None:
        return math.inf
    time = parse_time(row[column])
    if time is None or math.isnan(time):
        raise InputError(f"{table.path}: {row[column]!r} in the column {column} is no time\ngive hours, or an ISO date")
    return time


def _dated(table: Table, roles: _Roles, events: Table) -> bool:
    """Whether times are dates: those of the events, and so those of the labels."""
    column = events.need(*TIMES)
    batch = next(batches_of(events.path, [column]), None)
    first = next((t for t in batch.column(0).to_pylist() if t is not None), 0) if batch else 0
    dated = not _is_number(str(first))
    if roles.end and _is_number(table.rows[0][roles.end]) == dated:
        raise InputError(
            f"{table.path}: times are {'hours where the events have dates' if dated else 'dates where they have hours'}"
        )
    return dated


def _origin(table: Table, row: dict[str, str], roles: _Roles, store: Store, case: int) -> float:
    if roles.start and row[roles.start]:
        return _time(table, row, roles.start)
    first = store.first_time(case) if case >= 0 else math.nan
    end = _time(table, row, roles.end)
    return end if math.isnan(first) and math.isfinite(end) else min(first, end) if not math.isnan(first) else 0.0


def _ranges(table: Table | None) -> dict[str, Variable]:
    if table is None:
        return {}
    table = read_rows(table.path)
    name, low, high, unit = table.need(*NAMES), table.need("low", "min"), table.need("high", "max"), table.find(*UNITS)
    found = {}
    for row in table.rows:
        lo, hi = (_number(table, row, c) if row[c] else sign * math.inf for c, sign in ((low, -1), (high, 1)))
        like = COMMON.get(row[name].lower(), Variable(row[name]))
        found[row[name].lower()] = like._replace(unit=row[unit] if unit else like.unit, low=lo, high=hi)
    return found


def _store(table: Table) -> Store:
    roles = {"case": table.need(*IDS), "time": table.need(*TIMES), "variable": table.need(*NAMES)}
    roles |= {role: c for role, names in (("value", VALUES), ("unit", UNITS)) if (c := table.find(*names))}
    return open_store([table.path], functools.partial(_blocks, table.path, roles))


def _blocks(path: Path, roles: dict[str, str]) -> Iterator[Block]:
    for batch in batches_of(path, list(roles.values())):
        yield to_block(path, batch, roles)
