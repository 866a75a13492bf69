"""`medjax data`: a data folder is read once, and what is in it written down as numbers and pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from medjax import console
from medjax.data import layouts
from medjax.data.inspect import read_all, report
from medjax.data.progress import progress
from medjax.errors import InputError
from medjax.files import write_json
from medjax.report import figures
from medjax.report.contact import contact_sheet, intensities
from medjax.tasks.baselines import header

RECORD = "data.json"


def look(path: Path, out: Path, *, layout: str, splits: Path | None, limit: int) -> dict[str, Any]:
    """Read a data folder and write `out`/data.json, contact_sheet.png and intensities.png.

    Args:
      path: the data.
      out: a new folder, or one that an earlier look at data has written.
      layout: its name; "" for the one that the data looks like.
      splits: file that says which case stands where, or None.
      limit: cases to read at most.

    Returns:
      What data.json holds: `medjax.data.inspect.report`, and path, layout, kind, about and figures.

    Raises:
      InputError: `out` holds something else, no layout fits, or no file can be read.
    """
    if out.exists() and not (out.is_dir() and ((out / RECORD).is_file() or not any(out.iterdir()))):
        raise InputError(f"{out}: exists, and holds no {RECORD} of an earlier look\ngive a new folder: --out DIR")
    if splits and not splits.is_file():
        raise InputError(f"{splits}: no such file\ngive a CSV of id and split, or a JSON {{split: [ids]}}")
    fits = layouts.detect(path) if path.exists() else {}
    if path.exists() and not (fits or layout):
        for name, expects in layouts.find_layouts().items():
            console.say(f"{name}: {expects}")
    found = layouts.open_layout(path, layout)
    name = layout or next(iter(fits))
    total = min(limit, sum(len(source) for source in found.sources.values()))
    with progress("reading", total, unit="cases") as advance:
        seen = read_all(found.sources, path, limit=limit, splits=splits, advance=advance, say=console.say)
    console.say("looking for shortcuts")
    record: dict[str, Any] = {
        "path": path,
        "layout": {"name": name, "named": bool(layout), "fits": fits},
        "kind": found.kind,
        "about": found.about,
        **report(seen, found.classes, header),
    }
    sheet = contact_sheet(found.sources, seen.cases, found.classes, f"{path.name}: {len(seen.cases):,} cases read")
    record["figures"] = figures.save({"contact_sheet": sheet, **intensities(seen.cases, found.classes)}, out)
    write_json(out / RECORD, record)
    return record
