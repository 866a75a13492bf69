"""`medjax data` on folders of texts."""

import json

import pytest
from make_texts import sentences, table, write_conll

from medjax import cli


def look(tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["data", str(tmp_path / "data"), "--out", str(tmp_path / "out")])
    assert ended.value.code == 0
    return json.loads((tmp_path / "out" / "data.json").read_text()), capsys.readouterr().out


def test_entities_are_counted(tmp_path, capsys):
    write_conll(tmp_path / "data", 30)
    record, said = look(tmp_path, capsys)
    assert (record["layout"]["name"], record["kind"], record["cases"]) == ("conll", "spans", 50)
    wanted = sum(kind == "Drug" for _, spans in sentences(30, 0) for *_, kind in spans)
    assert record["splits"]["train"]["classes"]["Drug"] == wanted
    assert record["splits"]["train"]["new"] is None
    assert 0 <= record["splits"]["test"]["new"] < 0.2
    assert all(words in said for words in ("Entities by split", "new words", "placeholders", "identical content"))
    assert "Crohn" not in said  # no text of a patient


def test_texts_of_one_patient_on_two_sides_are_a_leak(tmp_path, capsys):
    (tmp_path / "data").mkdir()
    rows = [{"id": i, "patient": "p", "text": f"a fever {i} XXXX", "label": "ab"[i]} for i in range(2)]
    (tmp_path / "data" / "train.csv").write_text(table(rows))
    (tmp_path / "data" / "test.csv").write_text(table([{**rows[0], "label": "c"}]))
    record, said = look(tmp_path, capsys)
    assert record["audit"] == {"leaks": {"patients in train and test": 1}, "identical": {"sets": 1, "files": 2}}
    assert record["placeholders"] == 3
    assert "Leak: 1 patients in train and test" in said
    assert "Not in training texts: c" in said
