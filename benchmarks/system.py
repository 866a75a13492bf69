"""What the system counts: a process's peak memory, and who keeps the CPUs busy. Linux tells; elsewhere the answer is None."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Sequence
from pathlib import Path


def reset_peak() -> bool:
    """Forget this process's peak memory so far, compilation's above all; False where the system cannot."""
    with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w") as handle:
        handle.write("5")
        return True
    return False


def peak_mib(reset: bool) -> float | None:
    """This process's largest resident memory in MiB since a reset that worked; None otherwise."""
    if not reset:
        return None
    with contextlib.suppress(OSError), open("/proc/self/status") as handle:
        for line in handle:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 2**10
    return None


class Others:
    """How busy other processes keep the CPUs that these ones share with them.

    Args:
      mine: process ids whose time is not the others'.
    """

    def __init__(self, mine: Sequence[int] = ()):
        self.mine = tuple(mine)
        self._before = self._ticks()

    def _ticks(self) -> tuple[int, int] | None:
        """(all CPUs' time so far, the part of it that others have used), in ticks."""
        with contextlib.suppress(OSError, ValueError, IndexError):
            cpu = [int(n) for n in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
            # The name of a program, which may hold spaces, ends at the last bracket; user and system time are fields 14 and 15.
            own = (Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13] for pid in self.mine)
            # The fourth and fifth are idle, and idle while a disk works.
            return sum(cpu), sum(cpu) - cpu[3] - cpu[4] - sum(int(n) for pair in own for n in pair)
        return None

    def share(self) -> float | None:
        """Share of all CPUs' time since this was made, in [0, 1], that others have used; None where it cannot be told."""
        now = self._ticks()
        if now is None or self._before is None or now[0] <= self._before[0]:
            return None
        return min(max((now[1] - self._before[1]) / (now[0] - self._before[0]), 0.0), 1.0)


def busy_share(seconds: float = 0.5) -> float | None:
    """Share of all CPUs' time that is used now, while this process sleeps; None where the system does not tell."""
    others = Others((os.getpid(),))
    time.sleep(seconds)
    return others.share()
