"""Beam search and sampling, against all texts there are and a plain search in NumPy."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medjax.nn.decoding import beam_search, block_repeats, length_penalty, sample

PAD, BEGIN, END = 0, 1, 2


def markov(seed, n, v, sharp=2.0):
    """Log-probabilities [n, v, v] of the next piece by the last one."""
    table = np.random.default_rng(seed).normal(size=(n, v, v)) * sharp
    table[..., [PAD, BEGIN]] = -1e30
    return jax.nn.log_softmax(table, -1)


def stepper(table):
    def step(carry, pieces):
        return carry + 1, table[jnp.arange(len(table))[:, None], pieces]

    return step


def repeats(text, size):
    runs = [tuple(text[i : i + size]) for i in range(len(text) - size + 1)]
    return bool(size) and len(set(runs)) < len(runs)


def best_of_all(table, most, power, block):
    """(score, text with its end) of the best of all texts that end."""
    v, found = table.shape[-1], []
    for length in range(most):
        for body in itertools.product(range(3, v), repeat=length):
            text = (*body, END)
            if repeats(text, block):
                continue
            log_p = sum(table[a, b] for a, b in itertools.pairwise((BEGIN, *text)))
            found.append((float(log_p) / length_penalty(length + 1, power), body))
    return max(found)


@pytest.mark.parametrize(("power", "block"), [(0.0, 0), (0.6, 3), (1.0, 2)])
def test_a_beam_wide_enough_finds_the_best_of_all_texts(power, block):
    n, v, most = 6, 6, 5
    table = markov(3, n, v)
    made = jax.jit(
        lambda: beam_search(
            stepper(table), jnp.zeros((n, 200)), n, width=200, most=most, begin=BEGIN, end=END, block=block, power=power
        )
    )()
    for i in range(n):
        score, body = best_of_all(np.asarray(table[i], float), most, power, block)
        assert tuple(made.pieces[i, : made.lengths[i]].tolist()) == body
        assert made.sure[i] == pytest.approx(score, rel=1e-5)
        assert not np.asarray(made.pieces[i, made.lengths[i] :]).any()


def plain_beam(table, width, most, power, block):
    """The same search with lists, to its full length."""
    alive, done = [(0.0, (BEGIN,))], []
    for _ in range(most):
        longer = []
        for score, text in alive:
            for piece in range(table.shape[-1]):
                if piece not in (PAD, BEGIN) and not repeats((*text[1:], piece), block):
                    longer.append((score + table[text[-1], piece], (*text, piece)))
        longer = sorted(longer, key=lambda x: -x[0])[: 2 * width]
        done += [(s / length_penalty(len(t) - 1, power), t) for s, t in longer if t[-1] == END]
        done = sorted(done, key=lambda x: -x[0])[:width]
        alive = [(s, t) for s, t in longer if t[-1] != END][:width]
    if done:
        return done[0][1][1:-1], done[0][0]
    return alive[0][1][1:], alive[0][0] / length_penalty(most, power)


@pytest.mark.parametrize("width", [1, 4])
@pytest.mark.parametrize("block", [0, 3])
def test_a_narrow_beam_is_the_plain_search(width, block):
    n, v, most = 16, 12, 10
    table = markov(5, n, v, sharp=1.0)
    search = jax.jit(
        lambda: beam_search(stepper(table), jnp.zeros((n, width)), n, width=width, most=most, begin=BEGIN, end=END, block=block)
    )
    made = search()
    for i in range(n):
        body, score = plain_beam(np.asarray(table[i], float), width, most, 0.6, block)
        assert tuple(made.pieces[i, : made.lengths[i]].tolist()) == body
        assert made.sure[i] == pytest.approx(score, rel=1e-4)


def test_one_without_an_end_is_taken_as_it_is():
    table = np.full((1, 5, 5), -1e30)
    table[..., 3:] = np.log(0.5)
    made = beam_search(stepper(jnp.asarray(table)), jnp.zeros((1, 2)), 1, width=2, most=4, begin=BEGIN, end=END, block=0)
    assert made.lengths.tolist() == [4]
    assert made.sure[0] == pytest.approx(4 * np.log(0.5) / length_penalty(4, 0.6))


def test_the_carry_follows_its_text():
    """Each text's carry must be the sum of its own pieces, whatever beam it came through."""
    n, v, width, most = 4, 9, 3, 7
    table = markov(9, n, v, sharp=0.5)

    def step(carry, pieces):
        carry = carry + pieces
        # The next piece depends on the sum alone, so that a carry of another text changes what is written.
        return carry, table[jnp.arange(n)[:, None], 3 + carry % (v - 3)]

    made = beam_search(step, jnp.zeros((n, width), jnp.int32), n, width=width, most=most, begin=BEGIN, end=END, block=0)
    for i in range(n):
        text = [*made.pieces[i, : made.lengths[i]].tolist(), END][:most]
        total, log_p, last = 0, 0.0, BEGIN
        for piece in text:
            total += last
            log_p += float(table[i, 3 + total % (v - 3), piece])
            last = piece
        assert made.sure[i] == pytest.approx(log_p / length_penalty(len(text), 0.6), rel=1e-4)


def test_what_would_repeat_a_run():
    text = jnp.array([[3, 4, 5, 3, 4, 0, 0], [3, 3, 3, 3, 0, 0, 0], [3, 4, 5, 6, 7, 0, 0]])
    assert [set(row) - {-1} for row in block_repeats(text, 5, 3)[:1].tolist()] == [{5}]
    assert [set(row) - {-1} for row in block_repeats(text, 4, 3)[1:2].tolist()] == [{3}]
    assert [set(row) - {-1} for row in block_repeats(text, 5, 3)[2:].tolist()] == [set()]
    assert set(block_repeats(text, 1, 3).ravel().tolist()) == {-1}


def test_samples_keep_to_the_nucleus_and_have_its_frequencies():
    n, v = 4000, 8
    p = np.array([0, 0, 0.05, 0.4, 0.3, 0.15, 0.07, 0.03])
    table = jnp.log(jnp.broadcast_to(jnp.asarray(p), (n, v, v)))
    keys = jax.random.split(jax.random.key(0), n)
    made = sample(stepper(table), jnp.zeros((n, 1)), keys, most=3, begin=BEGIN, end=END, share=0.8)
    first = np.asarray(made.pieces[:, 0])
    counts = np.bincount(first, minlength=v) / n
    assert set(np.flatnonzero(counts)) == {3, 4, 5}  # .4 + .3 < .8 <= .4 + .3 + .15
    np.testing.assert_allclose(counts[3:6], p[3:6] / 0.85, atol=0.03)
    again = sample(stepper(table[:7]), jnp.zeros((7, 1)), keys[:7], most=3, begin=BEGIN, end=END, share=0.8)
    np.testing.assert_array_equal(again.pieces, made.pieces[:7])  # an example's own key, whatever it stands beside


def test_a_search_compiles_once():
    table = markov(1, 3, 7)
    search = jax.jit(lambda of: beam_search(stepper(of), jnp.zeros((3, 4)), 3, width=4, most=6, begin=BEGIN, end=END).pieces)
    search(table), search(table * 2), search(table * 0.5)
    assert search._cache_size() == 1
