import numpy as np
import pytest
import scipy.optimize
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit, softmax

from medjax import metrics


def draw(seed, n=2000, k=4, sharpness=1.0):
    """Labels drawn from softmax(logits), and scores softmax(sharpness * logits): the right temperature is `sharpness`."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(scale=1.5, size=(n, k))
    chance = softmax(logits, axis=1)
    label = (rng.random((n, 1)) > chance.cumsum(1)).sum(1)
    return label, softmax(sharpness * logits, axis=1)


def draw_labels(seed, n=1500, k=3, sharpness=1.0):
    rng = np.random.default_rng(seed)
    logits = rng.normal(scale=1.5, size=(n, k))
    return (rng.random((n, k)) < expit(logits)).astype(np.int8), expit(sharpness * logits)


def loss_of(label, score, t):
    """Negative log-likelihood of softmax(log p / T), written out."""
    powered = score ** (1 / t)
    return -np.mean(np.log(powered[np.arange(len(label)), label] / powered.sum(1)))


@pytest.mark.parametrize("sharpness", [0.5, 1.0, 3.0])
def test_the_temperature_that_made_the_scores_too_sure_is_found(sharpness):
    label, score = draw(0, n=8000, sharpness=sharpness)
    assert metrics.fit_temperature(label, score) == pytest.approx(sharpness, rel=0.06)
    label, score = draw_labels(0, n=4000, sharpness=sharpness)
    assert metrics.fit_temperature(label, score, multilabel=True) == pytest.approx(sharpness, rel=0.06)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("k", [2, 5])
def test_no_other_temperature_is_better(seed, k):
    label, score = draw(seed, n=300, k=k, sharpness=2.0)
    t = metrics.fit_temperature(label, score)
    grid = scipy.optimize.brute(lambda x: loss_of(label, score, x[0]), [(0.3, 9.0)], Ns=400, finish=scipy.optimize.fmin)
    assert t == pytest.approx(float(np.squeeze(grid)), rel=1e-3)
    fitted = metrics.apply_temperature(score, t)
    assert -np.mean(np.log(fitted[np.arange(len(label)), label])) == pytest.approx(loss_of(label, score, t), abs=1e-12)


def test_one_temperature_for_all_labels():
    label, score = draw_labels(1, sharpness=2.5)
    label[::3, 0] = -1
    t = metrics.fit_temperature(label, score, multilabel=True)
    known = label >= 0

    def loss(x):
        p, rest = score[known] ** (1 / x), (1 - score[known]) ** (1 / x)
        return -np.mean(np.log(np.where(label[known] == 1, p, rest) / (p + rest)))

    assert loss(t) <= min(loss(x) for x in np.linspace(0.3, 9.0, 2000)) + 1e-12
    # Two classes by softmax are one label by sigmoid.
    pair = np.stack([1 - score[:, 1], score[:, 1]], axis=1)
    single = metrics.fit_temperature(label[:, 1], pair)
    assert metrics.fit_temperature(label[:, 1:2], score[:, 1:2], multilabel=True) == pytest.approx(single, rel=1e-4)


def test_the_search_is_bounded():
    label = np.arange(40) % 2
    apart = np.where(np.arange(2) == label[:, None], 0.8, 0.2)
    assert metrics.fit_temperature(label, apart) == pytest.approx(0.25, rel=1e-4)
    assert metrics.fit_temperature(label, 1 - apart) == pytest.approx(10, rel=1e-4)
    assert metrics.fit_temperature(label[:, None], apart[:, 1:], multilabel=True) == pytest.approx(0.25, rel=1e-4)
    # Float32 holds scores of 0 and 1: their logarithms must stay finite, right or wrong.
    sure = np.eye(2, dtype=np.float32)[np.where(np.arange(40) < 4, 1 - label, label)]
    assert 0.25 <= metrics.fit_temperature(label, sure) <= 10
    assert 0.25 <= metrics.fit_temperature(label[:, None], sure[:, 1:], multilabel=True) <= 10


def test_too_little_to_fit_leaves_the_scores_alone():
    label, score = draw(2, n=30, sharpness=5.0)
    assert metrics.fit_temperature(label, score) != 1
    assert metrics.fit_temperature(label[:9], score[:9]) == 1
    assert metrics.fit_temperature(np.where(np.arange(30) < 9, label, -1), score) == 1
    assert metrics.fit_temperature(np.full(30, 2), score) == 1
    assert metrics.fit_temperature(np.full(30, -1), score) == 1
    assert metrics.fit_temperature(np.empty(0, int), np.empty((0, 3))) == 1
    gap = score.copy()
    gap[3, 1] = np.nan
    assert metrics.fit_temperature(label, gap) == 1
    without = np.where(np.arange(30) == 3, -1, label)
    assert metrics.fit_temperature(without, gap) == metrics.fit_temperature(np.delete(label, 3), np.delete(score, 3, axis=0))
    ones = np.ones((30, 4), int)
    assert metrics.fit_temperature(ones, score, multilabel=True) == 1


@settings(deadline=None)
@given(st.integers(0, 1000), st.floats(0.25, 10), st.sampled_from([np.float32, np.float64]))
def test_the_order_and_the_likeliest_class_stay(seed, t, dtype):
    rng = np.random.default_rng(seed)
    score = softmax(rng.normal(scale=3, size=(20, 3)), axis=1).astype(dtype)
    scaled = metrics.apply_temperature(score, t)
    assert scaled.dtype == np.float64
    np.testing.assert_array_equal(scaled.argmax(1), score.argmax(1))
    np.testing.assert_allclose(scaled.sum(1), 1, atol=1e-12)
    np.testing.assert_allclose(metrics.apply_temperature(scaled, 1 / t), score, atol=1e-6)
    np.testing.assert_allclose(metrics.apply_temperature(score, 1.0), score, atol=1e-6)
    apart = metrics.apply_temperature(score, t, multilabel=True)
    np.testing.assert_array_equal(apart.ravel().argsort(kind="stable"), score.ravel().argsort(kind="stable"))
    p, rest = score.astype(np.float64) ** (1 / t), (1 - score.astype(np.float64)) ** (1 / t)
    np.testing.assert_allclose(apart, p / (p + rest), atol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_ends_stay_apart(dtype):
    ends = np.array([0, 1e-30, 1e-9, np.nextafter(dtype(1), dtype(0)), 1], dtype)
    scaled = metrics.apply_temperature(ends[:, None], 2.0, multilabel=True)[:, 0]
    assert (np.diff(scaled) > 0).all()
    assert scaled[0] > 0
    assert scaled[-1] < 1
    assert np.isnan(metrics.apply_temperature([[np.nan, 0.5]], 2.0)).any()


def test_wrong_input_is_refused():
    score = np.full((12, 3), 1 / 3)
    with pytest.raises(ValueError, match="shapes"):
        metrics.fit_temperature(np.zeros(11, int), score)
    with pytest.raises(ValueError, match="shapes"):
        metrics.fit_temperature(np.zeros(12, int), score, multilabel=True)
    with pytest.raises(ValueError, match="3 classes"):
        metrics.fit_temperature(np.full(12, 3), score)
    with pytest.raises(ValueError, match="2 classes"):
        metrics.fit_temperature(np.full((12, 3), 2), score, multilabel=True)
    for t in (0.0, -1.0, np.nan):
        with pytest.raises(ValueError, match="over 0"):
            metrics.apply_temperature(score, t)
