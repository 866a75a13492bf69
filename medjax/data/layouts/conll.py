"""CoNLL: PATH/{train,dev,test}.tsv (or .txt, .conll, .iob, .bio), a token a line, its tag in the last column."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from medjax.data.folders import SPLIT_NAMES
from medjax.data.layouts import Layout
from medjax.data.records import Tally
from medjax.data.tags import spans_of_tags, split_tag
from medjax.data.texts import Document, TextSource, read_text, types_held
from medjax.errors import InputError

ENDINGS = (".tsv", ".conll", ".iob", ".iob2", ".bio", ".iobes", ".txt")
BROKEN = "tags inside of no entity, taken for its first"
DOCUMENT = "-DOCSTART-"
_WHERE = "expected PATH/train.tsv, devel.tsv, test.tsv: a token, a tab, its tag (O, B-Disease, I-Disease); a blank line between"


class _Sentence(NamedTuple):
    line: int  # of its first token, counted from 1
    document: str
    tokens: tuple[str, ...]
    tags: tuple[tuple[str, str], ...]  # empty where the file has none


def sources(path: str | Path, *, classes: Sequence[str] = (), unlabelled: bool = False) -> Layout:
    """Read sentences of tagged tokens: IOB1, IOB2, IOBES, BILOU.

    A case is a sentence. Its text is its tokens with a blank between them. Tags that go on with an entity where there is none
    begin one, and are counted. Lines -DOCSTART- begin a document, whose sentences are one patient's and stay in one split.

    Args:
      path: a folder of files named train, dev, devel, valid or test, or one file.
      classes: the types of entities, in their order; sorted by default.
      unlabelled: read tokens without tags as well.

    Returns:
      A Layout of kind "spans".

    Raises:
      InputError: no such files, a line without a tag, a tag that is none.
    """
    root = Path(path)
    files = {"all": root} if root.is_file() else _find(root)
    if not files:
        raise InputError(f"{root}: holds no file of tagged tokens\n{_WHERE}")
    sentences = {split: list(_read(file, unlabelled=unlabelled)) for split, file in files.items()}
    found = sorted({name for of in sentences.values() for s in of for letter, name in s.tags if letter != "O"})
    types = tuple(classes) or tuple(found)
    if not types and not unlabelled:
        raise InputError(f"{next(iter(files.values()))}: every tag is O\ngive files with entities")
    if strange := [name for name in found if name not in types]:
        raise InputError(
            f"{root}: tags of the type {strange[0]!r}, which is none of {', '.join(types)}\nname all: --data.classes"
        )
    parts = {split: _source(files[split], of, types) for split, of in sentences.items()}
    n = sum(len(source) for source in parts.values())
    about = f"{n:,} sentences in {', '.join(f.name for f in files.values())}, entities of the types {', '.join(types)}"
    return Layout(parts, types, "spans", about, texts=("text",))


def sniff(path: str | Path) -> str:
    """Why this looks like CoNLL; "" where it does not."""
    root = Path(path)
    try:
        files = {"all": root} if root.is_file() and root.suffix in ENDINGS else _find(root) if root.is_dir() else {}
        for file in files.values():
            if len(list(itertools.islice(_read(file, unlabelled=False), 3))):
                return f"{file.name} has a token and its tag on each line"
    except InputError:
        return ""
    return ""


def _find(root: Path) -> dict[str, Path]:
    """{split: file}."""
    if not root.is_dir():
        raise InputError(f"{root}: no such folder\n{_WHERE}")
    found: dict[str, Path] = {}
    for file in sorted(root.iterdir(), key=lambda f: (ENDINGS.index(f.suffix) if f.suffix in ENDINGS else 0, f.name)):
        split = SPLIT_NAMES.get(file.stem.lower())
        if split and file.suffix in ENDINGS and file.is_file():
            found.setdefault(split, file)
    return found


def _read(file: Path, *, unlabelled: bool) -> Iterator[_Sentence]:
    tokens: list[str] = []
    tags: list[tuple[str, str]] = []
    begin, document = 1, 0

    def sentence() -> _Sentence:
        made = _Sentence(begin, f"{file.stem}/{document}" if document else "", tuple(tokens), tuple(tags))
        tokens.clear()
        tags.clear()
        return made

    # Not splitlines: a token may hold a line separator of Unicode.
    for number, line in enumerate(read_text(file).replace("\r\n", "\n").split("\n"), 1):
        fields = line.split("\t") if "\t" in line else line.split()
        if not line.strip() or fields[0].startswith(DOCUMENT):
            if tokens:
                yield sentence()
            document += bool(line.strip())
            continue
        if not tokens:
            begin = number
        tag = split_tag(fields[-1].strip()) if len(fields) > 1 else None
        if tag is None and not unlabelled:
            what = f"the tag {fields[-1].strip()[:40]!r} is none" if len(fields) > 1 else "the token has no tag"
            raise InputError(f"{file}: row {number}: {what}\nmend the row: {_WHERE.partition(': ')[2]}")
        tokens.append(fields[0])
        if tag is not None:
            tags.append(tag)
    if tokens:
        yield sentence()


def _source(file: Path, sentences: Sequence[_Sentence], types: tuple[str, ...]) -> TextSource:
    tally: Tally = Counter()
    documents = []
    # In IOB1 an I begins an entity: a file without a single B before an I, and with I after O, means that.
    iob1 = _is_iob1(sentences)
    for sentence in sentences:
        text = " ".join(sentence.tokens)
        places, at = [], 0
        for token in sentence.tokens:
            places.append((at, at + len(token)))
            at += len(token) + 1
        tagged = len(sentence.tags) == len(sentence.tokens)
        found, broken = spans_of_tags(sentence.tags if tagged else ())
        if broken and not iob1:
            tally[BROKEN, file.name] += broken
        spans = tuple((places[first][0], places[stop - 1][1], types.index(name)) for first, stop, name in found)
        documents.append(
            Document(
                f"{file.stem}/{sentence.line}",
                text,
                types_held(spans if tagged else None, len(types)),
                sentence.document,
                str(file),
                tuple(places),
                spans if tagged else None,
            )
        )
    return TextSource(documents, tally, (file,))


def _is_iob1(sentences: Sequence[_Sentence]) -> bool:
    """Whether entities begin with I throughout, and with B only right behind another of their type."""
    for sentence in sentences:
        before = ("O", "")
        for letter, name in sentence.tags:
            if letter in "ES" or (letter == "B" and (before[0] == "O" or before[1] != name)):
                return False
            before = (letter, name)
    return True
