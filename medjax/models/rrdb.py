"""RRDB, residual in residual dense blocks for super-resolution (ESRGAN, Wang et al., ECCV Workshops 2018, figure 4)."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from medjax.nn import Conv, Upsample

_SCALE = 0.2  # of each residual branch, section 3.1
_SLOPE = 0.2
_INIT = nn.initializers.variance_scaling(0.1, "fan_in", "normal")  # a tenth of He's, so that branches begin small


class DenseBlock(nn.Module):
    """Five 3x3 convolutions, each seeing all before it, leaky relu between; added to the input at .2.

    Attributes:
      growth: channels of each of the first four.
    """

    growth: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """x [n, H, W, C] -> same shape."""
        seen = x
        for _ in range(4):
            y = nn.leaky_relu(Conv(self.growth, (3, 3), kernel_init=_INIT)(seen), _SLOPE)
            seen = jnp.concatenate([seen, y], -1)
        return x + _SCALE * Conv(x.shape[-1], (3, 3), kernel_init=_INIT)(seen)


class RRDB(nn.Module):
    """Blocks of three dense blocks on the input's grid, then learnt upsampling; no normalisation, which blurs textures.

    It learns what linear interpolation of the input lacks.

    Attributes:
      channels: of the output, the first of the input.
      factor: 1 to keep the grid, or by how much each side grows.
      features: channels of the blocks.
      growth: of the dense blocks' inner convolutions.
      blocks: how many.
    """

    channels: int = 1
    factor: int = 4
    features: int = 32
    growth: int = 16
    blocks: int = 3

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """x [n, H, W, C] float -> [n, H factor, W factor, channels] float32."""
        first = Conv(self.features, (3, 3), name="stem")(x)
        y = first
        for _ in range(self.blocks):
            z = y
            for _ in range(3):
                z = DenseBlock(self.growth)(z)
            y = y + _SCALE * (z - y)
        y = first + Conv(self.features, (3, 3))(y)
        if self.factor > 1:
            y = nn.leaky_relu(Upsample(self.features, (self.factor, self.factor))(y), _SLOPE)
        y = nn.leaky_relu(Conv(self.features, (3, 3))(y), _SLOPE)
        y = Conv(self.channels, (3, 3), kernel_init=nn.initializers.zeros, name="head")(y).astype(jnp.float32)
        n, h, w, _ = x.shape
        low = x[..., : self.channels].astype(jnp.float32)
        return y + jax.image.resize(low, (n, h * self.factor, w * self.factor, self.channels), "linear")
