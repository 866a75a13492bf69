"""BRAT: PATH/**/*.ann beside *.txt, entities as T lines with offsets; folders train, dev and test are splits."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from medjax.data.folders import SPLIT_NAMES
from medjax.data.layouts import Layout
from medjax.data.records import Tally
from medjax.data.texts import OVERLAP, Document, TextSource, flat_spans, read_text, types_held
from medjax.errors import InputError

GAPS = "entities with gaps, taken from their first to their last character"
_ENTITY = re.compile(r"(T\d+)\t(\S+) (\d+ \d+(?:;\d+ \d+)*)(?:\t(.*))?")
_WHERE = "expected note.txt with note.ann beside it, whose lines are T1<tab>Disease 10 16<tab>asthma"


def sources(path: str | Path, *, classes: Sequence[str] = (), unlabelled: bool = False) -> Layout:
    """Read texts with standoff annotations (brat: Stenetorp et al., EACL 2012).

    A case is a text file; its id is its path without the ending. Offsets count characters of the .txt as it is. Only entities
    are read, no relations or events. An entity of several parts is taken whole, and of two that overlap the longer one; both
    are counted.

    Args:
      path: a folder; those in it that are called train, dev or test are the splits.
      classes: the types of entities, in their order; sorted by default. Others are left out.
      unlabelled: read texts without .ann, or a single text, as well.

    Returns:
      A Layout of kind "spans".

    Raises:
      InputError: no such files, a text without .ann, a line that is none, an entity that is not where it says.
    """
    root = Path(path)
    texts = [root] if unlabelled and root.is_file() else sorted(root.rglob("*.txt")) if root.is_dir() else []
    if not texts or not (unlabelled or any(_beside(text).is_file() for text in texts)):
        raise InputError(f"{root}: holds no text with annotations\n{_WHERE}")
    if lone := [text for text in texts if not (unlabelled or _beside(text).is_file())]:
        raise InputError(f"{lone[0]}: has no {_beside(lone[0]).name} beside it\nadd it, empty where there are no entities")
    base = root.parent if root.is_file() else root
    found = {text: _read(text) if _beside(text).is_file() else None for text in texts}
    types = tuple(classes) or tuple(sorted({name for of in found.values() for _, _, name, _ in of or ()}))
    if not types:
        raise InputError(f"{root}: no .ann file has an entity\n{_WHERE}")
    parts: dict[str, list[Document]] = {}
    tallies: dict[str, Tally] = {}
    for file, entities in found.items():
        name = file.relative_to(base).with_suffix("")
        split = next((SPLIT_NAMES[part.lower()] for part in name.parts[:-1] if part.lower() in SPLIT_NAMES), "all")
        tally = tallies.setdefault(split, Counter())
        spans = None
        if entities is not None:
            known = [(begin, end, types.index(of)) for begin, end, of, _ in entities if of in types]
            tally[GAPS, ""] += sum(gap for *_, of, gap in entities if of in types)
            kept, dropped = flat_spans(known)
            tally[OVERLAP, ""] += dropped
            spans = tuple(kept)
        document = Document(name.as_posix(), read_text(file), types_held(spans, len(types)), path=str(file), spans=spans)
        parts.setdefault(split, []).append(document)
    files = {split: [Path(d.path) for d in of] for split, of in parts.items()}
    made = {
        split: TextSource(of, +tallies[split], (*files[split], *filter(Path.is_file, map(_beside, files[split]))))
        for split, of in parts.items()
    }
    about = f"{len(texts):,} texts with entities of the types {', '.join(types)}"
    return Layout(made, types, "spans", about, texts=("text",))


def sniff(path: str | Path) -> str:
    """Why this looks like BRAT; "" where it does not."""
    root = Path(path)
    if not root.is_dir():
        return ""
    file = next((f for f in root.rglob("*.ann") if f.with_suffix(".txt").is_file()), None)
    return f"{file.name} stands beside {file.stem}.txt" if file else ""


def _beside(text: Path) -> Path:
    return text.with_suffix(".ann")


def _read(text: Path) -> list[tuple[int, int, str, bool]]:
    """(begin, end, type, whether it has gaps) of each entity."""
    file, content = _beside(text), read_text(text)
    found = []
    for number, line in enumerate(read_text(file).replace("\r\n", "\n").split("\n"), 1):
        if not line.startswith("T"):
            continue
        match = _ENTITY.fullmatch(line)
        if match is None:
            raise InputError(f"{file}: row {number} is no entity: {line[:40]!r}\nmend the row: {_WHERE.partition('are ')[2]}")
        pieces = [tuple(map(int, piece.split())) for piece in match[3].split(";")]
        begin, end = min(a for a, _ in pieces), max(b for _, b in pieces)
        if not begin < end <= len(content):
            raise InputError(f"{file}: row {number}: {begin} to {end} is not within the text of {len(content):,} characters")
        told = " ".join(content[a:b] for a, b in pieces)
        if match[4] and told.split() != match[4].split():
            raise InputError(
                f"{file}: row {number}: the text from {begin} to {end} is not what the row says\n"
                "offsets count characters of the .txt, with its line ends as they are"
            )
        found.append((begin, end, match[2], len(pieces) > 1))
    return found
