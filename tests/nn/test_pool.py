from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medjax.nn import max_pool


def both(pool, x, g):
    y, back = jax.vjp(pool, x)
    return y, back(g)[0]


# Few shapes, since each compiles anew; many values.
CASES = [
    ((2, 6, 3), 2, None, "VALID"),
    ((1, 8, 4, 2), 2, None, "VALID"),
    ((2, 4, 2, 4, 1), 2, None, "VALID"),
    ((1, 7, 6, 2), 2, None, "VALID"),
    ((1, 9, 7, 1), 3, None, "VALID"),
    ((1, 8, 8, 1), 3, 2, "SAME"),
    ((1, 8, 6, 1), (2, 2), (1, 2), "VALID"),
    ((1, 6, 6, 1), 2, None, ((1, 1), (0, 0))),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_values_and_gradients_with_ties_are_those_of_flax(case):
    shape, window, strides, padding = case
    spatial = len(shape) - 2
    widths = tuple(np.broadcast_to(window, spatial).tolist())
    steps = widths if strides is None else tuple(np.broadcast_to(strides, spatial).tolist())
    ours = jax.jit(partial(both, partial(max_pool, window=window, strides=strides, padding=padding)))
    theirs = jax.jit(partial(both, partial(nn.max_pool, window_shape=widths, strides=steps, padding=padding)))
    out = jax.eval_shape(partial(max_pool, window=window, strides=strides, padding=padding), jnp.zeros(shape)).shape

    @settings(max_examples=12, deadline=None, derandomize=True)
    @given(seed=st.integers(0, 2**32 - 1), levels=st.integers(1, 4))
    def check(seed, levels):
        rng = np.random.default_rng(seed)
        x = rng.integers(-levels, levels, shape).astype(np.float32)
        g = rng.normal(size=out).astype(np.float32)
        for a, b in zip(ours(x, g), theirs(x, g)):
            np.testing.assert_array_equal(a, b)

    check()


def test_ties_go_to_the_first_in_row_major_order():
    x = jnp.array([[0.0, 5.0, 5.0, 1.0], [5.0, 5.0, 5.0, 5.0]])[None, :, :, None]
    _, dx = both(max_pool, x, jnp.ones((1, 1, 2, 1)))
    np.testing.assert_array_equal(dx[0, :, :, 0], [[0, 1, 1, 0], [0, 0, 0, 0]])


def test_ties_are_those_of_pytorch():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    x = rng.integers(0, 3, (2, 6, 8, 3)).astype(np.float32)
    g = rng.normal(size=(2, 3, 4, 3)).astype(np.float32)
    t = torch.tensor(x.transpose(0, 3, 1, 2).copy(), requires_grad=True)
    y = torch.nn.functional.max_pool2d(t, 2)
    y.backward(torch.tensor(g.transpose(0, 3, 1, 2).copy()))
    ours = both(max_pool, x, g)
    np.testing.assert_array_equal(ours[0], y.detach().numpy().transpose(0, 2, 3, 1))
    np.testing.assert_array_equal(ours[1], t.grad.numpy().transpose(0, 2, 3, 1))


@pytest.mark.parametrize("place", range(4))
@pytest.mark.parametrize("size", [4, 5])
def test_a_nan_makes_its_window_nan_and_no_other(place, size):
    x = np.ones((1, size, size, 1), np.float32)
    x[0, place // 2, place % 2] = np.nan
    np.testing.assert_array_equal(np.isnan(max_pool(x))[0, :, :, 0], [[True, False], [False, False]])


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.int32, jnp.uint8])
def test_other_types_are_kept(dtype):
    x = np.random.default_rng(0).integers(0, 200, (1, 4, 6, 2))
    y = max_pool(jnp.asarray(x, dtype))
    assert y.dtype == dtype
    np.testing.assert_array_equal(np.asarray(y, int), x.reshape(1, 2, 2, 3, 2, 2).max((2, 4)))


def test_forward_mode_and_second_derivatives():
    x, v = np.random.default_rng(0).permutation(32).reshape(2, 1, 4, 4, 1).astype(np.float32)
    y, dy = jax.jvp(max_pool, (x,), (v,))
    windows = x.reshape(2, 2, 2, 2).transpose(0, 2, 1, 3).reshape(4, 4)
    picked = v.reshape(2, 2, 2, 2).transpose(0, 2, 1, 3).reshape(4, 4)[np.arange(4), windows.argmax(1)]
    np.testing.assert_array_equal(dy.reshape(4), picked)
    hessian = jax.jit(jax.hessian(lambda x: (max_pool(x) ** 2).sum()))(x).reshape(16, 16)
    assert (np.asarray(hessian) == 2 * np.diag(np.isin(x.reshape(-1), np.asarray(y)))).all()
