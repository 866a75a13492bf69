import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import stats

from medjax.core import MIX, State, Task, augmented, example_keys, purpose_keys
from medjax.data.augment import brightness, image_augment, mixup
from medjax.engine import make_engine
from medjax.errors import InputError
from medjax.tasks.classification import classification


class Linear(nn.Module):
    """Logits of the pixels."""

    @nn.compact
    def __call__(self, x, *, train):
        return nn.Dense(3)(x.reshape(len(x), -1))


class Table(nn.Module):
    """Logits that are parameters, whatever the images."""

    @nn.compact
    def __call__(self, x, *, train):
        return self.param("logits", nn.initializers.normal(1.0), (6, 3))


def batch_of(n, *, label=None, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "image": rng.integers(0, 256, (n, 8, 8, 1)).astype(np.uint8),
        "label": rng.integers(0, 3, n) if label is None else np.asarray(label),
        "mask": np.ones(n, bool),
    }


def mixed(batch, *, alpha=0.4, classes=3, step=0):
    """What a task is given to learn from."""
    seen = {}
    task = Task(None, lambda state, batch, axis=None: seen.update(batch) or (state, {}), None, None)
    state = State(jnp.int32(step), {}, {}, {}, jax.random.key(5))
    augmented(task, mixup(image_augment(), alpha=alpha, classes=classes)).update(state, jax.tree.map(jnp.asarray, batch))
    return {name: np.asarray(value) for name, value in seen.items()}


def test_pairs_are_mixed_alike_in_images_and_labels():
    batch = batch_of(8, label=np.arange(8) % 2)
    out = mixed(batch)
    keys = purpose_keys(example_keys(jax.random.key(5), 0, 8), MIX)
    drawn = jax.vmap(lambda key: jax.random.beta(key, 0.4, 0.4))(keys[::2])
    image, one_hot = batch["image"] / 255, np.eye(3)[batch["label"]]
    for i in range(8):
        a = float(drawn[i // 2])
        np.testing.assert_allclose(out["image"][i], a * image[i] + (1 - a) * image[i ^ 1], atol=1e-5)
        np.testing.assert_allclose(out["target"][i], a * one_hot[i] + (1 - a) * one_hot[i ^ 1], atol=1e-5)
    np.testing.assert_allclose(out["target"].sum(1), 1, atol=1e-6)
    np.testing.assert_array_equal(out["label"], batch["label"])
    shares = out["target"][np.arange(8), batch["label"]]
    assert len(np.unique(shares[::2])) == 4  # a share for each pair
    other = mixed(batch, step=1)["target"]
    assert np.abs(other - out["target"]).max() > 0.01


def test_shares_follow_the_beta_distribution():
    out = mixed(batch_of(1000, label=np.arange(1000) % 2), alpha=0.3)
    shares = out["target"][np.arange(0, 1000, 2), 0]
    assert stats.kstest(shares, "beta", args=(0.3, 0.3)).pvalue > 1e-3


def test_padding_and_missing_labels_leave_a_pair_as_it_is():
    batch = batch_of(8, label=[0, 1, -1, 2, 1, 1, 0, 2])
    batch["image"] = (batch["image"] / 255).astype(np.float32)
    batch["mask"][7] = False
    batch["image"][7] = np.nan
    out = mixed(batch)
    for i in (2, 3, 6, 7):
        np.testing.assert_array_equal(out["image"][i], batch["image"][i])
    np.testing.assert_array_equal(out["target"][[3, 6]], np.eye(3)[[2, 0]])
    assert np.abs(out["image"][0] - batch["image"][0]).max() > 1e-3


def test_multi_labels_are_mixed_one_by_one_where_both_are_known():
    label = np.array([[1, 0, -1], [0, 0, 1], [1, -1, 1], [1, 1, 0]], np.int8)
    batch = batch_of(4, label=label)
    out = mixed(batch)["target"]
    assert (out[[0, 1], 2] == -1).all()
    assert (out[[2, 3], 1] == -1).all()
    np.testing.assert_allclose(out[0, :2] + out[1, :2], [1, 0], atol=1e-6)
    np.testing.assert_allclose(out[2:, 0], 1, atol=1e-6)
    np.testing.assert_allclose(out[2, 2] + out[3, 2], 1, atol=1e-6)
    batch["mask"][1] = False
    np.testing.assert_array_equal(mixed(batch)["target"][0], label[0])


def test_any_count_of_devices_learns_the_same():
    batch = batch_of(16)
    steps = mixup(image_augment(brightness(0.2)), alpha=0.4, classes=3)
    task = augmented(classification(Linear(), optax.sgd(0.5), smoothing=0.1), steps)
    after = {}
    for kind, n in (("jit", 1), ("jit", 8), ("pmap", 8)):
        engine = make_engine(task, kind, jax.devices()[:n])
        state = engine.init(jax.random.key(3), engine.put(batch))
        before = jax.device_get(state.params)
        state, logs = engine.update(state, engine.put(batch))
        moved = jax.tree.map(lambda new, old: np.asarray(new) - old, jax.device_get(state.params), before)
        after[kind, n] = np.concatenate([x.ravel() for x in jax.tree.leaves(moved)]), float(logs["loss"])
    reference, loss = after["jit", 1]
    assert np.abs(reference).max() > 1e-3
    for moved, other in after.values():
        np.testing.assert_allclose(moved, reference, atol=1e-4 * np.abs(reference).max())
        assert other == pytest.approx(loss, rel=1e-5)


@pytest.mark.parametrize("weights", [None, (0.5, 2.0, 1.0)])
def test_the_loss_is_the_cross_entropy_with_soft_targets(weights):
    rng = np.random.default_rng(0)
    target = rng.dirichlet(np.ones(3), 6).astype(np.float32)
    label = np.array([0, 1, 2, -1, 1, 0])
    batch = {"image": np.zeros((6, 2, 2, 1), np.uint8), "label": label, "mask": np.arange(6) != 5}
    task = classification(Table(), optax.sgd(0.0), smoothing=0.1, class_weights=weights)
    state = task.init(jax.random.key(0), batch)
    logits = np.asarray(state.params["logits"], float)
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    for soft, given in ((target.astype(float), {"target": target}), (np.eye(3)[label], {})):
        values = -((0.9 * soft + 0.1 / 3) * log_p).sum(1)
        weight = (soft @ (weights or (1, 1, 1))) * (label >= 0) * batch["mask"]
        _, logs = task.update(state, {**batch, **given})
        assert float(logs["loss"]) == pytest.approx((values * weight).sum() / weight.sum(), rel=1e-5)


def test_what_cannot_be_mixed_is_refused():
    with pytest.raises(InputError, match="alpha 0: must be above 0"):
        mixup(image_augment(), alpha=0, classes=2)
    with pytest.raises(InputError, match=r"a device's batch is 3\n.*twice the number of devices"):
        mixed(batch_of(3))
    step = mixup(lambda key, example: example, alpha=0.2, classes=3)
    with pytest.raises(InputError, match="float images, not uint8"):
        step.batch(jax.random.split(jax.random.key(0), 2), jax.tree.map(jnp.asarray, batch_of(2)))
