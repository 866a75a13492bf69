"""MedMNIST by download, or from a file that was fetched by hand: written into shards once, and read at random."""

from __future__ import annotations

import difflib
import functools
import hashlib
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from medjax import console
from medjax.data.builders.medmnist_sets import RECORD, SETS, file_name, picture_shape
from medjax.data.builders.records import VERSION, build, is_prepared, read_records
from medjax.data.download import download
from medjax.data.layouts import Layout, medmnist
from medjax.errors import InputError
from medjax.extras import need
from medjax.files import cache_dir

ARCHIVE = f"{RECORD}/files"


def load_medmnist(
    flag: str, size: int = 28, *, path: str | Path | None = None, say: Callable[[str], object] = console.say
) -> Layout:
    """A set of MedMNIST as Sources with the archive's splits; it is prepared in the private cache at first use.

    Examples are {id "train/00012", patient "" (the archive names none), label, image uint8 [H, W], [H, W, 3] or [D, H, W],
    path}. A downloaded file is removed when it is prepared.

    Args:
      flag: "pneumoniamnist" and so on: the keys of `SETS`.
      size: side in pixels: 28, 64, 128 or 224; 28 or 64 for volumes.
      path: the set's .npz file; downloaded by default. A file other than the published one is taken, and `about` says so.
      say: takes the lines for the user.

    Raises:
      InputError: no such set or size, extra `tfds` is missing, a failed download, a file that is no such set.
    """
    _check_name(flag, size)
    need("tensorflow_datasets", extra="tfds")
    given = None if path is None else Path(path)
    root = cache_dir() / "tfds" / ("" if given is None else _key(given))
    folder = root / "medmnist" / f"{flag}_{size}" / VERSION
    if not is_prepared(folder):
        source = fetch(flag, size, say) if given is None else given
        cases = sum(map(len, read(source, flag, size).sources.values()))
        from medjax.data.builders.medmnist_builder import MedMNIST

        make = functools.partial(MedMNIST, config=f"{flag}_{size}", path=source)
        build(make, root, cases=cases, size=math.prod(picture_shape(flag, size)), say=say)
        if given is None:
            source.unlink(missing_ok=True)
    return Layout(read_records(folder), medmnist.CLASSES[flag], _kind(flag), _about(folder, flag, size))


def fetch(flag: str, size: int, say: Callable[[str], object] = console.say) -> Path:
    """The set's .npz file in the private cache, downloaded where it is not there, its checksum verified."""
    name = file_name(flag, size)
    url, md5 = f"{ARCHIVE}/{name}", SETS[flag].md5[size]
    return download(
        f"{url}?download=1",
        cache_dir() / "downloads" / name,
        md5=md5,
        mend=f"fetch {url} (md5 {md5}) by hand and give --data.path {name}",
        say=say,
    )


def read(path: Path, flag: str, size: int) -> Layout:
    """An .npz file that is this set at this size, as far as its form says; its pixels are not read yet.

    Raises:
      InputError: it is another set, another size, or none; a label outside the classes.
    """
    layout, shape, classes = medmnist.sources(path), picture_shape(flag, size), len(medmnist.CLASSES[flag])
    mend = f"give the file of {flag} at size {size}, {file_name(flag, size)}, or name its own set and size"
    width, highest = (classes, 1) if _kind(flag) == "multi" else (1, classes - 1)
    for split, source in layout.sources.items():
        if source.images.shape[1:] != shape:
            raise InputError(f"{path}: {split} holds images {source.images.shape[1:]}, expected {shape}\n{mend}")
        if source.labels.shape[1] != width or source.labels.max() > highest:
            raise InputError(f"{path}: the labels of {split} are not those of {flag}\n{mend}")
    return layout


def checksum(path: Path) -> str:
    """MD5 of a file, which is what the archive publishes."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _kind(flag: str) -> Literal["single", "multi", "ordinal"]:
    return "multi" if flag == "chestmnist" else "ordinal" if flag in medmnist.ORDINAL else "single"


def _check_name(flag: str, size: int) -> None:
    if flag not in SETS:
        near = difflib.get_close_matches(flag, SETS, n=1, cutoff=0.0)[0]
        raise InputError(f"MedMNIST has no set {flag!r}; the nearest is {near!r}\nthere are {', '.join(SETS)}")
    if size not in SETS[flag].md5:
        raise InputError(f"{flag} is not published at size {size}\nthere are {', '.join(map(str, SETS[flag].md5))}")


def _key(path: Path) -> str:
    if not path.is_file():
        raise InputError(f"{path}: no such file\ngive --data.path a MedMNIST .npz file that exists")
    stat = path.stat()
    return hashlib.sha256(f"{path.resolve()}|{stat.st_size}|{stat.st_mtime_ns}".encode()).hexdigest()[:24]


def _about(folder: Path, flag: str, size: int) -> str:
    made = SETS[flag]
    about = f"MedMNIST v2, {flag} at {size} pixels ({made.licence})"
    found = json.loads((folder / "metadata.json").read_text())["md5"]
    return about if found == made.md5[size] else f"{about}; not the published file: its md5 is {found}"
