"""MONAI's sliding windows on the CPU around the same network, in PyTorch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from monai.inferers import sliding_window_inference

from .torch import fill, prepare
from .torch_networks import UNet

__all__ = ["Windows", "build", "prepare"]


class Windows:
    """A volume to its label map: probabilities of overlapping windows, Gaussian weights, and the largest.

    Args:
      network: of volumes.
      values: {flax path: array} of parameters and statistics.
      batch: `x` float32 [D, H, W, 1], and `weights` float32 of a window's voxels.
      patch: side of a window.
      windows: that are looked at together.
    """

    def __init__(self, network: UNet, values: Mapping, batch: Mapping[str, np.ndarray], *, patch: int, windows: int):
        fill(network, values)
        self.network = network.eval().to(memory_format=torch.channels_last_3d)
        self.x = torch.from_numpy(np.moveaxis(batch["x"], -1, 0)[None])
        self.weights = torch.from_numpy(batch["weights"])
        self.patch, self.windows = patch, windows

    def _probability(self, x: torch.Tensor) -> torch.Tensor:
        return self.network(x.contiguous(memory_format=torch.channels_last_3d)).softmax(1)

    def output(self) -> np.ndarray:
        """The label map, uint8 [D, H, W]."""
        with torch.inference_mode():
            found = sliding_window_inference(
                self.x, (self.patch,) * 3, self.windows, self._probability, overlap=0.5, roi_weight_map=self.weights
            )
            return found.argmax(1)[0].to(torch.uint8).numpy()

    def infer(self, k: int) -> None:
        """k times."""
        for _ in range(k):
            self.output()


def build(
    family: str, sizes: Mapping[str, Any], values: Mapping, batch: Mapping[str, np.ndarray], *, compiled: bool = False
) -> Windows:
    """The peer of `benchmarks.windows`."""
    network = UNet(dims=3, features=sizes["features"], depth=sizes["depth"], classes=sizes["classes"])
    return Windows(network, values, batch, patch=sizes["patch"], windows=sizes["windows"])
