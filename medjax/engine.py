"""Engines put a Task on devices: `jit` over a mesh, or `pmap`, with one un-stacked State for both.

Both give the same functions over the same tree, so a run can move between them; `fsdp` will be a third.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from medjax.cases import Rows
from medjax.core import Batch, State, Task, scope
from medjax.errors import InputError
from medjax.flops import count_flops

AXIS = "batch"
KINDS = ("auto", "jit", "pmap")


class Compiled:
    """A function compiled ahead of time, once for each declared batch shape.

    `compile` declares a shape, and so does the first call; any other shape is an error, never a silent recompile.

    Attributes:
      count: shapes compiled so far.
      seconds: time spent tracing and compiling.
      flops: of one call of the last shape compiled.
    """

    def __init__(self, function: Any):
        self.function = function
        self.count, self.seconds, self.flops = 0, 0.0, 0.0
        self._ready: dict[tuple, Callable] = {}

    def compile(self, state: State, batch: Batch) -> Callable:
        """The executable for these shapes, compiled if it is not yet. Nothing is run."""
        key = _shapes(batch)
        if key not in self._ready:
            start = time.perf_counter()
            if hasattr(self.function, "trace"):
                traced = self.function.trace(state, batch)
                jaxpr, lowered = traced.jaxpr, traced.lower()
            else:  # pmap has no trace()
                jaxpr, lowered = jax.make_jaxpr(self.function)(state, batch), self.function.lower(state, batch)
            self.flops = count_flops(jaxpr)
            self._ready[key] = lowered.compile()
            self.seconds += time.perf_counter() - start
            self.count += 1
        return self._ready[key]

    def __call__(self, state: State, batch: Batch) -> Any:
        """Run it.

        Raises:
          ValueError: a batch of a shape that was not declared.
        """
        ready = self._ready.get(_shapes(batch)) if self._ready else self.compile(state, batch)
        if ready is None:
            raise ValueError(f"a batch of undeclared shapes {_shapes(batch)}; declared are {list(self._ready)}")
        return ready(state, batch)


def _shapes(batch: Batch) -> tuple:
    return tuple((name, x.shape, str(x.dtype)) for name, x in sorted(batch.items()))


class Engine(NamedTuple):
    """A Task on devices.

    Attributes:
      kind: "jit" or "pmap".
      devices: how many share a batch; batch sizes are multiples of it.
      init: (key, batch) -> State, replicated.
      update: (State, batch) -> (State, logs); donates the State; an update that is not finite is skipped (`guarded`).
      evaluate: (State, batch) -> rows on the devices; `gather` brings them to the host.
      put: host batch {name: NumPy [n, ...]} -> batch on the devices.
      gather: rows on the devices -> {name: NumPy [n, ...]}.
      abstract: State of `jax.ShapeDtypeStruct` with shardings, for restoring a checkpoint.
    """

    kind: str
    devices: int
    init: Callable[[jax.Array, Batch], State]
    update: Compiled
    evaluate: Compiled
    put: Callable[[Mapping[str, np.ndarray]], Batch]
    gather: Callable[[Mapping[str, jax.Array]], Rows]
    abstract: Callable[[jax.Array, Batch], State]


def guarded(update: Callable) -> Callable:
    """Skip an update whose new State or logs are not finite: all but `step` stays, and `logs["skipped"]` is 1."""

    def guard(state: State, batch: Batch, axis: str | None = None) -> tuple[State, dict[str, jax.Array]]:
        new, logs = update(state, batch, axis)
        changed = (new.params, new.extra, new.opt)
        floats = [x for x in jax.tree.leaves((changed, logs)) if jnp.issubdtype(x.dtype, jnp.inexact)]
        finite = jnp.all(jnp.array([jnp.isfinite(x).all() for x in floats]))
        # A conditional and not a select for each array: XLA would repeat all these tests inside the fusion of every one, with
        # which a U-Net took 12 times longer to compile.
        kept = jax.lax.cond(finite, lambda n, o: n, lambda n, o: o, changed, (state.params, state.extra, state.opt))
        params, extra, opt = kept
        return new.replace(params=params, extra=extra, opt=opt), {**logs, "skipped": 1.0 - finite}

    return guard


def _scoped(function: Callable, axis: str | None, compute: Any) -> Callable:
    """Trace `function(state, batch, axis)` inside the scope that tells modules where they are and what to compute in."""

    def call(state: State, batch: Batch) -> Any:
        n = len(batch["mask"])
        offset = 0 if axis is None else jax.lax.axis_index(axis) * n
        with scope(axis=axis, offset=offset, compute=compute):
            return function(state, batch, axis)

    return call


def _jit_engine(task: Task, devices: list[jax.Device], compute: Any) -> Engine:
    mesh = jax.make_mesh((len(devices),), (AXIS,), axis_types=(AxisType.Auto,), devices=devices)
    replicated, split = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec(AXIS))
    return Engine(
        kind="jit",
        devices=len(devices),
        init=jax.jit(task.init, out_shardings=replicated),
        update=Compiled(
            jax.jit(_scoped(guarded(task.update), None, compute), donate_argnums=0, out_shardings=(replicated, replicated))
        ),
        evaluate=Compiled(jax.jit(_scoped(task.evaluate, None, compute), out_shardings=split)),
        put=lambda batch: jax.device_put(dict(batch), split),
        gather=lambda rows: {name: np.asarray(x) for name, x in rows.items()},
        abstract=lambda key, batch: _abstract(task, key, batch, replicated),
    )


def _pmap_engine(task: Task, devices: list[jax.Device], compute: Any) -> Engine:
    n = len(devices)
    mesh = Mesh(np.array(devices), (AXIS,))
    replicated, split = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec(AXIS))

    def put(batch: Mapping[str, np.ndarray]) -> Batch:
        return {name: jax.device_put(x.reshape(n, len(x) // n, *x.shape[1:]), split) for name, x in batch.items()}

    def gather(rows: Mapping[str, jax.Array]) -> Rows:
        return {name: np.asarray(x).reshape(-1, *x.shape[2:]) for name, x in rows.items()}

    def flat(key: jax.Array, batch: Batch) -> State:
        return task.init(key, {name: x.reshape(-1, *x.shape[2:]) for name, x in batch.items()})

    # out_axes=None is not checked: every output has been summed or averaged over the axis (tests compare the shards).
    update = jax.pmap(
        _scoped(guarded(lambda *a: task.update(*a)), AXIS, compute),
        AXIS,
        in_axes=(None, 0),
        out_axes=(None, None),
        donate_argnums=0,
        devices=devices,
    )
    evaluate = jax.pmap(_scoped(task.evaluate, AXIS, compute), AXIS, in_axes=(None, 0), out_axes=0, devices=devices)
    return Engine(
        kind="pmap",
        devices=n,
        init=jax.jit(flat, out_shardings=replicated),
        update=Compiled(update),
        evaluate=Compiled(evaluate),
        put=put,
        gather=gather,
        abstract=lambda key, batch: _abstract(task._replace(init=flat), key, batch, replicated),
    )


def _abstract(task: Task, key: jax.Array, batch: Batch, sharding: NamedSharding) -> State:
    shapes = jax.eval_shape(task.init, key, batch)
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), shapes)


def make_engine(
    task: Task, kind: str = "auto", devices: Sequence[jax.Device] | None = None, *, precision: str = "float32"
) -> Engine:
    """Put a task on this process's devices.

    Args:
      task: the Task, augmentation included.
      kind: "jit", "pmap", or "auto": pmap across several local devices of one process, jit otherwise.
      devices: all local ones by default.
      precision: "float32", or "bfloat16" to compute in while parameters stay float32 (Micikevicius et al., ICLR 2018, section
        3.1; bfloat16 has float32's range and needs no loss scaling). It reaches medjax's own layers.

    Raises:
      InputError: an unknown kind.
    """
    compute = None if precision == "float32" else jnp.dtype(precision)
    devices = list(devices or jax.local_devices())
    if kind == "auto":
        kind = "pmap" if len(devices) > 1 and jax.process_count() == 1 else "jit"
    if kind == "jit":
        return _jit_engine(task, devices, compute)
    if kind == "pmap":
        return _pmap_engine(task, devices, compute)
    raise InputError(f"engine {kind!r} is not one of {', '.join(KINDS)}", usage=True)


def check_batch_size(batch_size: int, devices: int) -> None:
    """Raise InputError unless the devices can share a batch evenly."""
    if batch_size < 1 or batch_size % devices:
        nearest = max(devices, round(batch_size / devices) * devices)
        raise InputError(
            f"--train.batch_size {batch_size} cannot be shared by {devices} devices: take a multiple, such as {nearest}",
            usage=True,
        )
