"""Tagging of tokens: words and their characters, a bidirectional LSTM, and the scores of a linear-chain CRF."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from medjax.nn import LSTM, Dense, Dropout
from medjax.nn.crf import Chain
from medjax.nn.tokens import TokenVectors


class Tagger(nn.Module):
    """Character CNN and word embedding, bidirectional LSTM, linear scores of the tags and of their neighbours.

    Ma & Hovy (ACL 2016), of which the recurrence is in `medjax.nn.recurrent` and the CRF in `medjax.nn.crf`.

    Attributes:
      tags: Y, how many there are.
      words, characters: in the vocabulary, padding (0) and unknown (1) among them.
      word_features, filters: see `TokenVectors`.
      features: units of each layer and direction.
      layers: how many are stacked.
      dropout: rate on the tokens' vectors, between layers, and before the scores.
    """

    tags: int
    words: int
    characters: int
    word_features: int = 100
    filters: int = 50
    features: int = 100
    layers: int = 1
    dropout: float = 0.5

    @nn.compact
    def __call__(self, x: Mapping[str, jax.Array], *, train: bool) -> dict[str, Any]:
        """{"words" int [n, T], "characters" int [n, T, C], "lengths" int [n]} -> emissions and chain.

        Returns:
          {"emissions": float32 [n, T, Y], "chain": `Chain` of float32}.
        """
        vectors = TokenVectors(self.words, self.characters, self.word_features, self.filters, self.dropout, name="tokens")
        y = vectors(x, train=train)
        for _ in range(self.layers):
            y = Dropout(self.dropout)(y, train=train)
            y = jnp.concatenate([LSTM(self.features, reverse=reverse)(y, x["lengths"])[0] for reverse in (False, True)], -1)
        emissions = Dense(self.tags, name="scores")(Dropout(self.dropout)(y, train=train)).astype(jnp.float32)
        zeros = nn.initializers.zeros
        chain = Chain(
            self.param("transitions", zeros, (self.tags, self.tags), jnp.float32),
            self.param("first", zeros, (self.tags,), jnp.float32),
            self.param("last", zeros, (self.tags,), jnp.float32),
        )
        return {"emissions": emissions, "chain": chain}
