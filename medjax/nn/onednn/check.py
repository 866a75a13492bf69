"""What a fresh build must pass: `python -m medjax.nn.onednn.check CONV_SO LIBDNNL_SO` prints a verdict as JSON.

It runs in a process of its own, since a library for another processor crashes rather than raises.
"""

from __future__ import annotations

import ctypes
import json
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from medjax.nn.onednn import primitive, supply

# Largest error, relative to the largest value: float32 sums of some hundred terms; bfloat16 keeps 8 bits.
TOLERANCE = {"float32": 2e-6, "bfloat16": 2e-2}
# x, w, strides, padding, dilation, groups: each rank, an odd size, a stride that leaves a rest, asymmetric padding, groups.
CASES = (
    ((4, 100, 12), (5, 12, 32), (2,), ((3, 1),), (2,), 1),
    ((2, 17, 19, 16), (3, 3, 16, 32), (1, 1), ((1, 1), (1, 1)), (1, 1), 1),
    ((2, 18, 17, 32), (3, 3, 8, 64), (2, 2), ((0, 1), (0, 1)), (1, 1), 4),
    ((2, 17, 19, 3), (7, 7, 3, 32), (2, 2), ((3, 3), (3, 3)), (1, 1), 1),
    ((2, 8, 9, 10, 8), (3, 3, 3, 8, 16), (1, 2, 1), ((1, 1), (1, 1), (1, 1)), (1, 1, 1), 1),
)
# What the timing is taken on: a middle layer of a ResNet.
TIMED = ((8, 28, 28, 64), (3, 3, 64, 64), (1, 1), ((1, 1), (1, 1)), (1, 1), 1)


def main(compiled: str, library: str) -> dict[str, Any]:
    """Load the build, compare it with lax, time both, and return the verdict."""
    handle = supply.load(Path(compiled), Path(library), supply.usable_cores())
    worst = {}
    for dtype in ("float32", "bfloat16"):
        worst[dtype] = max(_error(case, dtype) for case in CASES)
        if not worst[dtype] <= TOLERANCE[dtype]:  # NaN fails too
            return {"works": False, "reason": f"its {dtype} convolutions are wrong here (relative error {worst[dtype]:.1e})"}
    held = (ctypes.c_int64 * 2)()
    handle.medjax_conv_stats(held)
    if held[0] < 3 * len(CASES):
        return {"works": False, "reason": "oneDNN has no fast code for this processor"}
    for what, error in _transformed().items():
        if not error <= TOLERANCE["float32"]:
            return {"works": False, "reason": f"{what} of a convolution is wrong with this JAX (relative error {error:.1e})"}
    version = handle.medjax_conv_version()
    return {
        "works": True,
        "version": f"{version // 100}.{version % 100}",
        "error": worst["float32"],
        "speedup": round(_speedup(), 3),
    }


def _calls(case: tuple) -> tuple[Any, Any]:
    """(by oneDNN, by lax): x, w, dy -> the output and both gradients."""
    geometry = primitive.Geometry(*case[2:])
    calls = []
    for one in (primitive._onednn, primitive._lax):

        def every(x, w, dy, one=one):
            return (
                one(primitive.OUTPUT, x, w, geometry, None),
                one(primitive.INPUT, dy, w, geometry, x.shape[1:-1]),
                one(primitive.KERNEL, x, dy, geometry, w.shape[:-2]),
            )

        calls.append(jax.jit(every))
    return calls[0], calls[1]


def _arrays(case: tuple, dtype: str) -> list[jax.Array]:
    x, w, strides, padding, dilation, groups = case
    size = primitive.output_size(primitive.Geometry(strides, padding, dilation, groups), x[1:-1], w[:-2])
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.normal(size=shape), dtype) for shape in (x, w, (x[0], *size, w[-1]))]


def _error(case: tuple, dtype: str) -> float:
    ours, lax = _calls(case)
    arrays = _arrays(case, dtype)
    truth = lax(*[a.astype("float32") for a in arrays])
    return max(float(jnp.abs(a.astype("float32") - b).max() / jnp.abs(b).max()) for a, b in zip(ours(*arrays), truth))


def _transformed() -> dict[str, float]:
    """{what: relative error} of what stands on JAX's less public parts: batching, forward mode, and two devices."""
    geometry = primitive.Geometry((1, 1), ((1, 1), (1, 1)), (1, 1), 1)
    rng = np.random.default_rng(1)
    x, w = (jnp.asarray(rng.normal(size=shape), "float32") for shape in ((4, 12, 12, 16), (3, 3, 16, 16)))
    mesh = jax.make_mesh((2,), ("d",), axis_types=(AxisType.Auto,), devices=jax.devices()[:2])

    def loss(convolve: Any) -> Any:
        return lambda w, x: jnp.square(convolve(x, w)).mean()

    def ours(x, w):
        return primitive.bind(primitive.OUTPUT, x, w, geometry)

    def lax(x, w):
        return primitive._lax(primitive.OUTPUT, x, w, geometry, None)

    def error(got: Any, wanted: Any) -> float:
        pairs = zip(jax.tree.leaves(got), jax.tree.leaves(wanted))
        return max(float(jnp.abs(a - b).max() / jnp.abs(b).max()) for a, b in pairs)

    gradient = jax.jit(jax.grad(loss(lax)))(w, x)
    whole, split = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec("d"))
    on_mesh = jax.jit(jax.grad(loss(ours)), in_shardings=(whole, split), out_shardings=whole)
    mapped = jax.shard_map(
        lambda w, x: jax.lax.pmean(loss(ours)(w, x), "d"),
        mesh=mesh,
        in_specs=(PartitionSpec(), PartitionSpec("d")),
        out_specs=PartitionSpec(),
    )
    kernels = jnp.stack([w, -2 * w])
    return {
        "the gradient on a mesh": error(on_mesh(w, x), gradient),
        "the gradient under shard_map": error(jax.jit(jax.grad(mapped))(w, x), gradient),
        "forward mode": error(jax.jit(lambda x, w: jax.jvp(ours, (x, w), (x, w))[1])(x, w), 2 * lax(x, w)),
        "vmap": error(jax.jit(jax.vmap(ours, (None, 0)))(x, kernels), jax.vmap(lax, (None, 0))(x, kernels)),
    }


def _speedup() -> float:
    """Time of lax / time of oneDNN, the best of alternating runs: what another process takes meanwhile must not decide."""
    arrays = _arrays(TIMED, "float32")
    calls = _calls(TIMED)
    times: tuple[list[float], list[float]] = ([], [])
    for round_ in range(8):
        for call, taken in zip(calls, times):
            start = time.perf_counter()
            for _ in range(3):
                jax.block_until_ready(call(*arrays))
            if round_:  # the first compiles
                taken.append(time.perf_counter() - start)
    return min(times[1]) / min(times[0])


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
