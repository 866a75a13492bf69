"""`medjax data`: a data folder is read once, and what is in it written down as numbers and pictures."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from medjax import console
from medjax.data import layouts
from medjax.data.inspect import quantiles, read_all, report
from medjax.data.inspect_records import report as report_records
from medjax.data.inspect_texts import report as report_texts
from medjax.data.progress import progress
from medjax.data.records import tell
from medjax.data.volumes import IGNORE
from medjax.errors import InputError
from medjax.files import write_json
from medjax.formats.image import resize
from medjax.formats.intensity import clip_percentiles, to_uint8
from medjax.report import figures
from medjax.report.contact import SIDE, contact_sheet, intensities
from medjax.tasks.baselines import header
from medjax.tasks.detection_figures import CLASS_COLOURS, COLOUR_NAMES, drawn
from medjax.tasks.overlays import outlined

RECORD = "data.json"
BUSY = 12  # boxes in a picture from which their frames are thin


class _Seen:
    """A Source of volumes with masks as one of pictures and volumes, whose labels are the classes that a mask holds.

    Args:
      source: gives `image` [D, H, W, C], `mask` and `label`.
      outlined: give the slice with the most foreground, in colours, and outlines over it.
    """

    def __init__(self, source: Any, *, outlined: bool = False):
        self.source, self.outlined = source, outlined

    def __len__(self) -> int:
        return len(self.source)

    def case_id(self, i: int) -> str:
        return self.source.case_id(i)

    def __getitem__(self, i: int) -> dict[str, Any]:
        raw = self.source[i]
        image, mask = raw["image"], raw.get("mask")
        kept = {name: raw[name] for name in ("id", "patient", "path", "label", "sex", "age", "view", "site") if name in raw}
        if mask is None:  # a scan or one of a pair: of no class
            kept["label"] = -1
        elif self.outlined:
            area = ((mask > 0) & (mask != IGNORE)).sum((1, 2))
            z = int(area.argmax()) if area.any() else len(area) // 2
            grey = to_uint8(clip_percentiles(image[z, ..., 0]))
            return {**kept, "image": outlined(np.rint(grey).astype(np.uint8), mask[z]), "path": ""}
        image = image if image.shape[-1] == 3 else image[..., 0]
        return {**kept, "image": image[0] if len(image) == 1 else image}


class _Framed:
    """A Source of pictures with boxes as one of pictures with these drawn in the colours of their classes, in 8 bit.

    Args:
      source: gives `image`, `boxes`, `category` and `crowd`.
    """

    def __init__(self, source: Any):
        self.source = source

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, i: int) -> dict[str, Any]:
        raw = self.source[i]
        image = np.asarray(raw["image"])
        if image.dtype != np.uint8:
            image = np.rint(to_uint8(clip_percentiles(image))).astype(np.uint8)
        grow = SIDE / max(
            image.shape[:2]
        )  # thin frames of a large picture would be lost in a thumbnail, small pictures blur them
        image = resize(image, (max(1, round(image.shape[0] * grow)), max(1, round(image.shape[1] * grow))))
        image = image if image.ndim == 3 else np.repeat(image[..., None], 3, -1)
        colours = [
            (255, 255, 255) if crowd else CLASS_COLOURS[k % len(CLASS_COLOURS)]
            for k, crowd in zip(raw["category"].array, raw["crowd"].array)
        ]
        page = drawn(image, raw["boxes"].array * grow, colours, width=1 if len(colours) > BUSY else 2)
        return {"id": raw["id"], "label": raw["label"], "image": page, "path": ""}


def boxes_in(sources: Any, classes: Any) -> dict[str, Any]:
    """{class: {"n", "images", "side": quantiles of the root of the area in pixels}} of boxes, by their listing, and "notes" of
    what reading has clipped and dropped.
    """
    counts: dict[str, Any] = {name: {"n": 0, "images": 0, "sides": []} for name in classes}
    none = 0
    for source in sources.values():
        for item in source.items:
            if item.boxes is None:
                continue
            none += not len(item.boxes)
            for k in np.unique(item.category):
                own = np.asarray(item.boxes, float)[np.asarray(item.category) == k]
                of = counts[classes[k]]
                of["n"], of["images"] = of["n"] + len(own), of["images"] + 1
                of["sides"] += np.sqrt(np.maximum(own[:, 2:] - own[:, :2], 0).prod(1)).tolist()
    found = {name: {**of, "side": quantiles(np.array(of.pop("sides")))} for name, of in counts.items()}
    notes = tell(sum((source.tally() for source in sources.values()), Counter()))
    return {"classes": found, "images_without": none, "notes": notes}


def look(path: Path, out: Path, *, layout: str, splits: Path | None, limit: int) -> dict[str, Any]:
    """Read a data folder and write `out`/data.json, contact_sheet.png and intensities.png.

    Args:
      path: the data.
      out: a new folder, or one that an earlier look at data has written.
      layout: its name; "" for the one that the data looks like.
      splits: file that says which case stands where, or None.
      limit: cases to read at most.

    Returns:
      What data.json holds: `medjax.data.inspect.report`, of records and of texts those of
      `inspect_records` and `inspect_texts`; and path, layout,
      kind, about and figures.

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
    if found.variables or found.texts:
        about: dict[str, Any] = {"path": path, "layout": {"name": name, "named": bool(layout), "fits": fits}}
        about |= {"kind": found.kind, "about": found.about}
        record = {**about, **_look_without_pictures(found, path, splits, limit), "figures": []}
        write_json(out / RECORD, record)
        return record
    shown, kind, classes, key = found.sources, found.kind, found.classes, ""
    if kind == "boxes":
        shown = {split: _Framed(source) for split, source in found.sources.items()}
        found = found._replace(kind="multi")
        key = ", ".join(f"{name} {COLOUR_NAMES[k % len(COLOUR_NAMES)]}" for k, name in enumerate(classes[: len(COLOUR_NAMES)]))
        key = f"Frames: {key}; white ones do not count."
    if kind in ("restore", "kspace"):
        shown = {split: _Seen(source) for split, source in found.sources.items()}
        found = found._replace(sources=shown)
    if kind == "masks":
        shown = {split: _Seen(source, outlined=True) for split, source in found.sources.items()}
        sources: Any = {split: _Seen(source) for split, source in found.sources.items()}
        found, classes = found._replace(sources=sources, kind="multi"), classes[1:]
    total = min(limit, sum(len(source) for source in found.sources.values()))
    with progress("reading", total, unit="cases") as advance:
        seen = read_all(found.sources, path, limit=limit, splits=splits, advance=advance, say=console.say)
    console.say("looking for shortcuts")
    record = {
        "path": path,
        "layout": {"name": name, "named": bool(layout), "fits": fits},
        "kind": found.kind,
        "about": found.about,
        **report(seen, classes, header),
    }
    sheet = contact_sheet(shown, seen.cases, classes, f"{path.name}: {len(seen.cases):,} cases read")
    if kind == "boxes":
        record |= {"kind": kind, "boxes": boxes_in(found.sources, classes)}
        sheet = sheet._replace(caption=f"{key} {sheet.caption}")
    record["figures"] = figures.save({"contact_sheet": sheet, **intensities(seen.cases, classes)}, out)
    write_json(out / RECORD, record)
    return record


def _look_without_pictures(found: layouts.Layout, path: Path, splits: Path | None, limit: int) -> dict[str, Any]:
    unit = "texts" if found.texts else "records"
    if splits:
        raise InputError(f"{splits}: a file of splits is not looked at with {unit}\nleave out --splits", usage=True)
    total = min(limit, sum(len(source) for source in found.sources.values()))
    with progress("reading", total, unit=unit) as advance:
        if found.texts:
            return report_texts(found, limit=limit, advance=advance)
        return report_records(found, path, limit=limit, advance=advance)
