"""Convolution and its two gradients as JAX primitives: oneDNN on the CPU, lax on every other platform.

Each is bilinear and the three are closed under differentiation and batching:

  output:      y = x * w                        x [N, *S, C], w [*K, C / groups, O] -> y [N, *T, O]
  input_grad:  what w and dy say of x           dy, w -> dx [N, *size, C]
  kernel_grad: what x and dy say of w           x, dy -> dw [*size, C / groups, O]

so that reverse and forward mode of any order, vmap, remat and scan need no further rule.
"""

from __future__ import annotations

import ctypes
import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental.custom_partitioning import custom_partitioning
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jax.sharding import NamedSharding, PartitionSpec

from medjax.nn.conv import channels_last

OUTPUT, INPUT, KERNEL = "output", "input_grad", "kernel_grad"
KINDS = (OUTPUT, INPUT, KERNEL)
# Below so many multiply-adds the call itself, some 60 microseconds, costs more than XLA's own convolution.
SMALL = 100_000

_library: ctypes.CDLL | None = None


class Geometry(NamedTuple):
    """What a convolution is, shapes apart.

    Attributes:
      strides, dilation: per spatial axis.
      padding: (low, high) per spatial axis.
      groups: feature groups.
      precision: lax's, for the platforms that have several.
    """

    strides: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]
    groups: int
    precision: Any = None


def use(library: ctypes.CDLL | None) -> None:
    """Take a loaded library into use; None: lax again."""
    global _library
    _library = library


def output_size(geometry: Geometry, sizes: Sequence[int], kernel: Sequence[int]) -> tuple[int, ...]:
    """Spatial sizes of the output."""
    strides, padding, dilation = geometry[:3]
    return tuple(
        max(0, (s + lo + hi - ((k - 1) * d + 1)) // step + 1)
        for s, k, step, (lo, hi), d in zip(sizes, kernel, strides, padding, dilation)
    )


def bind(kind: str, a: jax.Array, b: jax.Array, geometry: Geometry, size: tuple[int, ...] | None = None) -> jax.Array:
    """Apply one of the three. `size`: spatial sizes of what a gradient is the gradient of."""
    # Under shard_map with check_vma both operands must vary over the same axes; its transpose is the sum over devices, without
    # which a kernel's gradient would be one device's alone.
    varies = [_varying(jax.typeof(x)) for x in (a, b)]
    missing = [tuple((varies[0] | varies[1]) - v) for v in varies]
    a, b = (lax.pcast(x, names, to="varying") if names else x for x, names in zip((a, b), missing))
    return _primitives[kind].bind(a, b, geometry=geometry, size=size)


def _varying(aval: Any) -> frozenset:
    """Mesh axes that a value under shard_map varies over."""
    return aval.mat.varying if hasattr(aval, "mat") else aval.vma


def _shapes(kind: str, a: Any, b: Any, geometry: Geometry, size: Any) -> tuple[tuple, tuple, tuple]:
    """(x's, w's, y's) shapes of a call."""
    if kind == OUTPUT:
        sizes = output_size(geometry, a[1:-1], b[:-2])
        return a, b, (a[0], *sizes, b[-1])
    if kind == INPUT:
        return (a[0], *size, b[-2] * geometry.groups), b, a
    return a, (*size, a[-1] // geometry.groups, b[-1]), b


def _result(kind: str, a: Any, b: Any, geometry: Geometry, size: Any) -> tuple[int, ...]:
    x, w, y = _shapes(kind, a, b, geometry, size)
    return {OUTPUT: y, INPUT: x, KERNEL: w}[kind]


def _lax(kind: str, a: jax.Array, b: jax.Array, geometry: Geometry, size: Any) -> jax.Array:
    """The same by XLA's own convolution."""
    x, w, _ = _shapes(kind, a.shape, b.shape, geometry, size)

    def forward(x, w):
        return lax.conv_general_dilated(
            x,
            w,
            geometry.strides,
            geometry.padding,
            rhs_dilation=geometry.dilation,
            dimension_numbers=channels_last(x.ndim),
            feature_group_count=geometry.groups,
            precision=geometry.precision,
        )

    if kind == OUTPUT:
        return forward(a, b)
    if kind == INPUT:
        return jax.linear_transpose(lambda x: forward(x, b), jax.ShapeDtypeStruct(x, a.dtype))(a)[0]
    return jax.linear_transpose(lambda w: forward(a, w), jax.ShapeDtypeStruct(w, a.dtype))(b)[0]


def _onednn(kind: str, a: jax.Array, b: jax.Array, geometry: Geometry, size: Any) -> jax.Array:
    """One device's call: oneDNN, or lax where the arrays are small or oneDNN has no fast code for them."""
    x, w, y = _shapes(kind, a.shape, b.shape, geometry, size)
    work = math.prod(y) * math.prod(w) // max(w[-1], 1)
    if work < SMALL or _library is None:
        return _lax(kind, a, b, geometry, size)
    # The exact high padding: what a stride leaves over at the end is no part of the problem, as oneDNN counts.
    low = [lo for lo, _ in geometry.padding]
    effective = [(k - 1) * d + 1 for k, d in zip(w, geometry.dilation)]
    high = [(t - 1) * s + e - n - lo for t, s, e, n, lo in zip(y[1:], geometry.strides, effective, x[1:], low)]
    values = {"strides": geometry.strides, "low": low, "high": high, "dilation": geometry.dilation}
    settings = {name: np.array(value, np.int64) for name, value in values.items()}
    arrays = [np.array(shape, np.int64) for shape in (x, w, y)] + list(settings.values())
    pointers = [array.ctypes.data_as(ctypes.c_void_p) for array in arrays]
    bfloat16 = int(a.dtype == jnp.bfloat16)
    if not _library.medjax_conv_supports(KINDS.index(kind), bfloat16, a.ndim, *pointers, ctypes.c_int64(geometry.groups)):
        return _lax(kind, a, b, geometry, size)
    result = jax.ShapeDtypeStruct(_result(kind, a.shape, b.shape, geometry, size), a.dtype)
    return jax.ffi.ffi_call(f"medjax_conv_{kind}", result)(a, b, **settings, groups=np.int64(geometry.groups))


@functools.lru_cache(maxsize=1024)
def _partitioned(kind: str, geometry: Geometry, size: Any, rank: int) -> custom_partitioning:
    """The call with its rule for jit over a mesh: batches may be split, all else is whole on every device.

    Without it XLA would gather the whole batch on each device. The third operand is not used: it has the geometry stand in
    the program, which the key of JAX's compilation cache is made of.
    """

    @custom_partitioning
    def call(a, b, stamp):
        return _onednn(kind, a, b, geometry, size)

    def partition(mesh, arguments, result):
        batch = _batch_axes(mesh, arguments[0]) or _batch_axes(mesh, arguments[1] if kind == KERNEL else result)
        split, whole = NamedSharding(mesh, PartitionSpec(batch or None)), NamedSharding(mesh, PartitionSpec())

        def one(a, b, stamp):
            y = _onednn(kind, a, b, geometry, size)
            return lax.psum(y, batch) if kind == KERNEL and batch else y

        if kind == KERNEL:
            return mesh, one, whole, (split, split, whole)
        return mesh, one, split, (split, whole, whole)

    spatial = range(rank - 2)
    activation = {side: " ".join(["n", *(f"{side}{i}" for i in spatial), f"{side}c"]) for side in "xy"}
    kernel = " ".join([*(f"k{i}" for i in spatial), "kc", "yc"])
    operands = {
        OUTPUT: (activation["x"], kernel, activation["y"]),
        INPUT: (activation["y"], kernel, activation["x"]),
        KERNEL: (activation["x"], activation["y"], kernel),
    }[kind]
    factors = dict.fromkeys(" ".join((operands[0], operands[1], "g", operands[2])).split())  # in order, each once
    call.def_partition(
        partition=partition,
        sharding_rule=f"{operands[0]}, {operands[1]}, g -> {operands[2]}",
        need_replication_factors=tuple(name for name in factors if name != "n"),
        reduction_factors=("n",) if kind == KERNEL else (),
    )
    return call


def _batch_axes(mesh: jax.sharding.Mesh, array: Any) -> tuple[str, ...]:
    """Names of the mesh axes that an array's first dimension is split over; none where they do not divide it."""
    spec = getattr(array.sharding, "spec", ())
    first: Any = next(iter(spec), None)
    names = first if isinstance(first, tuple) else (first,) if first else ()
    return names if array.shape[0] % math.prod(mesh.shape[name] for name in names) == 0 else ()


def _stamp(geometry: Geometry) -> np.ndarray:
    numbers = [*geometry.strides, *(p for pair in geometry.padding for p in pair), *geometry.dilation, geometry.groups]
    return np.array(numbers, np.int32)


# Batching. A mapped axis b joins the batch where the kernel is shared, the channels where an activation is shared, and the
# groups where nothing is; channels are counted (group, b, channel in group) in the second case, (b, group, ...) in the third.


def _to_batch(x: jax.Array, m: int) -> jax.Array:
    """[m, N, ...] -> [m N, ...]."""
    return x.reshape(m * x.shape[1], *x.shape[2:])


def _to_channels(x: jax.Array, m: int, groups: int) -> jax.Array:
    """[m, ..., g c] -> [..., g m c]."""
    split = jnp.moveaxis(x.reshape(*x.shape[:-1], groups, x.shape[-1] // groups), 0, -2)
    return split.reshape(*split.shape[:-3], groups * m * split.shape[-1])


def _from_channels(x: jax.Array, m: int, groups: int) -> jax.Array:
    """[..., g m c] -> [m, ..., g c]."""
    split = jnp.moveaxis(x.reshape(*x.shape[:-1], groups, m, x.shape[-1] // (groups * m)), -2, 0)
    return split.reshape(*split.shape[:-2], groups * split.shape[-1])


def _to_inputs(w: jax.Array, m: int) -> jax.Array:
    """Kernels [m, *K, c, O] -> [*K, m c, O]."""
    moved = jnp.moveaxis(w, 0, -3)
    return moved.reshape(*moved.shape[:-3], m * moved.shape[-2], moved.shape[-1])


def _from_inputs(w: jax.Array, m: int) -> jax.Array:
    """[*K, m c, O] -> [m, *K, c, O]."""
    return jnp.moveaxis(w.reshape(*w.shape[:-2], m, w.shape[-2] // m, w.shape[-1]), -3, 0)


def _batch(kind: str, operands: Any, axes: Any, *, geometry: Geometry, size: Any) -> tuple[jax.Array, int]:
    a, b = (x if axis is None else jnp.moveaxis(x, axis, 0) for x, axis in zip(operands, axes))
    in_a, in_b = (axis is not None for axis in axes)
    m, g = (a if in_a else b).shape[0], geometry.groups
    if m == 0:  # no groups are no convolution: XLA divides by their number
        one = _result(kind, a.shape[in_a:], b.shape[in_b:], geometry, size)
        return jnp.zeros((0, *one), a.dtype), 0
    if in_a and in_b:
        mapped = geometry._replace(groups=g * m)
        y = bind(kind, _to_channels(a, m, 1), _to_channels(b, m, 1), mapped, size)
        return _from_channels(y, m, 1), 0
    if kind == KERNEL:
        if in_a:
            return _from_inputs(bind(kind, _to_channels(a, m, g), b, geometry, size), m), 0
        return _from_channels(bind(kind, a, _to_channels(b, m, g), geometry, size), m, g), 0
    if in_a:
        y = bind(kind, _to_batch(a, m), b, geometry, size)
        return y.reshape(m, -1, *y.shape[1:]), 0
    joined = _to_channels(b, m, g) if kind == OUTPUT else _to_inputs(b, m)
    return _from_channels(bind(kind, a, joined, geometry, size), m, g), 0


def _make(kind: str) -> Primitive:
    primitive = Primitive(f"medjax_conv_{kind}")

    @functools.lru_cache(maxsize=1024)
    def eager(geometry, size):
        return jax.jit(lambda a, b: primitive.bind(a, b, geometry=geometry, size=size))

    def abstract(a, b, *, geometry, size):
        # All three have one rank: what else is known of the operands (mesh, axes that they vary over) holds for the result.
        return a.update(shape=_result(kind, a.shape, b.shape, geometry, size), weak_type=False)

    def elsewhere(a, b, *, geometry, size):
        return _lax(kind, a, b, geometry, size)

    def on_cpu(a, b, *, geometry, size):
        return _partitioned(kind, geometry, size, a.ndim)(a, b, _stamp(geometry))

    primitive.def_impl(lambda a, b, *, geometry, size: eager(geometry, size)(a, b))
    primitive.def_abstract_eval(abstract)
    mlir.register_lowering(primitive, mlir.lower_fun(elsewhere, multiple_results=False))
    mlir.register_lowering(primitive, mlir.lower_fun(on_cpu, multiple_results=False), platform="cpu")
    batching.primitive_batchers[primitive] = functools.partial(_batch, kind)
    _know_devices(primitive)
    return primitive


def _know_devices(primitive: Primitive) -> None:
    """Have JAX lower it with the devices known: the partitioning rule inside it needs them."""
    from jax._src import dispatch  # the one place that JAX keeps this in

    dispatch.prim_requires_devices_during_lowering.add(primitive)


_primitives = {kind: _make(kind) for kind in KINDS}


def _spatial(x: Any) -> tuple[int, ...]:
    return tuple(x.aval.shape[1:-1])


def _window(w: Any) -> tuple[int, ...]:
    return tuple(w.aval.shape[:-2])


ad.defbilinear(
    _primitives[OUTPUT],
    lambda t, x, w, *, geometry, size: bind(INPUT, t, w, geometry, _spatial(x)),
    lambda t, x, w, *, geometry, size: bind(KERNEL, x, t, geometry, _window(w)),
)
ad.defbilinear(
    _primitives[INPUT],
    lambda t, dy, w, *, geometry, size: bind(OUTPUT, t, w, geometry),
    lambda t, dy, w, *, geometry, size: bind(KERNEL, t, dy, geometry, _window(w)),
)
ad.defbilinear(
    _primitives[KERNEL],
    lambda t, x, dy, *, geometry, size: bind(INPUT, dy, t, geometry, _spatial(x)),
    lambda t, x, dy, *, geometry, size: bind(OUTPUT, x, t, geometry),
)
