"""Dropout with one key per example."""

import zlib

import flax.linen as nn
import jax
import jax.numpy as jnp

from medjax.core import current_scope


class Dropout(nn.Module):
    """Inverted dropout (Srivastava et al., JMLR 2014) that draws each example's mask from that example's own key.

    The keys come from the engine's scope, so that one device, eight devices and two processes drop the same units;
    flax's Dropout draws one mask a call, which depends on how the batch is laid out. A layer that is called several times in
    one pass, as in a recurrence, drops the same units each time (Gal & Ghahramani, NeurIPS 2016, section 4).

    Attributes:
      rate: probability of a unit being set to zero, 0 <= rate < 1.
    """

    rate: float

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """x [n, ...] -> same shape and dtype; the identity unless `train`."""
        if not train or self.rate == 0:
            return x
        keys = current_scope().keys
        if keys is None:
            raise ValueError("medjax.nn.Dropout needs per-example keys: apply the model inside core.scope(keys=...)")
        # The module's path keeps the masks of two layers apart; crc32 is the same in every process, hash() is not.
        keys = jax.vmap(jax.random.fold_in, (0, None))(keys, zlib.crc32("/".join(self.path).encode()))
        keep = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - self.rate, x.shape[1:]))(keys)
        return jnp.where(keep, x / (1 - self.rate), jnp.zeros((), x.dtype))
