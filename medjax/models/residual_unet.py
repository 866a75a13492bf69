"""nnU-Net's residual-encoder U-Net, and a U-Net's decoder over any classification network, in two and three dimensions.

Isensee et al., "nnU-Net Revisited", MICCAI 2024; He et al., CVPR 2016; Ronneberger et al., MICCAI 2015. Names of parameters:
stem, stage1, stage2, ... of the encoder, finest first; up1 (to the finest grid), up2, ... of the decoder; head, head2, ... of
the logits at these grids.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from medjax.nn import Conv, Dense, Dropout, InstanceNorm, Upsample

Axes = tuple[int, ...]
_SLOPE = 0.01
_activation = partial(nn.leaky_relu, negative_slope=_SLOPE)
_INIT = nn.initializers.variance_scaling(2 / (1 + _SLOPE**2), "fan_in", "normal")  # He et al., ICCV 2015, equation 15


def _conv(features: int, kernel: Axes, strides: Axes | int, name: str) -> Conv:
    """Padded alike on both sides. Without bias, which the normalisation behind it would take out."""
    pads = [(side // 2, side // 2) for side in kernel]
    return Conv(features, kernel, strides, padding=pads, use_bias=False, kernel_init=_INIT, name=name)


class ConvBlock(nn.Module):
    """Convolution that keeps the shape, instance normalisation, leaky relu of slope .01.

    Attributes:
      features: output channels.
      kernel: its side along each axis, odd.
    """

    features: int
    kernel: Axes

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """x [n, *S, C] -> [n, *S, features]."""
        x = _conv(self.features, self.kernel, 1, "conv")(x)
        return _activation(InstanceNorm(name="norm")(x))


class ResidualBlock(nn.Module):
    """lrelu(x + F(x)), with F two convolutions and instance normalisations; the shortcut is averaged where F strides.

    He et al., figure 5 left, with the shortcut of He, T. et al., CVPR 2019, figure 2c ("ResNet-D"), as nnU-Net has it. The last
    normalisation starts from a scale of zero, hence the block as its shortcut.

    Attributes:
      features: output channels; a 1x1 projection is on the shortcut where the input has others.
      kernel: of both convolutions, its side along each axis, odd.
      strides: of the first, along each axis.
    """

    features: int
    kernel: Axes
    strides: Axes

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """x [n, *S, C], S a multiple of the strides -> [n, *(S / strides), features]."""
        y = _conv(self.features, self.kernel, self.strides, "conv1")(x)
        y = _activation(InstanceNorm(name="norm1")(y))
        y = _conv(self.features, self.kernel, 1, "conv2")(y)
        y = InstanceNorm(scale_init=nn.initializers.zeros, name="norm2")(y)
        x = _block_mean(x, self.strides)
        if x.shape[-1] != self.features:
            x = _conv(self.features, (1,) * len(self.kernel), 1, "project_conv")(x)
            x = InstanceNorm(name="project_norm")(x)
        return _activation(x + y)


class AttentionGate(nn.Module):
    """Additive attention on a skip (Oktay et al., MIDL 2018, equations 1 and 2): x * a, a in 0..1 at each place.

    a = sigmoid(psi . relu(W_x x + W_g g + b_g) + b_psi) on the gating signal's coarser grid, interpolated linearly; W_x is a
    convolution whose kernel is as large as its stride.

    Attributes:
      features: channels between, the paper's F_int.
      strides: of g's grid in x's.
    """

    features: int
    strides: Axes

    @nn.compact
    def __call__(self, x: jax.Array, g: jax.Array) -> jax.Array:
        """x [n, *(S * strides), C] and the gating signal g [n, *S, G] -> x's shape and dtype."""
        coarse = Conv(self.features, self.strides, self.strides, padding="VALID", use_bias=False, name="skip")(x)
        coarse = nn.relu(coarse + Conv(self.features, (1,) * len(self.strides), name="gate")(g))
        a = nn.sigmoid(Conv(1, (1,) * len(self.strides), name="psi")(coarse))
        return x * jax.image.resize(a, (*x.shape[:-1], 1), "linear")


class ResidualUNet(nn.Module):
    """U-Net with residual stages in its encoder and one convolution a stage in its decoder.

    The input's rank decides between two and three dimensions. Stages may stride by axis, so that anisotropic volumes are halved
    in-plane first.

    Attributes:
      classes: number of logits at each place.
      features: channels of each stage, finest first.
      blocks: residual blocks of each stage.
      strides: for each stage those of its first block along each axis, the first all 1; 2 everywhere else by default.
      kernels: for each stage the convolutions' sides along each axis, odd; 3 by default, (1, 3, 3) for stages whose voxels are
        long along the first axis.
      deep: give logits at several resolutions in training (Lee et al., AISTATS 2015): all but the two coarsest.
      attention: gate the skips.
      dropout: rate at which whole channels of the encoder's maps are dropped (Tompson et al., CVPR 2015).
    """

    classes: int
    features: Sequence[int] = (32, 64, 128, 256, 320, 320)
    blocks: Sequence[int] = (1, 3, 4, 6, 6, 6)
    strides: Sequence[Axes] | None = None
    kernels: Sequence[Axes] | None = None
    deep: bool = False
    attention: bool = False
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> Any:
        """x [n, H, W, C] or [n, D, H, W, C] float -> logits [n, *S, classes] float32.

        In training with `deep` a list of them, finest first.

        Raises:
          ValueError: another rank, fields that do not fit each other or the rank, or a side that the strides do not divide.
        """
        strides, kernels = self._plan(x)
        x = _activation(InstanceNorm(name="stem_norm")(_conv(self.features[0], kernels[0], 1, "stem_conv")(x)))
        maps = []
        for stage, (features, count, stride, kernel) in enumerate(zip(self.features, self.blocks, strides, kernels), 1):
            for block in range(count):
                step = stride if block == 0 else (1,) * len(stride)
                x = ResidualBlock(features, kernel, step, name=f"stage{stage}_block{block}")(x)
            maps.append(_drop_channels(x, self.dropout, f"drop{stage}", train))
        *skips, x = maps
        found: list[jax.Array] = []
        for level in reversed(range(len(skips))):
            features, step, skip = self.features[level], strides[level + 1], skips[level]
            if self.attention:
                skip = AttentionGate(max(features // 2, 1), step, name=f"gate{level + 1}")(skip, x)
            x = jnp.concatenate([Upsample(features, step, name=f"up{level + 1}")(x), skip], -1)
            x = ConvBlock(features, kernels[level], name=f"up{level + 1}_block")(x)
            found.insert(0, x)
        return _heads(found, self, train)

    def _plan(self, x: jax.Array) -> tuple[Sequence[Axes], Sequence[Axes]]:
        """(strides, kernels), checked."""
        rank, stages = x.ndim - 2, len(self.features)
        if rank not in (2, 3):
            raise ValueError(f"ResidualUNet takes [n, H, W, C] or [n, D, H, W, C], not {x.shape}")
        strides = self.strides or ((1,) * rank, *((2,) * rank for _ in range(stages - 1)))
        kernels = self.kernels or ((3,) * rank,) * stages
        if stages < 2 or not len(self.blocks) == len(strides) == len(kernels) == stages:
            lengths = f"{len(self.blocks)} blocks, {len(strides)} strides, {len(kernels)} kernels"
            raise ValueError(f"ResidualUNet of {stages} stages (2 or more) has {lengths}")
        if any(len(axes) != rank for axes in (*strides, *kernels)) or max(strides[0]) != 1 or min(self.blocks) < 1:
            raise ValueError(f"ResidualUNet: strides {strides}, kernels {kernels}, blocks {self.blocks} for {rank} dimensions")
        if any(side % 2 == 0 for side in itertools.chain(*kernels)):
            raise ValueError(f"ResidualUNet: kernels {kernels} are not all odd")
        whole = tuple(map(math.prod, zip(*strides)))
        if any(side % step for side, step in zip(x.shape[1:-1], whole)):
            raise ValueError(f"ResidualUNet needs sides that are multiples of {whole}, not {x.shape[1:-1]}: pad")
        return strides, kernels


class EncoderUNet(nn.Module):
    """A U-Net's decoder over the maps of a classification network, which may bring pretrained weights.

    Weights are loaded with `medjax.models.weights.pretrained(path, model.encoder, at=("encoder",))`. Each map is doubled, cut
    or padded to the next finer one's size and joined with it; from the first map on the grid is doubled until it is the
    input's. Inputs may be of any size that the encoder takes.

    Attributes:
      classes: number of logits at each place.
      encoder: module that gives maps [n, *S_i, C_i], finest first and each half as large as the one before, when called as
        `encoder(x, train=train, features=True)` (`medjax.models.resnet`, `densenet`, `convnext`, `cnn`).
      features: the decoder's channels at each grid, the input's first; what is not needed at the end stays unused.
      deep: give logits at several resolutions in training: all grids of the decoder but the coarsest.
      dropout: rate at which whole channels of the encoder's maps are dropped.
    """

    classes: int
    encoder: nn.Module
    features: Sequence[int] = (16, 32, 64, 128, 256)
    deep: bool = False
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> Any:
        """x [n, *S, C] float -> logits [n, *S, classes] float32; in training with `deep` a list of them, finest first.

        Raises:
          ValueError: `features` names fewer grids than the decoder has.
        """
        rank, sides = x.ndim - 2, x.shape[1:-1]
        maps = self.encoder(x, train=train, features=True)  # type: ignore[operator]
        maps = [_drop_channels(y, self.dropout, f"drop{i}", train) for i, y in enumerate(maps, 1)]
        # How often the stem halves: from the longest side, whose quotient is the least rounded.
        halvings = round(math.log2(max(sides) / max(maps[0].shape[1:-1])))
        bare = [tuple(-(-side // 2**i) for side in sides) for i in range(halvings)]
        levels = len(bare) + len(maps) - 1
        if len(self.features) < levels:
            raise ValueError(f"EncoderUNet: {len(self.features)} features for the {levels} grids of the decoder")
        skips = [None] * len(bare) + maps[:-1]
        x = maps[-1]
        found: list[jax.Array] = []
        for level in reversed(range(levels)):
            features, skip = self.features[level], skips[level]
            x = Upsample(features, (2,) * rank, name=f"up{level + 1}")(x)
            x = _fit(x, bare[level] if skip is None else skip.shape[1:-1])
            x = x if skip is None else jnp.concatenate([x, skip], -1)
            found.insert(0, x := ConvBlock(features, (3,) * rank, name=f"up{level + 1}_block")(x))
        return _heads(found or [x], self, train)


def _heads(maps: Sequence[jax.Array], model: ResidualUNet | EncoderUNet, train: bool) -> Any:
    """Logits of the decoder's maps, finest first; called inside the model, whose layers these are."""
    deep = model.deep and (train or model.is_initializing())
    kept = maps[: max(len(maps) - 1, 1)] if deep else maps[:1]
    # Operands as the engine has them, sums and logits in float32.
    product: Any = partial(lax.dot_general, preferred_element_type=jnp.float32)
    names = ["head", *(f"head{i}" for i in range(2, len(kept) + 1))]
    logits = [Dense(model.classes, dot_general=product, name=name)(x).astype(jnp.float32) for name, x in zip(names, kept)]
    return logits if model.deep and train else logits[0]


def _drop_channels(x: jax.Array, rate: float, name: str, train: bool) -> jax.Array:
    ones = jnp.ones((len(x), *(1,) * (x.ndim - 2), x.shape[-1]), x.dtype)
    return x * Dropout(rate, name=name)(ones, train=train) if rate else x


def _block_mean(x: jax.Array, strides: Axes) -> jax.Array:
    """Mean of blocks as large as the strides: [n, *S, C] -> [n, *(S / strides), C]."""
    for axis, step in enumerate(strides, 1):
        if step > 1:
            parts = (lax.slice_in_dim(x, i, None, step, axis) for i in range(step))
            x = sum(parts, start=jnp.zeros((), x.dtype)) / step
    return x


def _fit(x: jax.Array, sides: Sequence[int]) -> jax.Array:
    """[n, *S, C] cut, or repeated at its far edge, to [n, *sides, C]."""
    x = x[(slice(None), *(slice(side) for side in sides))]
    return jnp.pad(x, [(0, 0), *((0, side - had) for side, had in zip(sides, x.shape[1:-1])), (0, 0)], "edge")
