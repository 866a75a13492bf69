"""i2b2 2010: PATH/**/concept/*.con with the notes in txt/*.txt beside that folder; problems, tests and treatments."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from medjax.data.folders import SPLIT_NAMES
from medjax.data.layouts import Layout
from medjax.data.records import Tally
from medjax.data.texts import OVERLAP, Document, Span, TextSource, flat_spans, read_text, types_held
from medjax.errors import InputError

_CONCEPT = re.compile(r'c="(.*)" (\d+):(\d+) (\d+):(\d+)\|\|t="([^"]+)"\s*')
_WHERE = 'expected concept/note.con with lines c="asthma" 3:4 3:4||t="problem", and txt/note.txt'


def sources(path: str | Path, *, classes: Sequence[str] = (), unlabelled: bool = False) -> Layout:
    """Read discharge notes with concepts (Uzuner et al., JAMIA 2011).

    A place is LINE:TOKEN, lines counted from 1, tokens between blanks from 0, both ends inclusive. The text is the note as it
    is, tokens its parts between blanks. Of two concepts that overlap the longer one is taken, and the other is counted.

    Args:
      path: a folder with concept/ and txt/ in it or further down; folders called train, dev or test are the splits. Files that
        lie beside each other are read as well.
      classes: the types of concepts, in their order; sorted by default.
      unlabelled: read notes without .con, or a single note, as well.

    Returns:
      A Layout of kind "spans".

    Raises:
      InputError: no such files, a note or a .con without the other, a line that is none, a place that is not there.
    """
    root = Path(path)
    if unlabelled and root.is_file():
        pairs: dict[Path, Path | None] = {root: None}
    else:
        concepts = {f: _note(f) for f in sorted(root.rglob("*.con"))} if root.is_dir() else {}
        if lone := next((f for f, note in concepts.items() if note is None), None):
            raise InputError(f"{lone}: has no note {lone.stem}.txt in txt/ or beside it\n{_WHERE}")
        pairs = {note: f for f, note in concepts.items() if note is not None}
        if unlabelled:
            pairs = {note: pairs.get(note) for note in sorted(root.rglob("*.txt"))}
    if not pairs:
        raise InputError(f"{root}: holds no .con file\n{_WHERE}")
    base = root.parent if root.is_file() else root
    read = {note: (read_text(note), _places(read_text(note))) for note in pairs}
    found = {note: _read(f, *read[note]) for note, f in pairs.items() if f}
    types = tuple(classes) or tuple(sorted({name for of in found.values() for *_, name in of}))
    if not types:
        raise InputError(f"{root}: no .con file has a concept\n{_WHERE}")
    parts: dict[str, list[Document]] = {}
    tallies: dict[str, Tally] = {}
    for note in pairs:
        name = note.relative_to(base).with_suffix("")
        split = next((SPLIT_NAMES[part.lower()] for part in name.parts[:-1] if part.lower() in SPLIT_NAMES), "all")
        spans: tuple[Span, ...] | None = None
        if note in found:
            kept, dropped = flat_spans((begin, end, types.index(of)) for begin, end, of in found[note] if of in types)
            tallies.setdefault(split, Counter())[OVERLAP, ""] += dropped
            spans = tuple(kept)
        text, places = read[note]
        tokens = tuple(token for line in places for token in line)
        parts.setdefault(split, []).append(
            Document(name.as_posix(), text, types_held(spans, len(types)), path=str(note), tokens=tokens, spans=spans)
        )
    made = {
        split: TextSource(of, +tallies.get(split, Counter()), [f for d in of for f in (Path(d.path), pairs[Path(d.path)]) if f])
        for split, of in parts.items()
    }
    about = f"{len(pairs):,} notes with concepts of the types {', '.join(types)}"
    return Layout(made, types, "spans", about, texts=("text",))


def sniff(path: str | Path) -> str:
    """Why this looks like i2b2 2010; "" where it does not."""
    root = Path(path)
    file = next((f for f in root.rglob("*.con") if _note(f)), None) if root.is_dir() else None
    return f"{file.name} has concepts of a note" if file else ""


def _note(concepts: Path) -> Path | None:
    """The note of a .con: in txt/ beside its folder, or beside it."""
    beside = (concepts.parent.parent / "txt", concepts.parent)
    return next((f for folder in beside if (f := folder / f"{concepts.stem}.txt").is_file()), None)


def _places(text: str) -> list[list[tuple[int, int]]]:
    """(begin, end) of the tokens of each line. Lines end at line feeds alone, as the files' numbers count."""
    found, at = [], 0
    for line in text.split("\n"):
        # Blanks as the annotators' tool had them: a token may hold a non-breaking one.
        found.append([(at + m.start(), at + m.end()) for m in re.finditer(r"[^ \t\r]+", line)])
        at += len(line) + 1
    return found


def _read(file: Path, text: str, places: list[list[tuple[int, int]]]) -> list[tuple[int, int, str]]:
    found = []
    for number, line in enumerate(read_text(file).replace("\r\n", "\n").split("\n"), 1):
        if not line.strip():
            continue
        match = _CONCEPT.fullmatch(line)
        if match is None:
            raise InputError(f"{file}: row {number} is no concept\nmend the row: {_WHERE}")
        first_line, first, last_line, last = (int(match[i]) for i in (2, 3, 4, 5))
        try:
            if first_line < 1:
                raise IndexError
            begin, end = places[first_line - 1][first][0], places[last_line - 1][last][1]
        except IndexError:
            raise InputError(
                f"{file}: row {number}: the note has no place {match[2]}:{match[3]} {match[4]}:{match[5]}"
            ) from None
        # The files give concepts in lower case.
        if text[begin:end].lower().split() != match[1].lower().split():
            raise InputError(f"{file}: row {number}: the note says something else at {match[2]}:{match[3]}\n{_WHERE}")
        found.append((begin, end, match[6]))
    return found
