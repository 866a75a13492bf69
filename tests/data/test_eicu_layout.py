"""eICU: its tables in CSV, plain and gzipped, in fixtures and in a sample of its own."""

import gzip

import numpy as np
import pytest
from make_records import check, events, write_eicu
from toy import fails

from medjax.data.layouts import detect, eicu, open_layout
from medjax.data.records import CONVERTED, EARLY, LATE


def test_the_first_day_of_stays(tmp_path):
    layout = open_layout(write_eicu(tmp_path))
    found, tally = check(layout)
    assert list(detect(tmp_path)) == ["eicu"]
    assert len(found) == 7
    assert tally[eicu.SHORT, ""] == 1
    assert [v.name for v in layout.variables] == [
        "glucose",
        "heartrate",
        "sao2",
        "temperature",
        "treatment: pulmonary|ventilation",
    ]
    case = found["1000"]
    assert (case["label"], case["patient"], case["sex"], case["age"], case["site"], case["end"]) == (
        0,
        "002-0",
        "F",
        90,
        "59",
        24,
    )
    assert [found[str(1000 + k)]["label"] for k in range(4)] == [0, 1, -1, 0]
    np.testing.assert_array_equal(case["static"], [90, 0, 170, 80, 2, 1])
    assert (0.5, "temperature", 37) in events(layout, case)
    assert (1.5, "treatment: pulmonary|ventilation") in [e[:2] for e in events(layout, case)]
    assert case["times"].min() >= 0
    assert tally[CONVERTED, "temperature from °F"] == 1
    assert tally[EARLY, "lab"] == 8
    assert tally[LATE, "lab"] == 8
    assert tally[LATE, "diagnosis"] == 8


def test_gzip_gives_the_same(tmp_path):
    one, two = write_eicu(tmp_path / "a"), write_eicu(tmp_path / "b")
    for file in list(two.iterdir()):
        (two / f"{file.name}.gz").write_bytes(gzip.compress(file.read_bytes()))
        file.unlink()
    a, b = (check(eicu.sources(folder)) for folder in (one, two))
    assert a[1] == b[1]
    for id in a[0]:
        np.testing.assert_array_equal(a[0][id]["values"], b[0][id]["values"])


def test_phenotypes_are_no_input(tmp_path):
    layout = eicu.sources(write_eicu(tmp_path, 12), task="phenotyping", end=2.0)
    found, _ = check(layout)
    assert layout.kind == "multi"
    assert layout.classes == ("pulmonary|respiratory failure", "renal|disorder of kidney")
    np.testing.assert_array_equal(found["1001"]["label"], [1, 0])
    assert not any("diagnosis" in variable.name for variable in layout.variables)
    assert len(found) == 12


def test_nothing_after_the_end_enters(tmp_path):
    leak = [(1, 1000 + k, 1441, 1, "glucose", 999, 999, "mg/dL", "mg/dL", 1441) for k in range(8)]
    a, b = (check(eicu.sources(write_eicu(tmp_path / name, extra_labs=more)))[0] for name, more in (("a", ()), ("b", leak)))
    for id, example in a.items():
        np.testing.assert_array_equal(example["values"], b[id]["values"])


def test_what_is_wrong_is_named(tmp_path):
    fails(lambda: eicu.sources(tmp_path), "holds no patient.csv")
    write_eicu(tmp_path)
    fails(lambda: eicu.sources(tmp_path, task="sepsis"), "no task 'sepsis'")
    fails(lambda: eicu.sources(tmp_path, end=1000.0), "none of 8 stays")
    file = tmp_path / "patient.csv"
    file.write_text(file.read_text().replace("Expired", "Gone"))
    fails(lambda: eicu.sources(tmp_path), "patient.csv", "'Gone'")
    (tmp_path / "diagnosis.csv").unlink()
    fails(lambda: eicu.sources(tmp_path, task="phenotyping"), "diagnosis.csv")


@pytest.mark.realdata
def test_the_real_sample(real_data):
    layout = eicu.sources(real_data / "eicu_demo")
    found, tally = check(layout)
    assert len(found) + tally[eicu.SHORT, ""] == 174
    assert sum(e["label"] == 1 for e in found.values()) > 3
    assert np.median([len(e["times"]) for e in found.values()]) > 30
    assert {"glucose", "potassium"} <= {v.name for v in layout.variables}
    phenotypes = eicu.sources(real_data / "eicu_demo", task="phenotyping")
    assert 15 < len(phenotypes.classes) <= 25
    check(phenotypes)
