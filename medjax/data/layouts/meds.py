"""MEDS 0.4, the Medical Event Data Standard: PATH/data/**/*.parquet, PATH/metadata, and PATH/labels/TASK/*.parquet."""

from __future__ import annotations

import datetime
import functools
import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from medjax.data.blocks import batches_of, header, read_rows, to_block
from medjax.data.events import SEPARATOR, Block, Store, StoredSource, open_store
from medjax.data.folders import SPLIT_NAMES
from medjax.data.layouts import Layout
from medjax.data.record_source import Item, check_ids
from medjax.data.records import Tally
from medjax.data.units import unify
from medjax.errors import InputError
from medjax.formats.table import Table

BIRTH = "MEDS_BIRTH"
WITHOUT_LABEL = "subjects without a label, left out"
WITHOUT_SPLIT = "labels of subjects that the split file does not name, left out"
_SPLITS = {**SPLIT_NAMES, "tuning": "val", "held_out": "test"}
_FOLDERS = ("labels", "task_labels", "tasks", "cohorts")
_VALUES = ("boolean_value", "integer_value", "categorical_value", "float_value")
_SEX = re.compile(r"(?:sex|gender)\W+(f|m)(?:emale|ale)?", re.IGNORECASE)
_MOST_STATICS = 128
_YEAR = 24 * 365.25
_WHERE = "expected PATH/data/*.parquet with subject_id, time, code and numeric_value, and PATH/labels/TASK.parquet"


class _Label(NamedTuple):
    subject: str
    time: float  # hours since 1970
    value: Any


def sources(path: str | Path, *, labels: Sequence[str] = (), most: int = 1024) -> Layout:
    """Read a MEDS data set with the labels of one task.

    A case is a label: a subject up to and with its prediction time, which may come many times for a subject. Codes with numeric
    values are variables, others are codes that have happened. The record starts with the subject's first dated event other than
    its birth. Events without a time are statics: 1 where a code is there, the value where it has one. From MEDS_BIRTH comes the
    age at the prediction, from a static code such as GENDER//F the sex. metadata/subject_splits.parquet is honoured (train,
    tuning, held_out); without it everything is under "all".

    Args:
      path: the data set's folder.
      labels: the task: the name of a folder or file in PATH/labels (task_labels, tasks, cohorts), or a path; not needed where
        there is one.
      most: codes to keep, those with the most events.

    Returns:
      A Layout of kind "single" by boolean_value or categorical_value, "ordinal" by integer_value.

    Raises:
      InputError: no such files or columns, none or several tasks, an answer that is no class, a label twice.
    """
    root = Path(path)
    files = _data(root)
    if not files:
        raise InputError(f"{root}: holds no data/*.parquet\n{_WHERE}")
    task, tables = _task(root, labels)
    given, names, kind = _labels(tables)
    splits = _splits(root)
    store = _store(files)
    variables, mapping = unify(store, most=most, without=(BIRTH,))
    tally: Tally = Counter(store.tally)
    statics, static = _statics(store, {label.subject for label in given})
    birth = next((k for k, name in enumerate(store.names) if name == BIRTH), -1)
    several = {subject for subject, n in Counter(label.subject for label in given).items() if n > 1}
    items: dict[str, list[Item]] = {}
    for label in sorted(given, key=lambda label: (int(label.subject), label.time)):
        split = _SPLITS.get(splits.get(label.subject, ""), "") if splits else "all"
        if not split:
            tally[WITHOUT_SPLIT, ""] += 1
            continue
        case = store.cases.get(label.subject, -1)
        born, origin = _times(store, case, birth)
        age = (label.time - born) / _YEAR if born <= label.time else math.nan
        values, sex = static.get(label.subject, (_none(statics), ""))
        # A first event after the prediction time leaves nothing to know, and no hour to count from.
        origin = min(origin, label.time)
        id = f"{label.subject}_{_stamp(label.time)}" if label.subject in several else label.subject
        item = Item(id, label.subject, label.value, (case, origin), label.time - origin, (age, *values), (sex, age))
        items.setdefault(split, []).append(item)
    everything = [item for part in items.values() for item in part]
    if not everything:
        raise InputError(f"{root}: no label of {task} is of a subject in a split\ngive labels of this data set")
    check_ids(everything, tables[0])
    tally[WITHOUT_LABEL, ""] += len(store.cases.keys() - {label.subject for label in given})
    found = {
        split: StoredSource(part, variables, ("sex", "age"), +tally if k == 0 else None, store=store, mapping=mapping)
        for k, (split, part) in enumerate(items.items())
    }
    about = f"{len(everything):,} labels {task} of {len({i.patient for i in everything}):,} subjects, {_name(root)}: "
    about += f"{len(store):,} events of {len(variables):,} codes, each label with those up to its prediction time"
    return Layout(found, names, kind, about, tuple(variables), ("age", *(_plain(name) for name in statics)))


def sniff(path: str | Path) -> str:
    """Why this looks like MEDS; "" where it does not."""
    root = Path(path)
    files = _data(root)
    if not files or not (root / "metadata").is_dir():
        return ""
    where = files[0].relative_to(root)
    try:
        columns = header(files[0]).columns
    except InputError:  # it is broken, or pyarrow is not there: reading will say which
        return f"{where} lies beside metadata/codes.parquet" if (root / "metadata" / "codes.parquet").is_file() else ""
    return f"{where} has subject_id, time and code" if {"subject_id", "time", "code"} <= set(columns) else ""


def _data(root: Path) -> list[Path]:
    return sorted((root / "data").rglob("*.parquet")) if (root / "data").is_dir() else []


def _name(root: Path) -> str:
    """What metadata/dataset.json calls the data set."""
    file = root / "metadata" / "dataset.json"
    try:
        about = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: cannot be read ({error})\nmend or remove it") from error
    about = about if isinstance(about, dict) else {}
    version = about.get("meds_version", "")
    return f"{about.get('dataset_name') or root.name} (MEDS{f' {version}' if version else ''})"


def _task(root: Path, labels: Sequence[str]) -> tuple[str, list[Path]]:
    """(name, files) of the task."""
    wanted = labels if isinstance(labels, str) else labels[0] if len(labels) == 1 else ""
    if labels and not wanted:
        raise InputError(f"--data.labels {' '.join(labels)}: one task is wanted", usage=True)
    for place in (Path(wanted), root / wanted) if wanted else ():
        if place.is_file() or (place.is_dir() and any(place.rglob("*.parquet"))):
            return place.stem, [place] if place.is_file() else sorted(place.rglob("*.parquet"))
    tasks: dict[str, list[Path]] = {}
    for folder in (root / name for name in _FOLDERS):
        for file in sorted(folder.rglob("*.parquet")) if folder.is_dir() else ():
            inside = file.relative_to(folder)
            tasks.setdefault(inside.parts[0] if len(inside.parts) > 1 else inside.stem, []).append(file)
    named = {wanted: tasks[wanted]} if wanted in tasks else {} if wanted else tasks
    if len(named) != 1:
        there = f"there are {', '.join(sorted(tasks))}: name one with --data.labels" if tasks else _WHERE
        raise InputError(f"{root}: holds {f'no labels {wanted!r}' if wanted else f'{len(tasks)} tasks of labels'}\n{there}")
    return next(iter(named.items()))


def _labels(files: Sequence[Path]) -> tuple[list[_Label], tuple[str, ...], Any]:
    """(labels, class names, kind)."""
    rows: list[tuple[str, str, str]] = []
    columns = set()
    for file in files:
        table = read_rows(file)
        columns |= {name for name in _VALUES if table.find(name) and any(row[name] for row in table.rows)}
        subject, time = table.need("subject_id"), table.need("prediction_time")
        value = next((name for name in _VALUES if name in columns), None)
        if value is None and table.rows:
            raise InputError(f"{file}: has no {', '.join(_VALUES[:3])}\nlabels are in one of these columns")
        for row in table.rows:
            if not row[subject] or not row[time]:
                raise InputError(f"{file}: a label has no subject_id or no prediction_time\nfill them in")
            rows.append((row[subject], row[time], row[value or ""]))
    if len(columns) != 1:
        raise InputError(f"{files[0]}: has labels in {' and '.join(sorted(columns)) or 'no column'}\ngive them in one")
    (column,) = columns
    if column == "float_value":
        raise InputError(f"{files[0]}: float_value is a number to be predicted\ngive classes: boolean, integer or categorical")
    texts = {value for _, _, value in rows} - {""}
    if column == "integer_value":
        if any(int(text) < 0 for text in texts):
            raise InputError(f"{files[0]}: integer_value holds numbers below 0\ngive classes 0, 1, ...")
        names = tuple(str(k) for k in range(max(2, 1 + max(map(int, texts)))))
    else:
        names = ("0", "1") if column == "boolean_value" else tuple(sorted(texts))
    places = {name: k for k, name in enumerate(names)} | {"": -1}
    kind = "ordinal" if column == "integer_value" else "single"
    return (
        [_Label(subject, _hours(time), places[value]) for subject, time, value in rows],
        (("no", "yes") if column == "boolean_value" else names),
        kind,
    )


def _hours(text: str) -> float:
    date = datetime.datetime.fromisoformat(text)
    date = date if date.tzinfo else date.replace(tzinfo=datetime.UTC)
    return (date - datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)) / datetime.timedelta(hours=1)


def _stamp(hours: float) -> str:
    date = datetime.datetime(1970, 1, 1) + datetime.timedelta(hours=hours)
    return f"{date:%Y%m%dT%H%M%S}"


def _splits(root: Path) -> dict[str, str]:
    """{subject: split}."""
    file = root / "metadata" / "subject_splits.parquet"
    if not file.is_file():
        return {}
    table: Table = read_rows(file)
    subject, split = table.need("subject_id"), table.need("split")
    found: dict[str, str] = {}
    for row in table.rows:
        if row[split] not in _SPLITS:
            raise InputError(f"{file}: the split {row[split]!r} is not one of train, tuning, held_out\nmend it")
        if found.setdefault(row[subject], row[split]) != row[split]:
            raise InputError(f"{file}: puts the subject {row[subject]} into two splits\nkeep one of them")
    return found


def _times(store: Store, case: int, birth: int) -> tuple[float, float]:
    """(hours of the birth, infinite where it is not known; hours of the first other dated event, likewise)."""
    start, stop = store.span(case)
    times, variables = store.times[start:stop], store.variables[start:stop]
    dated = np.isfinite(times)
    born, others = times[dated & (variables == birth)], times[dated & (variables != birth)]
    return float(min(born, default=math.inf)), float(min(others, default=math.inf))


def _statics(store: Store, subjects: set[str]) -> tuple[list[str], dict[str, tuple[tuple[float, ...], str]]]:
    """(codes without a time, the most frequent; {subject: (their values, sex)})."""
    held = {subject: store.statics(store.cases[subject]) for subject in subjects if subject in store.cases}
    counts = Counter(k for pairs in held.values() for k in {k for k, _ in pairs})
    kept = sorted(sorted(counts, key=lambda k: (-counts[k], k))[:_MOST_STATICS], key=lambda k: store.names[k])
    numeric = {k for pairs in held.values() for k, value in pairs if not math.isnan(value)}
    found = {}
    for subject, pairs in held.items():
        values = dict(pairs)
        row = tuple(values.get(k, math.nan) if k in numeric else float(k in values) for k in kept)
        sexes = {m[1].upper() for k in values if (m := _SEX.fullmatch(_plain(store.names[k])))}
        found[subject] = (row, sexes.pop() if len(sexes) == 1 else "")
    return [store.names[k] for k in kept], found


def _none(statics: Sequence[str]) -> tuple[float, ...]:
    return (math.nan,) * len(statics)


def _plain(name: str) -> str:
    return name.partition(SEPARATOR)[0]


def _store(files: Sequence[Path]) -> Store:
    return open_store(files, functools.partial(_blocks, tuple(files)))


def _blocks(files: Sequence[Path]) -> Iterator[Block]:
    roles = {"case": "subject_id", "time": "time", "variable": "code"}
    for file in files:
        table = header(file)
        for name in roles.values():
            table.need(name)
        own = {**roles, "value": "numeric_value"} if table.find("numeric_value") else roles
        for batch in batches_of(file, list(own.values())):
            yield to_block(file, batch, own, undated=True)
