"""Linear-chain conditional random field (Lafferty et al., ICML 2001; on top of a BiLSTM: Lample et al., NAACL 2016).

The score of tags y of an example of length L is first[y_0] + sum_t emissions[t, y_t] + sum_t transitions[y_t-1, y_t] +
last[y_L-1]; its probability is the softmax of that over all tag sequences. Everything is in float32 at least, and what stands
beyond an example's length has no effect, NaN included. An example of length 0 has one, empty, sequence of score 0.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.scipy.special import logsumexp

from medjax.nn.attention import valid_steps

# Score of what is forbidden. Infinity would give gradients that are no numbers where nothing else is left.
NEVER = -1e4


class Chain(NamedTuple):
    """Scores of neighbours.

    Attributes:
      transitions: [Y, Y], from a tag (row) to the next.
      first, last: [Y], of the tags that a sequence begins and ends with.
    """

    transitions: jax.Array
    first: jax.Array
    last: jax.Array


def forbid(chain: Chain, pairs: jax.Array, first: jax.Array, last: jax.Array) -> Chain:
    """The chain with `NEVER` where bool pairs [Y, Y], first [Y], last [Y] are false."""
    return Chain(*(jnp.where(allowed, score, NEVER) for allowed, score in zip((pairs, first, last), chain)))


def _wide(emissions: jax.Array, lengths: jax.Array, chain: Chain) -> tuple[jax.Array, jax.Array, Chain]:
    """Emissions time-major [T, n, Y], zero beyond the lengths; valid [T, n, 1]; all float32 at least."""
    dtype = jnp.promote_types(emissions.dtype, jnp.float32)
    valid = valid_steps(lengths, *emissions.shape[:2]).T[..., None]
    by_time = jnp.where(valid, jnp.swapaxes(emissions, 0, 1).astype(dtype), 0)
    return by_time, valid, Chain(*(jnp.asarray(a).astype(dtype) for a in chain))


def log_partition(emissions: jax.Array, lengths: jax.Array, chain: Chain) -> jax.Array:
    """log of the sum over all tag sequences of exp(score), by the forward algorithm.

    Args:
      emissions: [n, T, Y] float, T >= 1.
      lengths: int [n] in 0..T.
      chain: scores of neighbours.

    Returns:
      [n] float32, or float64 as the inputs are.
    """
    by_time, valid, chain = _wide(emissions, lengths, chain)

    def step(alpha: jax.Array, inputs: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        emission, keep = inputs
        new = logsumexp(alpha[:, :, None] + chain.transitions, axis=1) + emission
        return jnp.where(keep, new, alpha), None

    alpha, _ = lax.scan(step, chain.first + by_time[0], (by_time[1:], valid[1:]))
    return jnp.where(valid[0, :, 0], logsumexp(alpha + chain.last, axis=-1), 0)


def path_score(emissions: jax.Array, tags: jax.Array, lengths: jax.Array, chain: Chain) -> jax.Array:
    """Scores [n] of tags int [n, T], of which those beyond the lengths may be anything from 0 to Y - 1."""
    by_time, valid, chain = _wide(emissions, lengths, chain)
    tags, there = tags.T, valid[..., 0]
    own = jnp.take_along_axis(by_time, tags[..., None], -1)[..., 0].sum(0)  # zero beyond the lengths
    moves = jnp.where(there[1:], chain.transitions[tags[:-1], tags[1:]], 0).sum(0)
    end = jnp.take_along_axis(tags, jnp.maximum(lengths - 1, 0)[None], 0)[0]
    return jnp.where(there[0], own + moves + chain.first[tags[0]] + chain.last[end], 0)


def negative_log_likelihood(emissions: jax.Array, tags: jax.Array, lengths: jax.Array, chain: Chain) -> jax.Array:
    """-log P(tags) [n], at least 0 but for rounding."""
    return log_partition(emissions, lengths, chain) - path_score(emissions, tags, lengths, chain)


def marginals(emissions: jax.Array, lengths: jax.Array, chain: Chain) -> jax.Array:
    """P(tag at t) [n, T, Y], zero beyond the lengths: the gradient of the log-partition by the emissions."""
    wide = emissions.astype(jnp.promote_types(emissions.dtype, jnp.float32))
    return jax.grad(lambda e: log_partition(e, lengths, chain).sum())(wide)


def viterbi(emissions: jax.Array, lengths: jax.Array, chain: Chain) -> tuple[jax.Array, jax.Array]:
    """The tag sequence of the highest score (Viterbi, IEEE Trans. Inf. Theory 1967), the lowest tag numbers among equals.

    Args: as of `log_partition`.

    Returns:
      tags int32 [n, T], 0 beyond the lengths, and their scores [n].
    """
    by_time, valid, chain = _wide(emissions, lengths, chain)
    y = by_time.shape[-1]

    def step(best: jax.Array, inputs: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        emission, keep = inputs
        scores = best[:, :, None] + chain.transitions
        new, come = scores.max(1) + emission, scores.argmax(1)
        # Beyond the end each tag comes from itself, so that going back leaves it as it is.
        return jnp.where(keep, new, best), jnp.where(keep, come, jnp.arange(y))

    best, come = lax.scan(step, chain.first + by_time[0], (by_time[1:], valid[1:]))
    total = best + chain.last
    end = total.argmax(-1)

    def back(tag: jax.Array, come: jax.Array) -> tuple[jax.Array, jax.Array]:
        before = jnp.take_along_axis(come, tag[:, None], 1)[:, 0]
        return before, tag

    start, tags = lax.scan(back, end, come, reverse=True)
    tags = jnp.concatenate([start[None], tags])
    there = valid[..., 0]
    return jnp.where(there, tags, 0).T.astype(jnp.int32), jnp.where(there[0], total.max(-1), 0)
