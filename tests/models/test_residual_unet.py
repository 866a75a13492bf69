"""The residual U-Net and the decoder over encoders: parameters by formula, shapes, what they refuse, and PyTorch's weights."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch_names

from medjax.core import example_keys, scope
from medjax.flops import count_parameters
from medjax.models.convnext import ConvNeXt
from medjax.models.densenet import DenseNet
from medjax.models.residual_unet import AttentionGate, EncoderUNet, ResidualUNet, _block_mean
from medjax.models.resnet import ResNet, resnet18
from medjax.models.weights import load_weights

SMALL = {"features": (2, 4, 6), "blocks": (1, 1, 2)}
ANISOTROPIC = {
    "features": (2, 3, 4, 5),
    "blocks": (1, 1, 1, 2),
    "strides": ((1, 1, 1), (1, 2, 2), (2, 2, 2), (1, 2, 1)),
    "kernels": ((1, 3, 3), (1, 3, 3), (3, 3, 3), (3, 3, 3)),
}
# The compiler need not try hard.
OPTIONS = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


def made(model, shape):
    """Names and shapes of the model's variables, without computing anything."""
    x = jax.ShapeDtypeStruct(shape, jnp.float32)
    return dict(jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), x))


def variables_of(model, shape):
    """The same with random values."""
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda a: 0.3 * rng.standard_normal(a.shape, np.float32), made(model, shape))


def shapes(model, shape, *, train):
    variables = made(model, shape)

    def run(v, x):
        with scope(keys=example_keys(jax.random.key(0), jnp.int32(0), len(x))):
            return model.apply(v, x, train=train, mutable=["batch_stats"])[0]

    found = jax.eval_shape(run, variables, jax.ShapeDtypeStruct(shape, jnp.float32))
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(found))
    return jax.tree.map(lambda a: a.shape, found, is_leaf=lambda a: hasattr(a, "shape"))


def run(model, variables, x, **more):
    return jax.jit(lambda v, x: model.apply(v, x, **more)).lower(variables, x).compile(OPTIONS)(variables, x)


def expected(classes, features, blocks, strides, kernels, channels, deep, attention):
    """Parameters by layer: convolutions without bias, normalisations of 2 a channel, upsampling and heads with bias."""
    windows = [math.prod(k) for k in kernels]
    total = windows[0] * channels * features[0] + 2 * features[0]
    before = features[0]
    for wide, count, window in zip(features, blocks, windows):
        total += window * before * wide + (2 * count - 1) * window * wide**2 + 4 * wide * count
        total += (before != wide) * (before * wide + 2 * wide)
        before = wide
    for level, (wide, below) in enumerate(itertools.pairwise(features)):
        step = math.prod(strides[level + 1])
        total += step * below * wide + wide + windows[level] * 2 * wide * wide + 2 * wide
        if attention:
            f = wide // 2
            total += step * wide * f + below * f + f + f + 1
    heads = max(len(features) - 2, 1) if deep else 1
    return total + sum(classes * (f + 1) for f in features[:heads])


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("attention", [False, True])
def test_parameters_are_the_sum_over_the_layers(deep, attention):
    model = ResidualUNet(3, **ANISOTROPIC, deep=deep, attention=attention)
    params = made(model, (1, 4, 16, 8, 2))["params"]
    assert count_parameters(params) == expected(3, **ANISOTROPIC, channels=2, deep=deep, attention=attention)
    assert {name.split("_")[0] for name in params} >= {"stem", "stage1", "stage4", "up1", "up3", "head"}


def test_the_published_size():
    """nnU-Net's ResEnc M for 3-D patches, whose convolutions have biases besides (dynamic-network-architectures)."""
    features, blocks = (32, 64, 128, 256, 320, 320), (1, 3, 4, 6, 6, 6)
    params = made(ResidualUNet(2, features, blocks, deep=True), (1, 32, 32, 32, 1))["params"]
    plain = {"strides": ((1,) * 3, *((2,) * 3,) * 5), "kernels": ((3,) * 3,) * 6, "channels": 1}
    assert count_parameters(params) == expected(2, features, blocks, **plain, deep=True, attention=False)
    assert 101e6 < count_parameters(params) < 103e6


@pytest.mark.parametrize(
    ("shape", "fields"), [((2, 8, 12, 1), SMALL), ((1, 8, 4, 8, 2), SMALL), ((1, 2, 8, 8, 1), ANISOTROPIC)]
)
def test_logits_are_on_the_inputs_grid_and_deep_ones_on_all_but_the_two_coarsest(shape, fields):
    fine = (*shape[:-1], 3)
    model = ResidualUNet(3, **fields, deep=True, attention=True)
    assert shapes(model, shape, train=False) == fine
    assert shapes(model, shape, train=True) == ([fine, (1, 2, 4, 4, 3)] if fields is ANISOTROPIC else [fine])
    assert shapes(ResidualUNet(3, **fields), shape, train=True) == fine


@pytest.mark.parametrize(
    ("shape", "fields", "words"),
    [
        ((1, 8, 6, 1), SMALL, r"multiples of \(4, 4\)"),
        ((1, 3, 8, 8, 1), ANISOTROPIC, r"multiples of \(2, 8, 4\)"),
        ((1, 8, 1), SMALL, "takes"),
        ((1, 8, 8, 1), ANISOTROPIC, "for 2 dimensions"),
        ((1, 8, 8, 1), {**SMALL, "blocks": (1, 1)}, "2 blocks"),
        ((1, 8, 8, 1), {**SMALL, "kernels": ((3, 3), (3, 2), (3, 3))}, "odd"),
        ((1, 8, 8, 1), {**SMALL, "strides": ((2, 2),) * 3}, "strides"),
    ],
)
def test_residual_unet_refuses_what_does_not_fit(shape, fields, words):
    with pytest.raises(ValueError, match=words) as error:
        shapes(ResidualUNet(2, **fields), shape, train=False)
    assert len(str(error.value).splitlines()) == 1


@pytest.fixture(scope="module")
def small():
    """(model, variables, x, logits of a training step, gradient of their squares' mean): deep and gated."""
    model = ResidualUNet(2, (2, 3, 4, 4), (1, 1, 1, 1), deep=True, attention=True)
    x = np.random.default_rng(0).normal(size=(2, 16, 16, 1)).astype(np.float32)
    variables = variables_of(model, x.shape)

    def loss(params):
        found = model.apply({"params": params}, x, train=True)
        return sum((y**2).mean() for y in found), found

    step = jax.jit(jax.grad(loss, has_aux=True)).lower(variables["params"]).compile(OPTIONS)
    gradient, found = step(variables["params"])
    return model, variables, x, found, gradient


def test_logits_and_gradients_are_pytorchs(small):
    """The same layers written with torch.nn.functional."""
    torch = pytest.importorskip("torch")
    _, variables, x, deep, gradient = small
    f = torch.nn.functional
    leaves = jax.tree.map(lambda a: torch.from_numpy(a).requires_grad_(), variables["params"])

    def conv(p, x, stride=1, pad=1):
        return f.conv2d(x, p["kernel"].permute(3, 2, 0, 1), p.get("bias"), stride=stride, padding=pad)

    def norm(p, x):
        return f.instance_norm(x, weight=p["scale"], bias=p["bias"])

    def block(p, x, stride):
        y = f.leaky_relu(norm(p["norm1"], conv(p["conv1"], x, stride)), 0.01)
        y = norm(p["norm2"], conv(p["conv2"], y))
        x = f.avg_pool2d(x, stride)
        return f.leaky_relu(
            y + (norm(p["project_norm"], conv(p["project_conv"], x, pad=0)) if "project_conv" in p else x), 0.01
        )

    y = f.leaky_relu(norm(leaves["stem_norm"], conv(leaves["stem_conv"], torch.from_numpy(x).movedim(-1, 1))), 0.01)
    maps, logits = [], []
    for stage in range(1, 5):
        maps.append(y := block(leaves[f"stage{stage}_block0"], y, 1 if stage == 1 else 2))
    for level in (3, 2, 1):
        skip, gate = maps[level - 1], leaves[f"gate{level}"]
        q = conv(gate["skip"], skip, 2, 0) + conv(gate["gate"], y, pad=0)
        skip = skip * f.interpolate(conv(gate["psi"], q.relu(), pad=0).sigmoid(), scale_factor=2, mode="bilinear")
        up, body = leaves[f"up{level}"], leaves[f"up{level}_block"]
        y = torch.cat([f.conv_transpose2d(y, up["kernel"].permute(2, 3, 0, 1), up["bias"], stride=2), skip], 1)
        y = f.leaky_relu(norm(body["norm"], conv(body["conv"], y)), 0.01)
        if level < 3:
            head = leaves["head" if level == 1 else "head2"]
            logits.insert(0, y.movedim(1, -1) @ head["kernel"] + head["bias"])
    sum((y**2).mean() for y in logits).backward()
    for ours, theirs in zip(deep, logits, strict=True):
        np.testing.assert_allclose(ours, theirs.detach(), atol=1e-4)
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        theirs = leaves
        for key in path:
            theirs = theirs[key.key]
        np.testing.assert_allclose(leaf, theirs.grad, atol=2e-4, err_msg=str(path))
        assert np.abs(leaf).max() > 0, path


def test_evaluation_gives_the_finest_logits_of_training(small):
    model, variables, x, deep, _ = small
    np.testing.assert_allclose(run(model, variables, x, train=False), deep[0], atol=1e-5)


def test_bfloat16_within_and_float32_without(small):
    model, variables, x, deep, _ = small
    with scope(compute=jnp.bfloat16):
        found = run(model, variables, x, train=True)
        inner = jax.eval_shape(lambda v: model.apply(v, x, train=True, capture_intermediates=True)[1], variables)
    assert inner["intermediates"]["stage3_block0"]["__call__"][0].dtype == jnp.bfloat16
    for ours, truth in zip(found, deep):
        assert ours.dtype == jnp.float32
        assert not np.array_equal(ours, ours.astype(jnp.bfloat16).astype(np.float32))  # the head's sums are whole
        assert np.linalg.norm(ours - truth) < 0.05 * np.linalg.norm(truth)


def test_the_attention_gate_is_the_papers_equation():
    rng = np.random.default_rng(0)
    gate, x, g = AttentionGate(3, (2, 1)), rng.normal(size=(1, 4, 3, 2)), rng.normal(size=(1, 2, 3, 5))
    x, g = x.astype(np.float32), g.astype(np.float32)
    names = jax.eval_shape(lambda: gate.init(jax.random.key(0), x, g))
    p = jax.tree.map(lambda a: rng.normal(size=a.shape).astype(np.float32), names)["params"]
    q = np.einsum("nhswc,scf->nhwf", x.reshape(1, 2, 2, 3, 2), p["skip"]["kernel"][:, 0])
    q = np.maximum(q + g @ p["gate"]["kernel"][0, 0] + p["gate"]["bias"], 0) @ p["psi"]["kernel"][0, 0] + p["psi"]["bias"]
    a = 1 / (1 + np.exp(-q))
    rows = [np.interp((np.arange(4) + 0.5) / 2 - 0.5, [0, 1], a[0, :, j, 0]) for j in range(3)]
    np.testing.assert_allclose(gate.apply({"params": p}, x, g), x * np.stack(rows, 1)[None, ..., None], atol=1e-5)


def test_shortcuts_are_averaged_over_what_is_strided():
    x = np.random.default_rng(0).normal(size=(2, 4, 6, 3, 2)).astype(np.float32)
    np.testing.assert_allclose(_block_mean(x, (2, 3, 1)), x.reshape(2, 2, 2, 2, 3, 3, 2).mean((2, 4)), atol=1e-6)


def test_dropout_takes_whole_channels_of_each_example():
    model, x = ResidualUNet(2, (4, 8), (1, 1), dropout=0.5), np.ones((4, 4, 4, 1), np.float32)
    variables = variables_of(model, x.shape)
    still = run(model, variables, x, train=False)
    np.testing.assert_allclose(still[0], still[1], atol=1e-6)
    with scope(keys=example_keys(jax.random.key(0), jnp.int32(0), 4)):
        dropped = run(model, variables, x, train=True)
    assert not np.allclose(dropped[0], dropped[1], atol=1e-3)


# Over encoders

ENCODERS = {
    "resnet18": resnet18(7),
    "small": ResNet(7, width=4, stem_stride=1),
    "densenet": DenseNet(7, growth=4, layers=(1, 1, 1, 1)),
    "convnext": ConvNeXt(7, width=4, blocks=(1, 1, 1, 1), drop_path=0.1),
}


@pytest.mark.parametrize(
    ("name", "sides"),
    [(name, (67, 93)) for name in ENCODERS] + [("small", (47, 33)), ("convnext", (64, 45)), ("small", (7, 5))],
)
def test_any_size_comes_back(name, sides):
    model = EncoderUNet(2, ENCODERS[name], deep=True)
    assert shapes(model, (1, *sides, 3), train=False) == (1, *sides, 2)
    deep = shapes(model, (1, *sides, 3), train=True)
    assert deep[0] == (1, *sides, 2)
    assert deep[1][1:3] == tuple(-(-side // 2) for side in sides)
    assert len(deep) == (2 if name == "small" else 4)


def test_volumes_too():
    assert shapes(EncoderUNet(2, ENCODERS["small"], deep=False), (1, 9, 16, 21, 1), train=True) == (1, 9, 16, 21, 2)
    with pytest.raises(ValueError, match="2 features for the 3 grids"):
        shapes(EncoderUNet(2, ENCODERS["small"], features=(4, 8)), (1, 16, 16, 1), train=False)


def test_pretrained_weights_and_the_encoders_own_maps():
    encoder = resnet18(3)
    model, x = EncoderUNet(2, encoder, features=(2, 2, 2, 2, 2)), torch_names.picture(3)
    names = torch_names.resnet((2, 2, 2, 2), bottleneck=False)
    tensors = torch_names.filled(names)
    loaded, report = load_weights(variables_of(model, x.shape), tensors, encoder.from_torch, at=("encoder",))
    assert set(report.used) == {n for n in names if not n.startswith("fc.") and not n.endswith("num_batches_tracked")}
    alone, _ = load_weights(variables_of(encoder, x.shape), tensors, encoder.from_torch)

    def both(v, alone, x):
        maps = encoder.apply(alone, x, train=False, features=True)
        return maps, model.apply(v, x, train=False, method=lambda m, x, train: m.encoder(x, train=train, features=True))

    theirs, ours = jax.jit(both).lower(loaded, alone, x).compile(OPTIONS)(loaded, alone, x)
    assert [y.shape[1] for y in ours] == [32, 16, 8, 4, 2]
    for a, b in zip(theirs, ours):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
