"""A U-Net on the zero-filled image whose answer is held to the measurements (Schlemper et al., IEEE TMI 37(2), 2018, eq. 7)."""

from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

from medjax.models.restoring_unet import RestoringUNet
from medjax.physics.kspace import SCANNER
from medjax.physics.scanner import Scanner


class ConsistentUNet(nn.Module):
    """x = z - w B (A z - y), z the U-Net's image: of k-space with one coil, measured points are w y + (1 - w) A z.

    Attributes:
      scanner: A and B.
      features, depth: of the U-Net.
      consistent: whether w is learnt; without it the answer is z.
    """

    scanner: Scanner = SCANNER
    features: int = 16
    depth: int = 3
    consistent: bool = True

    @nn.compact
    def __call__(self, x: Mapping[str, jax.Array], *, train: bool) -> jax.Array:
        """x a scan of `scanner` -> image [n, H, W, its channels]."""
        z = RestoringUNet(self.scanner.channels, self.features, self.depth, name="unet")(self.scanner.start(x), train=train)
        if not self.consistent:
            return z
        weight = nn.sigmoid(self.param("weight", nn.initializers.constant(2.0), (), jnp.float32))
        return z - weight * self.scanner.step(z, x)
