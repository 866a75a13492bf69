"""Values of one variable that come in several units: one is kept, others are converted where that is beyond doubt."""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Collection, Mapping

from medjax.data.events import SEPARATOR, Column, Store
from medjax.data.records import CELSIUS_RANGE, FAHRENHEIT, Variable

CONVERTED = "values in another unit, converted"
RARE = "events of the rarer variables, left out"
OTHER = "values in a unit that cannot be converted, left out"
# (from, to): value * factor + offset. Only what holds for every substance: a mole weighs what it is a mole of.
_KNOWN: dict[tuple[str, str], tuple[float, float]] = {
    ("°f", "°c"): (5 / 9, -160 / 9),
    ("%", "fraction"): (0.01, 0),
    ("lb", "kg"): (0.45359237, 0),
    ("g", "kg"): (0.001, 0),
    ("oz", "kg"): (0.028349523125, 0),
    ("in", "cm"): (2.54, 0),
    ("m", "cm"): (100, 0),
    ("mm", "cm"): (0.1, 0),
    ("kpa", "mmhg"): (7.50061683, 0),
    ("cmh2o", "mmhg"): (0.73555924, 0),
    ("l", "ml"): (1000, 0),
    ("g/l", "g/dl"): (0.1, 0),
    ("mg/l", "mg/dl"): (0.1, 0),
    ("µg/dl", "mg/dl"): (0.001, 0),
    ("µg/l", "ng/ml"): (1, 0),
    ("mg/l", "µg/ml"): (1, 0),
    ("pg/ml", "ng/l"): (1, 0),
    ("meq/l", "mmol/l"): (1, 0),
}
_SPELT = {"f": "°f", "degf": "°f", "deg f": "°f", "fahrenheit": "°f", "c": "°c", "degc": "°c", "deg c": "°c", "celsius": "°c"}
_SPELT |= {"lbs": "lb", "inch": "in", "inches": "in", "percent": "%", "kgs": "kg", "mm hg": "mmhg", "u/l": "iu/l"}
_SPELT |= {"bpm": "1/min", "beats/min": "1/min", "/min": "1/min"}
_EQUAL = {("meq/l", "mmol/l")}  # of sodium, potassium, chloride and bicarbonate alone
_UNIVALENT = ("na", "sodium", "k", "potassium", "cl", "chloride", "hco3", "bicarbonate", "co2", "anion gap")


def plain_unit(unit: str) -> str:
    """A unit as it is compared: spelt one way, in lower case."""
    text = html.unescape(unit).strip().lower().replace("μ", "µ").replace("mcg", "µg")
    return _SPELT.get(text, text)


def conversion(source: str, target: str, variable: str = "") -> tuple[float, float] | None:
    """(factor, offset) from one unit to another; None where there is none that is beyond doubt."""
    a, b = plain_unit(source), plain_unit(target)
    if a == b:
        return 1.0, 0.0
    if ((a, b) in _EQUAL or (b, a) in _EQUAL) and variable.lower() not in _UNIVALENT:
        return None
    if (a, b) in _KNOWN:
        return _KNOWN[a, b]
    if (b, a) in _KNOWN:
        factor, offset = _KNOWN[b, a]
        return 1 / factor, -offset / factor
    return None


def unify(
    store: Store, known: Mapping[str, Variable] | None = None, *, most: int = 0, without: Collection[str] = ()
) -> tuple[list[Variable], list[Column]]:
    """Variables of a store whose names are NAME or NAME, `SEPARATOR`, UNIT; and what becomes of each of the store's.

    A variable's unit is `known`'s, else the one that most of its values are in. Values without a unit are taken to be in it. A
    variable of which no event has a value is a code. Variables without a dated event are none.

    Args:
      store: the events.
      known: {name in lower case: Variable} whose range, unit and conversions are taken.
      most: keep so many of the variables with the most events, whatever their cases' splits and labels; 0 keeps all.
      without: names that are no variables, and whose events are not counted as left out.
    """
    pairs = [(name.partition(SEPARATOR)[0], name.partition(SEPARATOR)[2]) for name in store.names]
    units: dict[str, Counter[str]] = {}
    spelt: dict[tuple[str, str], str] = {}
    rows, valued = Counter[str](), Counter[str]()
    for (name, unit), n, v in zip(pairs, store.rows.tolist(), store.valued.tolist()):
        if n and name not in without:
            spelt.setdefault((name, plain_unit(unit)), unit.strip())
            units.setdefault(name, Counter())[plain_unit(unit)] += v if plain_unit(unit) else 0
            rows[name] += n
            valued[name] += v
    kept = sorted(units, key=lambda name: (-rows[name], name))[: most or None]
    places = {name: k for k, name in enumerate(sorted(kept))}
    variables = []
    for name in places:
        like = (known or {}).get(name.lower(), Variable(name))
        main = units[name].most_common(1)[0][0]
        code = not valued[name]
        variables.append(like._replace(name=name, unit=like.unit or spelt.get((name, main), main), code=code))
    mapping = []
    for name, unit in pairs:
        k = places.get(name, -1)
        if k < 0:
            mapping.append(Column(-1, why=RARE if name in units else ""))
            continue
        found = conversion(unit, variables[k].unit, name) if plain_unit(unit) and not variables[k].code else (1.0, 0.0)
        mapping.append(Column(k, *found, CONVERTED) if found else Column(-1, why=OTHER))
    return variables, mapping


# What is measured alike everywhere, by the names that tables give it. Where units differ from place to place (glucose,
# creatinine) a name alone tells no range.
_COMMON = (
    Variable("temperature temp body_temperature", "°C", *CELSIUS_RANGE, conversions=(FAHRENHEIT,)),
    Variable("heart_rate hr heartrate pulse", "1/min", 5, 350),
    Variable("respiratory_rate resp_rate resprate respiration rr", "1/min", 1, 120),
    Variable("oxygen_saturation spo2 sao2", "%", 20, 100),
    Variable("ph", "", 6.5, 8),
)
COMMON = {spelt: variable for variable in _COMMON for name in variable.name.split() for spelt in (name, name.replace("_", " "))}
