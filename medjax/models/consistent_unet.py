"""A U-Net on the zero-filled image whose answer is held to the measurements (Schlemper et al., IEEE TMI 37(2), 2018, eq. 7)."""

from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

from medjax.models.restoring_unet import RestoringUNet
from medjax.physics.kspace import adjoint, as_complex, as_pair, misfit


class ConsistentUNet(nn.Module):
    """x = z - w A^H (A z - y), z the U-Net's image: with one coil, measured points are w y + (1 - w) A z.

    Attributes:
      features, depth: of the U-Net.
      consistent: whether w is learnt; without it the answer is z.
    """

    features: int = 16
    depth: int = 3
    consistent: bool = True

    @nn.compact
    def __call__(self, x: Mapping[str, jax.Array], *, train: bool) -> jax.Array:
        """x {kspace complex [n, C, H, W], sampled [n, 1, H, W], maps complex [n, C, H, W]} -> [n, H, W, 2], real, imaginary."""
        z = RestoringUNet(2, self.features, self.depth, name="unet")(as_pair(adjoint(x["kspace"], x)), train=train)
        if not self.consistent:
            return z
        weight = nn.sigmoid(self.param("weight", nn.initializers.constant(2.0), (), jnp.float32))
        return z - weight * as_pair(misfit(as_complex(z), x))
