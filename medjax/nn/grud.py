"""GRU-D: a recurrent unit for values that were measured at some times only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from medjax.core import current_scope
from medjax.nn.recurrent import orthogonal_gates


def gaps_of(mask: jax.Array, times: jax.Array) -> jax.Array:
    """Time since each variable was last observed, before the present step (Che et al., Scientific Reports 8:6085, 2018).

    d_t = s_t - s_{t-1} where the variable was observed at t-1, that plus d_{t-1} where it was not; 0 at the first step.

    Args:
      mask: bool [n, T, D], true where observed.
      times: s [n, T] float, in the unit of the decays; beyond an example's length anything finite.

    Returns:
      [n, T, D] of times' dtype.
    """
    since = jnp.pad(_last(mask)[:, :-1], ((0, 0), (1, 0), (0, 0)))  # before any observation: since the first step
    seen = jnp.take_along_axis(times[..., None], jnp.maximum(since, 0), 1)
    return times[..., None] - seen


def _last(mask: jax.Array) -> jax.Array:
    """The last observed step until each, -1 for none: int [n, T, D]."""
    return lax.cummax(jnp.where(mask, jnp.arange(mask.shape[1])[:, None], -1), 1)


def gru_d(
    params: Mapping[str, jax.Array],
    values: jax.Array,
    mask: jax.Array,
    gaps: jax.Array,
    lengths: jax.Array | None = None,
    *,
    mean: jax.Array | float = 0.0,
    initial: jax.Array | None = None,
    dtype: Any = None,
) -> tuple[jax.Array, jax.Array]:
    """GRU with trainable decays (Che et al., Scientific Reports 8:6085, 2018, "GRU-D: model with trainable decays").

    With the last observation x', which is the mean before the first, and element by element:
      gamma_x = exp(-max(0, w_x d_t + b_x)),  gamma_h = exp(-max(0, d_t W_h + b_h))
      x^ = x_t where observed, gamma_x x' + (1 - gamma_x) mean elsewhere
      h^ = gamma_h h_{t-1}
      r, z = sigmoid(x^ W + h^ U + m_t V + b),  h~ = tanh(x^ W + (r h^) U + m_t V + b),  h_t = (1 - z) h^ + z h~

    Args:
      params: input_kernel [2D, 3H], the rows of W and then those of V, the columns in the order r z h~; recurrent_kernel
        U [H, 3H]; bias [3H]; value_decay_kernel w_x [D], value_decay_bias [D]; state_decay_kernel W_h [D, H],
        state_decay_bias [H].
      values: [n, T, D]; what stands where nothing was observed has no effect, NaN included.
      mask: bool [n, T, D], true where observed.
      gaps: d [n, T, D], see `gaps_of`; of the order of 1 at best.
      lengths: int [n] in 0..T, or None: all steps are valid.
      mean: [D], or one for all: of the training set's observed values.
      initial: h [n, H] before the first step; zeros by default.
      dtype: of the products and of y; states, decays and sums are float32 at least.

    Returns:
      y [n, T, H], zero beyond an example's length, and h [n, H] after its last step.
    """
    dtype = jnp.result_type(values, *params.values()) if dtype is None else dtype
    wide = jnp.promote_types(dtype, jnp.float32)
    n, steps = values.shape[:2]
    keep = None if lengths is None else (jnp.arange(steps) < jnp.asarray(lengths)[:, None])[..., None]
    mask = mask.astype(bool)
    if keep is not None:
        mask, gaps = mask & keep, jnp.where(keep, gaps, 0)
    p = {name: a.astype(wide) for name, a in params.items()}
    gaps, mean = gaps.astype(wide), jnp.broadcast_to(jnp.asarray(mean, wide), values.shape[2:])
    values = jnp.where(mask, values, 0).astype(wide)

    def product(a, kernel):
        return jnp.matmul(a.astype(dtype), kernel.astype(dtype), preferred_element_type=wide)

    last = _last(mask)
    before = jnp.where(last < 0, mean, jnp.take_along_axis(values, jnp.maximum(last, 0), 1))
    stays = jnp.exp(-jax.nn.relu(gaps * p["value_decay_kernel"] + p["value_decay_bias"]))
    x = jnp.where(mask, values, stays * before + (1 - stays) * mean)
    decay = jnp.exp(-jax.nn.relu(gaps @ p["state_decay_kernel"] + p["state_decay_bias"]))
    zx = product(jnp.concatenate([x, mask.astype(wide)], -1), params["input_kernel"]) + p["bias"]
    width = p["recurrent_kernel"].shape[0]
    gates, candidate = jnp.split(params["recurrent_kernel"], [2 * width], -1)

    def step(h, inputs):
        zx, decay, keep = inputs
        old = decay * h
        r, z = jnp.split(jax.nn.sigmoid(zx[:, : 2 * width] + product(old, gates)), 2, -1)
        new = (1 - z) * old + z * jnp.tanh(zx[:, 2 * width :] + product(r * old, candidate))
        h = new if keep is None else jnp.where(keep, new, h)
        return h, h

    initial = jnp.zeros((n, width), wide) if initial is None else initial.astype(wide)
    final, h = lax.scan(step, initial, jax.tree.map(lambda a: jnp.swapaxes(a, 0, 1), (zx, decay, keep)))
    h = jnp.swapaxes(h, 0, 1)
    return (h if keep is None else jnp.where(keep, h, 0)).astype(dtype), final


class GRUD(nn.Module):
    """`gru_d` as a layer of `features` H. Parameters are float32; the decays start slow, with slopes below .1.

    Attributes:
      mean: of the observed values, one for each variable or one for all; 0 suits values that are standardised.
      dtype: as in `gru_d`; the engine's by default.
    """

    features: int
    mean: float | tuple[float, ...] = 0.0
    dtype: Any = None

    @nn.compact
    def __call__(
        self,
        values: jax.Array,
        mask: jax.Array,
        gaps: jax.Array,
        lengths: jax.Array | None = None,
        *,
        initial: jax.Array | None = None,
    ) -> tuple[jax.Array, jax.Array]:
        """values, mask, gaps [n, T, D], lengths int [n] -> (y [n, T, H], h [n, H] at the last valid step)."""
        d, h = values.shape[-1], self.features
        # Small positive slopes: at 0 the ramp of the decay has no gradient, and no decay would ever be learnt.
        slope = nn.initializers.uniform(0.1)
        made = {
            "input_kernel": (nn.initializers.lecun_normal(), (2 * d, 3 * h)),
            "recurrent_kernel": (orthogonal_gates(3), (h, 3 * h)),
            "bias": (nn.initializers.zeros, (3 * h,)),
            "value_decay_kernel": (slope, (d,)),
            "value_decay_bias": (nn.initializers.zeros, (d,)),
            "state_decay_kernel": (nn.initializers.uniform(0.1 / d), (d, h)),
            "state_decay_bias": (nn.initializers.zeros, (h,)),
        }
        params = {name: self.param(name, init, shape, jnp.float32) for name, (init, shape) in made.items()}
        dtype = self.dtype or current_scope().compute
        mean = jnp.asarray(self.mean, jnp.float32)
        return gru_d(params, values, mask, gaps, lengths, mean=mean, initial=initial, dtype=dtype)
