"""From Sources to a memory-mapped cache, splits and an audit: done once, then gathered by index."""

from __future__ import annotations

import csv
import errno
import hashlib
import importlib.metadata
import io
import json
import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from medjax.core import Cases
from medjax.data.digests import code_digest, digest
from medjax.data.duplicates import LARGEST_SET, SIDE, SMALLEST, describe, near_copies
from medjax.data.folders import UNKNOWN
from medjax.errors import InputError
from medjax.files import cache_dir, publish, staging, write_json, write_text
from medjax.formats.table import read_table

VERSION = 2  # of the cache's layout
# Another version of these, or their coming or going, may prepare the same file differently.
DECODERS = ("numpy", "pillow", "scipy", "pydicom", "nibabel", "pylibjpeg", "pylibjpeg-openjpeg", "pyjpegls", "python-gdcm")
MOST_SKIPPED = 0.5  # share of the cases above which skipping does not help
SKIPPED = "skipped.csv"


class Prepared(NamedTuple):
    """All cases of a data set, ready to be gathered.

    Attributes:
      cases: columns id, patient, label, content (digest of the raw content), near (component of near-copies), given (split
        or "all"), and whatever `preprocess` left: image, header, signal, length, ...
      fingerprint: SHA-256 over ids, labels, splits and content: the same data gives the same, wherever it lies.
      folder: the cache.
      searched: whether near-copies were looked for: not in small images, nor among very many.
      skipped: (id, reason) of the cases that could not be used; also in `skipped.csv` of the cache.
    """

    cases: Cases
    fingerprint: str
    folder: Path
    searched: bool
    skipped: tuple[tuple[str, str], ...] = ()


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
        and may have `identity()` -> strings that change when its content does (without it, all content is read to know) and
        `case_id(i)` -> the id, also where the content cannot be read.
      preprocess: example -> example of fixed shapes.
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
    columns = {name: np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in meta["columns"]}
    # Only pictures and signals stay on disk: the small columns are asked for at every step.
    columns = {name: x if x.ndim > 2 else np.array(x) for name, x in columns.items()}
    skipped = tuple((row["id"], row["reason"]) for row in read_table(folder / SKIPPED).rows) if meta["skipped"] else ()
    return Prepared(Cases(columns), meta["fingerprint"], folder, meta["near_searched"], skipped)


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
        if near != "off" and "image" in made and np.ndim(made["image"]) in (2, 3) and np.ndim(raw.get("image", 0)) in (2, 3):
            made["_descriptor"] = _describe(raw["image"], made["image"])
        return {**made, "given": split}

    columns: dict[str, Any] = {}
    large: dict[str, Any] = {}
    first: dict[str, np.ndarray] = {}
    skipped: list[_Failed] = []
    row = 0
    with ThreadPoolExecutor(_cpus()) as pool:
        for example in _bounded_map(pool, make, todo):
            if isinstance(example, _Failed):
                skipped.append(example)
                if len(skipped) > MOST_SKIPPED * len(todo):
                    raise _too_many(skipped, len(todo))
                continue
            arrays = {name: np.asarray(value) for name, value in example.items()}
            first = first or arrays
            _check_like(arrays, first)
            for name, value in arrays.items():
                if row == 0 and value.ndim > 1:
                    path = work / f"{name}.npy"
                    large[name] = np.lib.format.open_memmap(path, "w+", value.dtype, (len(todo), *value.shape))
                    _reserve(path)
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
    for name, array in large.items():
        array.flush()
        if row < len(todo):
            _cut(work / f"{name}.npy", array, row)
    for name, column in columns.items():
        np.save(work / f"{name}.npy", column, allow_pickle=False)
    label = columns["label"] if columns["label"].ndim == 1 else columns["label"].tolist()
    lines = sorted(
        f"{a}|{b}|{c}|{d}" for a, b, c, d in zip(columns["id"], label, columns["given"], columns["content"], strict=True)
    )
    fingerprint = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    if skipped:
        _write_skipped(work / SKIPPED, skipped)
    meta = {"version": VERSION, "columns": sorted([*large, *columns]), "fingerprint": fingerprint}
    write_json(work / "meta.json", {**meta, "near_searched": bool(searched), "skipped": len(skipped)})


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


def _cut(path: Path, array: np.ndarray, n: int) -> None:
    """Shorten an .npy file to its first n rows in place: NumPy leaves room in the header for any length."""
    with open(path, "r+b") as handle:
        np.lib.format.read_magic(handle)
        np.lib.format.read_array_header_1_0(handle)
        start = handle.tell()
        handle.seek(0)
        np.lib.format.write_array_header_1_0(
            handle, {"descr": np.lib.format.dtype_to_descr(array.dtype), "fortran_order": False, "shape": (n, *array.shape[1:])}
        )
        if handle.tell() != start:
            raise RuntimeError(f"{path}: its header has changed in length from {start} to {handle.tell()}")
        handle.truncate(start + n * array[:1].nbytes)


def _check_like(arrays: Mapping[str, np.ndarray], first: Mapping[str, np.ndarray]) -> None:
    """Whether a case can stand in the columns that the first case began. Text may differ in length, numbers in precision."""
    name = str(arrays["id"])
    for column, value in arrays.items():
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


def _reserve(path: Path) -> None:
    """Take a sparse file's blocks now: writing to a page that a full disk cannot give kills the process without a word."""
    if not hasattr(os, "posix_fallocate"):
        return
    with open(path, "r+b") as handle:
        try:
            os.posix_fallocate(handle.fileno(), 0, path.stat().st_size)
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise InputError(
                    f"{path.parent.parent}: no space for {path.stat().st_size / 1e6:,.0f} MB of prepared data\n"
                    "free some, or set MEDJAX_CACHE to a folder on a larger disk"
                ) from error


def read_cases(source: Any, preprocess: Callable[[dict], dict]) -> Cases:
    """Cases of a Source in memory, uncached: what a user hands over for prediction is not kept."""
    with ThreadPoolExecutor(_cpus()) as pool:
        made = list(pool.map(lambda i: _case(source[i], preprocess), range(len(source))))
    if not made:
        raise InputError("there are no cases to read\ngive at least one file")
    return Cases({name: np.stack([case[name] for case in made]) for name in made[0]})


def _case(example: Mapping[str, Any], preprocess: Callable[[dict], dict]) -> dict[str, Any]:
    raw = dict(example)
    where = raw.pop("path", raw["id"])
    _check_finite(raw, where)  # before preprocessing, which may turn a NaN into a zero
    # What is known of a patient besides the picture is no content: the same picture is the same whatever a table says of it.
    content = digest({name: value for name, value in raw.items() if name not in UNKNOWN or "image" not in raw})
    made = preprocess(raw)
    if missing := {"id", "label"} - made.keys():
        raise InputError(f"{where}: has no {' and no '.join(sorted(missing))} after preprocessing\nkeep them in preprocess")
    _check_finite(made, where)
    return {**made, "content": content, "patient": made.get("patient", "")}


def _check_finite(example: Mapping[str, Any], where: str) -> None:
    for name in ("image", "signal"):
        value = np.asarray(example.get(name, 0))
        if value.dtype.kind in "fc" and not np.isfinite(value).all():
            raise InputError(f"{where}: {name} holds NaN or infinite values\nmend or remove the file")


def _describe(raw: np.ndarray, image: np.ndarray) -> np.ndarray:
    """Descriptor of a picture, of zeros (like nothing) where its file is too small to tell a copy from a likeness.

    The prepared picture is described, cropped as it is, unless it is smaller than a descriptor.
    """
    if min(np.shape(raw)[:2]) < SMALLEST:
        return np.zeros(SIDE * SIDE, np.float32)
    return describe(image if min(image.shape[:2]) >= SIDE else raw)


def _cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _bounded_map(pool: ThreadPoolExecutor, function: Callable, items: list) -> Iterable:
    """`pool.map` that keeps only a few results waiting, so that a large data set need not fit in memory."""
    ahead = 64
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
