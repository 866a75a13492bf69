"""A U-Net as discriminator, with a logit at each pixel (Schönfeld et al., CVPR 2020; Real-ESRGAN, Wang et al., ICCVW 2021)."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from medjax.nn.spectral import SpectralConv


class UNetDiscriminator(nn.Module):
    """Three 4x4 convolutions of stride 2 down, bilinear upsampling and 3x3 convolutions up, skips added; spectral norm.

    Attributes:
      features: channels of the finest level.
      halvings: how many times the grid is halved; sides must be multiples of 2**halvings.
    """

    features: int = 32
    halvings: int = 3

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """x [n, H, W, C] float -> logits [n, H, W] float32, positive for "real"."""
        y, skips = nn.leaky_relu(SpectralConv(self.features, (3, 3))(x, train=train), 0.2), []
        for i in range(self.halvings):
            skips.append(y)
            y = nn.leaky_relu(SpectralConv(self.features * 2 ** (i + 1), (4, 4), 2, use_bias=False)(y, train=train), 0.2)
        for i in reversed(range(self.halvings)):
            y = jax.image.resize(y, (len(y), 2 * y.shape[1], 2 * y.shape[2], y.shape[3]), "linear")
            y = nn.leaky_relu(SpectralConv(self.features * 2**i, (3, 3), use_bias=False)(y, train=train), 0.2) + skips[i]
        y = nn.leaky_relu(SpectralConv(self.features, (3, 3), use_bias=False)(y, train=train), 0.2)
        return SpectralConv(1, (3, 3))(y, train=train)[..., 0].astype(jnp.float32)
