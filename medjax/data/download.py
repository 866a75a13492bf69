"""Downloads over HTTP: taken up where they broke off, verified before use, and given their name by one rename."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import re
import shutil
import socket
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from email.message import Message
from io import BufferedRandom
from pathlib import Path
from typing import Any

from medjax import console
from medjax.data.progress import progress
from medjax.errors import InputError

TIMEOUT = 60.0  # seconds without a byte
WAITS = (1.0, 2.0, 4.0, 8.0)  # seconds before each new try
FRUITFUL = 2**20  # bytes after which the tries are counted anew: a bad line makes a large file slow, not impossible
_CHUNK = 2**18


def download(
    url: str,
    to: str | Path,
    *,
    sha256: str = "",
    md5: str = "",
    mend: str = "",
    say: Callable[[str], object] = console.say,
) -> Path:
    """The file behind `url` as `to`; nothing is done where it is there already with the right checksum.

    Bytes are collected in `to`.part, which a later call goes on with, and are renamed when the checksum is right. Of several
    processes that ask for one file, one loads it and the others wait.

    Args:
      url: http or https. The system's proxies (`https_proxy`) and certificates are used.
      to: the file to write; missing parent folders are made.
      sha256: its checksum in hexadecimal digits.
      md5: likewise, where the publisher gives no better one. One of the two must be given.
      mend: the second line of an error: how to do without the download.
      say: takes the lines for the user.

    Returns:
      `to`.

    Raises:
      InputError: no connection, no such file, a server that keeps breaking off, another checksum, no space on the disk, or a
        different file in the place of `to`.
    """
    to = Path(to)
    name, expected = ("sha256", sha256.lower()) if sha256 else ("md5", md5.lower())
    if not expected:
        raise ValueError("download needs a checksum")
    if urllib.parse.urlsplit(url).scheme not in ("http", "https"):
        raise InputError(f"{_shown(url)}: not an http or https address\n{mend or 'give one'}")
    mend = mend or f"download it elsewhere and put it at {to}"
    try:
        to.parent.mkdir(parents=True, exist_ok=True)
        if _is_there(to, name, expected):
            return to
        with _locked(to.with_name(to.name + ".part"), say) as part:
            if not _is_there(to, name, expected):  # another process was quicker
                _fill(part, url, (name, expected), mend, say)
                os.fsync(part.fileno())
                os.replace(part.name, to)
            else:
                os.unlink(part.name)
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"{error.filename or to}: {error.strerror or error}\nfree some space there, or {mend}") from error
    return to


def _is_there(path: Path, name: str, expected: str) -> bool:
    if not path.exists():
        return False
    with path.open("rb") as handle:
        found = _checksum(handle, name)
    if found != expected:
        raise InputError(f"{path}: wrong checksum: expected {name} {expected}, got {found}\nremove it, to have it downloaded")
    return True


def _checksum(handle: Any, name: str) -> str:
    handle.seek(0)
    return hashlib.file_digest(handle, lambda: hashlib.new(name, usedforsecurity=False)).hexdigest()


@contextlib.contextmanager
def _locked(path: Path, say: Callable[[str], object]) -> Iterator[BufferedRandom]:
    """The file opened for reading and writing, by one process at a time."""
    while True:
        with open(path, "a+b") as handle:
            _lock(handle, say)
            # Whoever held it may have given it its final name meanwhile: then this handle is that file.
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(handle.fileno()), path.stat()):
                    yield handle
                    return


def _lock(handle: BufferedRandom, say: Callable[[str], object]) -> None:
    try:
        import fcntl
    except ImportError:  # Windows
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        say(f"{handle.name}: another process is downloading it; waiting")
        fcntl.flock(handle, fcntl.LOCK_EX)


def _fill(part: BufferedRandom, url: str, checksum: tuple[str, str], mend: str, say: Callable[[str], object]) -> None:
    """Bring the file to its full length and verify it."""
    name, expected = checksum
    begun = part.seek(0, os.SEEK_END)
    _fetch(part, url, mend, say)
    found = _checksum(part, name)
    if found != expected and begun:
        # What an earlier call left may be of an older version of the file.
        say(f"{_shown(url)}: the parts of it do not fit together; downloading it from the start")
        part.truncate(0)
        _fetch(part, url, mend, say)
        found = _checksum(part, name)
    if found != expected:
        os.unlink(part.name)
        raise InputError(f"{_shown(url)}: wrong checksum: expected {name} {expected}, got {found}; nothing is kept\n{mend}")


def _fetch(part: BufferedRandom, url: str, mend: str, say: Callable[[str], object]) -> None:
    fruitless = 0
    while True:
        before = part.seek(0, os.SEEK_END)
        try:
            _append(part, url, mend, say)
            return
        except InputError:
            raise
        except (OSError, http.client.HTTPException) as error:
            if _is_final(error):
                raise InputError(f"{_shown(url)}: cannot be downloaded: {_reason(error)}\n{mend}") from error
            fruitless = 0 if part.seek(0, os.SEEK_END) - before >= FRUITFUL else fruitless + 1
            if fruitless > len(WAITS):
                raise InputError(
                    f"{_shown(url)}: cannot be downloaded: {_reason(error)}, in {fruitless} tries running\n{mend}"
                ) from error
            wait = WAITS[max(fruitless - 1, 0)]
            say(f"{_shown(url)}: {_reason(error)}; trying again in {wait:g} s")
            time.sleep(wait)


def _append(part: BufferedRandom, url: str, mend: str, say: Callable[[str], object]) -> None:
    """One request for what is missing."""
    have = part.seek(0, os.SEEK_END)
    headers = {"User-Agent": "medjax", "Accept-Encoding": "identity"}
    headers |= {"Range": f"bytes={have}-"} if have else {}
    try:
        response = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code != 416 or not have:
            raise
        if _whole_size(error.headers) == have:
            return  # only the checksum was missing
        part.truncate(0)
        raise ConnectionError("the server's file is another one than before") from error
    with response:
        total = _total(part, response, have)
        have = part.seek(0, os.SEEK_END)
        _check_space(Path(part.name), total - have, mend)
        if have == 0 and total:
            say(f"downloading {_shown(url)}: {total / 1e6:,.1f} MB")
        with progress(Path(part.name).stem, total, unit="MB", scale=1e6, done=have, say=say) as advance:
            while chunk := response.read(_CHUNK):
                _write(part, chunk, mend)
                advance(len(chunk))
    have = part.seek(0, os.SEEK_END)
    if have < total:
        raise ConnectionError(f"the connection broke off at {have / 1e6:,.1f} of {total / 1e6:,.1f} MB")


def _total(part: BufferedRandom, response: http.client.HTTPResponse, have: int) -> int:
    """Bytes of the whole file (0: the server does not say); the part is emptied where the answer starts at the beginning."""
    length = int(response.headers.get("Content-Length") or 0)
    if have and response.status == 206 and _first_byte(response.headers) == have:
        return _whole_size(response.headers) or (have + length if length else 0)
    part.truncate(0)
    if response.status == 206:  # an answer to another question: ask without a range
        raise ConnectionError("the server answered with another part of the file")
    return length


def _first_byte(headers: Message) -> int:
    found = re.match(r"bytes (\d+)-", headers.get("Content-Range", ""))
    return int(found[1]) if found else -1


def _whole_size(headers: Message) -> int:
    found = re.match(r"bytes .*/(\d+)$", headers.get("Content-Range", ""))
    return int(found[1]) if found else 0


def _write(part: BufferedRandom, chunk: bytes, mend: str) -> None:
    # Apart from what the network raises, which is an OSError too: a full disk is not tried again.
    try:
        part.write(chunk)
        part.flush()
    except OSError as error:
        raise InputError(f"{part.name}: {error.strerror}\nfree some space there, or {mend}") from error


def _check_space(part: Path, missing: int, mend: str) -> None:
    free = shutil.disk_usage(part.parent).free
    if missing > free:
        raise InputError(
            f"{part.parent}: no space for {missing / 1e6:,.1f} MB, only {free / 1e6:,.1f} are free\nfree some, or {mend}"
        )


def _is_final(error: Exception) -> bool:
    """Whether another try would end likewise: refused by the server, no name service, no trust."""
    if isinstance(error, urllib.error.HTTPError):
        return error.code < 500 and error.code not in (408, 416, 429)
    final = socket.gaierror | ssl.SSLCertVerificationError | http.client.InvalidURL
    return isinstance(getattr(error, "reason", error), final)


def _reason(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"the server says {error.code} {error.reason}"
    if isinstance(error, http.client.InvalidURL):  # its own words repeat the address, with a password
        return "not a valid address"
    if isinstance(error, http.client.IncompleteRead):
        return "the connection broke off"
    reason = getattr(error, "reason", error)
    if isinstance(reason, socket.gaierror):
        return "the server's name is not found: is there a connection to the internet?"
    if isinstance(reason, TimeoutError):
        return f"no answer within {TIMEOUT:g} s"
    return str(getattr(reason, "strerror", "") or reason or type(error).__name__)


def _shown(url: str) -> str:
    """The address without a password or a query, which may hold a key."""
    parts = urllib.parse.urlsplit(url)
    return urllib.parse.urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
