"""Pretrained weights: logits are PyTorch's on the same tensors, from stored values and, where it is installed, from itself."""

import functools
import importlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch_names

from medjax.core import State
from medjax.errors import InputError
from medjax.models import convnext, densenet, resnet
from medjax.models.weights import load_weights, normalise_imagenet, normalise_xrv, pretrained

NAMES = {
    "resnet18": torch_names.resnet((2, 2, 2, 2), bottleneck=False, classes=3),
    "resnet34": torch_names.resnet((3, 4, 6, 3), bottleneck=False, classes=3),
    "resnet50": torch_names.resnet((3, 4, 6, 3), bottleneck=True, classes=3),
    "densenet121": torch_names.densenet121(classes=3),
    "convnext_tiny": torch_names.convnext_tiny(classes=3),
}
MAKE = {
    "resnet18": resnet.resnet18,
    "resnet34": resnet.resnet34,
    "resnet50": resnet.resnet50,
    "densenet121": densenet.densenet121,
    "convnext_tiny": convnext.convnext_tiny,
}
# By torchvision 0.28.0 with these tensors, `torch_names.filled`, and `torch_names.picture(3)`.
LOGITS = {
    "resnet18": [[1.204657, 2.900218, 6.405476], [2.448438, 2.926654, 6.318597]],
    "resnet34": [[1.734478, 6.842454, 17.851336], [3.085611, 7.183389, 17.554531]],
    "resnet50": [[8.742682, -8.507918, -8.351243], [8.63924, -8.979156, -7.698677]],
    "densenet121": [[0.085748, 0.176284, 0.195748], [0.074158, 0.179406, 0.186277]],
    "convnext_tiny": [[-0.074752, -0.435127, -0.147334], [-1.493914, -0.785788, -0.55178]],
}
# One of each kind always; the others take a minute to compile and differ in depth alone.
QUICK = ["resnet18", "convnext_tiny"]
EACH = [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in MAKE]
# The compiler need not try hard.
OPTIONS = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
TINY = {"classes": 2, "width": 64, "blocks": (1,), "stem_kernel": 7, "centred": True}
TINY_NAMES = {
    n: s
    for n, s in torch_names.resnet((1,), bottleneck=False, classes=2).items()
    if n.startswith(("conv1", "bn1", "layer1", "fc"))
}


def blank(model, x):
    """The model's variables, minus 1 everywhere: what is not loaded shows."""
    made = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), x)
    return jax.tree.map(lambda a: np.full(a.shape, -1, a.dtype), dict(made))


@functools.cache
def compiled(name, classes=3, channels=3):
    """(variables, run) of a network, compiled once."""
    model, x = MAKE[name](classes), torch_names.picture(channels)
    variables = blank(model, x)
    apply = jax.jit(lambda v, x: model.apply(v, x, train=False)).lower(variables, x).compile(OPTIONS)
    return variables, lambda v: np.asarray(apply(v, x))


def tiny(state_dict, channels=3, classes=2, at=()):
    model = resnet.ResNet(**{**TINY, "classes": classes})
    variables = blank(model, jnp.zeros((1, 16, 16, channels)))
    for key in reversed(at):
        variables = {collection: {key: tree, "other": {"bias": np.ones(2)}} for collection, tree in variables.items()}
    return load_weights(variables, state_dict, model.from_torch, at=at)


def package(name):
    """torchvision, and what needs it, also beside a PyTorch for which its compiled operators were not built."""
    torch = pytest.importorskip("torch")
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        pytest.skip(f"{name} is not installed")
    except RuntimeError:
        for module in [m for m in sys.modules if m.partition(".")[0] in ("torchvision", "timm", "torchxrayvision")]:
            del sys.modules[module]
        package.library = torch.library.Library("torchvision", "FRAGMENT")
        for operator in ("nms", "qnms"):
            package.library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        return importlib.import_module(name)


def asked(module, channels=3):
    import torch

    with torch.no_grad():
        return module.eval()(torch.from_numpy(torch_names.picture(channels)).movedim(-1, 1)).numpy()


def arrays(module):
    return {name: tensor.numpy() for name, tensor in module.state_dict().items()}


@pytest.mark.parametrize("name", EACH)
def test_logits_are_those_that_pytorch_gave(name):
    variables, run = compiled(name)
    loaded, report = load_weights(variables, torch_names.filled(NAMES[name]), MAKE[name](3).from_torch)
    np.testing.assert_allclose(run(loaded), LOGITS[name], atol=1e-4)
    assert set(report.used) | set(report.ignored) == set(NAMES[name])
    assert all(n.endswith("num_batches_tracked") for n in report.ignored)
    assert report.notes == ()


@pytest.mark.parametrize("name", MAKE)
def test_every_tensor_has_its_own_place(name):
    """All 320 tensors of ResNet-50, 727 of DenseNet-121: as many values in the tree, none left as it was."""
    names = NAMES[name]
    assert len(names) == {"resnet50": 320, "densenet121": 727}.get(name, len(names))
    variables = blank(MAKE[name](3), jnp.zeros((1, 64, 64, 3)))
    whole = {n: np.broadcast_to(np.float32(7), shape) for n, shape in names.items()}
    loaded, report = load_weights(variables, whole, MAKE[name](3).from_torch)
    assert {float(leaf.min()) for leaf in jax.tree.leaves(loaded)} == {7.0}
    assert len(report.used) == len(jax.tree.leaves(variables))
    assert len(report.used) + len(report.ignored) == len(names)


@pytest.mark.parametrize("name", EACH)
def test_stored_logits_are_torchvision_s(name):
    models = package("torchvision.models")
    import torch

    module = getattr(models, name)(num_classes=3)
    module.load_state_dict({n: torch.from_numpy(v) for n, v in torch_names.filled(NAMES[name]).items()}, strict=True)
    np.testing.assert_allclose(asked(module), LOGITS[name], atol=1e-4)


@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in MAKE])
def test_names_of_timm(name):
    module = package("timm").create_model(name, num_classes=3)
    variables, run = compiled(name)
    loaded, _ = load_weights(variables, lively(module), MAKE[name](3).from_torch)
    np.testing.assert_allclose(run(loaded), asked(module), atol=1e-4)


def lively(module):
    """The module's tensors, filled by name in place."""
    import torch

    values = torch_names.filled({name: tuple(tensor.shape) for name, tensor in module.state_dict().items()})
    values |= {n: np.abs(v) + 0.3 for n, v in values.items() if n.endswith("gamma")}
    module.load_state_dict({name: torch.from_numpy(value) for name, value in values.items()})
    return arrays(module)


@pytest.mark.slow
def test_names_of_torchxrayvision():
    module = package("torchxrayvision.models").DenseNet(num_classes=18, in_channels=1)
    variables, run = compiled("densenet121", 18, 1)
    loaded, report = load_weights(variables, {**lively(module), "op_threshs": np.zeros(18)}, densenet.DenseNet.from_torch)
    np.testing.assert_allclose(run(loaded), asked(module, 1), atol=1e-4)
    assert "op_threshs" in report.ignored


def test_three_dimensions_are_pytorch_s():
    torch = pytest.importorskip("torch")
    from torch.nn import functional as F

    model = resnet.ResNet(3, width=4, blocks=(1, 1), stem_kernel=3, stem_stride=1, centred=True)
    x = np.random.default_rng(0).standard_normal((2, 6, 7, 8, 1), np.float32)
    rng = np.random.default_rng(1)
    shapes = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), x)
    v = jax.tree.map(lambda a: rng.uniform(0.2, 0.9, a.shape).astype(np.float32) - 0.5 * (a.ndim > 1), dict(shapes))

    def layer(y, path, conv, norm, stride=1):
        p, s = v["params"], v["batch_stats"]
        p, s = (p[path], s[path]) if path else (p, s)
        kernel = torch.from_numpy(np.moveaxis(p[conv]["kernel"], (-1, -2), (0, 1)).copy())
        y = F.conv3d(y, kernel, stride=stride, padding=kernel.shape[-1] // 2)
        values = [torch.from_numpy(a) for a in (s[norm]["mean"], s[norm]["var"], p[norm]["scale"], p[norm]["bias"])]
        return F.batch_norm(y, *values, eps=1e-5)

    y = F.relu(layer(torch.from_numpy(x).movedim(-1, 1), "", "stem_conv", "stem_norm"))
    for path, stride in (("stage1_block0", 1), ("stage2_block0", 2)):
        z = layer(F.relu(layer(y, path, "conv1", "norm1", stride)), path, "conv2", "norm2")
        y = F.relu(z + (layer(y, path, "project_conv", "project_norm", stride) if stride == 2 else y))
    expected = y.mean((2, 3, 4)).numpy() @ v["params"]["head"]["kernel"] + v["params"]["head"]["bias"]
    np.testing.assert_allclose(jax.jit(lambda x: model.apply(v, x, train=False))(x), expected, rtol=1e-4)


def test_input_channels_keep_the_response_to_equal_channels():
    state_dict = torch_names.filled(TINY_NAMES)
    theirs = np.moveaxis(state_dict["conv1.weight"], (0, 1), (-1, -2))
    for channels in (1, 2, 3, 5):
        loaded, report = tiny(state_dict, channels)
        kernel = loaded["params"]["stem_conv"]["kernel"]
        assert kernel.shape == (7, 7, channels, 64)
        assert len(report.notes) == (channels != 3)
        if channels == 1:  # as timm has it
            np.testing.assert_allclose(kernel, theirs.sum(2, keepdims=True), rtol=1e-6)
        else:
            expected = np.stack([theirs[:, :, i % 3] for i in range(channels)], 2) * (3 / channels)
            np.testing.assert_allclose(kernel, expected, rtol=1e-6)
    grey = {**state_dict, "conv1.weight": state_dict["conv1.weight"][:, :1]}
    kernel = tiny(grey, 3)[0]["params"]["stem_conv"]["kernel"]
    np.testing.assert_allclose(kernel.sum(2), theirs[:, :, 0], rtol=1e-5)


def test_a_head_of_other_classes_or_none_stays_as_initialised():
    state_dict = torch_names.filled(TINY_NAMES)
    headless = {name: value for name, value in state_dict.items() if not name.startswith("fc.")}
    for given, classes, words in ((state_dict, 5, "the weights' has 2 classes"), (headless, 2, "the weights have none")):
        loaded, report = tiny(given, classes=classes)
        assert np.all(loaded["params"]["head"]["kernel"] == -1)
        assert words in report.notes[0]
        assert not {"fc.weight", "fc.bias"} & set(report.used)
        assert np.all(loaded["batch_stats"]["stem_norm"]["var"] > 0)


def test_wrappers_are_taken_off_and_told():
    state_dict = torch_names.filled(TINY_NAMES)
    plain, _ = tiny(state_dict)
    wrapped, report = tiny({f"module.encoder.{name}": value for name, value in state_dict.items()})
    assert report.notes == ("prefix 'module.encoder.' taken off the names",)
    assert all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(wrapped), strict=True))


def test_an_encoder_inside_another_network():
    state_dict = torch_names.filled(TINY_NAMES)
    plain, _ = tiny(state_dict)
    loaded, _ = tiny(state_dict, at=("encoder",))
    assert np.array_equal(loaded["params"]["encoder"]["stem_conv"]["kernel"], plain["params"]["stem_conv"]["kernel"])
    assert np.array_equal(loaded["batch_stats"]["encoder"]["stem_norm"]["mean"], plain["batch_stats"]["stem_norm"]["mean"])
    assert np.all(loaded["params"]["other"]["bias"] == 1)
    model = resnet.ResNet(**TINY)
    bare = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False, features=True), jnp.zeros((1, 16, 16, 3)))
    bare = jax.tree.map(lambda a: np.zeros(a.shape, a.dtype), dict(bare))
    _, report = load_weights(bare, state_dict, model.from_torch)
    assert {"fc.weight", "fc.bias"} <= set(report.ignored)
    with pytest.raises(InputError, match="no network at 'encodr'"):
        load_weights(loaded, state_dict, resnet.ResNet.from_torch, at=("encodr",))


def test_weights_of_another_architecture_are_refused_by_name():
    state_dict = torch_names.filled(TINY_NAMES)
    short = {n: v for n, v in state_dict.items() if n not in ("layer1.0.bn2.weight", "bn1.running_var")}
    changed = {**short, "layer1.0.conv3.weight": np.zeros((4, 4)), "layer1.0.conv1.weight": np.zeros((64, 64, 5, 5))}
    with pytest.raises(InputError) as error:
        tiny(changed)
    text = str(error.value)
    assert len(text.splitlines()) == 2
    assert "2 missing (stem_norm.var, stage1_block0.norm2.scale)" in text
    assert "1 left over (layer1.0.conv3.weight)" in text
    assert "1 of another shape (layer1.0.conv1.weight (64, 64, 5, 5) for stage1_block0.conv1.kernel (3, 3, 64, 64))" in text
    with pytest.raises(InputError, match="another architecture: 15 missing"):
        tiny(torch_names.filled(NAMES["convnext_tiny"]))


def test_start_replaces_parameters_and_statistics_and_keeps_the_optimizer(tmp_path):
    safetensors = pytest.importorskip("safetensors.numpy")
    path = tmp_path / "weights.safetensors"
    safetensors.save_file(torch_names.filled(TINY_NAMES), path)
    model = resnet.ResNet(**{**TINY, "classes": 4})
    variables = blank(model, jnp.zeros((1, 16, 16, 1)))
    params = variables.pop("params")
    opt = optax.adam(1e-3).init(params)
    state = State(jnp.int32(0), params, variables, opt, jax.random.key(0))
    lines = []
    started = pretrained(path, model, tell=lines.append)(state)
    assert jax.tree.structure(started) == jax.tree.structure(state)
    assert started.opt is opt
    assert np.all(started.extra["batch_stats"]["stem_norm"]["var"] > 0)
    assert lines[0] == "weights: 15 tensors from weights.safetensors"
    assert sorted(line.split()[1] for line in lines[1:]) == ["kernels", "the"]
    assert np.all(np.asarray(state.params["stem_conv"]["kernel"]) == -1), "the State given was changed"
    with pytest.raises(InputError, match=r"nowhere\.pth: cannot be read"):
        pretrained(tmp_path / "nowhere.pth", model)(state)


def test_normalisation_is_what_the_weights_expect():
    image = np.random.default_rng(0).random((2, 4, 5, 3), np.float32)
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    np.testing.assert_allclose(normalise_imagenet(image), (image - mean) / std, rtol=1e-5, atol=1e-6)
    grey = normalise_imagenet(image[..., :1])
    np.testing.assert_allclose(grey, (image[..., :1].repeat(3, -1) - mean) / std, rtol=1e-5, atol=1e-6)
    one = normalise_imagenet(image[..., :1], channels=1)
    np.testing.assert_allclose(one, (image[..., :1] - mean.mean()) / std.mean(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(normalise_xrv(jnp.array([0.0, 0.25, 1.0])[:, None, None]), [[[-1024]], [[-512]], [[1024]]])
    with pytest.raises(ValueError, match="3 channels"):
        normalise_imagenet(image, channels=4)
