"""Recurrent layers: simple (Elman), LSTM and GRU, over padded sequences of given lengths.

Each cell is written once (`cells`) and run in one of two forms. "reference" is a plain `lax.scan`, the input's product formed
before it, differentiated by JAX: any mode, any order. "saved" keeps nothing but the states; its backward pass forms the gates
of a block of steps again in one product, then all that does not depend on the cotangent, which leaves the reversed scan a few
multiplications and one product a step; the weights' gradient is one product a block. On CPU that takes less than half the time
and a fraction of the memory. "auto" takes "saved" on CPU, "reference" elsewhere, chosen when the program is lowered. "cudnn"
(see `cudnn`) takes cuDNN for a float32 LSTM on CUDA, and what "auto" takes for all else. The parameters are the same in all.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from medjax.console import say
from medjax.core import current_scope
from medjax.nn import cells, cudnn
from medjax.nn.cells import Carry, Cell, Params

FORMS = ("auto", "reference", "saved", "cudnn")
WORDS = {"reference": "a plain scan", "saved": "a scan with a backward pass of its own", "cudnn": "cuDNN"}
CELLS = {"simple": cells.RNN, "lstm": cells.LSTM, "gru": cells.GRU}
# Floats of pre-activations that the backward pass forms at once: 2 MiB, what stays in a core's cache.
BLOCK = 2**19


def _dot(a: jax.Array, b: jax.Array, dtype: Any, out: Any) -> jax.Array:
    """a @ b with factors in `dtype` and sums in `out`."""
    return jnp.matmul(a.astype(dtype), b.astype(dtype), preferred_element_type=out)


def _hold(keep: jax.Array | None, new: Carry, old: Carry) -> Carry:
    """The new states where keep [n, 1] is true; no select at all where every step is valid."""
    return new if keep is None else tuple(jnp.where(keep, a, b) for a, b in zip(new, old))


def _reference(cell: Cell, dtype: Any, params: Params, xs: jax.Array, carry: Carry, keep: Any) -> tuple[Carry, jax.Array]:
    """Time-major xs [T, n, D], keep [T, n, 1] -> (final carry, h [T, n, H]); the input's product is hoisted out of the scan."""
    out = carry[-1].dtype
    zx = _dot(xs, params["input_kernel"], dtype, out) + params["bias"].astype(out)
    bias = params.get("candidate_bias")
    bias = None if bias is None else jnp.pad(bias.astype(out), (2 * len(bias), 0))

    def step(carry, inputs):
        zx, keep = inputs
        zh = _dot(carry[-1], params["recurrent_kernel"], dtype, out)
        carry = _hold(keep, cell.step(cell.join(zx, zh if bias is None else zh + bias), carry), carry)
        return carry, carry[-1]

    return lax.scan(step, carry, (zx, keep))


def _saved(cell: Cell, dtype: Any, params: Params, xs: jax.Array, carry: Carry, keep: Any) -> tuple[Carry, jax.Array]:
    """As `_reference`, with a backward pass of its own."""
    return _run(cell, dtype, *cell.pack(params), xs, carry, keep)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _run(cell, dtype, w, b, xs, carry, keep):
    return _forward(cell, dtype, w, b, xs, carry, keep)[0]


def _forward(cell, dtype, w, b, xs, carry, keep):
    out = carry[-1].dtype
    d, cast, bias = xs.shape[-1], w.astype(dtype), b.astype(out)
    # A short input costs least as further columns of the state's product; a long one makes them too large.
    joined = 4 * d <= carry[-1].shape[-1]
    # The barrier keeps the two slices from being taken anew in every step.
    wx, wh = lax.optimization_barrier((cast[:d], cast[d:]))

    def step(carry, inputs):
        x, keep = inputs
        if joined:
            z = _dot(jnp.concatenate([x.astype(dtype), carry[-1].astype(dtype)], -1), cast, dtype, out)
        else:
            z = _dot(x, wx, dtype, out) + _dot(carry[-1], wh, dtype, out)
        carry = _hold(keep, cell.step(z + bias, carry), carry)
        return carry, carry

    final, states = lax.scan(step, carry, (xs, keep))
    return (final, states[-1]), (w, b, xs, carry, keep, states)


def _backward(cell, dtype, saved, cotangents):
    w, b, xs, initial, keep, states = saved
    dfinal, dhs = cotangents
    steps, n, d = xs.shape
    out = initial[-1].dtype
    wx, wh = jnp.split(w.T.astype(dtype), [d], -1)

    def block(sums, xs, before, after, dhs, keep):
        """One block of steps: ((dcarry, dw, db) after it, its slices) -> ((dcarry, dw, db) before it, dx)."""
        xh = jnp.concatenate([xs.astype(dtype), before[-1].astype(dtype)], -1)
        # The barrier keeps the coefficients in one pass over the block: XLA would form them again in each fusion of the scan.
        plan = cell.plan(_dot(xh, w, dtype, out) + b.astype(out), before, after)
        # Padding is masked here, in that same pass: with coefficients of zero a step gives nothing.
        plan = lax.optimization_barrier(plan if keep is None else tuple(jnp.where(keep, a, 0) for a in plan))

        def step(dcarry, inputs):
            dh, keep, plan = inputs
            dcarry = *dcarry[:-1], dcarry[-1] + dh
            dz, dbefore = cell.back(plan, dcarry)
            dbefore = *dbefore[:-1], dbefore[-1] + _dot(dz, wh, dtype, out)
            if keep is not None:
                dbefore = tuple(a + jnp.where(keep, 0, b) for a, b in zip(dbefore, dcarry))
            return dbefore, dz

        dcarry, dw, db = sums
        dcarry, dz = lax.scan(step, dcarry, (dhs, keep, plan), reverse=True)
        flat = dz.reshape(-1, dz.shape[-1])
        dw = dw + _dot(xh.reshape(-1, xh.shape[-1]).T, flat, dtype, out)
        return (dcarry, dw, db + flat.sum(0)), _dot(dz, wx, dtype, out)

    def cut(tree, start, size):
        return jax.tree.map(lambda a: lax.dynamic_slice_in_dim(a, start, size), tree)

    # The first block takes what is left over, at least one step, since the initial carry comes before it.
    size = min(steps, max(8, BLOCK // (n * w.shape[1])))
    count = (steps - 1) // size
    rest = steps - count * size
    sums = dfinal, jnp.zeros(w.shape, out), jnp.zeros(b.shape, out)
    dxs = []
    if count:

        def inner(sums, k):
            now = cut((xs, states, dhs, keep), rest + k * size, size)
            return block(sums, now[0], cut(states, rest + k * size - 1, size), *now[1:])

        sums, dx = lax.scan(inner, sums, jnp.arange(count), reverse=True)
        dxs = [dx.reshape(count * size, n, d)]
    before = tuple(jnp.concatenate([a[None], s[: rest - 1]]) for a, s in zip(initial, states))
    now = cut((xs, states, dhs, keep), 0, rest)
    (dinitial, dw, db), dx = block(sums, now[0], before, *now[1:])
    return dw.astype(w.dtype), db.astype(b.dtype), jnp.concatenate([dx, *dxs]).astype(xs.dtype), dinitial, None


_run.defvjp(_forward, _backward)


def recurrent_form(platform: str, dtype: Any = jnp.float32, *, cell: str = "lstm", form: str = "auto") -> str:
    """Which of "reference", "saved" and "cudnn" a layer of this `form` is run in on a platform, for a run to say.

    Args:
      platform: "cpu", "cuda" ("gpu"), "rocm" or "tpu".
      dtype: of the products.
      cell: "simple", "lstm" or "gru".
      form: the layer's.

    Raises:
      ValueError: an unknown form or cell.
    """
    if form not in FORMS or cell not in CELLS:
        raise ValueError(f"form={form!r}: one of {', '.join(FORMS)}; cell={cell!r}: one of {', '.join(CELLS)}")
    if form == "cudnn" and platform in ("cuda", "gpu") and cudnn.usable(CELLS[cell], dtype):
        return "cudnn"
    if form in ("auto", "cudnn"):
        return "saved" if platform == "cpu" else "reference"
    return form


@cache
def _tell(cell: str, form: str) -> None:
    say(f"recurrence: {cell}, {WORDS[form]}")


def _chunked(run: Callable, size: int, xs: jax.Array, carry: Carry, keep: Any) -> tuple[Carry, jax.Array]:
    """`run` over chunks of `size` steps; states go from one to the next, gradients do not."""
    count = (len(xs) - 1) // size
    hs = []
    if count:

        def chunk(carry, inputs):
            carry, hs = run(inputs[0], carry, inputs[1])
            return lax.stop_gradient(carry), hs

        whole = jax.tree.map(lambda a: a[: count * size].reshape(count, size, *a.shape[1:]), (xs, keep))
        carry, first = lax.scan(chunk, carry, whole)
        hs = [first.reshape(count * size, *first.shape[2:])]
    xs, keep = jax.tree.map(lambda a: a[count * size :], (xs, keep))
    carry, rest = run(xs, carry, keep)
    return carry, jnp.concatenate([*hs, rest])


def _recur(kind, states, params, x, lengths, *, initial, reverse, dtype, form, truncate):
    """What `simple_rnn`, `lstm` and `gru` share; `states` is how many a cell has."""
    if truncate is not None and truncate < 1:
        raise ValueError(f"truncate={truncate}: at least one step, or None")
    cell = CELLS[kind]
    dtype = jnp.result_type(x, *params.values()) if dtype is None else dtype
    # States add up small changes over hundreds of steps, which bfloat16 would round away.
    wide = jnp.promote_types(dtype, jnp.float32)
    n, steps = x.shape[:2]
    if initial is None:
        initial = (jnp.zeros((n, params["recurrent_kernel"].shape[0]), wide),) * states
    carry = tuple(a.astype(wide) for a in (initial if isinstance(initial, tuple) else (initial,)))
    xs, keep = jnp.swapaxes(x, 0, 1), None
    if lengths is not None:
        keep = (jnp.arange(steps)[:, None] < lengths)[..., None]
        xs = jnp.where(keep, xs, 0)  # whatever the padding holds, NaN too, stays out of the products
    if reverse:
        xs, keep = jnp.flip(xs, 0), None if keep is None else jnp.flip(keep, 0)
    forms = {
        "reference": partial(_reference, cell, dtype),
        "saved": partial(_saved, cell, dtype),
        "cudnn": partial(cudnn.lstm, reverse),
    }
    chosen = {platform: recurrent_form(platform, dtype, cell=kind, form=form) for platform in ("cpu", "cuda", "rocm")}
    _tell(kind, recurrent_form(jax.default_backend(), dtype, cell=kind, form=form))

    def run(xs, carry, keep):
        if len(set(chosen.values())) == 1:
            return forms[chosen["cpu"]](dict(params), xs, carry, keep)
        branches = {platform: forms[chosen[platform]] for platform in ("cpu", "cuda")}
        return lax.platform_dependent(dict(params), xs, carry, keep, **branches, default=forms[chosen["rocm"]])

    final, hs = run(xs, carry, keep) if truncate is None else _chunked(run, truncate, xs, carry, keep)
    hs = hs if keep is None else jnp.where(keep, hs, 0)
    hs = jnp.flip(hs, 0) if reverse else hs
    return jnp.swapaxes(hs, 0, 1).astype(dtype), final


def simple_rnn(
    params: Params,
    x: jax.Array,
    lengths: jax.Array | None = None,
    *,
    initial: jax.Array | None = None,
    reverse: bool = False,
    dtype: Any = None,
    form: str = "auto",
    truncate: int | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Simple recurrent network (Elman, Cognitive Science 1990, with tanh): h_t = tanh(x_t W + h_{t-1} U + b).

    Args:
      params: input_kernel W [D, H], recurrent_kernel U [H, H], bias b [H].
      x: [n, T, D], T >= 1; what stands beyond an example's length is never looked at.
      lengths: int [n] in 0..T, or None: all steps are valid, and nothing is masked.
      initial: h [n, H] before the first step; zeros by default.
      reverse: run each example from its last valid step to its first; outputs stay at their own places.
      dtype: of the products and of y; by default that of x and params, promoted. States and sums are float32 at least.
      form: "auto", "reference", "saved" or "cudnn" (see the module). jax.jvp and jacfwd of the layer itself need "reference";
        grad, vjp, hessian (forward over reverse) and grad of grad work in all but "cudnn", which has reverse mode alone.
      truncate: gradients stop between chunks of so many steps, counted from the first that is run (Williams & Peng, Neural
        Computation 1990); values are the same. None: they flow through all steps.

    Returns:
      y [n, T, H], zero beyond an example's length, and h [n, H] after its last step (its first, if `reverse`); with length 0
      that is `initial`.

    Raises:
      ValueError: an unknown `form`, or `truncate` below 1.
    """
    y, (h,) = _recur(
        "simple", 1, params, x, lengths, initial=initial, reverse=reverse, dtype=dtype, form=form, truncate=truncate
    )
    return y, h


def lstm(
    params: Params,
    x: jax.Array,
    lengths: jax.Array | None = None,
    *,
    initial: tuple[jax.Array, jax.Array] | None = None,
    reverse: bool = False,
    dtype: Any = None,
    form: str = "auto",
    truncate: int | None = None,
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    """Long short-term memory (Hochreiter & Schmidhuber 1997 with the forget gate of Gers et al., Neural Computation 2000).

    i, f, o = sigmoid, g = tanh of the columns of x_t W + h_{t-1} U + b, in the order i f g o;
    c_t = f * c_{t-1} + i * g; h_t = o * tanh(c_t).

    All else as in `simple_rnn`, with W [D, 4H], U [H, 4H], b [4H]; `initial` and the final state are (c, h) [n, H].
    """
    return _recur("lstm", 2, params, x, lengths, initial=initial, reverse=reverse, dtype=dtype, form=form, truncate=truncate)


def gru(
    params: Params,
    x: jax.Array,
    lengths: jax.Array | None = None,
    *,
    initial: jax.Array | None = None,
    reverse: bool = False,
    dtype: Any = None,
    form: str = "auto",
    truncate: int | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Gated recurrent unit (Cho et al., EMNLP 2014) in the form of cuDNN and PyTorch, the reset gate after the product.

    r, z = sigmoid of the columns of x_t W + h_{t-1} U + b, in the order r z n;
    n = tanh(x_t W_n + b_n + r * (h_{t-1} U_n + c_n)); h_t = (1 - z) * n + z * h_{t-1}.

    All else as in `simple_rnn`, with W [D, 3H], U [H, 3H], b [3H] and candidate_bias c_n [H].
    """
    y, (h,) = _recur("gru", 1, params, x, lengths, initial=initial, reverse=reverse, dtype=dtype, form=form, truncate=truncate)
    return y, h


def bidirectional(
    run: Callable[..., tuple[jax.Array, Any]],
    forwards: Params,
    backwards: Params,
    x: jax.Array,
    lengths: jax.Array | None = None,
    **options: Any,
) -> tuple[jax.Array, tuple[Any, Any]]:
    """Two recurrences, one in each direction of time within an example's length (Schuster & Paliwal, 1997).

    Args:
      run: `simple_rnn`, `lstm` or `gru`.
      forwards, backwards: the parameters of each.
      x, lengths: as there.
      options: as there, but for `initial` and `reverse`.

    Returns:
      y [n, T, 2H], the forward half first, and the final state of each.
    """
    made = [run(params, x, lengths, reverse=reverse, **options) for params, reverse in ((forwards, False), (backwards, True))]
    return jnp.concatenate([y for y, _ in made], -1), (made[0][1], made[1][1])


def orthogonal_gates(gates: int) -> Callable:
    """Initializer of [H, gates * H]: an orthogonal matrix for each gate (Saxe et al., ICLR 2014)."""

    def init(key, shape, dtype):
        square = (shape[0], shape[0])
        return jnp.concatenate([nn.initializers.orthogonal()(k, square, dtype) for k in jax.random.split(key, gates)], -1)

    return init


def forget_one(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    """Initializer of an LSTM's bias [4H]: 1 for the forget gate."""
    return jnp.zeros(shape, dtype).at[shape[0] // 4 : shape[0] // 2].set(1)


class _Recurrent(nn.Module):
    features: int
    reverse: bool = False
    dtype: Any = None
    form: str = "auto"
    truncate: int | None = None

    run: ClassVar[Callable] = staticmethod(simple_rnn)
    gates: ClassVar[int] = 1
    bias_init: ClassVar[Callable] = staticmethod(nn.initializers.zeros)

    @nn.compact
    def __call__(self, x: jax.Array, lengths: jax.Array | None = None, *, initial: Any = None) -> tuple[jax.Array, Any]:
        """x [n, T, D], lengths int [n] -> (y [n, T, H], final state at the last valid step: h [n, H], of an LSTM (c, h))."""
        h, wide = self.features, self.gates * self.features
        params = {
            "input_kernel": self.param("input_kernel", nn.initializers.lecun_normal(), (x.shape[-1], wide), jnp.float32),
            "recurrent_kernel": self.param("recurrent_kernel", orthogonal_gates(self.gates), (h, wide), jnp.float32),
            "bias": self.param("bias", self.bias_init, (wide,), jnp.float32),
        }
        if self.run is gru:
            params["candidate_bias"] = self.param("candidate_bias", nn.initializers.zeros, (h,), jnp.float32)
        dtype = self.dtype or current_scope().compute
        options: dict[str, Any] = {"reverse": self.reverse, "form": self.form, "truncate": self.truncate}
        return self.run(params, x, lengths, initial=initial, dtype=dtype, **options)


class SimpleRNN(_Recurrent):
    """`simple_rnn` as a layer of `features` H; `reverse`, `dtype`, `form`, `truncate` as there. Parameters are float32."""


class LSTM(_Recurrent):
    """`lstm` as a layer; fields as in `SimpleRNN`.

    The forget gate's bias starts at 1 (Jozefowicz et al., ICML 2015), so that memory is kept at first.
    """

    run, gates, bias_init = staticmethod(lstm), 4, staticmethod(forget_one)


class GRU(_Recurrent):
    """`gru` as a layer; fields as in `SimpleRNN`."""

    run, gates = staticmethod(gru), 3
