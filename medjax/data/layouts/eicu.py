"""eICU Collaborative Research Database: a folder with patient.csv and lab.csv, vitalPeriodic.csv and others, plain or .gz."""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from medjax.data.blocks import arrow, batches_of, header, read_rows, to_block
from medjax.data.events import Block, Store, StoredSource, open_store
from medjax.data.layouts import Layout
from medjax.data.record_source import Item, check_ids
from medjax.data.records import CELSIUS_RANGE, EARLY, FAHRENHEIT, LATE, UNSORTED, Conversion, Tally, Variable
from medjax.data.units import unify
from medjax.errors import InputError
from medjax.formats.table import Table, parse_age, parse_sex

HOSPITAL, UNIT, PHENOTYPING = TASKS = ("hospital_mortality", "unit_mortality", "phenotyping")
SHORT = "stays that ended before the end of the record, left out"
PHENOTYPES = 25
_STAY = "patientunitstayid"
_MINUTES = 60.0
_FEWEST = 5  # stays that a phenotype must have
_UNIT_TYPES = 12
_EXAM = "/Vital Sign and Physiological Data/"


class _Table(NamedTuple):
    """How a table tells events: a row each by `name` (and `value`, `unit`), or a column each (`columns`)."""

    time: str
    name: str = ""
    value: str = ""
    unit: str = ""
    columns: tuple[str, ...] = ()
    prefix: str = ""


_TABLES = {
    "lab": _Table("labresultoffset", "labname", "labresult", "labmeasurenamesystem"),
    "vitalPeriodic": _Table(
        "observationoffset",
        columns=(
            *("temperature", "sao2", "heartrate", "respiration", "cvp", "etco2", "systemicsystolic", "systemicdiastolic"),
            *("systemicmean", "pasystolic", "padiastolic", "pamean", "icp"),
        ),
    ),
    "vitalAperiodic": _Table(
        "observationoffset",
        columns=("noninvasivesystolic", "noninvasivediastolic", "noninvasivemean", "paop", "cardiacoutput", "svr", "pvr"),
    ),
    "physicalExam": _Table("physicalexamoffset", "physicalexampath", "physicalexamtext", prefix="exam: "),
    "treatment": _Table("treatmentoffset", "treatmentstring", prefix="treatment: "),
    "medication": _Table("drugstartoffset", "drugname", prefix="drug: "),
    "infusionDrug": _Table("infusionoffset", "drugname", prefix="infusion: "),
    "admissionDx": _Table("admitdxenteredoffset", "admitdxpath", prefix="admission: "),
    "diagnosis": _Table("diagnosisoffset", "diagnosisstring", prefix="diagnosis: "),
}
_PRESSURES = ("systolic", "diastolic", "mean")
_KNOWN = (
    Variable("temperature", "°C", *CELSIUS_RANGE, conversions=(FAHRENHEIT,)),
    Variable("sao2", "%", 20, 100),
    Variable("heartrate", "1/min", 5, 350),
    Variable("respiration", "1/min", 1, 120),
    Variable("cvp", "mmHg", -20, 100),
    Variable("etco2", "mmHg", 1, 150),
    Variable("icp", "mmHg", -20, 150),
    *(Variable(f"{at}{part}", "mmHg", 5, 350) for at in ("systemic", "noninvasive", "pa") for part in _PRESSURES),
    Variable("pH", "", 6.5, 8),
    Variable("sodium", "mmol/L", 90, 200),
    Variable("potassium", "mmol/L", 1, 15),
    Variable("chloride", "mmol/L", 50, 170),
    Variable("bicarbonate", "mmol/L", 2, 70),
    Variable("creatinine", "mg/dL", 0, 40),
    Variable("BUN", "mg/dL", 0, 300),
    Variable("glucose", "mg/dL", 5, 2500),
    Variable("bedside glucose", "mg/dL", 5, 2500),
    Variable("lactate", "mmol/L", 0, 40),
    Variable("Hgb", "g/dL", 1, 30),
    Variable("Hct", "%", 5, 75),
    Variable("platelets x 1000", "K/mcL", 1, 2500),
    Variable("WBC x 1000", "K/mcL", 0, 500),
    Variable("paO2", "mm Hg", 10, 700),
    Variable("paCO2", "mm Hg", 5, 200),
    Variable("FiO2", "%", 20, 100, conversions=(Conversion("fraction", 0.2, 1, 100),)),
)


def sources(path: str | Path, *, task: str = "", end: float = 24.0, most: int = 256) -> Layout:
    """Read eICU: a case is a stay in a unit, its first `end` hours from admission to the unit; the patient is uniquepid.

    Laboratory values and vital signs are variables; treatments, drugs, findings and diagnoses codes. Of the tables named in
    this module those are read that are there. Events before admission to the unit and after `end` never enter; stays that are
    shorter than `end` are left out and counted. Statics: age (over 89 is 90), sex, height, weight, hours in hospital before,
    unit.

    Args:
      path: the folder.
      task: "hospital_mortality" (by default) or "unit_mortality", of kind "single" by the status at discharge, blank being
        missing; "phenotyping", of kind "multi": the 25 most frequent groups (the first two levels) of the diagnoses that were
        made at any time of the stay, the table of diagnoses being no input then.
      end: hours from admission that may be used.
      most: variables to keep, those with the most events.

    Raises:
      InputError: no such table, column or task, a stay twice, a status that is none, no stay long enough.
    """
    root = Path(path)
    files = _files(root)
    task = task or HOSPITAL
    if task not in TASKS:
        raise InputError(f"there is no task {task!r}\nthere are {', '.join(TASKS)}", usage=True)
    if "patient" not in files or not files.keys() & _TABLES.keys():
        raise InputError(f"{root}: holds no patient.csv with lab.csv or vitalPeriodic.csv\ngive a folder of eICU's tables")
    table = read_rows(files["patient"])
    stay, patient, out = (table.need(name) for name in (_STAY, "uniquepid", "unitdischargeoffset"))
    rows = [row for row in table.rows if _number(row[out]) >= end * _MINUTES]
    if not rows:
        raise InputError(f"{table.path}: none of {len(table.rows):,} stays lasts {end:g} hours\ngive a smaller end")
    used = {name: file for name, file in files.items() if name in _TABLES and not (task == PHENOTYPING and name == "diagnosis")}
    store = _store(used, end)
    variables, mapping = unify(store, {variable.name.lower(): variable for variable in _KNOWN}, most=most)
    classes, labels = _labels(table, rows, files, task)
    statics, static = _statics(table, rows)
    age, sex, site = (table.find(name) for name in ("age", "gender", "hospitalid"))
    items = []
    for row, values in zip(rows, static, strict=True):
        known = (parse_sex(row[sex]) if sex else "", _age(row[age]) if age else math.nan, row[site] if site else "")
        place = (store.cases.get(row[stay], -1), 0.0)
        items.append(Item(row[stay], row[patient], labels[row[stay]], place, end, values, known))
    check_ids(items, table.path)
    tally: Tally = store.tally + Counter({(SHORT, ""): len(table.rows) - len(rows)})
    del tally[UNSORTED, ""]  # nobody promises an order, and tables come one after the other
    source = StoredSource(items, variables, ("sex", "age", "site"), tally, store=store, mapping=mapping)
    about = (
        f"{len(items):,} stays of eICU that lasted {end:g} hours, {len({i.patient for i in items}):,} patients: "
        f"{task.replace('_', ' ')} from the first {end:g} hours of {', '.join(sorted(used))}"
    )
    return Layout({"all": source}, classes, "multi" if task == PHENOTYPING else "single", about, tuple(variables), statics)


def sniff(path: str | Path) -> str:
    """Why this looks like eICU; "" where it does not."""
    root = Path(path)
    files = _files(root) if root.is_dir() else {}
    try:
        fits = "patient" in files and {_STAY, "uniquepid"} <= set(header(files["patient"]).columns)
    except InputError:
        return ""
    tables = sorted(files.keys() & _TABLES.keys())
    return f"patient has {_STAY}, and there are {', '.join(tables)}" if fits and tables else ""


def _files(root: Path) -> dict[str, Path]:
    """{table: file}, names in upper and lower case alike."""
    names = {name.lower(): name for name in ("patient", *_TABLES)}
    found: dict[str, Path] = {}
    for file in sorted(root.iterdir()) if root.is_dir() else ():
        stem = file.name.lower().removesuffix(".gz").removesuffix(".csv")
        if stem in names and file.name.lower().endswith((".csv", ".csv.gz")):
            found.setdefault(names[stem], file)
    return found


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _age(text: str) -> float:
    return 90.0 if text.replace(" ", "").startswith(">89") else parse_age(text)


def _statics(table: Table, rows: list[dict[str, str]]) -> tuple[tuple[str, ...], list[tuple[float, ...]]]:
    """(names, values of each stay)."""
    height, weight, before = (table.find(name) for name in ("admissionheight", "admissionweight", "hospitaladmitoffset"))
    age, sex, unit = (table.find(name) for name in ("age", "gender", "unittype"))
    units = [u for u, _ in Counter(row[unit] for row in rows if row[unit]).most_common(_UNIT_TYPES)] if unit else []
    found = []
    for row in rows:
        cm = _within(row[height], 100, 230) if height else math.nan
        kg = _within(row[weight], 20, 350) if weight else math.nan
        hours = -_number(row[before]) / _MINUTES if before else math.nan
        male = {"M": 1.0, "F": 0.0}.get(parse_sex(row[sex]) if sex else "", math.nan)
        of = (float(row[unit] == u) for u in units) if unit else ()
        found.append((_age(row[age]) if age else math.nan, male, cm, kg, hours, *of))
    return ("age", "male", "height", "weight", "hours in hospital before", *units), found


def _within(text: str, low: float, high: float) -> float:
    value = _number(text)
    return value if low <= value <= high else math.nan


def _labels(
    table: Table, rows: list[dict[str, str]], files: Mapping[str, Path], task: str
) -> tuple[tuple[str, ...], dict[str, Any]]:
    """(class names, {stay: label})."""
    stay = table.need(_STAY)
    if task != PHENOTYPING:
        status = table.need("hospitaldischargestatus" if task == HOSPITAL else "unitdischargestatus")
        answers = {"Alive": 0, "Expired": 1, "": -1}
        if strange := next((row[status] for row in rows if row[status] not in answers), ""):
            raise InputError(f"{table.path}: {strange!r} in the column {status} is no status\ngive Alive, Expired, or blank")
        return ("survived", f"died in {task.partition('_')[0]}"), {row[stay]: answers[row[status]] for row in rows}
    if "diagnosis" not in files:
        raise InputError(f"{table.path.parent}: has no diagnosis.csv, which phenotyping needs\nadd it")
    kept = {row[stay] for row in rows}
    groups: dict[str, set[str]] = {}
    for batch in batches_of(files["diagnosis"], [_STAY, "diagnosisstring"]):
        for id, text in zip(*(batch.column(k).to_pylist() for k in (0, 1))):
            if id in kept and text:
                groups.setdefault("|".join(part.strip() for part in text.split("|")[:2]), set()).add(id)
    named = sorted((name for name in groups if len(groups[name]) >= _FEWEST), key=lambda name: (-len(groups[name]), name))
    names = tuple(sorted(named[:PHENOTYPES]))
    if len(names) < 2:
        raise InputError(f"{files['diagnosis']}: has fewer than two groups of diagnoses in {_FEWEST} stays\ngive more stays")
    known = set().union(*groups.values())
    # A stay without any diagnosis was not coded: nothing says that it has none of them.
    return names, {id: tuple(int(id in groups[n]) if id in known else -1 for n in names) for id in kept}


def _store(files: Mapping[str, Path], end: float) -> Store:
    return open_store(list(files.values()), functools.partial(_blocks, tuple(files.items()), end))


def _blocks(files: tuple[tuple[str, Path], ...], end: float) -> Iterator[Block]:
    for name, file in files:
        form = _TABLES[name]
        head = header(file)
        need = [head.need(_STAY), head.need(form.time)]
        columns = [head.need(form.name)] if form.name else [c for c in form.columns if c in head.columns]
        columns += [c for c in (form.value, form.unit) if c and c in head.columns]
        for batch in batches_of(file, [*need, *columns]):
            for block in _events(name, file, batch, form, columns):
                yield _within_record(name, block, end)


def _events(name: str, file: Path, batch: Any, form: _Table, columns: list[str]) -> Iterator[Block]:
    pa, pc = arrow(), arrow("pyarrow.compute")
    roles = {"case": _STAY, "time": form.time}
    if form.name:
        more = {role: c for role, c in (("value", form.value), ("unit", form.unit)) if c in columns}
        if name == "physicalExam":
            batch = batch.filter(pc.match_substring(batch.column(form.name), _EXAM))
        block = to_block(file, batch, {**roles, "variable": form.name, **more}, hour=_MINUTES)
        if name == "physicalExam":  # the last two parts of a path are a sign and which of its values
            last = pc.list_element(pc.split_pattern(block.variables, "/", max_splits=1, reverse=True), 1)
            block = block._replace(variables=last)
        yield block._replace(variables=pc.binary_join_element_wise(form.prefix, block.variables, "")) if form.prefix else block
        return
    for column in columns:
        part = batch.filter(pc.is_valid(batch.column(column)))
        if part.num_rows:
            named = part.append_column("variable", pa.array([column] * part.num_rows, pa.string()))
            yield to_block(file, named, {**roles, "variable": "variable", "value": column}, hour=_MINUTES)


def _within_record(name: str, block: Block, end: float) -> Block:
    """Without what lies outside of the record, which for vital signs is most, and need not lie on the disk."""
    late, early = block.times > end, block.times < 0
    keep = ~(late | early)
    tally: Tally = block.tally + Counter({(LATE, name): int(late.sum()), (EARLY, name): int(early.sum())})
    mask = arrow().array(keep)
    return Block(block.cases.filter(mask), block.times[keep], block.variables.filter(mask), block.values[keep], tally)
