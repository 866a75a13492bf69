"""Progress of a transfer or a preparation: a bar in a terminal, a line now and then elsewhere."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

from medjax import console


@contextlib.contextmanager
def progress(
    label: str, total: int, *, unit: str, scale: float = 1.0, done: int = 0, say: Callable[[str], object] = console.say
) -> Iterator[Callable[[int], None]]:
    """Yield `advance(n)`, to be told of each n bytes or cases done; shows the amount, the rate and the time left.

    Args:
      label: what is going on.
      total: bytes or cases at the end, 0 where that is not known.
      unit: what is shown: "MB", "cases".
      scale: bytes or cases in one unit.
      done: how many were there before.
      say: takes the lines where there is no terminal, one each `console.PLAIN_EVERY` seconds.
    """
    start = last = time.perf_counter()
    now = done

    def words() -> str:
        rate = (now - done) / max(time.perf_counter() - start, 1e-9)
        left = f", {console.clock((total - now) / rate)} left" if total and now > done else ""
        return f"{_amount(now, total, scale)} {unit}, {rate / scale:,.1f} {unit}/s{left}"

    with _bar(label, total, done) as show:

        def advance(n: int) -> None:
            nonlocal now, last
            now += n
            if show:
                show(now, words())
            elif time.perf_counter() - last >= console.PLAIN_EVERY:
                last = time.perf_counter()
                say(f"{label}: {words()}")

        yield advance


def _amount(now: int, total: int, scale: float) -> str:
    digits = ".1f" if scale > 1 else ".0f"
    return f"{now / scale:,{digits}}" + (f" of {total / scale:,{digits}}" if total else "")


@contextlib.contextmanager
def _bar(label: str, total: int, done: int) -> Iterator[Callable[[int, str], None] | None]:
    """Yield what moves a bar on the terminal's error stream, or None where there is none."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    terminal = Console(stderr=True)
    if not terminal.is_terminal:
        yield None
        return
    columns = (TextColumn(label, markup=False), BarColumn(30), TextColumn("{task.description}", markup=False))
    with Progress(*columns, console=terminal, transient=True) as bar:
        task = bar.add_task("", total=total or None, completed=done)
        yield lambda now, words: bar.update(task, completed=now, description=words)
