"""ConvNeXt (Liu et al., CVPR 2022)."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from medjax.nn import Conv, Dense, Dropout

_Rules = dict[str, str | Callable[[re.Match[str]], str]]
_INIT = nn.initializers.truncated_normal(0.02)  # appendix A.1 of the paper


def _layer_norm(x: jax.Array, name: str) -> jax.Array:
    """Over the channels, in float32, with epsilon 1e-6; called inside a module, whose layer this is."""
    return nn.LayerNorm(epsilon=1e-6, use_fast_variance=False, name=name)(x.astype(jnp.float32)).astype(x.dtype)


class ConvNeXtBlock(nn.Module):
    """x + scale * (7x7 depth-wise, layer norm, 1x1 to four times the channels, GELU, 1x1 back), Liu et al., figure 4.

    Attributes:
      scale: initial value of the layer scale (Touvron et al., ICCV 2021).
      drop: probability that an example skips the branch in training, from its own key (Huang et al., ECCV 2016).
    """

    scale: float
    drop: float

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """x [n, H, W, C] -> same shape."""
        channels = x.shape[-1]
        y = Conv(channels, (7, 7), feature_group_count=channels, kernel_init=_INIT, name="conv")(x)
        y = Dense(4 * channels, kernel_init=_INIT, name="dense1")(_layer_norm(y, "norm"))
        y = Dense(channels, kernel_init=_INIT, name="dense2")(nn.gelu(y, approximate=False))
        y = y * self.param("layer_scale", nn.initializers.constant(self.scale), (channels,), jnp.float32).astype(y.dtype)
        return x + y * Dropout(self.drop)(jnp.ones((len(y), 1, 1, 1), y.dtype), train=train)


class ConvNeXt(nn.Module):
    """A stem of 4x4 patches, stages that double the channels and halve the grid, global mean, layer norm, linear head.

    `convnext_tiny` fills the fields in.

    Attributes:
      classes: number of logits.
      width: channels of the first stage.
      blocks: blocks in each stage.
      dropout: rate before the head.
      drop_path: probability that an example skips the last block's branch, falling linearly to 0 at the first.
      layer_scale: initial scale of each branch.
    """

    classes: int
    width: int = 96
    blocks: Sequence[int] = (3, 3, 9, 3)
    dropout: float = 0.0
    drop_path: float = 0.1
    layer_scale: float = 1e-6

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool, features: bool = False) -> Any:
        """x [n, H, W, C] float -> logits [n, classes] float32, or with `features` the maps of the stages, finest first.

        Sides are best multiples of 32: what is left over at the far end is cut off.
        """
        x = Conv(self.width, (4, 4), 4, padding="VALID", kernel_init=_INIT, name="stem_conv")(x)
        x = _layer_norm(x, "stem_norm")
        maps, done, steps = [], 0, max(sum(self.blocks) - 1, 1)
        for stage, count in enumerate(self.blocks):
            if stage:
                x = _layer_norm(x, f"stage{stage + 1}_norm")
                wide, name = self.width * 2**stage, f"stage{stage + 1}_conv"
                x = Conv(wide, (2, 2), 2, padding="VALID", kernel_init=_INIT, name=name)(x)
            for block in range(count):
                drop, name = self.drop_path * done / steps, f"stage{stage + 1}_block{block}"
                x = ConvNeXtBlock(self.layer_scale, drop, name=name)(x, train=train)
                done += 1
            maps.append(x)
        if features:
            return maps
        x = _layer_norm(x.mean((1, 2)), "head_norm")
        x = Dropout(self.dropout)(x, train=train)
        return nn.Dense(self.classes, kernel_init=_INIT, name="head")(x)

    @staticmethod
    def from_torch(name: str) -> str | None:
        """A parameter's path in this network from its name in torchvision and timm; None: there is no such parameter."""
        timm: _Rules = {
            r"^stem\.0\.": "stem_conv.",
            r"^stem\.1\.": "stem_norm.",
            r"^head\.norm\.": "head_norm.",
            r"^head\.fc\.": "head.",
            r"^stages\.(\d)\.downsample\.0\.": lambda m: f"stage{int(m[1]) + 1}_norm.",
            r"^stages\.(\d)\.downsample\.1\.": lambda m: f"stage{int(m[1]) + 1}_conv.",
            r"^stages\.(\d)\.blocks\.(\d+)\.": lambda m: f"stage{int(m[1]) + 1}_block{m[2]}.",
            r"(?<=\.)conv_dw\.": "conv.",
            r"(?<=\.)mlp\.fc(\d)\.": r"dense\1.",
            r"(?<=\.)gamma$": "layer_scale",
        }
        torchvision: _Rules = {
            r"^features\.0\.0\.": "stem_conv.",
            r"^features\.0\.1\.": "stem_norm.",
            r"^classifier\.0\.": "head_norm.",
            r"^classifier\.2\.": "head.",
            r"^features\.([246])\.0\.": lambda m: f"stage{int(m[1]) // 2 + 1}_norm.",
            r"^features\.([246])\.1\.": lambda m: f"stage{int(m[1]) // 2 + 1}_conv.",
            r"^features\.([1357])\.(\d+)\.": lambda m: f"stage{int(m[1]) // 2 + 1}_block{m[2]}.",
            r"(?<=\.)block\.0\.": "conv.",
            r"(?<=\.)block\.2\.": "norm.",
            r"(?<=\.)block\.3\.": "dense1.",
            r"(?<=\.)block\.5\.": "dense2.",
        }
        for pattern, ours in (timm | torchvision).items():
            name = re.sub(pattern, ours, name)
        return name if re.match(r"(stem_|stage\d_|head_norm\.|head\.)", name) else None


def convnext_tiny(classes: int, *, dropout: float = 0.0, drop_path: float = 0.1) -> ConvNeXt:
    """ConvNeXt-T (Liu et al., section 3): 28,589,128 parameters for 3 channels and 1,000 classes.

    Args:
      classes: number of logits.
      dropout: rate before the head.
      drop_path: of the last block (table 5 of the paper trains from scratch with 0.1).
    """
    return ConvNeXt(classes, dropout=dropout, drop_path=drop_path)
