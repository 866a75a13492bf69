import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medjax import metrics
from medjax.metrics.bootstrap import number_clusters


def mean_of(values):
    return lambda index: {"mean": float(values[index].mean())}


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 6), min_size=1, max_size=30), st.integers(0, 99))
def test_clusters_stay_whole(clusters, seed):
    clusters = np.array(clusters)
    k = len(set(clusters))
    for index in metrics.resamples(len(clusters), clusters, 3, seed):
        copies = np.bincount(index, minlength=len(clusters))
        drawn = 0
        for c in set(clusters):
            assert len(set(copies[clusters == c])) == 1
            drawn += copies[clusters == c][0]
        assert drawn == k


def test_resamples_are_deterministic_and_fair():
    clusters = np.repeat(np.arange(40), [1, 2, 3, 4] * 10)
    first = list(metrics.resamples(100, clusters, 400, 3))
    again = list(metrics.resamples(100, clusters, 400, 3))
    assert all(np.array_equal(a, b) for a, b in zip(first, again))
    assert not np.array_equal(first[0], next(metrics.resamples(100, clusters, 400, 4)))
    assert not np.array_equal(first[0], first[1])
    # A prefix of the draws does not depend on how many are asked for.
    assert np.array_equal(first[1], list(metrics.resamples(100, clusters, 2, 3))[1])
    copies = np.bincount(np.concatenate(first), minlength=100) / 400
    np.testing.assert_allclose(copies, 1, atol=0.25)  # 5 standard errors


@pytest.mark.parametrize(
    "clusters",
    [
        np.array(["b", "a", "b", "c"]),
        np.array(["b", "a", "b", "c"], dtype=object),
        np.array([b"b", b"a", b"b", b"c"]),
        np.array([7.5, -1.0, 7.5, 2.0]),
        np.array([2, 1, 2, 3], np.uint8),
        np.array(["x", None, "x", 3], dtype=object),
    ],
)
def test_clusters_of_any_type(clusters):
    assert number_clusters(clusters).tolist() == [0, 1, 0, 2]
    same = itertools.starmap(
        np.array_equal, zip(metrics.resamples(4, clusters, 9, 0), metrics.resamples(4, [0, 1, 0, 2], 9, 0), strict=True)
    )
    assert all(same)


def test_rows_without_a_cluster_stand_alone():
    assert number_clusters(np.array([np.nan, 1.0, np.nan])).tolist() == [0, 1, 2]


def test_length_is_checked_at_the_call():
    with pytest.raises(ValueError, match="5 rows but 4"):
        metrics.resamples(5, np.arange(4))


def test_interval_is_the_percentiles_of_the_resamples():
    values = np.random.default_rng(0).normal(size=60)
    clusters = np.arange(60) // 2
    found = metrics.bootstrap(mean_of(values), 60, clusters, resamples=200, seed=5)
    means = [values[index].mean() for index in metrics.resamples(60, clusters, 200, 5)]
    assert found == {"mean": pytest.approx([np.percentile(means, 2.5), np.percentile(means, 97.5)])}
    assert found == metrics.bootstrap(mean_of(values), 60, clusters, resamples=200, seed=5)


def test_coverage_of_a_known_mean():
    rng = np.random.default_rng(7)
    hits = clustered = independent = 0
    for trial in range(150):
        effect = rng.normal(size=30)
        values = np.repeat(effect, 4) + 0.3 * rng.normal(size=120)
        lo, hi = metrics.bootstrap(mean_of(values), 120, np.arange(120) // 4, resamples=120, seed=trial)["mean"]
        hits += lo <= 0 <= hi
        clustered += hi - lo
        lo, hi = metrics.bootstrap(mean_of(values), 120, np.arange(120), resamples=120, seed=trial)["mean"]
        independent += hi - lo
    assert 0.86 < hits / 150 <= 0.99
    # Four rows that are nearly one: the standard error is nearly twice that of independent rows.
    assert clustered / independent == pytest.approx(np.sqrt(4 * (1 + 0.09 / 4) / 1.09), rel=0.05)


def test_few_clusters_give_no_interval():
    values = np.arange(90.0)
    assert metrics.bootstrap(mean_of(values), 90, np.arange(90) % 9, resamples=20) == {"mean": None}
    assert metrics.bootstrap(mean_of(values), 90, np.arange(90) % 10, resamples=20)["mean"] is not None
    assert metrics.why_no_interval(np.arange(90) % 9) == "9 clusters, and an interval needs 10"
    assert "half" in metrics.why_no_interval(np.arange(90))
    assert metrics.bootstrap(lambda index: {"n": np.nan}, 0, [], resamples=5) == {"n": None}


@pytest.mark.parametrize(("share", "given"), [(0.3, True), (0.7, False)])
def test_resamples_that_are_undefined(share, given):
    state = {"calls": 0}

    def measure(index):
        state["calls"] += 1
        gone = state["calls"] > 1 and (state["calls"] % 10) < 10 * share
        # Undefined as nan, and as a name that is not there.
        return {"a": np.nan if gone else 1.0, **({} if gone else {"b": 2.0})}

    found = metrics.bootstrap(measure, 20, np.arange(20), resamples=100)
    assert found == ({"a": [1, 1], "b": [2, 2]} if given else {"a": None, "b": None})


def test_what_is_undefined_on_all_cases_has_no_interval():
    found = metrics.bootstrap(lambda index: {"a": np.nan if len(set(index)) == 20 else 1.0}, 20, np.arange(20), resamples=50)
    assert found == {"a": None}


def test_interval_holds_the_estimate_but_for_biased_metrics():
    names = ("auroc", "ece", "hd95", "fid", "kid", "ece/a")

    def measure(index):
        return dict.fromkeys(names, 0.0 if len(set(index)) == 20 else 1.0)

    found = metrics.bootstrap(measure, 20, np.arange(20), resamples=50)
    assert found == {name: [0, 1] if name == "auroc" else [1, 1] for name in names}


def test_paired_differences():
    rng = np.random.default_rng(2)
    a = rng.normal(size=80)
    b = a - 0.1 + 0.01 * rng.normal(size=80)
    clusters = np.arange(80) // 2

    def measure_a(index):
        return {"mean": a[index].mean(), "only a": 1.0, "gone": np.nan}

    def measure_b(index):
        return {"gone": 1.0, "mean": b[index].mean(), "only b": 1.0}

    found = metrics.paired_bootstrap(measure_a, measure_b, 80, clusters, resamples=300, seed=1)
    assert set(found) == {"mean", "gone"}
    assert np.isnan(found["gone"]["difference"])
    assert found["gone"]["ci95"] is None
    assert found["mean"]["difference"] == pytest.approx((a - b).mean())
    # The mean is linear: the paired interval is that of the mean of the differences, far narrower than either alone.
    alone = metrics.bootstrap(mean_of(a - b), 80, clusters, resamples=300, seed=1)["mean"]
    assert found["mean"]["ci95"] == pytest.approx(alone)
    assert 0.08 < found["mean"]["ci95"][0] < found["mean"]["ci95"][1] < 0.12
    few = metrics.paired_bootstrap(measure_a, measure_b, 80, np.arange(80) % 5, resamples=9)
    assert few["mean"] == {"difference": found["mean"]["difference"], "ci95": None}


def test_bootstrap_of_a_classification():
    rng = np.random.default_rng(0)
    label = rng.integers(0, 2, 150)
    p = 1 / (1 + np.exp(-rng.normal(size=150) - 2 * label + 1))
    score, pred = np.stack([1 - p, p], 1), (p > 0.5).astype(int)

    def measure(index):
        return metrics.classification(label[index], score[index], pred[index], ("well", "ill"))

    point, found = measure(np.arange(150)), metrics.bootstrap(measure, 150, np.arange(150), resamples=200)
    assert set(found) == set(point)
    for name, (lo, hi) in found.items():
        assert lo < hi
        assert name == "ece" or lo <= point[name] <= hi
    # Hanley & McNeil's standard error of the AUROC, from its value alone, is near that of the bootstrap.
    auc, positives = point["auroc"], label.sum()
    q1, q2 = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    variance = auc * (1 - auc) + (positives - 1) * (q1 - auc**2) + (150 - positives - 1) * (q2 - auc**2)
    error = np.sqrt(variance / (positives * (150 - positives)))
    assert found["auroc"][1] - found["auroc"][0] == pytest.approx(2 * 1.96 * error, rel=0.35)
