import itertools
import re
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax
from jax.experimental import rnn as cudnn_rnn
from jaxlib import gpu_rnn

from medjax.nn import GRU, LSTM, SimpleRNN, cells, cudnn, recurrent

RUNS = {"rnn": recurrent.simple_rnn, "lstm": recurrent.lstm, "gru": recurrent.gru}
GATES = {"rnn": 1, "lstm": 4, "gru": 3}
KINDS = list(RUNS)


@pytest.fixture(autouse=True)
def _short_blocks(monkeypatch):
    """Blocks of eight steps in the backward pass, so that short sequences have several."""
    monkeypatch.setattr(recurrent, "BLOCK", 0)


def weights(kind, d, h, seed=0):
    rng = np.random.default_rng(seed)
    g = GATES[kind] * h
    shapes = {"input_kernel": (d, g), "recurrent_kernel": (h, g), "bias": (g,)}
    shapes |= {"candidate_bias": (h,)} if kind == "gru" else {}
    return {name: rng.normal(0, 0.5, shape).astype(np.float32) for name, shape in shapes.items()}


def states(kind, n, h, seed=1):
    c, h = np.random.default_rng(seed).normal(0, 0.5, (2, n, h)).astype(np.float32)
    return (c, h) if kind == "lstm" else h


def cell(kind, p, x, state, np):
    """One step of one kind from the equations, gate by gate; np is numpy or jax.numpy."""

    def sigmoid(a):
        return 1 / (1 + np.exp(-a))

    h = state[-1]
    w = np.split(p["input_kernel"], GATES[kind], -1)
    u = np.split(p["recurrent_kernel"], GATES[kind], -1)
    b = np.split(p["bias"], GATES[kind], -1)
    if kind == "rnn":
        return (np.tanh(x @ w[0] + h @ u[0] + b[0]),)
    if kind == "gru":
        r, z = (sigmoid(x @ w[k] + h @ u[k] + b[k]) for k in (0, 1))
        n = np.tanh(x @ w[2] + b[2] + r * (h @ u[2] + p["candidate_bias"]))
        return ((1 - z) * n + z * h,)
    i, f, g, o = (x @ w[k] + h @ u[k] + b[k] for k in range(4))
    c = sigmoid(f) * state[0] + sigmoid(i) * np.tanh(g)
    return c, sigmoid(o) * np.tanh(c)


def numpy_loop(kind, p, x, lengths, initial, reverse):
    """The plain loop in float64, example by example over its valid steps: (y, final state as a tuple)."""
    p = {name: a.astype(np.float64) for name, a in p.items()}
    initial = [np.asarray(a, np.float64) for a in (initial if isinstance(initial, tuple) else (initial,))]
    y, final = np.zeros((*x.shape[:2], initial[0].shape[1])), [a.copy() for a in initial]
    for k, length in enumerate(lengths):
        state = tuple(a[k] for a in initial)
        for t in range(length)[:: -1 if reverse else 1]:
            state = cell(kind, p, x[k, t].astype(np.float64), state, np)
            y[k, t] = state[-1]
        for a, b in zip(final, state):
            a[k] = b
    return y, tuple(final)


def distance(a, b):
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return np.linalg.norm(a - b) / max(np.linalg.norm(b), 1e-30) if b.any() else np.linalg.norm(a)


def close(ours, truth, tolerance=1e-6):
    assert jax.tree.structure(ours) == jax.tree.structure(truth)
    far = {
        jax.tree_util.keystr(path): d for path, d in jax.tree_util.tree_leaves_with_path(jax.tree.map(distance, ours, truth))
    }
    assert max(far.values()) < tolerance, far


# What the two forms share (masks, direction) is seen in either; `test_packed_sequences_of_pytorch` has the other pairs.
@pytest.mark.parametrize(("form", "reverse"), [("reference", False), ("saved", True)])
@pytest.mark.parametrize("kind", KINDS)
def test_values_and_gradients_of_sequences_of_any_length(kind, form, reverse):
    lengths, (n, steps, d, h) = [19, 0, 7, 12], (4, 19, 3, 5)
    rng = np.random.default_rng(2)
    at = weights(kind, d, h), rng.normal(size=(n, steps, d)).astype(np.float32), states(kind, n, h)
    gy, gfinal = rng.normal(size=(n, steps, h)).astype(np.float32), states(kind, n, h, seed=3)

    def loss(p, x, initial):
        y, final = RUNS[kind](p, x, jnp.array(lengths), initial=initial, reverse=reverse, form=form)
        return (y * gy).sum() + sum(jax.tree.leaves(jax.tree.map(lambda a, b: (a * b).sum(), final, gfinal))), (y, final)

    def exact(p, x, initial):
        y, final = numpy_loop(kind, p, x, lengths, initial, reverse)
        return (y * gy).sum() + sum((a * b).sum() for a, b in zip(final, gfinal if kind == "lstm" else (gfinal,))), (y, final)

    valid = np.arange(steps) < np.array(lengths)[:, None]
    padded = np.where(valid[..., None], at[1], np.nan)  # nothing may depend on what padding holds
    gradients, (y, final) = jax.jit(jax.grad(loss, (0, 1, 2), has_aux=True))(at[0], padded, at[2])
    close((y, jax.tree.leaves(final)), (lambda y, final: (y, list(final)))(*exact(*at)[1]))
    assert not np.asarray(y)[~valid].any()
    # Leaf by leaf, the derivative along random directions against central differences of the float64 loop.
    leaves, tree = jax.tree.flatten(jax.tree.map(lambda a: a.astype(np.float64), at))
    for k, gradient in enumerate(jax.tree.leaves(gradients)):
        for _ in range(3):
            v = rng.normal(size=gradient.shape)
            ends = [
                exact(*tree.unflatten([a + e * v if i == k else a for i, a in enumerate(leaves)]))[0] for e in (1e-5, -1e-5)
            ]
            error = (ends[0] - ends[1]) / 2e-5 - (np.asarray(gradient, np.float64) * v).sum()
            assert abs(error) < 1e-6 * np.linalg.norm(gradient) * np.linalg.norm(v)


def flax_cell(kind, p, h):
    """(flax's cell, its parameters with the weights of p)."""
    gates = {"rnn": [""], "lstm": list("ifgo"), "gru": list("rzn")}[kind]
    w, u, b = (jnp.split(p[name], len(gates), -1) for name in ("input_kernel", "recurrent_kernel", "bias"))
    if kind == "gru":
        params = {f"i{g}": {"kernel": w[k], "bias": b[k]} for k, g in enumerate(gates)}
        params |= {f"h{g}": {"kernel": u[k]} for k, g in enumerate(gates)}
        params["hn"]["bias"] = p["candidate_bias"]
        return nn.GRUCell(h), params
    if kind == "lstm":
        params = {f"i{g}": {"kernel": w[k]} for k, g in enumerate(gates)}
        return nn.OptimizedLSTMCell(h), params | {f"h{g}": {"kernel": u[k], "bias": b[k]} for k, g in enumerate(gates)}
    return nn.SimpleCell(h), {"i": {"kernel": w[0], "bias": b[0]}, "h": {"kernel": u[0]}}


@pytest.mark.parametrize("kind", KINDS)
def test_values_and_gradients_are_those_of_flax(kind):
    n, steps, d, h = 2, 17, 2, 8  # d small beside h: the joined product
    p, x = weights(kind, d, h), np.random.default_rng(0).normal(size=(n, steps, d)).astype(np.float32)
    gy = np.random.default_rng(1).normal(size=(n, steps, h)).astype(np.float32)

    def theirs(p, x):
        flax, params = flax_cell(kind, p, h)
        y = nn.RNN(flax).apply({"params": {"cell": params}}, x)
        return (y * gy).sum(), y

    def ours(p, x):
        y, _ = RUNS[kind](p, x, form="saved")
        return (y * gy).sum(), y

    close(*(jax.jit(jax.grad(f, (0, 1), has_aux=True))(p, x) for f in (ours, theirs)))


@pytest.mark.parametrize("kind", KINDS)
def test_packed_sequences_of_pytorch(kind):
    torch = pytest.importorskip("torch")
    n, steps, d, h = 3, 10, 4, 6
    lengths = [10, 3, 7]
    x = np.random.default_rng(0).normal(size=(n, steps, d)).astype(np.float32)
    both = weights(kind, d, h, seed=0), weights(kind, d, h, seed=1)
    layer = getattr(torch.nn, kind.upper())(d, h, batch_first=True, bidirectional=True, dtype=torch.float64)
    with torch.no_grad():
        for p, end in zip(both, ("", "_reverse")):
            getattr(layer, "weight_ih_l0" + end).copy_(torch.tensor(p["input_kernel"].T.copy()))
            getattr(layer, "weight_hh_l0" + end).copy_(torch.tensor(p["recurrent_kernel"].T.copy()))
            getattr(layer, "bias_ih_l0" + end).copy_(torch.tensor(p["bias"]))
            hidden = np.zeros_like(p["bias"])
            hidden[len(hidden) - len(p.get("candidate_bias", ())) :] = p.get("candidate_bias", ())
            getattr(layer, "bias_hh_l0" + end).copy_(torch.tensor(hidden))
    t = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    packed = torch.nn.utils.rnn.pack_padded_sequence(t, torch.tensor(lengths), batch_first=True, enforce_sorted=False)
    out, final = layer(packed)
    out, _ = torch.nn.utils.rnn.pad_packed_sequence(out, batch_first=True, total_length=steps)
    (out**2).sum().backward()

    def ours(x):
        y, final = recurrent.bidirectional(RUNS[kind], *both, x, jnp.array(lengths))
        return (y**2).sum(), (y, final)

    dx, (y, final_) = jax.jit(jax.grad(ours, has_aux=True))(x)
    close(y, out.detach().numpy())
    close(dx, t.grad.numpy())
    if kind == "lstm":  # PyTorch's pair is (h, c)
        final, final_ = final[::-1], tuple(zip(*final_))
        for a, b in zip(final_, final):
            close(jnp.stack(a), b.detach().numpy())
    else:
        close(jnp.stack(final_), final.detach().numpy())


@pytest.mark.parametrize("kind", KINDS)
def test_chunks_that_carry_the_state_are_the_whole(kind):
    """Streaming: what is left of each example's length in a chunk, and the state of the chunk before."""
    n, steps, cuts = 3, 11, (0, 4, 5, 11)
    p, initial, lengths = weights(kind, 2, 5), states(kind, n, 5), np.array([11, 0, 6])
    x = np.random.default_rng(0).normal(size=(n, steps, 2)).astype(np.float32)
    parts, state = [], initial
    for a, b in itertools.pairwise(cuts):
        y, state = RUNS[kind](p, x[:, a:b], np.clip(lengths - a, 0, b - a), initial=state)
        parts.append(y)
    y, final = numpy_loop(kind, p, x, lengths, initial, False)
    close((np.concatenate(parts, 1), jax.tree.leaves(state)), (y, list(final)))


@pytest.mark.parametrize(("kind", "form", "reverse"), [("lstm", "saved", False), ("gru", "reference", True)])
def test_truncated_gradients_stop_between_chunks(kind, form, reverse):
    n, steps, size = 2, 11, 4
    p, initial = weights(kind, 2, 5), states(kind, n, 5)
    x = np.random.default_rng(0).normal(size=(n, steps, 2)).astype(np.float32)
    initial = initial if isinstance(initial, tuple) else (initial,)

    def theirs(p, x, state):
        def step(state, inputs):
            x, cut = inputs
            stopped = jax.tree.map(lambda a: jnp.where(cut, lax.stop_gradient(a), a), state)
            state = cell(kind, p, x, stopped, jnp)
            return state, (state[-1] ** 2).sum()

        t = np.arange(steps)
        xs = jnp.swapaxes(x, 0, 1)[::-1] if reverse else jnp.swapaxes(x, 0, 1)
        state, totals = lax.scan(step, state, (xs, (t > 0) & (t % size == 0)))
        return totals.sum() + state[-1].sum(), state[-1]

    def ours(p, x, state, truncate=size):
        state = state if kind == "lstm" else state[0]
        y, final = RUNS[kind](p, x, initial=state, reverse=reverse, form=form, truncate=truncate)
        h = jax.tree.leaves(final)[-1]
        return (y**2).sum() + h.sum(), h

    truncated, truth = (jax.jit(jax.grad(f, (0, 1, 2), has_aux=True))(p, x, initial) for f in (ours, theirs))
    close(truncated, truth, 2e-6)
    whole = jax.jit(jax.grad(partial(ours, truncate=None), has_aux=True))(p, x, initial)
    close(whole[1], truncated[1])
    assert distance(whole[0]["recurrent_kernel"], truncated[0][0]["recurrent_kernel"]) > 1e-2
    with pytest.raises(ValueError, match="truncate=0"):
        ours(p, x, initial, truncate=0)


@pytest.mark.parametrize(("reverse", "lengths"), [(False, None), (True, [6, 0, 4])])
def test_cudnn_gets_its_own_layout(monkeypatch, reverse, lengths):
    """All around cuDNN's call is ours; JAX's own reference implementation stands in for the call."""

    def call(x, h, c, w, lengths, *sizes):
        *sizes, dropout, both = sizes
        return cudnn_rnn.lstm_ref(x, h, c, *cudnn_rnn.unpack_lstm_weights(w, *sizes, both), lengths, *sizes, dropout, both)

    monkeypatch.setattr(cudnn_rnn, "lstm", call)
    n, steps, d, h = 3, 6, 2, 4
    p, initial = weights("lstm", d, h), states("lstm", n, h)
    assert cudnn.pack(p).shape == (cudnn_rnn.get_num_params_in_lstm(d, h, 1, False),)
    x = np.random.default_rng(0).normal(size=(n, steps, d)).astype(np.float32)
    xs = np.swapaxes(x, 0, 1)
    keep = None if lengths is None else (np.arange(steps)[:, None] < np.array(lengths))[..., None]
    if reverse:
        xs, keep = xs[::-1], None if keep is None else keep[::-1]

    def loss(p, xs, run):
        final, hs = run(p, jnp.asarray(xs), initial, keep)
        hs = hs if keep is None else jnp.where(keep, hs, 0)
        return (hs**2).sum() + sum((a**3).sum() for a in final), (final, hs)

    ours, truth = (
        jax.jit(partial(jax.grad(loss, (0, 1), has_aux=True), run=run))(p, xs)
        for run in (partial(cudnn.lstm, reverse), partial(recurrent._reference, cells.LSTM, jnp.float32))
    )
    close(ours, truth)


def test_a_run_can_say_which_form_it_takes(monkeypatch):
    said = {platform: recurrent.recurrent_form(platform) for platform in ("cpu", "cuda", "tpu")}
    assert said == {"cpu": "saved", "cuda": "reference", "tpu": "reference"}
    assert recurrent.recurrent_form("cpu", form="reference") == "reference"
    # Without the CUDA plugin "cudnn" is what "auto" is, and traces nothing of cuDNN.
    assert recurrent.recurrent_form("gpu", form="cudnn") == "reference"
    close(energy(weights("rnn", 3, 4), np.ones((2, 9, 3)), "cudnn"), energy(weights("rnn", 3, 4), np.ones((2, 9, 3))))
    monkeypatch.setattr(gpu_rnn, "_cuda_rnn", object())
    assert recurrent.recurrent_form("gpu", form="cudnn") == "cudnn"
    assert recurrent.recurrent_form("cpu", form="cudnn") == "saved"
    assert recurrent.recurrent_form("gpu", jnp.bfloat16, form="cudnn") == "reference"
    assert recurrent.recurrent_form("gpu", cell="gru", form="cudnn") == "reference"


@settings(max_examples=3, deadline=None, derandomize=True)
@given(
    kind=st.sampled_from(KINDS),
    size=st.tuples(*[st.sampled_from(v) for v in ([1, 3], [1, 8, 9], [1, 2], [1, 8])]),
    data=st.data(),
)
def test_small_shapes(kind, size, data):
    n, steps, d, h = size
    lengths = data.draw(st.lists(st.integers(0, steps), min_size=n, max_size=n))
    reverse = data.draw(st.booleans())
    p, initial = weights(kind, d, h), states(kind, n, h)
    x = np.random.default_rng(4).normal(size=(n, steps, d)).astype(np.float32)

    def run(p, x, form):
        y, final = RUNS[kind](p, x, np.array(lengths), initial=initial, reverse=reverse, form=form)
        return (y**2).sum() + sum((a**3).sum() for a in jax.tree.leaves(final)), y

    y, _ = numpy_loop(kind, p, x, lengths, initial, reverse)
    reference, saved = (
        jax.jit(jax.grad(partial(run, form=form), (0, 1), has_aux=True))(p, x) for form in ("reference", "saved")
    )
    close(saved[1], y)
    close(saved[0], reference[0])


@pytest.mark.parametrize(("kind", "form"), [("rnn", "saved"), ("lstm", "saved"), ("gru", "reference")])
def test_bfloat16_products_with_float32_states(kind, form):
    p, initial = weights(kind, 4, 8), states(kind, 2, 8)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 12, 4)), jnp.bfloat16)

    def loss(p, dtype):
        y, final = RUNS[kind](p, x, initial=initial, dtype=dtype, form=form)
        return (y.astype(jnp.float32) ** 2).sum(), (y, final)

    rounded, plain = (jax.jit(jax.grad(partial(loss, dtype=d), has_aux=True))(p) for d in (jnp.bfloat16, None))
    assert plain[1][0].dtype == jnp.float32, "promoted with the parameters, as flax does"
    assert rounded[1][0].dtype == jnp.bfloat16
    assert {a.dtype for a in jax.tree.leaves((rounded[1][1], rounded[0]))} == {jnp.dtype("float32")}
    exact, _ = numpy_loop(kind, p, np.asarray(x, np.float32), [12, 12], initial, False)
    close(rounded[1][0], exact, 0.02)
    close(rounded[0], plain[0], 0.05)


def energy(p, x, form="auto"):
    y, _ = recurrent.simple_rnn(p, x, form=form)
    return (y**2).sum()


def test_vmap_over_members_equals_a_loop():
    members = [weights("rnn", 3, 4, seed) for seed in (0, 1)]
    x = np.random.default_rng(0).normal(size=(2, 9, 3)).astype(np.float32)
    together = jax.jit(jax.vmap(jax.grad(energy), (0, None)))(jax.tree.map(lambda *a: np.stack(a), *members), x)
    alone = jax.jit(jax.grad(energy))
    close(together, jax.tree.map(lambda *a: np.stack(a), *(alone(p, x) for p in members)))


def test_second_derivatives_and_forward_mode():
    p = weights("rnn", 2, 3)
    x, v = np.random.default_rng(0).normal(size=(2, 1, 5, 2)).astype(np.float32)

    def product(form, x):  # reverse over reverse
        return jax.grad(lambda x: (jax.grad(partial(energy, form=form), 1)(p, x) * v).sum())(x)

    h, zero = 1e-3, states("rnn", 1, 3) * 0
    values = [(numpy_loop("rnn", p, x + k * h * v.astype(np.float64), [5], zero, False)[0] ** 2).sum() for k in (-1, 0, 1)]
    reference = jax.jit(partial(product, "reference"))(x)
    assert float((reference * v).sum()) == pytest.approx((values[0] - 2 * values[1] + values[2]) / h**2, rel=1e-3)
    close(jax.jit(partial(product, "saved"))(x), reference, 1e-5)
    forward = jax.jit(
        lambda x: jax.jvp(jax.grad(partial(energy, form="saved"), 1), (p, x), ({k: 0 * a for k, a in p.items()}, v))[1]
    )
    close(forward(x), reference, 1e-5)
    slope = jax.jvp(lambda x: energy(p, x, "reference"), (x,), (v,))[1]
    assert float(slope) == pytest.approx((values[2] - values[0]) / (2 * h), rel=1e-3)
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(lambda x: energy(p, x, "saved"), (x,), (v,))


def test_two_devices_are_one():
    p, x = weights("rnn", 3, 4), np.random.default_rng(0).normal(size=(4, 9, 3)).astype(np.float32)
    parts = jax.pmap(lambda p, x: jax.lax.psum(jax.grad(energy)(p, x), "i"), "i", in_axes=(None, 0), devices=jax.devices()[:2])
    whole = jax.jit(jax.grad(energy))(p, x)
    for k in (0, 1):
        close(jax.tree.map(lambda a, k=k: a[k], parts(p, x.reshape(2, 2, 9, 3))), whole)


def test_scan_over_layers_and_remat():
    x = np.random.default_rng(0).normal(size=(2, 9, 4)).astype(np.float32)
    layers = jax.tree.map(lambda *a: np.stack(a), *(weights("rnn", 4, 4, seed) for seed in range(3)))

    def scanned(layers, x):
        x, _ = lax.scan(jax.checkpoint(lambda x, p: (recurrent.simple_rnn(p, x)[0], None)), x, layers)
        return (x**2).sum()

    def looped(layers, x):
        for k in range(3):
            x, _ = recurrent.simple_rnn(jax.tree.map(lambda a, k=k: a[k], layers), x, form="reference")
        return (x**2).sum()

    close(jax.jit(jax.grad(scanned))(layers, x), jax.jit(jax.grad(looped))(layers, x), 2e-6)


def test_without_lengths_nothing_is_masked():
    p, x = weights("lstm", 3, 4), np.ones((2, 9, 3), np.float32)
    for form in ("reference", "saved"):

        def run(p, x, lengths, form=form):
            return recurrent.lstm(p, x, lengths, form=form)[0].sum()

        select = re.compile(r"f32\[.*\] = select_n")  # those of scalar indices do not count
        assert not select.search(str(jax.make_jaxpr(jax.grad(run))(p, x, None)))
        assert select.search(str(jax.make_jaxpr(jax.grad(run))(p, x, np.array([3, 4]))))


def test_the_platform_chooses_the_form():
    p, x = weights("rnn", 3, 4), np.ones((2, 9, 3), np.float32)

    def loops(form, platform):
        traced = jax.jit(jax.grad(partial(energy, form=form))).trace(p, x)
        return traced.lower(lowering_platforms=(platform,)).as_text().count("stablehlo.while")

    assert loops("auto", "cpu") == loops("saved", "cpu")
    assert loops("auto", "cuda") == loops("reference", "cuda") != loops("saved", "cuda")
    with pytest.raises(ValueError, match="auto, reference, saved, cudnn"):
        energy(p, x, "quick")


def test_layers_hold_the_parameters_and_start_well():
    x, lengths = np.random.default_rng(0).normal(size=(2, 5, 3)).astype(np.float32), np.array([5, 2])
    for layer, kind in ((SimpleRNN(4), "rnn"), (LSTM(4), "lstm"), (GRU(4, reverse=True), "gru")):
        p, initial = weights(kind, 3, 4), states(kind, 2, 4)
        assert jax.tree.map(jnp.shape, dict(jax.eval_shape(layer.init, jax.random.key(0), x)["params"])) == jax.tree.map(
            np.shape, p
        )
        y, final = jax.jit(layer.apply)({"params": p}, x, lengths, initial=initial)
        truth = numpy_loop(kind, p, x, lengths, initial, layer.reverse)
        close((y, jax.tree.leaves(final)), (truth[0], list(truth[1])))
    params = jax.jit(LSTM(4).init)(jax.random.key(0), x)["params"]
    np.testing.assert_array_equal(params["bias"], np.repeat([0, 1, 0, 0], 4))
    for u in np.split(np.asarray(params["recurrent_kernel"]), 4, -1):
        np.testing.assert_allclose(u @ u.T, np.eye(4), atol=1e-5)


def test_the_form_is_said_once(capsys):
    from medjax.nn import recurrent

    recurrent._tell.cache_clear()
    x = jnp.ones((2, 3, 4))
    for _ in range(2):
        recurrent.GRU(5).init(jax.random.key(0), x)
    assert capsys.readouterr().err.count("recurrence: gru, a scan with a backward pass of its own") == 1
