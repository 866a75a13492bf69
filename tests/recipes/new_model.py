"""A model of one's own: any flax module that takes (x, *, train). Nothing is registered; an experiment imports it."""

import flax.linen as nn
import jax

from medjax.nn import BatchNorm, Dropout


class BrightestSpot(nn.Module):
    """Global maximum of a few convolutional features: is something small and bright anywhere in the picture?

    Attributes:
      classes: number of logits.
      features: channels.
      dropout: rate before the head.
    """

    classes: int
    features: int = 4
    dropout: float = 0.1

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """x [n, H, W, C] float -> logits [n, classes]."""
        x = nn.Conv(self.features, (5, 5), strides=2, use_bias=False)(x)
        x = nn.relu(BatchNorm()(x, train=train))
        x = Dropout(self.dropout)(x.max((1, 2)), train=train)
        return nn.Dense(self.classes)(x)
