"""Metrics of risks against their definitions by brute force."""

import itertools

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from medjax import metrics


@pytest.fixture(params=range(12))
def case(request):
    """Labels with missing ones and scores with ties."""
    rng = np.random.default_rng(request.param)
    n = int(rng.integers(2, 60))
    return rng.integers(-1, 2, n), rng.integers(0, 8, n) / 7


def test_min_se_pp_by_every_threshold(case):
    label, score = case
    known = label >= 0
    best = np.nan
    for t in np.unique(score[known]):
        called = known & (score >= t)
        if (label == 1).any():
            tp = (called & (label == 1)).sum()
            best = np.nanmax([best, min(tp / (label == 1).sum(), tp / called.sum())])
    np.testing.assert_allclose(metrics.min_se_pp(label, score), best, atol=1e-15)


def test_min_se_pp_without_positives_or_with_nan_is_undefined():
    assert np.isnan(metrics.min_se_pp([0, 0, -1], [0.1, 0.2, 0.3]))
    assert np.isnan(metrics.min_se_pp([0, 1], [0.1, np.nan]))
    assert metrics.min_se_pp([0, 1], [0.1, 0.9]) == 1


def pairs(time, event, risk):
    """(concordant with ties half, comparable) in the words of the definition."""
    good = total = 0.0
    for i, j in itertools.permutations(range(len(time)), 2):
        if event[i] != 1 or event[j] < 0 or not (time[i] < time[j] or (time[i] == time[j] and event[j] == 0)):
            continue
        total += 1
        good += 1.0 if risk[i] > risk[j] else 0.5 if risk[i] == risk[j] else 0.0
    return good, total


@pytest.mark.parametrize("seed", range(25))
def test_c_index_by_every_pair(seed):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(2, 40))
    time, event = rng.integers(0, 3 + seed, n).astype(float), rng.integers(-1, 2, n)
    risk = rng.integers(0, 6, n) / 5 if seed % 2 else rng.normal(size=n)
    good, total = pairs(time, event, risk)
    found = metrics.c_index(time, event, risk)
    assert np.isnan(found) if not total else found == good / total


def test_c_index_of_the_right_order_and_of_none():
    assert metrics.c_index([1, 2, 3], [1, 1, 0], [3, 2, 1]) == 1
    assert metrics.c_index([1, 2, 3], [1, 1, 0], [1, 2, 3]) == 0
    assert np.isnan(metrics.c_index([1, 2], [0, 0], [1, 2]))
    assert np.isnan(metrics.c_index([1, 2], [1, 1], [1, np.nan]))
    assert metrics.c_index([1, np.nan, 3], [1, 1, 1], [2, 9, 1]) == 1
    with pytest.raises(ValueError, match="must all be"):
        metrics.c_index([1], [1, 0], [1, 2])


def test_net_benefit_by_its_formula(case):
    label, score = case
    known = label >= 0
    t = np.array([0.0, 0.2, 3 / 7, 0.9])
    for value, found in zip(t, metrics.net_benefit(label, score, t)):
        tp, fp = ((known & (score >= value) & (label == k)).sum() for k in (1, 0))
        if known.any():
            np.testing.assert_allclose(found, tp / known.sum() - fp / known.sum() * value / (1 - value), atol=1e-12)


def test_kappa_with_linear_and_quadratic_weights_is_scikit_learns():
    rng = np.random.default_rng(0)
    label, pred = rng.integers(0, 4, 200), rng.integers(0, 4, 200)
    for power, name in ((1, "linear"), (2, "quadratic")):
        np.testing.assert_allclose(metrics.kappa(label, pred, 4, power=power), cohen_kappa_score(label, pred, weights=name))


def test_time_to_alarm_by_hand():
    record = [3, 3, 3, 1, 1, 7, 7]
    time = [5, 6, 9, 2, 4, 1, 2]
    label = [0, 1, 1, 0, 0, 1, -1]
    alarm = [0, 1, 1, 1, 0, 0, 1]
    found = metrics.time_to_alarm(record, time, label, alarm)
    np.testing.assert_array_equal(found.event, [False, True, True])  # records 1, 3, 7
    np.testing.assert_array_equal(found.alarm, [True, True, False])
    np.testing.assert_array_equal(found.first, [2, 6, np.nan])
    np.testing.assert_array_equal(found.lead, [2, 3, np.nan])
    assert metrics.alarm_metrics(record, time, label, alarm) == {"alarmed": 0.5, "false_alarmed": 1.0, "alarm_lead_h": 3.0}
    assert np.isnan(metrics.alarm_metrics([0], [1], [0], [0])["alarm_lead_h"])
