"""Losses of segmentation against their formulas in NumPy float64, and their gradients against differences and PyTorch."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medjax.nn.losses import (
    IGNORE,
    annotated,
    cross_entropy,
    deep_supervision,
    dice,
    dice_cross_entropy,
    focal,
    shrink_labels,
    tversky,
)

N, S, K = 3, (4, 5), 4
SMOOTH = 1e-5
# torch 2.13.0: nnU-Net's Dice + cross-entropy of `case(0)` without ignored voxels, and its gradient at the first voxels.
STORED_VALUE = [2.425103, 2.257467, 2.96974]
STORED_GRADIENT = [
    [0.007041, 0.017069, 0.018306, -0.042416],
    [0.009041, -0.047865, 0.016556, 0.022269],
    [0.001604, -0.049982, 0.035589, 0.012789],
]


def case(seed, scale=1.0, ignore=0.2):
    """logits [N, *S, K] and labels [N, *S] of which a part is ignored."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, K, (N, *S)).astype(np.uint8)
    return (scale * rng.normal(size=(N, *S, K))).astype(np.float32), np.where(
        rng.random((N, *S)) < ignore, IGNORE, labels
    ).astype(np.uint8)


def probabilities(logits):
    e = np.exp(logits - logits.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def exact(logits, labels, kind, known=None, alpha=0.5, beta=0.5, gamma=2.0):
    """The loss [N] in float64, one example, voxel and class at a time."""
    found = []
    for z, y, k in zip(np.asarray(logits, np.float64), labels, [None] * len(labels) if known is None else known):
        hidden = [] if k is None else [c + 1 for c in range(len(k)) if k[c] < 0]
        p, y = probabilities(z[y != IGNORE]), y[y != IGNORE]
        if not len(y):
            found.append(0.0)
            continue
        p = p.copy()
        p[:, 0] += p[:, hidden].sum(-1)
        q = p[np.arange(len(y)), y]
        value = {"ce": -np.log(q).mean(), "focal": -(np.maximum(1 - q, 0) ** gamma * np.log(q)).mean()}
        index = []
        for c in range(1, p.shape[-1]):
            if c not in hidden:
                g = y == c
                tp, fp, fn = (p[:, c] * g).sum(), (p[:, c] * ~g).sum(), ((1 - p[:, c]) * g).sum()
                index.append((2 * tp + SMOOTH) / (2 * (tp + alpha * fp + beta * fn) + SMOOTH))
        value["region"] = 1 - np.mean(index) if index else 0.0
        found.append(sum(value[part] for part in kind.split("+")))
    return np.array(found)


LOSSES = [
    (cross_entropy, "ce", {}),
    (dice, "region", {}),
    (tversky, "region", {"alpha": 0.3, "beta": 0.7}),
    (focal, "focal", {"gamma": 1.5}),
    (dice_cross_entropy, "region+ce", {}),
]
COMPILED = {kind: jax.jit(partial(loss, **more)) for loss, kind, more in LOSSES if loss is not tversky}
PARTIAL = np.array([[1, -1, 1], [-1, 0, -1], [-1, -1, -1]], np.int8)


def partly(labels, known=PARTIAL):
    """Labels of what was annotated: the rest is background there."""
    hidden = np.pad(known < 0, ((0, 0), (1, 256 - known.shape[1] - 1)))
    return np.where(hidden[np.arange(len(labels))[:, None, None], labels], 0, labels).astype(np.uint8)


@pytest.mark.parametrize(("loss", "kind", "more"), LOSSES)
def test_values_and_gradients_are_the_formula(loss, kind, more):
    rng = np.random.default_rng(9)
    run = jax.jit(lambda z, y: (loss(z, y, **more), jax.grad(lambda z: loss(z, y, **more).sum())(z)))
    marginal = jax.jit(
        lambda z, y: (loss(z, y, known=PARTIAL, **more), jax.grad(lambda z: loss(z, y, known=PARTIAL, **more).sum())(z))
    )
    for f, known in ((run, None), (marginal, PARTIAL)):
        logits, labels = case(1)
        labels = labels if known is None else partly(labels)
        value, gradient = f(logits, labels)
        assert value.shape == (N,)
        assert value.dtype == jnp.float32
        np.testing.assert_allclose(value, exact(logits, labels, kind, known, **more), rtol=1e-5, atol=1e-6)
        v, h = rng.normal(size=logits.shape), 1e-5
        up, down = (exact(logits + s * v, labels, kind, known, **more).sum() for s in (h, -h))
        np.testing.assert_allclose((gradient * v).sum(), (up - down) / (2 * h), rtol=1e-4, atol=1e-6)


def test_special_cases_are_each_other():
    logits, labels = case(2)
    known = np.zeros((N, K - 1), np.int8)

    @jax.jit
    def pairs(z, y):
        first = (focal(z, y, gamma=0.0), cross_entropy(z, y)), (tversky(z, y, alpha=0.5, beta=0.5), dice(z, y))
        return *first, (dice_cross_entropy(z, y, known=known), dice_cross_entropy(z, y))

    for a, b in pairs(logits, labels):
        np.testing.assert_allclose(a, b, rtol=1e-6)


@pytest.mark.parametrize(("loss", "kind", "more"), LOSSES)
def test_ignored_voxels_have_no_effect_and_no_gradient(loss, kind, more):
    logits, labels = case(3)
    labels[1] = IGNORE
    off = labels == IGNORE
    f = jax.jit(jax.value_and_grad(lambda z: loss(z, labels, **more).sum()))
    spoilt = logits.copy()
    spoilt[off] = np.nan
    for a, b in zip(f(spoilt), f(logits)):
        np.testing.assert_array_equal(a, b)
    gradient = np.asarray(f(spoilt)[1])
    assert (gradient[off] == 0).all()
    assert (gradient[~off] != 0).any()
    assert COMPILED[kind](spoilt, labels)[1] == 0
    np.testing.assert_array_equal(annotated(labels), [1, 0, 1])


@pytest.mark.parametrize(("loss", "kind", "more"), LOSSES)
def test_only_the_sum_of_background_and_unannotated_classes_counts(loss, kind, more):
    """Probability moved between them changes nothing, and no step along such a move is taken."""
    logits, labels = case(4)
    labels = partly(labels)
    p = probabilities(logits.astype(np.float64))
    moved = p.copy()
    for i, row in enumerate(PARTIAL):
        for c in np.flatnonzero(row < 0) + 1:
            moved[i, ..., 0] += 0.9 * moved[i, ..., c]
            moved[i, ..., c] *= 0.1
    f = jax.jit(lambda z: loss(z, labels, known=PARTIAL, **more))
    before, after = f(np.log(p).astype(np.float32)), f(np.log(moved).astype(np.float32))
    np.testing.assert_allclose(before, after, rtol=2e-5, atol=1e-6)
    assert not np.allclose(before, exact(logits, labels, kind, **more), rtol=1e-3)


def test_with_every_foreground_class_unannotated_there_is_nothing_to_learn():
    logits, labels = case(5)
    known = np.full((N, K - 1), -1, np.int8)
    value, gradient = jax.jit(jax.value_and_grad(lambda z: dice_cross_entropy(z, labels, known=known).sum()))(logits)
    np.testing.assert_allclose(value, 0, atol=1e-6)
    np.testing.assert_allclose(gradient, 0, atol=1e-6)


def test_a_label_of_an_unannotated_class_is_background():
    logits, labels = case(6)
    f = jax.jit(partial(dice_cross_entropy, known=PARTIAL))
    a, b = (f(logits, y) for y in (labels, partly(labels)))
    np.testing.assert_array_equal(a, b)


STEEP = jax.jit(jax.grad(lambda z, y: (focal(z, y, gamma=0.5) + dice_cross_entropy(z, y)).sum()))


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**32 - 1), scale=st.sampled_from([0.0, 1e-3, 1.0, 30.0, 1e4]), ignore=st.sampled_from([0.0, 0.5, 1.0])
)
def test_ranges_and_finite_gradients_whatever_the_logits(seed, scale, ignore):
    logits, labels = case(seed, scale, ignore)
    labels[labels == 2] = seed % K  # a class that may be absent
    values = {kind: np.asarray(f(logits, labels)) for kind, f in COMPILED.items()}
    assert all(np.isfinite(v).all() and (v >= -1e-6).all() for v in values.values())
    assert (values["region"] <= 1 + 1e-6).all()
    assert (values["focal"] <= values["ce"] * (1 + 1e-6)).all()
    assert np.isfinite(STEEP(logits, labels)).all()


def test_a_perfect_map_costs_nothing_and_a_wrong_one_everything():
    _, labels = case(7, ignore=0.0)
    right = 50 * np.eye(K, dtype=np.float32)[labels]
    wrong = 50 * np.eye(K, dtype=np.float32)[(labels + 1) % K]
    for loss in COMPILED.values():
        np.testing.assert_allclose(loss(right, labels), 0, atol=1e-6)
    np.testing.assert_allclose(COMPILED["region"](wrong, labels), 1, atol=1e-5)
    np.testing.assert_allclose(COMPILED["ce"](wrong, labels), 50, rtol=1e-6)


def test_bfloat16_logits_are_summed_in_float32():
    logits, labels = np.full((1, 64, 64, 2), 0.0, np.float32), np.ones((1, 64, 64), np.uint8)
    value = COMPILED["region+ce"](jnp.asarray(logits, jnp.bfloat16), labels)
    assert value.dtype == jnp.float32
    np.testing.assert_allclose(value, 1 - 2 / 3 + np.log(2), rtol=1e-6)


def test_sums_of_a_large_volume_keep_their_digits():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(1, 96, 96, 96, 2)).astype(np.float32)
    labels = (rng.random((1, 96, 96, 96)) < 0.01).astype(np.uint8)
    for loss, kind in ((cross_entropy, "ce"), (dice, "region")):
        np.testing.assert_allclose(jax.jit(loss)(logits, labels), exact(logits, labels, kind), rtol=2e-5)


# Deep supervision


def test_resolutions_are_weighted_and_labels_are_the_nearest():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, (2, 8, 12)).astype(np.uint8)
    maps = [jnp.asarray(rng.normal(size=(2, *s, 3)), jnp.float32) for s in ((8, 12), (4, 6), (2, 6))]
    coarse = [labels, labels[:, 1::2, 1::2], labels[:, 2::4, 1::2]]
    parts = [exact(y, c, "region+ce") for y, c in zip(maps, coarse)]
    truth = (parts[0] + parts[1] / 2 + parts[2] / 4) / 1.75
    plain, chosen, alone = jax.jit(
        lambda maps, y: (
            deep_supervision(dice_cross_entropy, maps, y),
            deep_supervision(dice_cross_entropy, maps, y, weights=(0, 3, 1)),
            deep_supervision(dice_cross_entropy, maps[0], y),
        )
    )(maps, labels)
    np.testing.assert_allclose(plain, truth, rtol=1e-5)
    np.testing.assert_allclose(chosen, parts[1] * 0.75 + parts[2] / 4, rtol=1e-5)
    np.testing.assert_allclose(alone, parts[0], rtol=1e-5)
    with pytest.raises(ValueError, match="2 weights for 3 resolutions"):
        deep_supervision(dice, maps, labels, weights=(1, 1))


@pytest.mark.parametrize("shape", [(4, 3), (7, 9), (3, 9), (1, 1), (13, 9)])
def test_labels_shrink_as_in_pytorch(shape):
    torch = pytest.importorskip("torch")
    labels = np.random.default_rng(0).integers(0, 255, (2, 13, 9)).astype(np.uint8)
    theirs = torch.nn.functional.interpolate(torch.from_numpy(labels)[:, None].float(), shape, mode="nearest-exact")[:, 0]
    np.testing.assert_array_equal(shrink_labels(labels, shape), theirs.numpy())


# PyTorch


@jax.jit
def value_and_gradient(logits, labels):
    value, back = jax.vjp(lambda z: dice_cross_entropy(z, labels), logits)
    return value, back(jnp.ones_like(value))[0]


def by_torch(logits, labels):
    import torch

    z = torch.from_numpy(np.moveaxis(logits, -1, 1).copy()).requires_grad_()
    y = torch.from_numpy(labels).long()
    p, hot = z.softmax(1)[:, 1:], torch.nn.functional.one_hot(y, K).movedim(-1, 1)[:, 1:]
    index = (2 * (p * hot).sum((2, 3)) + SMOOTH) / (p.sum((2, 3)) + hot.sum((2, 3)) + SMOOTH)
    value = 1 - index.mean(1) + torch.nn.functional.cross_entropy(z, y, reduction="none").mean((1, 2))
    value.sum().backward()
    return value.detach().numpy(), np.moveaxis(z.grad.numpy(), 1, -1)


def test_stored_values_of_pytorch():
    logits, labels = case(0, ignore=0.0)
    value, gradient = value_and_gradient(logits, labels)
    np.testing.assert_allclose(value, STORED_VALUE, rtol=1e-5)
    np.testing.assert_allclose(gradient[:, 0, 0], STORED_GRADIENT, atol=1e-6)


def test_pytorch_itself():
    pytest.importorskip("torch")
    logits, labels = case(8, ignore=0.0)
    for ours, theirs in zip(value_and_gradient(logits, labels), by_torch(logits, labels)):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
