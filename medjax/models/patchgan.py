"""PatchGAN, a discriminator that judges patches one by one (pix2pix, Isola et al., CVPR 2017, section 3.2.2)."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from medjax.nn.spectral import SpectralConv


class PatchGAN(nn.Module):
    """4x4 convolutions of stride 2, then two of stride 1, leaky relu between; 3 halvings see 70 x 70 pixels.

    Spectral normalisation stands in place of the paper's batch normalisation, so that no image is judged by its neighbours.

    Attributes:
      features: channels of the first layer, doubled at each further one, up to eight times as many.
      halvings: how many times the grid is halved.
    """

    features: int = 64
    halvings: int = 3

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """x [n, H, W, C] float -> logits [n, H / 2**halvings, W / 2**halvings] float32, positive for "real"."""
        for i in range(self.halvings):
            x = nn.leaky_relu(SpectralConv(self.features * min(2**i, 8), (4, 4), 2)(x, train=train), 0.2)
        x = nn.leaky_relu(SpectralConv(self.features * min(2**self.halvings, 8), (4, 4))(x, train=train), 0.2)
        return SpectralConv(1, (4, 4))(x, train=train)[..., 0].astype(jnp.float32)
