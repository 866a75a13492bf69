"""Images from incomplete measurements, as experiments configure it: networks that are held to what a scanner has read."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from medjax.cases import Cases, Rows
from medjax.config import Experiment, Optimizer, Train
from medjax.core import About, Augment, Baseline, Batch, Job, State, Task
from medjax.data.augment.differentiable import differentiable
from medjax.metrics.restoration import MAXIMUM, Scale
from medjax.models.consistent_unet import ConsistentUNet
from medjax.models.recurrent_varnet import RecurrentVarNet
from medjax.models.varnet import VarNet
from medjax.nn import image_losses
from medjax.physics.scanner import Scan, Scanner
from medjax.tasks import reconstruct_maps
from medjax.tasks.adversarial import Game, adversarial
from medjax.tasks.enhance import Adversary, TwoPhases, make_adversary
from medjax.tasks.restoration import ADVERSARIAL, in_turn, measure, restoration_job, scaled
from medjax.tasks.supervised import supervised
from medjax.tasks.tiles import Tiling

RESIDUAL = "residual"


class Acquisition(NamedTuple):
    """How a job's cases were measured.

    Attributes:
      scanner: what networks are held to.
      columns: of a case, [D, ...] each, that a slice of it needs.
      given: batch -> the scanner's scan, in units of the case.
      shown: (image [n, H, W, channels], batch) -> what is looked at, [n, h, w, 1], in units of the case.
      mirror: (batch, axes out of -2 and -1) -> the batch of the images mirrored.
      augment: (key, example) -> example, in training.
      shape: (H, W) of images.
      read: what of the measurements there is, for the residual's definition.
    """

    scanner: Scanner
    columns: tuple[str, ...]
    given: Callable[[Batch], Scan]
    shown: Callable[[jax.Array, Batch], jax.Array]
    mirror: Callable[[Batch, tuple[int, ...]], dict[str, Any]]
    augment: Callable | Augment
    shape: tuple[int, int]
    read: str


@dataclasses.dataclass(frozen=True)
class Network:
    """The network, and what it learns by."""

    name: Literal["varnet", "recurrent", "unet"] = "varnet"
    """Unrolled variational network, recurrent one, or a U-Net with data consistency."""
    features: int = 12
    """Channels of the first stage."""
    depth: int = 2
    """How many times a U-Net halves the grid."""
    cascades: int = 4
    """Steps on the measurements."""
    structure: float = 0.1
    """Weight of 1 - SSIM beside the absolute difference of what is shown."""


@dataclasses.dataclass(frozen=True)
class Config(Experiment):
    """Settings of a reconstruction."""

    train: Train = TwoPhases()
    model: Network = Network()
    adversary: Adversary = Adversary(weight=0.1)
    optimizer: Optimizer = Optimizer(rate=2e-3, weight_decay=0.0)


def make_network(of: Network, scanner: Scanner) -> Any:
    """The flax module that the settings describe."""
    if of.name == "varnet":
        return VarNet(scanner, of.features, of.depth, of.cascades)
    if of.name == "recurrent":
        return RecurrentVarNet(scanner, of.features, of.cascades)
    return ConsistentUNet(scanner, of.features, of.depth)


def make_task(config: Config, how: Acquisition) -> Task:
    """The plain training, and the adversarial one behind it where the settings want one."""
    import optax

    of, train, play = config.model, config.train, config.adversary
    model = make_network(of, how.scanner)

    def loss(image: jax.Array, batch: Batch) -> tuple[jax.Array, jax.Array]:
        found, truth = how.shown(image, batch), scaled(batch, "truth")
        values = image_losses.absolute(found, truth)
        if of.structure:
            values += of.structure * image_losses.structure(found, truth)
        return values, (batch["label"] >= 0).astype(jnp.float32)

    def told(task: Task) -> Task:
        """The task with what is shown and residuals for outputs."""

        def look(state: Any, batch: Batch) -> dict[str, jax.Array]:
            image = task.predict(state, batch)["image"]
            return {"image": how.shown(image, batch), RESIDUAL: how.scanner.residual(image, how.given(batch))}

        def evaluate(state: Any, batch: Batch, axis: str | None = None) -> dict[str, jax.Array]:
            return {**task.evaluate(state, batch, axis), **look(state, batch)}

        return task._replace(predict=look, evaluate=evaluate)

    tx = config.optimizer.make(train.steps)
    plain = supervised(model, tx, inputs=how.given, loss=loss, outputs=lambda y: {"image": y})
    later = train.total() - train.steps
    if not later:
        return told(plain)

    def slower(rate: float) -> optax.GradientTransformation:
        return optax.adam(optax.warmup_cosine_decay_schedule(0.0, rate, later // 20, later), b1=0.5, b2=0.99)

    def judged(image: jax.Array, batch: Batch) -> jax.Array:
        # True images are as they are shown; with one channel the network's are too.
        return image if image.shape[-1] == 1 else how.shown(image, batch)

    against = adversarial(
        model,
        make_adversary(play),
        {"generator": slower(play.rate), "discriminator": slower(play.discriminator_rate)},
        inputs=functools.partial(scaled, name="truth"),
        given=how.given,
        content=loss,
        judged=judged,
        augment=differentiable(play.augment),
        game=Game(play.loss, play.rounds, play.r1, play.r2, play.lazy, play.between, play.weight),
    )
    return in_turn(told(plain), told(against), train.steps)


def measure_with_residual(rows: Rows, cases: Cases) -> dict[str, float]:
    """`medjax.tasks.restoration.measure`, and the mean residual."""
    found = measure(rows, cases)
    return {**found, **{name: float(np.mean(rows[name])) for name in rows if name.partition("/")[0] == RESIDUAL}}


def reconstruct_job(
    config: Config,
    how: Acquisition,
    *,
    question: str,
    name: str,
    sources: Callable[[], Mapping[str, Any]],
    read: Callable[[Sequence[Any]], Any],
    preprocess: Callable[[dict], dict],
    baselines: Mapping[str, Baseline],
    licence: str = "",
    stated: str = "",
    scale: Scale = MAXIMUM,
    structure: Scale = MAXIMUM,
    window: Scale = MAXIMUM,
) -> Job:
    """The Job of a reconstruction.

    Args:
      config: the settings.
      how: the cases were measured.
      question, name, licence: words of the report.
      sources, read: of cases that `preprocess` makes into `how.columns`, `worse` (the plain way's image) and `truth`
        [D, h, w, 1], `scale`, and the facts that `medjax.tasks.restored_cases.prepare` gives.
      preprocess: see there.
      baselines: see `medjax.tasks.restoration_baselines`.
      stated: how the data came about, said before the definition of PSNR.
      scale, structure, window: of PSNR, of SSIM, and of figures.
    """
    later = config.train.total() - config.train.steps
    variants = (ADVERSARIAL,) if later else ()
    text = f"Data-consistency residual |A x - y| / |y| over {how.read}, mean over slices and cases: how far the image is from "
    text += "what was measured."
    words = {f"{RESIDUAL}{variant}": text for variant in ("", *(f"/{v}" for v in variants))}
    about = About("restoration", question, (), "" if later else "psnr", name, licence, definitions=words)
    task, model = make_task(config, how), make_network(config.model, how.scanner)

    def image(state: State, batch: Batch) -> jax.Array:
        plain = (state.params["first"], state.extra["first"]) if later else (state.params, state.extra)
        return model.apply({"params": plain[0], **plain[1]}, how.given(batch), train=False)

    return restoration_job(
        task,
        about=about,
        sources=sources,
        read=read,
        preprocess=preprocess,
        tiling=Tiling(how.shape[0], how.shape[0]),
        baselines=baselines,
        variants=variants,
        augment=how.augment,
        stated=stated,
        columns=how.columns,
        scale=scale,
        structure=structure,
        window=window,
    )._replace(
        measure=measure_with_residual,
        explain=functools.partial(reconstruct_maps.explain, how=how, image=image, window=window),
    )
