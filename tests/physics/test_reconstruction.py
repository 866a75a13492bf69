"""Operators of magnetic resonance against their definitions, total variation against a minimiser, networks' consistency."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize

from medjax.models.consistent_unet import ConsistentUNet
from medjax.models.recurrent_varnet import RecurrentVarNet
from medjax.models.varnet import VarNet
from medjax.physics import kspace as mr


def scan(shape=(8, 12), coils=3, seed=0, keep=0.5):
    rng = np.random.default_rng(seed)
    maps = mr.birdcage(coils, shape) if coils > 1 else np.ones((1, *shape), np.complex64)
    sampled = (rng.random((1, *shape)) < keep).astype(np.float32)
    truth = rng.normal(size=shape) + 1j * rng.normal(size=shape)
    one = {"sampled": sampled, "maps": maps}
    return {**one, "kspace": mr.measure(truth, one)}, truth


@pytest.mark.parametrize("coils", [1, 3])
def test_operators_are_adjoint_and_misfit_is_the_gradient(coils):
    one, truth = scan(coils=coils)
    rng = np.random.default_rng(1)
    x = rng.normal(size=truth.shape) + 1j * rng.normal(size=truth.shape)
    y = rng.normal(size=one["kspace"].shape) + 1j * rng.normal(size=one["kspace"].shape)
    assert np.vdot(mr.measure(x, one), y) == pytest.approx(np.vdot(x, mr.adjoint(y, one)), rel=1e-5)
    np.testing.assert_allclose(mr.misfit(truth, one), 0, atol=1e-5)
    assert mr.residual(truth, one) == pytest.approx(0, abs=1e-6)
    assert mr.residual(0 * truth, one) == pytest.approx(1)

    def half(pair):
        return 0.5 * jnp.sum(jnp.abs(mr.measure(mr.as_complex(pair), one) - one["kspace"]) ** 2)

    slope = jax.grad(half)(jnp.array(mr.as_pair(x), jnp.float32))
    np.testing.assert_allclose(mr.as_complex(np.asarray(slope)), mr.misfit(x, one), rtol=1e-3, atol=1e-4)


def test_total_variation_minimises_its_objective():
    one, _ = scan(shape=(6, 7), coils=1, keep=0.6)
    weight = 0.05

    def objective(x):
        x = (x[:42] + 1j * x[42:]).reshape(6, 7)
        d = np.abs(np.diff(x, axis=0, append=x[-1:])) ** 2 + np.abs(np.diff(x, axis=1, append=x[:, -1:])) ** 2
        return 0.5 * np.sum(np.abs(mr.measure(x, one) - one["kspace"]) ** 2) + weight * np.sqrt(d + 1e-10).sum()

    found = np.asarray(mr.total_variation(one, weight, iterations=600))
    ours = objective(np.concatenate([found.real.ravel(), found.imag.ravel()]))
    best = optimize.minimize(objective, np.zeros(84), method="L-BFGS-B", options={"maxiter": 2000, "maxfun": 200_000})
    assert ours < best.fun * 1.01 + 1e-4


@pytest.mark.parametrize(
    "model",
    [ConsistentUNet(features=4, depth=1), VarNet(features=4, depth=1, cascades=2), RecurrentVarNet(features=4, steps=3)],
)
def test_networks_answer_and_hold_to_the_measurements(model):
    one, truth = scan(shape=(8, 12), coils=3, keep=1.0)
    x = {name: jnp.array(value)[None] for name, value in one.items()}
    variables = jax.jit(lambda: model.init(jax.random.key(0), x, train=False))()
    pair = jax.jit(lambda v: model.apply(v, x, train=False))(variables)
    assert pair.shape == (1, 8, 12, 2)
    # All of k-space was read: before any training the answer is the image.
    np.testing.assert_allclose(mr.as_complex(np.asarray(pair))[0], truth, atol=2e-3)
    slope = jax.jit(jax.grad(lambda v: jnp.square(model.apply(v, x, train=True)).sum()))(variables)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(slope))


def test_full_weight_on_measurements_returns_them():
    one, _ = scan(coils=1, keep=0.4)
    x = {name: jnp.array(value)[None] for name, value in one.items()}
    model = ConsistentUNet(features=4, depth=1)
    variables = model.init(jax.random.key(0), x, train=False)
    free = ConsistentUNet(features=4, depth=1, consistent=False).apply(
        {"params": {"unet": variables["params"]["unet"]}}, x, train=False
    )
    hard = {"params": {**variables["params"], "weight": jnp.float32(30)}}  # a sigmoid of 1
    found = model.apply(hard, x, train=False)
    spectrum = mr.to_kspace(mr.as_complex(np.asarray(found)))[0]
    here = one["sampled"][0] > 0
    np.testing.assert_allclose(spectrum[here], one["kspace"][0][here], atol=1e-3)
    np.testing.assert_allclose(spectrum[~here], mr.to_kspace(mr.as_complex(np.asarray(free)))[0][~here], atol=1e-3)
