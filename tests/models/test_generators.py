"""GAN networks: any size, classes that matter, the function they begin as, resampling against SciPy's grid and by hand."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch_names
from hypothesis import given
from hypothesis import strategies as st

from medjax.cases import Cases
from medjax.errors import InputError
from medjax.models import dcgan, r3gan
from medjax.models.resnet import resnet18
from medjax.models.weights import load_weights, normalise_imagenet
from medjax.nn.resampling import double, grids, halve
from medjax.tasks import extractor as judging
from medjax.tasks.extractor import Extractor


def start(model, x):
    return jax.jit(lambda: model.init(jax.random.key(0), x, train=False))()


def shapes(model, x):
    return jax.eval_shape(lambda: model.init_with_output(jax.random.key(0), x, train=False))


@pytest.mark.parametrize("shape", [(28, 28), (33, 50), (64, 64), (256, 256), (96,), (187,)])
@pytest.mark.parametrize(("channels", "classes"), [(1, 0), (4, 3)])
def test_r3gan_makes_and_judges_any_size(shape, channels, classes):
    generator = r3gan.Generator(shape, channels, features=4, most=8, classes=classes)
    label = {"class": jnp.array([0, -1])} if classes else {}
    z = jnp.ones((2, 5))
    image, _ = shapes(generator, {"latent": z, **label} if classes else z)
    assert image.shape == (2, *shape, channels)
    assert image.dtype == jnp.float32
    judge = r3gan.Discriminator(features=4, most=8, classes=classes)
    x = jnp.zeros(image.shape)
    logit, _ = shapes(judge, {"image": x, **label} if classes else x)
    assert logit.shape == (2,)


@pytest.mark.parametrize("side", [28, 64, 96])
def test_dcgan_has_other_sides_and_classes(side):
    z, label = jnp.ones((2, 5)), jnp.array([1, 0])
    image, _ = shapes(dcgan.Generator(3, 2, side, 2), {"latent": z, "class": label})
    assert image.shape == (2, side, side, 3)
    logit, _ = shapes(dcgan.Discriminator(2, side, 2), {"image": jnp.zeros(image.shape), "class": label})
    assert logit.shape == (2,)


def test_dcgan_refuses_sides_that_it_cannot_halve():
    for side in (7, 30, 99):
        with pytest.raises(ValueError, match=str(side)):
            dcgan.halvings(side)
    assert [dcgan.halvings(side) for side in (28, 64, 256)] == [2, 4, 6]


@pytest.mark.parametrize(
    ("generator", "judge"),
    [
        (r3gan.Generator((16, 16), 1, 4, 8, classes=3), r3gan.Discriminator(4, 8, classes=3)),
        (dcgan.Generator(1, 2, 16, 3), dcgan.Discriminator(2, 16, 3)),
    ],
)
def test_a_class_changes_image_and_logit(generator, judge):
    z, x = jnp.ones((3, 5)), jax.random.normal(jax.random.key(1), (3, 16, 16, 1))
    one = {"latent": z, "class": jnp.array([0, 0, 2])}
    variables = start(generator, one)
    image = generator.apply(variables, one, train=False)
    np.testing.assert_array_equal(image[0], image[1])
    assert np.abs(image[0] - image[2]).max() > 1e-6
    seen = {"image": x, "class": jnp.array([0, 1, -1])}
    variables = start(judge, seen)
    head = variables["params"]["head"]
    # The projection begins at 0, where classes are alike; an unknown class is the common vector alone.
    rest = judge.apply(variables, {**seen, "class": jnp.full(3, -1)}, train=False)
    np.testing.assert_allclose(judge.apply(variables, seen, train=False), rest, rtol=1e-6)
    head["of_class"]["kernel"] = jnp.ones_like(head["of_class"]["kernel"])
    moved = judge.apply(variables, seen, train=False)
    assert abs(moved[0] - rest[0]) > 1e-6
    np.testing.assert_allclose(moved[2], rest[2], rtol=1e-5)


def test_labels_go_with_classes():
    with pytest.raises(ValueError, match="takes no labels"):
        shapes(r3gan.Generator((8, 8)), {"latent": jnp.ones((1, 2)), "class": jnp.zeros(1, int)})
    with pytest.raises(ValueError, match="needs labels"):
        shapes(r3gan.Discriminator(classes=2), jnp.zeros((1, 8, 8, 1)))


def test_blocks_begin_as_nothing_and_the_gradient_reaches_their_last_layer():
    block = r3gan.Block(4)
    x = jax.random.normal(jax.random.key(0), (2, 6, 6, 16))
    variables = jax.jit(lambda: block.init(jax.random.key(0), x))()
    np.testing.assert_array_equal(block.apply(variables, x), x)
    slope = jax.grad(lambda v: jnp.square(block.apply(v, x)).sum())(variables)["params"]
    assert np.abs(slope["Conv_2"]["kernel"]).max() > 0
    assert slope["Conv_1"]["kernel"].shape == (3, 3, 16, 32)  # two groups of 16 channels


def test_signals_keep_their_size_at_the_start():
    """Fixup: without normalisation, the logit of white noise and the image's spread begin at about 1, however deep."""
    judge = r3gan.Discriminator(features=8, most=32, blocks=2)
    x = jax.random.normal(jax.random.key(0), (64, 32, 32, 1))
    variables = start(judge, x)
    assert 0.01 < float(judge.apply(variables, x, train=False).std()) < 10
    generator = r3gan.Generator((32, 32), 1, 8, 32, blocks=2)
    z = jax.random.normal(jax.random.key(1), (64, 16))
    assert 0.1 < float(generator.apply(start(generator, z), z, train=False).std()) < 10


@given(st.lists(st.integers(1, 9), min_size=1, max_size=2), st.integers(0, 5))
def test_doubling_is_the_image_librarys_and_halving_means_of_cells(sides, seed):
    x = np.random.default_rng(seed).normal(size=(1, *sides, 2)).astype(np.float32)
    shape = [2 * n for n in sides]
    wanted = jax.image.resize(x, (1, *shape, 2), "linear")
    np.testing.assert_allclose(double(jnp.array(x)), wanted, atol=1e-5)
    back = halve(jnp.array(wanted))
    cells = np.asarray(wanted, np.float64)
    for axis in range(1, x.ndim - 1):
        even, odd = (np.take(cells, range(k, cells.shape[axis], 2), axis) for k in (0, 1))
        cells = (even + odd) / 2
    np.testing.assert_allclose(back, cells, atol=1e-5)
    odd = double(jnp.array(x), [2 * n - 1 for n in sides])
    np.testing.assert_array_equal(odd, double(jnp.array(x))[(slice(None), *(slice(2 * n - 1) for n in sides))])
    assert halve(odd).shape == x.shape


def test_grids_double_up_to_any_side():
    assert grids((28, 28), 7) == [(7, 7), (14, 14), (28, 28)]
    assert grids((33,), 7) == [(5,), (9,), (17,), (33,)]


def test_published_weights_measure_by_the_network_they_are_of(tmp_path):
    tensors = torch_names.filled(torch_names.resnet((2, 2, 2, 2), bottleneck=False, classes=3))
    header, data = {}, b""
    for name, value in tensors.items():
        if value.ndim:
            header[name] = {
                "dtype": "F32",
                "shape": list(value.shape),
                "data_offsets": [len(data), len(data) + value.nbytes],
            }
            data += value.astype(np.float32).tobytes()
    text = json.dumps(header).encode()
    (tmp_path / "w.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data)
    of = Extractor(reference=8, weights=str(tmp_path / "w.safetensors"), name="resnet18", resize=32)
    image = np.random.default_rng(0).integers(0, 255, (5, 32, 32, 1)).astype(np.uint8)
    cases = Cases({"image": image, "label": np.zeros(5, int), "group": np.arange(5)})
    judge = judging.fit(of, 2, cases)
    model = resnet18(3)
    x = normalise_imagenet(jnp.array(image) / 255)
    start = jax.jit(lambda: model.init(jax.random.key(0), x, train=False))()
    variables, _ = load_weights(start, tensors, model.from_torch)
    # The head is linear: by it the kept features must give the network's own logits.
    logits = jax.jit(lambda v: model.apply(v, x, train=False))(variables)
    head = variables["params"]["head"]
    np.testing.assert_allclose(judge["features"][:5] @ head["kernel"] + head["bias"], logits, rtol=1e-3, atol=1e-3)
    assert "w.safetensors" in of.tell(32, 2)
    with pytest.raises(InputError, match=r"w\.safetensors"):
        judging.fit(dataclasses.replace(of, name="resnet34"), 2, cases)
