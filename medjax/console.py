"""What a run says while it works: a live bar in a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import contextvars
import sys
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Any

PLAIN_EVERY = 10.0  # seconds between lines where there is no terminal


_hushed: contextvars.ContextVar[bool] = contextvars.ContextVar("medjax_hushed", default=False)


def say(text: str) -> None:
    """A line on the error stream, for what comes before and beside the run itself."""
    if not _hushed.get():
        print(text, file=sys.stderr, flush=True)


@contextlib.contextmanager
def hushed(quiet: bool = True) -> Iterator[None]:
    """Inside the block `say` says nothing, if `quiet`."""
    token = _hushed.set(quiet)
    try:
        yield
    finally:
        _hushed.reset(token)


class Bar:
    """Progress of `total` steps from `start`: rate, time left, data-wait, and the last values.

    Used in a `with`; `update` is cheap enough for every step.
    """

    def __init__(self, total: int, start: int, *, quiet: bool = False):
        self.total, self.start, self.quiet = total, start, quiet
        self.loss = float("nan")
        self._last = time.perf_counter()
        self._live: Any = None
        if sys.stderr.isatty() and not quiet:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (
                TextColumn("step"),
                MofNCompleteColumn(),
                BarColumn(30),
                TimeRemainingColumn(),
                TextColumn("left  {task.description}"),
            )
            self._live = Progress(*columns, console=Console(stderr=True), transient=True)
            self._task = self._live.add_task("", total=total, completed=start)

    def __enter__(self) -> Bar:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._live:
            self._live.stop()

    def update(self, step: int, *, examples_per_s: float, step_ms: float, data_wait_pct: float) -> None:
        """Steps done and the speed so far."""
        words = f"{examples_per_s:,.0f} examples/s  data-wait {data_wait_pct:.1f} %  loss {self.loss:.4f}"
        if self._live:
            self._live.update(self._task, completed=step, description=words)
        elif not self.quiet and time.perf_counter() - self._last >= PLAIN_EVERY:
            self._last = time.perf_counter()
            left = clock((self.total - step) * step_ms / 1000)
            print(f"step {step}/{self.total}  {words}  {left} left", flush=True)

    def line(self, text: str) -> None:
        """A lasting line above the bar."""
        if self._live:
            self._live.console.print(text, highlight=False, markup=False)
        elif not self.quiet:
            print(text, flush=True)


def clock(seconds: float) -> str:
    """Seconds as "1:02:03" or "2:03"."""
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    return f"{hours}:{m:02}:{s:02}" if hours else f"{m}:{s:02}"
