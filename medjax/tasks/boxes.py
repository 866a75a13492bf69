"""Detection as experiments configure it: any layout of boxes, any encoder of the classification job."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeVar

import jax.numpy as jnp
import numpy as np

from medjax import models
from medjax.cases import Cases
from medjax.config import Experiment, Optimizer
from medjax.console import say
from medjax.core import About, Batch, Job, State
from medjax.data import augment
from medjax.data.augment.boxes import box_augment, mosaic
from medjax.data.boxes import picture_source
from medjax.data.layouts import Layout, open_own
from medjax.errors import InputError
from medjax.metrics.detection import Rule
from medjax.models.resnet import ResNet
from medjax.models.retinanet import RetinaNet
from medjax.models.weights import normalise_imagenet, pretrained
from medjax.nn.boxes import fit_shapes
from medjax.tasks import detection_baselines
from medjax.tasks.detection import Selection, detection
from medjax.tasks.detection_cases import Canvas, examples, preprocess_boxes
from medjax.tasks.detections import Keep, detection_job
from medjax.tasks.features import from_run
from medjax.tasks.images import standardised, window_first, windowed
from medjax.tasks.imaging import look_at

LOOK = 512  # pictures whose sizes decide the canvases
ALIKE = 1.15  # aspects within this factor share a canvas
COARSEST = 8  # stride of an encoder's last map over that of its first stage
RARE = 0.1  # share of the pictures below which an aspect has no canvas of its own


@dataclasses.dataclass(frozen=True)
class Image:
    """How pictures are prepared."""

    size: int = 320
    """Longer side of the canvases that pictures are laid on, their aspect kept, in pixels."""
    canvases: tuple[tuple[int, int], ...] = ()
    """(height, width) of each; by default up to three that fit the pictures' aspects."""
    form: Literal["auto", "grey", "colour"] = "auto"
    """What the pictures are; by default what the data holds."""
    scale: Literal["auto", "standardise", "imagenet"] = "auto"
    """Each picture to mean 0 and deviation 1, or what torchvision's and timm's weights were trained on, as with weights."""
    windows: tuple[tuple[float, float], ...] = ()
    """CT windows (centre, width) in Hounsfield units, one a channel."""


@dataclasses.dataclass(frozen=True)
class Network:
    """RetinaNet, and what it learns by."""

    name: str = "resnet18"
    """Encoder: a ResNet of medjax.models."""
    width: int = 0
    """Channels of its first stage; 0 leaves the published 64."""
    stem: Literal[1, 2, 4] = 4
    """Pixels to a cell of its first stage; 4 is the published stem."""
    weights: str | None = None
    """Pretrained weights of the encoder: .safetensors or .pth, of the published width and stem, or a run of a classification
    with the same encoder (its stem is 4, and 1 for pictures of up to 96 pixels)."""
    strides: tuple[int, ...] = ()
    """Pixels from cell to cell on each level of the pyramid; by the boxes' sizes by default."""
    anchors: int = 3
    """Anchors of each cell; their shapes are fitted to the training boxes."""
    features: int = 64
    """Channels of the pyramid and the heads."""
    depth: int = 2
    """Convolutions of each head."""
    boxes: int = 0
    """True boxes that an example has room for; the most that a picture has, by default."""
    box_loss: Literal["giou", "smooth_l1"] = "giou"
    """Loss of the boxes' places."""
    box_weight: float = 1.0
    """What it counts beside the focal loss of the classes."""
    positive: float = 0.5
    """IoU from which an anchor stands for a box."""
    negative: float = 0.4
    """IoU below which an anchor is background."""
    gate: bool = False
    """Multiply each box's score by the probability that the picture holds its class at all, which the network gives besides."""


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """Random changes of each training picture and its boxes, drawn inside the compiled step; 0 leaves one out."""

    shift: float = 0.2
    """Fraction of each side, either way."""
    scale: tuple[float, float] = (0.7, 1.4)
    """Least and greatest factor; above 1 crops."""
    aspect: float = 0.1
    """Logarithm of the factor between the axes, either way."""
    flip: tuple[float, float] = (0.0, 0.5)
    """Probabilities of a mirror image upside down, and left to right."""
    transpose: float = 0.0
    """Probability that rows and columns change over, of square canvases."""
    least: float = 0.3
    """Share of its area below which a box that was cut is not learnt."""
    gamma: float = 0.2
    """Logarithm of the exponent, either way."""
    gain: float = 0.2
    """Logarithm of the factor, either way."""
    noise: float = 0.02
    """Standard deviation of Gaussian noise, as a fraction of the range."""
    mosaic: float = 0.0
    """Probability that a picture is cut together of four."""


@dataclasses.dataclass(frozen=True)
class Inference:
    """How detections are chosen and judged."""

    mirror: tuple[int, ...] = (1,)
    """Axes (0 upside down, 1 left to right) over whose mirror images predictions are averaged."""
    most: int = 100
    """Detections of a picture."""
    candidates: int = 512
    """Boxes that suppression looks at."""
    least: float = 0.02
    """Score of a detection."""
    overlap: float = 0.5
    """IoU above which the box of lower score goes."""
    hit: float = 0.3
    """IoU from which a detection hits a lesion, for FROC; 0 for its centre inside of the lesion's box."""
    numbers: tuple[int, ...] = ()
    """What results call the classes; what the data calls them, by default."""
    keep: Keep = "f1"
    """What the score from which boxes are kept is best by, on validation data: F1 under that rule, or the RSNA score."""


@dataclasses.dataclass(frozen=True)
class Config(Experiment):
    """Settings of a detection."""

    layout: str = ""
    """How the data lies on disk, as `medjax data` names it; recognised by default."""
    image: Image = Image()
    model: Network = Network()
    optimizer: Optimizer = Optimizer()
    augment: Augmentation = Augmentation()
    inference: Inference = Inference()


C = TypeVar("C", bound=Config)
Find = Callable[[Any], Layout]


def find_layout(config: Config, **options: Any) -> Layout:
    """The layout of --data.path, which must be one of pictures with boxes; see `open_own`."""
    return open_own(config.data.path, config.layout, "boxes", **{"classes": config.data.classes, **options})


def resolve(config: C, find: Find = find_layout) -> C:
    """The settings with what only the data tells filled in: classes, colour, canvases, strides, room for boxes."""
    image, model = config.image, config.model
    if config.data.classes and image.form != "auto" and image.canvases and model.strides and model.boxes:
        return config
    layout = find(config)
    learnt = [source for split, source in layout.sources.items() if split in ("train", "all")] or [*layout.sources.values()]
    form = look_at(layout.sources) if image.form == "auto" else image.form
    if form == "volume":
        raise InputError("boxes are looked for in pictures, and the data holds volumes\ngive single slices", usage=True)
    seen = [source.outline(i) for source in learnt for i in _spread(len(source), LOOK // len(learnt))]
    scale = [image.size / max(h, w) for h, w, _ in seen]
    sides = np.concatenate([np.sqrt((b[:, 2:] - b[:, :2]).prod(1)) * s for (_, _, b), s in zip(seen, scale, strict=True)])
    if not len(sides):
        raise InputError(f"{config.data.path}: no training image has any box\ncheck where the boxes are")
    strides = model.strides or plan_strides(sides, least=model.stem)
    aspects = np.array([h / w for h, w, _ in seen])
    canvases = image.canvases or plan_canvases(aspects, image.size, multiple=max(*strides, 8 * model.stem))
    most = max(len(item.category) for source in learnt for item in source.items)
    boxes = model.boxes or max(8, -(-most // 8) * 8)
    told = ", ".join(f"{h} x {w}" for h, w in canvases)
    say(f"canvases {told}; boxes of {np.median(sides):.0f} pixels there in the median; strides {strides}")
    return dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, classes=tuple(config.data.classes or layout.classes)),
        image=dataclasses.replace(image, form=form, canvases=canvases),
        model=dataclasses.replace(model, strides=strides, boxes=boxes),
        inference=dataclasses.replace(config.inference, numbers=config.inference.numbers or tuple(learnt[0].numbers)),
    )


def _spread(n: int, most: int) -> list[int]:
    return np.unique(np.linspace(0, n - 1, min(n, most)).astype(int)).tolist() if n else []


def plan_strides(sides: np.ndarray, *, least: int) -> tuple[int, ...]:
    """Levels for boxes of these sides: cells from a half of the small ones (the first quarter) to a third of the large ones.

    Args:
      sides: of boxes, in pixels of the canvas.
      least: stride of the encoder's first stage.
    """
    fine, coarse = np.quantile(sides, (0.25, 0.95)) / (2, 3)
    first = int(np.clip(2 ** np.floor(np.log2(max(fine, 1))), max(least, 2), min(16, COARSEST * least)))
    last = int(np.clip(2 ** np.round(np.log2(max(coarse, 1))), 2 * first, 64))
    return tuple(2**k for k in range(int(np.log2(first)), int(np.log2(last)) + 1))


def plan_canvases(aspects: np.ndarray, size: int, *, multiple: int) -> tuple[Canvas, ...]:
    """One canvas where the pictures' aspects (height / width) are alike, else one for each of upright, square and broad ones.

    Longer sides are `size`, rounded up to multiples of `multiple`, as are the others.
    """
    logs, bound = np.log(aspects), np.log(ALIKE)
    if np.quantile(logs, 0.95) - np.quantile(logs, 0.05) <= bound:
        groups = [logs]
    else:
        groups = [logs[logs > bound], logs[np.abs(logs) <= bound], logs[logs < -bound]]
        groups = [g for g in groups if len(g) >= RARE * len(logs)]
    found = []
    for group in groups:
        aspect = float(np.exp(np.median(group)))
        sides = size * min(1.0, aspect), size * min(1.0, 1 / aspect)
        found.append(tuple(int(-(-round(side) // multiple) * multiple) for side in sides))
    return tuple(dict.fromkeys((h, w) for h, w in found))


def make_network(config: Config) -> RetinaNet:
    """The flax module that `config.model` names."""
    of = config.model
    build = models.find(of.name)
    encoder = build(1)
    if not isinstance(encoder, ResNet):
        raise InputError(f"--model.name {of.name}: detection takes a ResNet, such as resnet18 or resnet50", usage=True)
    if of.strides[0] > COARSEST * of.stem:
        told = f"--model.strides {' '.join(map(str, of.strides))}: must begin with {COARSEST * of.stem} or less"
        raise InputError(f"{told}, which is what the encoder has for --model.stem {of.stem}", usage=True)
    if _is_file(of.weights) and (of.stem != 4 or of.width not in (0, encoder.width)):
        raise InputError("--model.weights FILE needs the published --model.stem 4 and --model.width 0", usage=True)
    if of.stem < 4:
        takes = inspect.signature(build).parameters
        encoder = build(1, **{"small_images": True} if "small_images" in takes else {}).clone(
            stem_stride=of.stem, stem_kernel=1 + 2 * of.stem
        )
    if of.width:
        encoder = encoder.clone(width=of.width)
    return RetinaNet(len(config.data.classes), encoder, of.strides, of.anchors, of.features, of.depth, of.gate)


def _is_file(weights: str | None) -> bool:
    """Whether pretrained weights are published ones, and not a run's."""
    return bool(weights) and not Path(weights or "").is_dir()


def make_inputs(config: Config) -> Callable[[Batch], Any]:
    """batch -> what the network takes."""
    if config.image.windows:
        return windowed(config.image.windows)
    if config.image.scale == "imagenet" or (config.image.scale == "auto" and _is_file(config.model.weights)):
        return lambda batch: normalise_imagenet(augment.to_unit(batch["image"]))
    return standardised


def make_augment(config: Config) -> Any:
    """The augmentation that the settings ask for."""
    of, windows = config.augment, config.image.windows
    values = [augment.intensity(gamma=of.gamma, gain=of.gain, noise=of.noise)] if of.gamma or of.gain or of.noise else []
    one = box_augment(
        *values, shift=of.shift, scale=of.scale, aspect=of.aspect, mirror=of.flip, transpose=of.transpose, least=of.least
    )
    whole: Any = mosaic(one, chance=of.mosaic, least=of.least) if of.mosaic else one
    return window_first(whole, windows)


def fit_anchors(config: Config, state: State, cases: Cases) -> State:
    """The State with anchor shapes fitted to the training boxes, the smaller ones on the finer levels."""
    levels, each = len(config.model.strides), config.model.anchors
    sizes = [(b[~c, 2:] - b[~c, :2]) * s[::-1] for b, c, s in zip(cases["boxes"], cases["crowd"], cases["scale"], strict=True)]
    shapes = fit_shapes(np.concatenate(sizes), levels * each).reshape(levels, each, 2)
    told = "; ".join(
        f"{s}: " + ", ".join(f"{w:.0f} x {h:.0f}" for w, h in of) for s, of in zip(config.model.strides, shapes, strict=True)
    )
    say(f"anchors by stride: {told}")
    statistics = {**state.extra["statistics"], "shapes": jnp.asarray(shapes)}
    return state.replace(extra={**state.extra, "statistics": statistics})


def box_job(config: Config, *, question: str, name: str, licence: str = "", find: Find = find_layout) -> Job:
    """The Job of a detection.

    Args:
      config: resolved or not.
      question: one sentence a clinician understands.
      name: of the data set.
      licence: of the data set, as far as it is known.
      find: config -> Layout.
    """
    config = resolve(config, find)
    model, of, k = make_network(config), config.inference, len(config.data.classes)
    rule = Rule(of.hit)
    task = detection(
        model,
        config.optimizer.make(config.train.steps),
        inputs=make_inputs(config),
        selection=Selection(of.most, of.candidates, of.least, of.overlap),
        mirrors=of.mirror,
        box_loss=config.model.box_loss,
        box_weight=config.model.box_weight,
        positive=config.model.positive,
        negative=config.model.negative,
    )
    job = detection_job(
        task,
        about=About("detection", question, config.data.classes, "map50", name, licence),
        sources=lambda: find(config).sources,
        read=functools.partial(picture_source, classes=config.data.classes, numbers=of.numbers),
        preprocess=functools.partial(
            preprocess_boxes,
            canvases=config.image.canvases,
            channels="colour" if config.image.form == "colour" else "grey",
            windows=config.image.windows,
        ),
        examples=examples(
            most_boxes=config.model.boxes,
            most=of.most,
            classes=k,
            rule=rule,
            overlap=of.overlap,
            buckets=len(config.image.canvases),
        ),
        augment=make_augment(config),
        baselines=detection_baselines.defaults(k, rule),
        rule=rule,
        keep=of.keep,
    )

    def start(state: State, cases: Cases) -> State:
        state = fit_anchors(config, state, cases)
        weights, at = config.model.weights, ("encoder",)
        if not weights:
            return state
        begin = pretrained(weights, model.encoder, at=at) if _is_file(weights) else from_run(weights, at=at)
        return begin(state, cases)

    return job._replace(start=start)
