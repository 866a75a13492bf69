"""Networks over records: what has no effect, what an output may know, heads, and what they refuse."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medjax.models.channelwise import ChannelwiseLSTM
from medjax.models.grud import GRUDNetwork
from medjax.models.sequence import Recurrent, sequences

NETWORKS = {
    "gru": lambda **fields: Recurrent(3, cell="gru", features=5, **fields),
    "mingru": lambda **fields: Recurrent(3, cell="mingru", features=5, layers=2, **fields),
    "grud": lambda **fields: GRUDNetwork(3, features=5, **fields),
    "channelwise": lambda **fields: ChannelwiseLSTM(3, ((0, 1), (2,)), channel_features=2, features=5, **fields),
}


def records(n=4, steps=6, d=3):
    rng = np.random.default_rng(0)
    return {
        "values": rng.normal(size=(n, steps, d)).astype(np.float32),
        "mask": rng.random((n, steps, d)) < 0.6,
        "times": np.cumsum(rng.exponential(size=(n, steps)), 1).astype(np.float32),
        "lengths": np.array([6, 0, 2, 4])[:n],
        "static": rng.normal(size=(n, 2)).astype(np.float32),
    }


def shapes_of(model, x):
    return jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), x)


def variables_of(model, x):
    """Random numbers in every parameter: initialisers take longer to compile than these networks."""
    rng = np.random.default_rng(2)
    return jax.tree.map(lambda a: (0.4 * rng.normal(size=a.shape)).astype(np.float32), shapes_of(model, x))


def applied(model, x):
    variables = variables_of(model, x)
    return jax.jit(lambda x: model.apply(variables, x, train=False))


@pytest.mark.parametrize("name", NETWORKS)
def test_padding_has_no_effect_and_a_step_does_not_know_the_next(name):
    x = records()
    run = applied(NETWORKS[name](per_step=True), x)
    y = np.asarray(run(x))
    assert y.shape == (4, 6, 3)
    assert y.dtype == np.float32
    assert np.isfinite(y).all()
    inside = np.arange(6) < x["lengths"][:, None]
    rng = np.random.default_rng(1)
    # What lies beyond the lengths, then also all from step 2 on.
    for changed in (~inside, ~inside | (np.arange(6) >= 2)):
        other = {
            **x,
            "values": np.where(changed[..., None], rng.normal(size=x["values"].shape), x["values"]).astype(np.float32),
            "mask": np.where(changed[..., None], ~x["mask"], x["mask"]),
            "times": np.where(changed, x["times"] + 7, x["times"]),
        }
        np.testing.assert_allclose(run(other)[~changed], y[~changed], rtol=1e-5, atol=1e-6)
    assert np.abs(np.asarray(run(other))[0, 2:] - y[0, 2:]).max() > 1e-3
    assert np.abs(np.asarray(run({**x, "static": -x["static"]})) - y).max() > 1e-3


@pytest.mark.parametrize(
    ("name", "pool"), [("gru", "attention"), ("mingru", "last"), ("grud", "mean"), ("channelwise", "last")]
)
def test_a_record_in_a_batch_is_that_record_alone(name, pool):
    """Gradients are finite too, with a record of length 0 in the batch."""
    x = records()
    model = NETWORKS[name](pool=pool)
    variables = variables_of(model, x)
    loss = jax.jit(jax.value_and_grad(lambda v: (model.apply(v, x, train=False) ** 2).sum()))
    value, gradients = loss(variables)
    assert all(np.isfinite(a).all() for a in jax.tree.leaves(gradients))
    run = jax.jit(lambda x: model.apply(variables, x, train=False))
    y = run(x)
    assert y.shape == (4, 3)
    assert float((y**2).sum()) == pytest.approx(float(value), rel=1e-5)
    alone = {name: a[3:, :4] if name in ("values", "mask", "times") else a[3:] for name, a in x.items()}
    np.testing.assert_allclose(run(alone)[0], y[3], rtol=1e-5, atol=1e-6)


def test_what_stands_where_nothing_was_observed_has_no_effect_in_grud():
    x = records()
    run = applied(GRUDNetwork(3, features=5), x)
    nan = {**x, "values": np.where(x["mask"], x["values"], np.nan)}
    np.testing.assert_array_equal(run(nan), run(x))
    del nan["mask"]
    np.testing.assert_array_equal(run(nan), run(x))
    late = {**x, "times": 3 * x["times"]}
    assert np.abs(run(late) - run(x)).max() > 1e-4, "the gaps count"


def test_gaps_come_from_times_if_they_are_not_given():
    x = records()
    given = sequences(x)
    np.testing.assert_array_equal(sequences({**x, "gaps": 2 * given.gaps}).gaps, 2 * given.gaps)
    assert sequences(x["values"]).lengths is None
    assert sequences({"values": x["values"]}).gaps is None


def test_groups_keep_variables_apart():
    """A group's first layer sees its own columns alone: its kernel has rows for two values and two masks."""
    x = records()
    del x["times"]
    params = shapes_of(NETWORKS["channelwise"](), x)["params"]
    assert params["GroupedLSTM_0"]["input_kernel"].shape == (2, 2 * 2, 4 * 2)
    assert params["GroupedLSTM_1"]["input_kernel"].shape == (2, 2 * 2, 4 * 2)
    assert params["LSTM_0"]["input_kernel"].shape == (2 * 2 * 2, 4 * 5)
    assert "GroupedLSTM_1" not in shapes_of(NETWORKS["channelwise"](per_step=True), x)["params"]


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (Recurrent(2, pool="median"), "median"),
        (Recurrent(2, cell="mingru", truncate=3), "truncate"),
        (ChannelwiseLSTM(2, ((0, 3),)), "columns of 0 to 2"),
        (ChannelwiseLSTM(2, ((0,), ())), "at least one"),
    ],
)
def test_networks_refuse_what_they_are_not(model, words):
    with pytest.raises(ValueError, match=words):
        shapes_of(model, jnp.zeros((1, 4, 3)))
