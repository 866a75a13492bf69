"""The encoder of a finished classification run: training begins from it, or a restoring network's loss compares its maps."""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from medjax.cases import Cases
from medjax.checkpoint import Checkpoints
from medjax.console import say
from medjax.core import State
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
    params, statistics = trained_network(folder)
    distance = feature_distance(residual_network(params, folder), {"params": params, "batch_stats": statistics})
    wide = params["stem_conv"]["kernel"].shape[2]

    def compare(found: jax.Array, truth: jax.Array) -> jax.Array:
        return distance(*(jnp.repeat(image[..., :1], wide, -1) for image in (found, truth)))

    return compare


def trained_network(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """(parameters, batch statistics) of a finished run's network as it predicts, from its best checkpoint.

    Raises:
      InputError: there is no finished run of one member.
    """
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
    return kept["params"], kept["extra"].get("batch_stats", {})


def from_run(folder: str | Path, *, at: Sequence[str] = ()) -> Callable[[State, Cases], State]:
    """`start` of a Job: training begins from the network of a finished run, all but its head, at `at` in the parameters.

    Raises:
      InputError: see `trained_network`; the run's network is another one, whose first differing array is named.
    """

    def start(state: State, cases: Cases) -> State:
        params, statistics = trained_network(Path(folder))
        params = {name: of for name, of in params.items() if name != "head"}
        new = {"params": params, "batch_stats": statistics}
        whole = {"params": state.params, **state.extra}
        own = {name: functools.reduce(lambda tree, key: tree[key], at, whole[name]) for name in new}
        shapes = [_shapes(tree) for tree in (own, new)]
        for name in {**shapes[0], **shapes[1]}:
            if shapes[0].get(name) != shapes[1].get(name):
                mine, theirs = (str(of.get(name, "nothing")) for of in shapes)
                raise InputError(
                    f"{folder}: its network is another one: {name} is {theirs} there and {mine} here\n"
                    "give both the same --model.name and --model.width, the same stem and pictures of as many channels"
                )
        say(f"weights: {len(shapes[1])} arrays from {Path(folder).name}")
        for name, tree in new.items():
            whole[name] = _placed(whole[name], at, tree)
        return state.replace(params=whole.pop("params"), extra=whole)

    return start


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    return {jax.tree_util.keystr(path): x.shape for path, x in jax.tree_util.tree_leaves_with_path(tree)}


def _placed(tree: Mapping[str, Any], at: Sequence[str], new: Mapping[str, Any]) -> dict[str, Any]:
    """The tree with another one in it at `at`."""
    return {**tree, at[0]: _placed(tree[at[0]], at[1:], new)} if at else {**tree, **new}


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
