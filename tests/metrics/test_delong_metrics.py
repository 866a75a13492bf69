import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from medjax import metrics


def draw(seed, n=120, ties=False, lift=1.0):
    rng = np.random.default_rng(seed)
    label = (rng.random(n) < 0.4).astype(int)
    common = rng.normal(size=n)
    a, b = (common + rng.normal(size=n) + label * rise for rise in (lift, 0.5))
    return (label, np.round(a), np.round(b)) if ties else (label, a, b)


def by_pairs(label, a, b):
    """(difference, standard error) from all positive-negative pairs, with the covariance matrices of the paper."""
    components = []
    for score in (a, b):
        x, y = score[label == 1][:, None], score[label == 0][None, :]
        psi = (x > y) + 0.5 * (x == y)
        components.append((psi.mean(), psi.mean(1), psi.mean(0)))
    s10 = np.cov([components[0][1], components[1][1]], ddof=1)
    s01 = np.cov([components[0][2], components[1][2]], ddof=1)
    s = s10 / np.sum(label == 1) + s01 / np.sum(label == 0)
    contrast = np.array([1, -1])
    return components[0][0] - components[1][0], math.sqrt(contrast @ s @ contrast), s


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("ties", [False, True])
def test_agrees_with_all_pairs(seed, ties):
    label, a, b = draw(seed, ties=ties)
    difference, error, p = metrics.delong(label, a, b)
    expected, expected_error, s = by_pairs(label, a, b)
    assert difference == pytest.approx(expected, abs=1e-14)
    assert difference == pytest.approx(metrics.auroc(label, a) - metrics.auroc(label, b), abs=1e-14)
    assert error == pytest.approx(expected_error, rel=1e-9)
    assert p == pytest.approx(2 * stats.norm.sf(abs(expected) / expected_error), rel=1e-9)
    auroc = metrics.auroc(label, a)
    ends = stats.norm.interval(0.95, auroc, math.sqrt(s[0, 0]))
    assert metrics.delong_interval(label, a) == pytest.approx([max(ends[0], 0), min(ends[1], 1)], abs=1e-12)


def test_agrees_with_the_bootstrap_on_independent_cases():
    label, a, b = draw(7, n=600)
    _, error, _ = metrics.delong(label, a, b)
    values = [
        metrics.auroc(label[i], a[i]) - metrics.auroc(label[i], b[i]) for i in metrics.resamples(600, np.arange(600), 2000, 0)
    ]
    assert error == pytest.approx(np.std(values), rel=0.08)


def test_p_is_uniform_where_nothing_differs():
    found = []
    for seed in range(300):
        rng = np.random.default_rng(seed)
        label = np.arange(80) % 2
        common = rng.normal(size=80) + label
        found.append(metrics.delong(label, common + rng.normal(size=80), common + rng.normal(size=80))[2])
    assert stats.kstest(found, "uniform").pvalue > 0.01
    assert np.mean(np.array(found) < 0.05) < 0.1


@settings(deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([np.exp, np.arctan, lambda x: x**3 + x]))
def test_only_ranks_count_and_sides_swap(seed, rise):
    label, a, b = draw(seed, n=25)
    label[:4] = [0, 0, 1, 1]
    found, swapped = metrics.delong(label, a, b), metrics.delong(label, b, a)
    assert metrics.delong(label, rise(a), b) == found
    assert swapped == pytest.approx((-found[0], found[1], found[2]))
    flipped = metrics.delong(1 - label, -a, -b)
    assert flipped == pytest.approx(found)


def test_a_score_beside_itself():
    label, a, _ = draw(0, ties=True)
    assert metrics.delong(label, a, a) == (0, 0, 1)
    assert metrics.delong(label, a, 2 * a + 1) == (0, 0, 1)


def test_missing_labels_are_dropped():
    label, a, b = draw(1)
    gaps = np.where(np.arange(len(label)) % 3 == 0, -1, label)
    keep = gaps >= 0
    assert metrics.delong(gaps, a, b) == metrics.delong(label[keep], a[keep], b[keep])
    assert metrics.delong_interval(gaps, a) == metrics.delong_interval(label[keep], a[keep])


def test_what_cannot_be_told_is_not_told():
    label = np.array([0, 0, 0, 1, 1, 1])
    perfect = label + np.arange(6) / 10
    assert metrics.delong_interval(label, perfect) is None
    difference, error, p = metrics.delong(label, perfect, -perfect)
    assert (difference, error) == (1, 0)
    assert np.isnan(p)
    for few in ([0, 0, 0, 0, 0, 1], [1] * 6, [0] * 6, [-1] * 6):
        assert np.isnan(metrics.delong(few, perfect, perfect)).all()
        assert metrics.delong_interval(few, perfect) is None
    gap = perfect.copy()
    gap[2] = np.nan
    assert np.isnan(metrics.delong(label, perfect, gap)).all()
    assert metrics.delong_interval(label, gap) is None
    with pytest.raises(ValueError, match="shapes"):
        metrics.delong(label, perfect, perfect[:3])


def test_large_sets_are_quick():
    import time

    label, a, b = draw(0, n=200_000)
    began = time.perf_counter()
    assert metrics.delong(label, a, b)[1] > 0
    assert time.perf_counter() - began < 2  # all pairs would be 10^10
