"""Channel-wise LSTM over records: Harutyunyan et al., Multitask learning and benchmarking with clinical time series, 2019."""

from __future__ import annotations

from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

from medjax.models.sequence import Pool, answer, sequences
from medjax.nn import LSTM, Dropout, GroupedLSTM
from medjax.nn.channelwise import gather_groups


class ChannelwiseLSTM(nn.Module):
    """A small LSTM for each variable with its mask, their outputs side by side, an LSTM over all, linear head.

    Scientific Data 6:96, 2019, "channel-wise LSTM": each variable is first looked at alone, then together with the others.

    Attributes:
      classes: number of logits, or of regressed values.
      groups: columns of the values that are one variable each, such as those of a one-hot code; None: each column is one.
      channel_features: units of each variable's LSTM and direction.
      features: units of the LSTM over all.
      bidirectional: whether the variables' LSTMs run in both directions; None: not if `per_step`, where an output must not know
        what comes after it.
      dropout: rate before the LSTM over all and before the head.
      pool, per_step: as in `sequence.Recurrent`.
    """

    classes: int
    groups: tuple[tuple[int, ...], ...] | None = None
    channel_features: int = 8
    features: int = 64
    bidirectional: bool | None = None
    dropout: float = 0.0
    pool: Pool = "last"
    per_step: bool = False

    @nn.compact
    def __call__(self, x: jax.Array | Mapping[str, jax.Array], *, train: bool) -> jax.Array:
        """Records -> logits float32 [n, classes], or [n, T, classes] if `per_step`.

        Args:
          x: as in `sequence.sequences`; a variable's LSTM sees the values, mask and gaps of its columns.
          train: whether units are dropped.

        Raises:
          ValueError: an unknown pool, or a group without columns or with one that is not there.
        """
        given = sequences(x)
        n, steps, columns = given.values.shape
        groups = tuple((k,) for k in range(columns)) if self.groups is None else self.groups
        if not groups or not all(group and min(group) >= 0 and max(group) < columns for group in groups):
            raise ValueError(f"ChannelwiseLSTM: groups {groups} must hold columns of 0 to {columns - 1}, at least one each")
        parts = [gather_groups(a.astype(given.values.dtype), groups) for a in given[:3] if a is not None]
        inputs = jnp.concatenate(parts, -1)
        both = not self.per_step if self.bidirectional is None else self.bidirectional
        made = [
            GroupedLSTM(self.channel_features, reverse=reverse)(inputs, given.lengths) for reverse in (False, True)[: 1 + both]
        ]
        y = Dropout(self.dropout)(jnp.concatenate(made, -1).reshape(n, steps, -1), train=train)
        y, (_, last) = LSTM(self.features)(y, given.lengths)
        return answer(
            y,
            last,
            given,
            classes=self.classes,
            pool=self.pool,
            per_step=self.per_step,
            dropout=self.dropout,
            train=train,
        )
