"""Vectors of tokens: of their words and of their characters."""

from __future__ import annotations

from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

from medjax.nn.dense import Dense
from medjax.nn.dropout import Dropout


class CharacterCNN(nn.Module):
    """A vector of each token from its characters: embedding, convolution over three, maximum (Ma & Hovy, ACL 2016).

    Attributes:
      characters: how many there are, padding (0) and unknown (1) among them.
      features: length of a character's vector.
      filters: length of a token's.
      dropout: rate on the characters' vectors.
    """

    characters: int
    features: int = 25
    filters: int = 50
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """x int [n, T, C], 0 behind a token's end -> [n, T, filters]; zeros for a token without characters."""
        n, steps, width = x.shape
        there = (x > 0).reshape(n * steps, width, 1)
        y = nn.Embed(self.characters, self.features, name="embed")(x.astype(jnp.int32))
        y = Dropout(self.dropout)(y, train=train).reshape(n * steps, width, self.features)
        # Three neighbours side by side: a product is quicker here than a convolution over so few channels.
        y = jnp.pad(jnp.where(there, y, 0), ((0, 0), (1, 1), (0, 0)))
        y = Dense(self.filters, name="conv")(jnp.concatenate([y[:, :-2], y[:, 1:-1], y[:, 2:]], -1))
        y = jnp.where(there, y, -jnp.inf).max(1)
        return jnp.where(there.any(1), y, 0).reshape(n, steps, self.filters)


class TokenVectors(nn.Module):
    """A word's own vector beside the one that its characters give.

    Attributes:
      words, characters: how many there are, padding (0) and unknown (1) among them.
      word_features: length of a word's vector.
      filters: length of that of its characters, see `CharacterCNN`; 0 leaves them out.
      dropout: half of it is the rate on the characters' vectors.
    """

    words: int
    characters: int
    word_features: int = 100
    filters: int = 50
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x: Mapping[str, jax.Array], *, train: bool) -> jax.Array:
        """{"words" int [n, T], "characters" int [n, T, C]} -> [n, T, word_features + filters]."""
        y = nn.Embed(self.words, self.word_features, name="embed")(x["words"])
        if not self.filters:
            return y
        letters = CharacterCNN(self.characters, filters=self.filters, dropout=self.dropout / 2, name="letters")
        return jnp.concatenate([y, letters(x["characters"], train=train)], -1)
