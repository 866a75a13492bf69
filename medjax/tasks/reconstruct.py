"""Magnetic resonance from part of k-space, as experiments configure it: simulated from images, or fastMRI's files."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from medjax.cases import Cases, Rows
from medjax.config import Experiment, Optimizer, Train
from medjax.core import About, Baseline, Batch, Job, State, Task
from medjax.data.augment.differentiable import differentiable
from medjax.metrics.restoration import MAXIMUM
from medjax.models.consistent_unet import ConsistentUNet
from medjax.models.recurrent_varnet import RecurrentVarNet
from medjax.models.varnet import VarNet
from medjax.nn import image_losses
from medjax.physics import kspace as mr
from medjax.tasks import reconstruct_maps
from medjax.tasks import restoration_baselines as simple
from medjax.tasks.adversarial import Game, adversarial
from medjax.tasks.enhance import Adversary, TwoPhases, make_adversary
from medjax.tasks.kspace_cases import Sampling, Simulation, centre, draw_mask
from medjax.tasks.restoration import ADVERSARIAL, in_turn, measure, restoration_job
from medjax.tasks.supervised import supervised
from medjax.tasks.tiles import Tiling

RESIDUAL = "residual"
BANK = 64  # masks that training draws from


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
    """Weight of 1 - SSIM beside the absolute difference of magnitudes."""


@dataclasses.dataclass(frozen=True)
class Config(Experiment):
    """Settings of a reconstruction."""

    train: Train = TwoPhases()
    sampling: Sampling = Sampling()
    simulate: Simulation = Simulation()
    model: Network = Network()
    adversary: Adversary = Adversary(weight=0.1)
    optimizer: Optimizer = Optimizer(rate=2e-3, weight_decay=0.0)


def given(batch: Batch) -> dict[str, jax.Array]:
    """What networks take, in units of the case: {kspace, maps complex [n, C, H, W], sampled [n, 1, H, W]}."""
    spectrum = mr.as_complex(batch["kspace"]) / batch["scale"][:, 1, None, None, None]
    maps = mr.as_complex(batch["maps"]) if "maps" in batch else jnp.ones_like(spectrum)
    sampled = batch["sampled"].astype(jnp.float32)
    return {"kspace": spectrum * sampled, "sampled": sampled, "maps": maps}


def magnitude(pair: jax.Array, batch: Batch) -> jax.Array:
    """|x| of [n, H, W, 2], its middle as large as the truth, [n, h, w, 1]."""
    image = jnp.sqrt(jnp.square(pair).sum(-1) + 1e-12)
    return centre(image, batch["truth"].shape[1:3])[..., None]


def true_image(batch: Batch) -> jax.Array:
    """The truth in units of the case."""
    return batch["truth"] / batch["scale"][:, 1, None, None, None]


def make_network(of: Network) -> Any:
    """The flax module that the settings describe."""
    if of.name == "varnet":
        return VarNet(of.features, of.depth, of.cascades)
    if of.name == "recurrent":
        return RecurrentVarNet(of.features, of.cascades)
    return ConsistentUNet(of.features, of.depth)


def make_task(config: Config) -> Task:
    """The plain training, and the adversarial one behind it where the settings want one."""
    import optax

    of, train, play = config.model, config.train, config.adversary
    model = make_network(of)

    def loss(pair: jax.Array, batch: Batch) -> tuple[jax.Array, jax.Array]:
        found, truth = magnitude(pair, batch), true_image(batch)
        values = image_losses.absolute(found, truth)
        if of.structure:
            values += of.structure * image_losses.structure(found, truth)
        return values, (batch["label"] >= 0).astype(jnp.float32)

    def told(task: Task) -> Task:
        """The task with magnitudes and residuals for outputs."""

        def look(state: Any, batch: Batch) -> dict[str, jax.Array]:
            pair = task.predict(state, batch)["image"]
            return {"image": magnitude(pair, batch), RESIDUAL: mr.residual(mr.as_complex(pair), given(batch))}

        def evaluate(state: Any, batch: Batch, axis: str | None = None) -> dict[str, jax.Array]:
            return {**task.evaluate(state, batch, axis), **look(state, batch)}

        return task._replace(predict=look, evaluate=evaluate)

    plain = supervised(model, config.optimizer.make(train.steps), inputs=given, loss=loss, outputs=lambda y: {"image": y})
    later = train.total() - train.steps
    if not later:
        return told(plain)

    def tx(rate: float) -> optax.GradientTransformation:
        return optax.adam(optax.warmup_cosine_decay_schedule(0.0, rate, later // 20, later), b1=0.5, b2=0.99)

    against = adversarial(
        model,
        make_adversary(play),
        {"generator": tx(play.rate), "discriminator": tx(play.discriminator_rate)},
        inputs=true_image,
        given=given,
        content=loss,
        judged=lambda image, batch: image if image.shape[-1] == 1 else magnitude(image, batch),
        augment=differentiable(play.augment),
        game=Game(play.loss, play.rounds, play.r1, play.r2, play.lazy, play.between, play.weight),
    )
    return in_turn(told(plain), told(against), train.steps)


def drawn_anew(config: Config, shape: tuple[int, int]) -> Callable[[jax.Array, Batch], dict[str, Any]]:
    """Training examples mirrored, up and down and left and right, each under a mask of a bank of its own kind."""
    bank = jnp.asarray(np.stack([draw_mask(config.sampling, shape, k) for k in range(BANK)]), jnp.uint8)

    def augment(key: jax.Array, example: Batch) -> dict[str, Any]:
        keys = jax.random.split(key, 3)
        down, across = jax.random.bernoulli(keys[0]), jax.random.bernoulli(keys[1])

        def turn(image: jax.Array, rows: int) -> jax.Array:
            image = jnp.where(down, jnp.flip(image, rows), image)
            return jnp.where(across, jnp.flip(image, rows + 1), image)

        new = {**example, "truth": turn(example["truth"], 0)}
        seen = turn(mr.to_image(mr.as_complex(example["kspace"])), 1)
        new["kspace"] = mr.as_pair(mr.to_kspace(seen))
        if "maps" in example:
            new["maps"] = turn(example["maps"], 1)
        new["sampled"] = bank[jax.random.randint(keys[2], (), 0, BANK)][None]
        return new

    return augment


def tv(*columns: Any, iterations: int = 60) -> np.ndarray:
    """Compressed sensing with total variation (`medjax.physics.kspace.total_variation`), slice by slice."""
    *arrays, setting, unit = columns
    kspace, sampled, truth, *maps = arrays
    out = []
    for z in range(len(kspace)):
        spectrum = mr.as_complex(np.asarray(kspace[z])).astype(np.complex64) / np.float32(unit)
        sensitivities = mr.as_complex(np.asarray(maps[0][z])).astype(np.complex64) if maps else np.ones_like(spectrum)
        image = _tv(spectrum, sampled[z].astype(np.float32), sensitivities, np.float32(setting), iterations)
        out.append(centre(np.abs(np.asarray(image)), truth.shape[1:3])[..., None] * unit)
    return np.stack(out).astype(np.float32)


@functools.partial(jax.jit, static_argnums=4)
def _tv(kspace: jax.Array, sampled: jax.Array, maps: jax.Array, weight: jax.Array, iterations: int) -> jax.Array:
    scan = {"kspace": kspace, "sampled": sampled, "maps": maps}
    return mr.total_variation(scan, weight, iterations=iterations)


def measure_with_residual(rows: Rows, cases: Cases) -> dict[str, float]:
    """`medjax.tasks.restoration.measure`, and the mean residual."""
    found = measure(rows, cases)
    return {**found, **{name: float(np.mean(rows[name])) for name in rows if name.partition("/")[0] == RESIDUAL}}


def reconstruct_job(
    config: Config,
    *,
    question: str,
    name: str,
    sources: Callable[[], Mapping[str, Any]],
    read: Callable[[Sequence[Any]], Any],
    preprocess: Callable[[dict], dict],
    shape: tuple[int, int],
    coils: int,
    licence: str = "",
    stated: str = "",
) -> Job:
    """The Job of a reconstruction.

    Args:
      config: the settings.
      question, name, licence: words of the report.
      sources, read: of cases that `preprocess` makes into what `scanned` gives.
      preprocess: see there.
      shape: of k-space, (H, W).
      coils: 1 or several.
      stated: how the data came about, said before the definition of PSNR.
    """
    columns = ("kspace", "sampled", "truth", *(("maps",) if coils > 1 else ()))
    compared: dict[str, Any] = {"scale": MAXIMUM, "structure": MAXIMUM}
    baselines: dict[str, Baseline] = {
        "zero_filled": simple.fixed(simple.as_input, **compared),
        "tv": simple.tuned(tv, (0.001, 0.002, 0.004, 0.008, 0.016, 0.032), columns=columns, **compared),
    }
    later = config.train.total() - config.train.steps
    variants = (ADVERSARIAL,) if later else ()
    text = "Data-consistency residual |A x - y| / |y| over the points that were read, mean over slices and cases: how far the "
    text += "image is from what was measured."
    words = {f"{RESIDUAL}{variant}": text for variant in ("", *(f"/{v}" for v in variants))}
    about = About("restoration", question, (), "" if later else "psnr", name, licence, definitions=words)
    task, model = make_task(config), make_network(config.model)

    def pair(state: State, batch: Batch) -> jax.Array:
        plain = (state.params["first"], state.extra["first"]) if later else (state.params, state.extra)
        return model.apply({"params": plain[0], **plain[1]}, given(batch), train=False)

    maps = functools.partial(reconstruct_maps.explain, predict=task.predict, pair=pair, given=given, columns=columns)
    return restoration_job(
        task,
        about=about,
        sources=sources,
        read=read,
        preprocess=preprocess,
        tiling=Tiling(shape[0], shape[0]),
        baselines=baselines,
        variants=variants,
        augment=drawn_anew(config, shape),
        stated=stated,
        columns=columns,
        **compared,
    )._replace(measure=measure_with_residual, explain=maps)
