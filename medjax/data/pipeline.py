"""Batches as a function of (seed, step), gathered from the prepared cache and sent ahead to the device."""

from __future__ import annotations

import functools
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from medjax.core import Cases

Pipeline = Callable[[int], dict[str, np.ndarray]]


def pipeline(cases: Cases, batch_size: int, *, seed: int, sampling: str = "cases") -> Pipeline:
    """step -> batch {name: array [batch_size, ...]} with a `mask` of ones.

    The step is the whole state of the data: any worker, at any time, makes the same batch from (seed, step).

    Args:
      cases: the training cases, with `label` and `group` columns where `sampling` is "groups".
      sampling: "cases" shuffles all cases anew each epoch; "groups" draws a group, then one of its cases, so that a picture
        copied fifty times weighs as much as one seen once; each class keeps its share of the cases.
    """
    names = cases.numeric()
    draw = _by_group(cases, seed) if sampling == "groups" else _by_epoch(len(cases), seed)

    def batch(step: int) -> dict[str, np.ndarray]:
        part = cases.take(draw(step * batch_size + np.arange(batch_size), step))
        return {**{name: part[name] for name in names}, "mask": np.ones(batch_size, bool)}

    return batch


def _by_epoch(n: int, seed: int) -> Callable[[np.ndarray, int], np.ndarray]:
    @functools.lru_cache(maxsize=2)
    def order(epoch: int) -> np.ndarray:
        return np.random.default_rng([seed, epoch]).permutation(n)

    def draw(positions: np.ndarray, step: int) -> np.ndarray:
        epochs = positions // n
        return np.concatenate([order(int(epoch))[positions[epochs == epoch] % n] for epoch in np.unique(epochs)])

    return draw


def _by_group(cases: Cases, seed: int) -> Callable[[np.ndarray, int], np.ndarray]:
    label, group = cases["label"], cases["group"]
    if label.dtype.kind not in "iu":
        label = np.zeros(len(cases), int)
    weight = np.zeros(len(cases))
    for value in np.unique(label):
        mine = label == value
        _, inverse, counts = np.unique(group[mine], return_inverse=True, return_counts=True)
        weight[mine] = mine.mean() / (len(counts) * counts[inverse])
    upto = np.cumsum(weight) / weight.sum()

    def draw(positions: np.ndarray, step: int) -> np.ndarray:
        u = np.random.default_rng([seed, step]).random(len(positions))
        return np.minimum(np.searchsorted(upto, u, side="right"), len(upto) - 1)

    return draw


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
