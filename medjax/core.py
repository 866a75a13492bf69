"""The vocabulary: State, Task, Job, and randomness per example.

Everything here is a plain value or a pure function. `core` knows nothing of flax, files or devices; what the data
looks like is in `cases`.
"""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from medjax.cases import Cases, Rows

PyTree = Any
Batch = Mapping[str, jax.Array]

SPLITS = ("train", "val", "test")
# What a per-example key is for. Folding the purpose in keeps the streams apart.
AUGMENT, DROPOUT, LATENT, MIX = 0, 1, 2, 3


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class State:
    """All that training changes, as one pytree: no functions, no optimizer inside.

    Attributes:
      step: int32 scalar, updates done (skipped ones included).
      params: the trainable tree, or a dict of trees, one per network.
      extra: what the forward pass carries along: batch statistics, moving averages.
      opt: the optax state, or a dict of them.
      key: typed PRNG key that never changes; randomness comes from folding `step` and the example's index into it.
    """

    step: jax.Array
    params: PyTree
    extra: PyTree
    opt: PyTree
    key: jax.Array

    def replace(self, **changes: Any) -> State:
        """A State with some fields changed."""
        return dataclasses.replace(self, **changes)


class Task(NamedTuple):
    """A learning problem as four pure functions.

    init(key, batch) -> State
    update(state, batch, axis=None) -> (State, logs): logs are float scalars, the same on every device.
    evaluate(state, batch, axis=None) -> rows: {name: array [n, ...]}, one row an example, never averaged.
    predict(state, inputs) -> outputs: what deployment needs; `evaluate` calls it, so that the two agree.

    A batch is {name: array [n, ...]} with a bool `mask` [n], false for padding. `axis` is the mapped device axis, or None.
    """

    init: Callable[..., State]
    update: Callable[..., tuple[State, dict[str, jax.Array]]]
    evaluate: Callable[..., dict[str, jax.Array]]
    predict: Callable[..., dict[str, jax.Array]]


class Augment(NamedTuple):
    """Augmentation that takes more than one example at a time.

    example(key, example) -> example: jnp, mapped over the batch.
    batch(keys, batch) -> batch: jnp, afterwards, on the examples of one device and their keys [n]. For the same numbers on any
      count of devices an example may only meet its neighbour: 0 with 1, 2 with 3, and so on.
    """

    example: Callable[[jax.Array, Batch], Batch]
    batch: Callable[[jax.Array, Batch], Batch]


class Baseline(NamedTuple):
    """A simple model beside the network, on the same cases.

    fit(train: Cases, val: Cases) -> {name: array}: plain arrays, so that a run can keep them without pickling.
    predict(arrays, cases) -> rows, of the same form as the network's.
    """

    fit: Callable[[Cases, Cases], dict[str, np.ndarray]]
    predict: Callable[[Mapping[str, np.ndarray], Cases], Rows]


class Examples(NamedTuple):
    """How a case that is no example (a volume, a long record) becomes examples of one fixed shape, and a case again.

    cut(cases, rng) -> {name: array [len(cases), ...]}: one training example of each case, drawn from the NumPy generator.
    windows(cases, i, quick) -> iterator of {name: array}: the examples that cover case i, in order, one at least. `quick` asks
      for as few as will do, to watch a training by.
    join(cases, i, outputs, quick) -> {name: array}: the case's row from an iterator of its windows' outputs {name: array},
      in their order. What differs in shape from case to case is `Varying`.
    sizes(cases) -> int [n]: the length that each case's examples are padded to, where it is one out of a few (buckets), each
      compiled for; `cut` takes the greatest of its cases', `windows` the case's own. None where all are of one shape.
    merge(members' rows) -> rows: what several members make of the same examples, as one; their mean by default.
    """

    cut: Callable[[Cases, np.random.Generator], dict[str, np.ndarray]]
    windows: Callable[[Cases, int, bool], Iterator[dict[str, np.ndarray]]]
    join: Callable[[Cases, int, Iterator[dict[str, np.ndarray]], bool], dict[str, Any]]
    sizes: Callable[[Cases], np.ndarray] | None = None
    merge: Callable[[Sequence[Rows]], Rows] | None = None


class Figure(NamedTuple):
    """A figure as data; `medjax.report` draws it.

    kind "lines": data = {"lines": [{"label", "x" [k], "y" [k], optional "lo" [k], "hi" [k], "style"}], "xlabel", "ylabel",
      optional "diagonal": bool, "xlim", "ylim", "xticks" [(x, label)]}
    kind "bars": data = {"groups": [{"label", "edges" [k+1], "counts" [k]}], "xlabel", "ylabel"}
    kind "matrix": data = {"values" int [K, K], "rows": [K names], "columns": [K names], "xlabel", "ylabel"}
    kind "points": data = {"groups": [{"label", "x" [k], "y" [k]}], "xlabel", "ylabel", optional "levels": [(y, label)]}
    kind "course": data = {"rows": [{"label", "x" [k], "y" [k], "weight" [k]}], "x" [T], "risk" [T], "ylabel"}
    kind "heat": data = {"values" float [R, C], "rows": [R names], "xlabel", "ylabel"}
    kind "passages": data = {"rows": [{"label", "text", "marks": [(begin, end, style, strength)]}]}, places in characters, style
      "right" "wrong" (found), "missed" (true), or "weight" of a strength 0 to 1
    kind "grid": data = {"rows": [{"label", "images" [m, H, W] or [m, H, W, C] uint8, "titles": [m]}]}
    """

    kind: str
    title: str
    caption: str
    data: Mapping[str, Any]


class About(NamedTuple):
    """What a report says of a job in words.

    Attributes:
      task: the kind of job, as report.json names it ("classification").
      question: one sentence a clinician understands.
      classes: class names in the order of the scores' columns.
      monitor: the validation metric that picks the checkpoint; "" takes the last one.
      data: the data set's name.
      licence: its licence, as far as it is known.
      higher_is_better: the direction of `monitor`.
      definitions: {metric: text}: threshold, range, aggregation, policy for what is missing; a task file gives its own.
      unit: what a case's `patient` is, where it is no patient but something else that cases share.
    """

    task: str
    question: str
    classes: tuple[str, ...]
    monitor: str
    data: str
    licence: str = ""
    higher_is_better: bool = True
    definitions: Mapping[str, str] = types.MappingProxyType({})
    unit: str = "patient"


def _no_point(rows: Rows, cases: Cases) -> dict[str, np.ndarray]:
    return {}


def _as_is(point: Mapping[str, np.ndarray], rows: Rows) -> Rows:
    return rows


class Job(NamedTuple):
    """What an experiment's `build(config)` returns. Task files give the defaults for everything after `sources`.

    read(paths) -> Source of unlabelled cases from files a user names, for prediction.
    sources() -> {split: Source}, split one of train, val, test (given splits) or "all" (medjax splits).
    preprocess(example) -> example: NumPy on the host, once, at preparation; fixed shapes and integers out.
    augment(key, example) -> example: jnp, one example, vmapped inside the compiled step; or an `Augment`.
    measure(rows, cases) -> {metric: float}
    baselines: {name: Baseline}
    figures(rows, cases, baseline_rows) -> {file name: Figure}
    write(rows, cases) -> {relative file name: text or bytes}
    calibrate(rows, cases) -> point: all that is chosen on validation data (thresholds), as plain arrays.
    decide(point, rows) -> rows with those choices applied.
    start(state, cases) -> State to train from, such as one with pretrained weights, or with statistics of the training cases;
      asked once, never on resuming.
    explain(state, rows, cases) -> {file name: Figure} of what the network looked at.
    examples: how cases become examples and are put together again, where a case is not an example itself.
    check(cases) -> notes on what the training cases cannot teach, or an InputError where they teach nothing. By default the
      labels are taken for classes that are to be told apart.
    tell({metric: {"value", "ci95", ...}}) -> sentences that the report begins with, of the network on the split that counts.
    """

    about: About
    task: Task
    sources: Callable[[], Mapping[str, Any]]
    read: Callable[[Sequence[Any]], Any]
    preprocess: Callable[[dict], dict]
    augment: Callable[[jax.Array, Batch], Batch] | Augment | None
    measure: Callable[[Rows, Cases], dict[str, float]]
    baselines: Mapping[str, Baseline]
    figures: Callable[[Rows, Cases, Mapping[str, Rows]], dict[str, Figure]]
    write: Callable[[Rows, Cases], Mapping[str, str | bytes]]
    calibrate: Callable[[Rows, Cases], dict[str, np.ndarray]] = _no_point
    decide: Callable[[Mapping[str, np.ndarray], Rows], Rows] = _as_is
    start: Callable[[State, Cases], State] | None = None
    explain: Callable[[State, Rows, Cases], dict[str, Figure]] | None = None
    examples: Examples | None = None
    check: Callable[[Cases], list[str]] | None = None
    tell: Callable[[Mapping[str, Mapping[str, Any]]], list[str]] | None = None


class Scope(NamedTuple):
    """What the engine tells the functions that it traces, and modules need not be passed.

    Attributes:
      axis: name of the mapped device axis, or None: `medjax.nn.BatchNorm` averages over it.
      offset: index in the global batch of this device's first example.
      keys: per-example keys [n] of the running forward pass: `medjax.nn.Dropout` draws from them.
      compute: dtype that medjax's layers compute in, parameters staying float32; None: their inputs'.
      portable: trace nothing that only this machine can run, as an export must.
    """

    axis: str | None = None
    offset: Any = 0
    keys: Any = None
    compute: Any = None
    portable: bool = False


_scope: contextvars.ContextVar[Scope] = contextvars.ContextVar("medjax_scope", default=Scope())  # noqa: B039, a NamedTuple does not change
# What a traced function may depend on unseen: a function jitted once and traced under two of these is traced twice.
_traced_under = jax.make_user_context(default_value=(None, False))


def current_scope() -> Scope:
    """The scope of what is being traced."""
    return _scope.get()


@contextlib.contextmanager
def scope(**changes: Any) -> Iterator[Scope]:
    """Set fields of the `Scope` for what is traced inside the block."""
    new = _scope.get()._replace(**changes)
    token = _scope.set(new)
    try:
        with _traced_under((None if new.compute is None else jnp.dtype(new.compute).name, new.portable)):
            yield new
    finally:
        _scope.reset(token)


def example_keys(key: jax.Array, step: jax.Array, n: int) -> jax.Array:
    """Keys [n]: one per example, the same whichever device, engine or process holds the example."""
    key = jax.random.fold_in(key, step)
    return jax.vmap(jax.random.fold_in, (None, 0))(key, current_scope().offset + jnp.arange(n))


def purpose_keys(keys: jax.Array, purpose: int) -> jax.Array:
    """Keys [n] for one purpose (AUGMENT, DROPOUT, LATENT, MIX) from per-example keys [n]."""
    return jax.vmap(jax.random.fold_in, (0, None))(keys, purpose)


def total(tree: PyTree, axis: str | None) -> PyTree:
    """Sum over the mapped devices."""
    return tree if axis is None else jax.lax.psum(tree, axis)


def mean(tree: PyTree, axis: str | None) -> PyTree:
    """Mean over the mapped devices."""
    return tree if axis is None else jax.lax.pmean(tree, axis)


def augmented(task: Task, augment: Callable[[jax.Array, Batch], Batch] | Augment | None) -> Task:
    """The task with each training example augmented inside the compiled update."""
    if augment is None:
        return task
    one, together = augment if isinstance(augment, Augment) else (augment, None)

    def update(state: State, batch: Batch, axis: str | None = None) -> tuple[State, dict[str, jax.Array]]:
        keys = example_keys(state.key, state.step, len(batch["mask"]))
        batch = jax.vmap(one)(purpose_keys(keys, AUGMENT), batch)
        if together is not None:
            batch = together(purpose_keys(keys, MIX), batch)
        return task.update(state, batch, axis)

    return task._replace(update=update)
