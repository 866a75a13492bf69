"""Residual networks (He et al., CVPR 2016) in two and three dimensions: small ones, ResNet-18, ResNet-34 and ResNet-50."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax

from medjax.nn import BatchNorm, Conv, Dropout, max_pool


def _padding(kernel: int, rank: int, centred: bool) -> Any:
    return [(kernel // 2, kernel // 2)] * rank if centred else "SAME"


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut: relu(x + F(x)), He et al., figure 5 left.

    Attributes:
      features: output channels.
      stride: of the first convolution; a 1x1 projection follows it on the shortcut where shapes differ.
      centred: pad by one pixel on each side, also at stride 2 (see `ResNet`).
    """

    features: int
    stride: int = 1
    centred: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """x [n, *S, C] -> [n, *ceil(S / stride), features]."""
        rank = x.ndim - 2
        window, padding = (3,) * rank, _padding(3, rank, self.centred)
        y = Conv(self.features, window, self.stride, padding=padding, use_bias=False, name="conv1")(x)
        y = nn.relu(BatchNorm(name="norm1")(y, train=train))
        y = Conv(self.features, window, padding=padding, use_bias=False, name="conv2")(y)
        y = BatchNorm(scale_init=nn.initializers.zeros, name="norm2")(y, train=train)
        return nn.relu(_shortcut(x, y, self.stride, train) + y)


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions and a shortcut: relu(x + F(x)), He et al., figure 5 right.

    The stride is on the 3x3 convolution and not on the first, which would throw three quarters of its input away ("v1.5").

    Attributes:
      features: channels of the 3x3 convolution; the output has four times as many.
      stride: of the 3x3 convolution; a 1x1 projection follows it on the shortcut where shapes differ.
      centred: pad by one pixel on each side, also at stride 2 (see `ResNet`).
    """

    features: int
    stride: int = 1
    centred: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """x [n, *S, C] -> [n, *ceil(S / stride), 4 * features]."""
        rank = x.ndim - 2
        point, padding = (1,) * rank, _padding(3, rank, self.centred)
        y = Conv(self.features, point, use_bias=False, name="conv1")(x)
        y = nn.relu(BatchNorm(name="norm1")(y, train=train))
        y = Conv(self.features, (3,) * rank, self.stride, padding=padding, use_bias=False, name="conv2")(y)
        y = nn.relu(BatchNorm(name="norm2")(y, train=train))
        y = Conv(4 * self.features, point, use_bias=False, name="conv3")(y)
        y = BatchNorm(scale_init=nn.initializers.zeros, name="norm3")(y, train=train)
        return nn.relu(_shortcut(x, y, self.stride, train) + y)


def _shortcut(x: jax.Array, y: jax.Array, stride: int, train: bool) -> jax.Array:
    """x, projected to y's shape where it has another; called inside a block, whose layers these are."""
    if x.shape == y.shape:
        return x
    x = Conv(y.shape[-1], (1,) * (x.ndim - 2), stride, use_bias=False, name="project_conv")(x)
    return BatchNorm(name="project_norm")(x, train=train)


class ResNet(nn.Module):
    """A stem, stages that double the channels and halve the grid, global mean, dropout, linear head.

    The input's rank decides between two and three dimensions. `resnet18`, `resnet34` and `resnet50` fill the fields in.

    Attributes:
      classes: number of logits.
      width: channels of the first stage.
      blocks: blocks in each stage; (2, 2, 2, 2) is ResNet-18's depth.
      stem_stride: stride of the stem; 1 keeps small images whole.
      dropout: rate before the head.
      stem_kernel: side of the stem's kernel, odd.
      stem_pool: a 3x3 max-pool of stride 2 after the stem, as for ImageNet.
      bottleneck: `Bottleneck` blocks in place of `BasicBlock`.
      centred: pad kernels of side k by k // 2 on each side. "SAME", the default, gives outputs of the same shape but pads an
        even side at stride 2 on its far end only; weights that were trained with one do not fit the other.
    """

    classes: int
    width: int = 16
    blocks: Sequence[int] = (1, 1, 1, 1)
    stem_stride: int = 2
    dropout: float = 0.2
    stem_kernel: int = 5
    stem_pool: bool = False
    bottleneck: bool = False
    centred: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool, features: bool = False) -> Any:
        """x [n, H, W, C] or [n, D, H, W, C] float -> logits [n, classes] float32.

        With `features` a list of maps [n, *S, C], finest first: the stem's where its grid is finer than that of the first
        stage, and each stage's.
        """
        rank = x.ndim - 2
        kernel, padding = (self.stem_kernel,) * rank, _padding(self.stem_kernel, rank, self.centred)
        x = Conv(self.width, kernel, self.stem_stride, padding=padding, use_bias=False, name="stem_conv")(x)
        x = nn.relu(BatchNorm(name="stem_norm")(x, train=train))
        maps = []
        if self.stem_pool:
            maps.append(x)
            x = max_pool(x, 3, strides=2, padding=_padding(3, rank, self.centred))
        block_of = Bottleneck if self.bottleneck else BasicBlock
        for stage, count in enumerate(self.blocks):
            for block in range(count):
                stride, name = 2 if stage > 0 and block == 0 else 1, f"stage{stage + 1}_block{block}"
                x = block_of(self.width * 2**stage, stride, self.centred, name=name)(x, train=train)
            maps.append(x)
        if features:
            return maps
        x = x.mean(range(1, rank + 1))
        x = Dropout(self.dropout)(x, train=train)
        return nn.Dense(self.classes, name="head")(x)

    @staticmethod
    def from_torch(name: str) -> str | None:
        """A parameter's path in this network from its name in torchvision, timm and TorchXRayVision; None: no such one."""
        name = re.sub(r"^conv1\.", "stem_conv.", name)
        name = re.sub(r"^bn1\.", "stem_norm.", name)
        name = re.sub(r"^fc\.", "head.", name)
        name = re.sub(r"^layer(\d)\.(\d+)\.", r"stage\1_block\2.", name)
        name = re.sub(r"(?<=\.)bn(\d)\.", r"norm\1.", name)
        name = name.replace(".downsample.0.", ".project_conv.").replace(".downsample.1.", ".project_norm.")
        return name if re.match(r"(stem_|stage\d|head\.)", name) else None


def resnet18(classes: int, *, small_images: bool = False, dropout: float = 0.0) -> ResNet:
    """ResNet-18 (He et al., table 1): 11,689,512 parameters for 3 channels and 1,000 classes.

    Args:
      classes: number of logits.
      small_images: a 3x3 stem of stride 1 without max-pool (He et al., section 4.2), for sides of some 20 to 96 pixels, and
        for volumes of 28 x 28 x 28; the default is the ImageNet stem, 7x7 of stride 2 and a 3x3 max-pool of stride 2.
      dropout: rate before the head.
    """
    return _published(classes, (2, 2, 2, 2), small_images, dropout, bottleneck=False)


def resnet34(classes: int, *, small_images: bool = False, dropout: float = 0.0) -> ResNet:
    """ResNet-34 (He et al., table 1): 21,797,672 parameters for 3 channels and 1,000 classes.

    Args: as of `resnet18`.
    """
    return _published(classes, (3, 4, 6, 3), small_images, dropout, bottleneck=False)


def resnet50(classes: int, *, small_images: bool = False, dropout: float = 0.0) -> ResNet:
    """ResNet-50 (He et al., table 1) with the stride on the 3x3: 25,557,032 parameters for 3 channels and 1,000 classes.

    Args: as of `resnet18`.
    """
    return _published(classes, (3, 4, 6, 3), small_images, dropout, bottleneck=True)


def _published(classes: int, blocks: Sequence[int], small_images: bool, dropout: float, *, bottleneck: bool) -> ResNet:
    return ResNet(
        classes,
        width=64,
        blocks=blocks,
        stem_stride=1 if small_images else 2,
        dropout=dropout,
        stem_kernel=3 if small_images else 7,
        stem_pool=not small_images,
        bottleneck=bottleneck,
        centred=True,
    )
