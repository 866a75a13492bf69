"""Segmentation as experiments configure it: any layout of images and masks, planned from the data under a budget."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, Literal, TypeVar

import jax
import numpy as np

from medjax import models
from medjax.cases import Cases
from medjax.config import Experiment, Optimizer, Train
from medjax.console import say
from medjax.core import About, Batch, Job
from medjax.data.augment.masks import on_image, pair_augment
from medjax.data.augment.recipes import nnunet_recipe
from medjax.data.augment.scans import bias_field, sometimes
from medjax.data.layouts import Layout, open_own
from medjax.data.load import load, load_folds
from medjax.data.volumes import volume_source
from medjax.errors import InputError
from medjax.models.residual_unet import EncoderUNet, ResidualUNet
from medjax.models.weights import pretrained
from medjax.nn import losses
from medjax.tasks import planner
from medjax.tasks.fingerprint import Fingerprint, case_facts, from_facts
from medjax.tasks.segmentation import scaled, segmentation, segmentation_job
from medjax.tasks.volumes import UNIT, Geometry

NORMALISE = Literal["ct", "zscore", "tissue", "range"]
Axes = tuple[int, int, int]


@dataclasses.dataclass(frozen=True)
class Plan:
    """Resolution, patch and network, planned from the data's fingerprint unless they are given."""

    memory: float = 2.0
    """GiB that a training step may take on one device."""
    work: float = 0.0
    """GFLOP that a training step may take; 0 sets no bound."""
    voxels: float = 0.0
    """Most voxels of the median case: beyond, the spacing is made coarser; 0 sets no bound."""
    dims: Literal[0, 2, 3] = 0
    """A network of slices or of volumes; 0 lets the data decide."""
    width: int = 32
    """Channels of the first stage, at most."""
    size: int = 0
    """Bring whole pictures to a square of so many pixels, in place of patches."""
    spacing: tuple[float, ...] = ()
    """mm to resample to, along (slices, rows, columns)."""
    patch: tuple[int, ...] = ()
    """Sides of a patch, along (slices, rows, columns); 1 slice for a network of slices."""
    features: tuple[int, ...] = ()
    """Channels of each stage."""
    strides: tuple[tuple[int, ...], ...] = ()
    """Of each stage, along each axis."""
    kernels: tuple[tuple[int, ...], ...] = ()
    """Sides of each stage's convolutions."""
    blocks: tuple[int, ...] = ()
    """Residual blocks of each stage, the last repeated where more are planned."""
    normalise: tuple[NORMALISE, ...] = ()
    """Of each channel: Hounsfield units clipped to the foreground's percentiles, each case's z-scores (over the
    whole, or over what is brighter than air), or the whole range."""
    intensity: tuple[tuple[float, float, float, float], ...] = ()
    """Of each channel: lowest, highest, mean and deviation that prepared values are scaled by, from training cases."""
    kinds: tuple[str, ...] = ()
    """What the data is, as the layout names it: its modalities."""


@dataclasses.dataclass(frozen=True)
class PlannedTrain(Train):
    """The training loop, its batch planned."""

    batch_size: int = 0
    """Examples an update, over all devices; 0 leaves it to the plan."""
    PLANNED: ClassVar[tuple[str, ...]] = ("batch_size",)


@dataclasses.dataclass(frozen=True)
class Network:
    """The network, and what it learns by."""

    encoder: str = ""
    """A classification network of medjax.models, such as resnet18, in place of the residual encoder; two dimensions."""
    weights: str | None = None
    """Pretrained weights of that encoder, .safetensors or .pth."""
    attention: bool = False
    """Gate the skips (attention U-Net)."""
    deep: bool = True
    """Deep supervision."""
    dropout: float = 0.0
    """Rate at which channels of the encoder's maps are dropped."""
    loss: Literal["dice_ce", "dice", "ce", "tversky", "focal"] = "dice_ce"
    """Dice + cross-entropy, or one of them, Tversky (weighing what is missed .7), or focal."""


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """nnU-Net's random changes, drawn inside the compiled step; a strength of 0 leaves one out."""

    rotate: float = 30.0
    """Degrees, either way; with thick slices in their plane only."""
    scale: tuple[float, float] = (0.7, 1.4)
    """Least and greatest factor."""
    elastic: float = 0.0
    """Greatest displacement, in voxels."""
    moved: float = 0.2
    """Probability of each of rotating, scaling and bending."""
    mirror: tuple[int, ...] = ()
    """Axes, counted from 0, that are mirrored in half of the examples."""
    values: float = 1.0
    """Factor of the probabilities of noise, blur, brightness, contrast, low resolution and gamma; 0 leaves them out."""
    bias: float = 0.0
    """Strength of a smooth multiplicative field, in half of the examples."""


@dataclasses.dataclass(frozen=True)
class Inference:
    """How whole cases are looked at."""

    step: float = 0.5
    """Distance of neighbouring windows, as a fraction of the patch."""
    mirror: tuple[int, ...] = ()
    """Axes, counted from 0, over whose mirror images predictions are averaged."""
    tolerance: float = 1.0
    """Of the normalised surface distance, in mm (pixels where these are not known)."""


@dataclasses.dataclass(frozen=True)
class Config(Experiment):
    """Settings of a segmentation."""

    layout: str = ""
    """How the data lies on disk, as `medjax data` names it; recognised by default."""
    train: Train = PlannedTrain()
    plan: Plan = Plan()
    model: Network = Network()
    optimizer: Optimizer = Optimizer()
    augment: Augmentation = Augmentation()
    inference: Inference = Inference()


C = TypeVar("C", bound=Config)
Find = Callable[[Any], Layout]


def find_layout(config: Config, **options: Any) -> Layout:
    """The layout of --data.path, which must be one of images with masks; see `open_own`."""
    return open_own(config.data.path, config.layout, "masks", **{"classes": config.data.classes, **options})


def resolve(config: C, find: Find = find_layout, degrade: Callable[[dict], dict] | None = None) -> C:
    """The settings with the plan filled in: from the training cases' fingerprint, and what the settings say already."""
    if config.plan.features and config.plan.intensity:
        return config
    layout = find(config)
    kinds = tuple(next(iter(layout.sources.values())).channels)
    seen = read_fingerprint(config, layout, kinds, degrade)
    plan, batch_size = make_plan(config, seen)
    data = dataclasses.replace(config.data, classes=tuple(layout.classes))
    train = dataclasses.replace(config.train, batch_size=batch_size)
    return dataclasses.replace(config, data=data, train=train, plan=dataclasses.replace(plan, kinds=kinds))


def read_fingerprint(
    config: Config, layout: Layout, kinds: Sequence[str], degrade: Callable[[dict], dict] | None = None
) -> Fingerprint:
    """Of the cases that will be trained on, by the very split of the training; with folds, of all but a given test split."""
    k = len(layout.classes)
    of = functools.partial(case_facts, channels=tuple(kinds), classes=k)
    job: Any = SimpleNamespace(
        sources=lambda: layout.sources,
        preprocess=of if degrade is None else functools.partial(_in_turn, degrade, of),
        about=SimpleNamespace(classes=layout.classes[1:]),
        check=lambda cases: [],
    )
    say("reading the fingerprint")
    if config.folds:
        first = load_folds(job, config.data, config.folds, lambda text: None)[0].cases
        parts = [first[split] for split in ("train", "val", "cv")]
    else:
        parts = [load(job, config.data, lambda text: None).cases["train"]]
    return from_facts([facts for cases in parts for facts in _each(cases)], channels=kinds, classes=k)


def _in_turn(first: Callable[[dict], dict], then: Callable[[dict], dict], example: dict) -> dict:
    return then(first(example))


def _each(cases: Cases) -> list[dict[str, Any]]:
    names = ("shape", "spacing", "counts", "drawn", "dtype")
    return [{name: cases[name][i] for name in names} for i in range(len(cases))]


def make_plan(config: Config, seen: Fingerprint) -> tuple[Plan, int]:
    """(the settings' plan with all that they leave open filled in, batch size). It is printed."""
    own, light = config.plan, config.plan.blocks or None
    if own.size:
        seen = seen._replace(shapes=np.array([[1, own.size, own.size]] * len(seen.shapes)), spacings=seen.spacings * np.nan)
    options: dict[str, Any] = {
        "memory_gib": own.memory,
        "dims": own.dims or None,
        "base_features": own.width,
        "flops_per_step": own.work * 1e9 or None,
        "batch_size": config.train.batch_size or None,
        "spacing": own.spacing or None,
        "patch": own.patch or ((1, own.size, own.size) if own.size else None),
    }
    if light:
        options["blocks"] = light
    made = planner.plan(seen, **options)
    most, voxels = own.voxels, float(np.prod(made.shape, dtype=np.float64))
    if most and voxels > most and made.spacing and not own.spacing:
        coarser = (voxels / most) ** (1 / made.dims)
        options["spacing"] = tuple(s * coarser if s else s for s in made.spacing)
        made = planner.plan(seen, **options)
        made = dataclasses.replace(made, notes=(*made.notes, f"coarser by {coarser:.2f}: --plan.voxels {most:,.0f}"))
    if own.features:
        made = planner.override(made, features=own.features if len(own.features) > 1 else own.features[0])
    normalise: Any = own.normalise or made.normalise
    say(planner.describe(dataclasses.replace(made, normalise=normalise)))
    plan = dataclasses.replace(
        own,
        dims=2 if made.dims == 2 else 3,
        spacing=() if own.size else tuple(map(float, made.spacing)),
        patch=tuple(made.patch),
        features=tuple(made.features),
        strides=own.strides or tuple(map(tuple, made.strides)),
        kernels=own.kernels or tuple(map(tuple, made.kernels)),
        blocks=tuple(made.blocks),
        normalise=normalise,
        intensity=own.intensity or intensity_of(normalise, seen),
    )
    # What the plan fills is one device; several share at least an example each.
    devices = 1 if config.train.batch_size else jax.local_device_count()
    return plan, -(-made.batch_size // devices) * devices


def intensity_of(normalise: Sequence[str], seen: Fingerprint) -> tuple[tuple[float, float, float, float], ...]:
    """(lowest, highest, mean, deviation) that prepared values of each channel are scaled by, see `segmentation.scaled`.

    Raises:
      InputError: CT without any foreground voxel to take the percentiles of.
    """
    limits = np.iinfo(np.int16)
    found = []
    for c, how in enumerate(normalise):
        if how != "ct":
            found.append((float(limits.min), float(limits.max), 0.0, float(UNIT)))
            continue
        if seen.intensity is None:
            raise InputError("no training mask has any foreground: all of them are empty\ncheck the masks and the label values")
        low, _, high, mean, deviation = (float(v) for v in seen.intensity[c])
        found.append((round(low, 3), round(high, 3), round(mean, 3), round(max(deviation, 1e-3), 3)))
    return tuple(found)


def make_network(config: Config) -> Any:
    """The flax module that the plan and `config.model` describe."""
    plan, of, k = config.plan, config.model, len(config.data.classes)
    if of.encoder:
        if plan.dims == 3:
            raise InputError("--model.encoder: classification encoders see slices\ngive --plan.dims 2", usage=True)
        encoder = models.find(of.encoder)(1)
        features = tuple(min(plan.width * 2**i, 256) for i in range(7))
        return EncoderUNet(k, encoder, features=features, deep=of.deep, dropout=of.dropout)
    return ResidualUNet(
        k,
        features=plan.features,
        blocks=plan.blocks,
        strides=plan.strides,
        kernels=plan.kernels,
        deep=of.deep,
        attention=of.attention,
        dropout=of.dropout,
    )


def make_augment(config: Config) -> Callable:
    """The augmentation that the settings ask for; it always scales, and cuts the margin off."""
    of, plan = config.augment, config.plan
    thick = plan.dims == 3 and max(plan.strides[1]) != min(plan.strides[1])
    drawn = {
        "noise": 0.1,
        "blur": 0.2,
        "brightness": 0.15,
        "contrast": 0.15,
        "low_res": 0.25,
        "gamma": 0.3,
        "inverted_gamma": 0.1,
    }
    chances: dict[str, Any] = {f"{name}_chance": of.values * chance for name, chance in drawn.items()}
    recipe = nnunet_recipe(
        plan.dims,
        thick,
        rotate=of.rotate,
        scale=of.scale,
        elastic=of.elastic,
        rotate_chance=of.moved,
        scale_chance=of.moved,
        elastic_chance=of.moved,
        **chances,
        mirror_chance=[0.5 * (axis in of.mirror) for axis in range(plan.dims)],
        out=plan.patch[-plan.dims :],
        start=functools.partial(scaled, intensity=plan.intensity),
    )
    if not of.bias:
        return recipe
    uneven = pair_augment(on_image(sometimes(0.5, bias_field(of.bias))), start=lambda image: image)

    def augment(key: jax.Array, example: Batch) -> Batch:
        return uneven(jax.random.fold_in(key, 1), recipe(jax.random.fold_in(key, 0), example))

    return augment


LOSSES: Mapping[str, Any] = {
    "dice_ce": losses.dice_cross_entropy,
    "dice": losses.dice,
    "ce": losses.cross_entropy,
    "tversky": functools.partial(losses.tversky, alpha=0.3, beta=0.7),
    "focal": losses.focal,
}


def geometry_of(config: Config) -> Geometry:
    """How volumes are brought to the plan's resolution and cut."""
    d, h, w = config.plan.patch
    size = (1, config.plan.size, config.plan.size) if config.plan.size else ()
    moved = config.augment.moved and (config.augment.rotate or config.augment.scale != (1.0, 1.0))
    return Geometry((d, h, w), config.plan.spacing, size, margin=1.2 if moved else 1.0, step=config.inference.step)


def mask_job(
    config: Config,
    *,
    question: str,
    name: str,
    licence: str = "",
    find: Find = find_layout,
    degrade: Callable[[dict], dict] | None = None,
) -> Job:
    """The Job of a segmentation.

    Args:
      config: resolved or not.
      question: one sentence a clinician understands.
      name: of the data set.
      licence: of the data set, as far as it is known.
      find: config -> Layout.
      degrade: example -> example, done to each image before all else.
    """
    config = resolve(config, find, degrade)
    model, plan = make_network(config), config.plan
    task = segmentation(
        model,
        config.optimizer.make(config.train.steps),
        intensity=plan.intensity,
        loss=LOSSES[config.model.loss],
        mirrors=config.inference.mirror,
    )
    job = segmentation_job(
        task,
        about=About("segmentation", question, config.data.classes[1:], "dice", name, licence),
        sources=lambda: find(config).sources,
        read=functools.partial(read_volumes, channels=plan.kinds, classes=len(config.data.classes)),
        geometry=geometry_of(config),
        normalise=plan.normalise,
        intensity=plan.intensity,
        augment=make_augment(config),
        tolerance=config.inference.tolerance,
        degrade=degrade,
    )
    if config.model.weights:
        return job._replace(start=pretrained(config.model.weights, model.encoder, at=("encoder",)))
    return job


def read_volumes(inputs: Sequence[str | Path], *, channels: Sequence[str], classes: int) -> Any:
    """Volumes or pictures to segment: files, folders of them, or folders of DICOM series."""
    return volume_source(inputs, channels=channels, classes=classes)
