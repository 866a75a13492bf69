"""Reports of pictures as experiments configure it: a convolutional encoder, and a decoder that looks at its map."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np

from medjax import models
from medjax.cases import Cases
from medjax.config import Experiment, Optimizer
from medjax.core import About, Batch, Job
from medjax.data import augment
from medjax.data.folders import image_source
from medjax.data.layouts import Layout, open_own
from medjax.data.pieces import LEAST_PIECES, Pieces, learn_pieces
from medjax.errors import InputError
from medjax.formats.image import resize
from medjax.models.weights import normalise_imagenet, pretrained
from medjax.models.writer import PictureEncoder, Writer
from medjax.tasks.documents import encode, texts_of, training_texts
from medjax.tasks.images import preprocess_image, standardise
from medjax.tasks.pairs import Known, Write
from medjax.tasks.writing import prepare_pair, writing, writing_job
from medjax.tasks.writing_baselines import frequent, nearest

THUMBNAIL = 16  # side of the picture by which the nearest training case is found


@dataclasses.dataclass(frozen=True)
class Image:
    """How pictures become examples."""

    size: int = 64
    """Side in pixels."""
    views: int = 2
    """Pictures of a study that are looked at, the first ones."""


@dataclasses.dataclass(frozen=True)
class Text:
    """What is written."""

    longest: int = 96
    """Pieces that are written at most, the end among them."""
    pieces: int = 2000
    """Pieces of words that are learned from the training texts, 259 of them single bytes and signs."""

    def __post_init__(self) -> None:
        if self.longest < 2 or self.pieces < LEAST_PIECES:
            raise InputError(f"--text.longest must be 2 or more, --text.pieces {LEAST_PIECES} (every byte) or more", usage=True)


@dataclasses.dataclass(frozen=True)
class Network:
    """The network, and how it is regularised."""

    name: str = "resnet18"
    """Of the encoder: a network of medjax.models with maps."""
    width: int = 0
    """Channels of a ResNet's first stage; the published ones by default."""
    weights: str | None = None
    """Published weights of the encoder."""
    words: int = 128
    """Length of a piece's vector."""
    features: int = 256
    """Units of the decoder's layers."""
    layers: int = 1
    """Layers of the decoder."""
    dropout: float = 0.3
    """Rate on the map, the pieces' vectors, between layers, and before the softmax."""


@dataclasses.dataclass(frozen=True)
class Config(Experiment):
    """Settings of a writer of reports."""

    layout: str = ""
    """How the data lies on disk, as `medjax data` names it; recognised by default."""
    image: Image = Image()
    text: Text = Text()
    model: Network = Network()
    write: Write = Write()
    optimizer: Optimizer = Optimizer()
    known: Known = Known()


C = TypeVar("C", bound=Config)


def find_layout(config: Config) -> Layout:
    """The layout of --data.path, which must be one of pictures with reports; see `open_own`."""
    return open_own(config.data.path, config.layout, "pictures with texts")


def resolve(config: C) -> C:
    """The settings with what only the data tells filled in: the pieces of the training texts."""
    if config.known.pieces:
        return config
    found = find_layout(config)
    blind = {split: of.blind() for split, of in found.sources.items()}
    parts = training_texts(config, found._replace(sources=blind), _report_alone)
    return dataclasses.replace(
        config, known=Known(learn_pieces(texts_of(parts), config.text.pieces), ((0, config.text.longest),))
    )


def _report_alone(example: dict[str, Any]) -> dict[str, Any]:
    known = {name: example[name] for name in ("id", "patient", "label")}
    return {**known, "text": encode(example["target"])}


def prepare_study(example: dict[str, Any], *, pieces: Pieces, size: int, views: int) -> dict[str, Any]:
    """Pictures and their report: id, patient, image uint8 [views, size, size, 1], there bool [views], and what
    `prepare_pair` says of the report.
    """
    pictures = [example["image"], *example.get("others", ())]
    image = np.zeros((views, size, size, 1), np.uint8)
    for k, picture in enumerate(pictures[:views]):
        image[k] = preprocess_image({"id": example["id"], "image": picture}, size=size, fit="pad")["image"]
    known = {name: example[name] for name in ("id", "patient")}
    there = np.arange(views) < len(pictures)
    return prepare_pair({**known, "image": image, "there": there, "target": example.get("target", "")}, pieces=pieces)


def study_inputs(batch: Batch, *, scale: Callable[[jax.Array], jax.Array]) -> dict[str, Any]:
    """What the writer takes of a batch: pictures scaled one by one."""
    n, v = batch["image"].shape[:2]
    image = scale(batch["image"].reshape(n * v, *batch["image"].shape[2:]))
    rest = {name: batch[name] for name in ("target", "lengths") if name in batch}
    return {"image": image.reshape(n, v, *image.shape[1:]), "views": batch["there"], **rest}


def move(key: jax.Array, example: Batch) -> Batch:
    """Augmentation: each view turned, scaled, shifted, with another contrast; never mirrored, for reports speak of sides."""
    change = augment.image_augment(
        augment.affine(rotate=5.0, scale=0.05, shift=0.05), augment.intensity(gamma=0.1, gain=0.1, noise=0.0)
    )
    views = example["image"]
    keys = jax.random.split(key, views.shape[0])
    return {**example, "image": jax.vmap(lambda k, image: change(k, {"image": image})["image"])(keys, views)}


def thumbnails(cases: Cases) -> np.ndarray:
    """The first view of each case, coarse, of mean 0: float32 [n, THUMBNAIL ** 2]."""
    images = (resize(view[0, ..., 0].astype(np.float32), (THUMBNAIL, THUMBNAIL)) for view in cases["image"])
    flat = np.stack([image.ravel() for image in images])
    return flat - flat.mean(1, keepdims=True)


def caption_job(config: Config, *, question: str, name: str, licence: str = "") -> Job:
    """The Job of a writer of reports.

    Args:
      config: resolved or not.
      question: one sentence a clinician understands.
      name: of the data set.
      licence: of the data set, as far as it is known.
    """
    config = resolve(config)
    of, pieces = config.model, Pieces(config.known.pieces)
    network = models.find(of.name)(1)
    network = network.clone(width=of.width) if of.width and hasattr(network, "width") else network
    model = Writer(pieces.size, PictureEncoder(network, of.dropout), of.words, of.features, of.layers, of.dropout)
    scale = (lambda image: normalise_imagenet(augment.to_unit(image))) if of.weights else standardise
    task = writing(
        model,
        config.optimizer.make(config.train.steps),
        most=config.text.longest,
        inputs=functools.partial(study_inputs, scale=scale),
        **dataclasses.asdict(config.write),
    )
    job = writing_job(
        task,
        about=About("text generation", question, (), "rouge_l", name, licence),
        sources=lambda: find_layout(config).sources,
        read=read_pictures,
        pieces=pieces,
        shapes=config.known.shapes,
        preprocess=functools.partial(prepare_study, pieces=pieces, size=config.image.size, views=config.image.views),
        augment=move,
        baselines={"frequent": frequent(), "nearest": nearest(thumbnails)},
    )
    return job._replace(start=pretrained(of.weights, network, at=("encoder", "network"))) if of.weights else job


def read_pictures(inputs: Sequence[str | Path]) -> Any:
    """Pictures to report on, each a study of its own."""
    return image_source(inputs)
