"""What users' tables say of cases: their patients, what else is known of them, and where they stand in a split."""

from __future__ import annotations

import collections
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medjax.cases import Cases
from medjax.core import SPLITS
from medjax.data.folders import SPLIT_NAMES, drop_ending
from medjax.errors import InputError
from medjax.formats.table import Table, parse_age, parse_sex, read_table

KEYS = ("path", "id", "name", "filename")
PATIENTS = ("patient", "patient_id")
FLAGS = {"1": 1, "1.0": 1, "0": 0, "0.0": 0, "": -1, "-1": -1, "-1.0": -1}
_KNOWN = {
    "sex": ("sex", "gender", "patient_sex", "patient_gender"),
    "age": ("age", "patient_age"),
    "view": ("view", "view_position"),
    "site": ("site", "hospital", "centre", "center"),
}


def known_columns(table: Table) -> dict[str, str]:
    """{sex, age, view or site: the table's column of it} of those that it has."""
    found = {name: table.find(*names) for name, names in _KNOWN.items()}
    return {name: column for name, column in found.items() if column}


def known_values(row: dict[str, str], columns: dict[str, str]) -> tuple[Any, ...]:
    """A row's values of `known_columns`."""
    read: dict[str, Any] = {"sex": parse_sex, "age": parse_age}
    return tuple(read.get(name, str)(row[column]) for name, column in columns.items())


def read_split(path: Path, name: str, text: str) -> str:
    """What medjax calls a split that a file names; "" where it names none.

    Raises:
      InputError: there is no such split.
    """
    if text and text.lower() not in SPLIT_NAMES:
        raise InputError(f"{path}: the split {text!r} of {name} is not one of {', '.join(SPLITS)}")
    return SPLIT_NAMES.get(text.lower(), "")


def choose(known: Sequence[str], wanted: Sequence[str]) -> tuple[str, ...]:
    """The wanted ones of the known labels; all of them where none is named.

    Raises:
      InputError: there is no such label.
    """
    if strange := [name for name in wanted if name not in known]:
        raise InputError(f"--data.labels {strange[0]}: there is no such label\nthere are {', '.join(known)}", usage=True)
    return tuple(wanted or known)


def check_all_there(table: Path, names: Sequence[str], files: Mapping[str, Path]) -> None:
    """Whether every image that a table names is there, and named once.

    Raises:
      InputError: the first that is not, and how many there are.
    """
    if missing := [name for name in names if name not in files]:
        raise InputError(
            f"{table}: {len(missing):,} of the {len(names):,} images it names are not there, the first {missing[0]!r}\n"
            "put them beside it, or remove their rows"
        )
    if len(set(names)) < len(names):
        twice, _ = collections.Counter(names).most_common(1)[0]
        raise InputError(f"{table}: names {twice!r} twice\nkeep one row for each image")


def read_labels(
    table: Table, columns: tuple[str, ...], classes: Sequence[str], *, named: bool
) -> tuple[list[Any], tuple[str, ...], bool]:
    """(label of each row, class names, whether several may be true at once). Blank and -1 are missing.

    Args:
      table: with its rows.
      columns: of the labels: one that names a class in each row, or that holds 1 and 0; or several of 1 and 0.
      classes: names in the order of the labels, where one column names them; in sorted order by default.
      named: whether a single column that holds only 1 and 0 names two classes so.

    Raises:
      InputError: a label that is none, fewer than two classes.
    """
    if len(columns) > 1:
        return [tuple(read_flag(table, row, column) for column in columns) for row in table.rows], columns, True
    (column,) = columns
    texts = {row[column] for row in table.rows} - {"", "-1"}
    if not named and texts <= FLAGS.keys() and not classes:
        return [read_flag(table, row, column) for row in table.rows], (f"no {column}", column), False
    numbers = all(text.isdecimal() for text in texts)
    names = tuple(classes) or tuple(sorted(texts, key=lambda text: (int(text) if numbers else 0, text)))
    # Classes given by name for labels that are numbers: 0 is the first of them.
    places = {str(k): k for k in range(len(names))} if classes and numbers else {}
    places |= {name: k for k, name in enumerate(names)} | {"": -1, "-1": -1}
    if strange := sorted(texts - places.keys()):
        raise InputError(
            f"{table.path}: {strange[0]!r} in the column {column} is not one of the classes {', '.join(names)}\n"
            "mend it, or name your own: --data.classes A B"
        )
    if len(names) < 2:
        raise InputError(f"{table.path}: the column {column} holds fewer than two classes\ngive rows of two or more")
    return [places[row[column]] for row in table.rows], names, False


def read_flag(table: Table, row: dict[str, str], column: str) -> int:
    """1, 0, or -1 where it is missing."""
    if row[column] not in FLAGS:
        raise InputError(
            f"{table.path}: {row[column]!r} in the column {column} is no label\ngive 1, 0, or blank where it is not known"
        )
    return FLAGS[row[column]]


def split_by_file(path: str | Path, cases: Cases, *, skipped: Iterable[str] = (), elsewhere: bool = False) -> np.ndarray:
    """Which split each case stands in by a user's file, in place of the data's own splits.

    Args:
      path: a CSV of `id` (or `path`, with or without its ending, or `patient`) and `split`, or a JSON {split: [ids]}.
      cases: with `id`, `patient`, and `given`, the data's own splits.
      skipped: ids that the file may name although they are not among the cases.
      elsewhere: leave the data's own splits where the file names none of the cases, and so is of other data.

    Returns:
      str [n], one of train, val, test.

    Raises:
      InputError: a file that cannot be read, an unknown split, a name in two splits, names that the data does not have, cases
        that the file does not name.
    """
    path = Path(path)
    by, named = _read_json(path) if path.suffix.lower() == ".json" else _read_csv(path)
    keys = cases[by]
    known = {*keys.tolist(), *skipped}
    split: dict[str, str] = {}
    foreign = []
    for name, where in named:
        key = name if by == "patient" or name in known else drop_ending(name)
        if key not in known:
            foreign.append(name)
        elif split.setdefault(key, where) != where:
            raise InputError(f"{path}: puts {name!r} both into {split[key]} and into {where}\nkeep one of them")
    if elsewhere and not split:
        return cases["given"]
    if foreign:
        raise InputError(
            f"{path}: {len(foreign):,} of its {len(named):,} names are not in the data, the first {foreign[0]!r}\n"
            f"name cases by {by}" + (f", such as {keys[0]!r}" if by == "id" else "")
        )
    lost = [i for i, key in enumerate(keys.tolist()) if key not in split]
    if lost:
        raise InputError(
            f"{path}: names no split for {len(lost):,} of {len(cases):,} cases, the first {cases['id'][lost[0]]!r}\n"
            "name every case, or remove those that are not meant from the data"
        )
    return np.array([split[key] for key in keys.tolist()])


def _read_csv(path: Path) -> tuple[str, list[tuple[str, str]]]:
    """("id" or "patient", (name, split) of each row)."""
    table = read_table(path)
    key = table.find("id", "path", "image", "filename", "name")
    column = key or table.need("id", "path", *PATIENTS)
    split = table.need("split")
    if empty := next((number for number, row in enumerate(table.rows, 2) if not row[column] or not row[split]), 0):
        raise InputError(f"{path}: row {empty} lacks its {column} or its {split}\nfill it in")
    return ("id" if key else "patient"), [(row[column], read_split(path, row[column], row[split])) for row in table.rows]


def _read_json(path: Path) -> tuple[str, list[tuple[str, str]]]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})\ngive a file of splits") from error
    except ValueError as error:
        raise InputError(f"{path}: is no JSON ({error})\nexpected {{split: [ids]}}") from error
    lists = found.values() if isinstance(found, dict) else [None]
    if not all(isinstance(names, list) and all(isinstance(name, str) for name in names) for names in lists):
        raise InputError(f"{path}: is no {{split: [ids]}}\nexpected lists of ids under train, val and test")
    return "id", [(name, read_split(path, name, split)) for split, names in found.items() for name in names]
