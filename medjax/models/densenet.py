"""Densely connected networks (Huang et al., CVPR 2017)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from medjax.nn import BatchNorm, Conv, Dropout, max_pool

_CENTRED = ((1, 1), (1, 1))


class DenseLayer(nn.Module):
    """Bottleneck layer (Huang et al., section 3, "DenseNet-B"): norm, relu, 1x1 and norm, relu, 3x3, appended to its input.

    Attributes:
      growth: channels it appends.
    """

    growth: int

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """x [n, H, W, C] -> [n, H, W, C + growth]."""
        y = nn.relu(BatchNorm(name="norm1")(x, train=train))
        y = Conv(4 * self.growth, (1, 1), use_bias=False, name="conv1")(y)
        y = nn.relu(BatchNorm(name="norm2")(y, train=train))
        y = Conv(self.growth, (3, 3), padding=_CENTRED, use_bias=False, name="conv2")(y)
        return jnp.concatenate([x, y], -1)


class DenseStage(nn.Module):
    """A transition from the stage before, dense layers, and the normalisation that closes them.

    The norm and relu at a block's end are a transition's first half in the paper; they stand here, with the last block's, so
    that every stage gives a map that is normalised and not negative.

    Attributes:
      layers: how many.
      growth: channels that each appends.
      shrink: begin with a 1x1 convolution to half the channels and a 2x2 mean of stride 2.
    """

    layers: int
    growth: int
    shrink: bool

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """x [n, H, W, C] -> [n, H, W, C + layers * growth], or halves of H, W and C in it with `shrink`."""
        if self.shrink:
            x = Conv(x.shape[-1] // 2, (1, 1), use_bias=False, name="conv")(x)
            x = nn.avg_pool(x, (2, 2), (2, 2))
        for layer in range(self.layers):
            x = DenseLayer(self.growth, name=f"layer{layer}")(x, train=train)
        return nn.relu(BatchNorm(name="norm")(x, train=train))


class DenseNet(nn.Module):
    """A stem, stages whose layers see all that came before them in the stage, global mean, dropout, linear head.

    `densenet121` fills the fields in.

    Attributes:
      classes: number of logits.
      growth: channels that a layer appends; the stem has twice as many.
      layers: in each stage.
      dropout: rate before the head.
    """

    classes: int
    growth: int = 32
    layers: Sequence[int] = (6, 12, 24, 16)
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool, features: bool = False) -> Any:
        """x [n, H, W, C] float -> logits [n, classes] float32, or with `features` the maps of stem and stages, finest first."""
        x = Conv(2 * self.growth, (7, 7), 2, padding=((3, 3), (3, 3)), use_bias=False, name="stem_conv")(x)
        x = nn.relu(BatchNorm(name="stem_norm")(x, train=train))
        maps = [x]
        x = max_pool(x, 3, strides=2, padding=_CENTRED)
        for i, count in enumerate(self.layers):
            x = DenseStage(count, self.growth, shrink=i > 0, name=f"stage{i + 1}")(x, train=train)
            maps.append(x)
        if features:
            return maps
        x = x.mean((1, 2))
        x = Dropout(self.dropout)(x, train=train)
        return nn.Dense(self.classes, name="head")(x)

    @staticmethod
    def from_torch(name: str) -> str | None:
        """A parameter's path in this network from its name in torchvision, timm and TorchXRayVision; None: no such one."""
        name = re.sub(r"^features\.(conv|norm)0\.", r"stem_\1.", name)
        name = re.sub(r"^features\.norm5\.", "stage4.norm.", name)
        name = re.sub(r"^features\.transition(\d)\.norm\.", r"stage\1.norm.", name)
        name = re.sub(r"^features\.transition(\d)\.conv\.", lambda m: f"stage{int(m[1]) + 1}.conv.", name)
        # Files from before 2018 write norm.1 for norm1.
        dense = r"^features\.denseblock(\d)\.denselayer(\d+)\.(conv|norm)\.?(\d)\."
        name = re.sub(dense, lambda m: f"stage{m[1]}.layer{int(m[2]) - 1}.{m[3]}{m[4]}.", name)
        name = re.sub(r"^classifier\.", "head.", name)
        return name if re.match(r"(stem_|stage\d|head\.)", name) else None


def densenet121(classes: int, *, dropout: float = 0.0) -> DenseNet:
    """DenseNet-121 (Huang et al., table 1): 7,978,856 parameters for 3 channels and 1,000 classes.

    Args:
      classes: number of logits.
      dropout: rate before the head.
    """
    return DenseNet(classes, dropout=dropout)
