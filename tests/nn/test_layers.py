import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medjax.core import example_keys, scope
from medjax.nn import Dropout
from medjax.tasks.supervised import warn_of_foreign_layers


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
