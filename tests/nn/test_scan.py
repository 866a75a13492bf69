"""Linear recurrences and the minimal GRU against float64 loops and the paper's form in log space."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import expit, logsumexp

from medjax.nn import MinGRU, scan


def weights(d, h, seed=0):
    rng = np.random.default_rng(seed)
    return {"input_kernel": rng.normal(size=(d, 2 * h)).astype(np.float32), "bias": rng.normal(size=2 * h).astype(np.float32)}


def in_log_space(p, x, initial):
    """Feng et al., appendix B, in float64: h = exp(a* + log(sum exp(log b - a*))), a* the running sum of log(1 - z)."""
    k, candidate = np.split(x.astype(np.float64) @ p["input_kernel"] + p["bias"], 2, -1)
    log_stay, log_z = -np.logaddexp(0, k), -np.logaddexp(0, -k)
    log_g = np.where(candidate >= 0, np.log(np.maximum(candidate, 0) + 0.5), -np.logaddexp(0, -candidate))
    values = np.concatenate([np.log(initial)[None], log_z + log_g])
    star = np.concatenate([np.zeros_like(initial)[None], np.cumsum(log_stay, 0)])
    return np.stack([np.exp(star[t] + logsumexp(values[: t + 1] - star[: t + 1], 0)) for t in range(1, len(values))])


@pytest.mark.parametrize("reverse", [False, True])
def test_min_gru_is_the_papers(reverse):
    n, steps, d, h = 3, 200, 3, 4
    lengths = np.array([200, 0, 57])
    rng = np.random.default_rng(0)
    p, x = weights(d, h), 2 * rng.normal(size=(n, steps, d)).astype(np.float32)
    initial = rng.uniform(0.1, 1, (n, h)).astype(np.float32)
    padded = np.where((np.arange(steps) < lengths[:, None])[..., None], x, np.nan)
    y, final = jax.jit(lambda x: scan.min_gru(p, x, lengths, initial=initial, reverse=reverse))(padded)
    for k, length in enumerate(lengths):
        turn = slice(None, None, -1 if reverse else 1)
        truth = in_log_space(p, x[k, :length][turn], initial[k].astype(np.float64)) if length else np.zeros((0, h))
        np.testing.assert_allclose(y[k, :length], truth[turn], rtol=2e-6)
        np.testing.assert_allclose(final[k], truth[-1] if length else initial[k], rtol=2e-6)
        assert not np.asarray(y[k, length:]).any()


@pytest.mark.parametrize("form", ["auto", "parallel"])
def test_gradients_of_a_linear_recurrence(monkeypatch, form):
    if form == "parallel":  # what accelerators run
        monkeypatch.setattr(scan, "_steps", scan._parallel)
    n, steps, h = 2, 7, 3
    rng = np.random.default_rng(1)
    at = rng.uniform(0, 1, (n, steps, h)), rng.normal(size=(n, steps, h)), rng.normal(size=(n, h))
    weight = rng.normal(size=(n, steps, h))

    def exact(a, b, state):
        total = 0.0
        for t in range(steps):
            state = a[:, t] * state + b[:, t]
            total += (weight[:, t] * state**2).sum()
        return total

    def ours(*at):
        return (weight * scan.linear_recurrence(*at) ** 2).sum()

    value, gradients = jax.jit(jax.value_and_grad(ours, (0, 1, 2)))(*(jnp.asarray(a, jnp.float32) for a in at))
    assert float(value) == pytest.approx(exact(*at), rel=1e-5)
    for k, gradient in enumerate(gradients):
        v = rng.normal(size=gradient.shape)
        ends = [exact(*(a + e * v if i == k else a for i, a in enumerate(at))) for e in (1e-5, -1e-5)]
        assert (ends[0] - ends[1]) / 2e-5 == pytest.approx(float((gradient * v).sum()), rel=1e-5, abs=1e-5)


def test_platforms_choose_their_form():
    a, h = jnp.ones((1, 9, 2)), jnp.ones((1, 2))
    traced = jax.jit(lambda a, h: scan.linear_recurrence(a, a, h)).trace(a, h)
    loops = {name: traced.lower(lowering_platforms=(name,)).as_text().count("stablehlo.while") for name in ("cpu", "cuda")}
    assert loops == {"cpu": 1, "cuda": 0}


def test_layer_and_saturated_gates():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 30, 3)), jnp.float32)
    layer = MinGRU(4)
    params = jax.jit(layer.init)(jax.random.key(0), x)["params"]
    assert {k: v.shape for k, v in params.items()} == {"input_kernel": (3, 8), "bias": (8,)}
    # Gates that are all open or all shut leave no NaN in values or gradients: log(1 - z) would be -inf.

    def loss(bias):
        y, _ = layer.apply({"params": {**params, "bias": bias}}, x)
        return (y**2).sum(), y

    run = jax.jit(jax.value_and_grad(loss, has_aux=True))
    for gate in (-200.0, 200.0):
        (_, opened), gradient = run(np.float32([gate] * 4 + [0] * 4))
        assert np.isfinite(opened).all()
        assert np.isfinite(gradient).all()
    hidden = np.asarray(x) @ np.asarray(params["input_kernel"])[:, 4:]
    np.testing.assert_allclose(opened, np.where(hidden >= 0, hidden + 0.5, expit(hidden)), rtol=1e-5)
