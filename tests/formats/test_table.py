import math

import pytest

from medjax.errors import InputError
from medjax.formats.table import open_table, parse_age, parse_sex, read_table


def fails(call, *words):
    with pytest.raises(InputError) as caught:
        call()
    for word in words:
        assert str(word) in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 2


@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("between", [",", ";", "\t"])
def test_tables_of_spreadsheets_are_read(tmp_path, mark, between):
    file = tmp_path / "t.csv"
    lines = [["Patient ID", "Note"], [" 7 ", f'"a{between}b"'], [], ["8"]]
    file.write_text(mark + "\r\n".join(between.join(line) for line in lines), encoding="utf-8", newline="")
    table = read_table(file)
    assert table.columns == ("Patient ID", "Note")
    assert table.rows == [{"Patient ID": "7", "Note": f"a{between}b"}, {"Patient ID": "8", "Note": ""}]
    assert table.find("patient", "patient_id") == "Patient ID"
    assert table.find("age") is None
    assert table.need("NOTE") == "Note"
    fails(lambda: table.need("age", "years"), file, "age or years", "Patient ID, Note")


def test_a_long_table_is_given_row_by_row(tmp_path):
    file = tmp_path / "t.csv"
    file.write_text("a,b\n1,2\n3,4\n")
    with open_table(file) as (columns, lines):
        assert columns == ("a", "b")
        assert next(lines) == ["1", "2"]
        assert next(lines) == ["3", "4"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"a,b\n1,M\xfcller\n", ["UTF-8"]),
        (b"a,b\n1,2,3\n", ["row 2", "3 fields"]),
        (b"a,a\n1,2\n", ["two columns 'a'"]),
        (b'a,b\n"1,2\n', ["table"]),
        (b'a,b\n"1"x,2\n', ["table"]),
    ],
)
def test_bad_tables_are_told(tmp_path, content, words):
    file = tmp_path / "t.csv"
    file.write_bytes(content)
    fails(lambda: read_table(file), file, *words)
    fails(lambda: read_table(tmp_path / "no.csv"), tmp_path / "no.csv")
    fails(lambda: read_table(tmp_path), tmp_path)


@pytest.mark.parametrize(
    ("text", "age"),
    [("61", 61), ("61.5", 61.5), ("060Y", 60), ("018M", 1.5), ("104W", 104 * 7 / 365.25), ("003D", 3 / 365.25), (" 0 ", 0)],
)
def test_ages(text, age):
    assert parse_age(text) == pytest.approx(age)


@pytest.mark.parametrize("text", ["", "414", "-3", "old", "60 years", "nan", "1e2", "121Y"])
def test_ages_that_are_none(text):
    assert math.isnan(parse_age(text))


def test_sexes():
    assert [parse_sex(text) for text in ("F", "female", "Male", " m ", "Unknown", "", "O")] == ["F", "F", "M", "M", "", "", ""]
