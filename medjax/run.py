"""A run's folder: one writer at a time, nothing half-written, and a log that a kill cannot spoil."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib.metadata
import json
import math
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from medjax import experiments
from medjax.errors import InputError
from medjax.files import write_json, write_text

LOCK = ".lock"


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Be the one writer of a run folder. The system frees the lock when the process ends, however it ends.

    Raises:
      InputError: another process holds it.
    """
    import fcntl

    with open(folder / LOCK, "a+") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            handle.seek(0)
            holder = handle.read().strip() or "unknown"
            raise InputError(f"{folder}: in use by process {holder}\nwait for it, or give another --out") from None
        handle.truncate(0)
        handle.write(str(os.getpid()))
        handle.flush()
        yield


def create(folder: Path, record: Mapping[str, Any]) -> None:
    """Make a new run folder and write config.json, the first thing a run leaves.

    Raises:
      InputError: the folder exists and holds something.
    """
    if folder.exists() and (not folder.is_dir() or any(f.name != LOCK for f in folder.iterdir())):
        raise InputError(f"{folder}: exists already\ngive a new --out, or go on with it: medjax resume {folder}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot be made ({error.strerror})\ngive an --out that you may write to") from error
    with locked(folder):
        if (folder / "config.json").exists():  # another process made it its own between the look and the lock
            raise InputError(f"{folder}: exists already\ngive a new --out")
        write_json(folder / "config.json", record)


def discard_unbegun(folder: Path) -> None:
    """Remove a run folder that holds no more than its settings: the run failed before it could begin.

    A folder that another process has in use stays: the failure may be just that.
    """
    if not folder.is_dir():
        return
    with contextlib.suppress(InputError), locked(folder):
        files = {f.relative_to(folder).as_posix() for f in folder.rglob("*") if not f.is_dir()}
        if files <= {"config.json", LOCK}:
            shutil.rmtree(folder)


@contextlib.contextmanager
def removed_unless_begun(folder: Path) -> Iterator[None]:
    """Around a new run: if it fails before it could begin, its folder goes as well, so that the mended command may use it."""
    try:
        yield
    except Exception:
        discard_unbegun(folder)
        raise


def make_record(experiment: str, file: Path | None, config: Any, command: str) -> dict[str, Any]:
    """What config.json holds: the experiment, its settings, and what made it.

    A file of the user's own is kept by its whole path, to be found again from any folder; one that came with medjax by name.
    """
    return {
        "experiment": experiment,
        "file": None if file is None or experiments.is_shipped(file) else str(file.resolve()),
        "file_sha256": file_digest(file) if file else None,
        "command": command,
        "medjax": version(),
        "config": dataclasses.asdict(config),
    }


def file_digest(file: Path) -> str:
    """SHA-256 of an experiment's file."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def read_environment(folder: Path) -> dict[str, Any]:
    """environment.json of a run; empty where it has not come so far."""
    path = folder / "environment.json"
    return json.loads(path.read_text()) if path.is_file() else {}


def read_record(folder: Path) -> dict[str, Any]:
    """config.json of a run.

    Raises:
      InputError: not a run folder.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise InputError(f"{folder}: holds no config.json, so no run began there\ngive the folder that medjax train printed")
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise InputError(f"{path}: is not JSON ({error})\nrestore it, or train again") from error


class MetricsLog:
    """metrics.jsonl: an object a line with `step`, `time` in seconds of training, values; `member` where several."""

    def __init__(self, folder: Path, member: str = ""):
        self.path, self.member = folder / "metrics.jsonl", member

    def rewind(self, step: int) -> None:
        """Forget what this member logged after `step` and any half-written line: the loop is about to write it again."""
        kept = [x for x in read_metrics(self.path) if x["step"] <= step or x.get("member", "") != self.member]
        write_text(self.path, "".join(json.dumps(line) + "\n" for line in kept))

    def append(self, **values: Any) -> None:
        """Add a line. NaN and infinity, which JSON does not have, become null."""
        plain = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}
        named = {"member": self.member, **plain} if self.member else plain
        with open(self.path, "a") as handle:
            handle.write(json.dumps(named, allow_nan=False) + "\n")


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a metrics.jsonl; a last line cut short by a kill is left out."""
    lines = []
    for line in path.read_text().splitlines() if path.is_file() else []:
        with contextlib.suppress(ValueError):
            value = json.loads(line)
            if isinstance(value, dict) and "step" in value:
                lines.append(value)
    return lines


def version() -> str:
    """medjax's version."""
    try:
        return importlib.metadata.version("medjax")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def write_environment(folder: Path, **more: Any) -> None:
    """environment.json: versions, devices, commit and `more`; nothing that names a person or a machine."""
    import jax

    names = ("medjax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "scipy", "scikit-learn", "pillow")
    versions = {}
    for name in names:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    found = {
        "versions": versions,
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "devices": [f"{d.platform} {d.device_kind}" for d in jax.devices()],
        "processes": jax.process_count(),
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "commit": _commit(),
    }
    write_json(folder / "environment.json", {**found, **more})


def _commit() -> str | None:
    """Commit of the checkout medjax runs from, with "+" where it has changes; None outside of one."""
    here = Path(__file__).resolve().parents[1]
    if not (here / ".git").exists():
        return None
    try:
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, timeout=10, check=True)
        dirty = subprocess.run(
            ["git", "status", "--porcelain"], cwd=here, capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return head.stdout.strip() + ("+" if dirty.stdout.strip() else "")
