"""Instance normalisation against its formula in float64 and PyTorch's layers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medjax.nn import InstanceNorm

EPSILON = 1e-5
# torch 2.13.0: InstanceNorm2d(2, affine=True), weight [1.5, -0.5], bias [0.25, 2], of `small()`, and x's gradient for g = x**2.
STORED_Y = [
    -1.31276,
    2.29930,
    0.38402,
    1.79617,
    1.36794,
    1.44999,
    1.58155,
    1.34014,
    1.67560,
    2.62788,
    -2.19634,
    2.48652,
    -0.29111,
    1.98275,
    1.52680,
    1.00222,
    2.98581,
    2.67194,
    -1.04656,
    2.19546,
    -0.98914,
    2.11576,
    -0.68580,
    2.03187,
]
STORED_DX = [
    -1.27374,
    0.56161,
    -2.29524,
    0.84028,
    -0.02506,
    -0.09958,
    0.74541,
    -0.59059,
    1.11607,
    -0.67217,
    1.73256,
    -0.03954,
    -1.35174,
    0.49925,
    -2.44839,
    -0.56733,
    1.81769,
    -0.98193,
    1.19648,
    0.23859,
    0.95964,
    0.35680,
    -0.17368,
    0.45463,
]


def small():
    x = np.arange(2 * 2 * 3 * 2, dtype=np.float32).reshape(2, 2, 3, 2)
    return np.moveaxis(np.sin(x) + x % 5, 1, -1)  # [2, 3, 2, 2], channels last


def exact(x, g, scale, bias):
    """y, dx, dscale, dbias in float64."""
    x, g = np.asarray(x, np.float64), np.asarray(g, np.float64)
    axes = tuple(range(1, x.ndim - 1))
    root = np.sqrt(x.var(axes, keepdims=True) + EPSILON)
    z = (x - x.mean(axes, keepdims=True)) / root
    h = g * scale
    dx = (h - h.mean(axes, keepdims=True) - z * (h * z).mean(axes, keepdims=True)) / root
    return z * scale + bias, dx, (g * z).sum((0, *axes)), g.sum((0, *axes))


@jax.jit
def forward_and_back(x, g, scale, bias):
    y, back = jax.vjp(lambda p, x: InstanceNorm().apply({"params": p}, x), {"scale": scale, "bias": bias}, x)
    dparams, dx = back(g)
    return y, dx, dparams["scale"], dparams["bias"]


def close(ours, truth, tolerance):
    ours, truth = (np.asarray(a, np.float64).reshape(-1) for a in (ours, truth))
    assert np.linalg.norm(ours - truth) <= tolerance * np.linalg.norm(truth) + 1e-30


def drawn(shape, seed=0, mean=0.0):
    rng = np.random.default_rng(seed)
    x = (rng.normal(size=shape) * rng.uniform(0.5, 3, shape[-1]) + mean).astype(np.float32)
    scale, bias = rng.normal(size=(2, shape[-1])).astype(np.float32)
    return x, rng.normal(size=shape).astype(np.float32), scale, bias


@pytest.mark.parametrize("mean", [0.0, 1e2, 1e4, 1e6])
def test_values_and_gradients_are_the_float64_formula_at_any_mean(mean):
    case = drawn((3, 6, 5, 4, 2), mean=mean)
    for ours, truth, tolerance in zip(forward_and_back(*case), exact(*case), (2e-6, 5e-6, 5e-6, 5e-6)):
        close(ours, truth, tolerance)


@pytest.mark.parametrize("shape", [(2, 7, 3), (3, 9, 8, 3)])
def test_one_and_two_dimensions(shape):
    case = drawn(shape, mean=50)
    for ours, truth in zip(forward_and_back(*case), exact(*case)):
        close(ours, truth, 1e-5)


def test_a_line_far_from_the_mean_costs_few_digits():
    """The worst place for the shift: the middle line is all of the structure, in an empty volume."""
    x, g, scale, bias = drawn((1, 32, 32, 32, 1))
    x[:] = 0
    x[:, 16, 16] = 1000
    for ours, truth in zip(forward_and_back(x, g, scale, bias)[:2], exact(x, g, scale, bias)):
        close(ours, truth, 1e-3)


def test_examples_do_not_see_each_other():
    x, g, scale, bias = drawn((3, 4, 4, 2))
    whole = forward_and_back(x, g, scale, bias)[0]
    x[0] = 1e4
    np.testing.assert_array_equal(forward_and_back(x, g, scale, bias)[0][1:], whole[1:])


def test_a_constant_channel_gives_the_bias_and_finite_gradients():
    x, g, scale, bias = drawn((2, 4, 4, 2))
    x[..., 0] = 12345.678
    y, *gradients = forward_and_back(x, g, scale, bias)
    np.testing.assert_allclose(y[..., 0], bias[0], atol=1e-2)
    assert all(np.isfinite(d).all() for d in gradients)
    with pytest.raises(ValueError, match="InstanceNorm takes"):
        InstanceNorm().init(jax.random.key(0), jnp.ones((3, 4)))


@pytest.mark.parametrize("mean", [0.0, 1e3])
def test_bfloat16_in_and_out_with_float32_statistics(mean):
    x, g, scale, bias = drawn((2, 16, 16, 3))
    x, g = jnp.asarray(x * max(1.0, mean / 20) + mean, jnp.bfloat16), jnp.asarray(g, jnp.bfloat16)
    y, dx, dscale, _ = forward_and_back(x, g, scale, bias)
    assert y.dtype == dx.dtype == jnp.bfloat16
    assert dscale.dtype == jnp.float32
    for ours, truth in zip((y, dx, dscale), exact(x, g, scale, bias)):
        close(ours, truth, 5e-3)


def test_stored_values_of_pytorch():
    x = small()
    y, dx, *_ = forward_and_back(x, x**2, np.float32([1.5, -0.5]), np.float32([0.25, 2]))
    np.testing.assert_allclose(y.reshape(-1), STORED_Y, atol=2e-5)
    np.testing.assert_allclose(dx.reshape(-1), STORED_DX, atol=1e-4)


@pytest.mark.parametrize("rank", [2, 3])
def test_pytorch_itself(rank):
    torch = pytest.importorskip("torch")
    x, g, scale, bias = drawn((2, 5, 6, 4)[: rank + 1] + (3,), mean=5)
    layer = {2: torch.nn.InstanceNorm2d, 3: torch.nn.InstanceNorm3d}[rank](3, affine=True)
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(scale))
        layer.bias.copy_(torch.from_numpy(bias))
    x_ = torch.from_numpy(np.moveaxis(x, -1, 1).copy()).requires_grad_()
    y = layer(x_)
    y.backward(torch.from_numpy(np.moveaxis(g, -1, 1).copy()))
    theirs = [np.moveaxis(t.detach().numpy(), 1, -1) for t in (y, x_.grad)]
    for ours, truth in zip(forward_and_back(x, g, scale, bias), [*theirs, layer.weight.grad, layer.bias.grad]):
        close(ours, truth, 1e-5)
