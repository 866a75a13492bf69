"""What `medjax data` says of records in the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.table import Table
from rich.text import Text

from medjax.report.contents import LISTED, _percent, _table
from medjax.report.words import ABSENT

_VARIABLES = 40  # that the terminal shows


def tables(record: Mapping[str, Any]) -> Iterator[Table]:
    """The tables of a record of `medjax.data.inspect_records.report`."""
    splits = record["splits"]
    table = _table("Answers by split" if record["kind"] == "steps" else "Records by split", "", *splits)
    for name in next(iter(splits.values()))["classes"]:
        of = [
            (s["classes"][name], sum(s["classes"].values()) if record["kind"] != "multi" else s["read"])
            for s in splits.values()
        ]
        table.add_row(Text(name), *(f"{n:,} ({_percent(n, whole)})" for n, whole in of))
    if any(s["missing"] for s in splits.values()):
        table.add_row("no label", *(f"{s['missing']:,}" for s in splits.values()))
    table.add_row("records", *(f"{s['n']:,}" for s in splits.values()))
    table.add_row("patients", *(f"{s['patients']:,}" if s["patients"] else "unknown" for s in splits.values()))
    yield table
    table = _table("Variables, the most frequent", "", "unit", "events", "in records", "25 %", "median", "75 %")
    most = sorted(record["variables"].items(), key=lambda pair: -pair[1]["events"])
    for name, of in most[:_VARIABLES]:
        spread = [f"{of['value'][q]:,.4g}" for q in ("q25", "median", "q75")] if of["value"] else [ABSENT] * 3
        unit = "code" if of["code"] else of["unit"]
        table.add_row(Text(name[:60]), Text(unit), f"{of['events']:,}", _percent(of["cases"], record["read"]), *spread)
    if len(most) > _VARIABLES:
        table.add_row(f"and {len(most) - _VARIABLES:,} more", *[""] * 6)
    yield table


def lines(record: Mapping[str, Any]) -> list[str]:
    """What is known of the records, a line each."""
    read, events, end = record["read"], record["events"], record["hours"]
    found = [f"read: {read:,} of {read + len(record['broken']):,} records; {len(record['broken']):,} cannot be read"]
    found.append(f"events: {events['median']:,.0f} in the median record, {events['min']:,.0f} to {events['max']:,.0f}")
    found.append(f"end: {end['median']:,.1f} hours in the median record, {end['min']:,.1f} to {end['max']:,.1f}")
    known = [f"{name} {_percent(n, read)}" for name, n in record["statics"].items()]
    found.append(f"statics, known for: {', '.join(known[:LISTED]) or 'none'}{', ...' if len(known) > LISTED else ''}")
    found.append(f"patients: {record['patients']:,}" if record["patients"] else "patients: unknown")
    same = record["audit"]["identical"]
    found.append(
        f"identical content: {same['files']:,} records in {same['sets']:,} group(s)"
        if same["sets"]
        else "identical content: none"
    )
    return found + list(record["notes"])


def warnings(record: Mapping[str, Any]) -> list[str]:
    """What to take care of before training, the worst first."""
    found = []
    if broken := record["broken"]:
        names = [f"  {entry['reason']}" for entry in broken[:LISTED]]
        found.append("\n".join([f"{len(broken):,} records cannot be read; --data.on_error skip trains without them:", *names]))
    for name, n in record["audit"]["leaks"].items():
        found.append(f"Leak: {n:,} {name}. Training stops at them unless --data.on_leak report.")
    never = [name for name, of in record["variables"].items() if not of["events"]]
    if never:
        found.append(f"Never measured: {', '.join(never[:LISTED])}{', ...' if len(never) > LISTED else ''}")
    return found
