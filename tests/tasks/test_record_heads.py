"""Losses over records: what is missing counts for nothing, every step's share, and survival against its formula."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medjax.tasks.classification import class_loss, class_outputs
from medjax.tasks.multilabel import label_loss
from medjax.tasks.record_heads import each_step, survival, survival_at, survival_bins, whole_record


def test_the_loss_is_the_members_mean_and_missing_labels_weigh_nothing():
    rng = np.random.default_rng(0)
    logits = jnp.asarray(rng.normal(size=(4, 3, 2)), jnp.float32)
    label = jnp.array([1, 0, -1, 1])
    values, weight = whole_record(class_loss(), class_outputs).loss({"logits": logits}, {"label": label})
    np.testing.assert_array_equal(weight, [1, 1, 0, 1])
    log_p = jax.nn.log_softmax(logits)
    np.testing.assert_allclose(values[:2], [-log_p[0, :, 1].mean(), -log_p[1, :, 0].mean()], rtol=1e-6)
    score = whole_record(class_loss(), class_outputs).outputs({"logits": logits})["score"]
    np.testing.assert_allclose(score, jax.nn.softmax(logits).mean(1), rtol=1e-6)


def test_deep_supervision_asks_the_valid_steps_alone():
    rng = np.random.default_rng(1)
    steps = jnp.asarray(rng.normal(size=(2, 1, 4, 2)), jnp.float32)
    batch = {"label": jnp.array([1, 0]), "length": jnp.array([2, 4])}
    y = {"steps": steps, "logits": jnp.stack([steps[0, :, 1], steps[1, :, 3]])}
    values, _ = whole_record(class_loss(), class_outputs, deep=0.25).loss(y, batch)
    each = -jax.nn.log_softmax(steps)[:, 0]
    wanted = [0.75 * each[0, 1, 1] + 0.25 * each[0, :2, 1].mean(), 0.75 * each[1, 3, 0] + 0.25 * each[1, :, 0].mean()]
    np.testing.assert_allclose(values, wanted, rtol=1e-6)


def test_weights_of_several_tasks():
    logits = jnp.array([[0.3, -1.0, 2.0]])
    label = jnp.array([[1, 0, -1]], jnp.int8)
    values, weight = label_loss(weights=(1.0, 3.0, 4.0))(logits, {"label": label})
    each = -jax.nn.log_sigmoid(jnp.array([0.3, 1.0]))
    np.testing.assert_allclose(values[0], (each[0] + 3 * each[1]) / 4, rtol=1e-6)
    np.testing.assert_allclose(weight[0], 4 / 8)
    plain, even = label_loss()(logits, {"label": label}), label_loss(weights=(2.0, 2.0, 2.0))(logits, {"label": label})
    np.testing.assert_allclose(np.stack(plain), np.stack(even), rtol=1e-6)


def test_questions_at_steps_are_asked_where_they_are_known():
    rng = np.random.default_rng(2)
    steps = jnp.asarray(rng.normal(size=(2, 2, 4, 3)), jnp.float32)
    batch = {
        "label_steps": jnp.array([[0, 2, 3, -1], [-1, -1, -1, -1]]),
        "label_values": jnp.array([[2, -1, 0, 1], [-1] * 4], jnp.int8),
    }
    values, weight = each_step().loss({"steps": steps}, batch)
    log_p = jax.nn.log_softmax(steps)
    np.testing.assert_allclose(values[0], -(log_p[0, :, 0, 2].mean() + log_p[0, :, 3, 0].mean()) / 2, rtol=1e-6)
    np.testing.assert_array_equal(weight, [0.5, 0])
    assert each_step().outputs({"steps": steps})["score"].shape == (2, 4, 3)


@pytest.mark.parametrize(
    ("event", "duration", "terms"),
    [
        (1, 1.5, "01"),  # outlived the first bin, event in the second
        (1, 1.0, "1"),  # an end belongs to its bin
        (1, 0.0, "1"),
        (0, 0.5, ""),
        (0, 2.0, "00"),
        (0, 9.0, "000"),
        (1, 9.0, "000"),  # after the last bin
    ],
)
def test_survival_loss_by_its_formula(event, duration, terms):
    logits, edges = jnp.array([[[0.3, -0.7, 1.1]]]), jnp.array([1.0, 2.0, 4.0])
    batch = {"label": jnp.array([event]), "duration": jnp.array([duration])}
    values, weight = survival(2.0).loss({"logits": logits, "edges": edges}, batch)
    hazard = jax.nn.sigmoid(logits[0, 0])
    wanted = -sum(float(jnp.log(hazard[b] if term == "1" else 1 - hazard[b])) for b, term in enumerate(terms))
    np.testing.assert_allclose(values[0], wanted, rtol=1e-5, atol=1e-6)
    assert weight[0] == 1


def test_survival_gives_the_risk_by_the_horizon():
    logits, edges = jnp.array([[[0.3, -0.7, 1.1]]]), jnp.array([1.0, 2.0, 4.0])
    found = survival(2.0).outputs({"logits": logits, "edges": edges})
    free = np.cumprod(1 - jax.nn.sigmoid(logits[0, 0]))
    np.testing.assert_allclose(found["curve"][0], free, rtol=1e-5)
    np.testing.assert_allclose(found["score"][0], [free[1], 1 - free[1]], rtol=1e-5)
    np.testing.assert_allclose(survival_at(found["curve"], edges, 0.5)[0], np.sqrt(free[0]), rtol=1e-5)
    missing = {"label": jnp.array([-1, 1]), "duration": jnp.array([1.0, jnp.nan])}
    np.testing.assert_array_equal(survival(2.0).loss({"logits": logits.repeat(2, 0), "edges": edges}, missing)[1], [0, 0])


def test_bins_hold_as_many_events_each():
    rng = np.random.default_rng(0)
    duration, event = rng.exponential(size=4000), rng.integers(0, 2, 4000)
    edges = survival_bins(duration, event, 8)
    counts = np.histogram(duration[event == 1], np.concatenate([[0], edges]))[0]
    assert np.ptp(counts) <= 2
    assert (np.diff(survival_bins(np.ones(9), np.ones(9, int), 4)) > 0).all()
    assert len(survival_bins(np.full(3, np.nan), np.zeros(3, int), 4)) == 4
