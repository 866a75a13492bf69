"""Several small LSTMs side by side, one for each group of variables, in one batched product a step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from medjax.core import current_scope
from medjax.nn.cells import Params
from medjax.nn.recurrent import forget_one, lstm, orthogonal_gates


def grouped_lstm(
    params: Params,
    x: jax.Array,
    lengths: jax.Array | None = None,
    *,
    reverse: bool = False,
    dtype: Any = None,
    form: str = "auto",
) -> jax.Array:
    """G LSTMs with weights of their own over G inputs of the same times.

    Args:
      params: as for `recurrent.lstm` with a first axis G: input_kernel [G, D, 4H], recurrent_kernel [G, H, 4H], bias [G, 4H].
      x: [n, T, G, D].
      lengths, reverse, dtype, form: as there, but that form "cudnn" cannot be batched.

    Returns:
      y [n, T, G, H], zero beyond an example's length.
    """

    def one(params, x):
        return lstm(params, x, lengths, reverse=reverse, dtype=dtype, form=form)[0]

    return jax.vmap(one, (0, 2), 2)(dict(params), x)


def gather_groups(x: jax.Array, groups: Sequence[Sequence[int]]) -> jax.Array:
    """Columns of x [n, T, D] by group -> [n, T, G, size of the largest]; smaller groups are filled up with zeros."""
    largest, columns = max(map(len, groups)), x.shape[-1]
    index = np.array([[*group, *[columns] * (largest - len(group))] for group in groups])
    return jnp.pad(x, ((0, 0), (0, 0), (0, 1)))[..., index]


class GroupedLSTM(nn.Module):
    """`grouped_lstm` as a layer of `features` H for each group; each starts as `recurrent.LSTM` does, in float32."""

    features: int
    reverse: bool = False
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, lengths: jax.Array | None = None) -> jax.Array:
        """x [n, T, G, D], lengths int [n] -> y [n, T, G, H]."""
        groups, d, h = x.shape[-2], x.shape[-1], self.features
        made = {
            "input_kernel": (nn.initializers.lecun_normal(), (d, 4 * h)),
            "recurrent_kernel": (orthogonal_gates(4), (h, 4 * h)),
            "bias": (forget_one, (4 * h,)),
        }

        def each(init, shape):
            return lambda key: jax.vmap(lambda key: init(key, shape, jnp.float32))(jax.random.split(key, groups))

        params = {name: self.param(name, each(init, shape)) for name, (init, shape) in made.items()}
        return grouped_lstm(params, x, lengths, reverse=self.reverse, dtype=self.dtype or current_scope().compute)
