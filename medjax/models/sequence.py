"""Recurrent networks over sequences of different lengths, and what all networks over records share: inputs and head."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from medjax.nn import GRU, LSTM, AttentionPool, Dropout, MinGRU, SimpleRNN
from medjax.nn.attention import pool_steps
from medjax.nn.grud import gaps_of

Pool = Literal["last", "mean", "max", "attention"]
POOLS = ("last", "mean", "max", "attention")
_CELLS = {"lstm": LSTM, "gru": GRU, "simple": SimpleRNN, "mingru": MinGRU}


class Sequences(NamedTuple):
    """A batch of records.

    Attributes:
      values: [n, T, D] float.
      mask: bool [n, T, D], true where a value was observed, or None: nothing is said of it.
      gaps: [n, T, D] float, time since each variable was last observed, or None.
      lengths: int [n], or None: all steps are valid.
      static: [n, S] float, what does not change with time, or None.
    """

    values: jax.Array
    mask: jax.Array | None = None
    gaps: jax.Array | None = None
    lengths: jax.Array | None = None
    static: jax.Array | None = None


def sequences(x: jax.Array | Mapping[str, jax.Array]) -> Sequences:
    """A network's input, [n, T, D] or {"values", "mask", "gaps" or "times", "lengths", "static"}, all but values optional.

    Gaps are formed from times [n, T] where those are given in their place.
    """
    if not isinstance(x, Mapping):
        return Sequences(x)
    gaps, mask = x.get("gaps"), x.get("mask")
    if gaps is None and "times" in x:
        gaps = gaps_of(jnp.ones(x["values"].shape, bool) if mask is None else mask, x["times"])
    return Sequences(x["values"], mask, gaps, x.get("lengths"), x.get("static"))


def stacked(given: Sequences) -> jax.Array:
    """Values, mask and gaps side by side, as far as they are given: [n, T, D to 3D]."""
    there = [a for a in given[:3] if a is not None]
    return there[0] if len(there) == 1 else jnp.concatenate([a.astype(given.values.dtype) for a in there], -1)


def answer(
    y: jax.Array, last: jax.Array, given: Sequences, *, classes: int, pool: Pool, per_step: bool, dropout: float, train: bool
) -> jax.Array:
    """The head: states y [n, T, H] and the final one last [n, F] -> logits [n, classes], or [n, T, classes] if per_step.

    Static inputs join the state in a hidden layer with ReLU, as wide as the state. It is called within a module's `__call__`,
    whose submodules its layers become.
    """
    if pool not in POOLS:
        raise ValueError(f"pool {pool!r} of {', '.join(POOLS)}")
    if per_step:
        state = y
    elif pool == "last":
        state = last
    elif pool == "attention":
        state, _ = AttentionPool(y.shape[-1], name="attention")(y, given.lengths)
    else:
        state = pool_steps(y, given.lengths, pool)
    if given.static is not None:
        static = given.static.astype(state.dtype)
        if per_step:
            static = jnp.broadcast_to(static[:, None], (*y.shape[:2], static.shape[-1]))
        state = nn.relu(nn.Dense(state.shape[-1], name="static")(jnp.concatenate([state, static], -1)))
    return nn.Dense(classes)(Dropout(dropout)(state, train=train)).astype(jnp.float32)


class Recurrent(nn.Module):
    """Stacked recurrent layers, one vector of the topmost one's states, dropout, linear head.

    Attributes:
      classes: number of logits, or of regressed values.
      cell: "lstm" (Hochreiter & Schmidhuber, 1997), "gru" (Cho et al., EMNLP 2014), "simple" (Elman, 1990) or "mingru" (Feng et
        al., 2024), which has to be stacked: the gates of one layer know nothing of its past.
      features: units of each layer and direction.
      layers: how many are stacked.
      dropout: rate between layers and before the head.
      bidirectional: a second recurrence runs backwards from the last valid step; its last state is that of step 0
        (Schuster & Paliwal, 1997). With `per_step` an output then knows what comes after it.
      pool: the vector: the "last" valid state, the "mean" or "max" of the valid ones, or "attention" over them.
      per_step: logits of every step, not of the sequence.
      truncate: gradients stop between chunks of so many steps; None: they flow through all. Not for "mingru".
    """

    classes: int
    cell: Literal["lstm", "gru", "simple", "mingru"] = "lstm"
    features: int = 64
    layers: int = 1
    dropout: float = 0.0
    bidirectional: bool = False
    pool: Pool = "last"
    per_step: bool = False
    truncate: int | None = None

    @nn.compact
    def __call__(self, x: jax.Array | Mapping[str, jax.Array], *, train: bool) -> jax.Array:
        """Sequences -> logits float32 [n, classes], or [n, T, classes] if `per_step`.

        Args:
          x: [n, T, D] float, all steps valid; or {"values": [n, T, D], "lengths": int [n]}, where values from step `lengths` on
            have no effect, and further parts as in `sequences`: mask and gaps are inputs beside the values.
          train: whether units are dropped.

        Raises:
          ValueError: an unknown cell or pool, no layer, or "mingru" with `truncate`.
        """
        if self.cell not in _CELLS or self.layers < 1:
            raise ValueError(f"Recurrent: cell {self.cell!r} of {', '.join(_CELLS)}, layers {self.layers} of at least 1")
        options = {} if self.truncate is None else {"truncate": self.truncate}
        if options and self.cell == "mingru":
            raise ValueError("Recurrent: mingru has no chunks that gradients could stop between; leave out truncate")
        given = sequences(x)
        y = stacked(given)
        directions = (False, True) if self.bidirectional else (False,)
        states = []
        for layer in range(self.layers):
            if layer:
                y = Dropout(self.dropout)(y, train=train)
            made = [_CELLS[self.cell](self.features, reverse=reverse, **options)(y, given.lengths) for reverse in directions]
            y = jnp.concatenate([outputs for outputs, _ in made], -1)
            states = [jax.tree.leaves(final)[-1] for _, final in made]  # h, which an LSTM has behind c
        return answer(
            y,
            jnp.concatenate(states, -1),
            given,
            classes=self.classes,
            pool=self.pool,
            per_step=self.per_step,
            dropout=self.dropout,
            train=train,
        )
