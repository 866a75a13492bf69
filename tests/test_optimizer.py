"""The optimizer's settings: frozen beginnings of the network, and rates that fall from the head to the stem."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from medjax.config import Optimizer
from medjax.errors import InputError

NAMES = ("stem_conv", "stage1_block0", "stage1_block1", "stage2_block0", "stage4", "head_norm", "head")
DEPTH = {"stem_conv": 0, "stage1_block0": 1, "stage1_block1": 1, "stage2_block0": 2, "stage4": 4, "head_norm": 5, "head": 5}
STEPS = 20


def parameters():
    rng = np.random.default_rng(0)
    return {name: {"kernel": rng.normal(size=(3, 2)).astype(np.float32)} for name in NAMES}


def trained(optimizer, params, *, steps=4, inside=()):
    """Parameters after a few steps along a fixed gradient, [{name: array}] from the first to the last."""
    for name in inside:
        params = {name: params, "decoder": {"kernel": np.ones(2, np.float32)}}
    tx = optimizer.make(STEPS)
    state, found = jax.jit(tx.init)(params), [params]
    grads = jax.tree.map(lambda p: jnp.sin(7 * p), params)
    update = jax.jit(lambda state, params: tx.update(grads, state, params))
    for _ in range(steps):
        updates, state = update(state, params)
        params = optax.apply_updates(params, updates)
        found.append(params)
    return found, state


def moved(found):
    first, last = found[0], found[-1]
    return {name: float(np.abs(last[name]["kernel"] - first[name]["kernel"]).max()) for name in NAMES}


def test_defaults_make_the_state_that_finished_runs_have():
    state = Optimizer().make(STEPS).init(parameters())
    plain = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(optax.constant_schedule(1.0))).init(parameters())
    assert jax.tree.structure(state) == jax.tree.structure(plain)


def test_frozen_parameters_stay_and_the_others_train_as_if_alone():
    optimizer = Optimizer(rate=0.1, weight_decay=0.5, clip=0.3, freeze=("stem", "stage1"))
    found, state = trained(optimizer, parameters())
    change = moved(found)
    assert [name for name in NAMES if change[name] == 0] == ["stem_conv", "stage1_block0", "stage1_block1"]
    # Neither the clipped norm nor Adam's moments know of what is frozen.
    rest = {name: value for name, value in parameters().items() if not name.startswith(("stem", "stage1"))}
    alone, _ = trained(Optimizer(rate=0.1, weight_decay=0.5, clip=0.3), rest)
    for name in rest:
        np.testing.assert_allclose(found[-1][name]["kernel"], alone[-1][name]["kernel"], rtol=1e-6)
    moments = [leaf for leaf in jax.tree.leaves(state) if leaf.shape == (3, 2)]
    assert len(moments) == 2 * len(rest)


@pytest.mark.parametrize("inside", [(), ("encoder",)])
def test_rates_fall_by_the_factor_from_each_stage_to_the_one_before(inside):
    """The first update from the same gradients: weight decay and step alike are those of the head times factor ** depth."""
    decayed, plain = (trained(Optimizer(layer_decay=d), parameters(), inside=inside)[0] for d in (0.5, 1.0))
    for name in NAMES:
        a, b, start = (tree for tree in (decayed[2], plain[2], plain[0]))
        for key in inside:
            a, b, start = a[key], b[key], start[key]
        step, whole = (tree[name]["kernel"] - start[name]["kernel"] for tree in (a, b))
        np.testing.assert_allclose(step, whole * 0.5 ** (5 - DEPTH[name]), rtol=2e-3, atol=3e-8)
        assert np.abs(whole).max() > 1e-5
    if inside:
        np.testing.assert_array_equal(decayed[2]["decoder"]["kernel"], plain[2]["decoder"]["kernel"])


def test_both_together():
    change = moved(trained(Optimizer(freeze=("stem",), layer_decay=0.5), parameters(), steps=2)[0])
    assert change["stem_conv"] == 0
    assert 0 < change["stage1_block0"] < change["stage2_block0"] < change["stage4"] < change["head"]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (
            {"freeze": ("stem", "stage7")},
            "freeze stage7: no parameter's name begins so\nthere are head, head_norm, stage1_block0",
        ),
        ({"freeze": ("st", "head")}, "nothing is left to train"),
        ({"layer_decay": 0.0}, "layer_decay 0.0"),
        ({"layer_decay": 1.5}, "layer_decay 1.5"),
    ],
)
def test_what_makes_no_sense_is_refused(fields, words):
    with pytest.raises(InputError, match=words):
        Optimizer(**fields).make(STEPS).init(parameters())
