"""Deep convolutional GAN (Radford et al., ICLR 2016), also conditional on a class; in the paper for 64 x 64 pixels."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from medjax.nn import BatchNorm, Conv, ConvTranspose
from medjax.nn.conditional import ClassLatent, ClassLogit, split_class

SIDE = 64
_INIT = nn.initializers.normal(0.02)  # section 4 of the paper
_COARSEST = 7  # sides are halved until they are that small: 64 to 4 in four steps, 28 to 7 in two


def halvings(side: int) -> int:
    """How often a side is halved, to 4 of 64 and 7 of 28.

    Raises:
      ValueError: an odd side on the way, or one that is too small.
    """
    count, now = 0, side
    while now > _COARSEST and not now % 2:
        now, count = now // 2, count + 1
    if now > _COARSEST or not count:
        raise ValueError(f"DCGAN takes sides of 2 to {_COARSEST} times a power of two from 2 on, not {side}")
    return count


class Generator(nn.Module):
    """Projection to 4 x 4, then four 4x4 transposed convolutions of stride 2, with batch normalisation and relu between.

    Radford et al., figure 1, tanh at the end: images lie in [-1, 1]. Other sides have more or fewer of them, see `halvings`.

    Attributes:
      channels: of the image.
      features: channels before the last layer; each layer before it has twice as many.
      side: of the image.
      classes: of a conditional generator; 0 for none.
    """

    channels: int = 1
    features: int = 64
    side: int = SIDE
    classes: int = 0

    @nn.compact
    def __call__(self, x: Any, *, train: bool) -> jax.Array:
        """latent [n, k] float, or {"latent", "class" int [n]} -> image [n, side, side, channels] float32 in [-1, 1]."""
        z, label = split_class(x, "latent")
        z = ClassLatent(self.classes, name="latent")(z, label)
        times = halvings(self.side)
        side, features = self.side >> times, self.features << (times - 1)
        x = nn.Dense(side * side * features, use_bias=False, kernel_init=_INIT)(z)
        x = nn.relu(BatchNorm()(x.reshape(-1, side, side, features), train=train))
        for i in reversed(range(times - 1)):
            x = ConvTranspose(self.features << i, (4, 4), (2, 2), use_bias=False, kernel_init=_INIT)(x)
            x = nn.relu(BatchNorm()(x, train=train))
        x = ConvTranspose(self.channels, (4, 4), (2, 2), kernel_init=_INIT)(x)
        return jnp.tanh(x.astype(jnp.float32))


class Discriminator(nn.Module):
    """Four 4x4 convolutions of stride 2 with leaky relu (slope .2), batch normalisation on all but the first, linear head.

    Attributes:
      features: channels of the first layer; each further one has twice as many.
      side: of the image; other sides have more or fewer convolutions, see `halvings`.
      classes: of a conditional one, by projection; 0 for none.
    """

    features: int = 64
    side: int = SIDE
    classes: int = 0

    @nn.compact
    def __call__(self, x: Any, *, train: bool) -> jax.Array:
        """image [n, side, side, C] float in [-1, 1], or {"image", "class" int [n]} -> logit [n] float32, positive for "real".

        Raises:
          ValueError: an image of another size.
        """
        x, label = split_class(x, "image")
        if x.shape[1:3] != (self.side, self.side):
            raise ValueError(f"Discriminator takes images of {self.side} x {self.side} pixels, not {x.shape[1]} x {x.shape[2]}")
        for i in range(halvings(self.side)):
            x = Conv(self.features << i, (4, 4), (2, 2), use_bias=i == 0, kernel_init=_INIT)(x)
            if i > 0:
                x = BatchNorm()(x, train=train)
            x = nn.leaky_relu(x, 0.2)
        x = x.reshape(len(x), -1)
        if not self.classes:
            return nn.Dense(1, kernel_init=_INIT)(x)[:, 0].astype(jnp.float32)
        return ClassLogit(self.classes, _INIT, name="head")(x, label)
