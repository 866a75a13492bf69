"""Pooling over the valid steps, and LSTMs side by side, against each example or group alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import softmax

from medjax.nn import LSTM, AttentionPool, GroupedLSTM
from medjax.nn.attention import masked_softmax, pool_steps, valid_steps
from medjax.nn.channelwise import gather_groups
from medjax.nn.recurrent import lstm

LENGTHS = np.array([6, 0, 1, 3])


def test_masked_softmax_is_that_of_the_valid_ones():
    scores = 300 * np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)
    valid = np.asarray(valid_steps(LENGTHS, 4, 6))
    scores = np.where(valid, scores, [np.nan, np.inf, -np.inf, 1e30, 0, np.nan]).astype(np.float32)
    weights = np.asarray(masked_softmax(scores, valid))
    for row, score, length in zip(weights, scores, LENGTHS):
        np.testing.assert_allclose(row[:length], softmax(score[:length].astype(float)) if length else [], rtol=1e-5, atol=1e-37)
        assert not row[length:].any()
    # Moderate scores: the gradient of sum(w * weights) is weights * (w - sum(w * weights)); none at length 0 and 1.
    scores, w = np.random.default_rng(1).normal(size=(2, 4, 6)).astype(np.float32)
    gradient = jax.grad(lambda s: (w * masked_softmax(jnp.where(valid, s, jnp.nan), valid)).sum())(scores)
    weights = np.asarray(masked_softmax(scores, valid), float)
    np.testing.assert_allclose(gradient, weights * (w - (w * weights).sum(1, keepdims=True)), atol=1e-6)
    assert not np.asarray(gradient[1:3]).any()


def test_attention_pool():
    y = np.random.default_rng(0).normal(size=(4, 6, 3)).astype(np.float32)
    padded = np.where(np.asarray(valid_steps(LENGTHS, 4, 6))[..., None], y, 0)
    pool = AttentionPool(5)
    variables = jax.jit(pool.init)(jax.random.key(0), y)
    apply = jax.jit(pool.apply)
    pooled, weights = apply(variables, padded, LENGTHS)
    p = jax.tree.map(np.asarray, variables["params"])
    for k, length in enumerate(LENGTHS):
        score = np.tanh(y[k, :length] @ p["project"]["kernel"] + p["project"]["bias"]) @ p["score"]["kernel"]
        truth = (softmax(score, 0) * y[k, :length]).sum(0) if length else np.zeros(3)
        np.testing.assert_allclose(pooled[k], truth, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(weights.sum(1), LENGTHS > 0, rtol=1e-6)
    gradient = jax.grad(lambda v: (apply(v, padded, LENGTHS)[0] ** 2).sum())(variables)
    assert all(np.isfinite(a).all() for a in jax.tree.leaves(gradient))


@pytest.mark.parametrize("kind", ["last", "mean", "max"])
def test_pools_look_at_valid_steps_alone(kind):
    y = np.random.default_rng(0).normal(size=(4, 6, 3)).astype(np.float32) - 9
    padded = np.where(np.asarray(valid_steps(LENGTHS, 4, 6))[..., None], y, np.nan)
    truth = {"last": lambda a: a[-1], "mean": lambda a: a.mean(0), "max": lambda a: a.max(0)}[kind]
    wanted = [truth(y[k, :length]) if length else np.zeros(3) for k, length in enumerate(LENGTHS)]
    np.testing.assert_allclose(pool_steps(padded, LENGTHS, kind), wanted, rtol=1e-6)
    np.testing.assert_allclose(pool_steps(y, None, kind), [truth(a) for a in y], rtol=1e-6)
    with pytest.raises(ValueError, match="median"):
        pool_steps(y, None, "median")


def test_lstms_side_by_side_are_each_alone():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(4, 6, 3, 2)).astype(np.float32)
    layer = GroupedLSTM(5, reverse=True)
    params = jax.jit(layer.init)(jax.random.key(0), x)["params"]
    one = jax.eval_shape(LSTM(5).init, jax.random.key(0), x[:, :, 0])["params"]
    assert jax.tree.map(lambda a: a.shape[1:], dict(params)) == jax.tree.map(lambda a: a.shape, dict(one))
    assert np.abs(np.diff(params["input_kernel"], axis=0)).min() > 0, "each group starts elsewhere"
    np.testing.assert_array_equal(params["bias"][1], np.repeat([0, 1, 0, 0], 5))

    def together(p, x):
        return (layer.apply({"params": p}, x, LENGTHS) ** 2).sum()

    def alone(p, x):
        def one(px):
            return lstm(*px, LENGTHS, reverse=True, form="reference")[0]

        return (jax.lax.map(one, (p, jnp.moveaxis(x, 2, 0))) ** 2).sum()

    ours, truth = (jax.jit(jax.value_and_grad(f, (0, 1)))(dict(params), x) for f in (together, alone))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), ours, truth)


def test_groups_of_columns():
    x = np.arange(2 * 1 * 4, dtype=np.float32).reshape(2, 1, 4)
    np.testing.assert_array_equal(gather_groups(x, ((2,), (0, 3)))[1, 0], [[6, 0], [4, 7]])
