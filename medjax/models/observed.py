"""Networks over records as they were observed: what stands between raw values with gaps and a recurrent network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from medjax.nn import Dropout
from medjax.nn.grud import gaps_of

STATISTICS = "statistics"  # the collection of variables that hold what training cases tell, and no gradient


def carry_forward(values: jax.Array, mask: jax.Array) -> jax.Array:
    """Values [n, T, D] where they are observed, the last observed one elsewhere, 0 before the first."""
    last = jax.lax.cummax(jnp.where(mask, jnp.arange(values.shape[1])[:, None], -1), 1)
    seen = jnp.take_along_axis(values, jnp.maximum(last, 0), 1)
    return jnp.where(last >= 0, seen, 0.0)


def in_bins(scores: jax.Array, bins: int) -> jax.Array:
    """How far standard scores [n, D] have come through each of `bins` bins of equal width from -2 to 2: [n, D * bins], 0 to 1.

    Piecewise linear encoding (Gorishniy et al., NeurIPS 2022, section 3.2): a linear layer behind it can bend where trees can
    split. Their bins are quantiles; these need no statistics but the mean and the deviation.
    """
    width = 4.0 / bins
    starts = -2.0 + width * jnp.arange(bins)
    return jnp.clip((scores[..., None] - starts) / width, 0.0, 1.0).reshape(len(scores), -1)


def summaries(values: jax.Array, mask: jax.Array, length: jax.Array, *, bins: int = 0) -> jax.Array:
    """Mean, least, greatest, first and last value, deviation, and share of the valid steps of each column's observed values.

    Args:
      values: [n, T, D] float.
      mask: bool [n, T, D], true where observed.
      length: int [n], valid steps.
      bins: of the first five, beside them, see `in_bins`; 0 for none.

    Returns:
      [n, (7 + 5 bins) D]; all 0 for a column without an observation.
    """
    steps = jnp.arange(values.shape[1])[:, None]
    count = mask.sum(1)
    some = count > 0
    total = jnp.maximum(count, 1)
    mean = jnp.where(mask, values, 0.0).sum(1) / total
    spread = jnp.where(mask, jnp.square(values - mean[:, None]), 0.0).sum(1) / total
    low, high = jnp.where(mask, values, jnp.inf).min(1), jnp.where(mask, values, -jnp.inf).max(1)
    first, last = jnp.where(mask, steps, len(steps)).min(1), jnp.where(mask, steps, -1).max(1)
    ends = [jnp.take_along_axis(values, jnp.clip(at, 0, len(steps) - 1)[:, None], 1)[:, 0] for at in (first, last)]
    # The root has no slope at 0.
    deviation = jnp.where(spread > 0, jnp.sqrt(jnp.where(spread > 0, spread, 1.0)), 0.0)
    share = count / jnp.maximum(length, 1)[:, None]
    found = [jnp.where(some, a, 0.0) for a in (mean, low, high, *ends, deviation)]
    encoded = [jnp.where(jnp.repeat(some, bins, -1), in_bins(a, bins), 0.0) for a in found[:5]] if bins else []
    return jnp.concatenate([*found, share, *encoded], -1)


KNOTS = 17  # quantiles, the least and the greatest value among them


class Scale(nn.Module):
    """Columns on a common scale, from statistics of the collection `STATISTICS`: NaN stays NaN.

    Attributes:
      ranks: the place among the training cases' values, by linear interpolation between `KNOTS` of their quantiles, in
        deviations of a uniform distribution; otherwise standard scores, clipped to a range.
    """

    ranks: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """x [..., D] -> [..., D]."""
        d = x.shape[-1]
        if self.ranks:
            knots = self.variable(STATISTICS, "knots", jnp.zeros, (KNOTS, d)).value
            low, width = knots[:-1], knots[1:] - knots[:-1]
            passed = jnp.clip((x[..., None, :] - low) / jnp.maximum(width, 1e-30), 0.0, 1.0)
            # Where quantiles coincide, half of them lie below: what is common gets its middle rank.
            same = jnp.where(x[..., None, :] > low, 1.0, jnp.where(x[..., None, :] < low, 0.0, 0.5))
            share = jnp.where(width > 0, passed, same).mean(-2)
            return jnp.where(jnp.isnan(x), jnp.nan, (share - 0.5) * 12**0.5)
        mean = self.variable(STATISTICS, "mean", jnp.zeros, (d,)).value
        deviation = self.variable(STATISTICS, "deviation", jnp.ones, (d,)).value
        low = self.variable(STATISTICS, "low", jnp.full, (d,), -jnp.inf).value
        high = self.variable(STATISTICS, "high", jnp.full, (d,), jnp.inf).value
        return (jnp.clip(x, low, high) - mean) / deviation


class Observed(nn.Module):
    """Networks over standard scores, carried forward, with masks and gaps, of records with NaN where nothing was observed.

    Attributes:
      networks: members, whose logits are stacked; each takes what `models.sequence.sequences` describes.
      span: hours that gaps are divided by.
      categories: for each column its number of categories, which become columns of their own; 0 for a quantity.
      codes: how many codes there are; their embeddings are summed in each step.
      code_features: length of an embedding.
      ranks: of the values over time, see `Scale`.
      summary: whether `summaries` of each column join what is known once. The networks must not answer for each step then,
        since a step would know what comes after it.
      bins: in which summaries and what is known once are told as well, see `in_bins`; 0 for none.
      dropout: rate of what is known once, summaries included.
      carry: False leaves what was not observed at 0, as GRU-D wants it.
      answers: of networks that answer for the record ("last"), or for each step: what they say of "each", or of each and,
        at the last valid step, of the record ("deep").
      edges: bins of a survival time, whose ends are among the statistics and are given beside the logits; 0 for none.
    """

    networks: tuple[nn.Module, ...]
    span: float = 48.0
    categories: tuple[int, ...] = ()
    codes: int = 0
    code_features: int = 32
    ranks: bool = False
    summary: bool = False
    bins: int = 0
    dropout: float = 0.0
    carry: bool = True
    answers: Literal["last", "each", "deep"] = "last"
    edges: int = 0

    @nn.compact
    def __call__(self, x: Mapping[str, jax.Array], *, train: bool) -> dict[str, jax.Array]:
        """Records -> {"logits" float32 [n, M, K] and "steps" [n, M, T, K] of the M members, and "edges" [B]}, as far as asked.

        Args:
          x: values [n, T, D] float with NaN, times [n, T] hours, length int [n]; static [n, S] with NaN; codes int [n, T, C],
            0 for none.
          train: whether units are dropped.
        """
        raw, length = x["values"], x["length"]
        valid = (jnp.arange(raw.shape[1]) < length[:, None])[..., None]
        mask = ~jnp.isnan(raw) & valid
        raw = jnp.where(mask, raw, 0.0)
        gaps = gaps_of(mask, jnp.where(valid[..., 0], x["times"], 0)) / self.span
        scaled = values = jnp.where(mask, Scale(self.ranks, name="scale")(raw), 0.0)
        values = carry_forward(values, mask) if self.carry else values
        once = [summaries(scaled, mask, length, bins=self.bins)] if self.summary else []
        if any(self.categories):
            values = self._spread(values, raw, mask)
            source = category_columns(self.categories)
            mask, gaps = mask[..., source], gaps[..., source]
        if self.codes:
            table = self.param("codes", nn.initializers.normal(0.1), (self.codes + 1, self.code_features), jnp.float32)
            summed = jnp.where((x["codes"] > 0)[..., None] & valid[..., None], table[x["codes"]], 0).sum(-2)
            values = jnp.concatenate([values, summed], -1)
            mask = jnp.concatenate([mask, jnp.broadcast_to(valid, summed.shape)], -1)
            gaps = jnp.concatenate([gaps, jnp.zeros(summed.shape)], -1)
        given = {"values": values, "mask": mask, "gaps": gaps, "lengths": length}
        if x.get("static") is not None and x["static"].shape[-1]:
            once.append(_once(Scale(name="scale_static")(x["static"]), self.bins))
        if once:
            given["static"] = Dropout(self.dropout)(jnp.concatenate(once, -1), train=train)
        y = jnp.stack([network(given, train=train) for network in self.networks], 1)
        found = {"logits" if self.answers == "last" else "steps": y}
        if self.answers == "deep":
            found["logits"] = jnp.take_along_axis(y, jnp.maximum(length - 1, 0)[:, None, None, None], 2)[:, :, 0]
        if self.edges:
            found["edges"] = self.variable(STATISTICS, "edges", jnp.zeros, (self.edges,)).value
        return found

    def _spread(self, values: jax.Array, raw: jax.Array, mask: jax.Array) -> jax.Array:
        """One column for each category, 1 where it is the present one, behind the columns of the variables."""
        held = carry_forward(raw + 1.0, mask) if self.carry else jnp.where(mask, raw + 1.0, 0.0)
        which = jnp.round(held).astype(jnp.int32) - 1  # -1, before the first, is none of them
        columns = [jax.nn.one_hot(which[..., k], count) for k, count in enumerate(self.categories) if count]
        quantity = jnp.array([count == 0 for count in self.categories])
        return jnp.concatenate([jnp.where(quantity, values, 0.0), *columns], -1)


def category_columns(categories: Sequence[int]) -> np.ndarray:
    """Of which variable each of an `Observed` network's columns is, its codes' left out: int [D + all categories]."""
    extra = [np.full(count, k) for k, count in enumerate(categories) if count]
    return np.concatenate([np.arange(len(categories)), *extra])


def _once(scaled: jax.Array, bins: int) -> jax.Array:
    """What is known once [n, S], 0 where it is not, whether it is, and in bins: [n, (2 + bins) S]."""
    known = ~jnp.isnan(scaled)
    plain = jnp.where(known, scaled, 0.0)
    encoded = [jnp.where(jnp.repeat(known, bins, -1), in_bins(plain, bins), 0.0)] if bins else []
    return jnp.concatenate([plain, known.astype(scaled.dtype), *encoded], -1)
