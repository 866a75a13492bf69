"""Texts as documents: what a Source of a layout of texts gives for each case, whatever files they come from.

A case is one document, note, report or sentence. Its example holds, besides `id`, `patient`, `label` and `path`:

  text: str, as the file has it, Unicode kept; all offsets below count its characters (code points).
  tokens: Varying int32 [k, 2], begin and end of each token, where the corpus gives them; else the task cuts the text itself.
  spans: Varying int32 [m, 3] of (begin, end, type), entities in the order of the text that do not overlap, where it has some.
  target: str, what is to be written, of pairs of texts.

Labels, by the layout's `kind`:

  "single": int, -1 missing.   "multi": int8 [K] of 1, 0, -1.
  "spans": int8 [K], which types the document holds: a split keeps rare types in proportion by it. -1 where nobody has looked.
  "pairs": -1.

What reading has mended or left out is counted: a Source's `tally()` gives it, and the report's audit tells it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from medjax.cases import Varying
from medjax.data.records import Tally
from medjax.errors import InputError

OVERLAP = "entities that overlap a longer one, left out"
EMPTY = "documents without any text, kept"
Span = tuple[int, int, int]


class Document(NamedTuple):
    """A text as a layout lists it.

    Attributes:
      id: of the case.
      text: Unicode.
      label: a class, or a tuple of 1, 0 and -1 for several labels; -1 where it is missing.
      patient: whose it is; "" where it is unknown.
      path: the file, for messages.
      tokens: (begin, end) of each token, where the corpus gives them.
      spans: (begin, end, type) of each entity; None where nobody has looked for them.
      target: what is to be written; None where the data has no such thing.
      known: (name, value) of sex, age and site, as far as they are known.
    """

    id: str
    text: str
    label: int | tuple[int, ...] = -1
    patient: str = ""
    path: str = ""
    tokens: tuple[tuple[int, int], ...] | None = None
    spans: tuple[Span, ...] | None = None
    target: str | None = None
    known: tuple[tuple[str, Any], ...] = ()


class TextSource:
    """Documents as the examples that this module describes.

    Args:
      documents: in their order.
      tally: what reading has mended or left out.
      files: whose sizes and times say whether the content has changed; without them the content itself does.
    """

    def __init__(self, documents: Iterable[Document], tally: Tally | None = None, files: Sequence[Path] = ()):
        self.documents = list(documents)
        self._tally: Tally = Counter(tally or {})
        if empty := sum(not document.text.strip() for document in self.documents):
            self._tally[EMPTY, ""] += empty
        self.files = tuple(files)

    def __len__(self) -> int:
        return len(self.documents)

    def __getitem__(self, i: int) -> dict[str, Any]:
        of = self.documents[i]
        example: dict[str, Any] = {
            "id": of.id,
            "patient": of.patient,
            "label": np.array(of.label, np.int8) if isinstance(of.label, tuple) else of.label,
            "path": of.path or of.id,
            "text": of.text,
            **dict(of.known),
        }
        if of.tokens is not None:
            example["tokens"] = Varying(np.array(of.tokens, np.int32).reshape(-1, 2))
        if of.spans is not None:
            example["spans"] = Varying(np.array(of.spans, np.int32).reshape(-1, 3))
        if of.target is not None:
            example["target"] = of.target
        return example

    def case_id(self, i: int) -> str:
        """The id of a document."""
        return self.documents[i].id

    def tally(self) -> Tally:
        """Counts of what was mended or left out."""
        return Counter(self._tally)

    def identity(self) -> Iterable[str]:
        """What a prepared cache is keyed by."""
        yield f"{sorted(self._tally.items())}"
        for path in self.files:
            stat = path.stat()
            yield f"{path.name}|{stat.st_size}|{stat.st_mtime_ns}"
        for document in self.documents:
            yield repr(document._replace(text="", target=None) if self.files else document)


def read_text(path: str | Path) -> str:
    """The text of a UTF-8 file, a byte-order mark left out, line ends as they are: offsets count on them.

    Raises:
      InputError: it cannot be read or is not UTF-8.
    """
    try:
        return Path(path).read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})\nmend or remove the file") from error
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}: is not UTF-8 (byte {error.start:,})\nsave it in UTF-8, such as with iconv -f latin1 -t utf8"
        ) from error


def flat_spans(spans: Iterable[Span]) -> tuple[list[Span], int]:
    """(spans in the order of the text, none of which overlap; how many were left out): of two that do the longer one stays,
    of equals the one that begins first. A copy of a span with the same type counts for nothing.
    """
    kept: list[Span] = []
    distinct = set(spans)
    for span in sorted(distinct, key=lambda s: (s[0] - s[1], s)):
        if all(span[1] <= other[0] or other[1] <= span[0] for other in kept):
            kept.append(span)
    return sorted(kept), len(distinct) - len(kept)


def types_held(spans: Iterable[Span] | None, k: int) -> tuple[int, ...]:
    """The label of a document of kind "spans": 1 for each of the k types that it holds, 0 for others; -1 for None."""
    if spans is None:
        return (-1,) * k
    held = {span[2] for span in spans}
    return tuple(int(of in held) for of in range(k))


def check_ids(documents: Sequence[Document], where: Path | str) -> None:
    """Whether every document has an id of its own.

    Raises:
      InputError: the first id that two have.
    """
    id, n = Counter(d.id for d in documents).most_common(1)[0] if documents else ("", 0)
    if n > 1:
        raise InputError(f"{where}: {n} documents share the id {id!r}\nkeep one of them, or give them ids of their own")
