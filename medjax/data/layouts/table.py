"""A CSV, or a folder with one: a row for each picture, with its path and its labels, and perhaps its patient and split."""

from __future__ import annotations

import collections
from collections.abc import Sequence
from pathlib import Path

from medjax.data.folders import Item, by_split, case_id, drop_ending, picture_files
from medjax.data.layouts import Layout
from medjax.data.tables import FLAGS, PATIENTS, check_all_there, known_columns, known_values, read_labels, read_split
from medjax.errors import InputError
from medjax.formats.table import Table, open_table, read_table

_PATHS = ("path", "image_path", "image", "file", "filename", "image_id", "name", "id")
_LABELS = ("label", "class", "diagnosis", "target", "finding", "category")


def sources(path: str | Path, *, labels: Sequence[str] = (), classes: Sequence[str] = ()) -> Layout:
    """Read a table of pictures.

    Its columns, upper and lower case alike: `path` (or image, file, filename, image_id, name, id), relative to the table, with
    or without the ending; the labels; and as it pleases `patient` (or patient_id), `split`, `sex`, `age`, `view`, `site`. A
    column `label` (class, diagnosis, target, finding, category) names one class a picture. Without it, all other columns that
    hold only 1, 0, -1 and blanks are labels: one alone asks yes or no, of several any may be true. Blank and -1 are missing.

    Args:
      path: the CSV, or a folder with one CSV that has such columns.
      labels: the columns of the labels, where they are not to be found as above.
      classes: class names in the order of the labels, where one column names them; in sorted order by default.

    Raises:
      InputError: no such table or column, labels that are none, a picture named twice, pictures that are not there.
    """
    table = _find_table(Path(path))
    columns = _label_columns(table, labels)
    values, names, multi = read_labels(table, columns, classes, named=columns[0] == table.find(*_LABELS))
    key, patient, split = table.need(*_PATHS), table.find(*PATIENTS), table.find("split")
    known = known_columns(table)
    files = _files(table, key)
    items = []
    for row, file, label in zip(table.rows, files, values, strict=True):
        item = Item(file, _id(file, table.path.parent), label, row[patient] if patient else "", known_values(row, known))
        items.append((read_split(table.path, row[key], row[split]) or "all" if split else "all", item))
    what = f"labels {', '.join(names)}" if multi else f"{len(names)} classes from the column {columns[0]}"
    about = f"{len(items):,} pictures of {table.path.name}: {what}"
    return Layout(by_split(items, tuple(known)), names, "multi" if multi else "single", about)


def sniff(path: str | Path) -> str:
    """Why this looks like a table of pictures; "" where it does not."""
    try:
        table = _find_table(Path(path))
        columns = _label_columns(table, ())
        _files(table, table.need(*_PATHS), enough=3)
    except InputError:
        return ""
    return f"{table.path.name} names pictures and has {'labels ' if len(columns) > 1 else 'the label '}{', '.join(columns[:4])}"


def _find_table(path: Path) -> Table:
    if path.is_file():
        table = read_table(path)
        table.need(*_PATHS)
        return _not_empty(table)
    if not path.is_dir():
        raise InputError(f"{path}: no such file or folder\ngive --data.path a CSV, or a folder with one")
    found = [file for file in sorted(path.glob("*.csv")) if _header(file).find(*_PATHS)]
    if len(found) != 1:
        raise InputError(
            f"{path}: holds {len(found)} CSV files with a column path (or image, file, id), where one is wanted\n"
            "give --data.path the one that is meant"
        )
    return _not_empty(read_table(found[0]))


def _header(file: Path) -> Table:
    """A table without its rows."""
    with open_table(file) as (columns, _):
        return Table(file, columns, [])


def _not_empty(table: Table) -> Table:
    if not table.rows:
        raise InputError(f"{table.path}: has no rows\nadd one for each picture")
    return table


def _label_columns(table: Table, labels: Sequence[str]) -> tuple[str, ...]:
    if labels:
        return tuple(table.need(name) for name in labels)
    if column := table.find(*_LABELS):
        return (column,)
    taken = {table.find(*_PATHS), table.find(*PATIENTS), table.find("split"), *known_columns(table).values()}
    found = []
    for column in table.columns:
        values = {row[column] for row in table.rows}
        if column not in taken and values <= FLAGS.keys() and values & {"0", "1", "0.0", "1.0"}:
            found.append(column)
    if not found:
        raise InputError(
            f"{table.path}: has no column label (or class, diagnosis...) and none of only 0 and 1\n"
            f"name the columns: --data.labels A B, out of {', '.join(table.columns)}"
        )
    return tuple(found)


def _files(table: Table, key: str, *, enough: int | None = None) -> list[Path]:
    """The file of each row (of the first few). A name without ending is looked for among the pictures beside the table."""
    root = table.path.parent
    names = [row[key] for row in table.rows[:enough]]
    files = {name: root / name for name in names if name and (root / name).is_file()}
    if len(files) < len(set(names)):
        beside = _by_name(root)
        files |= {name: beside[name] for name in names if name not in files and name in beside}
    check_all_there(table.path, names, files)
    if len(set(files.values())) < len(files):
        raise InputError(f"{table.path}: names an image twice, with and without its ending\nkeep one row for each image")
    return [files[name] for name in names]


def _by_name(root: Path) -> dict[str, Path]:
    """Pictures by their path without ending, and by their name alone, with and without it, where no other file has that."""
    files = picture_files(root)
    alone = collections.Counter(name for f in files for name in {f.name, drop_ending(f.name)})
    found = {name: f for f in files for name in {f.name, drop_ending(f.name)} if alone[name] == 1}
    return found | {case_id(f, root): f for f in files}


def _id(file: Path, root: Path) -> str:
    """The path relative to the table's folder, without its ending; as the table has it for a file elsewhere."""
    inside = file.relative_to(root) if file.is_relative_to(root) else file
    return drop_ending(inside.as_posix())
