"""Writing texts from texts or pictures: an encoder, attention, and a recurrent decoder that can copy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from medjax.nn import LSTM, Dense, Dropout
from medjax.nn.attention import masked_softmax, valid_steps

LEAST = 1e-9  # of a probability whose logarithm is taken
SURE = 100.0  # a logit whose sigmoid is 1


class Memory(NamedTuple):
    """What an encoder has made of its input.

    Attributes:
      states: float [n, S, M], a vector for each place.
      valid: bool [n, S].
      pieces: int32 [n, S], the piece at each place, where there are pieces to copy.
      keys: float [n, S, H], what the decoder's attention compares with.
    """

    states: jax.Array
    valid: jax.Array
    pieces: jax.Array | None = None
    keys: Any = None


class TextEncoder(nn.Module):
    """Stacked bidirectional LSTM layers over pieces.

    Attributes:
      features: units of each layer and direction.
      layers: how many are stacked.
      dropout: rate on the pieces' vectors and between layers.
    """

    features: int = 128
    layers: int = 1
    dropout: float = 0.3

    @nn.compact
    def __call__(self, x: Mapping[str, jax.Array], embed: nn.Module, *, train: bool) -> Memory:
        """{"source" int [n, S], "source_lengths" int [n]} and the vectors of pieces -> Memory with M = 2 features."""
        y, lengths = embed(x["source"]), x["source_lengths"]
        for _ in range(self.layers):
            y = Dropout(self.dropout)(y, train=train)
            y = jnp.concatenate([LSTM(self.features, reverse=reverse)(y, lengths)[0] for reverse in (False, True)], -1)
        return Memory(y, valid_steps(lengths, *y.shape[:2]), x["source"])


class PictureEncoder(nn.Module):
    """The last map of a convolutional network, each place normalised, of each of an example's views (Xu et al., ICML 2015,
    section 3.1.1).

    Attributes:
      network: [n, H, W, C] float -> with `features` a list of maps, such as `medjax.models.resnet.ResNet`.
      dropout: rate on the places' vectors.
    """

    network: nn.Module
    dropout: float = 0.3

    @nn.compact
    def __call__(self, x: Mapping[str, jax.Array], embed: nn.Module, *, train: bool) -> Memory:
        """{"image" float [n, V, H, W, C], "views" bool [n, V]}, which views there are -> Memory of all their places."""
        n, v = x["image"].shape[:2]
        y = self.network(x["image"].reshape(n * v, *x["image"].shape[2:]), train=train, features=True)[-1]
        places = y.shape[1] * y.shape[2]
        # Maps are of any scale, and would drive the decoder's tanh to where it is flat.
        y = nn.LayerNorm(name="norm")(y.reshape(n, v * places, -1))
        y = Dropout(self.dropout)(y, train=train)
        return Memory(y, jnp.repeat(x["views"], places, 1))


class Writer(nn.Module):
    """A stacked LSTM that looks back at the encoder's states and may copy their pieces.

    h_t = LSTM(w_{t-1}, h_{t-1}); a_t = softmax(h_t W s_i), c_t = sum_i a_ti s_i, o_t = tanh(V [c_t; h_t]) (Luong et al., EMNLP
    2015, equations 5 and 7 and the score "general"); the vocabulary's softmax shares its matrix with the pieces' vectors (Press
    & Wolf, EACL 2017). With places to copy, P(w) = g_t P_vocab(w) + (1 - g_t) sum over i with s_i = w of a_ti, and g_t a
    sigmoid of c_t, h_t and w_{t-1} (See et al., ACL 2017, equations 8 and 9).

    The attention does not feed back into the recurrence, so that in training the recurrence runs by itself, and all steps'
    attention is one product.

    Attributes:
      pieces: how many there are.
      encoder: (x, the vectors of pieces) -> Memory.
      word_features: length of a piece's vector.
      features: units of each layer.
      layers: how many are stacked.
      dropout: rate on the pieces' vectors, between layers, and before the softmax.
      opening: the number of what stands in front of the first piece.
    """

    pieces: int
    encoder: nn.Module
    word_features: int = 128
    features: int = 256
    layers: int = 1
    dropout: float = 0.3
    opening: int = 1

    def setup(self) -> None:
        """The layers, which training and writing share."""
        start = nn.initializers.normal(self.word_features**-0.5)  # of a length that suits both ends, see `look`
        self.embed = nn.Embed(self.pieces, self.word_features, embedding_init=start)
        self.recurrence = [LSTM(self.features) for _ in range(self.layers)]
        self.start = [Dense(2 * self.features) for _ in range(self.layers)]
        self.ask = Dense(self.features, use_bias=False)
        self.combine = Dense(self.word_features)
        self.drop = [Dropout(self.dropout) for _ in range(self.layers + 1)]
        self.bias = self.param("bias", nn.initializers.zeros, (self.pieces,), jnp.float32)
        self.generate = Dense(1)

    def encode(self, x: Mapping[str, Any], *, train: bool = False) -> Memory:
        """What the decoder looks at."""
        memory = self.encoder(x, self.embed, train=train)
        return memory._replace(keys=self.ask(memory.states))

    def begin(self, memory: Memory, width: int = 1) -> tuple[Any, ...]:
        """The state of each layer before the first piece, from the mean of the places: ((c, h) [n, width, H] ...)."""
        valid = memory.valid[..., None]
        mean = jnp.where(valid, memory.states, 0).sum(1) / jnp.maximum(valid.sum(1), 1)
        first = [jnp.split(jnp.tanh(start(mean)), 2, -1) for start in self.start]
        return tuple(tuple(jnp.repeat(a[:, None], width, 1) for a in pair) for pair in first)

    def look(self, memory: Memory, h: jax.Array, y: jax.Array, *, train: bool) -> tuple[jax.Array, jax.Array, jax.Array]:
        """h [n, U, H] and vectors y [n, U, E] of the pieces before -> (log-probabilities [n, U, V] of the vocabulary, attention
        [n, U, S], logit [n, U, 1] of not copying).
        """
        weights = masked_softmax(jnp.einsum("nuh,nsh->nus", h, memory.keys), memory.valid[:, None])
        context = jnp.einsum("nus,nsm->num", weights.astype(memory.states.dtype), memory.states)
        seen = jnp.concatenate([context, h], -1)
        o = self.drop[-1](jnp.tanh(self.combine(seen)), train=train)
        logits = self.embed.attend(o).astype(jnp.float32) + self.bias
        gate = self.generate(jnp.concatenate([seen, y], -1)).astype(jnp.float32)
        # Where there is no place at all there is nothing to copy.
        return jax.nn.log_softmax(logits), weights, jnp.where(memory.valid.any(1)[:, None, None], gate, SURE)

    def __call__(self, x: Mapping[str, Any], *, train: bool) -> jax.Array:
        """What the encoder takes, "target" int [n, U] with its end, "lengths" int [n] -> log-probability float32 [n, U] of each
        piece of the target, given those before it.
        """
        memory, target = self.encode(x, train=train), x["target"]
        y = self.embed(jnp.pad(target[:, :-1], ((0, 0), (1, 0)), constant_values=self.opening))
        h = y
        for layer, drop, first in zip(self.recurrence, self.drop, self.begin(memory)):
            h, _ = layer(drop(h, train=train), x["lengths"], initial=tuple(a[:, 0] for a in first))
        log_p, weights, gate = self.look(memory, h, y, train=train)
        found = jnp.take_along_axis(log_p, target[..., None], -1)[..., 0]
        if memory.pieces is None:
            return found
        here = (memory.pieces[:, None] == target[..., None]) & memory.valid[:, None]
        copied = jnp.log(jnp.where(here, weights, 0).sum(-1) + LEAST)
        return jnp.logaddexp(jax.nn.log_sigmoid(gate[..., 0]) + found, jax.nn.log_sigmoid(-gate[..., 0]) + copied)

    def step(self, memory: Memory, carry: Any, pieces: jax.Array) -> tuple[Any, jax.Array]:
        """One piece further, W texts of each example: states as of `begin` and the last pieces int [n, W] -> (states,
        log-probabilities float32 [n, W, V] of the next).
        """
        n, w = pieces.shape
        y = self.embed(pieces)
        h, states = y, []
        for layer, before in zip(self.recurrence, carry):
            flat = tuple(a.reshape(n * w, -1) for a in before)
            h, after = layer(h.reshape(n * w, 1, -1), initial=flat)
            h = h.reshape(n, w, -1)
            states.append(tuple(a.reshape(n, w, -1) for a in after))
        log_p, weights, gate = self.look(memory, h, y, train=False)
        if memory.pieces is None:
            return tuple(states), log_p
        share = jax.nn.sigmoid(gate)
        p = share * jnp.exp(log_p)
        at = jnp.broadcast_to(memory.pieces[:, None], weights.shape)
        where = jnp.arange(n)[:, None, None], jnp.arange(w)[:, None], at
        return tuple(states), jnp.log(p.at[where].add((1 - share) * weights) + LEAST)
