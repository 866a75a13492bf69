"""Variational network: steps on the misfit and learnt ones in turn, unrolled (Hammernik et al., MRM 79, 2018)."""

from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

from medjax.models.restoring_unet import RestoringUNet
from medjax.physics.kspace import adjoint, as_complex, as_pair, misfit


class VarNet(nn.Module):
    """x <- R_t(x - eta_t A^H (A x - y)), R_t a U-Net of its own each time, as Sriram et al., MICCAI 2020, have it.

    Attributes:
      features, depth: of each U-Net.
      cascades: how many times.
    """

    features: int = 12
    depth: int = 2
    cascades: int = 4

    @nn.compact
    def __call__(self, x: Mapping[str, jax.Array], *, train: bool) -> jax.Array:
        """x as of `ConsistentUNet` -> [n, H, W, 2], real and imaginary part."""
        image = as_pair(adjoint(x["kspace"], x))
        for t in range(self.cascades):
            step = self.param(f"step{t}", nn.initializers.ones, (), jnp.float32)
            image = image - step * as_pair(misfit(as_complex(image), x))
            image = RestoringUNet(2, self.features, self.depth, name=f"cascade{t}")(image, train=train)
        step = self.param("last", nn.initializers.constant(0.5), (), jnp.float32)
        return image - step * as_pair(misfit(as_complex(image), x))
