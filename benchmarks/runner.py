"""`medjax bench`: which cases, a process for each network, a table that grows as they end, and the JSON.

What is measured is computing: the batch lies on the device already, so reading and augmenting data has no part in it.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from medjax.console import clock, say
from medjax.errors import InputError
from medjax.files import write_json

from .cases import CASES, MARK, MODES, Case, describe, select
from .system import busy_share

PEERS = ("torch",)
DISTURBED = 0.1  # share of the CPUs' time used by others, from which a row is marked
PACKAGES = ("medjax", "jax", "jaxlib", "flax", "optax", "numpy", "torch", "onednn-cpu-gomp")
Emit = Callable[[dict[str, Any]], None]
Measure = Callable[[Case, Sequence[str], Emit], None]


def list_cases() -> None:
    """Print the names of all cases and their sizes."""
    from rich.console import Console
    from rich.table import Table

    table = Table("case", "sizes", box=None, pad_edge=False)
    for case in CASES:
        table.add_row("\n".join(f"{case.name}/{mode}" for mode in MODES), describe(case))
    Console(width=None if sys.stdout.isatty() else 110, highlight=False).print(table)


def bench(
    *,
    vs: str | None = None,
    fast: bool = False,
    only: str | None = None,
    json_file: Path | None = None,
    compiled: bool = False,
    measure: Measure | None = None,
    cases: Sequence[Case] = CASES,
) -> dict[str, Any]:
    """Measure and print.

    Args:
      vs: a peer to compare with ("torch"), or None.
      fast: fewer repeats.
      only: a pattern of cases (`cases.select`).
      json_file: where the result goes as well.
      compiled: let the peer try its own compiler too; the faster of both counts.
      measure: (case, modes, emit), by default a process of its own for each case.
      cases: to choose from.

    Returns:
      {"cases": [row], "failed": [{"name", "error"}], "environment": {...}}.

    Raises:
      InputError: an unknown pattern or peer, a peer that is not installed, a file that cannot be written.
    """
    chosen = select(only, cases)
    if vs is not None:
        _check_peer(vs)
    elif compiled:
        raise InputError("--compile is about the peer: add --vs torch", usage=True)
    if json_file is not None:
        _check_writable(json_file)
    measure = measure or (lambda case, modes, emit: _in_process(case, modes, emit, vs=vs, fast=fast, compiled=compiled))
    environment = _environment(vs, fast)
    rows: list[dict[str, Any]] = []
    failed: list[dict[str, str]] = []
    disturbed: list[str] = []
    table = _Table([f"{case.name}/{mode}" for case, modes in chosen for mode in modes], vs)

    def emit(row: dict[str, Any]) -> None:
        if "environment" in row:
            if "convolution" not in environment:
                table.head(row["environment"])
            environment.update(row["environment"])
        else:
            rows.append(row)
            table.row(row)
            if (row["others_share"] or 0) > DISTURBED:
                disturbed.append(row["name"])

    begun, weight = time.perf_counter(), 0.0
    for case, modes in chosen:
        left = _left(time.perf_counter() - begun, weight, sum(c.seconds for c, _ in chosen))
        with table.working(f"{case.name} · about {clock(left)} left in all"):
            try:
                measure(case, modes, emit)
            except CaseFailed as error:
                failed.append({"name": case.name, "error": str(error)})
                table.failure(case.name, str(error))
        weight += case.seconds
    if disturbed:
        say(
            f"others kept the CPUs busy meanwhile (*): {', '.join(disturbed)}\n"
            "threads that spin while they wait suffer most from that: measure these again on a quiet machine"
        )
    result = {"cases": rows, "failed": failed, "environment": environment}
    if json_file is not None:
        write_json(json_file, result)
    return result


class CaseFailed(Exception):
    """A case could not be measured, or its outputs are not the peer's."""


def _left(elapsed: float, done: float, whole: float) -> float:
    """Seconds left, from how the machine has kept to the nominal seconds of the cases so far."""
    return (whole - done) * (elapsed / done if done else 1.0)


def _in_process(case: Case, modes: Sequence[str], emit: Emit, *, vs: str | None, fast: bool, compiled: bool) -> None:
    """Measure a case in a process of its own.

    Raises:
      CaseFailed: with the last line that the process left.
    """
    command = [sys.executable, "-m", "medjax.bench", "worker", case.name, *modes]
    command += [*(["--vs", vs] if vs else []), *(["--fast"] if fast else []), *(["--compile"] if compiled else [])]
    with tempfile.TemporaryFile("w+") as errors:
        # A group of its own, so that the peer ends with it, however it ends.
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, start_new_session=True)
        try:
            assert process.stdout is not None
            for line in process.stdout:
                if line.startswith(MARK):
                    emit(json.loads(line[len(MARK) :]))
            code = process.wait()
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        if code:
            errors.seek(0)
            lines = errors.read().strip().splitlines()
            raise CaseFailed(lines[-1] if lines else f"the process ended with {code}")


def _check_peer(vs: str) -> None:
    if vs not in PEERS:
        raise InputError(f"there is no peer {vs!r}; there is {', '.join(PEERS)}", usage=True)
    if importlib.util.find_spec(vs) is None:
        raise InputError(f"--vs {vs}: PyTorch is not installed\nget it: pip install 'medjax[bench]'")


def _check_writable(file: Path) -> None:
    """Minutes of measuring must not end in a file that cannot be written."""
    if file.is_dir():
        raise InputError(f"{file}: is a folder\ngive --json a file", usage=True)
    nearest = next(folder for folder in file.absolute().parents if folder.exists())
    if not os.access(nearest, os.W_OK):
        raise InputError(f"{nearest}: may not be written to\ngive --json another place")


def _environment(vs: str | None, fast: bool) -> dict[str, Any]:
    versions = {}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return {
        "versions": versions,
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "cpu": cpu_model(),
        "threads": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "busy_before": busy_share(),
        "precision": "float32",
        "vs": vs,
        "fast": fast,
    }


def cpu_model() -> str:
    """The processor's name as the system gives it."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


class _Table:
    """Columns of fixed width, so that rows line up though they are printed one by one."""

    def __init__(self, names: Sequence[str], vs: str | None):
        from rich.console import Console

        self.console = Console(width=None if sys.stdout.isatty() else 140, highlight=False)
        self.vs, self.width = vs, max(len(name) for name in [*names, "case"])

    def _print(self, cells: Sequence[str], style: str | None = None) -> None:
        first, *rest = cells
        widths = (12, 11, 21, 9, 9, 11, 12, 22)
        self.console.print(
            first.ljust(self.width) + "".join(c.rjust(w) for c, w in zip(rest, widths)),
            style=style,
            markup=False,
            soft_wrap=True,
        )

    def head(self, environment: dict[str, Any]) -> None:
        """What it runs on, and the titles."""
        path = environment["convolution"]
        self.console.print(f"{environment['device']} · convolutions by {path['path']}: {path['reason']}", markup=False)
        titles = ["case", "examples/s", "step ms ", "10 to 90 %", "GFLOP/s", "MiB", "compile s"]
        self._print([*titles, *([f"{self.vs} ms", f"{self.vs} time / ours"] if self.vs else [])], style="bold")

    def row(self, row: dict[str, Any]) -> None:
        """A measured case."""
        start, peak = row["start"], row["peak_memory_mib"]
        cells = [
            row["name"],
            f"{row['examples_per_s']:,.1f}",
            f"{row['step_ms']:,.1f}{'*' if (row['others_share'] or 0) > DISTURBED else ' '}",
            f"{row['step_ms_p10']:,.1f} to {row['step_ms_p90']:,.1f}",
            f"{row['gflop_per_s']:,.1f}",
            "-" if peak is None else f"{peak:,.0f}",
            f"{start['trace_s'] + start['lower_s'] + start['compile_s']:.1f}",
        ]
        if self.vs:
            ratio = row[f"ratio_vs_{self.vs}"]
            cells += [f"{row[self.vs]['step_ms']:,.1f}", f"{ratio:.2f} ({row['ratio_p10']:.2f}-{row['ratio_p90']:.2f})"]
        self._print(cells)

    def failure(self, name: str, text: str) -> None:
        """A case that gave no number."""
        self.console.print(f"{name.ljust(self.width)}  FAILED: {text}", style="bold red", markup=False)

    @contextlib.contextmanager
    def working(self, text: str) -> Iterator[None]:
        """Say what is being measured and how long it all still takes."""
        if self.console.is_terminal:
            with self.console.status(text):
                yield
        else:
            say(text)
            yield
