"""Boxes and their losses against NumPy, formulas in float64, PyTorch, and a plain loop on the host."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medjax.metrics import detection as host
from medjax.nn import box_losses, boxes


def some(rng, n, size=100.0):
    corner, side = rng.uniform(0, size, (n, 2)), rng.uniform(1, size / 2, (n, 2))
    return np.concatenate([corner, corner + side], 1).astype(np.float32)


@pytest.mark.parametrize("seed", range(3))
def test_iou_is_the_hosts(seed):
    rng = np.random.default_rng(seed)
    a, b = some(rng, 30), some(rng, 40)
    np.testing.assert_allclose(boxes.iou(a, b), host.iou(a, b), rtol=2e-5, atol=1e-6)
    assert float(boxes.iou(jnp.zeros((1, 4)), jnp.zeros((1, 4)))[0, 0]) == 0


def test_giou_by_its_formula_and_by_hand():
    rng = np.random.default_rng(0)
    a, b = some(rng, 50).astype(np.float64), some(rng, 50).astype(np.float64)
    both = np.maximum(np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2]), 0).prod(1)
    union = (a[:, 2:] - a[:, :2]).prod(1) + (b[:, 2:] - b[:, :2]).prod(1) - both
    hull = (np.maximum(a[:, 2:], b[:, 2:]) - np.minimum(a[:, :2], b[:, :2])).prod(1)
    np.testing.assert_allclose(boxes.giou(a, b), both / union - (hull - union) / hull, rtol=1e-4, atol=1e-5)
    # Two squares of side 1 with one of side 1 between them: (0 - (3 - 2) / 3).
    apart = boxes.giou(jnp.array([0.0, 0, 1, 1]), jnp.array([2.0, 0, 3, 1]))
    assert np.isclose(float(apart), -1 / 3)
    flat = jnp.array([1.0, 1, 1, 1])
    assert np.isfinite(jax.grad(lambda x: boxes.giou(x, flat))(flat)).all()


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=25, deadline=None)
def test_decoding_takes_coding_back(seed):
    rng = np.random.default_rng(seed)
    a, b = some(rng, 5), some(rng, 5)
    np.testing.assert_allclose(boxes.decode(boxes.encode(b, a), a), b, rtol=1e-3, atol=2e-3)


def test_coding_of_a_mirrored_picture():
    rng = np.random.default_rng(1)
    a, b = some(rng, 20), some(rng, 20)
    for axis in (0, 1):
        there = boxes.encode(boxes.flip(b, axis, 200.0), boxes.flip(a, axis, 200.0))
        np.testing.assert_allclose(boxes.flip_deltas(boxes.encode(b, a), [axis]), there, atol=1e-4)


def test_anchors_lie_about_the_middles_of_cells():
    made = np.asarray(boxes.grid_anchors(2, 3, 8, jnp.array([[4.0, 6.0], [10.0, 2.0]])))
    assert made.shape == (2, 3, 2, 4)
    assert made[0, 0, 0].tolist() == [2, 1, 6, 7]
    assert made[1, 2, 1].tolist() == [15, 11, 25, 13]


def assigned(anchors, truth, category, positive, negative):
    """The rule in words, one anchor after the other."""
    found = []
    overlap = host.iou(anchors, truth)
    overlap[:, category < 0] = -1
    for i in range(len(anchors)):
        forced = [j for j in range(len(truth)) if category[j] >= 0 and overlap[i, j] == overlap[:, j].max() > 0]
        best = int(overlap[i].argmax())
        if forced:
            found.append(max(forced, key=lambda j: overlap[i, j]))
        elif overlap[i, best] >= positive:
            found.append(best)
        else:
            share = host.iou(anchors[i : i + 1], truth, np.ones(len(truth), bool))[0]
            hidden = ((share >= 0.5) & (category == -2)).any()
            found.append(-1 if overlap[i, best] < negative and not hidden else -2)
    return found


@pytest.mark.parametrize("seed", range(4))
def test_anchors_stand_for_boxes_by_the_rule(seed):
    rng = np.random.default_rng(seed)
    anchors, truth = some(rng, 200), some(rng, 8)
    category = np.array([0, 1, 0, -1, -2, 2, -2, 0])
    found = boxes.assign(anchors, truth, category)
    assert np.asarray(found).tolist() == assigned(anchors, truth.astype(np.float64), category, 0.5, 0.4)
    assert (np.asarray(boxes.assign(anchors, truth, np.full(8, -1))) == boxes.BACKGROUND).all()


def greedy(found, score, category, threshold):
    """Suppression as torchvision does it, on the host."""
    kept = []
    for i in np.argsort(-score, kind="stable"):
        if all(category[j] != category[i] or host.iou(found[i : i + 1], found[j : j + 1])[0, 0] <= threshold for j in kept):
            kept.append(i)
    return kept


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("threshold", [0.1, 0.5])
def test_suppression_is_the_greedy_one(seed, threshold):
    rng = np.random.default_rng(seed)
    n = 120
    found, score, category = some(rng, n), np.sort(rng.random(n))[::-1], rng.integers(0, 2, n)
    kept = np.flatnonzero(jax.jit(lambda b, c: boxes.nms(b, c, threshold=threshold))(found, category))
    assert kept.tolist() == sorted(greedy(found, score, category, threshold))


def test_suppression_of_a_long_chain():
    # Each box overlaps the next alone: every second one stays.
    at = np.arange(40) * 5.0
    chain = np.stack([at, 0 * at, at + 10, 0 * at + 10], 1).astype(np.float32)
    kept = np.asarray(boxes.nms(chain, np.zeros(40, int), threshold=0.3))
    assert kept.tolist() == [i % 2 == 0 for i in range(40)]


@pytest.mark.parametrize("most", [7, 60])
def test_detections_of_fixed_shape(most):
    rng = np.random.default_rng(0)
    found, probability = some(rng, 50), rng.random((50, 2)).astype(np.float32)
    made = jax.jit(lambda p, b: boxes.select(p, b, most=most, candidates=64, least=0.3))(probability, found)
    flat = probability.reshape(-1)
    order = np.argsort(-flat, kind="stable")[:64]
    order = order[flat[order] >= 0.3]
    kept = greedy(found[order // 2], flat[order], order % 2, 0.5)[:most]
    k = len(kept)
    np.testing.assert_allclose(made["score"][:k], flat[order[kept]])
    np.testing.assert_allclose(made["boxes"][:k], found[order[kept] // 2])
    assert made["category"][:k].tolist() == (order[kept] % 2).tolist()
    assert made["score"].shape == (most,)
    assert (np.asarray(made["category"][k:]) == -1).all()
    assert (np.asarray(made["score"][k:]) == 0).all()


def test_nothing_to_be_found():
    made = boxes.select(jnp.zeros((10, 3)), jnp.zeros((10, 4)), most=5)
    assert (np.asarray(made["category"]) == -1).all()


def test_shapes_fit_the_boxes():
    rng = np.random.default_rng(0)
    groups = [(10, 12), (40, 20), (90, 100)]
    sizes = np.concatenate([np.array(g) * np.exp(rng.normal(0, 0.05, (60, 2))) for g in groups])
    made = boxes.fit_shapes(sizes, 3)
    np.testing.assert_allclose(made, groups, rtol=0.06)
    assert boxes.fit_shapes(np.array([[5.0, 5.0]]), 4).shape == (4, 2)
    assert np.isfinite(boxes.fit_shapes(np.full((9, 2), 7.0), 6)).all()


def test_focal_loss_by_its_formula():
    rng = np.random.default_rng(0)
    logits, target = rng.normal(0, 4, (30, 3)), (rng.random((30, 3)) < 0.3).astype(float)
    p = 1 / (1 + np.exp(-logits))
    p_t, alpha_t = np.where(target > 0, p, 1 - p), np.where(target > 0, 0.25, 0.75)
    np.testing.assert_allclose(box_losses.focal(logits, target), -alpha_t * (1 - p_t) ** 2 * np.log(p_t), rtol=2e-4, atol=1e-6)
    extreme = jnp.array([-1e4, 1e4, 0.0])
    for t in (0.0, 1.0):
        assert np.isfinite(jax.grad(lambda x, t=t: box_losses.focal(x, jnp.full(3, t)).sum())(extreme)).all()


def test_smooth_l1_and_its_gradient_are_those_of_pytorch():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    a, b = (rng.normal(0, 1, (20, 4)).astype(np.float32) for _ in range(2))
    x = torch.tensor(a, requires_grad=True)
    theirs = torch.nn.functional.smooth_l1_loss(x, torch.tensor(b), beta=1 / 9, reduction="none").sum(-1)
    theirs.sum().backward()
    np.testing.assert_allclose(box_losses.smooth_l1(a, b), theirs.detach().numpy(), rtol=1e-5, atol=1e-6)
    ours = jax.grad(lambda x: box_losses.smooth_l1(x, b).sum())(a)
    np.testing.assert_allclose(ours, x.grad.numpy(), atol=1e-5)


def test_giou_loss_pulls_boxes_together():
    anchor, target = jnp.array([10.0, 10, 20, 20]), jnp.array([30.0, 12, 44, 25])
    deltas = jnp.zeros(4)
    first = float(box_losses.giou(deltas, anchor, target))
    step = jax.jit(lambda d: d - 0.1 * jax.grad(lambda x: box_losses.giou(x, anchor, target))(d))
    for _ in range(400):
        deltas = step(deltas)
    assert float(box_losses.giou(deltas, anchor, target)) < 0.2 < first
