"""Writing one piece after the other: beam search and sampling of fixed shapes, compiled once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

Carry = Any  # a tree of arrays [n, W, ...]: what has been written so far, for W texts of each example
Step = Callable[[Carry, jax.Array], tuple[Carry, jax.Array]]
NEVER = -1e30


class Written(NamedTuple):
    """What was written for each example.

    Attributes:
      pieces: int32 [n, T], `padding` behind the end.
      lengths: int32 [n], pieces before the end, which is not one of them.
      sure: float32 [n], the logarithm of the text's probability, divided by `length_penalty` of its pieces and the end.
    """

    pieces: jax.Array
    lengths: jax.Array
    sure: jax.Array


def length_penalty(length: Any, power: float) -> Any:
    """((5 + length) / 6) ** power (Wu et al., 2016, equation 14)."""
    return ((5.0 + length) / 6.0) ** power


def block_repeats(pieces: jax.Array, t: Any, size: int) -> jax.Array:
    """Which pieces would repeat a run of `size` pieces (Paulus et al., ICLR 2018, section 2.5), as those to forbid.

    Args:
      pieces: int [..., T], of which the first t are written.
      t: how many.
      size: of a run; 0 blocks nothing.

    Returns:
      int [..., T]: pieces that must not come next; where none is meant, -1.
    """
    steps = pieces.shape[-1]
    if not size or steps < size:
        return jnp.full(pieces.shape, -1, pieces.dtype)
    # The run at i is the same as the last one, but for its end, which is what is forbidden.
    last = [lax.dynamic_index_in_dim(pieces, jnp.maximum(t - size + 1 + k, 0), -1) for k in range(size - 1)]
    place = jnp.arange(steps)
    same = (place + size - 1 < t) & jnp.ones(pieces.shape, bool)
    for k, piece in enumerate(last):
        same &= jnp.roll(pieces, -k, -1) == piece
    return jnp.where(same, jnp.roll(pieces, 1 - size, -1), -1)


def _forbid(log_p: jax.Array, pieces: jax.Array) -> jax.Array:
    """log_p [n, W, V], at the given pieces [n, W, T] as good as impossible; those of -1 mean none."""
    n, w, v = log_p.shape
    at = jnp.where(pieces < 0, v, pieces)
    return log_p.at[jnp.arange(n)[:, None, None], jnp.arange(w)[:, None], at].set(NEVER, mode="drop")


def beam_search(
    step: Step,
    carry: Carry,
    n: int,
    *,
    width: int,
    most: int,
    begin: int,
    end: int,
    padding: int = 0,
    block: int = 3,
    power: float = 0.6,
) -> Written:
    """The text of the highest `sure` that a beam finds; with a width of 1, each time the most probable piece.

    `width` texts that go on and `width` finished ones are kept of each example. The search ends once none that goes on can
    still beat what is finished, or at `most` pieces; a text that has no end by then is taken as it is only where none is
    finished.

    Args:
      step: (carry, pieces int32 [n, W]) -> (carry, log-probabilities float [n, W, V]) of the next piece.
      carry: before the first piece, a tree of arrays [n, W, ...]; what does not change belongs to `step`.
      n: examples.
      width: W.
      most: pieces of a text at most.
      begin, end, padding: the numbers of these pieces; `begin` and `padding` are never written.
      block: runs of so many pieces may not stand twice in a text; 0 for any.
      power: of `length_penalty`, which is what longer texts gain by.
    """
    w = width
    rows = jnp.arange(n)[:, None]

    def going(loop: tuple) -> jax.Array:
        t, _, _, score, _, _, done = loop
        # The best that one that goes on can become: as probable as now, and as long as may be.
        hope = score.max(1) / length_penalty(most, power)
        return (t < most) & jnp.any(hope > done.min(1))

    def advance(loop: tuple) -> tuple:
        t, carry, written, score, last, texts, done = loop
        carry, log_p = step(carry, last)
        v = log_p.shape[-1]
        log_p = log_p.astype(jnp.float32).at[..., jnp.array([begin, padding])].set(NEVER)
        log_p = _forbid(log_p, block_repeats(written, t, block))
        total = jnp.maximum(score[..., None] + log_p, NEVER)
        # Twice as many as are kept, so that enough go on even where all the others end.
        kept = min(2 * w, v)
        best, piece = lax.top_k(total, kept)
        best, at = lax.top_k(best.reshape(n, w * kept), min(2 * w, w * kept))
        parent, piece = at // kept, jnp.take_along_axis(piece.reshape(n, w * kept), at, 1)
        longer = written[rows, parent].at[:, :, t].set(piece)

        ends = piece == end
        finished = jnp.where(ends & (best > NEVER / 2), best / length_penalty(t + 1, power), NEVER)
        done, chosen = lax.top_k(jnp.concatenate([done, finished], 1), w)
        texts = jnp.concatenate([texts, longer], 1)[rows, chosen]
        score, alive = lax.top_k(jnp.where(ends, NEVER, best), w)
        origin = parent[rows, alive]
        carry = jax.tree.map(lambda a: a[rows, origin], carry)
        return t + 1, carry, longer[rows, alive], score, piece[rows, alive], texts, done

    empty = jnp.full((n, w, most), padding, jnp.int32)
    # At first all of a beam are the same, and one of them is enough.
    score = jnp.broadcast_to(jnp.where(jnp.arange(w) == 0, 0.0, NEVER), (n, w))
    first = jnp.full((n, w), begin, jnp.int32)
    loop = (jnp.int32(0), carry, empty, score, first, empty, jnp.full((n, w), NEVER))
    _, _, written, score, _, texts, done = lax.while_loop(going, advance, loop)
    whole = done[:, 0] > NEVER / 2
    sure = jnp.where(whole, done[:, 0], score[:, 0] / length_penalty(most, power))
    return _tidy(jnp.where(whole[:, None], texts[:, 0], written[:, 0]), sure, end, padding)


def sample(
    step: Step,
    carry: Carry,
    keys: jax.Array,
    *,
    most: int,
    begin: int,
    end: int,
    padding: int = 0,
    share: float = 0.9,
    temperature: float = 1.0,
    block: int = 0,
    power: float = 0.6,
) -> Written:
    """A text drawn for each example, each piece from the most probable ones that together have `share` of the probability
    (nucleus or top-p sampling: Holtzman et al., ICLR 2020).

    Args:
      step, carry, most, begin, end, padding, block, power: as of `beam_search`, W = 1.
      keys: [n], one for each example.
      share: in (0, 1].
      temperature: the log-probabilities are divided by it beforehand.
    """
    n = len(keys)

    def going(loop: tuple) -> jax.Array:
        return (loop[0] < most) & ~jnp.all(loop[4])

    def advance(loop: tuple) -> tuple:
        t, carry, written, last, over, score = loop
        carry, log_p = step(carry, last[:, None])
        plain = log_p.astype(jnp.float32).at[..., jnp.array([begin, padding])].set(NEVER)
        log_p = _forbid(plain, block_repeats(written[:, None], t, block))[:, 0]
        log_p = jax.nn.log_softmax(log_p / temperature)
        ranked = -jnp.sort(-log_p, -1)
        before = jnp.cumsum(jnp.exp(ranked), -1) - jnp.exp(ranked)
        least = jnp.where(before < share, ranked, jnp.inf).min(-1, keepdims=True)
        here = jax.vmap(lambda key: jax.random.fold_in(key, t))(keys)
        piece = jax.vmap(jax.random.categorical)(here, jnp.where(log_p >= least, log_p, -jnp.inf)).astype(jnp.int32)
        piece = jnp.where(over, padding, piece)
        score = score + jnp.where(over, 0, jnp.take_along_axis(plain[:, 0], piece[:, None], 1)[:, 0])
        return t + 1, carry, written.at[:, t].set(piece), piece, over | (piece == end), score

    loop = (
        jnp.int32(0),
        carry,
        jnp.full((n, most), padding, jnp.int32),
        jnp.full(n, begin, jnp.int32),
        jnp.zeros(n, bool),
        jnp.zeros(n),
    )
    _, _, written, _, _, score = lax.while_loop(going, advance, loop)
    found = _tidy(written, score, end, padding)
    return found._replace(sure=score / length_penalty(jnp.minimum(found.lengths + 1, most), power))


def _tidy(pieces: jax.Array, sure: jax.Array, end: int, padding: int) -> Written:
    """`padding` from the end on."""
    lengths = jnp.where((pieces == end).any(1), (pieces == end).argmax(1), pieces.shape[1])
    kept = jnp.arange(pieces.shape[1]) < lengths[:, None]
    return Written(jnp.where(kept, pieces, padding), lengths.astype(jnp.int32), sure)
