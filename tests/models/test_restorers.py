"""Restoring networks and discriminators: shapes, the function they begin as, odd sizes; losses between images."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medjax.metrics import restoration as metrics
from medjax.metrics.restoration import Scale
from medjax.models.patchgan import PatchGAN
from medjax.models.redcnn import REDCNN
from medjax.models.resnet import ResNet
from medjax.models.restoring_unet import RestoringUNet
from medjax.models.rrdb import RRDB
from medjax.models.unet_discriminator import UNetDiscriminator
from medjax.nn import image_losses


def start(model, x):
    return jax.jit(lambda: model.init(jax.random.key(0), x, train=False))()


def run(model):
    return jax.jit(lambda variables, x: model.apply(variables, x, train=False))


X = jnp.array(np.random.default_rng(0).random((2, 16, 24, 1)), jnp.float32)


@pytest.mark.parametrize(("model", "factor"), [(RRDB(1, 2, 8, 4, 1), 2), (RestoringUNet(1, 4, 2), 1)])
def test_restorers_begin_as_what_they_add_to(model, factor):
    variables = start(model, X)
    y = run(model)(variables, X)
    wanted = jax.image.resize(X, (2, 16 * factor, 24 * factor, 1), "linear")
    np.testing.assert_allclose(y, wanted, atol=1e-6)


def test_a_unet_takes_any_size():
    model = RestoringUNet(1, 4, 3)
    odd = X[:, :13, :19]
    assert run(model)(start(model, odd), odd).shape == odd.shape


def test_redcnn_has_the_papers_layers():
    model = REDCNN(1, 96)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 1)), train=False))
    count = sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))
    # Ten layers of 5 x 5: 1 to 96, eight of 96 to 96, 96 to 1, and a bias each.
    assert count == 25 * 96 * 2 + 8 * 25 * 96 * 96 + 9 * 96 + 1
    small = REDCNN(1, 2)
    image = jnp.zeros((1, 24, 30, 1))
    assert run(small)(start(small, image), image).shape == image.shape


@pytest.mark.parametrize(("model", "shape"), [(PatchGAN(4), (2, 2, 3)), (UNetDiscriminator(4, 2), (2, 16, 24))])
def test_discriminators_judge_places(model, shape):
    variables = start(model, X)
    logits, moved = jax.jit(lambda v: model.apply(v, X, train=True, mutable=["spectral"]))(variables)
    assert logits.shape == shape
    assert not all(jax.tree.leaves(jax.tree.map(lambda a, b: bool((a == b).all()), moved["spectral"], variables["spectral"])))


def test_structural_loss_is_the_metric():
    rng = np.random.default_rng(1)
    truth = rng.random((3, 20, 22)).astype(np.float32)
    found = truth + 0.1 * rng.normal(size=truth.shape).astype(np.float32)
    ours = image_losses.structure(jnp.array(found)[..., None], jnp.array(truth)[..., None])
    wide = Scale(-10.0, 10.0)  # clips nothing
    theirs = [metrics.ssim_map(a.astype(float), b.astype(float), 1.0).mean() for a, b in zip(truth, found, strict=True)]
    np.testing.assert_allclose(1 - ours, theirs, atol=2e-5)
    assert metrics.ssim(truth, found, wide) > 0


def test_pixel_losses_are_their_formulas():
    rng = np.random.default_rng(2)
    a, b = rng.random((2, 3, 4, 5, 2))
    d = (a - b).reshape(3, -1)
    np.testing.assert_allclose(image_losses.absolute(jnp.array(a), jnp.array(b)), np.abs(d).mean(1), rtol=1e-5)
    np.testing.assert_allclose(image_losses.square(jnp.array(a), jnp.array(b)), (d**2).mean(1), rtol=1e-5)
    np.testing.assert_allclose(image_losses.charbonnier(jnp.array(a), jnp.array(b)), np.sqrt(d**2 + 1e-6).mean(1), rtol=1e-5)


def test_feature_distance_is_that_of_an_encoders_maps():
    encoder = ResNet(2, 4, (1, 1))
    variables = encoder.init(jax.random.key(0), X, train=False)
    other = X[:, ::-1]
    found = image_losses.feature_distance(encoder, variables)(X, other)
    maps = [encoder.apply(variables, image, train=False, features=True) for image in (X, other)]
    wanted = np.mean([np.abs(np.asarray(a) - np.asarray(b)).reshape(2, -1).mean(1) for a, b in zip(*maps, strict=True)], 0)
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
