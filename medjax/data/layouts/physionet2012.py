"""PhysioNet Challenge 2012: PATH/set-X/*.txt with PATH/Outcomes-X.txt, one or several; 48 hours of stays in the ICU."""

from __future__ import annotations

import math
import re
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np

from medjax.data.layouts import Layout
from medjax.data.record_source import Found, Item, RecordSource, check_answers, check_ids
from medjax.data.records import CELSIUS_RANGE, FAHRENHEIT, OUTSIDE, UNKNOWN, Conversion, Events, Tally, Variable
from medjax.errors import InputError
from medjax.formats.table import read_table

HOURS = 48.0
CLASSES = ("survived", "died in hospital")
STATICS = ("age", "male", "height", "weight", "coronary unit", "cardiac surgery unit", "medical unit", "surgical unit")
DESCRIPTORS = ("RecordID", "Age", "Gender", "Height", "ICUType", "Weight")
NO_OUTCOME = "outcomes without a record, ignored"
_RANGES = {"Age": (0, 120), "Gender": (0, 1), "Height": (100, 230), "ICUType": (1, 4), "Weight": (20, 300)}
_RECORD = re.compile(r"\d+\.txt")
_WHERE = "expected PATH/set-a/132539.txt and its like, with PATH/Outcomes-a.txt; sets b and c likewise"

# Units as the challenge gives them. The ranges are what a living adult in intensive care may have, wide on purpose: they are to
# catch slips of the pen and of the unit, not the very ill.
VARIABLES = (
    Variable("Albumin", "g/dL", 0.5, 7),
    Variable("ALP", "IU/L", 5, 5000),
    Variable("ALT", "IU/L", 1, 30000),
    Variable("AST", "IU/L", 1, 40000),
    Variable("Bilirubin", "mg/dL", 0, 80),
    Variable("BUN", "mg/dL", 0, 300),
    Variable("Cholesterol", "mg/dL", 20, 1000),
    Variable("Creatinine", "mg/dL", 0, 40),
    Variable("DiasABP", "mmHg", 5, 200),
    Variable("FiO2", "fraction", 0.2, 1, conversions=(Conversion("%", 20, 100, 0.01),)),
    Variable("GCS", "points", 3, 15),
    Variable("Glucose", "mg/dL", 5, 2000),
    Variable("HCO3", "mmol/L", 2, 70),
    Variable("HCT", "%", 5, 75),
    Variable("HR", "1/min", 5, 300),
    Variable("K", "mmol/L", 1, 15),
    Variable("Lactate", "mmol/L", 0, 40),
    Variable("Mg", "mmol/L", 0.1, 15),
    Variable("MAP", "mmHg", 10, 250),
    Variable("MechVent", "yes or no", 0, 1),
    Variable("Na", "mmol/L", 90, 200),
    Variable("NIDiasABP", "mmHg", 5, 200),
    Variable("NIMAP", "mmHg", 10, 250),
    Variable("NISysABP", "mmHg", 20, 300),
    Variable("PaCO2", "mmHg", 5, 200),
    Variable("PaO2", "mmHg", 15, 700),
    Variable("pH", "", 6.5, 8, conversions=(Conversion("tenths", 65, 80, 0.1), Conversion("hundredths", 650, 800, 0.01))),
    Variable("Platelets", "cells/nL", 1, 2500),
    Variable("RespRate", "1/min", 1, 100),
    Variable("SaO2", "%", 20, 100),
    Variable("SysABP", "mmHg", 20, 300),
    Variable("Temp", "°C", *CELSIUS_RANGE, conversions=(FAHRENHEIT,)),
    Variable("TroponinI", "µg/L", 0, 500),
    Variable("TroponinT", "µg/L", 0, 100),
    Variable("Urine", "mL", 0, 5000),
    Variable("WBC", "cells/nL", 0, 500),
    Variable("Weight", "kg", 20, 300),
)
_PLACES = {variable.name: k for k, variable in enumerate(VARIABLES)}


class _Set(NamedTuple):
    folder: Path
    records: list[Path]
    outcomes: Path | None


class _Stays(RecordSource):
    def read(self, item: Item) -> Found:
        return _read(item.place)


def sources(path: str | Path, *, end: float = HOURS, unlabelled: bool = False) -> Layout:
    """Read sets of the challenge of 2012: does this patient die in hospital?

    A file holds lines of Time (HH:MM since admission to the ICU), Parameter, Value in the order of time. The descriptors at its
    top (Age, Gender, Height, ICUType, Weight; -1 is missing) are the statics, ICUType as one of four; Weight is a variable too.

    Args:
      path: a folder with sets and their Outcomes files, or one set with its Outcomes file inside or beside it.
      end: hours from admission that may be used.
      unlabelled: read records, or a single file, without outcomes.

    Returns:
      A Layout of kind "single", everything under "all". The label is In-hospital_death; -1 is missing.

    Raises:
      InputError: no such files, records without an outcome, an id twice, an outcome that is none; while reading, a line that
        is not of this form or stands before its time.
    """
    root = Path(path)
    sets = [_Set(root.parent, [root], None)] if unlabelled and root.is_file() else _find(root)
    if not unlabelled and any(one.outcomes for one in sets):
        sets = [one for one in sets if one.outcomes]
    if not sets:
        raise InputError(f"{root}: holds no set of records\n{_WHERE}")
    items: list[Item] = []
    tally: Tally = Counter()
    for one in sets:
        labels = {} if unlabelled else _outcomes(one)
        stems = [record.stem for record in one.records]
        if not unlabelled:
            check_answers(one.outcomes or one.folder, stems, labels)
            tally[NO_OUTCOME, ""] += len(labels.keys() - set(stems))
        for record in one.records:
            name = record.relative_to(root).with_suffix("").as_posix() if record != root else record.stem
            items.append(Item(name, record.stem, labels.get(record.stem, -1), record, end))
    seen = Counter(item.patient for item in items)
    if twice := next((item for item in items if seen[item.patient] > 1), None):
        raise InputError(f"{twice.place}: the record {twice.patient} is in more than one set\nkeep one of them")
    check_ids(items, root)
    names = ", ".join(one.folder.name for one in sets)
    about = f"{len(items):,} stays of PhysioNet Challenge 2012 ({names}): the first {end:g} hours, {len(VARIABLES)} variables"
    source = _Stays(items, VARIABLES, ("sex", "age"), +tally)
    return Layout({"all": source}, CLASSES, "single", about, VARIABLES, STATICS)


def sniff(path: str | Path) -> str:
    """Why this looks like the challenge of 2012; "" where it does not."""
    root = Path(path)
    try:
        sets = [one for one in _find(root) if one.outcomes] if root.is_dir() else []
    except InputError:
        return ""
    if not sets or not any(line.startswith("00:00,RecordID,") for line in _lines(sets[0].records[0])[1:2]):
        return ""
    return f"{sets[0].folder.name} holds {len(sets[0].records):,} records of Time,Parameter,Value"


def _find(root: Path) -> list[_Set]:
    """Every folder of records with its Outcomes file; a folder that is one itself."""
    if not root.is_dir():
        raise InputError(f"{root}: no such folder\n{_WHERE}")
    found = []
    for folder in (root, *sorted(d for d in root.iterdir() if d.is_dir())):
        records = sorted(f for f in folder.iterdir() if _RECORD.fullmatch(f.name))
        if not records:
            continue
        letter = folder.name.rpartition("-")[2].lower()
        near = [f for where in (folder, folder.parent) for f in sorted(where.glob("[Oo]utcomes*.txt"))]
        named = [f for f in near if f.stem.rpartition("-")[2].lower() == letter]
        inside = [f for f in near if f.parent == folder]
        found.append(_Set(folder, records, next(iter(named or inside), None)))
    return found


def _outcomes(one: _Set) -> dict[str, int]:
    """{record: 1, 0 or -1}."""
    if one.outcomes is None:
        raise InputError(f"{one.folder}: has no Outcomes file inside or beside it\n{_WHERE}")
    table = read_table(one.outcomes)
    key, death = table.need("RecordID"), table.need("In-hospital_death")
    found: dict[str, int] = {}
    for row in table.rows:
        if row[key] in found:
            raise InputError(f"{one.outcomes}: names the record {row[key]!r} twice\nkeep one row for each record")
        if row[death] not in ("0", "1", "-1", ""):
            raise InputError(
                f"{one.outcomes}: {row[death]!r} of the record {row[key]} is no outcome\ngive 1, 0, or -1 where it is not known"
            )
        found[row[key]] = int(row[death] or -1)
    return found


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})\nmend or remove the record") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is no text ({error})\nmend or remove the record") from error


def _read(path: Path) -> Found:
    lines = _lines(path)
    if not lines or lines[0].strip() != "Time,Parameter,Value":
        raise InputError(f"{path}: does not begin with Time,Parameter,Value\nmend or remove the record")
    times, variables, values = [], [], []
    described: dict[str, float] = {}
    tally: Tally = Counter()
    before = 0.0
    for number, line in enumerate(lines[1:], 2):
        if not line.strip():
            continue
        try:
            clock, name, text = (part.strip() for part in line.split(","))
            hours, minutes = clock.split(":")
            time, value = int(hours) + int(minutes) / 60, float(text)
        except ValueError as error:
            raise InputError(f"{path}: row {number} is not HH:MM,Parameter,Value: {line[:60]!r}\nmend the row") from error
        if time < before:
            raise InputError(f"{path}: row {number} goes back in time, to {clock}\nput the rows in order of time")
        before = time
        if name in DESCRIPTORS and time == 0 and name not in described:
            described[name] = value
        elif name in _PLACES:
            times.append(time)
            variables.append(_PLACES[name])
            # Everywhere in these files -1 is what is not known.
            values.append(math.nan if value == -1 else value)
        else:
            tally[UNKNOWN, name or "without a name"] += 1
    static = {name: _described(name, described.get(name, -1.0), tally) for name in _RANGES}
    unit = [float(static["ICUType"] == k) if static["ICUType"] == static["ICUType"] else math.nan for k in range(1, 5)]
    sex = {0.0: "F", 1.0: "M"}.get(static["Gender"], "")
    return Found(
        Events(np.array(times, np.float64), np.array(variables, np.int32), np.array(values, np.float64)),
        (static["Age"], static["Gender"], static["Height"], static["Weight"], *unit),
        {"sex": sex, "age": static["Age"]},
        tally,
    )


def _described(name: str, value: float, tally: Tally) -> float:
    """A descriptor's value, NaN where it is missing or cannot be."""
    if value == -1:
        return math.nan
    low, high = _RANGES[name]
    if not low <= value <= high:
        tally[OUTSIDE, f"{name} at admission"] += 1
        return math.nan
    return value
