"""CSV (plain or .gz) and Parquet tables in blocks of rows, through pyarrow, for tables that do not fit in memory."""

from __future__ import annotations

import csv
import datetime
import gzip
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medjax.data.events import SEPARATOR, STATIC, Block
from medjax.data.records import Tally
from medjax.errors import InputError
from medjax.extras import need
from medjax.formats.table import Table, open_table

ENDINGS = (".csv", ".csv.gz", ".tsv", ".tsv.gz", ".parquet")
NO_NUMBER = "values that are no number, taken as missing"
INCOMPLETE = "rows without an id, time or variable, left out"
_BLOCK_BYTES = 8 * 2**20
_BLOCK_ROWS = 2**18
_NUMBER = r"^\s*[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?\s*$"
_MICROSECONDS = 3600e6  # an hour's


def arrow(name: str = "pyarrow") -> Any:
    """pyarrow or one of its modules.

    Raises:
      InputError: it is not installed.
    """
    return need(name, extra="records")


def is_table(path: Path) -> bool:
    """Whether a file is a table by its name."""
    return path.is_file() and path.name.lower().endswith(ENDINGS)


def header(path: Path) -> Table:
    """A table without its rows.

    Raises:
      InputError: it cannot be read.
    """
    if path.suffix.lower() == ".parquet":
        return Table(path, tuple(_schema(path).names), [])
    if path.suffix.lower() == ".gz":
        return Table(path, tuple(column.strip() for column in next(csv.reader([_first_line(path)]), [])), [])
    with open_table(path) as (columns, _):
        return Table(path, columns, [])


def read_rows(path: Path, columns: Sequence[str] | None = None) -> Table:
    """A whole table as text, dates as ISO 8601 and nothing as "".

    Raises:
      InputError: it cannot be read.
    """
    if path.suffix.lower() == ".parquet":
        batches = list(batches_of(path, columns or _schema(path).names))
        rows = [{name: _text(value) for name, value in row.items()} for batch in batches for row in batch.to_pylist()]
        return Table(path, tuple(columns or _schema(path).names), rows)
    wanted = columns or header(path).columns
    rows = [{k: v or "" for k, v in row.items()} for batch in batches_of(path, wanted) for row in batch.to_pylist()]
    return Table(path, tuple(wanted), [{k: v.strip() for k, v in row.items()} for row in rows])


def _text(value: Any) -> str:
    if value is None or value != value:
        return ""
    if isinstance(value, datetime.datetime):
        return value.isoformat()
    if isinstance(value, bool):
        return str(int(value))
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def batches_of(path: Path, columns: Sequence[str]) -> Iterator[Any]:
    """pyarrow record batches of some columns: text all of them in a CSV, as they are in Parquet.

    Args:
      path: the file.
      columns: their names.

    Raises:
      InputError: the file cannot be read, or a row has too many fields or too few.
    """
    if path.suffix.lower() == ".parquet":
        yield from _parquet(path, columns)
        return
    pa, pacsv = arrow(), arrow("pyarrow.csv")
    line = _first_line(path)
    read = pacsv.ReadOptions(block_size=_BLOCK_BYTES)
    parse = pacsv.ParseOptions(delimiter=max(",;\t", key=line.count), newlines_in_values=True)
    strings = {name: pa.string() for name in columns}
    convert = pacsv.ConvertOptions(
        include_columns=list(columns), column_types=strings, null_values=[""], strings_can_be_null=True
    )
    try:
        with (
            pa.input_stream(str(path), compression="detect") as stream,
            pacsv.open_csv(stream, read, parse, convert) as reader,
        ):
            yield from reader
    except (pa.ArrowInvalid, pa.ArrowKeyError, OSError, EOFError) as error:
        raise InputError(
            f"{path}: cannot be read as a table ({_one_line(error)})\nsave it as CSV in UTF-8, or as Parquet"
        ) from error


def _parquet(path: Path, columns: Sequence[str]) -> Iterator[Any]:
    pa, pq = arrow(), arrow("pyarrow.parquet")
    try:
        with pq.ParquetFile(path) as file:
            yield from file.iter_batches(_BLOCK_ROWS, columns=list(columns))
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{path}: cannot be read as Parquet ({_one_line(error)})\nget the file again") from error


def _schema(path: Path) -> Any:
    pa, pq = arrow(), arrow("pyarrow.parquet")
    try:
        return pq.read_schema(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{path}: cannot be read as Parquet ({_one_line(error)})\nget the file again") from error


def _first_line(path: Path) -> str:
    opened = gzip.open if path.suffix.lower() == ".gz" else open
    try:
        with opened(path, "rt", encoding="utf-8-sig") as handle:
            return handle.readline().rstrip("\r\n")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error})\ngive a CSV in UTF-8, or Parquet") from error


def _one_line(error: BaseException) -> str:
    return str(error).splitlines()[0][:200] if str(error) else type(error).__name__


def to_block(path: Path, batch: Any, roles: Mapping[str, str], *, hour: float = 1.0, undated: bool = False) -> Block:
    """Rows as a Block of events.

    Args:
      path: the file, for errors.
      batch: pyarrow record batch.
      roles: {"case", "time", "variable", and perhaps "value" and "unit": column}.
      hour: how many of the table's numeric units of time make an hour; dates are hours since 1970.
      undated: rows without a time hold for the case at all times; they are left out otherwise.

    Raises:
      InputError: a time that is neither a number nor a date.
    """
    pa, pc = arrow(), arrow("pyarrow.compute")
    tally: Tally = Counter()
    case, name = (pc.cast(batch.column(roles[role]), pa.string()) for role in ("case", "variable"))
    time = batch.column(roles["time"])
    keep = pc.and_(pc.is_valid(case), pc.is_valid(name))
    if not undated:
        keep = pc.and_(keep, pc.is_valid(time))
    if lost := len(keep) - (pc.sum(keep).as_py() or 0):
        tally[INCOMPLETE, path.name] += lost
        batch, case, name, time = (part.filter(keep) for part in (batch, case, name, time))
    if "unit" in roles:
        unit = pc.fill_null(pc.cast(batch.column(roles["unit"]), pa.string()), "")
        name = pc.binary_join_element_wise(name, unit, SEPARATOR)
    values = np.full(len(case), np.nan)
    if "value" in roles:
        values, strange = numbers(batch.column(roles["value"]))
        if strange:
            tally[NO_NUMBER, path.name] += strange
    return Block(case, hours(path, time, hour), name, values, tally)


def numbers(column: Any) -> tuple[np.ndarray, int]:
    """(float64 [n], NaN for nothing and for what is no number; how many are the latter)."""
    pa, pc = arrow(), arrow("pyarrow.compute")
    strange = 0
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        try:
            column = pc.cast(column, pa.float64())
        except pa.ArrowInvalid:
            fits = pc.fill_null(pc.match_substring_regex(column, _NUMBER), True)
            strange = len(fits) - (pc.sum(fits).as_py() or 0)
            column = pc.cast(pc.utf8_trim_whitespace(pc.if_else(fits, column, None)), pa.float64())
    elif not pa.types.is_float64(column.type):
        column = pc.cast(column, pa.float64())
    return np.asarray(column.to_numpy(zero_copy_only=False), np.float64), strange


def hours(path: Path, column: Any, hour: float = 1.0) -> np.ndarray:
    """float64 [n]: numbers over `hour`, dates as hours since 1970 (those without a zone taken as UTC), `STATIC` for nothing.

    Raises:
      InputError: a time that is neither.
    """
    pa, pc = arrow(), arrow("pyarrow.compute")
    scale = hour
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        for kind in (pa.float64(), pa.timestamp("us"), pa.timestamp("us", "UTC")):
            try:
                column = pc.cast(column, kind)
                break
            except pa.ArrowInvalid:
                continue
        else:
            wrong = next((t for t in column.to_pylist() if t is not None and parse_time(t) is None), "a mixture of forms")
            raise InputError(f"{path}: the time {wrong!r} is neither a number of hours nor an ISO date\nwrite all in one form")
    if pa.types.is_timestamp(column.type) or pa.types.is_date(column.type):
        column, scale = (
            pc.cast(pc.cast(column, pa.timestamp("us", getattr(column.type, "tz", None))), pa.int64()),
            _MICROSECONDS,
        )
    empty = pc.is_null(column).to_numpy(zero_copy_only=False)
    found = np.asarray(pc.fill_null(pc.cast(column, pa.float64(), safe=False), 0.0).to_numpy(zero_copy_only=False)) / scale
    return np.where(empty, STATIC, found)


def parse_time(text: str) -> float | None:
    """Hours from a number of hours, or since 1970 from an ISO date; None from anything else."""
    try:
        return float(text)
    except ValueError:
        pass
    try:
        date = datetime.datetime.fromisoformat(text)
    except ValueError:
        return None
    date = date if date.tzinfo else date.replace(tzinfo=datetime.UTC)
    return (date - datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)) / datetime.timedelta(hours=1)
