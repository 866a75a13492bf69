"""The plain convolutional network of introductory articles: convolution, relu and pooling, then a dense head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax

from medjax.nn import Conv, Dense, Dropout, max_pool


class ConvStage(nn.Module):
    """A 3x3 (x3) convolution that keeps the shape, relu, and a 2x2 (x2) max-pool.

    Attributes:
      features: output channels.
    """

    features: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """x [n, *S, C] -> [n, *S // 2, features]."""
        return max_pool(nn.relu(Conv(self.features, (3,) * (x.ndim - 2), name="conv")(x)), 2)


class CNN(nn.Module):
    """Stages of `ConvStage`, flattened, a dense layer with relu and dropout, linear head (LeCun et al., Proc. IEEE 1998).

    The input's rank decides between two and three dimensions. The head's weights belong to one size of image.

    Attributes:
      classes: number of logits.
      features: channels of each stage; every side must be at least 2 ** len(features).
      hidden: units of the dense layer.
      dropout: rate before the last layer.
    """

    classes: int
    features: Sequence[int] = (32, 64, 128, 128)
    hidden: int = 128
    dropout: float = 0.5

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool, features: bool = False) -> Any:
        """x [n, H, W, C] or [n, D, H, W, C] float -> logits [n, classes] float32, or with `features` the stages' maps.

        Raises:
          ValueError: an image too small to be halved in each stage.
        """
        least = 2 ** len(self.features)
        if min(x.shape[1:-1]) < least:
            raise ValueError(f"CNN of {len(self.features)} stages needs sides of {least} and more, not {x.shape[1:-1]}")
        maps = []
        for i, width in enumerate(self.features):
            x = ConvStage(width, name=f"stage{i + 1}")(x)
            maps.append(x)
        if features:
            return maps
        x = nn.relu(Dense(self.hidden, name="head_dense")(x.reshape(len(x), -1)))
        x = Dropout(self.dropout)(x, train=train)
        return nn.Dense(self.classes, name="head")(x)


def cnn(classes: int, *, dropout: float = 0.5) -> CNN:
    """The plain network with its default widths.

    Args:
      classes: number of logits.
      dropout: rate before the last layer.
    """
    return CNN(classes, dropout=dropout)
