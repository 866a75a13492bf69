"""A long table of events with a table of labels, in CSV and Parquet; and the store of events that it is read into."""

import datetime
import gzip

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from make_records import check, events, read, write_csv
from toy import fails

from medjax.data import blocks
from medjax.data.layouts import detect, long_table, open_layout
from medjax.data.prepare import prepare
from medjax.data.records import CONVERTED, EMPTY, LATE, OUTSIDE, UNSORTED
from medjax.data.units import CONVERTED as UNIT_CONVERTED
from medjax.data.units import OTHER, conversion

HEADER = ("id", "time", "variable", "value")
EVENTS = [("a", 0.5, "hr", 80), ("a", 2, "lactate", 1.5), ("b", 1, "hr", 120), ("a", 3, "hr", 85), ("b", 30, "hr", 60)]


def write(folder, rows=EVENTS, labels=(("a", 0), ("b", 1)), *, header=HEADER, label_header=("id", "label")):
    write_csv(folder / "events.csv", header, rows)
    write_csv(folder / "labels.csv", label_header, labels)
    return folder


def as_parquet(path):
    """A CSV as Parquet, its types guessed."""
    import pyarrow.csv

    pq.write_table(pyarrow.csv.read_csv(path), path.with_suffix(".parquet"))
    path.unlink()


def test_events_are_sorted_by_record_and_time(tmp_path):
    write(tmp_path, EVENTS[::-1])
    layout = open_layout(tmp_path)
    found, tally = check(layout)
    assert list(detect(tmp_path)) == ["long_table"]
    assert events(layout, found["a"]) == [(0.5, "hr", 80), (2, "lactate", 1.5), (3, "hr", 85)]
    assert events(layout, found["b"]) == [(1, "hr", 120), (30, "hr", 60)]
    assert [found[id]["label"] for id in "ab"] == [0, 1]
    assert found["b"]["end"] == 30
    assert tally == {(UNSORTED, ""): 3}
    assert layout.classes == ("no label", "label")


@pytest.mark.parametrize("form", ["parquet", "gz", "semicolons"])
def test_other_forms_of_tables_give_the_same(tmp_path, form):
    plain, other = write(tmp_path / "csv"), write(tmp_path / "other")
    for name in ("events", "labels"):
        file = other / f"{name}.csv"
        if form == "parquet":
            as_parquet(file)
        elif form == "gz":
            (other / f"{name}.csv.gz").write_bytes(gzip.compress(file.read_bytes()))
            file.unlink()
        else:
            file.write_text(file.read_text().replace(",", ";"))
    a, b = (check(long_table.sources(folder)) for folder in (plain, other))
    assert a[1] == b[1]
    for id in a[0]:
        for name in ("times", "variables", "values", "label"):
            np.testing.assert_array_equal(a[0][id][name], b[0][id][name])


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_dates_count_from_the_first_event_or_a_start(tmp_path, form):
    rows = [
        ("1", "2120-01-02 03:00:00", "hr", 80),
        ("1", "2120-01-02T04:30:00", "hr", 90),
        ("2", "2120-01-05 00:00:00", "hr", 70),
    ]
    labels = [("1", 1, "2120-01-02 04:00:00", ""), ("2", 0, "2120-01-06", "2120-01-04")]
    write(tmp_path, rows, labels, label_header=("id", "label", "time", "start"))
    if form == "parquet":
        times = [datetime.datetime.fromisoformat(row[1]) for row in rows]
        table = {"id": [1, 1, 2], "time": times, "variable": ["hr"] * 3, "value": [80, 90, 70]}
        (tmp_path / "events.csv").unlink()
        pq.write_table(pa.table(table), tmp_path / "events.parquet")
    layout = long_table.sources(tmp_path)
    found, tally = check(layout)
    assert events(layout, found["1"]) == [(0, "hr", 80)]
    assert events(layout, found["2"]) == [(24, "hr", 70)]
    assert (found["1"]["end"], found["2"]["end"]) == (1, 48)
    assert tally == {(LATE, "hr"): 1}


def test_everything_that_a_table_of_labels_may_hold(tmp_path):
    header = ("Case ID", "label", "patient", "split", "sex", "age", "site", "time", "bmi", "ward", "note")
    labels = [
        ("a", "sick", "P1", "training", "female", "40", "X", "2.5", "21", "east", "n1"),
        ("b", "well", "P2", "dev", "M", "", "Y", "8", "", "west", "n2"),
    ]
    labels += [(f"c{i}", "", "P3", "test", "", "30", "X", "1", "30", "", f"n{i + 3}") for i in range(20)]
    write(tmp_path, labels=labels, label_header=header)
    layout = long_table.sources(tmp_path)
    found, tally = check(layout)
    assert layout.classes == ("sick", "well")
    assert layout.statics == ("male", "age", "bmi", "ward: east", "ward: west")
    np.testing.assert_array_equal(found["a"]["static"], [0, 40, 21, 1, 0])
    np.testing.assert_array_equal(found["b"]["static"], [1, np.nan, np.nan, 0, 1])
    a, c = found["a"], found["c0"]
    assert (a["split"], a["label"], a["patient"], a["sex"], a["age"], a["site"]) == ("train", 0, "P1", "F", 40, "X")
    assert (c["split"], c["label"], c["patient"]) == ("test", -1, "P3")
    assert events(layout, a) == [(0.5, "hr", 80), (2, "lactate", 1.5)]
    assert tally == {(LATE, "hr"): 2, (EMPTY, ""): 20}


def test_kinds_of_labels(tmp_path):
    several = long_table.sources(
        write(tmp_path / "1", labels=[("a", 1, ""), ("b", 0, 1)], label_header=("id", "x", "y")), labels=["x", "y"]
    )
    assert (several.kind, several.classes) == ("multi", ("x", "y"))
    np.testing.assert_array_equal(check(several)[0]["a"]["label"], [1, -1])
    survival = long_table.sources(
        write(tmp_path / "2", labels=[("a", 1, 5), ("b", 0, 7.5)], label_header=("id", "event", "duration"))
    )
    assert survival.kind == "survival"
    assert check(survival)[0]["b"]["duration"] == 7.5
    rows = [("a", 1, 0), ("a", 4, 1), ("a", 2, 0), ("b", 40, 1)]
    steps = long_table.sources(write(tmp_path / "3", labels=rows, label_header=("id", "time", "label")))
    assert steps.kind == "steps"
    a = check(steps)[0]["a"]
    np.testing.assert_array_equal(a["label_times"], [1, 2, 4])
    np.testing.assert_array_equal(a["label_values"], [0, 0, 1])


def test_units_are_unified(tmp_path):
    rows = [("a", 1, "temp", 37, "C"), ("a", 2, "temp", 98.6, "°F"), ("a", 3, "temp", 38, ""), ("b", 1, "temp", 39, "degC")]
    rows += [("a", 1, "glucose", 90, "mg/dL"), ("b", 1, "glucose", 100, "mg/dl"), ("b", 2, "glucose", 5, "mmol/L")]
    rows += [("b", 3, "temp", 100.4, ""), ("b", 3, "temp", 60, "C")]
    write(tmp_path, rows, header=(*HEADER, "unit"))
    layout = long_table.sources(tmp_path)
    found, tally = check(layout)
    assert [(v.name, v.unit) for v in layout.variables] == [("glucose", "mg/dL"), ("temp", "°C")]
    assert [e for e in events(layout, found["a"]) if e[1] == "temp"] == [(1, "temp", 37), (2, "temp", 37), (3, "temp", 38)]
    assert events(layout, found["b"]) == [(1, "temp", 39), (1, "glucose", 100), (3, "temp", 38)]
    assert tally[UNIT_CONVERTED, "temp in °F"] == tally[OTHER, "glucose in mmol/L"] == 1
    assert tally[CONVERTED, "temp from °F"] == tally[OUTSIDE, "temp"] == 1


def test_only_what_is_sure_is_converted():
    assert conversion("lbs", "kg") == pytest.approx((0.4536, 0), abs=1e-4)
    assert conversion("cm", "inches") == pytest.approx((1 / 2.54, 0))
    assert conversion("C", "F") == pytest.approx((1.8, 32))
    assert conversion("mg/dL", "mmol/L", "glucose") is None
    assert conversion("mEq/L", "mmol/L", "sodium") == (1, 0)
    assert conversion("mEq/L", "mmol/L", "calcium") is None


def test_codes_numbers_that_are_none_and_ranges(tmp_path):
    rows = [
        ("a", 1, "I10", ""),
        ("a", 2, "crp", ">5"),
        ("a", 2, "crp", "1e1"),
        ("a", 3, "crp", "inf"),
        ("b", 1, "crp", 999),
        ("b", 1, "crp", ""),
    ]
    write(tmp_path, rows)
    write_csv(tmp_path / "ranges.csv", ("variable", "low", "high", "unit"), [("CRP", 0, "500", "mg/L")])
    layout = long_table.sources(tmp_path)
    found, tally = check(layout)
    assert [(v.name, v.unit, v.high, v.code) for v in layout.variables] == [
        ("I10", "", np.inf, True),
        ("crp", "mg/L", 500, False),
    ]
    assert [e[:2] for e in events(layout, found["a"])] == [(1, "I10"), (2, "crp")]
    assert np.isnan(found["a"]["values"][0])
    assert not len(found["b"]["values"])
    assert tally[OUTSIDE, "crp"] == 1
    assert tally[blocks.NO_NUMBER, "events.csv"] == 2


def test_counts_reach_the_notes(tmp_path):
    rows = [*EVENTS, ("c", 1, "hr", 70), ("a", "", "hr", 1)]
    for _ in range(2):
        prepared = prepare(long_table.sources(write(tmp_path, rows), end=24.0).sources, lambda example: example)
        assert prepared.notes == (
            "1 events after the end of the record, left out (hr 1)",
            "1 records with events and without a label, left out",
            "1 rows without an id, time or variable, left out (events.csv 1)",
        )


def test_wrong_tables_are_named(tmp_path):
    def of(rows=EVENTS, labels=(("a", 0), ("b", 1)), **named):
        folder = write(tmp_path / "data", rows, labels, **named)
        return lambda: read(long_table.sources(folder))

    fails(of(labels=[("a", 0), ("a", 1)]), "labels.csv", "'a' twice")
    fails(of(labels=[("a", 1, 0), ("a", 1, 1)], label_header=("id", "time", "label")), "'a' twice at one time")
    fails(of(labels=[("a", 1, "soon")], label_header=("id", "label", "time")), "'soon'", "no time")
    fails(of(labels=[("a", 1, "2120-01-01")], label_header=("id", "label", "time")), "dates where they have hours")
    fails(of(labels=[("", 1)]), "row 2 has no id")
    fails(of([("a", "noon", "hr", 1)]), "events.csv", "'noon'")
    fails(of(labels=[("a", "x", "odd")], label_header=("id", "label", "split")), "odd", "train, val, test")
    fails(of(labels=[("a", "east")], label_header=("id", "ward")), "no column label")
    fails(lambda: long_table.sources(tmp_path), "0 tables of events")
    (tmp_path / "data" / "events.csv").write_text("id,time,variable,value\na,1,hr\n")
    fails(lambda: read(long_table.sources(tmp_path / "data", labels=["ward"])), "events.csv", "cannot be read")
    (tmp_path / "data" / "events.parquet").write_bytes(b"PAR1 nothing")
    fails(lambda: long_table.sources(tmp_path / "data"), "events.parquet", "cannot be read as Parquet")


def test_without_pyarrow_the_extra_is_named(tmp_path, monkeypatch):
    write(tmp_path)
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    fails(lambda: long_table.sources(tmp_path), "pip install 'medjax[records]'")


@settings(max_examples=15, deadline=None)
@given(st.data())
def test_the_order_of_rows_changes_nothing(tmp_path_factory, data):
    """Events of one time aside, which stay in the order of the file."""
    row = st.tuples(st.sampled_from("abc"), st.integers(0, 400), st.sampled_from(["hr", "x", "y"]), st.integers(10, 300))
    rows = data.draw(st.lists(row, min_size=1, max_size=40, unique_by=lambda r: r[:2]))
    shuffled = data.draw(st.permutations(rows))
    folder = tmp_path_factory.mktemp("long")
    labels = [(id, k % 2, 50) for k, id in enumerate("abc")]
    found = []
    for name, order in (("a", rows), ("b", shuffled), ("leak", [*shuffled, *[(id, 50.001, "hr", 299) for id in "abc"]])):
        layout = long_table.sources(write(folder / name, order, labels, label_header=("id", "label", "time")))
        examples, tally = check(layout)
        found.append({id: events(layout, example) for id, example in examples.items()})
    assert found[0] == found[1] == found[2]
    assert found[0]["a"] == sorted((float(t), v, float(x)) for id, t, v, x in rows if id == "a" and t <= 50)
    assert sum(n for (what, _), n in tally.items() if what == LATE) >= 3


def test_many_blocks_and_buckets_give_the_same(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    rows = [
        (f"p{rng.integers(40)}", round(t / 100, 2), f"v{rng.integers(9)}", round(float(rng.normal()), 3)) for t in range(3000)
    ]
    rng.shuffle(rows)
    write(tmp_path / "a", rows, [(f"p{k}", k % 2) for k in range(40)])
    write(tmp_path / "b", rows, [(f"p{k}", k % 2) for k in range(40)])
    one = check(long_table.sources(tmp_path / "a"))
    monkeypatch.setattr("medjax.data.blocks._BLOCK_BYTES", 4096)
    monkeypatch.setattr("medjax.data.events._BUCKET_BYTES", 5000)
    many = check(long_table.sources(tmp_path / "b"))
    assert one[1] == many[1]
    for id in one[0]:
        for name in ("times", "variables", "values"):
            np.testing.assert_array_equal(one[0][id][name], many[0][id][name])
