"""The builders of tensorflow-datasets that medjax writes with. Imported only when one is made: it imports that package.

`GeneratorBasedBuilder` will not do: it sorts a split of more than 1 GB through files that only TensorFlow opens, and in memory
where its order is to be kept. `ShardBasedBuilder` writes each example as it comes.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds

from medjax.data.builders.records import VERSION

SHARD_BYTES = 2**28
MAX_SHARDS = 256  # each is an open file when it is read at random


class Split(NamedTuple):
    """What a builder writes of a split.

    Attributes:
      cases: how many.
      size: bytes of one, about.
      examples: yields them in order, as fresh dicts.
    """

    cases: int
    size: int
    examples: Iterator[dict[str, Any]]


class Info(tfds.core.DatasetInfo):
    """What is known of a data set, from here alone."""

    def initialize_from_bucket(self) -> None:
        """Ask no bucket of another's preparation, and leave no temporary folder for its answer."""


class Shards(tfds.core.ShardBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """A builder that writes its splits in order.

    Args:
      tell: called with 1 after each example.
      **kwargs: as tensorflow-datasets'; the file format is array_record.
    """

    VERSION = tfds.core.Version(VERSION)

    def __init__(self, *, tell: Callable[[int], None] = lambda n: None, **kwargs: Any):
        self._tell = tell
        super().__init__(**{"file_format": "array_record", **kwargs})

    def splits(self) -> Mapping[str, Split]:
        """What is to be written; each builder says."""
        raise NotImplementedError(f"{type(self).__name__} must say what its splits are")

    def _shard_iterators_per_split(self, dl_manager: Any) -> dict[str, list]:
        found = {}
        for name, split in self.splits().items():
            number = max(1, min(split.cases * split.size // SHARD_BYTES, MAX_SHARDS, split.cases))
            bounds = [split.cases * i // number for i in range(number + 1)]
            pairs = _pairs(split.examples, self._tell)
            found[name] = [functools.partial(itertools.islice, pairs, b - a) for a, b in itertools.pairwise(bounds)]
        return found


def _pairs(examples: Iterator[dict[str, Any]], tell: Callable[[int], None]) -> Iterator[tuple[int, dict]]:
    for key, example in enumerate(examples):
        yield key, example
        # The writer keeps what it was given until the shard is full, to count it; by now it is on the disk.
        example.clear()
        tell(1)


class Records(Shards, skip_registration=True):  # type: ignore[call-arg]
    """Any {split: Source} of one kind of example.

    Args:
      features: of tensorflow-datasets.
      contents: {split: Split}.
      about: a description.
    """

    def __init__(self, *, features: Mapping[str, Any], contents: Mapping[str, Split], about: str, **kwargs: Any):
        self._features, self._contents, self._about = features, contents, about
        super().__init__(**kwargs)

    def _info(self) -> Info:
        features = tfds.features.FeaturesDict(dict(self._features))
        return Info(builder=self, description=self._about, features=features, disable_shuffling=True)

    def splits(self) -> Mapping[str, Split]:
        """What is to be written."""
        return self._contents


def feature(value: str | np.ndarray) -> Any:
    """How a value of this kind is stored: text as it is, numbers as their raw bytes, arrays of any size in each dimension."""
    if isinstance(value, str):
        return tfds.features.Text()
    # Without an encoding integers are widened to int64 and float64 is narrowed to float32.
    return tfds.features.Tensor(shape=(None,) * value.ndim, dtype=value.dtype.type, encoding="bytes")
