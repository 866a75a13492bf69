"""From Sources to a memory-mapped cache, splits and an audit: done once, then gathered by index."""

from __future__ import annotations

import csv
import hashlib
import importlib.metadata
import io
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from medjax.cases import Cases, Ragged, Varying, stack_rows
from medjax.data.digests import code_digest, digest
from medjax.data.duplicates import LARGEST_SET, SIDE, SMALLEST, describe, near_copies
from medjax.data.npy_files import Appended, cut, reserve
from medjax.data.records import Tally, tell
from medjax.errors import InputError
from medjax.files import cache_dir, publish, staging, write_json, write_text
from medjax.formats.table import read_table

VERSION = 4  # of the cache's layout
# Another version of these, or their coming or going, may prepare the same file differently.
DECODERS = ("numpy", "pillow", "scipy", "pydicom", "nibabel", "pylibjpeg", "pylibjpeg-openjpeg", "pyjpegls", "python-gdcm")
MOST_SKIPPED = 0.5  # share of the cases above which skipping does not help
SKIPPED = "skipped.csv"
PART = 1 << 30  # bytes of cases in memory at a time
SHAPES = "-shapes"  # behind the name of a column of arrays that differ in shape


class Prepared(NamedTuple):
    """All cases of a data set, ready to be gathered.

    Attributes:
      cases: columns id, patient, label, content (digest of the raw content), near (component of near-copies), given (split
        or "all"), and whatever `preprocess` left: image, header, signal, length, ...
      fingerprint: SHA-256 over ids, labels, splits and content: the same data gives the same, wherever it lies.
      folder: the cache.
      searched: whether near-copies were looked for: not in small images, nor among very many.
      skipped: (id, reason) of the cases that could not be used; also in `skipped.csv` of the cache.
      notes: what reading has left out of the cases or changed in them, counted: see `medjax.data.records.tell`.
    """

    cases: Cases
    fingerprint: str
    folder: Path
    searched: bool
    skipped: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()


class _Failed(NamedTuple):
    """A case that could not be used, and why."""

    id: str
    reason: str


def prepare(
    sources: Mapping[str, Any],
    preprocess: Callable[[dict], dict],
    *,
    near: str = "any",
    on_error: str = "stop",
    say: Callable[[str], None] = lambda text: None,
) -> Prepared:
    """Decode and preprocess every case once, or find that it was done before.

    The cache is keyed by the files (name, size, time), by the code and settings of `preprocess`, and by `near`; it is written
    aside and renamed when whole, so that a kill leaves nothing half-made and two processes do not meet.

    Args:
      sources: {split or "all": Source}; a Source has `len` and `getitem` -> dict of NumPy arrays with at least id and label,
        and may have `identity()` -> strings that change when its content does (without it, all content is read to know),
        `case_id(i)` -> the id, also where the content cannot be read, and `tally()` -> counts of what reading has left out.
      preprocess: example -> example of fixed shapes, but for what is `Varying`.
      near: "any" finds near-copies of images in all eight orientations, "upright" as they stand, "off" none.
      on_error: "stop" at a case that cannot be read or preprocessed, or "skip" it and list it, as long as over half are left.
      say: told what is being done.

    Raises:
      InputError: an unreadable file, a non-finite value, cases of different shapes, kinds or fields.
    """
    versions = [_version(name) for name in DECODERS]
    code = (preprocess, describe, near_copies, digest, *(type(source) for _, source in sorted(sources.items())))
    key = hashlib.sha256(f"{VERSION}|{versions}|{near}|{on_error}|{code_digest(code)}".encode())
    for split, source in sorted(sources.items()):
        for line in source.identity() if hasattr(source, "identity") else _content_lines(source, on_error):
            key.update(f"{split}|{line}\n".encode())
    folder = cache_dir() / "prepared" / key.hexdigest()[:24]
    if not (folder / "meta.json").is_file():
        folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with staging(folder.parent) as work:
            _write(work, sources, preprocess, near, on_error, say)
            publish(work, folder)
    meta = json.loads((folder / "meta.json").read_text())
    columns: dict[str, Any] = {name: _load(folder, name) for name in meta["columns"]}
    # Only pictures and signals stay on disk: the small columns are asked for at every step.
    columns = {name: x if x.ndim > 2 else np.array(x) for name, x in columns.items()}
    columns |= {name: _load_ragged(folder, name) for name in meta["ragged"]}
    skipped = tuple((row["id"], row["reason"]) for row in read_table(folder / SKIPPED).rows) if meta["skipped"] else ()
    return Prepared(Cases(columns), meta["fingerprint"], folder, meta["near_searched"], skipped, tuple(meta["notes"]))


def _load(folder: Path, name: str) -> np.ndarray:
    return np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)


def _load_ragged(folder: Path, name: str) -> Ragged:
    shapes = np.array(_load(folder, f"{name}{SHAPES}"))
    sizes = shapes.prod(1)
    return Ragged(_load(folder, name), np.cumsum(sizes) - sizes, shapes)


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "absent"


def _write(
    work: Path, sources: Mapping[str, Any], preprocess: Callable, near: str, on_error: str, say: Callable[[str], None]
) -> None:
    todo = [(split, source, i) for split, source in sorted(sources.items()) for i in range(len(source))]
    if not todo:
        raise InputError("the data holds no cases\ncheck --data.path")
    say(f"preparing {len(todo):,} cases, once")

    def make(item: tuple[str, Any, int]) -> dict[str, Any] | _Failed:
        split, source, i = item
        raw: dict[str, Any] = {}
        try:
            raw = source[i]
            made = _case(raw, preprocess)
        except InputError as error:
            if on_error == "skip":
                return _Failed(str(raw.get("id") or _name(split, source, i)), _reason(error))
            raise
        if near != "off":
            made |= _described(raw, made)
        return {**made, "given": split}

    columns: dict[str, Any] = {}
    large: dict[str, Any] = {}
    ragged: dict[str, Appended] = {}
    first: dict[str, Any] = {}
    skipped: list[_Failed] = []
    row = 0
    with ThreadPoolExecutor(_cpus()) as pool:
        for example in _bounded_map(pool, make, todo):
            if isinstance(example, _Failed):
                skipped.append(example)
                if len(skipped) > MOST_SKIPPED * len(todo):
                    raise _too_many(skipped, len(todo))
                continue
            arrays = {name: value if isinstance(value, Varying) else np.asarray(value) for name, value in example.items()}
            first = first or arrays
            _check_like(arrays, first)
            for name, value in arrays.items():
                if isinstance(value, Varying):
                    if row == 0:
                        ragged[name] = Appended(work / f"{name}.npy", value.array.dtype)
                    ragged[name].append(value.array)
                    continue
                if row == 0 and value.ndim > 1:
                    path = work / f"{name}.npy"
                    large[name] = np.lib.format.open_memmap(path, "w+", value.dtype, (len(todo), *value.shape))
                    reserve(path)
                if name in large:
                    large[name][row] = value
                else:
                    columns.setdefault(name, []).append(value)
            row += 1
    if skipped:
        say(f"skipped {len(skipped):,} of {len(todo):,} cases, the first {skipped[0].id}: {skipped[0].reason}")
    columns = {name: np.stack(values) for name, values in columns.items()}
    descriptors = columns.pop("_descriptor", None)
    searched = descriptors is not None and descriptors.any() and len(descriptors) <= LARGEST_SET
    if searched:
        say("looking for near-copies")
        columns["near"] = near_copies(descriptors, turned=near == "any")
    else:
        columns["near"] = np.arange(row)
    for name, appended in ragged.items():
        columns[f"{name}{SHAPES}"] = appended.close()
    for name, array in large.items():
        array.flush()
        if row < len(todo):
            cut(work / f"{name}.npy", array, row)
    for name, column in columns.items():
        np.save(work / f"{name}.npy", column, allow_pickle=False)
    label = columns["label"] if columns["label"].ndim == 1 else columns["label"].tolist()
    lines = sorted(
        f"{a}|{b}|{c}|{d}" for a, b, c, d in zip(columns["id"], label, columns["given"], columns["content"], strict=True)
    )
    fingerprint = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    if skipped:
        _write_skipped(work / SKIPPED, skipped)
    plain = sorted({*large, *columns} - {f"{name}{SHAPES}" for name in ragged})
    meta = {"version": VERSION, "columns": plain, "ragged": sorted(ragged), "fingerprint": fingerprint}
    tally: Tally = sum((source.tally() for source in sources.values() if hasattr(source, "tally")), Counter())
    write_json(work / "meta.json", {**meta, "near_searched": bool(searched), "skipped": len(skipped), "notes": tell(tally)})


def _name(split: str, source: Any, i: int) -> str:
    return source.case_id(i) if hasattr(source, "case_id") else f"case {i} of {split}"


def _reason(error: InputError) -> str:
    """The first line of an error, without the file that the case's id names already."""
    line = str(error).partition("\n")[0]
    where, _, what = line.partition(": ")
    return what if what and os.sep in where else line


def _too_many(skipped: list[_Failed], n: int) -> InputError:
    return InputError(
        f"more than half of {n:,} cases cannot be used, the first {skipped[0].id}: {skipped[0].reason}\n"
        "mend the data: --data.on_error skip is for a few bad files"
    )


def _write_skipped(path: Path, skipped: list[_Failed]) -> None:
    out = io.StringIO()
    table = csv.writer(out, lineterminator="\n")
    table.writerows([("id", "reason"), *skipped])
    write_text(path, out.getvalue())


def _check_like(arrays: Mapping[str, Any], first: Mapping[str, Any]) -> None:
    """Whether a case can stand in the columns that the first case began. Text may differ in length, numbers in precision."""
    name = str(arrays["id"])
    for column, value in arrays.items():
        if isinstance(value, Varying):
            now, was = value.array, first[column].array if isinstance(first.get(column), Varying) else np.empty(0)
            if now.dtype.kind not in "biuf" or (now.dtype, now.ndim) != (was.dtype, was.ndim):
                raise InputError(
                    f"{name}: {column} is {now.dtype} of {now.ndim} axes, others are {was.dtype} of {was.ndim}\n"
                    "preprocess must give every case numbers of one dtype and number of axes"
                )
            continue
        if value.dtype.kind not in "biufU":
            raise InputError(f"{name}: {column} is {value.dtype}\npreprocess must give numbers and text")
        like = first.get(column, value)
        exact = value.ndim > 1 or like.ndim > 1
        mixed = value.dtype != like.dtype if exact else (value.dtype.kind == "U") != (like.dtype.kind == "U")
        if mixed or value.shape != like.shape:
            raise InputError(
                f"{name}: {column} is {value.dtype} {value.shape}, others are {like.dtype} {like.shape}\n"
                "preprocess must give every case one shape and dtype"
            )
    if missing := sorted(first.keys() ^ arrays.keys()):
        raise InputError(f"{name}: {', '.join(missing)} not in every case\npreprocess must give every case the same fields")


def read_cases(source: Any, preprocess: Callable[[dict], dict], *, most: int = PART) -> Iterator[Cases]:
    """Cases of a Source, uncached: what a user hands over for prediction is not kept.

    Args:
      source, preprocess: as in `prepare`.
      most: bytes that a part may take, so that a folder of volumes need not fit in memory; a larger case is a part alone.

    Yields:
      The cases in order, a part at a time.
    """
    if not len(source):
        raise InputError("there are no cases to read\ngive at least one file")
    made: list[dict[str, Any]] = []
    size = 0
    with ThreadPoolExecutor(_cpus()) as pool:
        for case in _bounded_map(pool, lambda i: _case(source[i], preprocess), list(range(len(source)))):
            own = sum((x.array if isinstance(x, Varying) else np.asarray(x)).nbytes for x in case.values())
            if made and size + own > most:
                yield Cases(stack_rows(made))
                made, size = [], 0
            made.append(case)
            size += own
    yield Cases(stack_rows(made))


def _case(example: Mapping[str, Any], preprocess: Callable[[dict], dict]) -> dict[str, Any]:
    raw = dict(example)
    where = raw.pop("path", raw["id"])
    _check_finite(raw, where)  # before preprocessing, which may turn a NaN into a zero
    # What is known of a patient besides the picture is no content: the same picture is the same whatever a table says of it.
    # Nor is what was drawn on it, or what was found in a text.
    content = digest({name: raw[name] for name in ("image", "text") if name in raw} or raw)
    made = preprocess(raw)
    if missing := {"id", "label"} - made.keys():
        raise InputError(f"{where}: has no {' and no '.join(sorted(missing))} after preprocessing\nkeep them in preprocess")
    _check_finite(made, where)
    return {**made, "content": content, "patient": made.get("patient", "")}


def _check_finite(example: Mapping[str, Any], where: str) -> None:
    for name in ("image", "signal"):
        value = example.get(name, 0)
        value = value.array if isinstance(value, Varying) else np.asarray(value)
        if value.dtype.kind in "fc" and not np.isfinite(value).all():
            raise InputError(f"{where}: {name} holds NaN or infinite values\nmend or remove the file")


def _described(raw: Mapping[str, Any], made: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The descriptor of a picture, of zeros (like nothing) where its file is too small to tell a copy from a likeness; none of
    what is no picture.

    The prepared picture is described, cropped as it is, unless it is smaller than a descriptor.
    """
    given, image = np.asarray(raw.get("image", 0)), made.get("image", 0)
    if given.ndim == 4:  # volumes [D, H, W, C], and pictures as single slices
        if given.shape[0] != 1:
            return {}
        given = image = given[0]
    if isinstance(image, Varying):  # pictures of several sizes
        image = given
    if np.ndim(image) not in (2, 3) or given.ndim not in (2, 3):
        return {}
    if min(given.shape[:2]) < SMALLEST:
        return {"_descriptor": np.zeros(SIDE * SIDE, np.float32)}
    return {"_descriptor": describe(image if min(np.shape(image)[:2]) >= SIDE else given)}


def _cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _bounded_map(pool: ThreadPoolExecutor, function: Callable, items: list) -> Iterable:
    """`pool.map` that keeps only a few results waiting, so that a large data set need not fit in memory."""
    ahead = 2 * _cpus()
    waiting = [pool.submit(function, item) for item in items[:ahead]]
    try:
        for i in range(len(items)):
            result = waiting.pop(0).result()
            if i + ahead < len(items):
                waiting.append(pool.submit(function, items[i + ahead]))
            yield result
    finally:
        for future in waiting:
            future.cancel()


def _content_lines(source: Any, on_error: str) -> Iterable[str]:
    for i in range(len(source)):
        try:
            example = source[i]
        except InputError as error:
            if on_error != "skip":
                raise
            yield f"{_name('', source, i)}|{_reason(error)}"
            continue
        label = np.asarray(example.get("label", -1)).tolist()
        yield f"{example['id']}|{label}|{example.get('patient', '')}|{digest(example)}"
