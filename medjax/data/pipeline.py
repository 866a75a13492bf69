"""Batches as a function of (seed, step), gathered from the prepared cache and sent ahead to the device."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from medjax.core import Cases
from medjax.data.sampling import make_draw

Pipeline = Callable[[int], dict[str, np.ndarray]]


def pipeline(cases: Cases, batch_size: int, *, seed: int, sampling: str = "cases") -> Pipeline:
    """step -> batch {name: array [batch_size, ...]} with a `mask` of ones.

    The step is the whole state of the data: any worker, at any time, makes the same batch from (seed, step).

    Args:
      cases: the training cases, with the columns that `sampling` needs.
      sampling: "cases", "groups" or "classes": see `medjax.data.sampling.make_draw`.
    """
    names = cases.numeric()
    draw = make_draw(cases, seed=seed, sampling=sampling)

    def batch(step: int) -> dict[str, np.ndarray]:
        part = cases.take(draw(step * batch_size + np.arange(batch_size), step))
        return {**{name: part[name] for name in names}, "mask": np.ones(batch_size, bool)}

    return batch


class Prefetch:
    """Batches of the steps from `start` to before `stop`, made and put on the device by a thread, `depth` ahead.

    Iterate over it; use it in a `with`. An error of the thread is raised where its batch is asked for.

    Attributes:
      waited: seconds the consumer has waited for data.
    """

    def __init__(
        self, make: Pipeline, put: Callable[[Mapping[str, np.ndarray]], Any], start: int, stop: int, *, depth: int = 2
    ):
        self.waited = 0.0
        self._queue: queue.Queue = queue.Queue(depth)
        self._closed = threading.Event()
        self._ended: Exception | None = None
        self._thread = threading.Thread(target=self._fill, args=(make, put, start, stop), daemon=True)

    def _fill(self, make: Pipeline, put: Callable, start: int, stop: int) -> None:
        try:
            for step in range(start, stop):
                if not self._offer((put(make(step)), None)):
                    return
            self._offer((None, StopIteration()))
        except Exception as error:  # handed to the consumer, who raises it
            self._offer((None, error))

    def _offer(self, item: tuple) -> bool:
        while not self._closed.is_set():
            try:
                self._queue.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def __enter__(self) -> Prefetch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        self._thread.join()

    def __iter__(self) -> Iterator[Any]:
        return self

    def next(self) -> Any:
        """The next batch, on the device.

        Raises:
          StopIteration: the steps are at their end.
        """
        if self._ended is not None:
            raise self._ended
        start = time.perf_counter()
        batch, error = self._queue.get()
        self.waited += time.perf_counter() - start
        if error is not None:
            self._ended = error
            raise error
        return batch

    __next__ = next
