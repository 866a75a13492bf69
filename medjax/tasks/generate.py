"""Generation as experiments configure it: any images, the two networks, their game, what they are measured by."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import jax

from medjax.config import Experiment, Train
from medjax.core import About, Batch, Job, Task
from medjax.data.augment.differentiable import differentiable
from medjax.data.layouts import Layout
from medjax.errors import InputError
from medjax.models import dcgan, r3gan
from medjax.tasks.adversarial import Game, adversarial
from medjax.tasks.extractor import Extractor, scaled
from medjax.tasks.generation import generation_job, measured, remembered
from medjax.tasks.imaging import look_at, open_own

SMALLEST, LARGEST = 16, 512


@dataclasses.dataclass(frozen=True)
class Picture:
    """How images are prepared."""

    size: int = 64
    """Side of the square images, in pixels."""
    form: Literal["auto", "grey", "colour"] = "auto"
    """Grey or colour; as the images are by default."""
    mixed: Literal["stop", "convert"] = "stop"
    """Where grey and colour images lie side by side: stop at the first that is not of the form, or convert it."""

    def __post_init__(self) -> None:
        if not SMALLEST <= self.size <= LARGEST:
            raise InputError(f"--image.size {self.size}: must be {SMALLEST} to {LARGEST}", usage=True)


@dataclasses.dataclass(frozen=True)
class Networks:
    """Generator and discriminator."""

    name: Literal["r3gan", "dcgan"] = "r3gan"
    """Residual networks without normalisation, or the deep convolutional GAN."""
    features: int = 16
    """Channels at the image's own grid; each coarser grid has twice as many."""
    most: int = 128
    """r3gan: channels at most."""
    blocks: int = 1
    """r3gan: blocks at each grid."""
    latent: int = 64
    """Length of the noise that an image is made from."""
    conditional: bool = True
    """Make images of a class that is asked for, where there are two classes and more."""


@dataclasses.dataclass(frozen=True)
class Rules:
    """What the two networks play by."""

    loss: Literal["relativistic", "non_saturating", "hinge", "least_squares", "wasserstein", "minimax"] = "relativistic"
    """See medjax.tasks.gan_losses."""
    rate: float = 1.5e-3
    """The generator's learning rate at the start; it ends at a tenth of it."""
    discriminator_rate: float = 1.5e-3
    """The discriminator's, likewise."""
    momentum: float = 0.0
    """Adam's b1."""
    r1: float = 1.0
    """Weight of the discriminator's squared slope at real images, over 2."""
    r2: float = 1.0
    """Likewise at generated ones."""
    lazy: int = 2
    """Take r1 and r2 every so many steps."""
    augment: tuple[Literal["flip", "colour", "translation", "zoom", "cutout"], ...] = ("flip", "colour", "zoom")
    """Changes of what the discriminator sees."""
    adapt: int = 100_000
    """Images in which the chance of a change may go from 0 to 1, as the discriminator's certainty asks; 0 always changes."""


@dataclasses.dataclass(frozen=True)
class Config(Experiment):
    """Settings of a generation."""

    layout: str = ""
    """How the data lies on disk, as `medjax data` names it; recognised by default."""
    train: Train = Train(ema=0.995)
    image: Picture = Picture()
    model: Networks = Networks()
    game: Rules = Rules()
    measure: Extractor = Extractor()


Find = Callable[[Any], Layout]


def find_layout(config: Config) -> Layout:
    """The layout of --data.path, which must be one of pictures of one class each.

    Raises:
      InputError: other data, or several labels an image.
    """
    layout = open_own(config.data.path, config.layout, "pictures", classes=config.data.classes)
    if layout.kind not in ("single", "ordinal"):
        raise InputError(f"{config.data.path}: its images have several labels each\ngive images of one class each", usage=True)
    return layout


def resolve(config: Any, find: Find = find_layout) -> Any:
    """The settings with what only the data tells filled in: classes, grey or colour."""
    if config.data.classes and config.image.form != "auto":
        return config
    layout = find(config)
    data = dataclasses.replace(config.data, classes=tuple(config.data.classes or layout.classes))
    form = look_at(layout.sources) if config.image.form == "auto" else config.image.form
    if form == "volume":
        raise InputError(f"{config.data.path}: holds volumes\ngive images, such as single slices of them", usage=True)
    return dataclasses.replace(config, data=data, image=dataclasses.replace(config.image, form=form))


def make_networks(of: Networks, size: int, channels: int, classes: int) -> tuple[Any, Any]:
    """(generator, discriminator), flax modules.

    Raises:
      InputError: a size that the network does not have.
    """
    if of.name == "r3gan":
        shared = (of.features, of.most, of.blocks, classes)
        return r3gan.Generator((size, size), channels, *shared), r3gan.Discriminator(*shared)
    try:
        dcgan.halvings(size)
    except ValueError as error:
        raise InputError(f"--image.size {size}: {error}", usage=True) from None
    return dcgan.Generator(channels, of.features, size, classes), dcgan.Discriminator(of.features, size, classes)


def seen(batch: Batch) -> jax.Array:
    """The batch's images for the discriminator, -1..1."""
    return scaled(batch["image"])


def make_task(config: Any, classes: int, channels: int) -> Task:
    """The Task of the settings' networks and game, without what measures its images.

    Args:
      config: with `image`, `model`, `game` and `train`.
      classes: of a conditional GAN; 0 for none.
      channels: of the images.
    """
    import optax

    of, game, steps = config.model, config.game, config.train.total()
    generator, discriminator = make_networks(of, config.image.size, channels, classes)

    def tx(rate: float) -> optax.GradientTransformation:
        return optax.adam(optax.cosine_decay_schedule(rate, steps, alpha=0.1), b1=game.momentum, b2=0.99)

    return adversarial(
        generator,
        discriminator,
        {"generator": tx(game.rate), "discriminator": tx(game.discriminator_rate)},
        inputs=seen,
        latent=of.latent,
        labels=(lambda batch: batch["label"]) if classes else None,
        augment=changes(game.augment),
        game=Game(game.loss, r1=game.r1, r2=game.r2, lazy=game.lazy, adapt=game.adapt if game.augment else 0),
    )


def changes(policy: tuple[str, ...]) -> Callable[..., jax.Array] | None:
    """`differentiable`, which takes images of 0..1, for images of -1..1: what comes in at an edge is black."""
    change = differentiable(policy)
    return None if change is None else lambda keys, image, *chance: 2 * change(keys, (image + 1) / 2, *chance) - 1


def generate_job(
    config: Any,
    *,
    question: str,
    name: str,
    licence: str = "",
    sources: Callable[[], Mapping[str, Any]] | None = None,
    crop: Callable[..., tuple] | None = None,
    find: Find = find_layout,
) -> Job:
    """The Job of a generation.

    Args:
      config: the settings, resolved or not.
      question: one sentence a clinician understands.
      name, licence: of the data set.
      sources: by default those that `find` gives.
      crop: see `image_preprocess`.
      find: config -> Layout.
    """
    config = resolve(config, find)
    names = config.data.classes if config.model.conditional and len(config.data.classes) > 1 else ()
    size, steps = config.image.size, config.train.total()
    task = make_task(config, len(names), 3 if config.image.form == "colour" else 1)
    task = remembered(task, latent=config.model.latent, classes=len(names), steps=steps)
    return generation_job(
        measured(task, config.measure, classes=len(names), size=size),
        about=About("generation", question, names, "fid", name, licence, higher_is_better=False),
        sources=sources or (lambda: find(config).sources),
        size=size,
        form=config.image.form,
        extractor=config.measure,
        crop=crop,
        mixed=config.image.mixed,
        steps=steps,
    )


def named(path: str | None, otherwise: str) -> str:
    """What the data set is called."""
    return Path(path).name if path else otherwise
