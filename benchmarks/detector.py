"""Pictures a second of a detector, beside PyTorch and beside itself: `python -m medjax.bench detector`.

The same RetinaNet with the same weights three times: medjax's, whose boxes are chosen inside of the compiled program; medjax's
network alone, its outputs brought to the host and boxes chosen there; and PyTorch's network, boxes chosen on the host. A turn
each, so that whatever else slows the machine slows all.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from medjax.models import find
from medjax.models.retinanet import RetinaNet
from medjax.tasks.detection import Selection, detection
from medjax.tasks.images import standardised

from .extra import run
from .peer import Remote
from .runner import cpu_model
from .suppression import select
from .system import busy_share

CLOSE = 0.02  # pixels, and score, up to which boxes are the same
AGREE = 0.99  # share of the boxes that are
DEFAULT = {"batch": 8, "height": 256, "width": 320, "classes": 3, "encoder": 32, "features": 64, "depth": 2, "most": 100}
STRIDES, PER_CELL, CANDIDATES, LEAST = (8, 16, 32), 3, 512, 0.01


def main(args: Sequence[str]) -> None:
    """Measure and print; exits with 1 where the three do not agree."""
    run(args, "detector", __doc__, {**DEFAULT, "repeats": 10}, measure, AGREE)


def measure(sizes: dict[str, int]) -> dict[str, Any]:
    """Pictures a second of each, and ratios over 1 where medjax is faster.

    Args:
      sizes: those of `DEFAULT`, and repeats.
    """
    n, most, classes = sizes["batch"], sizes["most"], sizes["classes"]
    model = RetinaNet(
        classes, find("resnet18")(1).clone(width=sizes["encoder"]), STRIDES, PER_CELL, sizes["features"], sizes["depth"]
    )
    selection = Selection(most, CANDIDATES, LEAST, 0.5)
    task = detection(model, optax.sgd(0.0), inputs=standardised, selection=selection)
    rng = np.random.default_rng(0)
    shape = (sizes["height"], sizes["width"])
    batch = {
        "image": rng.integers(0, 255, (n, *shape, 3)).astype(np.uint8),
        "boxes": np.zeros((n, 1, 4), np.float32),
        "category": np.full((n, 1), -1, np.int32),
        "extent": np.full((n, 2), shape, np.float32),
        "label": np.zeros((n, classes), np.int8),
    }
    state = jax.jit(task.init)(jax.random.key(0), batch)
    # Heads of a fresh network say the same everywhere: with larger weights there is something to choose from.
    params = jax.tree_util.tree_map_with_path(lambda path, x: _loud(str(path), x), state.params)
    state = state.replace(params=params)
    leaves = [*jax.tree_util.tree_leaves_with_path(params), *jax.tree_util.tree_leaves_with_path(state.extra["batch_stats"])]
    values = {tuple(str(part.key) for part in path): np.asarray(leaf) for path, leaf in leaves}
    limit = np.tile(np.array(shape[::-1], np.float32), 2)

    def dense(state: Any, batch: Any) -> tuple[jax.Array, ...]:
        y = model.apply({"params": state.params, **state.extra}, standardised(batch), train=False)
        flat = {name: jnp.concatenate([m.reshape(n, -1, m.shape[-1]) for m in y[name]], 1) for name in y}
        return jax.nn.sigmoid(flat["logits"]), flat["deltas"], flat["anchors"]

    whole, network = jax.jit(task.predict), jax.jit(dense)
    placed = jax.device_put((state, jax.tree.map(jnp.asarray, batch)))
    anchors = np.asarray(network(*placed)[2][0])

    def inside() -> np.ndarray:
        rows = whole(*placed)
        return np.concatenate([np.asarray(rows["boxes"]), np.asarray(rows["score"])[..., None]], -1)

    def outside() -> np.ndarray:
        given = [np.asarray(x) for x in network(*placed)]
        made = [select(*(x[i] for x in given), limit, most=most, candidates=CANDIDATES, least=LEAST) for i in range(n)]
        return np.stack([np.concatenate([boxes, score[:, None]], 1) for boxes, score in made])

    told = {**sizes, "strides": STRIDES, "per_cell": PER_CELL, "candidates": CANDIDATES, "least": LEAST}
    with Remote("detector", "detector", told, values, {"image": batch["image"], "anchors": anchors}, compiled=False) as peer:
        mine, host, theirs = inside(), outside(), peer.output()
        times = np.array(
            [(_clocked(inside), _clocked(outside), _clocked(lambda: peer.infer(1))) for _ in range(sizes["repeats"])]
        )
    a, b, c = np.median(times, 0)
    return {
        "sizes": sizes,
        "cpu": cpu_model(),
        "busy_before": busy_share(),
        "agreement": {"host": _agreement(mine, host), "torch": _agreement(mine, theirs)},
        "boxes": int((mine[..., 4] > 0).sum()),
        "images_per_s": n / a,
        "host_images_per_s": n / b,
        "torch_images_per_s": n / c,
        "ratio_vs_host": float(np.median(times[:, 1] / times[:, 0])),
        "ratio_vs_torch": float(np.median(times[:, 2] / times[:, 0])),
        "compiled": whole._cache_size(),
    }


def _loud(path: str, x: jax.Array) -> jax.Array:
    return x * 30 if "head" in path and "'out'" in path and x.ndim > 1 else x


def _agreement(a: np.ndarray, b: np.ndarray) -> float:
    """Share of the boxes [n, D, 5] of `a` that `b` has too, whatever their order."""
    same = (np.abs(a[:, :, None] - b[:, None]) <= CLOSE).all(-1).any(2)
    real = a[..., 4] > 0
    return float(same[real].mean()) if real.any() else 0.0


def _clocked(run: Callable[[], Any]) -> float:
    begun = time.perf_counter()
    run()
    return time.perf_counter() - begun
