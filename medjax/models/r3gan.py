"""R3GAN in small: residual networks without normalisation for a GAN, in one and two dimensions (Huang et al., NeurIPS 2024).

Both networks are stages on grids that double, with bilinear resampling and a 1x1 convolution between, and blocks of an
inverted bottleneck: 1x1 to more channels, a grouped 3x3, 1x1 back. Weights begin as in Fixup (Zhang et al., ICLR 2019): the
last layer of a block at 0, the others smaller by the number of blocks, so that no normalisation is needed. Meant for the
relativistic loss with R1 and R2.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from medjax.nn import Conv, Dense
from medjax.nn.conditional import ClassLatent, ClassLogit, split_class
from medjax.nn.resampling import double, grids, halve

SLOPE = 0.2  # of leaky relu
COARSEST = 7  # the coarsest grid has sides up to that: 28 = 7 * 4, 64 = 4 * 16


def _scaled(gain: float) -> nn.initializers.Initializer:
    """He et al., ICCV 2015, equation 15, times a gain."""
    return nn.initializers.variance_scaling(gain**2 * 2 / (1 + SLOPE**2), "fan_in", "normal")


class Block(nn.Module):
    """x + F(x), F an inverted bottleneck of three convolutions with leaky relu between.

    Attributes:
      blocks: of the whole network, which the first weights are scaled by.
      expansion: channels inside over channels outside.
      group: channels of a group of the 3x3 convolution.
    """

    blocks: int
    expansion: int = 2
    group: int = 16

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """x [n, *S, C] -> [n, *S, C]."""
        rank, inside = x.ndim - 2, self.expansion * x.shape[-1]
        first = _scaled(self.blocks ** (-1 / 4))  # Fixup: L^(-1 / (2 m - 2)) with m = 3 layers
        groups = max(1, inside // self.group)
        y = nn.leaky_relu(Conv(inside, (1,) * rank, kernel_init=first)(x), SLOPE)
        y = nn.leaky_relu(Conv(inside, (3,) * rank, feature_group_count=groups, kernel_init=first)(y), SLOPE)
        return x + Conv(x.shape[-1], (1,) * rank, use_bias=False, kernel_init=nn.initializers.zeros)(y)


def _widths(count: int, features: int, most: int) -> list[int]:
    """Channels of each stage, the coarsest first."""
    return [min(most, features << k) for k in reversed(range(count))]


class Generator(nn.Module):
    """A learnt coarsest map whose channels the latent scales, then stages up to the image; no activation at the end.

    Attributes:
      shape: sides of the image, one or two of them.
      channels: of the image.
      features: channels of the finest stage; each coarser one has twice as many, up to `most`.
      most: channels at most; both are multiples of the block's group over its expansion, or less than that.
      blocks: in each stage.
      classes: of a conditional generator; 0 for none.
    """

    shape: Sequence[int] = (64, 64)
    channels: int = 1
    features: int = 16
    most: int = 128
    blocks: int = 1
    classes: int = 0

    @nn.compact
    def __call__(self, x: Any, *, train: bool) -> jax.Array:
        """latent [n, k], or {"latent", "class" int [n]} -> image [n, *shape, channels] float32, about -1..1."""
        z, label = split_class(x, "latent")
        z = ClassLatent(self.classes, name="latent")(z, label)
        shapes = grids(self.shape, COARSEST)
        widths, rank = _widths(len(shapes), self.features, self.most), len(self.shape)
        basis = self.param("basis", nn.initializers.normal(1.0), (*shapes[0], widths[0]), jnp.float32)
        scale = Dense(widths[0], use_bias=False, kernel_init=_scaled(1.0), name="scale")(z)
        y = scale.reshape(len(z), *[1] * rank, widths[0]) * basis.astype(scale.dtype)
        for stage, (shape, width) in enumerate(zip(shapes, widths)):
            if stage:
                if width != y.shape[-1]:
                    y = Conv(width, (1,) * rank, use_bias=False, kernel_init=_linear())(y)
                y = double(y, shape)
            for _ in range(self.blocks):
                y = Block(self.blocks * len(shapes))(y)
        return Conv(self.channels, (1,) * rank, use_bias=False, kernel_init=_linear())(y).astype(jnp.float32)


class Discriminator(nn.Module):
    """The generator's mirror image: stages down to the coarsest map, each of its channels weighed and summed, linear head.

    Attributes:
      features, most, blocks: as of `Generator`.
      classes: of a conditional one, by projection; 0 for none.
    """

    features: int = 16
    most: int = 128
    blocks: int = 1
    classes: int = 0

    @nn.compact
    def __call__(self, x: Any, *, train: bool) -> jax.Array:
        """image [n, *S, C] about -1..1, or {"image", "class" int [n]} -> logit [n] float32, positive for "real"."""
        y, label = split_class(x, "image")
        rank = y.ndim - 2
        shapes = grids(y.shape[1:-1], COARSEST)
        widths = _widths(len(shapes), self.features, self.most)
        y = Conv(widths[-1], (1,) * rank, use_bias=False, kernel_init=_linear())(y)
        for stage, width in reversed(list(enumerate(widths))):
            for _ in range(self.blocks):
                y = Block(self.blocks * len(shapes))(y)
            if stage:
                y = halve(y)
                if widths[stage - 1] != width:
                    y = Conv(widths[stage - 1], (1,) * rank, use_bias=False, kernel_init=_linear())(y)
        weights = self.param("basis", nn.initializers.normal((2 / y[0, ..., 0].size) ** 0.5), y.shape[1:], jnp.float32)
        y = (y * weights.astype(y.dtype)).sum(range(1, rank + 1))
        return ClassLogit(self.classes, name="head")(y, label)


def _linear() -> nn.initializers.Initializer:
    return nn.initializers.variance_scaling(1.0, "fan_in", "normal")
