"""What `medjax data` says in the terminal: tables that line up, and what to take care of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from medjax.evaluation import SHORTCUT
from medjax.report.words import ABSENT

LISTED = 10  # broken files and values of a column that the terminal shows
FEW_GROUPS = 10  # groups of cases below which a class cannot be measured


def intro(record: Mapping[str, Any]) -> list[str]:
    """Which layout the data has, and why it was taken for that."""
    layout = record["layout"]
    reasons = dict(layout["fits"])
    why = "as named" if layout["named"] else reasons.get(layout["name"], "")
    found = [f"{record['path']}: {layout['name']} ({why})"]
    others = [f"{name} ({reason})" for name, reason in reasons.items() if name != layout["name"]]
    if others:
        found.append(f"also looks like {', '.join(others)}: the most particular layout is taken; --layout NAME takes another")
    found.append(record["about"])
    drawn = record["read"] + len(record["broken"])
    if drawn < record["cases"]:
        found.append(f"{drawn:,} of {record['cases']:,} cases were drawn at random: --limit N reads more")
    return found


def tables(record: Mapping[str, Any]) -> Iterator[Table]:
    """The tables of a record of `medjax.data.inspect.report`."""
    yield _split_table(record)
    yield _class_table(record)
    yield _picture_table(record)


def _table(title: str, *columns: str) -> Table:
    table = Table(box=None, pad_edge=False, title=title, title_justify="left", title_style="bold", padding=(0, 3, 0, 0))
    for i, column in enumerate(columns):
        table.add_column(Text(column), justify="right" if i else "left", style="" if i else "bold")
    return table


def _split_table(record: Mapping[str, Any]) -> Table:
    splits = record["splits"]
    table = _table("Cases by split", "", *splits)
    for name in record["classes"]:
        cells = []
        for of in splits.values():
            n, known = of["classes"][name]["n"], of["classes"][name]["known"]
            unknown = f", {of['read'] - known:,} unknown" if of["read"] > known and _several(record) else ""
            cells.append(f"{n:,} ({_percent(n, known)}{unknown})" if n or known else ABSENT)
        table.add_row(Text(name), *cells)
    for key, title in (("none", "none of these"), ("missing", "no label")):
        if any(of[key] for of in splits.values()):
            table.add_row(title, *(f"{of[key]:,} ({_percent(of[key], of['read'])})" for of in splits.values()))
    table.add_row("cases", *(f"{of['n']:,}" for of in splits.values()))
    if any(of["read"] < of["n"] for of in splits.values()):
        table.add_row("read", *(f"{of['read']:,}" for of in splits.values()))
    table.add_row("patients", *(f"{of['patients']:,}" if of["patients"] else "unknown" for of in splits.values()))
    return table


def _several(record: Mapping[str, Any]) -> bool:
    return record["kind"] == "multi"


def _percent(part: float, whole: float) -> str:
    return f"{100 * part / whole:.1f} %" if whole else ABSENT


def _class_table(record: Mapping[str, Any]) -> Table:
    classes = record["classes"]
    known = [name for name in ("sex", "age", "view", "site", "modality") if name in record["known"]]
    table = _table("Classes: medians, or the most frequent", "", "groups", "width", "height", "pixel value", *known)
    for name, of in classes.items():
        cells = [_number(of[key]) for key in ("width", "height", "pixel")]
        table.add_row(Text(name), f"{of['groups']:,}", *cells, *(Text(_most(of.get(key), of["n"])) for key in known))
    return table


def _number(spread: Mapping[str, float] | None) -> str:
    return f"{spread['median']:,.4g}" if spread else ABSENT


def _most(facts: Mapping[str, Any] | None, n: int) -> str:
    """Median of numbers; the most frequent word and its share."""
    if not facts:
        return ABSENT
    if "median" in facts:
        return f"{facts['median']:.0f} y"
    word, count = next(iter(facts.items()))
    return f"{word or 'unknown'} {_percent(count, n)}"


def _picture_table(record: Mapping[str, Any]) -> Table:
    images, known = record["images"], record["known"]
    table = _table("Pictures", "", "min", "25 %", "median", "75 %", "max")
    rows = {"width": images["width"], "height": images["height"], "slices": images["slices"]}
    if images["slices"]["max"] == 1:
        del rows["slices"]
    rows |= {f"pixel value ({kind})": spread for kind, spread in images["pixel"].items()}
    if "age" in known:
        rows["age in years"] = known["age"]
    for name, spread in rows.items():
        table.add_row(name, *(f"{spread[key]:,.6g}" for key in ("min", "q25", "median", "q75", "max")))
    return table


def lines(record: Mapping[str, Any]) -> list[str]:
    """What is known of the files, the patients and their copies, a line each."""
    images, known, audit, patients = record["images"], record["known"], record["audit"], record["patients"]
    read = record["read"]
    shapes = images["shapes"]
    unreadable = len(record["broken"])
    found = [f"read: {read:,} of {read + unreadable:,} cases; {unreadable:,} cannot be read"]
    found.append(f"sizes: {len(shapes):,} different; {_list(shapes, read, 3)}")
    if set(images["files"]) != {""}:
        found.append(f"files: {_list(images['files'], read, LISTED)}")
    kinds = {**images["dtypes"], **({"colour": images["colour"]} if images["colour"] else {})}
    found.append(f"numbers: {_list(kinds, read, LISTED)}")
    found += [f"{name}: {_list(values, read, LISTED)}" for name, values in known.items() if name != "age"]
    if "age" in known:
        found.append(f"age: unknown for {known['age']['unknown']:,} of {read:,}")
    if patients["number"]:
        spread = patients["cases_each"]
        lack = f"; {patients['cases_without']:,} cases without one" if patients["cases_without"] else ""
        each = f"{spread['median']:.0f} cases each, at most {spread['max']:.0f}"
        found.append(f"patients: {patients['number']:,}; in the median {each}{lack}")
    for name, of in record.get("boxes", {}).get("classes", {}).items():
        side = f", {of['side']['min']:.0f} to {of['side']['max']:.0f} pixels a side, {of['side']['median']:.0f} in the median"
        found.append(f"boxes of {name}: {of['n']:,} in {of['images']:,} images{side if of['n'] else ''}")
    found += record.get("boxes", {}).get("notes", [])
    same, near = audit["identical"], audit["near_copies"]
    found.append(f"identical content: {_copies(same['sets'], same['files'])}")
    if near["searched"]:
        found.append(f"near-copies, in any orientation: {_copies(near['groups'], near['files'])}")
    else:
        found.append("near-copies: not searched (volumes, pictures under 64 pixels, or more than 20,000)")
    for name, entry in record["shortcuts"].items():
        if "auroc" in entry:
            span = f" [{entry['ci95'][0]:.2f}, {entry['ci95'][1]:.2f}]" if entry["ci95"] else ""
            found.append(f"AUROC of {_input(name)} alone, without the content: {entry['auroc']:.2f}{span}, n {entry['n']:,}")
        else:
            found.append(f"AUROC of {_input(name)} alone: not measured, {entry['reason']}")
    return found


def _input(name: str) -> str:
    return "size, aspect and depth" if name == "size" else name


def _list(counts: Mapping[str, int], whole: int, most: int) -> str:
    shown = [f"{name or 'unknown'} {_percent(count, whole)}" for name, count in list(counts.items())[:most]]
    return ", ".join([*shown, *(["..."] if len(counts) > most else [])])


def _copies(sets: int, files: int) -> str:
    return f"{files:,} files in {sets:,} group(s)" if sets else "none"


def warnings(record: Mapping[str, Any]) -> list[str]:
    """What to take care of before training, the worst first."""
    audit, found = record["audit"], []
    broken: Sequence[Mapping[str, str]] = record["broken"]
    if broken:
        tried = len(broken) + record["read"]
        names = [f"  {entry['reason']}" for entry in broken[:LISTED]]
        names += [f"  and {len(broken) - LISTED:,} more: see data.json"] if len(broken) > LISTED else []
        found.append(
            "\n".join([f"{len(broken):,} of {tried:,} files cannot be read; --data.on_error skip trains without them:", *names])
        )
    for name, count in audit["leaks"].items():
        if name.startswith("patients"):
            found.append(f"Leak: {count:,} {name}. Training stops at them unless --data.on_leak report.")
        else:
            split = name.rpartition(" ")[2]
            found.append(f"Leak: {count:,} cases of {split} stand in a later split too; training drops them from {split}.")
    if audit["near_copies"]["across_splits"]:
        found.append(f"Leak: {audit['near_copies']['across_splits']:,} groups of near-copies stand in more than one split.")
    for name, entry in record["shortcuts"].items():
        if entry.get("auroc", 0) >= SHORTCUT:
            found.append(
                f"Shortcut: {_input(name)} alone tell the classes apart with an AUROC of {entry['auroc']:.2f}. A network may "
                "learn how the files were made, or who came, and not the disease."
            )
    for name, count in audit["conflicts"].items():
        if count:
            found.append(f"Labels: {count:,} group(s) of {name} carry different labels.")
    for split, of in record["splits"].items():
        empty = [name for name, n in of["classes"].items() if not n["n"]]
        if empty and of["read"]:
            found.append(f"Labels: {split} has no case of {', '.join(empty)}.")
    few = [name for name, of in record["classes"].items() if 0 < of["groups"] < FEW_GROUPS]
    if few:
        found.append(
            f"Few cases: under {FEW_GROUPS} independent groups of {', '.join(few)}: nothing can be measured on so few."
        )
    if not record["patients"]["number"]:
        found.append("Patients are unknown: a split can only keep identical pictures and near-copies on one side.")
    return found
