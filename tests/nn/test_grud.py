"""GRU-D against the paper's equations, step by step in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medjax.nn import GRUD, grud


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def gaps_loop(mask, times):
    d = np.zeros(mask.shape)
    for t in range(1, mask.shape[1]):
        step = (times[:, t] - times[:, t - 1])[:, None]
        d[:, t] = step + np.where(mask[:, t - 1], 0, d[:, t - 1])
    return d


def weights(d, h, seed=0):
    rng = np.random.default_rng(seed)
    shapes = {
        "input_kernel": (2 * d, 3 * h),
        "recurrent_kernel": (h, 3 * h),
        "bias": (3 * h,),
        "value_decay_kernel": (d,),
        "value_decay_bias": (d,),
        "state_decay_kernel": (d, h),
        "state_decay_bias": (h,),
    }
    return {name: rng.normal(0, 0.5, shape).astype(np.float32) for name, shape in shapes.items()}


def loop(p, values, mask, gaps, lengths, mean, initial):
    """The equations for one example and step at a time; gates r z h~."""
    n, steps, d = values.shape
    h = initial.shape[-1]
    w, v = (np.split(a, 3, -1) for a in (p["input_kernel"][:d], p["input_kernel"][d:]))
    u, b = np.split(p["recurrent_kernel"], 3, -1), np.split(p["bias"], 3)
    y, final = np.zeros((n, steps, h)), []
    for k in range(n):
        state, seen = initial[k], mean
        for t in range(lengths[k]):
            m = mask[k, t].astype(float)
            seen = np.where(mask[k, t], values[k, t], seen)
            gx = np.exp(-np.maximum(0, p["value_decay_kernel"] * gaps[k, t] + p["value_decay_bias"]))
            gh = np.exp(-np.maximum(0, gaps[k, t] @ p["state_decay_kernel"] + p["state_decay_bias"]))
            x = np.where(mask[k, t], values[k, t], gx * seen + (1 - gx) * mean)
            old = gh * state
            r, z = (sigmoid(x @ w[i] + old @ u[i] + m @ v[i] + b[i]) for i in (0, 1))
            new = np.tanh(x @ w[2] + (r * old) @ u[2] + m @ v[2] + b[2])
            state = (1 - z) * old + z * new
            y[k, t] = state
        final.append(state)
    return y, np.stack(final)


def batch(n=4, steps=9, d=3, h=5):
    rng = np.random.default_rng(1)
    mask = rng.random((n, steps, d)) < 0.5
    mask[:, :, 0] &= np.arange(steps) > 3  # nothing observed at first
    values = np.where(mask, rng.normal(size=mask.shape), np.nan).astype(np.float32)
    times = np.cumsum(rng.exponential(size=(n, steps)), 1).astype(np.float32)
    return values, mask, times, np.array([9, 0, 4, 7])[:n], rng.normal(size=d), rng.normal(size=(n, h)).astype(np.float32)


def test_values_and_gradients_are_the_papers():
    values, mask, times, lengths, mean, initial = batch()
    p, weight = weights(3, 5), np.random.default_rng(2).normal(size=(4, 9, 5))
    gaps = gaps_loop(mask, times)
    outside = (np.arange(9) >= lengths[:, None])[..., None]

    def ours(p, initial):
        padded = np.where(outside, np.nan, gaps).astype(np.float32)
        y, final = grud.gru_d(p, values, mask | outside, padded, lengths, mean=mean, initial=initial)
        return (weight * y).sum() + (final**2).sum(), (y, final)

    def exact(p, initial):
        y, final = loop(p, values, mask, gaps, lengths, mean, initial)
        return (weight * y).sum() + (final**2).sum(), (y, final)

    gradients, (y, final) = jax.jit(jax.grad(ours, (0, 1), has_aux=True))(p, initial)
    at = jax.tree.map(lambda a: a.astype(np.float64), (p, initial))
    truth = exact(*at)[1]
    np.testing.assert_allclose(y, truth[0], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(final, truth[1], rtol=1e-4, atol=1e-6)
    leaves, tree = jax.tree.flatten(at)
    rng = np.random.default_rng(3)
    for k, gradient in enumerate(jax.tree.leaves(gradients)):
        v = rng.normal(size=gradient.shape)
        ends = [exact(*tree.unflatten([a + e * v if i == k else a for i, a in enumerate(leaves)]))[0] for e in (1e-5, -1e-5)]
        assert (ends[0] - ends[1]) / 2e-5 == pytest.approx(float((gradient * v).sum()), rel=1e-4, abs=1e-5)


@settings(max_examples=10, deadline=None, derandomize=True)
@given(st.sampled_from([1, 2, 7]), st.integers(0, 2**32 - 1))
def test_gaps_are_the_recursions(steps, seed):
    rng = np.random.default_rng(seed)
    mask, times = rng.random((2, steps, 3)) < 0.4, np.cumsum(rng.integers(0, 5, (2, steps)), 1)
    ours = jax.jit(grud.gaps_of)(mask, times.astype(np.float32))
    np.testing.assert_array_equal(ours, gaps_loop(mask, times))


def test_layer_starts_with_slow_decays():
    values, mask, times, lengths, _, initial = batch()
    layer = GRUD(5, mean=(0.1, 0.2, 0.3))
    gaps = gaps_loop(mask, times).astype(np.float32)
    params = jax.jit(layer.init)(jax.random.key(0), values, mask, gaps)["params"]
    assert jax.tree.map(jnp.shape, dict(params)) == jax.tree.map(np.shape, weights(3, 5))
    assert 0 < params["value_decay_kernel"].min() < params["value_decay_kernel"].max() < 0.1
    y, final = jax.jit(layer.apply)({"params": params}, values, mask, gaps, lengths, initial=initial)
    truth = loop(
        jax.tree.map(np.asarray, dict(params)), values, mask, np.asarray(gaps), lengths, np.array([0.1, 0.2, 0.3]), initial
    )
    np.testing.assert_allclose(y, truth[0], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(final, truth[1], rtol=1e-4, atol=1e-6)
    rounded = jax.jit(GRUD(5, dtype=jnp.bfloat16).apply)({"params": params}, values, mask, gaps)
    assert (rounded[0].dtype, rounded[1].dtype) == (jnp.bfloat16, jnp.float32)
