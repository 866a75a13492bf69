"""CSV tables -> rows of text, and the few things that columns of patients say in many ways."""

from __future__ import annotations

import contextlib
import csv
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from medjax.errors import InputError

csv.field_size_limit(2**28)  # a hospital's note may be longer than the 128 KiB that a field may have by default
OLDEST = 120  # years: an age above is a mistake, and taken as unknown
_YEARS = {"Y": 1.0, "M": 1 / 12, "W": 7 / 365.25, "D": 1 / 365.25}  # DICOM PS3.5, value representation AS


class Table(NamedTuple):
    """A table of text.

    Attributes:
      path: the file.
      columns: in its order.
      rows: {column: text without blanks around it}.
    """

    path: Path
    columns: tuple[str, ...]
    rows: list[dict[str, str]]

    def find(self, *names: str) -> str | None:
        """The column that has the first of these names that is there, upper and lower case, "_", "-" and blanks alike."""
        by_name = {_plain(column): column for column in reversed(self.columns)}
        return next((by_name[_plain(name)] for name in names if _plain(name) in by_name), None)

    def need(self, *names: str) -> str:
        """As `find`.

        Raises:
          InputError: none of them is there.
        """
        column = self.find(*names)
        if column is None:
            raise InputError(f"{self.path}: has no column {' or '.join(names)}\nit has {', '.join(self.columns) or 'none'}")
        return column


def read_table(path: str | Path) -> Table:
    """Read a CSV file with a header, in UTF-8, separated by commas, semicolons or tabs.

    Raises:
      InputError: it cannot be read, is not UTF-8, names a column twice, or has a row longer than its header.
    """
    with open_table(path) as (columns, lines):
        rows = [dict(zip(columns, line + [""] * (len(columns) - len(line)))) for line in lines]
    return Table(Path(path), columns, rows)


@contextlib.contextmanager
def open_table(path: str | Path) -> Iterator[tuple[tuple[str, ...], Iterator[list[str]]]]:
    """(columns, rows as lists, empty ones left out) of a table too long to be kept in memory. See `read_table`."""
    path = Path(path)
    try:
        with open(path, newline="", encoding="utf-8-sig") as handle:
            header = handle.readline()
            handle.seek(0)
            reader = csv.reader(handle, delimiter=max(",;\t", key=header.count), strict=True)
            columns = tuple(column.strip() for column in next(reader, []))
            if twice := next((c for i, c in enumerate(columns) if c in columns[:i]), None):
                raise InputError(f"{path}: has two columns {twice!r}\nrename one of them")
            yield columns, _lines(path, reader, len(columns))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})\ngive a CSV file") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read as a UTF-8 table ({error})\nsave it as CSV in UTF-8") from error


def _lines(path: Path, reader: Iterator[list[str]], width: int) -> Iterator[list[str]]:
    for number, line in enumerate(reader, 2):
        if len(line) > width:
            raise InputError(
                f"{path}: row {number} has {len(line)} fields, the header {width}\nput quotes around fields with commas"
            )
        if any(line):
            yield [field.strip() for field in line]


def parse_sex(text: str) -> str:
    """ "F" or "M" from f, female, M, Male...; "" for anything else."""
    return {"f": "F", "female": "F", "m": "M", "male": "M"}.get(text.strip().lower(), "")


def parse_age(text: str) -> float:
    """Years from "61", "61.5" or DICOM's "061Y", "018M", "009W", "003D"; NaN for anything else or outside 0 to 120."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([YMWD]?)", text.strip().upper())
    age = float(found[1]) * _YEARS[found[2] or "Y"] if found else math.nan
    return age if age <= OLDEST else math.nan


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", "", name).lower()
