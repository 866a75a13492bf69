"""From the host's integers to floats, and steps put together: in a row, by chance, and over pairs of examples."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from medjax.core import Augment, Batch
from medjax.errors import InputError

ImageAugment = Callable[[jax.Array, jax.Array], jax.Array]


def to_unit(image: jax.Array) -> jax.Array:
    """Integers to float32 in 0..1 by the range of their dtype; floats pass as they are."""
    if jnp.issubdtype(image.dtype, jnp.integer):
        return image.astype(jnp.float32) / jnp.iinfo(image.dtype).max
    return image.astype(jnp.float32)


def apply_windows(image: jax.Array, windows: Sequence[tuple[float, float]]) -> jax.Array:
    """CT windows as channels: (HU - (centre - width / 2)) / width, clipped to 0..1 (DICOM PS3.3, C.11.2.1.3.2, linear exact).

    Args:
      image: integers [..., 1] in Hounsfield units; floats count as windowed already and pass as they are.
      windows: (centre, width) of each channel, in Hounsfield units.

    Returns:
      float32 [..., len(windows)].
    """
    if not jnp.issubdtype(image.dtype, jnp.integer):
        return image.astype(jnp.float32)
    centre, width = np.asarray(windows, np.float32).T
    return jnp.clip((image.astype(jnp.float32) - (centre - width / 2)) / width, 0, 1)


def image_augment(
    *steps: ImageAugment, start: Callable[[jax.Array], jax.Array] = to_unit
) -> Callable[[jax.Array, Mapping[str, Any]], dict[str, Any]]:
    """An example's `image` through the steps in order, each with a key of its own.

    Args:
      steps: f(key, image) -> image.
      start: the host's integers to floats, 0 for what is dark, such as `apply_windows` with its windows. The task's `inputs`
        must do the same to the integers that evaluation gives it.
    """

    def augment(key: jax.Array, example: Mapping[str, Any]) -> dict[str, Any]:
        image = start(example["image"])
        for i, step in enumerate(steps):
            image = step(jax.random.fold_in(key, i), image)
        return {**example, "image": image}

    return augment


def choose(probability: float, step: ImageAugment) -> ImageAugment:
    """The step with a probability, else the image as it is. In a batch it is computed either way."""

    def apply(key: jax.Array, image: jax.Array) -> jax.Array:
        key_p, key_s = jax.random.split(key)
        return jnp.where(jax.random.bernoulli(key_p, float(probability)), step(key_s, image), image)

    return apply


def mixup(augment: Callable[[jax.Array, Batch], Batch], *, alpha: float, classes: int) -> Augment:
    """Mix each example with its neighbour: x = a x_i + (1 - a) x_j, and labels alike, a ~ Beta(alpha, alpha).

    Zhang et al., ICLR 2018, equation 1; pairs are the neighbours 0 and 1, 2 and 3, ... of the global batch, which the pipeline
    has shuffled, and both sides of a pair take the same a, so that any count of devices gives the same numbers.

    Args:
      augment: what is done to each example before, such as `image_augment`; it leaves `image` float.
      alpha: of the Beta distribution, above 0; published results lie at 0.1 to 0.4.
      classes: K.

    Returns:
      Augment that adds `target` float32 [n, K] to a batch: class probabilities that sum to 1 for a `label` [n]; for a
      multi-label `label` [n, K] each label's probability, -1 where either is missing. A pair with padding, or with a class
      number that is missing, stays as it is.

    Raises:
      InputError: alpha is not above 0. While tracing: a device's examples do not come in pairs, or the images are integers.
    """
    if not alpha > 0:
        raise InputError(f"mixup with alpha {alpha}: must be above 0", usage=True)

    def mix(keys: jax.Array, batch: Batch) -> Batch:
        image, label, mask = batch["image"], batch["label"], batch["mask"]
        if len(mask) % 2:
            raise InputError(
                f"mixup pairs neighbours, and a device's batch is {len(mask)}\n"
                "let --train.batch_size be a multiple of twice the number of devices",
                usage=True,
            )
        if not jnp.issubdtype(image.dtype, jnp.floating):
            raise InputError(f"mixup takes float images, not {image.dtype}\nlet image_augment come first")
        single = label.ndim == 1
        soft = jax.nn.one_hot(label, classes) if single else label.astype(jnp.float32)
        mixable = mask & (label >= 0) if single else mask
        mixable = mixable & _partner(mixable)
        drawn = jax.vmap(lambda key: jax.random.beta(key, alpha, alpha))(keys.reshape(-1, 2)[:, 0])
        share = jnp.repeat(drawn, 2)

        def blend(x: jax.Array) -> jax.Array:
            a, use = (v.reshape(-1, *[1] * (x.ndim - 1)) for v in (share, mixable))
            return jnp.where(use, a * x + (1 - a) * _partner(x), x)

        target = blend(soft)
        if not single:
            known = (label >= 0) & ((_partner(label) >= 0) | ~mixable[:, None])
            target = jnp.where(known, target, -1.0)
        return {**batch, "image": blend(image), "target": target}

    return Augment(augment, mix)


def _partner(x: jax.Array) -> jax.Array:
    """Each pair of rows [n, ...] changed over."""
    return x.reshape(-1, 2, *x.shape[1:])[:, ::-1].reshape(x.shape)
