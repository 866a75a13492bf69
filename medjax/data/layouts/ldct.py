"""Low-dose CT challenge: PATIENT/full_3mm/*.IMA with PATIENT/quarter_3mm/*.IMA, or TCIA's Full and Low Dose Images."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from medjax.data.folders import SPLIT_NAMES
from medjax.data.layouts import Layout
from medjax.data.restored import pairs
from medjax.data.volumes import MaskItem
from medjax.errors import InputError
from medjax.formats.series import Series, one_series

_FULL, _LOW = re.compile(r"full", re.IGNORECASE), re.compile(r"quarter|low", re.IGNORECASE)
_THICKNESS = re.compile(r"\d+(?:\.\d+)?\s*mm", re.IGNORECASE)
_DEPTH = 4  # folders below the data's that are looked into
_WHERE = "expected PATIENT/full_3mm and PATIENT/quarter_3mm, or PATIENT/STUDY/...Full Dose Images and ...Low Dose Images"


def sources(path: str | Path) -> Layout:
    """Read pairs of DICOM series, a low and a full dose of one patient, as the AAPM-Mayo challenge and TCIA's set have them.

    A pair is two folders beside each other, one called full..., the other quarter... or low..., of one thickness where their
    names tell it (3mm, 1mm). The patient is the folder that both lie in, directly below the data's or one of its splits.

    Args:
      path: the data folder, of patients, or of train, val, test and patients in these.

    Returns:
      A Layout of kind "restore", its sources under "all" where no split is given.

    Raises:
      InputError: no such folder, no pairs, a full dose without a low one or the other way round, a folder of no or several
        series.
    """
    root = Path(path)
    if not root.is_dir():
        raise InputError(f"{root}: no such folder\n{_WHERE}")
    found: dict[str, list[tuple[MaskItem, Path | Series]]] = {}
    for low, full in _pairs(root):
        inside = low.parent.relative_to(root).parts
        split = SPLIT_NAMES.get(inside[0].lower(), "all") if len(inside) > 1 else "all"
        patient = inside[1] if split != "all" else inside[0] if inside else root.name
        thickness = _thickness(low)
        name = "/".join([*inside[: 2 if split != "all" else 1], *([thickness] if thickness else [])]) or root.name
        found.setdefault(split, []).append((MaskItem((one_series(low),), name, patient=patient), one_series(full)))
    if not found:
        raise InputError(f"{root}: holds no pairs of a full and a low dose\n{_WHERE}")
    n = sum(map(len, found.values()))
    return Layout(pairs(found, ("CT",)), (), "restore", f"{n:,} pairs of CT series, low and full dose")


def sniff(path: str | Path) -> str:
    """Why this looks like low and full doses; "" where it does not."""
    root = Path(path)
    try:
        first = next(_pairs(root), None) if root.is_dir() else None
    except InputError:
        return ""
    return f"{first[0].name} beside {first[1].name}" if first else ""


def _pairs(root: Path) -> Iterator[tuple[Path, Path]]:
    """(folder of the low dose, of the full dose)."""
    for folder in _folders(root, _DEPTH):
        inside = [d for d in sorted(folder.iterdir()) if d.is_dir()]
        full = {_thickness(d): d for d in inside if _FULL.search(d.name) and not _LOW.search(d.name)}
        low = {_thickness(d): d for d in inside if _LOW.search(d.name)}
        if not full or not low:
            continue
        for one, other in ((full, low), (low, full)):
            if lone := next((t for t in one if t not in other), None):
                raise InputError(f"{one[lone]}: has no other dose of {lone} beside it\nadd it, or remove the folder")
        yield from ((low[t], full[t]) for t in sorted(full) if t in low)


def _thickness(folder: Path) -> str:
    match = _THICKNESS.search(folder.name)
    return match[0].replace(" ", "").lower() if match else ""


def _folders(root: Path, depth: int) -> Iterator[Path]:
    yield root
    if depth:
        for folder in sorted(d for d in root.iterdir() if d.is_dir() and not d.name.startswith((".", "__"))):
            yield from _folders(folder, depth - 1)
