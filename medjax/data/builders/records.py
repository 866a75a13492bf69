"""Sources written once into ArrayRecord shards, and read back at random: for sets that are slow to decode or to copy.

The folder is a data set of tensorflow-datasets: `tfds.builder_from_directory(folder).as_data_source()` reads it elsewhere.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from medjax import console
from medjax.data.digests import code_digest, digest
from medjax.data.progress import progress
from medjax.errors import InputError
from medjax.extras import need
from medjax.files import cache_dir, publish, staging

VERSION = "1.0.0"  # of the folders
_UNSPLIT = "unsplit"  # tensorflow-datasets keeps the name "all" for itself


class RecordSource:
    """A split of a prepared folder as a Source. Arrays are read-only.

    Attributes:
      data: the data source of tensorflow-datasets.
      shards: its files.
    """

    def __init__(self, data: Any, shards: Iterable[Path]):
        self.data, self.shards = data, list(shards)

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, i: int) -> dict[str, Any]:
        """The example as it was written, with its `path`: the first shard and the id."""
        if not 0 <= i < len(self):
            raise IndexError(i)
        with _told(self.shards[0].parent):
            example = {name: _plain(value) for name, value in self.data[i].items()}
        return {"patient": "", **example, "path": f"{self.shards[0]}: {example['id']}"}

    def identity(self) -> Iterable[str]:
        """What a prepared cache is keyed by: names, sizes and times of the shards."""
        for path in self.shards:
            stat = path.stat()
            yield f"{path}|{stat.st_size}|{stat.st_mtime_ns}"


def write_records(
    name: str, sources: Mapping[str, Any], *, say: Callable[[str], object] = console.say
) -> dict[str, RecordSource]:
    """Write every case of {split or "all": Source} into shards in the private cache, once, and read them back.

    One case at a time is in memory. The cache is keyed by the Sources' identity and code, as `prepare` keys it. Of a
    case, text, numbers and arrays of numbers are kept bit for bit; arrays may differ in size, not in dtype and dimensions.

    Args:
      name: of the data set, lower-case letters, digits and "_".
      sources: a Source has `len` and `getitem` -> dict, and may have `identity()`.
      say: takes the lines for the user.

    Raises:
      InputError: extra `tfds` is missing, no cases, cases of different kinds or fields, no space on the disk, or what a
        Source raises.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise ValueError(f"{name!r} is no name of lower-case letters, digits and _")
    need("tensorflow_datasets", extra="tfds")
    root = cache_dir() / "tfds" / _key(sources)
    folder = root / name / VERSION
    if is_prepared(folder):
        return read_records(folder)
    first = next((_columns(source[0]) for _, source in sorted(sources.items()) if len(source)), None)
    if first is None:
        raise InputError("the data holds no cases\ncheck --data.path")
    from medjax.data.builders.shards import Records, Split, feature

    size = sum(len(value.encode()) if isinstance(value, str) else value.nbytes for value in first.values())
    contents = {
        _UNSPLIT if split == "all" else split: Split(len(source), size, _examples(source, first))
        for split, source in sorted(sources.items())
        if len(source)
    }
    builder = type(name, (Records,), {"name": name}, skip_registration=True)
    make = functools.partial(
        builder,
        features={column: feature(value) for column, value in first.items()},
        contents=contents,
        about=f"{name}, written by medjax",
    )
    build(make, root, cases=sum(split.cases for split in contents.values()), size=size, say=say)
    return read_records(folder)


def read_records(folder: str | Path) -> dict[str, RecordSource]:
    """{split or "all": RecordSource} of a folder that tensorflow-datasets has written as array_record.

    Raises:
      InputError: extra `tfds` is missing, no such folder, a shard is missing or damaged.
    """
    tfds = need("tensorflow_datasets", extra="tfds")
    if not is_prepared(Path(folder)):
        raise InputError(f"{folder}: holds no prepared data set\nexpected dataset_info.json and *.array_record-* files")
    with _told(Path(folder)):
        builder = tfds.builder_from_directory(str(folder))
        found = {}
        for split, info in builder.info.splits.items():
            shards = [Path(path) for path in info.filepaths]
            if missing := [path for path in shards if not path.is_file()]:
                raise InputError(f"{missing[0]}: is missing\nremove {folder}, to have the data prepared again")
            source = RecordSource(builder.as_data_source(split=split), shards)
            found["all" if split == _UNSPLIT else split] = source
    return found


@contextlib.contextmanager
def _told(folder: Path) -> Iterator[None]:
    """Damage, of which three libraries speak in their own ways, as an InputError."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        line = str(error).strip().partition("\n")[0]
        raise InputError(f"{folder}: cannot be read ({line})\nremove it, to have the data prepared again") from error


def is_prepared(folder: Path) -> bool:
    """Whether a folder was published: what is in one is whole."""
    return (folder / "dataset_info.json").is_file()


def build(make: Callable[..., Any], root: Path, *, cases: int, size: int, say: Callable[[str], object] = console.say) -> Path:
    """Run a builder aside and publish its folder: a kill leaves nothing half-made, and two processes do not meet.

    Args:
      make: (data_dir=..., tell=...) -> builder.
      root: the data_dir that the folder is published in.
      cases: how many there are.
      size: bytes of one, about.
      say: takes the lines for the user.

    Returns:
      root / name / [config] / version.
    """
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    _check_space(root, cases * size)
    say(f"writing {cases:,} cases into shards, once")
    with staging(root) as work, progress("shards", cases, unit="cases", say=say) as tell:
        builder = make(data_dir=str(work), tell=tell)
        try:
            with contextlib.redirect_stdout(io.StringIO()):  # it greets
                builder.download_and_prepare()
        except InputError:
            raise
        except Exception:
            _check_space(root, 2**24)  # the writer's own words for a full disk are many
            raise
        made = Path(builder.data_dir)
        return publish(made, root / made.relative_to(work))


def _check_space(root: Path, wanted: int) -> None:
    free = shutil.disk_usage(root).free
    if wanted > free:
        raise InputError(
            f"{root}: no space for {wanted / 1e6:,.0f} MB of prepared data, only {free / 1e6:,.0f} are free\n"
            "free some, or set MEDJAX_CACHE to a folder on a larger disk"
        )


def _key(sources: Mapping[str, Any]) -> str:
    key = hashlib.sha256(f"{VERSION}|{code_digest(tuple(type(source) for _, source in sorted(sources.items())))}".encode())
    for split, source in sorted(sources.items()):
        for line in source.identity() if hasattr(source, "identity") else _content_lines(source):
            key.update(f"{split}|{line}\n".encode())
    return key.hexdigest()[:24]


def _content_lines(source: Any) -> Iterator[str]:
    for i in range(len(source)):
        example = source[i]
        yield "|".join(
            [*(str(np.asarray(example.get(name, "")).tolist()) for name in ("id", "label", "patient")), digest(example)]
        )


def _examples(source: Any, first: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for i in range(len(source)):
        columns = _columns(source[i])
        _check_like(columns, first)
        yield columns


def _columns(example: Mapping[str, Any]) -> dict[str, Any]:
    """What is kept of an example: text and arrays in this machine's byte order."""
    found: dict[str, Any] = {}
    for name, value in example.items():
        if name == "path":  # says where the original lay
            continue
        if isinstance(value, str):
            found[name] = value
            continue
        array = np.asarray(value, order="C")
        if array.dtype.kind not in "biuf":
            raise InputError(f"{example['id']}: {name} is {array.dtype}\na Source must give numbers and text")
        found[name] = array.astype(array.dtype.newbyteorder("="), copy=False)
    return found


def _check_like(columns: Mapping[str, Any], first: Mapping[str, Any]) -> None:
    if different := sorted(columns.keys() ^ first.keys()):
        raise InputError(
            f"{columns['id']}: {', '.join(different)} not in every case\na Source must give all cases the same fields"
        )
    for name, value in columns.items():
        if _kind(value) != _kind(first[name]):
            raise InputError(
                f"{columns['id']}: {name} is {_kind(value)}, others are {_kind(first[name])}\n"
                "a Source must give every case one dtype and number of dimensions"
            )


def _kind(value: str | np.ndarray) -> str:
    return "text" if isinstance(value, str) else f"{value.dtype} of {value.ndim} dimensions"


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode()
    return value.item() if np.ndim(value) == 0 and hasattr(value, "item") else value
