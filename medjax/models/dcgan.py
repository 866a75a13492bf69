"""Deep convolutional GAN for images of 64 x 64 pixels (Radford et al., ICLR 2016)."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from medjax.nn import BatchNorm, Conv, ConvTranspose

SIDE = 64
_INIT = nn.initializers.normal(0.02)  # section 4 of the paper
_HALVINGS = 4  # from 64 x 64 to 4 x 4 pixels


class Generator(nn.Module):
    """Projection to 4 x 4, then four 4x4 transposed convolutions of stride 2, with batch normalisation and relu between.

    Radford et al., figure 1, tanh at the end: images lie in [-1, 1].

    Attributes:
      channels: of the image.
      features: channels before the last layer; each layer before it has twice as many.
    """

    channels: int = 1
    features: int = 64

    @nn.compact
    def __call__(self, z: jax.Array, *, train: bool) -> jax.Array:
        """z [n, latent] float -> image [n, 64, 64, channels] float32 in [-1, 1]."""
        side, features = SIDE >> _HALVINGS, self.features << (_HALVINGS - 1)
        x = nn.Dense(side * side * features, use_bias=False, kernel_init=_INIT)(z)
        x = nn.relu(BatchNorm()(x.reshape(-1, side, side, features), train=train))
        for i in reversed(range(_HALVINGS - 1)):
            x = ConvTranspose(self.features << i, (4, 4), (2, 2), use_bias=False, kernel_init=_INIT)(x)
            x = nn.relu(BatchNorm()(x, train=train))
        x = ConvTranspose(self.channels, (4, 4), (2, 2), kernel_init=_INIT)(x)
        return jnp.tanh(x.astype(jnp.float32))


class Discriminator(nn.Module):
    """Four 4x4 convolutions of stride 2 with leaky relu (slope .2), batch normalisation on all but the first, linear head.

    Attributes:
      features: channels of the first layer; each further one has twice as many.
    """

    features: int = 64

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """x [n, 64, 64, C] float in [-1, 1] -> logit [n] float32, positive for "real".

        Raises:
          ValueError: an image of another size.
        """
        if x.shape[1:3] != (SIDE, SIDE):
            raise ValueError(f"Discriminator takes images of {SIDE} x {SIDE} pixels, not {x.shape[1]} x {x.shape[2]}")
        for i in range(_HALVINGS):
            x = Conv(self.features << i, (4, 4), (2, 2), use_bias=i == 0, kernel_init=_INIT)(x)
            if i > 0:
                x = BatchNorm()(x, train=train)
            x = nn.leaky_relu(x, 0.2)
        return nn.Dense(1, kernel_init=_INIT)(x.reshape(len(x), -1))[:, 0].astype(jnp.float32)
