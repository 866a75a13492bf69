"""What generator and discriminator of a GAN minimise, and what keeps the discriminator smooth. Pure jnp, one value an example.

Logits are [n, ...], positive for "real", one an image or a map of them (PatchGAN, Isola et al., CVPR 2017), of which the mean
counts. All are to be minimised.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.nn import relu, softplus

Pair = Callable[[jax.Array, jax.Array], jax.Array]  # (logits of real images, of generated ones) -> the same shape
_TINY = 1e-12


class Loss(NamedTuple):
    """(real logits, fake logits) -> loss at each logit, of either network."""

    discriminator: Pair
    generator: Pair


def _logistic(real: jax.Array, fake: jax.Array) -> jax.Array:
    return softplus(-real) + softplus(fake)


LOSSES: Mapping[str, Loss] = {
    # The value function itself, V = E log D(x) + E log(1 - D(G(z))) with D the sigmoid of the logit: D ascends it, G descends
    # it. Goodfellow et al., NeurIPS 2014, equation 1.
    "minimax": Loss(_logistic, lambda real, fake: -softplus(fake)),
    # G ascends E log D(G(z)), whose slope does not vanish where D is sure. The same, section 3.
    "non_saturating": Loss(_logistic, lambda real, fake: softplus(-fake)),
    # Lim & Ye, arXiv:1705.02894; Miyato et al., ICLR 2018, equations 16 and 17.
    "hinge": Loss(lambda real, fake: relu(1 - real) + relu(1 + fake), lambda real, fake: -fake),
    # Mao et al., ICCV 2017, equation 9.
    "least_squares": Loss(
        lambda real, fake: (jnp.square(real - 1) + jnp.square(fake)) / 2, lambda real, fake: jnp.square(fake - 1) / 2
    ),
    # Arjovsky et al., ICML 2017, equation 2; it wants a gradient penalty (Gulrajani et al., NeurIPS 2017).
    "wasserstein": Loss(lambda real, fake: fake - real, lambda real, fake: -fake),
    # Relativistic pairs: Jolicoeur-Martineau, ICLR 2019; Huang et al. (R3GAN), NeurIPS 2024, equation 2.
    "relativistic": Loss(lambda real, fake: softplus(fake - real), lambda real, fake: softplus(real - fake)),
}


def per_example(values: jax.Array) -> jax.Array:
    """[n, ...] -> the mean of each example, float32 [n]."""
    return values.astype(jnp.float32).reshape(len(values), -1).mean(1)


def slopes(judge: Callable[[jax.Array], jax.Array], image: jax.Array) -> jax.Array:
    """|d D(x_i) / d x_i|^2 of each example, float32 [n]; D of a map of logits is their mean.

    Args:
      judge: images [n, ...] -> logits [n, ...].
      image: where to take it.
    """
    gradient = jax.grad(lambda x: per_example(judge(x)).sum())(image)
    return jnp.square(gradient.astype(jnp.float32)).reshape(len(image), -1).sum(1)


def zero_centred(judge: Callable[[jax.Array], jax.Array], image: jax.Array) -> jax.Array:
    """R1 at real images, R2 at generated ones: |grad D|^2 / 2, [n]. Mescheder et al., ICML 2018, equations 9 and 10."""
    return slopes(judge, image) / 2


def one_centred(judge: Callable[[jax.Array], jax.Array], real: jax.Array, fake: jax.Array, share: jax.Array) -> jax.Array:
    """WGAN-GP: (|grad D| - 1)^2 between a real and a generated image, [n]. Gulrajani et al., NeurIPS 2017, equation 3.

    Args:
      judge: images -> logits.
      real, fake: [n, ...].
      share: [n], of the real image in the mixture, uniform in 0..1.
    """
    share = share.reshape(-1, *[1] * (real.ndim - 1))
    # The root has no slope at 0, where a flat discriminator begins.
    norm = jnp.sqrt(slopes(judge, share * real + (1 - share) * fake) + _TINY)
    return jnp.square(norm - 1)
