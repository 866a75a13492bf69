"""Residual network for small images (He et al., CVPR 2016), sized by its fields."""

from collections.abc import Sequence

import flax.linen as nn
import jax

from medjax.nn import BatchNorm, Conv, Dropout


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut: relu(x + F(x)), He et al., figure 5 left.

    Attributes:
      features: output channels.
      stride: of the first convolution; a 1x1 projection follows it on the shortcut where shapes differ.
    """

    features: int
    stride: int = 1

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """x [n, H, W, C] -> [n, ceil(H / stride), ceil(W / stride), features]."""
        y = Conv(self.features, (3, 3), self.stride, use_bias=False)(x)
        y = nn.relu(BatchNorm()(y, train=train))
        y = Conv(self.features, (3, 3), use_bias=False)(y)
        y = BatchNorm(scale_init=nn.initializers.zeros)(y, train=train)
        if x.shape != y.shape:
            x = Conv(self.features, (1, 1), self.stride, use_bias=False)(x)
            x = BatchNorm()(x, train=train)
        return nn.relu(x + y)


class ResNet(nn.Module):
    """Basic-block ResNet: a stem, stages that double the channels and halve the grid, global mean, dropout, linear head.

    Attributes:
      classes: number of logits.
      width: channels of the first stage.
      blocks: blocks in each stage; (2, 2, 2, 2) is ResNet-18's depth.
      stem_stride: stride of the 5x5 stem; 1 keeps small images whole.
      dropout: rate before the head.
    """

    classes: int
    width: int = 16
    blocks: Sequence[int] = (1, 1, 1, 1)
    stem_stride: int = 2
    dropout: float = 0.2

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """x [n, H, W, C] float -> logits [n, classes] float32."""
        x = Conv(self.width, (5, 5), self.stem_stride, use_bias=False)(x)
        x = nn.relu(BatchNorm()(x, train=train))
        for stage, count in enumerate(self.blocks):
            for block in range(count):
                stride = 2 if stage > 0 and block == 0 else 1
                x = BasicBlock(self.width * 2**stage, stride)(x, train=train)
        x = x.mean((1, 2))
        x = Dropout(self.dropout)(x, train=train)
        return nn.Dense(self.classes)(x)
