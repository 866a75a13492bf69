"""What `medjax data` says of texts in the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.table import Table
from rich.text import Text

from medjax.report.contents import LISTED, _percent, _table
from medjax.report.words import ABSENT

_CLASSES = 40  # that the terminal shows


def tables(record: Mapping[str, Any]) -> Iterator[Table]:
    """The table of a record of `medjax.data.inspect_texts.report`."""
    splits = record["splits"]
    table = _table("Entities by split" if record["kind"] == "spans" else "Texts by split", "", *splits)
    names = list(next(iter(splits.values()))["classes"])
    names.sort(key=lambda name: -sum(of["classes"][name] for of in splits.values()))
    for name in names[:_CLASSES]:
        table.add_row(Text(name[:60]), *(f"{of['classes'][name]:,}" for of in splits.values()))
    if len(names) > _CLASSES:
        table.add_row(f"and {len(names) - _CLASSES:,} more", *[""] * len(splits))
    if any(of["missing"] for of in splits.values()):
        table.add_row("no label", *(f"{of['missing']:,}" for of in splits.values()))
    table.add_row("texts", *(f"{of['n']:,}" for of in splits.values()))
    table.add_row("patients", *(f"{of['patients']:,}" if of["patients"] else "unknown" for of in splits.values()))
    table.add_row("new words", *(ABSENT if of["new"] is None else _percent(of["new"], 1) for of in splits.values()))
    yield table


def lines(record: Mapping[str, Any]) -> list[str]:
    """What is known of the texts, a line each."""
    tokens, same = record["tokens"], record["audit"]["identical"]
    found = [f"read: {record['read']:,} of {record['cases']:,} texts"]
    found.append(f"tokens: {tokens['median']:,.0f} in the median text, {tokens['min']:,.0f} to {tokens['max']:,.0f}")
    found.append(f"words: {record['words']:,} different; {record['placeholders']:,} placeholders of de-identification")
    copies = f"{same['files']:,} texts in {same['sets']:,} group(s)" if same["sets"] else "none"
    return [*found, f"identical content: {copies}", *record["notes"]]


def warnings(record: Mapping[str, Any]) -> list[str]:
    """What to take care of before training."""
    leaks = record["audit"]["leaks"].items()
    found = [f"Leak: {n:,} {name}. Training stops at them unless --data.on_leak report." for name, n in leaks]
    if train := record["splits"].get("train"):
        never = [name for name, n in train["classes"].items() if not n]
        if never:
            found.append(f"Not in training texts: {', '.join(never[:LISTED])}{', ...' if len(never) > LISTED else ''}")
    return found
