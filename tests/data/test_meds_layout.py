"""MEDS: shards of events in Parquet with splits and labels of their own."""

import datetime
import sys

import numpy as np
import pyarrow as pa
import pytest
from make_records import at, check, events, write_labels, write_meds, write_parquet
from toy import fails

from medjax.data.layouts import detect, meds, open_layout
from medjax.data.prepare import prepare
from medjax.data.records import LATE, VALUELESS
from medjax.data.units import RARE


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Shared, so do not change it."""
    return write_meds(tmp_path_factory.mktemp("meds"))


def test_subjects_up_to_their_prediction_times(folder):
    assert list(detect(folder)) == ["meds"]
    layout = open_layout(folder)
    found, tally = check(layout)
    assert len(found) == 40
    assert [(v.name, v.code) for v in layout.variables] == [
        *(("DISCHARGE", True), ("DRUG//insulin", True), ("LAB//lactate", False), ("MEDS_DEATH", True))
    ]
    assert layout.statics == ("age", "GENDER//F", "GENDER//M", "HEIGHT")
    assert layout.classes == ("no", "yes")
    assert "40 labels death of 40 subjects, Toy (MEDS 0.4.0)" in layout.about
    four = found["4"]
    assert (four["label"], four["patient"], four["sex"], four["end"], four["split"]) == (1, "4", "F", 24, "test")
    np.testing.assert_allclose(four["static"], [44, 1, 0, 174], atol=0.01)
    assert four["age"] == pytest.approx(44, abs=0.01)
    assert [name for _, name, _ in events(layout, four)] == ["LAB//lactate", "DRUG//insulin"] * 9
    assert {s: sum(e["split"] == s for e in found.values()) for s in ("train", "val", "test")} == {
        "train": 24,
        "val": 8,
        "test": 8,
    }
    assert set(tally) == {(LATE, name) for name in ("LAB//lactate", "DRUG//insulin", "DISCHARGE", "MEDS_DEATH")}


def test_an_event_after_the_prediction_never_enters(folder, tmp_path):
    leak = [(s, at(24) + datetime.timedelta(seconds=1), "LAB//lactate", 99.0, None) for s in range(40)]
    for example in check(meds.sources(write_meds(tmp_path, extra=leak)))[0].values():
        assert 99 not in example["values"]
    same = [(s, at(24), "LAB//lactate", 99.0, None) for s in range(40)]
    for example in check(meds.sources(write_meds(tmp_path, extra=same)))[0].values():
        assert example["values"][-1] == 99  # the prediction time itself is part of the input


def test_many_predictions_of_a_subject(folder):
    write_labels(folder / "again.parquet", [(3, at(6), False), (3, at(12), True), (5, at(-1), False), (999, at(1), True)])
    found, tally = check(meds.sources(folder, labels=("again.parquet",)))
    assert list(found) == ["3_20200101T060000", "3_20200101T120000", "5"]
    assert [len(e["times"]) for e in found.values()] == [6, 10, 0]
    assert {e["patient"] for e in found.values()} == {"3", "5"}
    assert tally[meds.WITHOUT_SPLIT, ""] == 1
    assert tally[meds.WITHOUT_LABEL, ""] == 38


def test_other_answers(folder):
    write_labels(folder / "los.parquet", [(1, at(9), 2), (2, at(9), 0)], ("integer_value", pa.int64()))
    write_labels(folder / "where.parquet", [(1, at(9), "home"), (2, at(9), "away")], ("categorical_value", pa.string()))
    write_labels(folder / "risk.parquet", [(1, at(9), 0.5)], ("float_value", pa.float32()))
    stay, place = meds.sources(folder, labels="los.parquet"), meds.sources(folder, labels=["where.parquet"])
    assert (stay.kind, stay.classes, check(stay)[0]["1"]["label"]) == ("ordinal", ("0", "1", "2"), 2)
    assert (place.kind, place.classes, check(place)[0]["1"]["label"]) == ("single", ("away", "home"), 1)
    fails(lambda: meds.sources(folder, labels="risk.parquet"), "risk.parquet", "float_value")


def test_rare_codes_and_codes_with_some_values(folder, tmp_path):
    extra = [(7, at(1), "LAB//lactate", None, "haemolysed"), (7, at(2), "RARE", None, None)]
    layout = meds.sources(write_meds(tmp_path, extra=extra), most=2)
    _, tally = check(layout)
    assert [v.name for v in layout.variables] == ["DRUG//insulin", "LAB//lactate"]
    assert tally[VALUELESS, "LAB//lactate"] == 1
    assert tally[RARE, "RARE"] == 1


def test_counts_reach_the_notes(folder):
    notes = prepare(meds.sources(folder).sources, lambda example: example).notes
    assert len(notes) == 1
    assert "events after the end of the record, left out" in notes[0]


def test_what_is_wrong_is_named(folder, tmp_path):
    fails(lambda: meds.sources(tmp_path), "holds no data/*.parquet")
    root = write_meds(tmp_path)
    write_labels(root / "labels" / "other.parquet", [(1, at(9), True)])
    fails(lambda: meds.sources(root), "2 tasks of labels", "death, other")
    fails(lambda: meds.sources(root, labels=["none"]), "no labels 'none'")
    write_labels(root / "labels" / "other.parquet", [(1, at(9), True)] * 2)
    fails(lambda: meds.sources(root, labels=["other"]), "other.parquet", "share the id")
    schema = pa.schema([("subject_id", pa.int64()), ("split", pa.string())])
    write_parquet(root / "metadata" / "subject_splits.parquet", [(1, "odd")], schema)
    fails(lambda: meds.sources(root, labels=["death"]), "subject_splits.parquet", "'odd'")
    (root / "data" / "all" / "0.parquet").write_bytes(b"no")
    (root / "metadata" / "subject_splits.parquet").unlink()
    fails(lambda: meds.sources(root, labels=["death"]), "0.parquet", "Parquet")


def test_without_pyarrow_the_extra_is_named(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    fails(lambda: open_layout(folder), "pip install 'medjax[records]'")
