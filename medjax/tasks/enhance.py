"""Enhancement as experiments configure it: images made worse in a stated way, or pairs, a network, and an adversarial phase."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from scipy import ndimage

from medjax.config import Experiment, Optimizer, Train
from medjax.core import About, Baseline, Batch, Job, Task
from medjax.data.augment.differentiable import differentiable
from medjax.data.layouts import detect, open_layout
from medjax.data.restored import given_images, whole_images
from medjax.data.volumes import GREY
from medjax.errors import InputError
from medjax.metrics.restoration import MAXIMUM, Scale
from medjax.models.patchgan import PatchGAN
from medjax.models.redcnn import REDCNN
from medjax.models.restoring_unet import RestoringUNet
from medjax.models.rrdb import RRDB
from medjax.models.unet_discriminator import UNetDiscriminator
from medjax.physics.mr import motion, rician, truncate
from medjax.tasks import restoration_baselines as simple
from medjax.tasks.adversarial import Game
from medjax.tasks.restoration import ADVERSARIAL, content_loss, in_turn, refining, restoration_job, restoring
from medjax.tasks.restored_cases import Degradation, prepare, smaller
from medjax.tasks.tiles import Tiling

PAIRS = ("paired_images", "ldct")  # layouts of a worse and a better image each


@dataclasses.dataclass(frozen=True)
class TwoPhases(Train):
    """The training loop: a plain phase of `steps` updates, then an adversarial one."""

    steps: int = 1000
    """Updates of the plain phase."""
    adversarial_steps: int = 0
    """Updates with the discriminator after those; 0 stops after the plain phase, whose best checkpoint is then taken."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.adversarial_steps < 0:
            raise InputError(f"--train.adversarial_steps {self.adversarial_steps}: must be 0 or more", usage=True)

    def total(self) -> int:
        """Updates of both phases."""
        return self.steps + self.adversarial_steps


@dataclasses.dataclass(frozen=True)
class Worse:
    """How whole images are made worse; pairs and images to be restored are taken as they are."""

    factor: int = 1
    """Each side of the worse image is that many times smaller."""
    how: Literal["kspace", "photons", "contrast"] = "kspace"
    """Magnetic resonance: the centre of k-space, Rician noise; X-rays: cells of pixels, Poisson noise; or less contrast."""
    noise: float = 0.02
    """kspace: standard deviation of both channels, as a share of the image's maximum."""
    shifts: float = 0.0
    """kspace: how far the patient moves during the scan, in pixels."""
    photons: float = 2000.0
    """photons: at the brightest pixel of the worse image."""
    thickness: int = 1
    """So many neighbouring slices of a volume are seen as one, at each slice, whatever else is done."""
    contrast: float = 0.5
    """contrast: by what factor differences to the mean shrink, with the noise of `noise`."""


@dataclasses.dataclass(frozen=True)
class Pictures:
    """How images are cut."""

    size: int = 0
    """Bring images whose longer side is above this down to it, before all else; 0 leaves them."""
    patch: int = 32
    """Side of training patches, on the worse image's grid."""
    channels: tuple[str, ...] = GREY
    """What the channels are, one to four: colour is kept as red green blue."""
    tile: int = 64
    """Side of the tiles that whole images are covered by, likewise."""


@dataclasses.dataclass(frozen=True)
class Network:
    """The network, and what it learns by."""

    name: Literal["rrdb", "unet", "redcnn"] = "rrdb"
    """Dense blocks (any factor), a residual U-Net or RED-CNN (factor 1)."""
    features: int = 32
    """Channels of the first stage."""
    blocks: int = 3
    """rrdb: blocks; unet: how many times the grid is halved."""
    pixel: Literal["absolute", "square"] = "absolute"
    """The pixels' loss."""
    structure: float = 0.0
    """Weight of 1 - SSIM."""
    features_from: str = ""
    """A finished classification run of medjax's, whose encoder's features are compared as well."""
    features_weight: float = 0.1
    """Weight of that distance."""


@dataclasses.dataclass(frozen=True)
class Adversary:
    """The second phase."""

    name: Literal["patchgan", "unet"] = "patchgan"
    """One logit for each patch, or for each pixel."""
    features: int = 32
    """Channels of the discriminator's first layer."""
    loss: Literal["relativistic", "non_saturating", "hinge", "least_squares", "wasserstein", "minimax"] = "relativistic"
    """See medjax.tasks.gan_losses."""
    weight: float = 0.2
    """Of the adversarial term beside the first phase's loss."""
    rate: float = 1e-4
    """The generator's peak learning rate."""
    discriminator_rate: float = 4e-4
    """The discriminator's: two time scales."""
    rounds: int = 1
    """The discriminator's steps for one of the generator's."""
    r1: float = 1.0
    """Weight of the squared slope at true images, over 2."""
    r2: float = 0.0
    """Likewise at restored ones."""
    lazy: int = 8
    """Take r1 and r2 every so many steps."""
    between: float = 0.0
    """Weight of WGAN-GP's penalty."""
    augment: tuple[Literal["colour", "translation", "cutout"], ...] = ("translation",)
    """Changes of what the discriminator sees."""


@dataclasses.dataclass(frozen=True)
class Config(Experiment):
    """Settings of an enhancement."""

    train: Train = TwoPhases()
    worse: Worse = Worse()
    image: Pictures = Pictures()
    model: Network = Network()
    adversary: Adversary = Adversary()
    optimizer: Optimizer = Optimizer(rate=1e-3, weight_decay=0.0)


def find_images(config: Config, channels: Sequence[str]) -> Mapping[str, Any]:
    """The Sources of --data.path: pairs where it looks like them, else all images there, to be made worse."""
    path = config.data.path
    if not path:
        raise InputError("this experiment has no data of its own\ngive yours: --data.path PATH", usage=True)
    found = next((name for name in detect(path) if name in PAIRS), "") if Path(path).is_dir() else ""
    if found:
        return open_layout(path, found, channels=channels).sources
    return whole_images(path, channels=channels)


def degradation(of: Worse) -> Degradation:
    """Images made worse as the settings say."""

    def make(truth: np.ndarray, rng: np.random.Generator, spacing: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        image = np.moveaxis(truth, -1, 1)  # [D, C, H, W]
        image = ndimage.uniform_filter1d(image, of.thickness, axis=0, mode="nearest") if of.thickness > 1 else image
        top = max(float(image.max()), 1e-6)
        if of.how == "kspace":
            seen = motion(rng, image, shifts=of.shifts) if of.shifts else image
            worse = np.abs(truncate(seen, of.factor)) if of.factor > 1 or of.shifts else seen
            worse = rician(rng, worse, sigma=of.noise * top)
        elif of.how == "photons":
            worse = cells(image, of.factor)
            worse = rng.poisson(np.maximum(worse, 0) * (of.photons / top)) * (top / of.photons)
        else:
            worse = cells(image, of.factor)
            middle = worse.mean((-2, -1), keepdims=True)
            worse = middle + (worse - middle) * of.contrast + of.noise * top * rng.standard_normal(worse.shape)
        return np.moveaxis(worse, 1, -1).astype(np.float32), truth

    return make


def tell(of: Worse) -> str:
    """The settings in a sentence."""
    ways = {
        "kspace": f"the centre of k-space, Rician noise of {of.noise:g} of the maximum"
        + (f", motion of up to {of.shifts:g} pixels" if of.shifts else ""),
        "photons": f"means of cells, Poisson noise of {of.photons:g} photons",
        "contrast": f"contrast times {of.contrast:g}, noise of {of.noise:g} of the maximum",
    }
    grid = f", sides {of.factor} times smaller" if of.factor > 1 else ""
    grid += f", {of.thickness} slices seen as one" if of.thickness > 1 else ""
    return f"Simulated where whole images are given: {ways[of.how]}{grid}. "


def cells(image: np.ndarray, factor: int) -> np.ndarray:
    """Means of `factor` x `factor` pixels, as a coarser detector sees: [..., h, w] -> [..., h / factor, w / factor]."""
    *lead, h, w = image.shape
    return image.reshape(*lead, h // factor, factor, w // factor, factor).mean((-3, -1))


def make_network(of: Network, factor: int, channels: int) -> Any:
    """The flax module that the settings describe.

    Raises:
      InputError: a network that cannot enlarge.
    """
    if of.name == "rrdb":
        return RRDB(channels, factor, of.features, of.features // 2, of.blocks)
    if factor > 1:
        raise InputError(f"--model.name {of.name}: only rrdb enlarges images\ntake it, or --worse.factor 1", usage=True)
    if of.name == "unet":
        return RestoringUNet(channels, of.features, of.blocks)
    return REDCNN(channels, of.features)


def make_adversary(of: Adversary) -> Any:
    """The discriminator that the settings describe."""
    return PatchGAN(of.features) if of.name == "patchgan" else UNetDiscriminator(of.features)


def turned(key: jax.Array, example: Batch) -> dict[str, Any]:
    """One of a square's eight orientations, of `worse` and `truth` alike."""
    flip, quarter = jax.random.bernoulli(key), jax.random.randint(jax.random.fold_in(key, 1), (), 0, 4)

    def turn(image: jax.Array) -> jax.Array:
        image = jnp.where(flip, image[:, ::-1], image)
        return jax.lax.switch(quarter, [functools.partial(jnp.rot90, k=k) for k in range(4)], image)

    return {**example, "worse": turn(example["worse"]), "truth": turn(example["truth"])}


def make_task(config: Config, model: Any) -> Task:
    """The plain training, and the adversarial one behind it where the settings want one."""
    import optax

    of, train, game = config.model, config.train, config.adversary
    features = None
    if of.features_from:
        from medjax.tasks.features import encoder_distance

        features = (encoder_distance(of.features_from), of.features_weight)
    loss = content_loss(of.pixel, structure=of.structure, features=features)
    first = restoring(model, config.optimizer.make(train.steps), loss=loss)
    later = train.total() - train.steps
    if not later:
        return first

    def tx(rate: float) -> optax.GradientTransformation:
        return optax.adam(optax.warmup_cosine_decay_schedule(0.0, rate, later // 20, later), b1=0.5, b2=0.99)

    then = refining(
        model,
        make_adversary(game),
        {"generator": tx(game.rate), "discriminator": tx(game.discriminator_rate)},
        loss=loss,
        augment=differentiable(game.augment),
        game=Game(game.loss, game.rounds, game.r1, game.r2, game.lazy, game.between, game.weight),
    )
    return in_turn(first, then, train.steps)


def enhance_job(
    config: Config,
    *,
    question: str,
    name: str,
    licence: str = "",
    sources: Callable[[], Mapping[str, Any]] | None = None,
    degrade: Degradation | None = None,
    baselines: Mapping[str, Baseline] | None = None,
    channels: Sequence[str] = (),
    unit: float = 0.0,
    offset: float = 0.0,
    scale: Scale = MAXIMUM,
    structure: Scale = MAXIMUM,
    window: Scale = MAXIMUM,
    stated: str = "",
) -> Job:
    """The Job of an enhancement.

    Args:
      config: the settings.
      question: one sentence a clinician understands.
      name, licence: of the data set.
      sources: by default `find_images`.
      degrade: by default what `config.worse` says.
      baselines: by default interpolations where images are enlarged, else the input and tuned denoisers.
      channels: what the images' channels are, by default what the settings say.
      unit, offset: see `medjax.tasks.restored_cases.prepare`.
      scale, structure, window: of PSNR, of SSIM, and of figures.
      stated: how the images came about, said before the definition of PSNR where it is not what `config.worse` says.
    """
    channels = tuple(channels) or config.image.channels
    factor, later = config.worse.factor, config.train.total() - config.train.steps
    model = make_network(config.model, factor, len(channels))
    compared: dict[str, Any] = {"scale": scale, "structure": structure}
    usual: dict[str, Baseline]
    if factor > 1:
        usual = {
            "bicubic": simple.fixed(functools.partial(simple.bicubic, factor=factor), **compared),
            "zero_filled": simple.fixed(functools.partial(simple.sinc, factor=factor), **compared),
        }
    else:
        usual = {
            "input": simple.fixed(simple.as_input, **compared),
            "tv": simple.tuned(simple.tv, (0.01, 0.02, 0.04, 0.08, 0.16), **compared),
            "nlm": simple.tuned(simple.nlm, (0.01, 0.02, 0.04, 0.08, 0.16), **compared),
        }
    about = About("restoration", question, (), "" if later else "psnr", name, licence)
    return restoration_job(
        make_task(config, model),
        about=about,
        sources=sources or functools.partial(find_images, config, channels),
        read=functools.partial(given_images, channels=channels),
        preprocess=functools.partial(
            prepare,
            degrade=degrade or degradation(config.worse),
            factor=factor,
            unit=unit,
            offset=offset,
            shrink=functools.partial(smaller, size=config.image.size),
        ),
        tiling=Tiling(config.image.patch, config.image.tile, factor),
        baselines=usual if baselines is None else baselines,
        variants=(ADVERSARIAL,) if later else (),
        augment=turned,
        window=window,
        stated=stated or tell(config.worse),
        **compared,
    )
