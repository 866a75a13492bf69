import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medjax import metrics


@st.composite
def cases(draw):
    n = draw(st.integers(1, 40))
    column = lambda values: np.array(draw(st.lists(values, min_size=n, max_size=n)))  # noqa: E731
    # Eighths are exact, so that equally near is equal.
    return column(st.integers(-1, 1)), column(st.integers(-20, 20)) / 8, column(st.integers(0, 5)) / 5


def by_loop(label, logit, caliper):
    """Every positive looks through all negatives that are left."""
    reach = caliper * logit[label >= 0].std() if np.any(label >= 0) else 0.0
    left = [i for i in range(len(label)) if label[i] == 0]
    found = []
    for i in range(len(label)):
        near = [j for j in left if abs(logit[i] - logit[j]) <= reach]
        if label[i] == 1 and near:
            j = min(near, key=lambda j: abs(logit[i] - logit[j]))
            left.remove(j)
            found.append((i, j))
    pair = np.full(len(label), -1)
    for number, members in enumerate(found):
        pair[list(members)] = number
    return pair


@settings(max_examples=200, deadline=None)
@given(cases(), st.sampled_from([0.0, 0.25, 0.5, 1.0, 10.0]))
def test_pairs_agree_with_a_plain_loop(case, caliper):
    label, logit, _ = case
    np.testing.assert_array_equal(metrics.matched_pairs(label, logit, caliper=caliper), by_loop(label, logit, caliper))


def test_pairs_of_many_cases_agree_with_a_plain_loop():
    rng = np.random.default_rng(0)
    label = rng.integers(-1, 2, 600)
    logit = rng.normal(size=600) + label
    pair = metrics.matched_pairs(label, logit)
    np.testing.assert_array_equal(pair, by_loop(label, logit, 0.25))
    assert 50 < pair.max() < 200


def test_pairs_in_small():
    label = np.array([1, 0, 0, 1, 0, -1])
    logit = np.array([0.0, 1.0, -1.0, 0.0, 0.0, 0.0])
    assert metrics.matched_pairs(label, logit, caliper=100).tolist() == [0, 1, -1, 1, 0, -1]  # the tie to the first index
    assert metrics.matched_pairs(label, logit, caliper=0.1).tolist() == [0, -1, -1, -1, 0, -1]
    assert metrics.matched_pairs([1, 1, 0], [2.0, 2.0, 2.0]).tolist() == [0, -1, 0]  # a constant baseline matches all
    assert metrics.matched_pairs([1, 0, 0], [np.nan, 0.0, np.inf]).tolist() == [-1, -1, -1]
    assert metrics.matched_pairs([1, 1], [0.0, 1.0]).tolist() == [-1, -1]
    assert metrics.matched_pairs([], []).tolist() == []
    with pytest.raises(ValueError, match="shapes"):
        metrics.matched_pairs([1, 0], [0.0])


def by_pairs(label, score, pair):
    """All rows against all rows."""
    wins = [
        (score[i] > score[j]) + (score[i] == score[j]) / 2
        for i in range(len(label))
        for j in range(len(label))
        if pair[i] == pair[j] >= 0 and label[i] == 1 and label[j] == 0
    ]
    return np.mean(wins) if wins else np.nan


@settings(deadline=None)
@given(cases(), st.randoms(use_true_random=False))
def test_auroc_matched_on_resamples(case, random):
    label, logit, score = case
    pair = metrics.matched_pairs(label, logit, caliper=0.5)
    np.testing.assert_allclose(metrics.auroc_matched(label, score, pair), by_pairs(label, score, pair))
    index = np.array([random.randrange(len(label)) for _ in label])
    found = metrics.auroc_matched(label[index], score[index], pair[index])
    np.testing.assert_allclose(found, by_pairs(label[index], score[index], pair[index]))


@settings(deadline=None)
@given(cases(), st.integers(2, 4))
def test_auroc_matched_of_copies(case, copies):
    label, logit, score = case
    pair = metrics.matched_pairs(label, logit, caliper=0.5)
    again = [np.tile(column, copies) for column in (label, score, pair)]
    np.testing.assert_allclose(metrics.auroc_matched(*again), metrics.auroc_matched(label, score, pair))


def test_auroc_matched_in_small():
    label, pair = np.array([1, 0, 1, 0, 1]), np.array([0, 0, 1, 1, -1])
    assert metrics.auroc_matched(label, [0.9, 0.1, 0.5, 0.5, 0.0], pair) == 0.75
    assert np.isnan(metrics.auroc_matched(label, [np.nan, 0.1, 0.5, 0.5, 0.0], pair))
    assert metrics.auroc_matched(label, [0.9, 0.1, 0.5, 0.5, np.nan], pair) == 0.75
    assert np.isnan(metrics.auroc_matched(label, np.ones(5), np.full(5, -1)))
    assert np.isnan(metrics.auroc_matched([1, 1], [0.1, 0.2], [0, 0]))
    assert np.isnan(metrics.auroc_matched([], [], []))
    with pytest.raises(ValueError, match="shapes"):
        metrics.auroc_matched(label, np.ones(5), pair[:4])


def test_a_shortcut_does_not_help():
    rng = np.random.default_rng(1)
    label = rng.integers(0, 2, 2000)
    size = rng.normal(size=2000) + 1.5 * label
    pair = metrics.matched_pairs(label, size, caliper=0.02)
    assert metrics.auroc(label, size) > 0.8
    assert metrics.auroc_matched(label, size, pair) == pytest.approx(0.5, abs=0.1)
