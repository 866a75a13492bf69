"""Grad-CAM: the published formula, and that a map says something of the trained network and of the picture."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import blob_image
from scipy.stats import spearmanr

from medjax.cases import Cases
from medjax.engine import make_engine
from medjax.models.resnet import BasicBlock
from medjax.nn import BatchNorm, Conv
from medjax.report import figures as drawn
from medjax.tasks import saliency
from medjax.tasks.classification import classification, mirrored
from medjax.tasks.images import as_batch, standardise

SIZE = 48


class Staged(nn.Module):
    """A small network with the stages' names of medjax's encoders."""

    classes: int = 2
    width: int = 8

    @nn.compact
    def __call__(self, x, *, train):
        x = Conv(self.width, (3, 3), 2, use_bias=False, name="stem_conv")(x)
        x = nn.relu(BatchNorm(name="stem_norm")(x, train=train))
        x = BasicBlock(self.width, name="stage1_block0")(x, train=train)
        x = BasicBlock(2 * self.width, 2, name="stage2_block0")(x, train=train)
        x = nn.relu(Conv(2 * self.width, (1, 1), name="head_conv")(x))  # so that the gradient is not the same everywhere
        return nn.Dense(self.classes, name="head")(x.mean((1, 2)))


class Voxels(nn.Module):
    """Three dimensions, and the mean of a stage straight into a linear head."""

    @nn.compact
    def __call__(self, x, *, train):
        x = nn.relu(nn.Conv(4, (3, 3, 3), strides=2, name="stage1")(x))
        return nn.Dense(3, name="head")(x.mean((1, 2, 3)))


class Plain(nn.Module):
    @nn.compact
    def __call__(self, x, *, train):
        return nn.Dense(2)(x.reshape(len(x), -1))


def spots(n, seed):
    """Pictures uint8 [n, SIZE, SIZE, 1], int label [n], and where their bright spots are, bool [n, SIZE, SIZE]."""
    rng = np.random.default_rng(seed)
    label = np.arange(n) % 2
    image = np.stack([blob_image(rng, bright=bool(y), size=SIZE) for y in label])
    return image[..., None], label, image == 240


@pytest.fixture(scope="module")
def trained():
    """(model, task, trained State, fresh State, test batch, spots [n, H, W])."""
    model = Staged()
    task = classification(model, optax.adam(3e-3))
    image, label, _ = spots(192, 0)
    held, truth, where = spots(64, 1)
    update = jax.jit(task.update)
    state = fresh = task.init(jax.random.key(0), as_batch({"image": image[:2], "label": label[:2]}))
    rng = np.random.default_rng(2)
    for _ in range(60):
        part = rng.choice(len(label), 32, replace=False)
        state, _ = update(state, as_batch({"image": image[part], "label": label[part]}))
    batch = as_batch({"image": held, "label": truth})
    score = task.predict(state, batch)["score"]
    assert (np.argmax(score, 1) == truth).mean() > 0.95
    return model, task, state, fresh, batch, where


def variables(state):
    return {"params": state.params, **state.extra}


def test_equals_the_formula():
    """Equations 1 and 2 in float64, the gradient by the head's own weights."""
    rng = np.random.default_rng(0)
    model, x = Voxels(), rng.normal(size=(5, 8, 8, 8, 1)).astype(np.float32)
    found = model.init(jax.random.key(1), x, train=False)
    target = np.array([0, 1, 2, 1, 0])
    _, state = model.apply(found, x, train=False, capture_intermediates=True, mutable=["intermediates"])
    stage = np.maximum(np.float64(state["intermediates"]["stage1"]["__call__"][0]), 0)
    raw = np.float64(state["intermediates"]["stage1"]["__call__"][0])
    kernel = np.float64(found["params"]["head"]["kernel"])
    # y = mean over the grid of relu(A) @ kernel: dy / dA_c is kernel[c] / voxels where A is above 0.
    gradient = (raw > 0) * kernel[:, target].T[:, None, None, None] / stage[0, ..., 0].size
    coarse = np.maximum((gradient.mean((1, 2, 3), keepdims=True) * raw).sum(-1), 0)
    maps = np.asarray(saliency.grad_cam(model, found, x, target))
    assert maps.shape == (5, 8, 8, 8)
    wanted = np.asarray(jax.image.resize(jnp.asarray(coarse, jnp.float32), maps.shape, "linear"))
    peak = wanted.max((1, 2, 3), keepdims=True)
    np.testing.assert_allclose(maps, wanted / np.where(peak > 0, peak, 1), atol=1e-5)
    assert maps.max() == 1


def test_the_map_lies_on_the_spot(trained):
    model, _, state, _, batch, where = trained
    bright = np.flatnonzero(batch["label"] == 1)
    maps = np.asarray(
        saliency.grad_cam(model, variables(state), standardise(batch["image"][bright]), np.ones(len(bright), int))
    )
    assert maps.min() >= 0
    assert maps.max() == 1
    mass = (maps * where[bright]).sum((1, 2)) / maps.sum((1, 2))
    chance = where[bright].mean((1, 2))
    assert (mass > chance).mean() > 0.9
    assert np.mean(mass / chance) > 1.5
    top = maps.reshape(len(maps), -1).argmax(1)
    near = np.array([_distance(np.unravel_index(t, where.shape[1:]), spot) for t, spot in zip(top, where[bright])])
    assert np.median(near) < SIZE / 8


def _distance(place, spot):
    return np.hypot(*(np.mean(axis) - at for axis, at in zip(np.nonzero(spot), place)))


def test_a_random_network_gives_other_maps(trained):
    """Parameter randomisation (Adebayo et al., NeurIPS 2018): a map that does not know the weights explains nothing.

    The bound is a mean |Spearman| of .5 between the maps of the trained and of five random networks.
    """
    model, task, state, _, batch, _ = trained
    bright = np.flatnonzero(batch["label"] == 1)
    x, target = standardise(batch["image"][bright]), np.ones(len(bright), int)
    cam = jax.jit(lambda tree: saliency.grad_cam(model, tree, x, target))
    maps = np.asarray(cam(variables(state)))
    found = []
    for seed in range(5):
        other = np.asarray(cam(variables(task.init(jax.random.key(100 + seed), batch))))
        for a, b in zip(maps, other, strict=True):
            if a.std() > 0 and b.std() > 0:
                found.append(abs(spearmanr(a.ravel(), b.ravel()).statistic))
    assert len(found) >= 40
    assert np.mean(found) < 0.5


def test_a_map_is_of_its_own_picture(trained):
    """Another order of the batch, or other neighbours in it, gives the same maps; another class does not."""
    model, _, state, _, batch, _ = trained
    x, target = standardise(batch["image"]), np.asarray(batch["label"])
    cam = jax.jit(lambda x, target: saliency.grad_cam(model, variables(state), x, target))
    maps = np.asarray(cam(x, target))
    order = np.random.default_rng(0).permutation(len(target))
    np.testing.assert_allclose(np.asarray(cam(x[order], target[order])), maps[order], atol=1e-4)
    np.testing.assert_allclose(np.asarray(cam(x[:3], target[:3])), maps[:3], atol=1e-4)
    assert np.abs(np.asarray(cam(x, 1 - target)) - maps).mean() > 0.05


def test_of_a_task_it_is_the_models(trained):
    """Through `predict` of a task, with and without views, and without leaving anything behind."""
    model, task, state, _, batch, _ = trained
    target = np.asarray(batch["label"])
    plain = np.asarray(saliency.grad_cam(model, variables(state), standardise(batch["image"]), target))
    before = np.asarray(task.predict(state, batch)["score"])
    np.testing.assert_allclose(saliency.task_grad_cam(task, state, batch, target), plain, atol=1e-5)
    viewed = classification(model, optax.sgd(0.1), views=mirrored)
    np.testing.assert_allclose(saliency.task_grad_cam(viewed, state, batch, target), plain, atol=1e-4)
    np.testing.assert_array_equal(np.asarray(task.predict(state, batch)["score"]), before)


def test_nothing_that_speaks_for_a_class_is_an_empty_map():
    x = np.random.default_rng(0).normal(size=(2, 8, 8, 8, 1)).astype(np.float32)
    model = Voxels()
    found = model.init(jax.random.key(1), x, train=False)
    head = {"kernel": -jnp.ones((4, 3)), "bias": jnp.zeros(3)}
    positive = jax.tree.map(jnp.abs, found["params"]["stage1"])
    maps = saliency.grad_cam(model, {"params": {"stage1": positive, "head": head}}, np.abs(x), np.array([0, 1]))
    np.testing.assert_array_equal(maps, 0)


def test_a_network_without_stages(trained):
    x = np.zeros((2, 8, 8, 1), np.float32)
    model = Plain()
    with pytest.raises(ValueError, match="no top-level submodule"):
        saliency.grad_cam(model, model.init(jax.random.key(0), x, train=False), x, np.zeros(2, int))
    task = classification(model, optax.sgd(0.1))
    batch = trained[4]
    rows, cases = shown(batch, trained[1].predict(trained[2], batch)["score"])
    assert saliency.explain_with(task, ("no", "yes"))(task.init(jax.random.key(0), batch), rows, cases) == {}


def shown(batch, score):
    score = np.asarray(score)
    pred, n = score.argmax(1), len(score)
    rows = {"score": score, "pred": pred, "sure": np.abs(score[:, 1] - 0.5) * 2}
    return rows, Cases({**{k: v for k, v in batch.items() if k != "mask"}, "group": np.arange(n)})


def test_the_figure_pairs_pictures_with_their_maps(trained, tmp_path):
    _, task, state, fresh, batch, _ = trained
    rows, cases = shown(batch, task.predict(fresh, batch)["score"])  # a fresh network errs as well
    (figure,) = saliency.explain_with(task, ("no", "yes"))(state, rows, cases).values()
    assert {row["label"].split("\n")[0] for row in figure.data["rows"]} >= {"least sure"}
    for row in figure.data["rows"]:
        images = row["images"]
        assert images.dtype == np.uint8
        assert images.shape[1:] == (SIZE, SIZE, 3)
        assert len(images) == len(row["titles"])
        plain, covered = images[::2], images[1::2]
        assert (plain[..., 0] == plain[..., 2]).all()  # grey
        assert any((a != b).any() for a, b in zip(plain, covered, strict=True))
    drawn.save({"saliency": figure}, tmp_path)
    assert (tmp_path / "saliency.png").stat().st_size > 10_000


def test_any_engines_state_will_do(trained):
    """A State on eight devices explains as well, and the same."""
    _, task, state, _, batch, _ = trained
    engine = make_engine(task, "jit", jax.devices())
    like = engine.init(jax.random.key(0), engine.put(batch))
    spread = jax.tree.map(lambda x, other: jax.device_put(x, other.sharding), state, like)
    rows, cases = shown(batch, task.predict(state, batch)["score"])
    one, eight = (saliency.explain_with(task, ("no", "yes"))(s, rows, cases)["saliency"] for s in (state, spread))
    for a, b in zip(one.data["rows"], eight.data["rows"], strict=True):
        assert np.abs(a["images"].astype(int) - b["images"]).max() <= 1


def test_volumes_show_their_middle_slice():
    rng = np.random.default_rng(0)
    batch = as_batch({"image": rng.integers(0, 256, (20, 8, 8, 8, 1), dtype=np.uint8), "label": rng.integers(0, 3, 20)})
    task = classification(Voxels(), optax.sgd(0.1))
    state = task.init(jax.random.key(0), batch)
    score = np.asarray(task.predict(state, batch)["score"])
    rows = {"score": score, "pred": score.argmax(1), "sure": score.max(1)}
    cases = Cases({**{k: v for k, v in batch.items() if k != "mask"}, "group": np.arange(20)})
    (figure,) = saliency.explain_with(task, ("a", "b", "c"))(state, rows, cases).values()
    first, covered = figure.data["rows"][0]["images"][:2]
    slices = batch["image"][:, 4, ..., 0]
    (which,) = np.flatnonzero((slices == first[..., 0]).all((1, 2)))
    maps = np.asarray(saliency.task_grad_cam(task, state, batch, rows["pred"]))
    np.testing.assert_array_equal(saliency.overlay(slices[which : which + 1], maps[which : which + 1, 4])[0], covered)


def test_the_overlay_leaves_the_picture_where_the_map_is_empty():
    image = np.arange(16, dtype=np.uint8).reshape(1, 4, 4)
    maps = np.zeros((1, 4, 4))
    maps[0, 1, 1] = 1
    drawn_over = saliency.overlay(image, maps)
    outside = maps[0] == 0
    np.testing.assert_array_equal(drawn_over[0][outside], np.repeat(image[0][outside][:, None], 3, 1))
    wanted = (1 - saliency.OPACITY) * 5 + saliency.OPACITY * saliency.COLOURS[-1]
    np.testing.assert_allclose(drawn_over[0, 1, 1], wanted, atol=0.5)
    colour = np.random.default_rng(0).integers(0, 256, (1, 4, 4, 3), dtype=np.uint8)
    np.testing.assert_array_equal(saliency.overlay(colour, np.zeros((1, 4, 4))), colour)
