"""A whole volume by overlapping windows, beside MONAI: `python -m medjax.bench windows`. Time and peak memory in one run.

Both sides take the same volume through the same network with the same weights, window by window, weigh probabilities by a
Gaussian, and end with a label map on the host. A turn each, so that whatever else slows the machine slows both.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
import optax

from medjax.cases import Cases, Ragged, Varying
from medjax.core import Examples
from medjax.engine import make_engine
from medjax.infer import infer
from medjax.memory import give_back_memory
from medjax.models.unet import UNet
from medjax.tasks import volumes
from medjax.tasks.segmentation import segmentation

from .extra import run
from .networks import Problem, start
from .peer import Remote
from .runner import cpu_model
from .system import busy_share, peak_mib, reset_peak

AGREE = 0.999  # share of voxels of the same class
DEFAULT = {"side": 256, "patch": 64, "features": 16, "depth": 3, "classes": 5, "windows": 2, "repeats": 3}


def main(args: Sequence[str]) -> None:
    """Measure and print; exits with 1 where the two do not agree."""
    run(args, "windows", __doc__, DEFAULT, measure, AGREE)


def measure(sizes: dict[str, int]) -> dict[str, Any]:
    """Both sides' seconds and peak MiB of a volume, and the ratios (over 1: medjax takes less).

    Args:
      sizes: side, patch, features, depth, classes, windows (together), repeats.
    """
    side, patch = sizes["side"], sizes["patch"]
    smooth = np.random.default_rng(0).normal(size=(side // 8,) * 3).repeat(8, 0).repeat(8, 1).repeat(8, 2)
    image = np.clip(np.rint(smooth * volumes.UNIT), -32000, 32000).astype(np.int16)[..., None]
    intensity = ((-32768.0, 32767.0, 0.0, float(volumes.UNIT)),)
    model = UNet(sizes["classes"], features=sizes["features"], depth=sizes["depth"])
    task = segmentation(model, optax.sgd(0.0), intensity=intensity)
    example = {
        "image": np.zeros((sizes["windows"], *(patch,) * 3, 1), np.int16),
        "labels": np.zeros((sizes["windows"], *(patch,) * 3), np.uint8),
        "label": np.ones((sizes["windows"], sizes["classes"] - 1), np.int8),
        "mask": np.ones(sizes["windows"], bool),
    }
    state = start(Problem(task, example))
    values = {
        tuple(str(part.key) for part in path if isinstance(part, jax.tree_util.DictKey)): np.asarray(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path((state.params, state.extra))
    }
    values = {(path[1:] if path[0] == "batch_stats" else path): leaf for path, leaf in values.items()}
    geometry = volumes.Geometry((patch, patch, patch))
    joined = Examples(
        cut=functools.partial(volumes.cut, geometry=geometry, fill=(0,)),
        windows=functools.partial(volumes.windows, geometry=geometry, fill=(0,)),
        join=functools.partial(_join, geometry=geometry),
    )
    cases = Cases(
        {
            "image": Ragged.of([image]),
            "labels": Ragged.of([np.zeros(image.shape[:3], np.uint8)]),
            "label": np.ones((1, sizes["classes"] - 1), np.int8),
        }
    )
    engine = make_engine(task, "jit")
    placed = jax.device_put(state)

    def ours() -> np.ndarray:
        return infer(engine, placed, cases, sizes["windows"], joined)["labels"][0]

    def clocked(run: Any) -> float:
        begun = time.perf_counter()
        run()
        return time.perf_counter() - begun

    # MONAI cuts the Gaussian's tails elsewhere. Both sides take medjax's, so that what they give must be the same.
    offset = np.arange(patch) - (patch - 1) / 2
    bell = np.maximum(np.exp(-0.5 * (offset / (patch / 8)) ** 2), 1e-4).astype(np.float32)
    floats = {"x": image.astype(np.float32) / volumes.UNIT, "weights": bell[:, None, None] * bell[:, None] * bell}
    with Remote("monai", "windows", sizes, values, floats, compiled=False) as peer:
        mine, theirs = ours(), peer.output()
        agreement = float((mine == theirs).mean())
        give_back_memory()
        reset = reset_peak()
        peer.peak_mib()
        times = [(clocked(ours), clocked(lambda: peer.infer(1))) for _ in range(sizes["repeats"])]
        memory, other = peak_mib(reset), peer.peak_mib()
    a, b = (float(np.median(column)) for column in zip(*times))
    return {
        "sizes": sizes,
        "cpu": cpu_model(),
        "busy_before": busy_share(),
        "agreement": agreement,
        "seconds": a,
        "monai_seconds": b,
        "ratio_vs_peer": float(np.median([y / x for x, y in times])),
        "peak_mib": memory,
        "monai_peak_mib": other,
        "memory_ratio": other / memory if memory and other else None,
    }


def _join(
    cases: Cases, i: int, outputs: Iterator[dict[str, np.ndarray]], quick: bool, *, geometry: volumes.Geometry
) -> dict[str, Any]:
    shape = cases["labels"].shapes[i]
    planes = volumes.join_planes((row["probability"] for row in outputs), shape, geometry)
    return {"labels": Varying(volumes.planes_to_labels(planes, shape, shape))}
