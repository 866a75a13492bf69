"""GRU-D over records with missing values: the network of Che et al., Scientific Reports 8:6085, 2018."""

from __future__ import annotations

from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

from medjax.models.sequence import Pool, answer, sequences
from medjax.nn import GRUD


class GRUDNetwork(nn.Module):
    """One GRU-D layer, one vector of its states, dropout, linear head.

    Attributes:
      classes: number of logits, or of regressed values.
      features: units of the layer.
      mean: of the training set's observed values, one for each variable or one for all; 0 where they are standardised.
      dropout: rate before the head.
      pool, per_step: as in `sequence.Recurrent`.
    """

    classes: int
    features: int = 64
    mean: float | tuple[float, ...] = 0.0
    dropout: float = 0.0
    pool: Pool = "last"
    per_step: bool = False

    @nn.compact
    def __call__(self, x: Mapping[str, jax.Array], *, train: bool) -> jax.Array:
        """Records -> logits float32 [n, classes], or [n, T, classes] if `per_step`.

        Args:
          x: as in `sequence.sequences`. Without a mask NaN in the values is what was not observed; without gaps and times the
            steps are one unit of time apart.
          train: whether units are dropped.

        Raises:
          ValueError: an unknown pool.
        """
        x = x if isinstance(x, Mapping) else {"values": x}
        values = x["values"]
        mask = ~jnp.isnan(values) if x.get("mask") is None else x["mask"].astype(bool)
        times = jnp.broadcast_to(jnp.arange(values.shape[1], dtype=jnp.float32), values.shape[:2])
        given = sequences({"times": times, **x, "mask": mask})
        assert given.gaps is not None  # there are times
        y, last = GRUD(self.features, mean=self.mean)(values, mask, given.gaps, given.lengths)
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
