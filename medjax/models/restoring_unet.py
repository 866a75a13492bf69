"""A U-Net of residual blocks without normalisation, which adds what its input lacks (after EDSR, Lim et al., CVPRW 2017)."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from medjax.nn import Conv, Upsample, max_pool

_SLOPE = 0.2


class Block(nn.Module):
    """x + F(x), F two 3x3 convolutions with a leaky relu before each; 1x1 on the shortcut where channels change.

    F begins at zero, hence the block as its shortcut.

    Attributes:
      features: output channels.
    """

    features: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """x [n, H, W, C] -> [n, H, W, features]."""
        y = Conv(self.features, (3, 3))(nn.leaky_relu(x, _SLOPE))
        y = Conv(self.features, (3, 3), kernel_init=nn.initializers.zeros)(nn.leaky_relu(y, _SLOPE))
        return y + (x if x.shape[-1] == self.features else Conv(self.features, (1, 1))(x))


class RestoringUNet(nn.Module):
    """Intensities keep their meaning, since nothing is normalised; the output is the input and a learnt difference.

    Attributes:
      channels: of the output, the first of the input.
      features: channels of the finest level, doubled at each further one.
      depth: how many times the grid is halved; sides that 2**depth does not divide go on as their edges inside.
    """

    channels: int = 1
    features: int = 24
    depth: int = 3

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """x [n, H, W, C] float -> [n, H, W, channels] float32."""
        _, h, w, _ = x.shape
        start = x[..., : self.channels].astype(jnp.float32)
        x = jnp.pad(x, ((0, 0), (0, -h % 2**self.depth), (0, -w % 2**self.depth), (0, 0)), "edge")
        y, skips = Conv(self.features, (3, 3), name="stem")(x), []
        for level in range(self.depth):
            y = Block(self.features * 2**level)(y)
            skips.append(y)
            y = max_pool(y, 2)
        y = Block(self.features * 2**self.depth)(y)
        for level in reversed(range(self.depth)):
            features = self.features * 2**level
            y = Block(features)(jnp.concatenate([skips[level], Upsample(features, (2, 2))(y)], -1))
        y = Conv(self.channels, (3, 3), kernel_init=nn.initializers.zeros, name="head")(nn.leaky_relu(y, _SLOPE))
        return start + y[:, :h, :w].astype(jnp.float32)
