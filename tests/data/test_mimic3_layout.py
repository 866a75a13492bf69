"""The four tasks of the MIMIC-III benchmark, in fixtures of its own encoding."""

import numpy as np
import pytest
from make_records import MIMIC3, check, events, mimic3_row, read, split_mimic3, write_csv, write_mimic3
from toy import fails

from medjax.data.layouts import detect, mimic3, open_layout
from medjax.data.records import CONVERTED, LATE, OUTSIDE, UNKNOWN

KINDS = {"in-hospital-mortality": "single", "decompensation": "steps", "length-of-stay": "steps", "phenotyping": "multi"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """All tasks. Shared, so do not change it."""
    root = tmp_path_factory.mktemp("mimic3")
    for task in mimic3.TASKS:
        write_mimic3(root / task, task)
    return root


@pytest.mark.parametrize("task", mimic3.TASKS)
def test_each_task(folder, task):
    assert list(detect(folder / task)) == ["mimic3"]
    layout = open_layout(folder / task)
    found, tally = check(layout)
    assert (layout.kind, len(layout.variables), layout.statics) == (KINDS[task], 17, ())
    assert sorted(layout.sources) == ["test", "train"]
    assert len(found) == 48
    assert len({example["patient"] for example in found.values()}) == 36
    assert not tally
    case = found["train/100_episode1"]
    assert (case["patient"], case["split"]) == ("100", "train")
    assert case["end"] == {"phenotyping": 60, "in-hospital-mortality": 48}.get(task, 59)


def test_answers_of_each_task(folder):
    rows = {task: check(mimic3.sources(folder, task=task))[0]["train/100_episode1"] for task in mimic3.TASKS}
    assert rows["in-hospital-mortality"]["label"] == 1
    assert rows["phenotyping"]["label"].shape == (25,)
    np.testing.assert_array_equal(rows["decompensation"]["label_times"], np.arange(5, 60, 6))
    np.testing.assert_array_equal(rows["decompensation"]["label_values"], np.arange(5, 60, 6) > 36)
    np.testing.assert_array_equal(rows["length-of-stay"]["label_values"], [2, 2, 1, 1, 1, 1, 0, 0, 0, 0])
    assert mimic3.sources(folder).about.startswith("48 stays of the MIMIC-III benchmark's in-hospital-mortality")
    assert mimic3.sources(folder, task="phenotyping").classes[3] == "Phenotype 3"


def test_bins_of_a_stay_are_the_benchmarks(tmp_path):
    write_csv(tmp_path / "train" / "1_episode1_timeseries.csv", ("Hours", *MIMIC3), [mimic3_row(0, pH=7.4)])
    hours = [23.9, 24, 47, 48, 167.9, 168, 191, 192, 335, 336, 2000]
    rows = [("1_episode1_timeseries.csv", k + 5, left) for k, left in enumerate(hours)]
    write_csv(tmp_path / "train" / "listfile.csv", ("stay", "period_length", "y_true"), rows)
    layout = mimic3.sources(tmp_path)
    answers = check(layout)[0]["train/1_episode1"]["label_values"]
    np.testing.assert_array_equal(answers, [0, 1, 1, 2, 6, 7, 7, 8, 8, 9, 9])
    assert len(layout.classes) == 10
    assert layout.classes[7:] == ("7 to 8 days", "8 to 14 days", "over 14 days")


def test_the_benchmarks_own_validation_patients(tmp_path):
    split_mimic3(write_mimic3(tmp_path, "in-hospital-mortality"))
    found, _ = check(mimic3.sources(tmp_path))
    by = {split: {e["patient"] for e in found.values() if e["split"] == split} for split in ("train", "val", "test")}
    assert len(found) == 48
    assert all(by.values())
    assert not (by["train"] & by["val"] | by["train"] & by["test"] | by["val"] & by["test"])
    assert all(id.startswith("train/") for id, e in found.items() if e["split"] == "val")


def test_variables_and_masks_are_the_76_inputs():
    assert sum(len(v.categories) or 1 for v in mimic3.VARIABLES) + len(mimic3.VARIABLES) == 76
    assert sum(bool(v.categories) for v in mimic3.VARIABLES) == 5
    assert tuple(v.name for v in mimic3.VARIABLES) == MIMIC3


def one(tmp_path, rows, header=("Hours", *MIMIC3)):
    write_csv(tmp_path / "train" / "7_episode1_timeseries.csv", header, rows)
    write_csv(tmp_path / "train" / "listfile.csv", ("stay", "y_true"), [("7_episode1_timeseries.csv", 1)])
    layout = mimic3.sources(tmp_path)
    return layout, lambda: check(layout)


def test_categories_units_and_the_end(tmp_path):
    rows = [mimic3_row(0, Glascow_coma_scale_total="9.0", Capillary_refill_rate="1.0"), mimic3_row(0.5, Temperature=98.6)]
    rows += [mimic3_row(1, Glascow_coma_scale_verbal_response="Confused"), mimic3_row(2, Glascow_coma_scale_total="2")]
    rows += [mimic3_row(2, Glascow_coma_scale_eye_opening="half"), mimic3_row(3, Heart_Rate=0), mimic3_row(48.5, pH=7.1)]
    layout, read = one(tmp_path, [[*row, "x" * (row[0] == 3)] for row in rows], ("Hours", *MIMIC3, "Note"))
    found, tally = read()
    names = {name: layout.variables[k].categories for k, name in enumerate(MIMIC3)}
    assert events(layout, found["train/7_episode1"]) == [
        (0, "Capillary refill rate", 1),
        (0, "Glascow coma scale total", names["Glascow coma scale total"].index("9")),
        (0.5, "Temperature", 37),
        (1, "Glascow coma scale verbal response", names["Glascow coma scale verbal response"].index("Confused")),
    ]
    assert tally == {
        (mimic3.UNSEEN, "Glascow coma scale total: 2"): 1,
        (mimic3.UNSEEN, "Glascow coma scale eye opening: half"): 1,
        (CONVERTED, "Temperature from °F"): 1,
        (OUTSIDE, "Heart Rate"): 1,
        (UNKNOWN, "Note"): 1,
        (LATE, "pH"): 1,
    }


def test_wrong_files_are_named(tmp_path):
    file = tmp_path / "train" / "7_episode1_timeseries.csv"
    fails(one(tmp_path, [mimic3_row(1, pH=7), mimic3_row(0.5, pH=7)])[1], file, "row 3 goes back in time")
    fails(one(tmp_path, [mimic3_row("now", pH=7)])[1], file, "row 2", "'now'")
    fails(one(tmp_path, [mimic3_row(1, pH="low")])[1], file, "'low' of pH")
    fails(one(tmp_path, [[1, 2]], ("Time", "pH"))[1], file, "column Hours")
    fails(one(tmp_path, [[1, 2]], ("Hours", "Wind"))[1], file, "none of the benchmark's variables")
    listfile = tmp_path / "train" / "listfile.csv"
    write_csv(listfile, ("stay", "y_true"), [("7_episode1_timeseries.csv", 1)] * 2)
    fails(lambda: read(mimic3.sources(tmp_path)), listfile, "twice")
    write_csv(listfile, ("stay", "y_true"), [("8_episode1_timeseries.csv", 1), ("9_episode1_timeseries.csv", 1)])
    fails(lambda: mimic3.sources(tmp_path), listfile, "2 of 2 stays", "8_episode1")
    write_csv(listfile, ("stay", "y_true"), [("7_episode1_timeseries.csv", "?")])
    fails(lambda: mimic3.sources(tmp_path), listfile, "'?'")
    write_csv(listfile, ("stay", "period_length", "y_true"), [("7_episode1_timeseries.csv", 5, 0)] * 2)
    fails(lambda: mimic3.sources(tmp_path), listfile, "twice at one period_length")
    fails(lambda: mimic3.sources(tmp_path, task="mortality"), "no task 'mortality'")
    fails(lambda: mimic3.sources(tmp_path / "test"), "no such folder")


def test_only_what_comes_after_the_end_changes_nothing(tmp_path):
    layout = mimic3.sources(write_mimic3(tmp_path, "in-hospital-mortality", 6))
    before, _ = check(layout)
    for file in tmp_path.glob("*/*_timeseries.csv"):
        file.write_text(file.read_text() + ",".join(map(str, mimic3_row(48.01, Heart_Rate=299))) + "\n")
    after, tally = check(mimic3.sources(tmp_path))
    assert tally == {(LATE, "Heart Rate"): len(before)}
    for id, example in before.items():
        np.testing.assert_array_equal(example["values"], after[id]["values"])
