"""A CSV, or a folder with one a split: a row a text (note, dialogue, report), with labels or codes, or a text to write."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medjax.data.folders import SPLIT_NAMES
from medjax.data.layouts import Layout
from medjax.data.tables import PATIENTS, known_columns, known_values, read_labels, read_split
from medjax.data.texts import Document, TextSource, check_ids
from medjax.errors import InputError
from medjax.formats.table import Table, open_table, read_table

TEXTS = ("text", "note", "note_text", "report", "dialogue", "document", "description", "sentence", "source", "findings")
LABELS = ("label", "class", "category", "section_header", "section", "diagnosis")
CODES = ("labels", "codes", "icd_codes", "icd9_code", "icd10_code", "icd9_diag", "icd10_diag", "target_codes")
TARGETS = ("target", "summary", "section_text", "impression", "note_target")
IDS = ("id", "note_id", "hadm_id", "row_id", "uid", "encounter_id", "_id")
OWNERS = (*PATIENTS, "subject_id")
_BETWEEN = re.compile(r"\s*[;|,]\s*|\s+")  # codes in one field
_WORDS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")  # of a file's name, TrainingSet and train_full alike


def sources(
    path: str | Path,
    *,
    text: str = "",
    target: str = "",
    write: bool = False,
    labels: Sequence[str] = (),
    classes: Sequence[str] = (),
    unlabelled: bool = False,
) -> Layout:
    """Read tables of texts.

    Their columns, upper and lower case alike: the text (text, note, report, dialogue, description, source, findings); and one
    class a row (label, class, category, section_header, diagnosis), or codes in one field, between which stand ";", "|", "," or
    blanks (labels, codes, icd9_code), or columns of 1 and 0 that `labels` names; or a text to write (target, summary,
    impression). As it pleases id, patient (subject_id), split, sex, age, site. Files whose names say train, validation or test
    are those splits; several files of one are taken together. Rows without an id are numbered, and where ids of several files
    meet, the file's name stands in front.

    Args:
      path: the CSV, or a folder of them.
      text, target: columns of the text and of the text to write; found by their names by default.
      write: the texts to write are taken, whatever labels there are; so they are with `target`.
      labels: columns of the labels.
      classes: their names, in their order; sorted by default.
      unlabelled: read texts without labels as well.

    Returns:
      A Layout of kind "single", "multi" or "pairs".

    Raises:
      InputError: no such table or column, a label that is none, an id twice.
    """
    files = _files(Path(path), text)
    tables = [(split, read_table(file)) for split, file in files]
    if empty := next((table for _, table in tables if not table.rows), None):
        raise InputError(f"{empty.path}: has no rows\nadd one for each text")
    documents = {id(table): _documents(table, text, several=len(tables) > 1) for _, table in tables}
    names: tuple[str, ...] = ()
    kind: Any = "single"
    write = write or bool(target)
    goal = "" if labels else target or _shared(tables, TARGETS)
    of_class, of_codes = ("", "") if write else (_shared(tables, LABELS), _shared(tables, CODES))
    if goal and of_class:  # a column that says the same of all texts is no label beside a text to write
        write = len({row[table.need(of_class)] for _, table in tables for row in table.rows}) < 2
    if not write and (labels or of_class or of_codes):
        values, names, kind = _labels(tables, labels or (of_class or of_codes,), classes, codes=not labels and not of_class)
        label = iter(values)
        documents = {key: [d._replace(label=next(label)) for d in of] for key, of in documents.items()}
    elif goal:
        kind = "pairs"
        for _, table in tables:
            column = table.need(goal)
            of = documents[id(table)]
            documents[id(table)] = [d._replace(target=row[column]) for d, row in zip(of, table.rows, strict=True)]
    elif unlabelled:
        names = tuple(classes)
    else:
        raise InputError(
            f"{tables[0][1].path}: has no column label (or class, codes...) and none of a text to write\n"
            f"name the columns: --data.labels A B, out of {', '.join(tables[0][1].columns)}"
        )
    parts: dict[str, list[Document]] = {}
    for split, table in tables:
        named = table.find("split")
        for document, row in zip(documents[id(table)], table.rows, strict=True):
            own = read_split(table.path, document.id, row[named]) if named else ""
            parts.setdefault(own or split, []).append(document)
    check_ids([d for of in parts.values() for d in of], Path(path))
    n = sum(len(of) for of in parts.values())
    what = f"{len(names):,} classes" if names else "a text to write for each" if kind == "pairs" else "no labels"
    about = f"{n:,} texts of {', '.join(table.path.name for _, table in tables)}: {what}"
    return Layout(
        {split: TextSource(of) for split, of in parts.items()},
        names,
        kind,
        about,
        texts=("text", "target") if kind == "pairs" else ("text",),
    )


def sniff(path: str | Path) -> str:
    """Why this looks like tables of texts; "" where it does not."""
    try:
        files = _files(Path(path), "")
        with open_table(files[0][1]) as (columns, lines):
            table = Table(files[0][1], columns, [dict(zip(columns, line)) for _, line in zip(range(20), lines)])
        column = table.need(*TEXTS)
        table.need(*LABELS, *CODES, *TARGETS)
    except InputError:
        return ""
    texts = [row[column] for row in table.rows if row.get(column)]
    wordy = sum(" " in text for text in texts)
    return f"{table.path.name} has texts in its column {column}" if 2 * wordy > len(texts) else ""


def _files(path: Path, text: str) -> list[tuple[str, Path]]:
    """(split or "all", table) of every table with a column of texts."""
    wanted = (text,) if text else TEXTS
    if path.is_file():
        _head(path).need(*wanted)
        return [("all", path)]
    if not path.is_dir():
        raise InputError(f"{path}: no such file or folder\ngive --data.path a CSV, or a folder with them")
    found = [f for f in sorted(path.iterdir()) if f.suffix.lower() in (".csv", ".tsv") and _head(f).find(*wanted)]
    named = [(_split(file), file) for file in found]
    if len(found) == 1:
        return [(named[0][0] or "all", found[0])]
    if not found or not all(split for split, _ in named):
        odd = next((file.name for split, file in named if not split), "")
        raise InputError(
            f"{path}: holds {len(found)} CSV files with a column {' or '.join(wanted[:4])}"
            + (f", of which {odd} names no split" if odd else "")
            + "\ngive --data.path the one that is meant, or name them train, validation and test"
        )
    return named


def _split(file: Path) -> str:
    """What split a file's name speaks of; "" for none, or several."""
    found = {SPLIT_NAMES[word.lower()] for word in _WORDS.findall(file.stem) if word.lower() in SPLIT_NAMES}
    return found.pop() if len(found) == 1 else ""


def _head(file: Path) -> Table:
    with open_table(file) as (columns, _):
        return Table(file, columns, [])


def _shared(tables: Sequence[tuple[str, Table]], names: Sequence[str]) -> str:
    """The first of the names that all tables have as a column; "" for none."""
    return next((name for name in names if all(table.find(name) for _, table in tables)), "")


def _documents(table: Table, text: str, *, several: bool) -> list[Document]:
    column, key, owner = table.need(*((text,) if text else TEXTS)), table.find(*IDS), table.find(*OWNERS)
    known = known_columns(table)
    found = []
    for number, row in enumerate(table.rows, 1):
        name = (row[key] if key else "") or str(number)
        found.append(
            Document(
                f"{table.path.stem}/{name}" if several else name,
                row[column],
                patient=row[owner] if owner else "",
                path=str(table.path),
                known=tuple(zip(known, known_values(row, known))),
            )
        )
    return found


def _labels(
    tables: Sequence[tuple[str, Table]], wanted: Sequence[str], classes: Sequence[str], *, codes: bool
) -> tuple[list[Any], tuple[str, ...], str]:
    """(label of each row of all tables, class names, kind)."""
    rows = []
    for _, table in tables:
        columns = {name: table.need(name) for name in wanted}
        rows += [{name: row[column] for name, column in columns.items()} for row in table.rows]
    whole = Table(tables[0][1].path, tuple(wanted), rows)
    if not codes:
        values, names, multi = read_labels(whole, whole.columns, classes, named=wanted[0] in LABELS)
        return values, names, "multi" if multi else "single"
    sets = [frozenset(code for code in _BETWEEN.split(row[wanted[0]]) if code) for row in rows]
    names = tuple(classes) or tuple(sorted(frozenset().union(*sets)))
    places = {name: k for k, name in enumerate(names)}
    if strange := next((code for of in sets for code in sorted(of) if code not in places), ""):
        raise InputError(f"{whole.path}: the code {strange!r} is none of --data.classes\nname all, or none")
    if len(names) < 2:
        raise InputError(f"{whole.path}: the column {wanted[0]} holds fewer than two codes\ngive rows of two or more")
    labels = []
    for of in sets:
        row = [0] * len(names)
        for code in of:
            row[places[code]] = 1
        labels.append(tuple(row))
    return labels, names, "multi"
