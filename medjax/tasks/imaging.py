"""Image classification as experiments configure it: any layout, any encoder, one label a case or several."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np

from medjax import models
from medjax.config import Decide, Experiment, Optimizer
from medjax.core import About, Batch, Job
from medjax.data import augment
from medjax.data.folders import image_source
from medjax.data.layouts import Joined, Layout, open_layout, open_own
from medjax.errors import InputError
from medjax.models.weights import normalise_imagenet, normalise_xrv, pretrained
from medjax.tasks.classification import classification, classification_job
from medjax.tasks.images import mirrored, standardised, windowed
from medjax.tasks.multilabel import multilabel, multilabel_job

LOOK = 64  # cases of each split that are opened to tell grey from colour
SMALL = 96  # side up to which an encoder keeps the full grid in its stem


@dataclasses.dataclass(frozen=True)
class Image:
    """How pictures are prepared."""

    size: int = 64
    """Side of the square, or of the cube, in pixels."""
    form: Literal["auto", "grey", "colour", "volume"] = "auto"
    """What the pictures are; by default what the data holds. Colours can be taken as grey."""
    fit: Literal["squash", "pad"] = "squash"
    """Bring a picture to a square by changing its aspect, or by padding."""
    scale: Literal["auto", "standardise", "range", "imagenet", "xrv"] = "auto"
    """What the network is fed: each picture to mean 0 and deviation 1, the whole range to -1..1, or what torchvision's and
    timm's weights, or those of TorchXRayVision, were trained on. By default the first, and with weights the third."""
    windows: tuple[tuple[float, float], ...] = ()
    """CT windows (centre, width) in Hounsfield units, one a channel; none for pictures that are not CT."""
    mirror: bool = False
    """Average predictions over a picture and its mirror image."""

    def __post_init__(self) -> None:
        if self.size < 8:
            raise InputError(f"--image.size {self.size}: must be 8 or more", usage=True)


@dataclasses.dataclass(frozen=True)
class Network:
    """The network, and how it is regularised."""

    name: str = "resnet18"
    """A network of medjax.models, such as cnn, resnet18, resnet34, resnet50, densenet121, convnext_tiny."""
    width: int = 0
    """Channels of the first stage, for networks that have the choice; 0 leaves the published one."""
    weights: str | None = None
    """Pretrained weights of torchvision, timm or TorchXRayVision, .safetensors or .pth; random ones by default."""
    dropout: float = 0.2
    """Rate before the last layer."""
    smoothing: float = 0.0
    """Label smoothing."""


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """Random changes of each training picture, drawn inside the compiled step; 0 leaves one out."""

    rotate: float = 10.0
    """Degrees, either way."""
    scale: float = 0.1
    """Logarithm of the scale of each axis, either way."""
    shift: float = 0.05
    """Fraction of each side, either way."""
    flip: float = 0.5
    """Probability of a left-right mirror image."""
    gamma: float = 0.2
    """Logarithm of the exponent, either way."""
    gain: float = 0.2
    """Logarithm of the factor, either way."""
    noise: float = 0.02
    """Standard deviation of Gaussian noise, as a fraction of the range."""
    blur: float = 0.0
    """Largest standard deviation of a Gaussian blur, in pixels."""
    cutout: float = 0.0
    """Side of a square hole as a fraction of the picture's, in half of the pictures."""
    mixup: float = 0.0
    """Parameter of the beta distribution that pairs of pictures are mixed by (Zhang et al., ICLR 2018)."""


@dataclasses.dataclass(frozen=True)
class Config(Experiment):
    """Settings of an image classification."""

    layout: str = ""
    """How the data lies on disk, as `medjax data` names it; recognised by default."""
    kind: Literal["auto", "single", "ordinal", "multi"] = "auto"
    """One label a case, one of several grades, or any number of labels; the layout's own by default."""
    image: Image = Image()
    model: Network = Network()
    optimizer: Optimizer = Optimizer()
    augment: Augmentation = Augmentation()
    decide: Decide = Decide()


C = TypeVar("C", bound=Config)
Find = Callable[[Any], Layout]  # the settings of an experiment -> its data


def find_layout(config: Config, **options: Any) -> Layout:
    """The layout of --data.path, which must be one of pictures, see `open_own`."""
    wanted = {"classes": config.data.classes, "labels": config.data.labels, **options}
    return open_own(config.data.path, config.layout, "pictures", **wanted)


def medmnist(flag: str, size: int = 28) -> Find:
    """config -> the layout of --data.path, or without one a set of MedMNIST, fetched at first use."""

    def find(config: Config) -> Layout:
        if config.data.path:
            return find_layout(config)
        from medjax.data.builders.medmnist import load_medmnist

        return load_medmnist(flag, size)

    return find


def resolve(config: C, find: Find = find_layout) -> C:
    """The settings with what only the data tells filled in: classes, kind of label, grey, colour or volumes."""
    classes, kind, form = config.data.classes, config.kind, config.image.form
    if classes and kind != "auto" and form != "auto":
        return config
    layout = find(config)
    kind = layout.kind if kind == "auto" and layout.kind in ("single", "ordinal", "multi") else kind
    form = look_at(layout.sources) if form == "auto" else form
    data = dataclasses.replace(config.data, classes=tuple(classes or layout.classes))
    return dataclasses.replace(config, data=data, kind=kind, image=dataclasses.replace(config.image, form=form))


def look_at(sources: Mapping[str, Any]) -> Literal["grey", "colour", "volume"]:
    """What the pictures are, from some of each split. Files that cannot be read are left to the preparation to name."""
    colour = False
    for source in sources.values():
        for i in np.unique(np.linspace(0, len(source) - 1, min(LOOK, len(source))).astype(int)):
            try:
                image = source[int(i)]["image"]
            except InputError:
                continue
            if image.ndim == 3 and image.shape[-1] != 3:
                return "volume"
            colour |= image.ndim == 3
    return "colour" if colour else "grey"


def make_network(config: Config) -> Any:
    """The flax module that `config.model` names, with those of its settings that it has."""
    build = models.find(config.model.name)
    # Pretrained weights are of the published stem, whatever the size.
    small = config.image.size <= SMALL and not config.model.weights
    wanted = {"dropout": config.model.dropout, "small_images": small}
    known = inspect.signature(build).parameters
    network = build(len(config.data.classes), **{name: value for name, value in wanted.items() if name in known})
    if config.model.width:
        if not hasattr(network, "width"):
            raise InputError(f"--model.width: {config.model.name} has no choice of width", usage=True)
        network = network.clone(width=config.model.width)
    return network


def make_inputs(config: Config) -> Callable[[Batch], Any]:
    """batch -> what the network takes."""
    if config.image.windows:
        return windowed(config.image.windows)
    scale = config.image.scale
    if scale == "auto":
        scale = "imagenet" if config.model.weights else "standardise"
    if scale == "standardise":
        return standardised
    if scale == "range":
        return lambda batch: 2 * augment.to_unit(batch["image"]) - 1
    normalise = normalise_imagenet if scale == "imagenet" else normalise_xrv
    return lambda batch: normalise(augment.to_unit(batch["image"]))


def make_augment(config: Config) -> Any:
    """The augmentation that the settings ask for; None where they ask for nothing."""
    of, volume = config.augment, config.image.form == "volume"
    steps = []
    if of.rotate or of.scale or of.shift:
        affine = augment.affine_3d if volume else augment.affine
        steps.append(affine(rotate=of.rotate, scale=of.scale, shift=of.shift))
    if of.flip:
        steps.append(augment.flip((*(0.0,) * (1 + volume), of.flip)))
    if of.blur:
        steps.append(augment.blur(of.blur))
    if of.gamma or of.gain or of.noise:
        steps.append(augment.intensity(gamma=of.gamma, gain=of.gain, noise=of.noise))
    if of.cutout:
        steps.append(augment.cutout(size=of.cutout))
    if not steps and not of.mixup:
        return None
    one = augment.image_augment(*steps)  # the job puts CT windows in front
    return augment.mixup(one, alpha=of.mixup, classes=len(config.data.classes)) if of.mixup else one


def image_job(config: Config, *, question: str, name: str, licence: str = "", find: Find = find_layout) -> Job:
    """The Job of an image classification.

    Args:
      config: resolved or not.
      question: one sentence a clinician understands.
      name: of the data set.
      licence: of the data set, as far as it is known.
      find: config -> Layout.
    """
    config = resolve(config, find)
    model, windows, kind = make_network(config), config.image.windows, config.kind
    shared: dict[str, Any] = {"inputs": make_inputs(config), "views": mirrored if config.image.mirror else None}
    tx = config.optimizer.make(config.train.steps)
    options: dict[str, Any] = {
        "about": About("classification", question, config.data.classes, "auroc", name, licence),
        "sources": lambda: find(config).sources,
        "size": config.image.size,
        "channels": "colour" if config.image.form == "colour" else "grey",
        "fit": config.image.fit,
        "windows": windows,
        "volumes": config.image.form == "volume",
        "augment": make_augment(config),
        "decide": config.decide,
        "read": read_any,
    }
    if kind == "multi":
        job = multilabel_job(multilabel(model, tx, **shared), **options)
    else:
        task = classification(model, tx, smoothing=config.model.smoothing, **shared)
        job = classification_job(task, ordinal=kind == "ordinal", **options)
    return job._replace(start=pretrained(config.model.weights, model)) if config.model.weights else job


def read_any(inputs: Sequence[str | Path]) -> Any:
    """Cases to predict on: pictures, folders of pictures, or a MedMNIST file."""
    if len(inputs) == 1 and Path(inputs[0]).suffix == ".npz":
        return Joined(open_layout(inputs[0]).sources)
    return image_source(inputs)
