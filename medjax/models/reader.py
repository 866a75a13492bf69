"""Classification of texts: token vectors, a bidirectional recurrence, and an attention of each label's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from medjax.nn import GRU, LSTM, Dense, Dropout
from medjax.nn.attention import masked_softmax, valid_steps
from medjax.nn.tokens import TokenVectors

NARROW, REACH = 128, 10.0  # see `Bag`
STATISTICS = "statistics"  # collection of what the training texts tell
_CELLS = {"lstm": LSTM, "gru": GRU}


class LabelAttention(nn.Module):
    """For each label its own weighted mean of the valid steps, and its logit (LAAT: Vu et al., IJCAI 2020, section 3).

    z_t = tanh(y_t W), weight_tl = softmax_t(z_t u_l), logit_l = v_l . sum_t weight_tl y_t + b_l. CAML (Mullenbach et al., NAACL
    2018) is the same without W.

    Attributes:
      labels: K, from one to thousands.
      features: length of z.
    """

    labels: int
    features: int = 128

    @nn.compact
    def __call__(self, y: jax.Array, lengths: jax.Array) -> tuple[jax.Array, jax.Array]:
        """y [n, T, H], lengths int [n] -> (logits [n, K], weights [n, T, K] that sum to 1 over the valid steps), float32."""
        z = jnp.tanh(Dense(self.features, use_bias=False, name="project")(y))
        scores = Dense(self.labels, use_bias=False, name="ask")(z)
        weights = masked_softmax(scores, valid_steps(lengths, *y.shape[:2])[..., None], axis=1)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (y.shape[-1], self.labels), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.labels,), jnp.float32)
        # The mean's product with v_l is the mean of the products: [n, T, K] in place of [n, K, H], which is larger.
        answers = jnp.einsum("nth,hk->ntk", y.astype(jnp.float32), kernel)
        return (weights * answers).sum(1) + bias, weights


class Bag(nn.Module):
    """A linear model of a text's words and characters, whatever their order (fastText: Joulin et al., EACL 2017), by TF-IDF.

    Weights are 1 + log count, times the term's rarity among the training texts, divided by their Euclidean norm in the text.

    Attributes:
      classes: K. Beyond `NARROW` of them the table's rows are `NARROW` long, and a linear layer follows.
      buckets: rows of the table of terms.
      dropout: rate on the terms.
      fitted: table and bias are statistics that a Job's `start` fits once, and nothing is learned.
    """

    classes: int
    buckets: int
    dropout: float = 0.0
    fitted: bool = False

    @nn.compact
    def __call__(self, x: Mapping[str, jax.Array], *, train: bool) -> jax.Array:
        """{"places" int [n, M], "weights" [n, M], 0 where there is no term} -> logits float32 [n, K]."""
        rarity = self.variable(STATISTICS, "rarity", jnp.ones, (self.buckets,)).value
        weights = x["weights"] * rarity[x["places"]]
        weights = weights / jnp.maximum(jnp.linalg.norm(weights, axis=-1, keepdims=True), 1e-6)
        if self.fitted:
            table = self.variable(STATISTICS, "table", jnp.zeros, (self.buckets, self.classes)).value
            bias = self.variable(STATISTICS, "bias", jnp.zeros, (self.classes,)).value
            return jnp.einsum("nm,nmk->nk", weights, table[x["places"]]) + bias
        weights = Dropout(self.dropout)(weights, train=train)
        narrow = self.classes > NARROW
        start = nn.initializers.normal(0.01) if narrow else nn.initializers.zeros
        table = self.param("table", start, (self.buckets, min(self.classes, NARROW)), jnp.float32)
        # Weights are of a text of norm 1: what decides must be large, and steps of the optimizer are small.
        y = REACH * jnp.einsum("nm,nmk->nk", weights, table[x["places"]])
        return (Dense(self.classes, use_bias=False, name="widen")(y) if narrow else y).astype(jnp.float32)


class Reader(nn.Module):
    """Token vectors, stacked bidirectional recurrent layers, `LabelAttention`.

    Attributes:
      classes: K.
      words, characters, word_features, filters: see `TokenVectors`.
      cell: of the recurrence.
      features: units of each layer and direction.
      layers: how many are stacked.
      dropout: rate on the tokens' vectors, between layers, and before the attention.
    """

    classes: int
    words: int
    characters: int
    word_features: int = 100
    filters: int = 50
    cell: Literal["lstm", "gru"] = "lstm"
    features: int = 100
    layers: int = 1
    dropout: float = 0.3

    @nn.compact
    def __call__(self, x: Mapping[str, jax.Array], *, train: bool) -> jax.Array:
        """{"words" int [n, T], "characters" int [n, T, C], "lengths" int [n]} -> logits float32 [n, K]."""
        vectors = TokenVectors(self.words, self.characters, self.word_features, self.filters, self.dropout, name="tokens")
        y, cell = vectors(x, train=train), _CELLS[self.cell]
        for _ in range(self.layers):
            y = Dropout(self.dropout)(y, train=train)
            y = jnp.concatenate([cell(self.features, reverse=reverse)(y, x["lengths"])[0] for reverse in (False, True)], -1)
        return LabelAttention(self.classes, name="attention")(Dropout(self.dropout)(y, train=train), x["lengths"])[0]


class Summed(nn.Module):
    """Networks over the same text whose logits are added, and which learn together (wide and deep: Cheng et al., 2016).

    Attributes:
      parts: networks, x -> logits [n, K].
    """

    parts: tuple[nn.Module, ...]

    @nn.compact
    def __call__(self, x: Mapping[str, jax.Array], *, train: bool) -> jax.Array:
        """What the parts take -> logits float32 [n, K]."""
        return sum(part(x, train=train) for part in self.parts)


class SideBySide(nn.Module):
    """Networks over the same text, such as `Reader` and `Bag`, each of which answers by itself.

    Attributes:
      members: M networks, x -> logits [n, K].
    """

    members: tuple[nn.Module, ...]

    @nn.compact
    def __call__(self, x: Mapping[str, jax.Array], *, train: bool) -> jax.Array:
        """What the members take -> logits float32 [n, M, K]."""
        return jnp.stack([member(x, train=train) for member in self.members], 1)
