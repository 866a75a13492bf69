"""Upsampling: both of its forms and the layer against a formula in NumPy float64 and the transposed convolution."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medjax.core import scope
from medjax.nn import ConvTranspose, Upsample, upsample
from medjax.nn.upsampling import _convolution, _depth_to_space

SHAPES = [((2, 3, 4, 5), (2, 2)), ((1, 3, 4), (4,)), ((2, 2, 3, 2, 3), (1, 2, 2)), ((1, 2, 2, 3, 4), (2, 3, 1))]


def case(shape, strides, features=3):
    rng = np.random.default_rng(0)
    x, kernel = rng.normal(size=shape), rng.normal(size=(*strides, shape[-1], features))
    return x.astype(np.float32), kernel.astype(np.float32)


def exact(x, kernel):
    """y[n, i * s + j] = x[n, i] @ kernel[j], one output at a time."""
    *strides, _, features = kernel.shape
    y = np.empty((len(x), *np.multiply(x.shape[1:-1], strides), features))
    for place in np.ndindex(*y.shape[1:-1]):
        i, j = (tuple(part) for part in np.divmod(place, strides))
        y[:, *place] = x[:, *i].astype(np.float64) @ kernel[j].astype(np.float64)
    return y


@pytest.mark.parametrize(("shape", "strides"), SHAPES)
def test_both_forms_are_the_formula(shape, strides):
    x, kernel = case(shape, strides)
    truth = exact(x, kernel)
    for form in (_convolution, _depth_to_space, upsample):
        np.testing.assert_allclose(jax.jit(form)(x, kernel), truth, atol=1e-5)


def test_gradients_of_both_forms_agree():
    x, kernel = case((2, 3, 4, 2, 3), (2, 1, 2))
    g = np.random.default_rng(1).normal(size=exact(x, kernel).shape).astype(np.float32)

    def gradients(form):
        return jax.jit(jax.grad(lambda x, kernel: jnp.vdot(form(x, kernel), g), (0, 1)))(x, kernel)

    for ours, theirs, again in zip(gradients(upsample), gradients(_depth_to_space), gradients(_convolution)):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
        np.testing.assert_allclose(again, theirs, atol=1e-5)


def test_the_layer_is_the_transposed_convolution_with_its_kernel_mirrored():
    x, kernel = case((2, 3, 4, 5), (2, 3))
    bias = np.float32([1, 2, 3])
    theirs = ConvTranspose(3, (2, 3), (2, 3))

    @jax.jit
    def both(x, kernel, bias):
        y = Upsample(3, (2, 3)).apply({"params": {"kernel": kernel, "bias": bias}}, x)
        return y, theirs.apply({"params": {"kernel": kernel[::-1, ::-1], "bias": bias}}, x)

    y, truth = both(x, kernel, bias)
    np.testing.assert_allclose(y, truth, atol=1e-5)


def test_the_layer_computes_in_the_engines_dtype_and_keeps_the_spread():
    x = np.random.default_rng(0).normal(size=(4, 8, 8, 64)).astype(np.float32)

    @jax.jit
    def first(key):
        variables = Upsample(32, (2, 2)).init(key, x)
        with scope(compute=jnp.bfloat16):
            return variables, Upsample(32, (2, 2)).apply(variables, x)

    variables, y = first(jax.random.key(0))
    assert y.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}
    assert np.std(np.asarray(y, np.float32)) == pytest.approx(1, abs=0.05)


def test_pytorch_itself():
    torch = pytest.importorskip("torch")
    x, kernel = case((2, 3, 4, 2, 5), (2, 1, 3))
    theirs = torch.nn.functional.conv_transpose3d(
        torch.from_numpy(np.moveaxis(x, -1, 1).copy()),
        torch.from_numpy(np.moveaxis(kernel, (-2, -1), (0, 1)).copy()),
        stride=(2, 1, 3),
    )
    np.testing.assert_allclose(upsample(x, kernel), np.moveaxis(theirs.numpy(), 1, -1), atol=1e-5)
