"""Recurrent networks over sequences of different lengths: classify or regress from the last valid state."""

from collections.abc import Mapping
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from medjax.nn import GRU, LSTM, Dropout, SimpleRNN

_CELLS = {"lstm": LSTM, "gru": GRU, "simple": SimpleRNN}


class Recurrent(nn.Module):
    """Stacked recurrent layers, the last valid state of the topmost one, dropout, linear head.

    Attributes:
      classes: number of logits, or of regressed values.
      cell: "lstm" (Hochreiter & Schmidhuber, 1997), "gru" (Cho et al., EMNLP 2014) or "simple" (Elman, 1990).
      features: units of each layer and direction.
      layers: how many are stacked.
      dropout: rate between layers and before the head.
      bidirectional: a second recurrence runs backwards from the last valid step; its last state is that of step 0
        (Schuster & Paliwal, 1997).
    """

    classes: int
    cell: Literal["lstm", "gru", "simple"] = "lstm"
    features: int = 64
    layers: int = 1
    dropout: float = 0.0
    bidirectional: bool = False

    @nn.compact
    def __call__(self, x: jax.Array | Mapping[str, jax.Array], *, train: bool) -> jax.Array:
        """Sequences -> logits [n, classes] float32.

        Args:
          x: [n, T, D] float, all steps valid; or {"values": [n, T, D], "lengths": int [n]}, where values from step `lengths` on
            have no effect.
          train: whether units are dropped.

        Raises:
          ValueError: an unknown cell, or no layer.
        """
        if self.cell not in _CELLS or self.layers < 1:
            raise ValueError(f"Recurrent: cell {self.cell!r} of {', '.join(_CELLS)}, layers {self.layers} of at least 1")
        y, lengths = (x["values"], x["lengths"]) if isinstance(x, Mapping) else (x, None)
        directions = (False, True) if self.bidirectional else (False,)
        states = []
        for layer in range(self.layers):
            if layer:
                y = Dropout(self.dropout)(y, train=train)
            made = [_CELLS[self.cell](self.features, reverse=reverse)(y, lengths) for reverse in directions]
            y = jnp.concatenate([outputs for outputs, _ in made], -1)
            states = [jax.tree.leaves(final)[-1] for _, final in made]  # h, which an LSTM has behind c
        state = Dropout(self.dropout)(jnp.concatenate(states, -1), train=train)
        return nn.Dense(self.classes)(state).astype(jnp.float32)
