"""The linear-chain CRF against sums and maxima over all tag sequences, in float64."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medjax.data import tags
from medjax.nn import crf

LENGTHS = np.array([4, 1, 0, 3])


def make(seed, y=3, n=4, steps=4):
    rng = np.random.default_rng(seed)
    parts = [rng.normal(size=size).astype(np.float32) for size in ((y, y), y, y, (n, steps, y))]
    return 2 * parts[3], crf.Chain(*parts[:3])


def score(emissions, path, chain):
    if not path:
        return 0.0
    emissions, chain = np.float64(emissions), crf.Chain(*map(np.float64, chain))
    total = chain.first[path[0]] + chain.last[path[-1]] + sum(emissions[t, y] for t, y in enumerate(path))
    return total + sum(chain.transitions[a, b] for a, b in itertools.pairwise(path))


def everything(emissions, length, chain):
    """{path: score} of all tag sequences of a length."""
    y = emissions.shape[-1]
    return {path: score(emissions, path, chain) for path in itertools.product(range(y), repeat=int(length))}


@pytest.mark.parametrize("seed", range(2))
def test_equal_to_brute_force(seed):
    emissions, chain = make(seed)
    rng = np.random.default_rng(seed)
    given = rng.integers(0, 3, emissions.shape[:2])
    logs = crf.log_partition(emissions, LENGTHS, chain)
    own = crf.path_score(emissions, given, LENGTHS, chain)
    best, top = crf.viterbi(emissions, LENGTHS, chain)
    shares = crf.marginals(jnp.asarray(emissions), LENGTHS, chain)
    assert logs.dtype == shares.dtype == jnp.float32
    for i, length in enumerate(LENGTHS):
        scores = everything(emissions[i], length, chain)
        values = np.array(list(scores.values()))
        assert logs[i] == pytest.approx(np.logaddexp.reduce(values), abs=1e-5)
        assert own[i] == pytest.approx(scores[tuple(given[i, :length].tolist())], abs=1e-5)
        winner = max(scores, key=scores.get)
        assert tuple(np.asarray(best)[i, :length].tolist()) == winner
        assert not np.asarray(best)[i, length:].any()
        assert top[i] == pytest.approx(scores[winner], abs=1e-5)
        wanted = np.zeros(emissions.shape[1:])
        for path, value in scores.items():
            for t, y in enumerate(path):
                wanted[t, y] += np.exp(value - np.logaddexp.reduce(values))
        np.testing.assert_allclose(shares[i], wanted, atol=1e-5)
    assert (crf.negative_log_likelihood(emissions, given, LENGTHS, chain) >= -1e-5).all()


def test_what_is_beyond_the_length_has_no_effect():
    emissions, chain = make(0)
    given = np.random.default_rng(0).integers(0, 3, emissions.shape[:2])
    beyond = np.arange(4) >= LENGTHS[:, None]
    spoilt = np.where(beyond[..., None], np.nan, emissions)
    other = np.where(beyond, 2, given)

    def loss(e, chain, tags):
        return crf.negative_log_likelihood(e, tags, LENGTHS, chain).sum()

    clean = jax.value_and_grad(loss, (0, 1))(jnp.asarray(emissions), jax.tree.map(jnp.asarray, chain), given)
    dirty = jax.value_and_grad(loss, (0, 1))(jnp.asarray(spoilt), jax.tree.map(jnp.asarray, chain), other)
    for a, b in zip(jax.tree.leaves(clean), jax.tree.leaves(dirty), strict=True):
        assert np.isfinite(b).all()
        np.testing.assert_array_equal(a, b)
    assert not np.asarray(dirty[1][0])[beyond].any()
    np.testing.assert_array_equal(crf.viterbi(spoilt, LENGTHS, chain)[0], crf.viterbi(emissions, LENGTHS, chain)[0])


def test_gradients_are_those_of_differences():
    emissions, chain = make(1)
    given = np.random.default_rng(1).integers(0, 3, emissions.shape[:2])
    chain = jax.tree.map(jnp.asarray, chain)

    def loss(chain):
        return crf.negative_log_likelihood(emissions, given, LENGTHS, chain).sum()

    found, run = jax.grad(loss)(chain), jax.jit(loss)
    for name in chain._fields:
        for at in np.ndindex(getattr(chain, name).shape):
            moved = [float(run(chain._replace(**{name: getattr(chain, name).at[at].add(d)}))) for d in (-0.05, 0.05)]
            assert float(getattr(found, name)[at]) == pytest.approx((moved[1] - moved[0]) / 0.1, abs=2e-3)


@pytest.mark.parametrize("scheme", tags.SCHEMES)
def test_what_is_forbidden_never_comes_out(scheme):
    pairs, first, last = tags.legal(2, scheme)
    y = len(first)
    emissions = 50 * np.random.default_rng(2).normal(size=(20, 6, y)).astype(np.float32)
    chain = crf.forbid(crf.Chain(jnp.zeros((y, y)), jnp.zeros(y), jnp.zeros(y)), pairs, first, last)
    lengths = np.full(20, 6)
    found = np.asarray(crf.viterbi(emissions, lengths, chain)[0])
    assert pairs[found[:, :-1], found[:, 1:]].all()
    assert first[found[:, 0]].all()
    assert last[found[:, -1]].all()
    # The loss of a legal path stays finite and its gradient too, however unlikely it is.
    loss, grad = jax.value_and_grad(lambda e: crf.negative_log_likelihood(e, found[::-1], lengths, chain).sum())(emissions)
    assert np.isfinite(loss)
    assert np.isfinite(grad).all()


def test_half_precision_is_summed_in_float32():
    emissions, chain = make(3)
    half = jnp.asarray(emissions, jnp.bfloat16)
    exact = crf.log_partition(np.asarray(half, np.float32), LENGTHS, chain)
    np.testing.assert_array_equal(crf.log_partition(half, LENGTHS, chain), exact)
