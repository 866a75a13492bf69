"""The medjax side of a case: a Task as users build it, a batch, and a State to begin from."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from medjax.core import LATENT, Batch, State, Task, example_keys, purpose_keys
from medjax.models.dcgan import SIDE, Discriminator, Generator
from medjax.models.resnet import resnet18, resnet50
from medjax.models.sequence import Recurrent
from medjax.models.unet import UNet
from medjax.tasks.adversarial import adversarial
from medjax.tasks.supervised import supervised

RATE = 1e-3
ADAM_B1 = 0.9


class Problem(NamedTuple):
    """A Task and what to feed it.

    Attributes:
      task: built by `tasks.supervised` or `tasks.adversarial` with Adam; `predict` gives {"output"} or {"image"}.
      batch: {name: NumPy [n, ...]}, float32 inputs and int32 labels.
      latent: length of the generator's input, or None: no generator.
    """

    task: Task
    batch: dict[str, np.ndarray]
    latent: int | None = None


def build(family: str, sizes: Mapping[str, Any]) -> Problem:
    """The problem of a case."""
    builders: dict[str, Callable[..., Problem]] = {"resnet": resnet, "unet": unet, "dcgan": dcgan, "recurrent": recurrent}
    return builders[family](**sizes)


def resnet(*, depth: int, small_images: bool, side: int, channels: int, classes: int, batch: int, **fewer: Any) -> Problem:
    """Classify images [batch, side, side, channels]; `fewer` replaces fields (width, blocks), for tests."""
    model = {18: resnet18, 50: resnet50}[depth](classes, small_images=small_images).clone(**fewer)
    return _classify(model, (batch, side, side, channels), (batch,), classes)


def unet(*, shape: tuple[int, ...], features: int, depth: int, classes: int, batch: int) -> Problem:
    """Segment one-channel images of a shape."""
    model = UNet(classes, features=features, depth=depth)
    return _classify(model, (batch, *shape, 1), (batch, *shape), classes)


def recurrent(
    *, cell: Any, steps: int, inputs: int, features: int, classes: int, batch: int, shortest: int | None = None
) -> Problem:
    """Classify sequences [batch, steps, inputs]: all of full length, or of any from `shortest` on."""
    model = Recurrent(classes, cell=cell, features=features)
    problem = _classify(model, (batch, steps, inputs), (batch,), classes, lengths=shortest is not None)
    if shortest is None:
        return problem
    lengths = np.random.default_rng(2).integers(shortest, steps + 1, batch).astype(np.int32)
    return problem._replace(batch={**problem.batch, "lengths": lengths})


def dcgan(*, latent: int, features: int, channels: int, batch: int) -> Problem:
    """Generate images of 64 x 64 pixels: one simultaneous step of both networks."""
    task = adversarial(
        Generator(channels, features),
        Discriminator(features),
        {"generator": optax.adam(RATE, b1=ADAM_B1), "discriminator": optax.adam(RATE, b1=ADAM_B1)},
        latent=latent,
        inputs=lambda b: b["x"],
    )
    rng = np.random.default_rng(0)
    x = np.tanh(rng.normal(size=(batch, SIDE, SIDE, channels))).astype(np.float32)
    z = rng.normal(size=(batch, latent)).astype(np.float32)
    return Problem(task, {"x": x, "latent": z, "mask": np.ones(batch, bool)}, latent)


def _classify(model: Any, inputs: tuple[int, ...], labels: tuple[int, ...], classes: int, *, lengths: bool = False) -> Problem:
    task = supervised(
        model,
        optax.adam(RATE, b1=ADAM_B1),
        inputs=lambda b: {"values": b["x"], "lengths": b["lengths"]} if lengths else b["x"],
        loss=_cross_entropy,
        outputs=lambda y: {"output": y},
    )
    rng = np.random.default_rng(0)
    x = rng.normal(size=inputs).astype(np.float32)
    label = rng.integers(0, classes, labels).astype(np.int32)
    return Problem(task, {"x": x, "label": label, "mask": np.ones(inputs[0], bool)})


def _cross_entropy(logits: jax.Array, batch: Batch) -> tuple[jax.Array, jax.Array]:
    """Softmax cross-entropy: mean over the pixels of an example, if it has any."""
    # One-hot products and not gathers: a gather's gradient is a scatter, which CPUs and GPUs do one element at a time.
    truth = jax.nn.one_hot(batch["label"], logits.shape[-1])
    values = -(truth * jax.nn.log_softmax(logits)).sum(-1).reshape(len(logits), -1).mean(1)
    return values, jnp.ones(len(logits))


def start(problem: Problem) -> State:
    """A State of NumPy arrays with random values everywhere, statistics and zero-initialised scales included.

    As initialised, a residual branch ends in a scale of zero: a peer that had it all wrong would still agree.
    """
    rng = np.random.default_rng(1)
    shapes = jax.eval_shape(problem.task.init, jax.random.key(0), problem.batch)

    def fill(path: tuple, leaf: Any) -> Any:
        field, name = path[0].name, str(getattr(path[-1], "key", ""))
        if field == "key":
            return jax.random.key(0)
        if field in ("opt", "step"):
            return np.zeros(leaf.shape, leaf.dtype)
        if name in ("scale", "var"):
            return rng.uniform(0.5, 1.0, leaf.shape).astype(leaf.dtype)
        size = math.sqrt(1.5 / math.prod(leaf.shape[:-1])) if name.endswith("kernel") else 0.1
        return (size * rng.standard_normal(leaf.shape)).astype(leaf.dtype)

    return jax.tree_util.tree_map_with_path(fill, shapes)


def first_latents(problem: Problem, state: State) -> np.ndarray | None:
    """The latents [n, latent] that the task's first update draws, for a peer that must draw the same."""
    if problem.latent is None:
        return None
    keys = purpose_keys(example_keys(state.key, 0, len(problem.batch["mask"])), LATENT)
    return np.asarray(jax.vmap(lambda key: jax.random.normal(key, (problem.latent,)))(keys))


def first_gradients(opt: Any) -> dict[tuple[str, ...], np.ndarray]:
    """{path of a parameter: gradient} of the first update, from Adam's first moment m = (1 - b1) g (Kingma & Ba, 2015)."""
    found = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(opt):
        names = [getattr(p, "name", None) for p in path]
        if "mu" in names:
            whole = [str(p.key) for p in path if isinstance(p, jax.tree_util.DictKey)]
            found[tuple(whole)] = np.asarray(leaf) / (1 - ADAM_B1)
    return found
