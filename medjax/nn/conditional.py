"""What networks of a GAN do with a class: by concatenation in the generator, by projection in the discriminator."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from medjax.nn.dense import Dense


def split_class(x: Any, name: str) -> tuple[jax.Array, jax.Array | None]:
    """(x[name], x["class"]) of a dict, (x, None) of an array."""
    return (x[name], x.get("class")) if isinstance(x, Mapping) else (x, None)


class ClassLatent(nn.Module):
    """A latent with a learnt vector of its class behind it: Mirza & Osindero, arXiv:1411.1784. Without classes, the latent.

    Attributes:
      classes: how many; 0 for none.
      features: length of a class's vector.
    """

    classes: int
    features: int = 32

    @nn.compact
    def __call__(self, z: jax.Array, label: jax.Array | None) -> jax.Array:
        """z [n, latent], label int [n] (-1: unknown, a vector of zeros) -> [n, latent + features].

        Raises:
          ValueError: classes without labels, or labels without classes.
        """
        _check(self.classes, label)
        if label is None:
            return z
        # A product with one-hot rows, whose gradient is no scatter.
        vector = Dense(self.features, use_bias=False, kernel_init=nn.initializers.normal(1.0), name="of_class")
        return jnp.concatenate([z, vector(jax.nn.one_hot(label, self.classes)).astype(z.dtype)], -1)


class ClassLogit(nn.Module):
    """A linear head whose weights are a common vector and one for the class: Miyato & Koyama, ICLR 2018, equation 3.

    Attributes:
      classes: how many; 0 for none.
      kernel_init: of the common vector.
    """

    classes: int
    kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(self, x: jax.Array, label: jax.Array | None) -> jax.Array:
        """x [n, features], label int [n] (-1: unknown, the common vector alone) -> logit [n] float32.

        Raises:
          ValueError: classes without labels, or labels without classes.
        """
        _check(self.classes, label)
        logit = nn.Dense(1, kernel_init=self.kernel_init)(x)[:, 0]
        if label is not None:
            own = nn.Dense(x.shape[-1], use_bias=False, kernel_init=nn.initializers.zeros, name="of_class")
            logit += (own(jax.nn.one_hot(label, self.classes)) * x).sum(-1)
        return logit.astype(jnp.float32)


def _check(classes: int, label: jax.Array | None) -> None:
    if bool(classes) != (label is not None):
        raise ValueError(f"a network of {classes} classes {'needs' if classes else 'takes no'} labels")
