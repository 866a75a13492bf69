"""`medjax data` on folders of records."""

import json

import pytest
from make_records import write_mimic3, write_physionet

from medjax import cli


def done(words):
    with pytest.raises(SystemExit) as ended:
        cli.main(words)
    return ended.value.code == 0


def test_records_are_counted(tmp_path, capsys):
    write_physionet(tmp_path / "data")
    file = tmp_path / "data" / "set-a" / "132540.txt"
    file.write_text(file.read_text() + "01:00,HR,80\n")
    assert done(["data", str(tmp_path / "data"), "--out", str(tmp_path / "out")])
    record = json.loads((tmp_path / "out" / "data.json").read_text())
    assert (record["cases"], record["read"], record["layout"]["name"]) == (6, 5, "physionet2012")
    assert record["splits"]["all"]["classes"] == {"survived": 3, "died in hospital": 2}
    assert record["variables"]["HR"]["events"] == 48 * 5
    assert record["variables"]["pH"]["events"] == 0
    assert "goes back in time" in record["broken"][0]["reason"]
    said = capsys.readouterr().out
    assert all(
        words in said for words in ("died in hospital", "1/min", "132540.txt", "Never measured", "1 records cannot be read")
    )


def test_answers_step_by_step_are_counted(tmp_path, capsys):
    write_mimic3(tmp_path / "data", "length-of-stay", 8)
    assert done(["data", str(tmp_path / "data"), "--out", str(tmp_path / "out")])
    record = json.loads((tmp_path / "out" / "data.json").read_text())
    assert sorted(record["splits"]) == ["test", "train"]
    assert record["splits"]["train"]["classes"]["under 1 day"] > 8
    assert not record["audit"]["leaks"]
    assert "Answers by split" in capsys.readouterr().out
