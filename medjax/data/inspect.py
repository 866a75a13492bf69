"""What is in a data folder: every case is read once, and counted. Nothing is trained and nothing is kept of the pictures."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from medjax.cases import Cases
from medjax.core import SPLITS, Baseline
from medjax.data.digests import digest
from medjax.data.duplicates import LARGEST_SET, SIDE, SMALLEST, describe, near_copies
from medjax.data.shortcuts import find_shortcuts
from medjax.data.split import clear_leaks, group_cases
from medjax.data.tables import split_by_file
from medjax.errors import InputError
from medjax.formats.dicom import dicom_facts, is_dicom
from medjax.formats.facts import first_bytes
from medjax.formats.image import image_kind, to_grey
from medjax.formats.nifti import is_nifti

LIMIT = 20_000  # cases read by default: as many as the search for near-copies compares
CHUNK = 64  # cases in flight
DRAWN = 256  # pixels kept of each case, for the histograms
QUANTILES = {"min": 0.0, "q25": 0.25, "median": 0.5, "q75": 0.75, "max": 1.0}
TEXTS = ("sex", "view", "site")  # columns of words that a case may have


class Broken(NamedTuple):
    """A case that cannot be read.

    Attributes:
      id: of the case.
      reason: one line; a file's path is told relative to the data folder.
    """

    id: str
    reason: str


class Seen(NamedTuple):
    """The cases of a data folder, without their pictures.

    Attributes:
      cases: columns id, patient, label, content, near, given and group as in training; source and at, the key of the Source and
        the index in it, by which a picture is found again; height, width, slices (1 for a picture), colour (bool), dtype,
        file (its kind) and modality ("" unknown); pixels float32 [n, DRAWN], drawn evenly from each; `header`, the size and
        kind as numbers; and of sex, age, view, site those that the data has.
      broken: what could not be read.
      total: cases by split, read or not; those read where a user's file says which split.
      searched: whether near-copies were looked for.
    """

    cases: Cases
    broken: tuple[Broken, ...]
    total: dict[str, int]
    searched: bool


def read_all(
    sources: Mapping[str, Any],
    root: Path,
    *,
    limit: int = LIMIT,
    splits: Path | None = None,
    advance: Callable[[int], None] = lambda n: None,
    say: Callable[[str], None] = lambda text: None,
) -> Seen:
    """Read every case, in threads; what cannot be read is listed, not raised.

    Args:
      sources: {split or "all": Source} of examples with id, label and `image` [H, W], [H, W, 3] or [D, H, W].
      root: the data folder, which error messages are told without.
      limit: where there are more cases, so many are drawn at random, in proportion from each split.
      splits: a user's file that says which case stands where, for `medjax.data.tables.split_by_file`.
      advance: told of each case that has been read.
      say: told what comes then.

    Raises:
      InputError: no case can be read; `splits` does not fit the cases, or cannot since not all of them are read.
    """
    total = {split: len(sources[split]) for split in (*SPLITS, "all") if split in sources}
    todo = _draw(total, limit)
    if not todo:
        raise InputError(f"{root}: holds no cases\ncheck the path")
    if splits and limit < sum(total.values()):
        raise InputError(f"{splits}: names cases that are not read\nread all of them: --limit {sum(total.values())}")
    compare = len(todo) <= LARGEST_SET

    def read(item: tuple[str, int]) -> dict[str, Any] | Broken:
        split, at = item
        try:
            return {**_case(sources[split][at], compare), "source": split, "at": at}
        except (InputError, OSError) as error:
            name = sources[split].case_id(at) if hasattr(sources[split], "case_id") else f"case {at} of {split}"
            return Broken(name, str(error).splitlines()[0].replace(f"{root}{os.sep}", ""))

    rows, broken = [], []
    for found in _map(read, todo):
        if isinstance(found, Broken):
            broken.append(found)
        else:
            rows.append(found)
        advance(1)
    if not rows:
        raise InputError(f"{root}: none of {len(todo):,} files can be read; the first: {broken[0].reason}\ncheck the path")
    columns = {name: np.stack([np.asarray(row[name]) for row in rows]) for name in rows[0]}
    descriptors = columns.pop("descriptor")
    searched = bool(descriptors.any())
    if searched:
        say("looking for near-copies")
    columns["near"] = near_copies(descriptors) if searched else np.arange(len(rows))
    columns["group"] = group_cases(columns["patient"], columns["content"], columns["near"])
    columns["given"] = columns["source"]
    if splits:
        columns["given"] = split_by_file(splits, Cases(columns), skipped=[name for name, _ in broken])
        total = {split: int((columns["given"] == split).sum()) for split in SPLITS if (columns["given"] == split).any()}
    return Seen(Cases(columns), tuple(broken), total, searched)


def _draw(total: Mapping[str, int], limit: int) -> list[tuple[str, int]]:
    """(split, index) of all cases, or of `limit` of them."""
    everything = [(split, at) for split, n in total.items() for at in range(n)]
    if len(everything) <= limit:
        return everything
    return [everything[i] for i in np.sort(np.random.default_rng(0).choice(len(everything), limit, replace=False))]


def _map(function: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[Any]:
    """`map` in threads, in order, with a few results waiting at most."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with ThreadPoolExecutor(cpus) as pool:
        for start in range(0, len(items), CHUNK):
            yield from pool.map(function, items[start : start + CHUNK])


def _case(example: Mapping[str, Any], compare: bool) -> dict[str, Any]:
    raw = dict(example)
    where = raw.pop("path", raw["id"])
    image = np.asarray(raw["image"])
    if image.dtype.kind == "f" and not np.isfinite(image).all():
        raise InputError(f"{where}: image holds NaN or infinite values\nmend or remove the file")
    colour = image.ndim >= 3 and image.shape[-1] == 3
    volume = image.ndim == 3 + colour
    slices = image.shape[0] if volume else 1
    height, width = image.shape[1:3] if volume else image.shape[:2]
    flat = image.reshape(-1, 3) if colour else image.ravel()
    drawn = flat[np.random.default_rng(0).integers(0, len(flat), DRAWN)]
    # Volumes are not compared, nor are pictures too small to tell a copy from a likeness: zeros are like nothing.
    alike = compare and not volume and min(height, width) >= SMALLEST
    kind, modality = _file_kind(Path(where))
    known: dict[str, Any] = {name: str(raw[name]) for name in TEXTS if name in raw}
    if "age" in raw:
        known["age"] = np.float64(raw["age"])
    return {
        "id": str(raw["id"]),
        "patient": str(raw.get("patient", "")),
        "label": np.asarray(raw["label"]),
        "content": digest(raw),
        "descriptor": describe(image) if alike else np.zeros(SIDE * SIDE if compare else 1, np.float32),
        "height": height,
        "width": width,
        "slices": slices,
        "colour": colour,
        "dtype": image.dtype.name,
        "file": kind,
        "modality": modality,
        "pixels": (to_grey(drawn[None])[0] if colour else drawn).astype(np.float32),
        "header": np.array([height, width, width / height, slices, colour, image.dtype.itemsize], np.float32),
        **known,
    }


def _file_kind(path: Path) -> tuple[str, str]:
    """("PNG", "DICOM" and the like, modality); "" where it is unknown or there is no file of the case's own."""
    if not path.is_file():
        return "", ""
    head = first_bytes(path, 1024)
    if is_dicom(head):
        return "DICOM", dicom_facts(path).modality
    return image_kind(head) or ("NIfTI" if is_nifti(head) else ""), ""


def report(seen: Seen, classes: Sequence[str], header: Callable[..., Baseline]) -> dict[str, Any]:
    """What `read_all` has found, in numbers and words that JSON can hold; no patient is named.

    Args:
      seen: the cases.
      classes: names of the labels.
      header: (number of classes, multilabel=bool) -> the baseline that is fitted on what is known without the content.

    Returns:
      {"cases", "read", "splits": {split: {"n", "read", "patients", "classes": {class: {"n", "known"}}, "missing", "none"}},
      "classes": {class: facts}, "patients", "images", "known", "audit", "shortcuts", "broken"}. In `splits`, "n" counts the
      cases of the class and "known" those whose label for it is known; "missing" cases have no label at all, "none" are known
      to have no finding.
    """
    cases = seen.cases
    given = cases["given"]
    label = cases["label"]
    return {
        "cases": sum(seen.total.values()),
        "read": len(cases),
        "splits": {
            split: {"n": n, **_counts(label[given == split], cases["patient"][given == split], classes)}
            for split, n in seen.total.items()
        },
        "classes": {name: _facts(cases.take(_belongs(label, k))) for k, name in enumerate(classes)},
        "patients": _patients(cases["patient"]),
        "images": _images(cases),
        "known": _known(cases),
        "audit": _audit(seen),
        "shortcuts": find_shortcuts(cases, classes, header),
        "broken": [broken._asdict() for broken in seen.broken],
    }


def _belongs(label: np.ndarray, k: int) -> np.ndarray:
    return label == k if label.ndim == 1 else label[:, k] == 1


def _counts(label: np.ndarray, patient: np.ndarray, classes: Sequence[str]) -> dict[str, Any]:
    known = [int((label >= 0).sum() if label.ndim == 1 else (label[:, k] >= 0).sum()) for k in range(len(classes))]
    found = [{"n": int(_belongs(label, k).sum()), "known": known[k]} for k in range(len(classes))]
    several = label.ndim == 2
    return {
        "read": len(label),
        "patients": len(set(patient.tolist()) - {""}),
        "classes": dict(zip(classes, found, strict=True)),
        "missing": int((label < 0).all(1).sum() if several else (label < 0).sum()),
        "none": int((label == 0).all(1).sum()) if several else 0,
    }


def _facts(cases: Cases) -> dict[str, Any]:
    """What differs between classes when the content is not what tells them apart."""
    return {
        "n": len(cases),
        "groups": len(np.unique(cases["group"])),
        "height": quantiles(cases["height"]),
        "width": quantiles(cases["width"]),
        "pixel": quantiles(cases["pixels"]),
        **_known(cases),
    }


def quantiles(values: np.ndarray) -> dict[str, float] | None:
    """{"min", "q25", "median", "q75", "max"} of the finite values; None if there are none."""
    finite = values[np.isfinite(values)]
    return {name: float(np.quantile(finite, q)) for name, q in QUANTILES.items()} if finite.size else None


def _tally(values: np.ndarray) -> dict[str, int]:
    """{value: count}, the most frequent first."""
    names, counts = np.unique(values, return_counts=True)
    return {str(names[i]): int(counts[i]) for i in np.argsort(-counts, kind="stable")}


def _patients(patient: np.ndarray) -> dict[str, Any]:
    _, counts = np.unique(patient[patient != ""], return_counts=True)
    return {"number": len(counts), "cases_without": int((patient == "").sum()), "cases_each": quantiles(counts)}


def _images(cases: Cases) -> dict[str, Any]:
    height, width, slices, colour = (cases[name] for name in ("height", "width", "slices", "colour"))
    shapes = np.array([f"{d} x {h} x {w}" if d > 1 else f"{h} x {w}" for d, h, w in zip(slices, height, width, strict=True)])
    return {
        "shapes": _tally(shapes),
        "height": quantiles(height),
        "width": quantiles(width),
        "slices": quantiles(slices),
        "dtypes": _tally(cases["dtype"]),
        "colour": int(colour.sum()),
        "files": _tally(cases["file"]),
        "pixel": {name: quantiles(cases["pixels"][cases["dtype"] == name]) for name in np.unique(cases["dtype"]).tolist()},
    }


def _known(cases: Cases) -> dict[str, Any]:
    found: dict[str, Any] = {
        name: _tally(cases[name]) for name in (*TEXTS, "modality") if name in cases and (cases[name] != "").any()
    }
    if "age" in cases and np.isfinite(cases["age"]).any():
        found["age"] = {**(quantiles(cases["age"]) or {}), "unknown": int((~np.isfinite(cases["age"])).sum())}
    return found


def _audit(seen: Seen) -> dict[str, Any]:
    """Leaks as training counts them, and what else should make one wonder."""
    cases = seen.cases
    given, near, content = cases["given"], cases["near"], cases["content"]
    splits = {split: np.flatnonzero(given == split) for split in SPLITS if (given == split).any()}
    _, leaks = clear_leaks(splits, content=content, patient=cases["patient"], on_leak="report")
    _, copies = np.unique(near, return_counts=True)
    _, twins = np.unique(content, return_counts=True)
    return {
        "leaks": leaks,
        "identical": {"sets": int((twins > 1).sum()), "files": int(twins[twins > 1].sum())},
        "near_copies": {
            "searched": seen.searched,
            "groups": int((copies > 1).sum()),
            "files": int(copies[copies > 1].sum()),
            "largest": int(copies.max()),
            "across_splits": _spanning(near, given),
        },
        "conflicts": {
            "identical content": _spanning(content, cases["label"]),
            "near-copies": _spanning(near, cases["label"]),
        },
    }


def _spanning(key: np.ndarray, value: np.ndarray) -> int:
    """How many keys come with more than one value."""
    pairs = {(k, str(v)) for k, v in zip(key.tolist(), value.tolist(), strict=True)}
    return sum(count > 1 for count in Counter(k for k, _ in pairs).values())
