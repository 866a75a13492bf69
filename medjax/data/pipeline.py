"""Batches as a function of (seed, step), gathered from the prepared cache and sent ahead to the device."""

from __future__ import annotations

import functools
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from medjax.cases import Cases
from medjax.core import Examples
from medjax.data.sampling import Draw, make_draw

Pipeline = Callable[[int], dict[str, np.ndarray]]
CUT, TURN = 1, 2  # what a generator is for: it must not repeat the draws of cases
BLOCK = 32  # batches whose cases are put in order of their length together


def pipeline(
    cases: Cases, batch_size: int, *, seed: int, sampling: str = "cases", examples: Examples | None = None
) -> Pipeline:
    """step -> batch {name: array [batch_size, ...]} with a `mask` of ones.

    The step is the whole state of the data: any worker, at any time, makes the same batch from (seed, step).

    Args:
      cases: the training cases, with the columns that `sampling` needs.
      sampling: "cases", "groups" or "classes": see `medjax.data.sampling.make_draw`.
      examples: how an example is cut out of a case, where a case is not an example itself; with `sizes` a batch is of cases of
        about one length.
    """
    draw = make_draw(cases, seed=seed, sampling=sampling)
    sizes = None if examples is None or examples.sizes is None else examples.sizes(cases)

    def one_shape(step: int) -> np.ndarray:
        return draw(step * batch_size + np.arange(batch_size), step)

    rows = one_shape if sizes is None else _by_length(draw, sizes, batch_size, seed)

    def batch(step: int) -> dict[str, np.ndarray]:
        return _batch(cases.take(rows(step)), examples, [seed, step, CUT])

    return batch


def drawn_shapes(cases: Cases, batch_size: int, examples: Examples | None) -> list[dict[str, np.ndarray]]:
    """A batch of each shape that `pipeline` gives of these cases, to compile for, the longest last."""
    sizes = np.zeros(len(cases)) if examples is None or examples.sizes is None else examples.sizes(cases)
    firsts = np.unique(sizes, return_index=True)[1]
    return [_batch(cases.take(np.full(batch_size, row)), examples, [0]) for row in firsts]


def _batch(part: Cases, examples: Examples | None, seed: list[int]) -> dict[str, np.ndarray]:
    batch = {**{name: part[name] for name in part.numeric()}, "mask": np.ones(len(part), bool)}
    return batch if examples is None else {**batch, **examples.cut(part, np.random.default_rng(seed))}


def _by_length(draw: Draw, sizes: np.ndarray, batch_size: int, seed: int) -> Callable[[int], np.ndarray]:
    """step -> rows of a batch of about one length: what `draw` gives for `BLOCK` steps is put in order of length, cut into
    batches, and these are shuffled. Every case is drawn as often as without.
    """

    @functools.lru_cache(maxsize=2)
    def block(number: int) -> np.ndarray:
        first = number * BLOCK
        drawn = draw(first * batch_size + np.arange(BLOCK * batch_size), first)
        ordered = drawn[np.argsort(sizes[drawn], kind="stable")].reshape(BLOCK, batch_size)
        return np.random.default_rng([seed, number, TURN]).permutation(ordered)

    return lambda step: block(step // BLOCK)[step % BLOCK]


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
