"""RED-CNN for low-dose CT (Chen et al., IEEE Transactions on Medical Imaging 36(12), 2017, figure 1)."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from medjax.nn import Conv, ConvTranspose


class REDCNN(nn.Module):
    """Five convolutions and five transposed ones, 5x5, with three shortcuts from the same depth and relu behind each.

    The paper's do not pad, which takes 20 pixels off each side in between; the transposed ones give them back. The relu behind
    the last is left out, since Hounsfield units below the scale's zero are values like others.

    Attributes:
      channels: of the output, the first of the input.
      features: channels in between, 96 in the paper.
    """

    channels: int = 1
    features: int = 96

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """x [n, H, W, C] float, sides of 21 and more -> [n, H, W, channels] float32."""
        small = nn.initializers.normal(0.01)  # section II-C
        shortcuts = [x[..., : self.channels]]
        y = x
        for i in range(5):
            y = nn.relu(Conv(self.features, (5, 5), padding="VALID", kernel_init=nn.initializers.he_normal())(y))
            if i in (1, 3):
                shortcuts.append(y)
        for i in range(5):
            last = i == 4
            y = ConvTranspose(self.channels if last else self.features, (5, 5), padding="VALID", kernel_init=small)(y)
            if i % 2 == 0:
                y = y + shortcuts.pop()
            y = y if last else nn.relu(y)
        return y.astype(jnp.float32)
