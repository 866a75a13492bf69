"""cuDNN's LSTM from the parameters of `medjax.nn.recurrent.lstm`, through `jax.experimental.rnn`.

JAX needs its CUDA plugin even to trace the call, so `usable` is asked first. The packing and the bookkeeping around the call
are tested against JAX's own reference implementation on the CPU; the call itself has not been timed on a GPU here, which is
why `recurrent`'s form "auto" does not take it.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from medjax.nn import cells
from medjax.nn.cells import Carry, Cell, Params


def usable(cell: Cell, dtype: Any) -> bool:
    """Whether cuDNN can run this cell: a float32 LSTM, and JAX has the CUDA plugin."""
    if cell is not cells.LSTM or jnp.dtype(dtype) != jnp.float32:
        return False
    try:
        from jaxlib import gpu_rnn
    except ImportError:
        return False
    return getattr(gpu_rnn, "_cuda_rnn", None) is not None


def pack(params: Params) -> jax.Array:
    """Parameters of `recurrent.lstm` -> cuDNN's flat weights: W^T [4H, D], U^T [4H, H], b [4H], and a second bias of zeros.

    The gates' order i f g o is cuDNN's own; it adds two biases, of which ours is the sum.
    """
    w, u, b = (params[name].astype(jnp.float32) for name in ("input_kernel", "recurrent_kernel", "bias"))
    return jnp.concatenate([w.T.ravel(), u.T.ravel(), b, jnp.zeros_like(b)])


def lstm(reverse: bool, params: Params, xs: jax.Array, carry: Carry, keep: jax.Array | None) -> tuple[Carry, jax.Array]:
    """As the forms of `recurrent`: time-major xs [T, n, D], keep [T, n, 1] or None -> (final (c, h), h [T, n, H]).

    Args:
      reverse: xs and keep are turned in time, so that the padding comes first; cuDNN wants it last.
    """
    from jax.experimental import rnn

    steps, n, d = xs.shape
    c, h = carry
    width = h.shape[-1]
    lengths = jnp.full(n, steps, jnp.int32) if keep is None else keep[..., 0].sum(0, dtype=jnp.int32)
    turn = steps - lengths if reverse else jnp.zeros_like(lengths)
    xs = _roll(xs, turn)
    # A length of 0 is run as 1, and what it gives is not taken: cuDNN's versions differ in what they make of 0.
    y, h1, c1 = rnn.lstm(
        jnp.swapaxes(xs, 0, 1).astype(jnp.float32),
        h[None],
        c[None],
        pack(params),
        jnp.maximum(lengths, 1),
        d,
        width,
        1,
        0.0,
        False,
    )
    some = (lengths > 0)[:, None]
    return (jnp.where(some, c1[0], c), jnp.where(some, h1[0], h)), _roll(jnp.swapaxes(y, 0, 1), -turn)


def _roll(xs: jax.Array, by: jax.Array) -> jax.Array:
    """xs [T, n, D] with each example's step t + by taken to t, around the ends; by int [n]."""
    return jnp.take_along_axis(xs, ((jnp.arange(len(xs))[:, None] + by) % len(xs))[..., None], 0)
