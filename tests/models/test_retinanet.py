"""The shapes of a RetinaNet's levels, by any encoder, and pretrained weights in its encoder; nothing is computed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medjax.models import find
from medjax.models.resnet import ResNet
from medjax.models.retinanet import RetinaNet
from medjax.models.weights import load_weights

CASES = {
    "narrow": (ResNet(1, width=4, stem_stride=2), (4, 8, 16)),
    "small stem": (ResNet(1, width=4, stem_stride=1, stem_kernel=3), (2, 4, 8)),
    "beyond the encoder": (ResNet(1, width=4, blocks=(1, 1), stem_stride=2), (4, 8, 16, 32)),
    "resnet50": (find("resnet50")(1), (8, 16, 32, 64)),
}


def shapes_of(model, size=(64, 128, 3)):
    """(variables, output) of a model as shapes."""
    x = jnp.zeros((2, *size))
    variables = jax.eval_shape(lambda key: model.init(key, x, train=False), jax.random.key(0))
    return variables, jax.eval_shape(lambda v: model.apply(v, x, train=False), variables)


@pytest.mark.parametrize("name", CASES)
def test_levels_by_any_encoder(name):
    encoder, strides = CASES[name]
    variables, y = shapes_of(RetinaNet(5, encoder, strides, 2, 8, 1, gate=True))
    assert variables["statistics"]["shapes"].shape == (len(strides), 2, 2)
    for level, stride in enumerate(strides):
        grid = (2, 64 // stride, 128 // stride, 2)
        assert y["logits"][level].shape == (*grid, 5)
        assert y["deltas"][level].shape == y["anchors"][level].shape == (*grid, 4)
    assert y["gate"].shape == (2, 5)


def test_heads_are_shared_by_all_levels():
    two, _ = shapes_of(RetinaNet(1, ResNet(1, width=4), (4, 8), 2, 8, 1))
    three, _ = shapes_of(RetinaNet(1, ResNet(1, width=4), (4, 8, 16), 2, 8, 1))
    for head in ("head_class", "head_box"):
        assert jax.tree.map(jnp.shape, two["params"][head]) == jax.tree.map(jnp.shape, three["params"][head])


def test_an_encoder_that_is_too_coarse_is_refused():
    with pytest.raises(ValueError, match="no map of a stride"):
        shapes_of(RetinaNet(1, ResNet(1, width=4, blocks=(1,), stem_stride=2), (4, 8), 2, 8, 1))


def test_anchors_lie_in_the_middle_of_their_cells():
    model = RetinaNet(1, ResNet(1, width=4, blocks=(1, 1)), (4,), 2, 8, 1)
    x = jnp.zeros((1, 16, 16, 1))
    variables = jax.jit(lambda key: model.init(key, x, train=False))(jax.random.key(0))
    anchors = np.asarray(model.apply(variables, x, train=False)["anchors"][0])[0]
    assert anchors.shape == (4, 4, 2, 4)
    np.testing.assert_allclose((anchors[1, 2, 0, :2] + anchors[1, 2, 0, 2:]) / 2, [10, 6])


def test_an_encoders_weights_are_those_of_its_file():
    encoder = find("resnet18")(1)
    variables, _ = shapes_of(RetinaNet(2, encoder, (8, 16, 32), 3, 16, 1), (64, 64, 3))
    leaves, _ = jax.tree_util.tree_flatten_with_path({c: variables[c]["encoder"] for c in ("params", "batch_stats")})
    rng, tensors = np.random.default_rng(0), {}
    for path, leaf in leaves:
        names = [str(part.key) for part in path]
        torch = ".".join(names[1:-1]).replace("stem_conv", "conv1").replace("stem_norm", "bn1")
        for stage in range(1, 5):
            torch = torch.replace(f"stage{stage}_block", f"layer{stage}.")
        torch = torch.replace("norm", "bn", 1) if torch.startswith("layer") and ".norm" in torch else torch
        torch = torch.replace("project_conv", "downsample.0").replace("project_bn", "downsample.1")
        ending = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}[
            names[-1]
        ]
        value = rng.normal(0, 1, leaf.shape).astype(np.float32)
        tensors[f"{torch}.{ending}"] = np.moveaxis(value, (-1, -2), (0, 1)) if names[-1] == "kernel" else value
    filled, report = load_weights(dict(variables), tensors, encoder.from_torch, at=("encoder",))
    assert len(report.used) == len(leaves) == len(tensors)
    first = filled["params"]["encoder"]["stem_conv"]["kernel"]
    np.testing.assert_array_equal(first, np.moveaxis(tensors["conv1.weight"], (0, 1), (-1, -2)))
    assert isinstance(filled["params"]["head_box"]["out"]["kernel"], jax.ShapeDtypeStruct), "the rest is left alone"
