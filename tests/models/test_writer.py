"""The writer: what it is trained on is what it writes by, piece by piece."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medjax.data.pieces import BEGIN, END
from medjax.models.resnet import ResNet
from medjax.models.writer import PictureEncoder, TextEncoder, Writer

N, S, U, V = 3, 7, 5, 20


def made(layers=2, pictures=False):
    rng = np.random.default_rng(0)
    x = {"target": rng.integers(3, V, (N, U)), "lengths": np.array([5, 3, 1])}
    if pictures:
        x |= {"image": rng.normal(size=(N, 2, 32, 32, 1)).astype(np.float32), "views": np.array([[1, 1], [1, 0], [0, 0]], bool)}
        encoder = PictureEncoder(ResNet(1, width=4))
    else:
        x |= {"source": rng.integers(3, V, (N, S)), "source_lengths": np.array([7, 4, 0])}
        encoder = TextEncoder(6, layers=layers)
    x = jax.tree.map(jnp.asarray, x)
    model = Writer(V, encoder, word_features=8, features=10, layers=layers)
    assert model.opening == BEGIN
    variables = jax.jit(lambda key: model.init(key, x, train=False))(jax.random.key(1))
    # Step by step would compile each operation by itself.
    apply = jax.jit(model.apply, static_argnames=("train", "method"))
    return apply, variables, x


def begin(apply, variables, memory, width):
    first = apply(variables, memory, method="begin")
    return jax.tree.map(lambda a: jnp.repeat(a, width, 1), first)


@pytest.mark.parametrize("pictures", [False, True])
def test_steps_give_the_probabilities_of_training(pictures):
    apply, variables, x = made(pictures=pictures)
    expected = apply(variables, x, train=False)
    memory = apply(variables, x, method="encode")
    carry = begin(apply, variables, memory, 2)
    last = jnp.full((N, 2), BEGIN)
    for t in range(U):
        carry, log_p = apply(variables, memory, carry, last, method="step")
        np.testing.assert_allclose(np.exp(log_p).sum(-1), 1, atol=1e-5)  # copying and writing share all there is
        np.testing.assert_array_equal(log_p[:, 0], log_p[:, 1])
        valid = t < x["lengths"]
        here = jnp.take_along_axis(log_p[:, 0], x["target"][:, t, None], 1)[:, 0]
        np.testing.assert_allclose(here[valid], expected[valid, t], atol=2e-5)
        last = jnp.repeat(x["target"][:, t, None], 2, 1)


def test_what_lies_beyond_a_source_changes_nothing():
    apply, variables, x = made()
    other = {**x, "source": x["source"].at[1, 4:].set(END)}
    np.testing.assert_array_equal(apply(variables, x, train=False), apply(variables, other, train=False))
    assert np.isfinite(apply(variables, x, train=False)).all()  # an empty source is no reason for NaN
    grads = jax.jit(jax.grad(lambda p: apply({"params": p}, x, train=False).sum()))(variables["params"])
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))


def test_the_copy_mechanism_is_the_published_one():
    """P(w) of See et al., equation 9, in float64, from the model's own attention and gate."""
    apply, variables, x = made(layers=1)
    p, f = variables["params"], lambda a: np.asarray(a, np.float64)
    memory = apply(variables, x, method="encode")
    states, valid = f(memory.states), np.asarray(memory.valid)
    mean = np.where(valid[..., None], states, 0).sum(1) / np.maximum(valid.sum(1), 1)[:, None]
    c, h = np.split(np.tanh(mean @ f(p["start_0"]["kernel"]) + f(p["start_0"]["bias"])), 2, -1)
    y = np.repeat(f(p["embed"]["embedding"])[[BEGIN]], N, 0)
    lstm = p["recurrence_0"]
    z = y @ f(lstm["input_kernel"]) + h @ f(lstm["recurrent_kernel"]) + f(lstm["bias"])
    i, g_f, g, o = np.split(z, 4, -1)
    sigmoid = lambda a: 1 / (1 + np.exp(-a))  # noqa: E731
    c = sigmoid(g_f) * c + sigmoid(i) * np.tanh(g)
    h = sigmoid(o) * np.tanh(c)
    scores = np.einsum("nh,nsm,mh->ns", h, states, f(p["ask"]["kernel"]))
    a = np.where(valid, np.exp(scores), 0)
    a /= np.maximum(a.sum(1, keepdims=True), 1e-300)
    context = np.einsum("ns,nsm->nm", a, states)
    seen = np.concatenate([context, h], -1)
    out = np.tanh(seen @ f(p["combine"]["kernel"]) + f(p["combine"]["bias"]))
    logits = out @ f(p["embed"]["embedding"]).T + f(p["bias"])
    vocabulary = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    gate = sigmoid(np.concatenate([seen, y], -1) @ f(p["generate"]["kernel"]) + f(p["generate"]["bias"]))
    gate[~valid.any(1)] = 1  # nothing to copy
    expected = gate * vocabulary
    for n in range(N):
        for s in range(int(x["source_lengths"][n])):
            expected[n, int(x["source"][n, s])] += (1 - gate[n, 0]) * a[n, s]
    carry = begin(apply, variables, memory, 1)
    _, log_p = apply(variables, memory, carry, jnp.full((N, 1), BEGIN), method="step")
    np.testing.assert_allclose(np.exp(log_p[:, 0]), expected, atol=1e-6)
