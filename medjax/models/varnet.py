"""Variational network: steps on the misfit and learnt ones in turn, unrolled (Hammernik et al., MRM 79, 2018)."""

from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

from medjax.models.restoring_unet import RestoringUNet
from medjax.physics.kspace import SCANNER
from medjax.physics.scanner import Scanner


class VarNet(nn.Module):
    """x <- R_t(x - eta_t B (A x - y)), R_t a U-Net of its own each time, as Sriram et al., MICCAI 2020, have it.

    Attributes:
      scanner: A and B.
      features, depth: of each U-Net.
      cascades: how many times.
    """

    scanner: Scanner = SCANNER
    features: int = 12
    depth: int = 2
    cascades: int = 4

    @nn.compact
    def __call__(self, x: Mapping[str, jax.Array], *, train: bool) -> jax.Array:
        """x a scan of `scanner` -> image [n, H, W, its channels]."""
        image = self.scanner.start(x)
        for t in range(self.cascades):
            step = self.param(f"step{t}", nn.initializers.ones, (), jnp.float32)
            image = image - step * self.scanner.step(image, x)
            image = RestoringUNet(self.scanner.channels, self.features, self.depth, name=f"cascade{t}")(image, train=train)
        step = self.param("last", nn.initializers.constant(0.5), (), jnp.float32)
        return image - step * self.scanner.step(image, x)
