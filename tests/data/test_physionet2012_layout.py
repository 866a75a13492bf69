"""PhysioNet Challenge 2012, in fixtures of its own encoding and, where they are at hand, in its own files."""

import numpy as np
import pytest
from make_records import check, events, physionet_record, read, write_physionet
from toy import fails, job

from medjax.config import Data
from medjax.data.layouts import detect, physionet2012
from medjax.data.load import load
from medjax.data.prepare import prepare
from medjax.data.records import CONVERTED, EMPTY, LATE, OUTSIDE, UNKNOWN, VALUELESS


def one(tmp_path, rows, **head):
    """The example and tally of a single record."""
    file = tmp_path / "1.txt"
    file.write_text(physionet_record(1, rows, **head))
    layout = physionet2012.sources(file, unlabelled=True)
    found, tally = check(layout)
    return events(layout, found["1"]), found["1"], tally


def test_all_sets_are_taken_and_labelled(tmp_path):
    write_physionet(tmp_path, "a", 6)
    write_physionet(tmp_path, "b", 4, 142675)
    layout = physionet2012.sources(tmp_path)
    found, _ = check(layout)
    assert list(detect(tmp_path)) == ["physionet2012"]
    assert list(layout.sources) == ["all"]
    assert len(layout.variables) == 37
    assert len(found) == 10
    case = found["set-b/142675"]
    assert (case["label"], case["patient"], case["sex"], case["age"]) == (1, "142675", "F", 40)
    assert found["set-a/132540"]["label"] == 0
    assert case["end"] == 48
    assert "10 stays" in layout.about


@pytest.mark.parametrize("inside", [True, False])
def test_a_folder_may_be_one_set(tmp_path, inside):
    write_physionet(tmp_path)
    if inside:
        (tmp_path / "Outcomes-a.txt").rename(tmp_path / "set-a" / "Outcomes-a.txt")
    assert detect(tmp_path / "set-a")
    assert set(check(physionet2012.sources(tmp_path / "set-a"))[0]) == {str(132539 + i) for i in range(6)}


def test_descriptors_are_statics_and_weight_is_both(tmp_path):
    rows = ["00:00,Weight,81", "01:30,Weight,82.5", "02:00,Weight,-1", "02:00,HR,80"]
    found, example, tally = one(tmp_path, rows, weight="80", gender="1", height="180", icu="2")
    assert found == [(0, "Weight", 81), (1.5, "Weight", 82.5), (2, "HR", 80)]
    np.testing.assert_array_equal(example["static"], [54, 1, 180, 80, 0, 1, 0, 0])
    assert tally == {(VALUELESS, "Weight"): 1}
    _, example, _ = one(tmp_path, [], gender="-1", icu="-1", age="-1")
    assert np.isnan(example["static"]).all()
    assert example["sex"] == ""


def test_what_cannot_be_is_left_out_and_counted(tmp_path):
    rows = ["00:10,HR,0", "00:10,Temp,98.6", "00:20,pH,735", "00:20,pH,73.6", "00:20,pH,1", "00:20,FiO2,40", "00:30,Temp,-17.8"]
    rows += ["00:30,Wind,3", "48:00,HR,80", "48:01,HR,81"]
    found, example, tally = one(tmp_path, rows, height="431.8")
    assert found == [(0.1667, "Temp", 37), (0.3333, "pH", 7.35), (0.3333, "pH", 7.36), (0.3333, "FiO2", 0.4), (48, "HR", 80)]
    assert np.isnan(example["static"][2])
    assert tally == {
        (OUTSIDE, "HR"): 1,
        (OUTSIDE, "pH"): 1,
        (OUTSIDE, "Temp"): 1,
        (OUTSIDE, "Height at admission"): 1,
        (CONVERTED, "Temp from °F"): 1,
        (CONVERTED, "pH from tenths"): 1,
        (CONVERTED, "pH from hundredths"): 1,
        (CONVERTED, "FiO2 from %"): 1,
        (UNKNOWN, "Wind"): 1,
        (LATE, "HR"): 1,
    }


def test_nothing_after_the_end_enters(tmp_path):
    write_physionet(tmp_path)
    whole, part = physionet2012.sources(tmp_path), physionet2012.sources(tmp_path, end=12.0)
    for file in (tmp_path / "set-a").iterdir():
        file.write_text(file.read_text() + "48:00,HR,299\n")
    leaked = check(physionet2012.sources(tmp_path, end=12.0))[0]
    for id, example in check(part)[0].items():
        assert example["times"].max() <= 12
        np.testing.assert_array_equal(example["values"], leaked[id]["values"])
    assert all(299 in example["values"] for example in check(whole)[0].values())


def test_a_record_without_a_measurement_is_kept_and_counted(tmp_path):
    found, example, tally = one(tmp_path, [])
    assert found == []
    assert example["static"][0] == 54
    assert tally == {(EMPTY, ""): 1}


def test_counts_reach_the_notes_and_stay_in_the_cache(tmp_path):
    write_physionet(tmp_path)
    file = tmp_path / "set-a" / "132540.txt"
    file.write_text(file.read_text() + "48:00,HR,0\n")
    for _ in range(2):
        prepared = prepare(physionet2012.sources(tmp_path).sources, lambda example: example)
        assert prepared.notes == ("1 values outside their plausible range, left out (HR 1)",)
    assert prepared.cases["values"][1].shape == prepared.cases["times"][1].shape


def test_counts_reach_the_audit_of_a_report(tmp_path):
    write_physionet(tmp_path, n=12)
    file = tmp_path / "set-a" / "132540.txt"
    file.write_text(file.read_text() + "48:00,HR,0\n")
    data = load(job(physionet2012.sources(tmp_path).sources, physionet2012.CLASSES), Data(), lambda text: None)
    assert data.audit["notes"] == ["1 values outside their plausible range, left out (HR 1)"]


def test_wrong_records_are_named(tmp_path):
    write_physionet(tmp_path)
    layout, file = physionet2012.sources(tmp_path), tmp_path / "set-a" / "132539.txt"
    good = file.read_text()
    file.write_text(good + "03:00,HR,80\n")
    fails(lambda: read(layout), file, f"row {len(good.splitlines()) + 1} goes back in time")
    file.write_text(good + "48:00,HR\n")
    fails(lambda: read(layout), file, "HH:MM,Parameter,Value")
    file.write_text(good + "48:00,HR,fast\n")
    fails(lambda: read(layout), file, "'48:00,HR,fast'")
    file.write_text(good.replace("Time,Parameter", "Hour,Parameter"))
    fails(lambda: read(layout), file, "does not begin")
    file.write_bytes(b"\xff\xfe\x00")
    fails(lambda: read(layout), file, "no text")


def test_wrong_outcomes_are_named(tmp_path):
    write_physionet(tmp_path)
    outcomes = tmp_path / "Outcomes-a.txt"
    rows = outcomes.read_text().splitlines()
    outcomes.write_text("\n".join(rows[:-2]))
    fails(lambda: physionet2012.sources(tmp_path), outcomes, "no outcome for 2 of 6 records", "132543")
    outcomes.write_text("\n".join([*rows, rows[1]]))
    fails(lambda: physionet2012.sources(tmp_path), outcomes, "'132539' twice")
    outcomes.write_text("\n".join([*rows[:-1], "132544,6,1,5,-1,yes"]))
    fails(lambda: physionet2012.sources(tmp_path), outcomes, "'yes'")
    outcomes.write_text("\n".join([*rows[:-1], "132544,6,1,5,-1,-1", "999,6,1,5,-1,1"]))
    found, tally = check(physionet2012.sources(tmp_path))
    assert found["set-a/132544"]["label"] == -1
    assert tally == {(physionet2012.NO_OUTCOME, ""): 1}
    outcomes.unlink()
    fails(lambda: physionet2012.sources(tmp_path), "no Outcomes file")
    fails(lambda: physionet2012.sources(tmp_path / "nowhere"), "no such folder")


def test_a_record_in_two_sets_is_an_error(tmp_path):
    write_physionet(tmp_path, "a")
    write_physionet(tmp_path, "b")
    fails(lambda: physionet2012.sources(tmp_path), "more than one set", "132539")


@pytest.mark.realdata
def test_the_real_set(real_data):
    layout = physionet2012.sources(real_data / "physionet2012")
    source = layout.sources["all"]
    assert len(source) == 4000
    assert sum(item.label for item in source.items) == 554
    source.items = source.items[::8]
    found, tally = check(layout)
    lengths = [len(example["times"]) for example in found.values()]
    assert 300 < np.median(lengths) < 600
    assert not any(what == UNKNOWN for what, _ in tally)
    left = sum(n for (what, _), n in tally.items() if what == OUTSIDE)
    assert 0 < left < 0.005 * sum(lengths)
