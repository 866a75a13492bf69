"""U-Net in two and three dimensions (Ronneberger et al., MICCAI 2015; Çiçek et al., MICCAI 2016)."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from medjax.nn import BatchNorm, Conv, ConvTranspose, max_pool


class ConvBlock(nn.Module):
    """Twice: 3x3 (x3) convolution that keeps the shape, batch normalisation, relu.

    Attributes:
      features: output channels.
    """

    features: int

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """x [n, ..., C] -> [n, ..., features]."""
        for _ in range(2):
            x = Conv(self.features, (3,) * (x.ndim - 2), use_bias=False)(x)
            x = nn.relu(BatchNorm()(x, train=train))
        return x


class UNet(nn.Module):
    """Encoder and decoder with a skip at each resolution; the input's rank decides between two and three dimensions.

    Ronneberger et al., figure 1, with convolutions that keep the shape (the output is as large as the input) and batch
    normalisation (Çiçek et al., section 2.1). Level i has features * 2**i channels.

    Attributes:
      classes: number of logits at each pixel.
      features: channels of the finest level.
      depth: how many times the grid is halved; every side must be a multiple of 2**depth.
    """

    classes: int
    features: int = 32
    depth: int = 4

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """x [n, H, W, C] or [n, D, H, W, C] float -> logits [n, (D,) H, W, classes] float32.

        Raises:
          ValueError: another rank, or a side that 2**depth does not divide.
        """
        dims, step = x.ndim - 2, 2**self.depth
        if dims not in (2, 3):
            raise ValueError(f"UNet takes [n, H, W, C] or [n, D, H, W, C], not {x.shape}")
        if any(side % step for side in x.shape[1:-1]):
            raise ValueError(f"UNet of depth {self.depth} needs sides that are multiples of {step}, not {x.shape[1:-1]}: pad")
        skips = []
        for level in range(self.depth):
            x = ConvBlock(self.features * 2**level)(x, train=train)
            skips.append(x)
            x = max_pool(x, 2)
        x = ConvBlock(self.features * step)(x, train=train)
        for level in reversed(range(self.depth)):
            features = self.features * 2**level
            x = ConvTranspose(features, (2,) * dims, (2,) * dims)(x)
            x = ConvBlock(features)(jnp.concatenate([skips[level], x], -1), train=train)
        return Conv(self.classes, (1,) * dims)(x).astype(jnp.float32)
