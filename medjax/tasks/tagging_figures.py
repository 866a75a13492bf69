"""Figures of tagging: entities by kind of error, errors of each kind in their context, and texts with their entities."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from medjax.cases import Cases, Rows
from medjax.core import Figure
from medjax.metrics import text as metrics
from medjax.metrics.text import Pair, Span
from medjax.tasks.documents import decode

SHOWN, BEFORE, LETTERS = 6, 60, 460  # texts of a kind in a figure; letters before the first mark, and in all
LISTED, AROUND = 4, 60  # errors of a kind; letters on both sides of one
Mark = tuple[int, int, str, float]


def figures(rows: Rows, cases: Cases, others: Mapping[str, Rows], *, types: Sequence[str]) -> dict[str, Figure]:
    """Entities by what is wrong with them, errors of each kind, and texts with their entities marked."""
    spans, found = cases["spans"], rows["found"]
    pairs = {
        int(i): metrics.pair_entities(_spans(spans[i]), _spans(found[i]))
        for i in np.flatnonzero((cases["label"] >= 0).any(1)).tolist()
    }
    table = metrics.error_kinds((pair for of in pairs.values() for pair in of), len(types))
    wrong = np.full(len(cases), -1)
    for i, of in pairs.items():
        wrong[i] = sum(kind != "right" for kind, *_ in of) if of else -1
    made = {
        "errors": Figure(
            "matrix",
            "Entities by kind of error",
            "True entities, and spurious ones, by what the network made of them: all right, the right type with another begin "
            "or end, the right place with another type, both wrong, missed; or found where there is none.",
            {"values": table, "rows": list(types), "columns": list(metrics.KINDS), "xlabel": "", "ylabel": "type"},
        )
    }
    if listed := _list_errors(cases, pairs, types):
        made["errors_listed"] = Figure(
            "passages",
            "Errors of each kind",
            f"For each kind of error {LISTED} of its entities at most, drawn evenly from all, each in its context. Filled: "
            "what the network found, hatched where it is wrong. Framed: what is true and was not found so.",
            {"rows": listed},
        )
    shown = [*np.argsort(-wrong, kind="stable")[:SHOWN], *np.flatnonzero(wrong == 0)[:SHOWN]]
    shown = [i for k, i in enumerate(shown) if wrong[i] >= 0 and i not in shown[:k]]
    if shown:
        made["hits_and_misses"] = Figure(
            "passages",
            "Texts with their entities",
            "The texts with the most errors, then some without any. Filled: what the network found, hatched where it is wrong. "
            "Framed: true entities that it missed, or whose begin, end or type it got wrong.",
            {"rows": [_passage(cases, rows, int(i), types) for i in shown]},
        )
    return made


def _list_errors(cases: Cases, pairs: Mapping[int, Sequence[Pair]], types: Sequence[str]) -> list[dict[str, Any]]:
    columns, rows = {name: cases[name] for name in ("text", "id")}, []
    for kind in metrics.KINDS[1:]:
        of = [(i, true, other) for i, found in pairs.items() for which, true, other in found if which == kind]
        places = np.linspace(0, max(len(of) - 1, 0), min(LISTED, len(of))).round().astype(int)
        for i, true, other in (of[p] for p in places.tolist()):
            text = decode(columns["text"][i])
            marks: list[Mark] = [(*other[:2], "wrong", 1.0)] if other else []
            marks += [(*true[:2], "missed", 1.0)] if true else []
            begin, end = _around(text, min(a for a, *_ in marks), max(b for _, b, *_ in marks))
            names = " for ".join(dict.fromkeys(types[side[2]] for side in (other, true) if side))
            label = f"{kind} ({len(of):,} in all): {names}, {columns['id'][i]}"
            rows.append({"label": label, "text": text[begin:end], "marks": _moved(marks, begin, end)})
    return rows


def _around(text: str, first: int, last: int) -> tuple[int, int]:
    """A piece of the text with so many letters around a place, from blank to blank."""
    begin, end = max(first - AROUND, 0), min(last + AROUND, len(text))
    if begin:
        begin = text.find(" ", begin, first) + 1 or begin
    if end < len(text):
        end = max(text.rfind(" ", last, end), last) if " " in text[last:end] else end
    return begin, end


def _passage(cases: Cases, rows: Rows, i: int, types: Sequence[str]) -> dict[str, Any]:
    one = cases.take(np.array([i]))
    truth, found = (set(_spans(side)) for side in (one["spans"][0], rows["found"][i]))
    marks: list[Mark] = [(a, b, "right" if (a, b, of) in truth else "wrong", 1.0) for a, b, of in sorted(found)]
    marks += [(a, b, "missed", 1.0) for a, b, of in sorted(truth - found)]
    # Of a long text the part from a little before its first mark.
    text = decode(one["text"][0])
    begin = max(min(a for a, *_ in marks) - BEFORE, 0)
    begin = 0 if begin < BEFORE else begin
    names = ", ".join(dict.fromkeys(types[of] for *_, of in sorted(truth | found)))
    end = begin + LETTERS
    return {"label": f"{one['id'][0]}: {names}", "text": text[begin:end], "marks": _moved(marks, begin, end)}


def _moved(marks: Iterable[Mark], begin: int, end: int) -> list[Mark]:
    """Marks of a text as those of its piece from `begin` to `end`."""
    return [(max(a - begin, 0), min(b, end) - begin, style, share) for a, b, style, share in marks if a < end and b > begin]


def _spans(array: np.ndarray) -> list[Span]:
    return [(a, b, of) for a, b, of in array.tolist()]
