"""A RetinaNet in PyTorch with medjax's weights, its boxes chosen on the host."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from ..suppression import select
from .torch import prepare
from .torch_networks import ResNet

__all__ = ["Detector", "build", "prepare"]

Arrays = Mapping[tuple[str, ...], np.ndarray]


class Head(nn.Module):
    def __init__(self, features: int, depth: int, outputs: int, groups: int):
        super().__init__()
        self.depth = depth
        for i in range(depth):
            self.add_module(f"conv{i}", nn.Conv2d(features, features, 3, padding=1, bias=False))
            self.add_module(f"norm{i}", nn.GroupNorm(groups, features, eps=1e-6))
        self.out = nn.Conv2d(features, outputs, 3, padding=1)

    def forward(self, x):
        for i in range(self.depth):
            x = F.relu(getattr(self, f"norm{i}")(getattr(self, f"conv{i}")(x)), inplace=True)
        return self.out(x)


class Network(nn.Module):
    def __init__(self, *, encoder: int, strides: tuple[int, ...], per_cell: int, classes: int, features: int, depth: int):
        super().__init__()
        self.encoder = ResNet(depth=18, small_images=False, channels=3, classes=1, width=encoder)
        self.strides = strides
        for i, s in enumerate(strides, 1):
            self.add_module(f"lateral{s}", nn.Conv2d(encoder * 2**i, features, 1))
            self.add_module(f"smooth{s}", nn.Conv2d(features, features, 3, padding=1))
        groups = next((g for g in (32, 16, 8, 4, 2) if features % g == 0 and features // g >= 4), 1)
        self.head_class = Head(features, depth, per_cell * classes, groups)
        self.head_box = Head(features, depth, per_cell * 4, groups)

    def forward(self, x):
        e = self.encoder
        x = F.max_pool2d(F.relu(e.stem_norm(e.stem_conv(x)), inplace=True), 3, 2, 1)
        maps = []
        for i, block in enumerate(e.blocks):
            x = block(x)
            if i % 2:  # the end of a stage
                maps.append(x)
        above, merged = None, []
        for s, y in reversed(list(zip(self.strides, maps[1:]))):
            y = getattr(self, f"lateral{s}")(y)
            above = y if above is None else y + F.interpolate(above, scale_factor=2, mode="nearest")
            merged.insert(0, getattr(self, f"smooth{s}")(above))
        return [(self.head_class(y), self.head_box(y)) for y in merged]


def fill(module: nn.Module, values: Arrays) -> None:
    """Put flax's arrays where they belong."""
    names = {"weight": "scale", "bias": "bias", "running_mean": "mean", "running_var": "var"}
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            *path, leaf = name.split(".")
            if leaf == "num_batches_tracked" or path[:2] == ["encoder", "head"]:
                continue
            if leaf == "weight" and tensor.ndim == 4:
                tensor.copy_(torch.from_numpy(np.ascontiguousarray(values[(*path, "kernel")].transpose(3, 2, 0, 1))))
            else:
                tensor.copy_(torch.from_numpy(np.array(values[(*path, names[leaf])])))


class Detector:
    """Boxes of a batch of pictures uint8 [n, H, W, 3]."""

    def __init__(self, values: Arrays, batch: Mapping[str, np.ndarray], sizes: Mapping[str, Any]):
        own = {name: sizes[name] for name in ("encoder", "per_cell", "classes", "features", "depth")}
        self.network = Network(strides=tuple(sizes["strides"]), **own).eval().to(memory_format=torch.channels_last)
        fill(self.network, values)
        self.image, self.anchors = torch.from_numpy(batch["image"]), batch["anchors"]
        self.classes, self.chosen = sizes["classes"], {name: sizes[name] for name in ("most", "candidates", "least")}
        self.limit = np.tile(np.array([sizes["width"], sizes["height"]], np.float32), 2)

    def output(self) -> np.ndarray:
        """Boxes and scores, [n, D, 5]."""
        with torch.inference_mode():
            x = self.image.permute(0, 3, 1, 2).float() / 255  # already channels last in memory
            x = x - x.mean((1, 2, 3), keepdim=True)
            x = x * torch.rsqrt(x.square().mean((1, 2, 3), keepdim=True) + 1e-6)
            y, n = self.network(x), len(x)
            score = torch.cat([a.permute(0, 2, 3, 1).reshape(n, -1, self.classes) for a, _ in y], 1).sigmoid().numpy()
            deltas = torch.cat([b.permute(0, 2, 3, 1).reshape(n, -1, 4) for _, b in y], 1).numpy()
        made = [select(score[i], deltas[i], self.anchors, self.limit, **self.chosen) for i in range(n)]
        return np.stack([np.concatenate([boxes, of[:, None]], 1) for boxes, of in made])

    def infer(self, k: int) -> None:
        """k times."""
        for _ in range(k):
            self.output()


def build(
    family: str, sizes: Mapping[str, Any], values: Arrays, batch: Mapping[str, np.ndarray], *, compiled: bool = False
) -> Detector:
    """The peer of `benchmarks.detector`."""
    return Detector(values, batch, sizes)
