"""Floating-point operations of a compiled function, counted from its jaxpr."""

import math
from typing import Any

import jax
from jax.extend import core


def count_flops(jaxpr: core.ClosedJaxpr | core.Jaxpr) -> float:
    """Multiply-adds times two of every matrix product and convolution; loops count their trips.

    XLA's own cost analysis counts a scan's body once, which makes a recurrent network look hundreds of times cheaper.
    Element-wise work is left out, as in published FLOP tables. A `while` whose trip count is unknown counts once, and of a
    `cond` the dearest branch counts.
    """
    jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
    flops = 0.0
    for eqn in jaxpr.eqns:
        name, params = eqn.primitive.name, eqn.params
        if name == "dot_general":
            (contract, _), _ = params["dimension_numbers"]
            depth = math.prod(_shape(eqn.invars[0])[i] for i in contract)
            flops += 2.0 * depth * math.prod(_shape(eqn.outvars[0]))
        elif name == "conv_general_dilated":
            kernel, dims = _shape(eqn.invars[1]), params["dimension_numbers"]
            per_output = math.prod(kernel) / kernel[dims.rhs_spec[0]]
            out = math.prod(_shape(eqn.outvars[0]))
            # A dilated input is mostly zeros; counting them would make a strided gradient dearer than its forward pass.
            flops += 2.0 * per_output * out / math.prod(params["lhs_dilation"])
        elif name.startswith("medjax_conv_"):  # of medjax.nn.onednn
            y, w = eqn.outvars[0], eqn.invars[1]  # the convolution's output and its kernel
            if name.endswith("input_grad"):
                y = eqn.invars[0]
            elif name.endswith("kernel_grad"):
                y, w = w, y
            flops += 2.0 * math.prod(_shape(y)) * math.prod(_shape(w)) / _shape(w)[-1]
        elif name == "cond":
            flops += max(count_flops(branch) for branch in params["branches"])
        else:
            trips = params["length"] if name == "scan" else 1
            # Inside a mapped region shapes are one device's: the region runs once on each.
            if name == "shard_map":
                trips = params["mesh"].size
            flops += trips * sum(count_flops(inner) for inner in _inner(params))
    return flops


def _shape(variable: Any) -> tuple[int, ...]:
    return variable.aval.shape


def _inner(params: dict[str, Any]) -> list[Any]:
    found = []
    for value in params.values():
        for item in value if isinstance(value, (tuple, list)) else (value,):
            if isinstance(item, (core.ClosedJaxpr, core.Jaxpr)):
                found.append(item)
    return found


def human(flops: float) -> str:
    """1.23e9 -> "1.23 GFLOP"."""
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if flops >= size:
            return f"{flops / size:.3g} {unit}FLOP"
    return f"{flops:.0f} FLOP"


def count_parameters(params: Any) -> int:
    """Number of trainable scalars in a tree."""
    return sum(int(leaf.size) for leaf in jax.tree.leaves(params))
