import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medjax.core import example_keys, scope
from medjax.nn import BatchNorm, Dropout
from medjax.tasks.supervised import warn_of_foreign_layers


def apply_norm(x, *, train=True, variables=None):
    layer = BatchNorm()
    variables = variables or layer.init(jax.random.key(0), x, train=False)
    return layer.apply(variables, x, train=train, mutable=["batch_stats"]), variables


@pytest.mark.parametrize("offset", [0.0, 10.0, 1000.0])
def test_batch_norm_is_the_float64_formula(offset):
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(8, 5, 5, 3)) * [1, 2, 0.5] + offset).astype(np.float32)
    # Running statistics near the data's, as after the first steps of training.
    layer = BatchNorm()
    variables = layer.init(jax.random.key(0), x, train=False)
    variables["batch_stats"]["mean"] += offset
    y, changed = layer.apply(variables, x, train=True, mutable=["batch_stats"])
    wide = x.astype(np.float64)
    mean, var = wide.mean((0, 1, 2)), wide.var((0, 1, 2))
    np.testing.assert_allclose(y, (wide - mean) / np.sqrt(var + 1e-5), atol=3e-4 if offset else 3e-6)
    np.testing.assert_allclose(changed["batch_stats"]["mean"], 0.9 * offset + 0.1 * mean, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(changed["batch_stats"]["var"], 0.9 + 0.1 * var, rtol=1e-5)


def test_batch_norm_equals_flax_in_names_values_and_gradients():
    x = jax.random.normal(jax.random.key(1), (6, 4, 4, 5)) * 2 + 1
    ours, theirs = BatchNorm(), nn.BatchNorm(momentum=0.9, use_running_average=False)
    variables = theirs.init(jax.random.key(0), x)
    assert jax.tree.structure(ours.init(jax.random.key(0), x, train=False)) == jax.tree.structure(variables)

    def loss(params, layer, **more):
        y, changed = layer.apply({**variables, "params": params}, x, mutable=["batch_stats"], **more)
        return (y**3).sum(), (y, changed)

    (_, (y, s)), g = jax.value_and_grad(loss, has_aux=True)(variables["params"], ours, train=True)
    (_, (y_, s_)), g_ = jax.value_and_grad(loss, has_aux=True)(variables["params"], theirs)
    np.testing.assert_allclose(y, y_, atol=2e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), (g, s), (g_, s_))


def test_batch_norm_keeps_bfloat16():
    x = jnp.ones((2, 3), jnp.bfloat16)
    (y, _), _ = apply_norm(x)
    assert y.dtype == jnp.bfloat16


class TwoDropouts(nn.Module):
    rate: float = 0.4

    @nn.compact
    def __call__(self, x, *, train):
        return Dropout(self.rate)(x, train=train), Dropout(self.rate)(x, train=train)


def drop(n, offset=0, step=0, rate=0.4):
    with scope(offset=offset):
        keys = example_keys(jax.random.key(7), step, n)
    with scope(keys=keys):
        return TwoDropouts(rate).apply({}, jnp.ones((n, 500)), train=True)


def test_dropout_keeps_the_mean_and_the_rate():
    first, second = drop(64)
    assert float((first == 0).mean()) == pytest.approx(0.4, abs=0.01)
    assert float(first.mean()) == pytest.approx(1.0, abs=0.02)
    assert set(np.unique(first).tolist()) == {0.0, np.float32(1 / 0.6)}
    assert (np.asarray(first) != np.asarray(second)).mean() > 0.3, "two layers drew the same mask"
    assert len({row.tobytes() for row in np.asarray(first)}) == 64, "two examples drew the same mask"


def test_dropout_of_an_example_depends_on_its_place_in_the_global_batch_alone():
    whole, _ = drop(8)
    half, _ = drop(4, offset=4)
    np.testing.assert_array_equal(whole[4:], half)
    later, _ = drop(8, step=1)
    assert (np.asarray(whole) != np.asarray(later)).any()


def test_dropout_is_the_identity_in_evaluation_and_tells_when_keys_are_missing():
    x = jnp.ones((2, 3))
    assert TwoDropouts().apply({}, x, train=False)[0] is x
    with pytest.raises(ValueError, match="per-example keys"):
        TwoDropouts().apply({}, x, train=True)


def test_foreign_layers_are_named_in_a_warning():
    class Foreign(nn.Module):
        @nn.compact
        def __call__(self, x, *, train):
            return nn.Dropout(0.1, deterministic=not train)(nn.BatchNorm(use_running_average=not train)(x))

    with pytest.warns(UserWarning, match="engines and device counts") as caught:
        warn_of_foreign_layers(lambda: Foreign().init(jax.random.key(0), jnp.ones((2, 3)), train=False))
    assert sorted(str(w.message).split(":")[0] for w in caught) == [
        "the model uses flax.linen.BatchNorm",
        "the model uses flax.linen.Dropout",
    ]
