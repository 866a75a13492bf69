"""Texts written by beam search, beside PyTorch: `python -m medjax.bench beam`. Pieces a second of both sides in one run.

Both sides have the same encoder-decoder, with attention and copying, with the same weights, and search with the same rules. A
turn each, so that whatever else slows the machine slows both.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from medjax.models.writer import TextEncoder, Writer
from medjax.tasks.writing import writing

from .extra import run
from .peer import Remote
from .runner import cpu_model
from .system import busy_share

AGREE = 0.99  # share of the texts that are the same on both sides
DEFAULT = {"batch": 32, "source": 128, "most": 64, "width": 4, "pieces": 2000, "words": 128, "encoder": 128, "features": 256}


def main(args: Sequence[str]) -> None:
    """Measure and print; exits with 1 where the two do not agree."""
    run(args, "beam", __doc__, {**DEFAULT, "repeats": 10}, measure, AGREE)


def measure(sizes: dict[str, int]) -> dict[str, Any]:
    """Both sides' pieces a second, the ratio (over 1: medjax writes faster), and how often medjax compiled.

    Args:
      sizes: those of `DEFAULT`, and repeats.
    """
    n, most = sizes["batch"], sizes["most"]
    model = Writer(sizes["pieces"], TextEncoder(sizes["encoder"]), sizes["words"], sizes["features"])
    search: dict[str, Any] = {"width": sizes["width"], "block": 3, "power": 0.6}
    task = writing(model, optax.sgd(0.0), most=most, **search)
    rng = np.random.default_rng(0)
    batch = {
        "source": rng.integers(3, sizes["pieces"], (n, sizes["source"])).astype(np.int32),
        "source_lengths": np.full(n, sizes["source"], np.int32),
        "target": np.full((n, most), 3, np.int32),
        "lengths": np.full(n, most, np.int32),
    }
    state = jax.jit(task.init)(jax.random.key(0), batch)
    values = {
        tuple(str(part.key) for part in path): np.asarray(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(state.params)
    }
    write = jax.jit(task.predict)
    placed = jax.device_put((state, jax.tree.map(jnp.asarray, batch)))

    def ours() -> np.ndarray:
        return np.asarray(write(*placed)["pieces"])

    with Remote("beam", "beam", {**sizes, **search}, values, {"source": batch["source"]}, compiled=False) as peer:
        mine, theirs = ours(), peer.output()
        times = [(_clocked(ours), _clocked(lambda: peer.infer(1))) for _ in range(sizes["repeats"])]
    a, b = (float(np.median(column)) for column in zip(*times))
    written = int((mine > 0).sum())
    ratios = [theirs / mine for mine, theirs in times]
    return {
        "sizes": sizes,
        "cpu": cpu_model(),
        "busy_before": busy_share(),
        "agreement": float((mine == theirs).all(1).mean()),
        "pieces": written,
        "pieces_per_s": written / a,
        "torch_pieces_per_s": written / b,
        "ratio_vs_torch": float(np.median(ratios)),
        "ratio_p10": float(np.quantile(ratios, 0.1)),
        "ratio_p90": float(np.quantile(ratios, 0.9)),
        "compiled": write._cache_size(),
    }


def _clocked(run: Callable[[], Any]) -> float:
    begun = time.perf_counter()
    run()
    return time.perf_counter() - begun
