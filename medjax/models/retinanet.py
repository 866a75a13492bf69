"""RetinaNet (Lin et al., ICCV 2017): an encoder of the classification job, a feature pyramid, two heads for all its levels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from medjax.nn import Conv, Dense
from medjax.nn.boxes import grid_anchors

PRIOR = 0.01  # probability that an anchor is given at the start (section 4.1)


class Head(nn.Module):
    """Convolutions with group normalisation, then a convolution to the outputs; the same weights on every level.

    Attributes:
      features: channels in between.
      depth: convolutions in between.
      outputs: channels.
      bias: initial bias of the outputs.
    """

    features: int
    depth: int
    outputs: int
    bias: float = 0.0

    @nn.compact
    def __call__(self, levels: Sequence[jax.Array]) -> list[jax.Array]:
        """Maps [n, h, w, C] -> maps [n, h, w, outputs] float32."""
        convs = [Conv(self.features, (3, 3), use_bias=False, name=f"conv{i}") for i in range(self.depth)]
        norms = [nn.GroupNorm(_groups(self.features), name=f"norm{i}") for i in range(self.depth)]
        last = Conv(
            self.outputs,
            (3, 3),
            kernel_init=nn.initializers.normal(0.01),
            bias_init=nn.initializers.constant(self.bias),
            name="out",
        )
        found = []
        for x in levels:
            for conv, norm in zip(convs, norms, strict=True):
                x = nn.relu(norm(conv(x)))
            found.append(last(x).astype(jnp.float32))
        return found


def _groups(features: int) -> int:
    return next((g for g in (32, 16, 8, 4, 2) if features % g == 0 and features // g >= 4), 1)


class RetinaNet(nn.Module):
    """Class logits and box deltas of each anchor.

    Anchor shapes are the variable "shapes" of the collection "statistics" [levels, per_cell, 2] (width, height in pixels),
    which the training fits to its boxes; until then they are squares of 4 strides.

    Attributes:
      classes: K.
      encoder: module whose `features=True` gives a list of maps, finest first, such as `medjax.models.resnet.ResNet`.
      strides: pixels from cell to cell on each level, rising by factors of 2; beyond the encoder's they are made by
        convolutions of stride 2.
      per_cell: anchors of each cell.
      features: channels of pyramid and heads.
      depth: convolutions of a head.
      gate: give a logit for each class that the image holds it anywhere, besides.
    """

    classes: int
    encoder: nn.Module
    strides: Sequence[int] = (8, 16, 32, 64, 128)
    per_cell: int = 3
    features: int = 64
    depth: int = 2
    gate: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> dict[str, Any]:
        """x [n, H, W, C], sides multiples of the largest stride -> lists over the levels of maps.

        {"logits": [n, h, w, a, K], "deltas": [n, h, w, a, 4], "anchors": [n, h, w, a, 4]}, and "gate" [n, K].
        """
        n, height = x.shape[:2]
        maps = self.encoder(x, train=train, features=True)
        held = {height // y.shape[1]: y for y in maps}
        levels = self._pyramid({s: y for s, y in held.items() if s >= min(self.strides)})
        logits = Head(self.features, self.depth, self.per_cell * self.classes, -float(np.log(1 / PRIOR - 1)), name="head_class")
        deltas = Head(self.features, self.depth, self.per_cell * 4, name="head_box")
        start = np.array([[[4 * s, 4 * s]] * self.per_cell for s in self.strides], np.float32)
        shapes = self.variable("statistics", "shapes", lambda: jnp.asarray(start)).value
        grids = [y.shape[1:3] for y in levels]
        anchors = [grid_anchors(h, w, s, of) for (h, w), s, of in zip(grids, self.strides, shapes, strict=True)]
        found: dict[str, Any] = {
            "logits": [y.reshape(*y.shape[:3], self.per_cell, self.classes) for y in logits(levels)],
            "deltas": [y.reshape(*y.shape[:3], self.per_cell, 4) for y in deltas(levels)],
            "anchors": [jnp.broadcast_to(y, (n, *y.shape)) for y in anchors],
        }
        if self.gate:
            pooled = jnp.concatenate([maps[-1].mean((1, 2)), maps[-1].max((1, 2))], -1)
            found["gate"] = Dense(self.classes, name="head_gate")(pooled).astype(jnp.float32)
        return found

    def _pyramid(self, held: dict[int, jax.Array]) -> list[jax.Array]:
        """A map for each stride, the encoder's coarser ones drawn in from the top (Lin et al., CVPR 2017); called inside."""
        if not held:
            raise ValueError(f"the encoder has no map of a stride of {min(self.strides)} or more")
        lateral = {s: Conv(self.features, (1, 1), name=f"lateral{s}")(y) for s, y in held.items()}
        above = None
        merged: dict[int, jax.Array] = {}
        for s in sorted(lateral, reverse=True):
            y = lateral[s]
            if above is not None:
                y = y + above.repeat(2, 1).repeat(2, 2)[:, : y.shape[1], : y.shape[2]]
            merged[s] = above = y
        found = []
        for s in self.strides:
            if s in merged:
                found.append(Conv(self.features, (3, 3), name=f"smooth{s}")(merged[s]))
            else:
                found.append(Conv(self.features, (3, 3), 2, name=f"coarse{s}")(nn.relu(found[-1])))
        return found
