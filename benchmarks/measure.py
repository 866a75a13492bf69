"""The clock: contenders take turns, so that whatever else slows the machine slows them all alike."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

Run = Callable[[int], None]  # do k steps, and return when the last is done
WARM = 5  # a fifth of a repeat's steps go before it untimed


class Plan(NamedTuple):
    """How much to measure.

    Attributes:
      repeat_s: a repeat lasts at least so long.
      least, most: repeats of each contender.
      seconds: beyond `least`, no repeat is begun once so much has passed.
    """

    repeat_s: float = 0.3
    least: int = 7
    most: int = 25
    seconds: float = 25.0


FAST = Plan(least=3, most=7, seconds=4.0)


class Spread(NamedTuple):
    """A median with its 10th and 90th percentile."""

    median: float
    p10: float
    p90: float


def steps_for(run: Run, least_s: float, clock: Callable[[], float] = time.perf_counter) -> int:
    """How many steps last `least_s`; what runs meanwhile is warm-up."""
    k = 1
    while True:
        start = clock()
        run(k)
        seconds = clock() - start
        if seconds >= least_s:
            return k
        k = max(k + 1, min(math.ceil(1.1 * k * least_s / max(seconds, 1e-9)), 1000 * k))


def interleave(
    runs: Mapping[str, Run], plan: Plan, clock: Callable[[], float] = time.perf_counter
) -> tuple[dict[str, np.ndarray], dict[str, int]]:
    """Seconds a step of each contender, [repeats] each and paired by index; and the steps in a repeat.

    The order within a repeat is reversed each time: neither always follows the other, whose threads may still be winding down.
    """
    steps = {name: steps_for(run, plan.repeat_s, clock) for name, run in runs.items()}
    times: dict[str, list[float]] = {name: [] for name in runs}
    begun, order = clock(), list(runs)
    for repeat in range(plan.most):
        if repeat >= plan.least and clock() - begun >= plan.seconds:
            break
        for name in order if repeat % 2 == 0 else reversed(order):
            if steps[name] >= WARM:  # after the other's turn the caches hold the other's data
                runs[name](steps[name] // WARM)
            start = clock()
            runs[name](steps[name])
            times[name].append((clock() - start) / steps[name])
    return {name: np.array(values) for name, values in times.items()}, steps


def spread(values: Sequence[float] | np.ndarray) -> Spread:
    """Median, 10th and 90th percentile (linear interpolation) of values [k]."""
    p10, median, p90 = np.percentile(np.asarray(values, float), (10, 50, 90))
    return Spread(float(median), float(p10), float(p90))
