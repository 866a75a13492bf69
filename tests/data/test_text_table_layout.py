"""Tables of texts: labels, codes, pairs, splits, and quoted fields; and ICD-10-CM's tabular list."""

import csv
import io

import numpy as np
import pytest
from toy import fails

from medjax.data import icd10cm, texts
from medjax.data.layouts import detect, open_layout, text_table

HEAD = ("ID", "section_header", "section_text", "dialogue")


def table(rows, head=HEAD, **options):
    out = io.StringIO()
    csv.writer(out, **options).writerows([head, *rows])
    return out.getvalue()


def write(folder, **files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / f"{name}.csv").write_bytes(text.encode() if isinstance(text, str) else text)
    return folder


ROWS = [("0", "CC", "Cough.", 'Doctor: "Well?"\nPatient: I cough, ärgh 💊.'), ("1", "ROS", "None.", "Doctor: Any fever?\nNo.")]


@pytest.fixture
def dialogues(tmp_path):
    names = ("X-TrainingSet", "X-ValidationSet", "X-TestSet-1-Chat", "X-TestSet-2-Sum")
    return write(tmp_path / "x", **{name: table(ROWS) for name in names})


def test_dialogues_with_sections(dialogues):
    assert list(detect(dialogues)) == ["text_table"]
    layout = open_layout(dialogues)
    assert (layout.kind, layout.classes, layout.texts) == ("single", ("CC", "ROS"), ("text",))
    assert {split: len(of) for split, of in layout.sources.items()} == {"train": 2, "val": 2, "test": 4}  # both test sets
    first = layout.sources["train"][0]
    assert (first["id"], first["text"], first["label"]) == ("X-TrainingSet/0", ROWS[0][3], 0)


def test_dialogues_with_a_text_to_write(dialogues):
    layout = open_layout(dialogues, target="section_text")
    assert (layout.kind, layout.classes, layout.texts) == ("pairs", (), ("text", "target"))
    assert layout.sources["val"][1]["target"] == "None."


def test_codes_in_one_field(tmp_path):
    rows = [(7, 70, "a b", "401.9;250.00"), (7, 71, "c d", "250.00"), (8, 72, "e f", "")]
    folder = write(tmp_path / "x", train_full=table(rows, ("SUBJECT_ID", "HADM_ID", "TEXT", "LABELS")))
    layout = open_layout(folder)
    assert (layout.kind, layout.classes) == ("multi", ("250.00", "401.9"))
    source = layout.sources["train"]
    assert [source[i]["label"].tolist() for i in range(3)] == [[1, 1], [1, 0], [0, 0]]
    assert [(source[i]["id"], source[i]["patient"]) for i in range(3)] == [("70", "7"), ("71", "7"), ("72", "8")]


def test_columns_of_flags_and_splits_by_column(tmp_path):
    rows = [("a b", 1, 0, "train", "F"), ("c d", 0, "", "dev", "M"), ("e f", 0, 1, "test", "")]
    folder = write(tmp_path / "x", notes=table(rows, ("note", "cough", "fever", "split", "sex"), delimiter=";"))
    layout = open_layout(folder, "text_table", labels=("cough", "fever"))
    assert (layout.kind, layout.classes) == ("multi", ("cough", "fever"))
    assert {split: of[0]["label"].tolist() for split, of in layout.sources.items()} == {
        "train": [1, 0],
        "val": [0, -1],
        "test": [0, 1],
    }
    assert layout.sources["train"][0]["sex"] == "F"


def test_a_text_longer_than_csv_allows_by_default(tmp_path):
    long = "word " * 100_000
    folder = write(tmp_path / "x", notes=table([("1", "CC", "", long), ("2", "ROS", "", "")]))
    source = open_layout(folder).sources["all"]
    assert len(source[0]["text"]) == len(long) - 1
    assert source.tally() == {(texts.EMPTY, ""): 1}


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({"a": table(ROWS), "b": table(ROWS)}, ("2 CSV files", "names no split")),
        ({"a": table([("0", "CC", "x", "a b"), ("0", "ROS", "y", "c d")])}, ("share the id '0'",)),
        ({"a": "text,label\na b,c\n"}, ("fewer than two classes",)),
        ({"a": table([], HEAD)}, ("has no rows",)),
        ({"a": "text;b\nx;y\n"}, ("no column label", "text, b")),
        ({"a": table(ROWS).encode().replace("ä".encode(), b"\xe4")}, ("a.csv", "UTF-8")),
        ({"a": table(ROWS) + '"2","CC","x","open\n'}, ("a.csv",)),
        ({"a": "dialogue,label\na b,c,d\n"}, ("row 2", "quotes")),
    ],
)
def test_bad_tables_are_named(tmp_path, files, says):
    folder = write(tmp_path / "x", **files)
    fails(lambda: open_layout(folder, "text_table"), *says)


def test_texts_alone_are_read_for_prediction(tmp_path):
    file = write(tmp_path / "x", notes="text\na b\n") / "notes.csv"
    assert text_table.sources(file, classes=("a", "b"), unlabelled=True).sources["all"][0]["label"] == -1
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "n.txt").write_text("ä")
    layout = open_layout(tmp_path / "t", "text_files")
    assert [layout.sources["all"][0][name] for name in ("id", "text", "label")] == ["n", "ä", -1]
    assert not detect(tmp_path / "t")


XML = """<?xml version="1.0" encoding="utf-8"?><ICD10CM.tabular><version>2026</version>
<chapter><name>1</name><desc>Certain infectious and parasitic diseases (A00-B99)</desc><section id="A00-A09">
<diag><name>A00</name><desc>Cholera</desc><diag><name>A00.0</name><desc>Cholera,
 classical</desc></diag></diag></section></chapter>
<chapter><name>2</name><desc>Neoplasms (C00-D49)</desc><section id="C00">
<diag><name>C00</name><desc>Lip</desc></diag></section></chapter></ICD10CM.tabular>"""


def test_a_tabular_list(tmp_path):
    path = tmp_path / "icd.xml"
    path.write_text(XML)
    codes = icd10cm.read_codes(path)
    assert codes[1] == ("A00.0", "Cholera, classical", "A00", "1 infectious")
    assert [code.category for code in codes] == ["A00", "A00", "C00"]
    path.write_text("<x/>")
    fails(lambda: icd10cm.read_codes(path), "icd.xml", "no chapter")
    path.write_text("nothing")
    fails(lambda: icd10cm.read_codes(path), "icd.xml", "cannot be read")


@pytest.mark.network
def test_the_wheels_diagnoses():
    layout = icd10cm.diagnoses()
    assert len(layout.classes) == 22
    assert sum(len(source) for source in layout.sources.values()) == 46_881
    owners = {split: {d.patient for d in source.documents} for split, source in layout.sources.items()}
    assert not owners["train"] & owners["test"]
    assert not owners["train"] & owners["val"]
    shares = np.array([len(source) for source in layout.sources.values()]) / 46_881
    np.testing.assert_allclose(shares, icd10cm.FRACTIONS, atol=0.02)


@pytest.mark.network
def test_the_wheels_categories_are_all_seen_in_training():
    layout = icd10cm.diagnoses("category")
    held = {split: {d.label for d in source.documents} for split, source in layout.sources.items()}
    assert held["train"] == set(range(len(layout.classes)))
    assert held["test"] <= held["train"]
    ids = [d.id for source in layout.sources.values() for d in source.documents]
    assert len(set(ids)) == len(ids) > 30_000
    sizes = np.bincount([d.label for source in layout.sources.values() for d in source.documents])
    assert sizes.min() >= icd10cm.LEAST


@pytest.mark.realdata
def test_the_dialogues(real_data):
    layout = open_layout(real_data / "mts_dialog")
    assert {split: len(of) for split, of in layout.sources.items()} == {"train": 1201, "val": 100, "test": 400}
    assert len(layout.classes) == 20


def test_a_column_that_is_the_same_for_all_is_no_label(tmp_path):
    rows = [("1", "CC", "Cough.", "a b"), ("2", "CC", "Fever.", "c d")]
    assert open_layout(write(tmp_path / "x", notes=table(rows))).kind == "pairs"
    folder = write(tmp_path / "y", notes=table([*rows, ("3", "ROS", "None.", "e f")]))
    assert open_layout(folder).kind == "single"
    assert open_layout(folder, write=True).kind == "pairs"
