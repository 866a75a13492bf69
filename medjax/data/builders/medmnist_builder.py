"""MedMNIST as a builder of tensorflow-datasets. Imported only when it is used: it imports that package.

With it, `tfds.data_source("medmnist/pneumoniamnist_28", split="train")` works as for that package's own sets.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from medjax.data.builders.medmnist import checksum, fetch, read
from medjax.data.builders.medmnist_sets import RECORD, SETS, picture_shape
from medjax.data.builders.shards import Info, Shards, Split
from medjax.data.layouts.medmnist import CLASSES

CITATION = """@article{medmnistv2,
  author = {Yang, Jiancheng and Shi, Rui and Wei, Donglai and others},
  title = {MedMNIST v2: a large-scale lightweight benchmark for 2D and 3D biomedical image classification},
  journal = {Scientific Data}, volume = {10}, pages = {41}, year = {2023}, doi = {10.1038/s41597-022-01721-8}}"""


@dataclasses.dataclass(eq=False)
class MedMNISTConfig(tfds.core.BuilderConfig):
    """One set at one size.

    Attributes:
      flag: the set's name in the archive.
      size: side of its pictures or volumes.
    """

    flag: str = ""
    size: int = 28


class MedMNIST(Shards):
    """All sets of MedMNIST v2 at all sizes: `image` uint8, `label`, `id`, in the archive's order.

    Args:
      path: the set's .npz file; downloaded by default.
      **kwargs: as `Shards`; config="pneumoniamnist_28" and the like.
    """

    name = "medmnist"
    BUILDER_CONFIGS = [  # noqa: RUF012, as tensorflow-datasets has it
        MedMNISTConfig(name=f"{flag}_{size}", description=f"{flag}, {size} pixels", flag=flag, size=size)
        for flag, made in SETS.items()
        for size in made.md5
    ]

    def __init__(self, *, path: str | Path | None = None, **kwargs: Any):
        self._path = path
        super().__init__(**kwargs)

    def _info(self) -> Info:
        flag, size = self.builder_config.flag, self.builder_config.size
        label = (
            tfds.features.Tensor(shape=(len(CLASSES[flag]),), dtype=np.int8, encoding="bytes")
            if flag == "chestmnist"
            else tfds.features.ClassLabel(names=CLASSES[flag])
        )
        image = tfds.features.Tensor(shape=picture_shape(flag, size), dtype=np.uint8, encoding="bytes")
        return Info(
            builder=self,
            description=f"MedMNIST v2, {SETS[flag].licence}",
            features=tfds.features.FeaturesDict({"image": image, "label": label, "id": tfds.features.Text()}),
            supervised_keys=("image", "label"),
            disable_shuffling=True,
            homepage=RECORD,
            license=SETS[flag].licence,
            citation=CITATION,
            metadata=tfds.core.MetadataDict(),
        )

    def splits(self) -> Mapping[str, Split]:
        """The three splits of the file, which is checked before the first case is written."""
        flag, size = self.builder_config.flag, self.builder_config.size
        path = fetch(flag, size) if self._path is None else Path(self._path)
        self.info.metadata["md5"] = checksum(path)
        each = math.prod(picture_shape(flag, size))
        return {split: Split(len(source), each, _cases(source)) for split, source in read(path, flag, size).sources.items()}


def _cases(source: Any) -> Iterator[dict[str, Any]]:
    for i in range(len(source)):
        example = source[i]
        yield {name: example[name] for name in ("image", "label", "id")}
