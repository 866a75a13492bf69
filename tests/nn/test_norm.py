from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medjax.core import scope
from medjax.nn import BatchNorm

EPSILON = 1e-5


def exact(x, g):
    """Ioffe & Szegedy's formulas in float64: y, mean, var, dx, dscale, dbias for the cotangent g."""
    x, g = np.asarray(x, np.float64).reshape(-1, x.shape[-1]), np.asarray(g, np.float64).reshape(-1, x.shape[-1])
    mean, var = x.mean(0), x.var(0)
    y = (x - mean) / np.sqrt(var + EPSILON)
    dx = (g - g.mean(0) - y * (g * y).mean(0)) / np.sqrt(var + EPSILON)
    return y, mean, var, dx, (g * y).sum(0), g.sum(0)


@jax.jit
def forward_and_back(x, g):
    """The same six from the layer at its first step: running mean 0, running variance 1, scale 1, bias 0."""
    layer = BatchNorm(epsilon=EPSILON)
    channels = x.shape[-1]
    params = {"scale": jnp.ones(channels), "bias": jnp.zeros(channels)}
    stats = {"mean": jnp.zeros(channels), "var": jnp.ones(channels)}

    def apply(params, x):
        return layer.apply({"params": params, "batch_stats": stats}, x, train=True, mutable=["batch_stats"])

    y, back, changed = jax.vjp(apply, params, x, has_aux=True)
    dparams, dx = back(g)
    running = changed["batch_stats"]
    return y, running["mean"] / 0.1, (running["var"] - 0.9) / 0.1, dx, dparams["scale"], dparams["bias"]


def close(ours, truth, tolerance):
    ours, truth = (np.asarray(a, np.float64).reshape(-1) for a in (ours, truth))
    assert np.linalg.norm(ours - truth) <= tolerance * np.linalg.norm(truth) + 1e-30


@pytest.mark.parametrize("mean", [0.0, 1e2, 1e4, 1e6])
def test_the_first_step_is_the_float64_formula_at_any_mean(mean):
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(8, 6, 5, 3)) * [1, 2, 0.5] + mean).astype(np.float32)
    g = rng.normal(size=x.shape).astype(np.float32)
    # The truth is that of the rounded x, so what is left is float32's rounding of differences: no digit is lost to the mean.
    for ours, truth, tolerance in zip(forward_and_back(x, g), exact(x, g), (2e-6, 1e-6, 1e-5, 5e-6, 5e-6, 5e-6)):
        close(ours, truth, tolerance if mean or ours.shape != (3,) else 1e-5)


@pytest.mark.parametrize("shape", [(7, 3), (5, 9, 3), (2, 4, 4, 4, 3)])
def test_any_number_of_dimensions(shape):
    rng = np.random.default_rng(1)
    x, g = (rng.normal(50, 1, shape), rng.normal(0.5, 1, shape))
    x, g = x.astype(np.float32), g.astype(np.float32)
    for ours, truth in zip(forward_and_back(x, g), exact(x, g)):
        close(ours, truth, 1e-5)


def test_running_statistics_follow_the_momentum():
    x = np.random.default_rng(2).normal(30, 2, (16, 3)).astype(np.float32)
    variables = {"batch_stats": {"mean": jnp.full(3, 20.0), "var": jnp.full(3, 5.0)}}
    layer = BatchNorm(momentum=0.8, use_scale=False, use_bias=False)
    y, changed = layer.apply(variables, x, train=True, mutable=["batch_stats"])
    np.testing.assert_allclose(changed["batch_stats"]["mean"], 16 + 0.2 * x.astype(float).mean(0), rtol=1e-6)
    np.testing.assert_allclose(changed["batch_stats"]["var"], 4 + 0.2 * x.astype(float).var(0), rtol=1e-5)
    y = layer.apply(variables, x, train=False)
    np.testing.assert_allclose(y, (x - 20) / np.sqrt(5 + EPSILON), rtol=1e-5)


def test_names_values_and_gradients_are_those_of_flax():
    x = jax.random.normal(jax.random.key(1), (6, 4, 4, 5)) * 2 + 1
    ours, theirs = BatchNorm(), nn.BatchNorm(momentum=0.9, use_running_average=False)
    variables = theirs.init(jax.random.key(0), x)
    assert jax.tree.structure(ours.init(jax.random.key(0), x, train=False)) == jax.tree.structure(variables)

    def loss(params, layer, **more):
        y, changed = layer.apply({**variables, "params": params}, x, mutable=["batch_stats"], **more)
        return (y**3).sum(), (y, changed)

    g, (y, s) = jax.jit(jax.grad(partial(loss, layer=ours, train=True), has_aux=True))(variables["params"])
    g_, (y_, s_) = jax.jit(jax.grad(partial(loss, layer=theirs), has_aux=True))(variables["params"])
    np.testing.assert_allclose(y, y_, atol=2e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), (g, s), (g_, s_))


@pytest.mark.parametrize("mean", [0.0, 1e4, 1e6])
def test_eight_devices_are_one(mean):
    rng = np.random.default_rng(3)
    # Every device sees another mean: the variance between devices is part of the batch's.
    x = (rng.normal(size=(8, 2, 4, 3)) + mean + np.arange(8)[:, None, None, None]).astype(np.float32)
    g = rng.normal(size=x.shape).astype(np.float32)

    def one(x, g):
        with scope(axis="devices"):
            y, mean, var, dx, *dparams = forward_and_back.__wrapped__(x, g)
        return y, mean, var, dx, *jax.lax.psum(dparams, "devices")

    parts = jax.pmap(one, "devices")(x, g)
    whole = forward_and_back(x.reshape(16, 4, 3), g.reshape(16, 4, 3))
    truth = exact(x, g)
    for i, (part, all_, exact_) in enumerate(zip(parts, whole, truth)):
        part = np.asarray(part)
        if i in (1, 2, 4, 5):
            assert (part == part[:1]).all(), "devices disagree"
            part = part[0]
        # The gradient differentiates through the devices' mean: a missing psum would show here.
        close(part, exact_, 1e-5)
        close(all_, exact_, 1e-5)


def test_constant_channels_and_a_single_example_give_the_bias():
    layer = BatchNorm()
    for x in (np.full((4, 3), 12345.678, np.float32), np.array([[1e6, -3.0, 0.1]], np.float32)):
        variables = {"params": {"scale": np.ones(3), "bias": np.array([1.0, 2.0, 3.0])}}
        variables["batch_stats"] = {"mean": np.zeros(3), "var": np.ones(3)}

        variables = jax.tree.map(np.float32, variables)

        def apply(x, variables=variables):
            return layer.apply(variables, x, train=True, mutable=["batch_stats"])[0]

        # The line's mean may be off by a rounding of x, which 1 / sqrt(epsilon) enlarges.
        np.testing.assert_allclose(
            jax.jit(apply)(x), np.broadcast_to([1.0, 2.0, 3.0], x.shape), atol=1e-6 + 1e-7 * abs(x).max()
        )
        assert np.isfinite(jax.jit(jax.grad(lambda x: (apply(x) ** 2).sum()))(x)).all()


@pytest.mark.parametrize("mean", [0.0, 1e3])
def test_bfloat16_in_and_out_with_float32_statistics(mean):
    rng = np.random.default_rng(4)
    x = jnp.asarray(rng.normal(mean, max(1.0, mean / 20), (32, 8, 3)), jnp.bfloat16)
    g = jnp.asarray(rng.normal(size=x.shape), jnp.bfloat16)
    y, mean_, var, dx, *_ = forward_and_back(x, g)
    assert y.dtype == dx.dtype == jnp.bfloat16
    assert var.dtype == jnp.float32
    truth = exact(x, g)
    for ours, true, tolerance in zip((y, mean_, var, dx), truth, (4e-3, 1e-5 + 1e-2 * (mean == 0), 1e-5, 8e-3)):
        close(ours, true, tolerance)


def test_forward_mode_and_second_derivatives_agree_with_finite_differences():
    rng = np.random.default_rng(5)
    x, v = rng.normal(size=(2, 6, 2)).astype(np.float32)
    layer = BatchNorm(use_scale=False, use_bias=False)
    variables = layer.init(jax.random.key(0), x, train=False)

    def loss(x):
        return (layer.apply(variables, x, train=True, mutable=["batch_stats"])[0] ** 3).sum()

    def true(x):
        return ((x - x.mean(0)) / np.sqrt(x.var(0) + EPSILON)) ** 3

    x64, v64, h = x.astype(np.float64), v.astype(np.float64), 1e-4
    first = (true(x64 + h * v64).sum() - true(x64 - h * v64).sum()) / (2 * h)
    second = (true(x64 + h * v64).sum() - 2 * true(x64).sum() + true(x64 - h * v64).sum()) / h**2

    @jax.jit
    def ours(x):
        reverse_twice = jax.grad(lambda x: (jax.grad(loss)(x) * v).sum())(x)
        return jax.jvp(loss, (x,), (v,))[1], reverse_twice, jax.jvp(jax.grad(loss), (x,), (v,))[1]

    slope, product, product_ = ours(x)
    np.testing.assert_allclose(slope, first, rtol=1e-4)
    np.testing.assert_allclose((product * v).sum(), second, rtol=1e-3)
    np.testing.assert_allclose(product_, product, rtol=1e-3, atol=1e-4)
