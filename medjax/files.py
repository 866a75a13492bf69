"""Small effects that every other part shares: the cache folder, atomic writes, staging."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import re
import shutil
import stat
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from medjax.errors import InputError

# Names that we make, and the only ones that are ever cleared: a user's own folder "tmp-scans" is left alone.
_TEMPORARY = re.compile(r"tmp-[0-9a-f]{32}")
_STALE_SECONDS = 24 * 3600


def cache_dir() -> Path:
    """The private cache folder, absolute, made with mode 0700 where it is missing.

    It is $MEDJAX_CACHE, else $XDG_CACHE_HOME/medjax, else ~/.cache/medjax. What lies there is trusted later without another
    check, so nobody else may write to it: an own folder loses the write permission of group and others.

    Raises:
      InputError: it cannot be made, is no folder, or belongs to another user.
    """
    path = _cache_path()
    mend = "set MEDJAX_CACHE to a folder of your own"
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        info = path.stat()
        if hasattr(os, "getuid"):
            if info.st_uid != os.getuid():
                raise InputError(f"{path}: the cache folder belongs to another user (uid {info.st_uid})\n{mend}")
            if info.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                path.chmod(stat.S_IMODE(info.st_mode) & ~(stat.S_IWGRP | stat.S_IWOTH))
    except OSError as error:
        raise InputError(f"{path}: cannot be used as the cache folder ({error.strerror})\n{mend}") from error
    return path


def _cache_path() -> Path:
    if own := os.environ.get("MEDJAX_CACHE"):
        with contextlib.suppress(RuntimeError):  # no home folder to put in place of "~"
            return Path(own).expanduser().absolute()
        return Path(own).absolute()
    base = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(base):  # the XDG specification has relative paths ignored
        return Path(base) / "medjax"
    try:
        return Path.home() / ".cache" / "medjax"
    except RuntimeError as error:
        raise InputError("no home folder for the cache\nset MEDJAX_CACHE to a folder of your own") from error


def write_text(path: str | Path, text: str) -> None:
    """Write UTF-8 text atomically: a reader sees the old file or the new one, never a part."""
    write_bytes(path, text.encode())


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write bytes atomically (temporary file beside it, fsync, replace); missing parent folders are made."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / _temporary_name()
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` as JSON (indent 1) atomically.

    NumPy and JAX scalars and arrays become numbers and lists, paths become text.

    Raises:
      ValueError: NaN or infinity, which JSON does not have; the message says where.
      TypeError: something that JSON cannot hold.
    """
    text = json.dumps(_plain(value, ""), indent=1, ensure_ascii=False, allow_nan=False)
    write_text(path, text + "\n")


def _plain(value: Any, where: str) -> Any:
    if isinstance(value, Mapping):
        return {_key(key): _plain(item, f"{where}/{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, f"{where}/{i}") for i, item in enumerate(value)]
    if isinstance(value, np.floating):
        value = float(value)  # before tolist(), which leaves a long double as it is
    if isinstance(value, np.ndarray | np.generic) or hasattr(value, "__array__"):
        return _plain(np.asarray(value).tolist(), where)
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{value} at {where or '/'} cannot be written as JSON")
    return value


def _key(key: Any) -> Any:
    return key.item() if isinstance(key, np.generic) else key


def sha256(path: str | Path) -> str:
    """SHA-256 of a file's content as 64 lower-case hexadecimal digits, read in chunks."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def append_rows(path: Path, text: str | bytes) -> None:
    """Rows of a further part behind those of a table that is being made: of a .csv all but the first line, which must be the
    table's own, of a .tsv, which has no names of columns, all; of a .json the items of its list. For files in a staging folder:
    a kill may leave half of it.

    Raises:
      ValueError: another kind of file, other columns, or no lists.
    """
    wrong = f"{path}: cannot take the rows of another part"
    if path.suffix == ".json":
        _append_items(path, str(text).strip(), wrong)
        return
    head, _, more = ("", "", str(text)) if path.suffix == ".tsv" else str(text).partition("\n")
    with open(path, "r+", encoding="utf-8", newline="") as table:
        if path.suffix not in (".csv", ".tsv") or (head and table.readline().rstrip("\n") != head):
            raise ValueError(wrong)
        table.seek(0, os.SEEK_END)
        table.write(more)


def _append_items(path: Path, text: str, wrong: str) -> None:
    with open(path, "rb+") as held:
        first = held.read(1)
        held.seek(max(held.seek(0, os.SEEK_END) - 2, 0))
        end = held.read()
        if first != b"[" or end[-1:] != b"]" or text[:1] != "[" or text[-1:] != "]":
            raise ValueError(wrong)
        held.seek(-1, os.SEEK_END)
        between = b"" if end == b"[]" or text == "[]" else b","
        held.write(between + text[1:].encode())


@contextlib.contextmanager
def staging(parent: str | Path) -> Iterator[Path]:
    """A fresh private folder (mode 0700, "tmp-...") inside `parent`, removed when the block ends, however it ends.

    A killed process leaves its folder behind, so folders of this kind in which nothing changed for a day are cleared first.
    """
    parent = Path(parent)
    parent.mkdir(parents=True, exist_ok=True)
    _clear_stale(parent)
    folder = parent / _temporary_name()
    folder.mkdir(mode=0o700)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _temporary_name() -> str:
    return f"tmp-{uuid.uuid4().hex}"


def _clear_stale(parent: Path) -> None:
    for path in parent.glob("tmp-*"):
        if not _TEMPORARY.fullmatch(path.name) or path.is_symlink() or time.time() - _last_change(path) < _STALE_SECONDS:
            continue
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                path.unlink()


def _last_change(path: Path) -> float:
    """Time of the newest change of a file, or of anything in a folder: work that goes on for days is not stale."""
    newest = 0.0
    for item in (path, *path.rglob("*")):
        with contextlib.suppress(OSError):  # its owner may be removing it just now
            newest = max(newest, item.lstat().st_mtime)
    return newest


def publish(folder: str | Path, target: str | Path) -> Path:
    """Give a finished folder its final name by one rename, and return that.

    Where `target` is a folder already, another process was quicker: it stays and `folder` is removed. (An empty one is
    replaced, as rename does.) Both must lie on the same file system.

    Raises:
      OSError: the rename failed for another reason.
    """
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.rename(folder, target)
    except OSError:
        if not target.is_dir():
            raise
        shutil.rmtree(folder)
    return target
