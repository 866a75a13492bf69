"""Architectures: published parameter counts, shapes, what they refuse, and that padding has no effect."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medjax.core import example_keys, scope
from medjax.flops import count_flops, count_parameters
from medjax.models.cnn import CNN
from medjax.models.convnext import ConvNeXt, convnext_tiny
from medjax.models.dcgan import Discriminator, Generator
from medjax.models.densenet import DenseNet, densenet121
from medjax.models.resnet import ResNet, resnet18, resnet34, resnet50
from medjax.models.sequence import Recurrent
from medjax.models.unet import UNet


def shapes(model, x):
    """(variables, output) without computing anything."""
    x = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), x)
    variables = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), x)
    return variables, jax.eval_shape(lambda v, x: model.apply(v, x, train=False), variables, x)


def variables_of(model, x):
    return jax.jit(lambda x: model.init(jax.random.key(0), x, train=False))(x)


# Residual networks


PUBLISHED = [
    (resnet18, 11_689_512),
    (resnet34, 21_797_672),
    (resnet50, 25_557_032),
    (densenet121, 7_978_856),
    (convnext_tiny, 28_589_128),
]


@pytest.mark.parametrize(("make", "count"), PUBLISHED)
def test_published_parameter_counts(make, count):
    variables, y = shapes(make(1000), jnp.zeros((2, 224, 224, 3)))
    assert count_parameters(variables["params"]) == count
    assert y.shape == (2, 1000)
    assert y.dtype == jnp.float32


def test_resnet50_costs_what_is_published():
    """4.09 billion multiply-adds for an image of 224 x 224 (He et al. give 3.8 for the stride on the first convolution)."""
    model, x = resnet50(1000), jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    variables, _ = shapes(model, x)
    flops = count_flops(jax.make_jaxpr(lambda v, x: model.apply(v, x, train=False))(variables, x))
    assert flops == pytest.approx(2 * 4.09e9, rel=0.005)


@pytest.mark.parametrize("make", [resnet18, resnet50])
def test_stem_for_small_images_keeps_the_grid(make):
    variables, y = shapes(make(10, small_images=True), jnp.zeros((2, 32, 32, 1)))
    assert variables["params"]["stem_conv"]["kernel"].shape == (3, 3, 1, 64)
    assert y.shape == (2, 10)


def test_the_default_network_is_what_it_was():
    """Parameters of the default experiment's network by name and shape: finished runs must stay readable."""
    variables, _ = shapes(ResNet(2), jnp.zeros((1, 64, 64, 1)))
    found = {
        "/".join(k.key for k in path): leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(variables["params"])
    }
    assert found["stem_conv/kernel"] == (5, 5, 1, 16)
    assert found["stage1_block0/conv2/kernel"] == (3, 3, 16, 16)
    assert found["stage4_block0/project_conv/kernel"] == (1, 1, 64, 128)
    assert found["stage4_block0/project_norm/scale"] == (128,)
    assert found["head/kernel"] == (128, 2)
    assert len(found) == 3 + 4 * 6 + 3 * 3 + 2  # stem, blocks, projections, head


# Encoders: what other jobs rely on

SMALL = [
    (ResNet(2, width=4, blocks=(1, 1, 1, 1)), (64, 64, 1), [(32, 4), (16, 8), (8, 16), (4, 32)]),
    (ResNet(2, width=4, blocks=(1, 2), bottleneck=True, stem_pool=True), (64, 64, 3), [(32, 4), (16, 16), (8, 32)]),
    (ResNet(2, width=4, stem_kernel=3, stem_stride=1, centred=True), (12, 12, 12, 1), [(12, 4), (6, 8), (3, 16), (2, 32)]),
    (DenseNet(2, growth=4, layers=(1, 2, 2, 1)), (64, 64, 2), [(32, 8), (16, 12), (8, 14), (4, 15), (2, 11)]),
    (ConvNeXt(2, width=4, blocks=(1, 2, 1, 1)), (64, 64, 3), [(16, 4), (8, 8), (4, 16), (2, 32)]),
    (CNN(2, features=(4, 4, 8, 8), hidden=8), (32, 32, 1), [(16, 4), (8, 4), (4, 8), (2, 8)]),
    (CNN(2, features=(4, 8), hidden=8), (8, 8, 8, 1), [(4, 4), (2, 8)]),
]
NAMES = [f"{type(model).__name__}{len(shape) - 1}d{i}" for i, (model, shape, _) in enumerate(SMALL)]


@pytest.mark.parametrize(("model", "shape", "maps"), SMALL, ids=NAMES)
def test_encoders_give_maps_finest_first_under_the_names_agreed_on(model, shape, maps):
    x = jnp.zeros((2, *shape))
    variables, y = shapes(model, x)
    assert y.shape == (2, 2)
    assert all(name.startswith(("stem_", "stage", "head")) for name in variables["params"])
    assert {"stage1", "head"} <= {name.partition("_")[0] for name in variables["params"]}
    made = jax.eval_shape(lambda v, x: model.apply(v, x, train=False, features=True), variables, x)
    assert [m.shape for m in made] == [(2, *[side] * (len(shape) - 1), channels) for side, channels in maps]
    bare = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False, features=True), x)["params"]
    assert set(bare) == {name for name in variables["params"] if not name.startswith("head")}


@pytest.mark.parametrize(("model", "shape", "maps"), SMALL[1:6:2] + SMALL[4:5], ids=NAMES[1:6:2] + NAMES[4:5])
def test_every_parameter_of_an_encoder_gets_a_finite_gradient(model, shape, maps):
    x = np.random.default_rng(0).normal(size=(4, *shape)).astype(np.float32)
    variables = variables_of(model, x)
    rng = np.random.default_rng(1)
    params = jax.tree.map(lambda p: p + 0.2 * rng.standard_normal(p.shape).astype(np.float32), variables.pop("params"))

    def loss(params):
        with scope(keys=example_keys(jax.random.key(0), jnp.int32(0), 4)):
            y, _ = model.apply({"params": params, **variables}, x, train=True, mutable=list(variables))
        return jnp.square(y - 1).sum()

    for path, grad in jax.tree_util.tree_leaves_with_path(jax.jit(jax.grad(loss))(params)):
        assert np.isfinite(grad).all(), path
        assert np.abs(grad).max() > 0, path


def test_stochastic_depth_drops_a_branch_of_an_example_whole():
    """Layer scale makes the branch: with one block, an example is either the input's own map or that with twice the branch."""
    x = jnp.asarray(np.random.default_rng(0).normal(size=(16, 32, 32, 1)), jnp.float32)
    still, dropping = (ConvNeXt(2, width=4, blocks=(1, 1), layer_scale=1.0, drop_path=rate) for rate in (0.0, 0.5))
    variables = variables_of(still, x)
    with scope(keys=example_keys(jax.random.key(0), jnp.int32(0), 16)):
        made = jax.jit(lambda x: dropping.apply(variables, x, train=True, features=True)[1])(x)
    whole = jax.jit(lambda x: still.apply(variables, x, train=False, features=True)[1])(x)
    none = {**variables["params"], "stage2_block0": jax.tree.map(jnp.zeros_like, variables["params"]["stage2_block0"])}
    bare = jax.jit(lambda x: still.apply({"params": none}, x, train=False, features=True)[1])(x)
    kept = np.abs(made - bare).max((1, 2, 3)) > 1e-6
    assert 0 < kept.sum() < 16
    np.testing.assert_allclose(made, np.where(kept[:, None, None, None], 2 * whole - bare, bare), atol=1e-5)


def test_plain_cnn_refuses_what_it_cannot_halve():
    with pytest.raises(ValueError, match="sides of 16"):
        shapes(CNN(2), jnp.zeros((1, 8, 8, 1)))


# U-Net


@pytest.mark.parametrize(("shape", "depth"), [((16, 24), 3), ((8, 4, 12), 2)])
def test_unet_output_is_as_large_as_its_input(shape, depth):
    y = shapes(UNet(3, features=2, depth=depth), jnp.ones((2, *shape, 1)))[1]
    assert y.shape == (2, *shape, 3)
    assert y.dtype == jnp.float32


def test_unet_parameter_count_is_the_sum_over_its_layers():
    def block(inputs, features):
        return 9 * inputs * features + 9 * features**2 + 4 * features

    widths = [4, 8, 16, 32]
    expected = sum(block(i, o) for i, o in zip([1, *widths], widths))
    expected += sum(4 * 2 * w * w + w + block(2 * w, w) for w in widths[:-1]) + 4 * 3 + 3
    assert count_parameters(shapes(UNet(3, features=4, depth=3), jnp.zeros((1, 8, 8, 1)))[0]["params"]) == expected


@pytest.mark.parametrize(
    ("shape", "words"),
    [((1, 12, 8, 1), "multiples of 8"), ((1, 8, 8, 4, 1), "multiples of 8"), ((1, 8, 1), "not"), ((1, 8, 8, 8, 8, 1), "not")],
)
def test_unet_refuses_what_it_cannot_halve(shape, words):
    with pytest.raises(ValueError, match=words) as error:
        shapes(UNet(2, features=2, depth=3), jnp.zeros(shape))
    assert len(str(error.value).splitlines()) == 1


# DCGAN


def test_dcgan_shapes_and_range():
    generator, discriminator = Generator(channels=3, features=2), Discriminator(features=2)
    z = 100 * jax.random.normal(jax.random.key(0), (2, 10))
    variables = jax.tree.map(lambda v: jnp.full(v.shape, 0.3), shapes(generator, z)[0])
    image = jax.jit(lambda v, z: generator.apply(v, z, train=False))(variables, z)
    assert image.shape == (2, 64, 64, 3)
    assert image.dtype == jnp.float32
    assert 0.99 < np.abs(image).max() <= 1
    logit = shapes(discriminator, image)[1]
    assert logit.shape == (2,)
    assert logit.dtype == jnp.float32
    with pytest.raises(ValueError, match="64 x 64"):
        shapes(discriminator, jnp.zeros((1, 32, 32, 1)))


def test_dcgan_widths_are_the_papers():
    """Figure 1: 1024, 512, 256, 128 channels at 128 features; a batch normalisation after each but the last."""
    params = shapes(Generator(channels=3, features=128), jnp.zeros((1, 100)))[0]["params"]
    assert params["Dense_0"]["kernel"].shape == (100, 4 * 4 * 1024)
    assert [params[f"ConvTranspose_{i}"]["kernel"].shape[-2:] for i in range(4)] == [
        (1024, 512),
        (512, 256),
        (256, 128),
        (128, 3),
    ]
    assert [params[f"BatchNorm_{i}"]["scale"].shape for i in range(4)] == [(1024,), (512,), (256,), (128,)]


# Sequences


@pytest.mark.parametrize(
    ("cell", "layers", "bidirectional"), [("lstm", 1, False), ("lstm", 2, True), ("gru", 2, True), ("simple", 2, True)]
)
def test_padding_has_no_effect(cell, layers, bidirectional):
    """A padded batch gives each sequence what it gets alone, whatever lies behind its end."""
    rng = np.random.default_rng(0)
    model = Recurrent(3, cell=cell, features=5, layers=layers, bidirectional=bidirectional)
    values, lengths = rng.normal(size=(3, 7, 2)).astype(np.float32), np.array([7, 4, 1])
    variables = variables_of(model, {"values": values, "lengths": lengths})
    apply = jax.jit(lambda x: model.apply(variables, x, train=False))
    together = apply({"values": values, "lengths": lengths})
    assert together.shape == (3, 3)
    other = np.where(np.arange(7)[None, :, None] < lengths[:, None, None], values, np.float32(1e3))
    np.testing.assert_allclose(apply({"values": other, "lengths": lengths}), together, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(apply(values[1:2, :4])[0], together[1], rtol=1e-5, atol=1e-6)


def test_directions_mirror_each_other():
    """Sequences turned around, with the two directions' weights exchanged, give the same logits."""
    model, x = Recurrent(2, cell="gru", features=4, bidirectional=True), jax.random.normal(jax.random.key(0), (3, 6, 2))
    params = variables_of(model, x)["params"]
    kernel = params["Dense_0"]["kernel"]
    head = {**params["Dense_0"], "kernel": jnp.concatenate([kernel[4:], kernel[:4]])}
    exchanged = {"GRU_0": params["GRU_1"], "GRU_1": params["GRU_0"], "Dense_0": head}
    apply = jax.jit(lambda params, x: model.apply({"params": params}, x, train=False))
    y = apply(params, x)
    np.testing.assert_allclose(apply(exchanged, x[:, ::-1]), y, rtol=1e-5, atol=1e-6)
    assert np.abs(apply(params, x[:, ::-1]) - y).max() > 1e-2


def test_dropout_acts_in_training_only():
    model, x = Recurrent(2, cell="lstm", features=16, layers=2, dropout=0.5), jnp.ones((4, 3, 2))
    variables = variables_of(model, x)
    still = jax.jit(lambda x: model.apply(variables, x, train=False))(x)
    np.testing.assert_array_equal(still[0], still[1])
    with scope(keys=example_keys(jax.random.key(0), jnp.int32(0), 4)):
        dropped = jax.jit(lambda x: model.apply(variables, x, train=True))(x)
    assert len(np.unique(np.asarray(dropped)[:, 0])) > 1


@pytest.mark.parametrize("fields", [{"cell": "lstmm"}, {"layers": 0}])
def test_recurrent_refuses_what_it_is_not(fields):
    with pytest.raises(ValueError, match="Recurrent"):
        shapes(Recurrent(2, **fields), jnp.zeros((1, 3, 2)))
