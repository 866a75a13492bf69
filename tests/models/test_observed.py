"""Networks over what was observed: statistics, carrying forward, summaries, categories, codes, and what has no effect."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medjax.models.observed import STATISTICS, Observed, carry_forward, category_columns, in_bins, summaries
from medjax.models.sequence import Recurrent


def records(n=3, steps=5, d=3, seed=0):
    rng = np.random.default_rng(seed)
    values = rng.normal(50, 9, (n, steps, d)).astype(np.float32)
    values[rng.random(values.shape) < 0.5] = np.nan
    values[..., 2] = rng.integers(0, 3, (n, steps))
    return {
        "values": values,
        "times": np.tile(np.arange(1, steps + 1, dtype=np.float32), (n, 1)),
        "length": np.array([steps, 2, 3][:n], np.int32),
        "static": np.where(rng.random((n, 2)) < 0.3, np.nan, rng.normal(size=(n, 2))).astype(np.float32),
        "codes": rng.integers(0, 4, (n, steps, 2)).astype(np.int32),
    }


def network(**options):
    per_step = options.get("answers", "last") != "last"
    members = tuple(Recurrent(2, cell="simple", features=4, per_step=per_step, name=f"member{k}") for k in range(2))
    return Observed(members, **options)


def ready(model, x):
    """Variables with random weights, and statistics that do something."""
    made = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), x)
    rng = np.random.default_rng(1)
    found = jax.tree.map(lambda a: jnp.asarray(0.3 * rng.normal(size=a.shape), jnp.float32), dict(made))
    scale = found[STATISTICS]["scale"]
    d = len(scale["mean"])
    scale |= {"mean": jnp.full(d, 50.0), "deviation": jnp.full(d, 9.0), "low": jnp.full(d, 20.0), "high": jnp.full(d, 80.0)}
    return found


FORMS = {
    "plain": {},
    "summary": {"summary": True},
    "bins": {"summary": True, "bins": 4},
    "each": {"answers": "each"},
    "deep": {"answers": "deep"},
    "categories": {"categories": (0, 0, 3), "summary": True},
    "codes": {"codes": 3, "code_features": 2},
    "decays": {"carry": False, "categories": (0, 0, 3)},
}


@pytest.mark.parametrize("form", FORMS)
def test_nothing_beyond_the_length_has_an_effect(form):
    x, model = records(), network(**FORMS[form])
    variables = ready(model, x)
    apply = jax.jit(lambda x: model.apply(variables, x, train=False))
    other = {name: a.copy() for name, a in x.items()}
    beyond = np.arange(5) >= x["length"][:, None]
    other["values"][beyond] = 1e6
    other["codes"][beyond] = 1
    other["times"][beyond] = 77
    before, after = apply(x), apply(other)
    name = "logits" if "logits" in before else "steps"
    assert before[name].shape == ((3, 2, 2) if name == "logits" else (3, 2, 5, 2))
    keep = ~beyond[:, None, :, None] if name == "steps" else True
    np.testing.assert_array_equal(np.where(keep, before[name], 0), np.where(keep, after[name], 0))
    assert np.isfinite(before[name]).all()
    assert np.ptp(before[name]) > 1e-3


@pytest.mark.parametrize("form", ["each", "deep"])
def test_a_step_knows_nothing_of_what_comes_after_it(form):
    x, model = records(), network(**FORMS[form])
    x["length"][:] = 5
    variables = ready(model, x)
    apply = jax.jit(lambda x: model.apply(variables, x, train=False)["steps"])
    whole = apply(x)
    later = {**x, "values": np.where(np.arange(5)[:, None] >= 3, 33.0, x["values"]).astype(np.float32)}
    np.testing.assert_array_equal(whole[:, :, :3], apply(later)[:, :, :3])
    assert not np.array_equal(whole[:, :, 3:], apply(later)[:, :, 3:])
    if form == "deep":
        x["length"][0] = 2
        found = model.apply(variables, x, train=False)
        np.testing.assert_array_equal(found["logits"][0], found["steps"][0, :, 1])


def test_carry_forward_keeps_the_last_observation():
    values = np.array([[[9.0, 9], [1, 9], [9, 2], [3, 9]]], np.float32)
    mask = np.array([[[0, 0], [1, 0], [0, 1], [1, 0]]], bool)
    np.testing.assert_array_equal(carry_forward(jnp.asarray(values), jnp.asarray(mask))[0], [[0, 0], [1, 0], [1, 2], [3, 2]])


def test_summaries_are_numpys():
    rng = np.random.default_rng(0)
    values, mask, length = rng.normal(size=(2, 6, 3)), rng.random((2, 6, 3)) < 0.5, np.array([6, 4])
    mask &= (np.arange(6) < length[:, None])[..., None]
    mask[0, :, 0] = False
    found = np.asarray(summaries(jnp.asarray(values), jnp.asarray(mask), jnp.asarray(length))).reshape(2, 7, 3)
    for i in range(2):
        for k in range(3):
            mine = values[i, mask[i, :, k], k]
            wanted = [mine.mean(), mine.min(), mine.max(), mine[0], mine[-1], mine.std()] if len(mine) else [0.0] * 6
            np.testing.assert_allclose(found[i, :, k], [*wanted, len(mine) / length[i]], rtol=1e-4, atol=1e-6)
    slope = jax.grad(lambda v: summaries(v, jnp.asarray(mask), jnp.asarray(length)).sum())(jnp.asarray(values))
    assert np.isfinite(slope).all()


def test_bins_fill_one_after_the_other():
    found = np.asarray(in_bins(jnp.array([[-3.0, -1.5], [0.25, 9.0]]), 4))
    np.testing.assert_allclose(found, [[0, 0, 0, 0, 0.5, 0, 0, 0], [1, 1, 0.25, 0, 1, 1, 1, 1]])


def test_columns_of_categories():
    np.testing.assert_array_equal(category_columns((0, 3, 0, 2)), [0, 1, 2, 3, 1, 1, 1, 3, 3])
    model = network(categories=(0, 3))
    raw = jnp.array([[[5.0, 0.0], [5.0, 2.0], [0.0, 0.0]]])
    mask = jnp.array([[[True, False], [True, True], [False, False]]])
    spread = np.asarray(model._spread(raw, raw, mask))[0]
    np.testing.assert_array_equal(spread, [[5, 0, 0, 0, 0], [5, 0, 0, 0, 1], [0, 0, 0, 0, 1]])


def test_a_state_of_training_holds_no_gradient_of_statistics():
    x, model = records(), network()
    variables = model.init(jax.random.key(0), x, train=False)
    assert set(variables) == {"params", STATISTICS}
    assert set(variables[STATISTICS]) == {"scale", "scale_static"}
