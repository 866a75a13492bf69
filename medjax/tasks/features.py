"""The encoder of a finished classification run, whose maps a restoring network's loss compares."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from medjax.checkpoint import Checkpoints
from medjax.ema import EMA
from medjax.errors import InputError
from medjax.models.resnet import ResNet
from medjax.nn.image_losses import feature_distance
from medjax.tasks.restoration import Distance


def encoder_distance(folder: str | Path) -> Distance:
    """`medjax.nn.image_losses.feature_distance` of a run's residual network, from its best checkpoint.

    Args:
      folder: a finished run of a classification of grey images, of one member.

    Raises:
      InputError: no such run, not finished, or its network is no residual network.
    """
    folder = Path(folder)
    if not (folder / "report.html").is_file():
        raise InputError(f"{folder}: holds no finished run\ngive the folder of a classification that medjax train printed")
    checkpoints = Checkpoints(folder / "checkpoints")
    try:
        latest = checkpoints.latest()
        if latest is None:
            raise InputError(f"{folder}: holds no single training\ngive a run without --seeds and --folds")
        state = checkpoints.stored(checkpoints.progress(latest).best_step or latest)
    finally:
        checkpoints.close()
    kept = state["extra"].get(EMA, state)
    params = kept["params"]
    statistics = {name: value for name, value in kept["extra"].items() if name == "batch_stats"}
    distance = feature_distance(residual_network(params, folder), {"params": params, **statistics})
    wide = params["stem_conv"]["kernel"].shape[2]

    def compare(found: jax.Array, truth: jax.Array) -> jax.Array:
        return distance(*(jnp.repeat(image[..., :1], wide, -1) for image in (found, truth)))

    return compare


def residual_network(params: Mapping[str, Any], where: Path) -> ResNet:
    """The residual network that parameters are of, by their names and shapes.

    Raises:
      InputError: they are of another network.
    """
    stages = Counter(found[1] for name in params if (found := re.fullmatch(r"stage(\d+)_block\d+", name)))
    if "stem_conv" not in params or "head" not in params or not stages:
        raise InputError(f"{where}: its network is no residual network\ngive a run of one, such as brain_tumor_mri's")
    side, _, _, width = params["stem_conv"]["kernel"].shape
    blocks = tuple(stages[str(k + 1)] for k in range(len(stages)))
    published = side != ResNet.stem_kernel
    return ResNet(
        params["head"]["kernel"].shape[-1],
        width,
        blocks,
        stem_stride=1 if side == 3 else 2,
        stem_kernel=side,
        stem_pool=side == 7,
        bottleneck="conv3" in params["stage1_block0"],
        centred=published,
    )
