"""Linear recurrences by a parallel scan, and the minimal GRU that is one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from medjax.core import current_scope


@jax.custom_vjp
def linear_recurrence(a: jax.Array, b: jax.Array, initial: jax.Array) -> jax.Array:
    """h_t = a_t * h_{t-1} + b_t, element by element, by a parallel scan; on CPU, where that is slower, step by step.

    The composition (a, b) after (a', b') is (a a', a b' + b) (Blelloch, Prefix sums and their applications, 1990, section 1.4);
    with 0 <= a <= 1 no product can overflow, and one that underflows belongs to a forgotten state, so no logarithms are needed.

    Args:
      a, b: [n, T, H] float32.
      initial: h_0 [n, H].

    Returns:
      h [n, T, H]. Gradients (reverse mode, once) are the same recurrence backwards in time and keep only a and h.
    """
    return lax.platform_dependent(a, b, initial, cpu=_steps, default=_parallel)


def _steps(a: jax.Array, b: jax.Array, initial: jax.Array) -> jax.Array:
    def step(h, ab):
        h = ab[0] * h + ab[1]
        return h, h

    _, h = lax.scan(step, initial, (jnp.swapaxes(a, 0, 1), jnp.swapaxes(b, 0, 1)))
    return jnp.swapaxes(h, 0, 1)


def _parallel(a: jax.Array, b: jax.Array, initial: jax.Array) -> jax.Array:
    b = b.at[:, 0].add(a[:, 0] * initial)
    return lax.associative_scan(lambda early, late: (late[0] * early[0], late[0] * early[1] + late[1]), (a, b), axis=1)[1]


def _forward(a, b, initial):
    h = linear_recurrence(a, b, initial)
    return h, (a, h, initial)


def _backward(saved, dh):
    a, h, initial = saved
    # d_t = dh_t + a_{t+1} d_{t+1}: what the loss says of h_t, and of b_t alike.
    after = jnp.concatenate([a[:, 1:], jnp.zeros_like(a[:, :1])], 1)
    d = jnp.flip(linear_recurrence(jnp.flip(after, 1), jnp.flip(dh, 1), jnp.zeros_like(initial)), 1)
    before = jnp.concatenate([initial[:, None], h[:, :-1]], 1)
    return d * before, d, d[:, 0] * a[:, 0]


linear_recurrence.defvjp(_forward, _backward)


def min_gru(
    params: Mapping[str, jax.Array],
    x: jax.Array,
    lengths: jax.Array | None = None,
    *,
    initial: jax.Array | None = None,
    reverse: bool = False,
    dtype: Any = None,
) -> tuple[jax.Array, jax.Array]:
    """Minimal gated recurrent unit (Feng et al., Were RNNs all we needed?, arXiv 2410.01201, 2024, section 3.1 and appendix B).

    z_t = sigmoid(x_t W_z + b_z); h~_t = g(x_t W_h + b_h), g(a) = a + 1/2 where a >= 0, else sigmoid(a);
    h_t = (1 - z_t) * h_{t-1} + z_t * h~_t.

    The gates know nothing of the state, so that all steps are formed at once; layers have to be stacked for more. g is that of
    the paper's form in log space: h~ is positive, and so are the states.

    Args:
      params: input_kernel [D, 2H], the columns of z and of h~; bias [2H].
      x, lengths, initial, reverse, dtype: as in `recurrent.simple_rnn`.

    Returns:
      As there: y [n, T, H] and the final h [n, H].
    """
    dtype = jnp.result_type(x, *params.values()) if dtype is None else dtype
    wide = jnp.promote_types(dtype, jnp.float32)
    n, steps = x.shape[:2]
    keep = None if lengths is None else (jnp.arange(steps) < jnp.asarray(lengths)[:, None])[..., None]
    x = x if keep is None else jnp.where(keep, x, 0)
    k = jnp.matmul(x.astype(dtype), params["input_kernel"].astype(dtype), preferred_element_type=wide)
    k, candidate = jnp.split(k + params["bias"].astype(wide), 2, -1)
    a, z = jax.nn.sigmoid(-k), jax.nn.sigmoid(k)
    b = z * jnp.where(candidate >= 0, candidate + 0.5, jax.nn.sigmoid(candidate))
    if keep is not None:
        a, b = jnp.where(keep, a, 1), jnp.where(keep, b, 0)
    initial = jnp.zeros((n, k.shape[-1]), wide) if initial is None else initial.astype(wide)
    a, b = (jnp.flip(v, 1) if reverse else v for v in (a, b))
    h = linear_recurrence(a, b, initial)
    final = h[:, -1]
    h = jnp.flip(h, 1) if reverse else h
    return (h if keep is None else jnp.where(keep, h, 0)).astype(dtype), final


class MinGRU(nn.Module):
    """`min_gru` as a layer of `features` H; `reverse` and `dtype` as there. Parameters are float32."""

    features: int
    reverse: bool = False
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, lengths: jax.Array | None = None, *, initial: Any = None) -> tuple[jax.Array, jax.Array]:
        """x [n, T, D], lengths int [n] -> (y [n, T, H], h [n, H] at the last valid step)."""
        params = {
            "input_kernel": self.param(
                "input_kernel", nn.initializers.lecun_normal(), (x.shape[-1], 2 * self.features), jnp.float32
            ),
            "bias": self.param("bias", nn.initializers.zeros, (2 * self.features,), jnp.float32),
        }
        dtype = self.dtype or current_scope().compute
        return min_gru(params, x, lengths, initial=initial, reverse=self.reverse, dtype=dtype)
