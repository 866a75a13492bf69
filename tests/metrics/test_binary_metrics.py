import numpy as np
import pytest
import sklearn.calibration
import sklearn.metrics as sk
from hypothesis import given, settings
from hypothesis import strategies as st

from medjax import metrics

SEEDS = range(6)
OF_SCORES = [metrics.auroc, metrics.auprc, metrics.log_loss, metrics.brier, metrics.ece]
OF_DECISIONS = [
    metrics.accuracy,
    metrics.balanced_accuracy,
    metrics.sensitivity,
    metrics.specificity,
    metrics.ppv,
    metrics.npv,
    metrics.f1,
]


def draw(seed, n=400, ties=False):
    rng = np.random.default_rng(seed)
    label = (rng.random(n) < 0.3).astype(np.int64)
    score = 1 / (1 + np.exp(-(rng.normal(size=n) + label - 0.5)))
    return label, np.round(score, 1) if ties else score


@st.composite
def scored(draw_):
    n = draw_(st.integers(2, 30))
    label = np.array(draw_(st.lists(st.integers(-1, 1), min_size=n, max_size=n)))
    score = np.array(draw_(st.lists(st.integers(-8, 8), min_size=n, max_size=n))) / 8
    return label, score


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("ties", [False, True])
def test_scores_agree_with_sklearn(seed, ties):
    label, score = draw(seed, ties=ties)
    inner = np.clip(score, 1e-6, 1 - 1e-6)
    assert metrics.auroc(label, score) == pytest.approx(sk.roc_auc_score(label, score), abs=1e-12)
    assert metrics.auprc(label, score) == pytest.approx(sk.average_precision_score(label, score), abs=1e-12)
    assert metrics.brier(label, score) == pytest.approx(sk.brier_score_loss(label, score), abs=1e-12)
    assert metrics.log_loss(label, inner) == pytest.approx(sk.log_loss(label, inner), abs=1e-12)


@pytest.mark.parametrize("seed", SEEDS)
def test_decisions_agree_with_sklearn(seed):
    label, score = draw(seed)
    pred = (score >= 0.6).astype(int)
    expected = {
        metrics.accuracy: sk.accuracy_score(label, pred),
        metrics.balanced_accuracy: sk.balanced_accuracy_score(label, pred),
        metrics.sensitivity: sk.recall_score(label, pred),
        metrics.specificity: sk.recall_score(label, pred, pos_label=0),
        metrics.ppv: sk.precision_score(label, pred),
        metrics.npv: sk.precision_score(label, pred, pos_label=0),
        metrics.f1: sk.f1_score(label, pred),
    }
    for metric, value in expected.items():
        assert metric(label, pred) == pytest.approx(value, abs=1e-12), metric.__name__
        assert metric(label, pred.astype(bool)) == metric(label, pred)


@settings(deadline=None)
@given(scored())
def test_auroc_by_brute_force(case):
    label, score = case
    pairs = [(a > b) + (a == b) / 2 for a in score[label == 1] for b in score[label == 0]]
    expected = np.mean(pairs) if pairs else np.nan
    np.testing.assert_allclose(metrics.auroc(label, score), expected, atol=1e-12)


@settings(deadline=None)
@given(scored())
def test_auprc_by_walking_down_the_thresholds(case):
    label, score = case
    label, score = label[label >= 0], score[label >= 0]
    value, recall = 0.0, 0.0
    if not 0 < label.sum() < len(label):
        assert np.isnan(metrics.auprc(label, score))
        return
    for t in sorted(set(score), reverse=True):
        called = label[score >= t]
        value += (called.sum() / label.sum() - recall) * called.mean()
        recall = called.sum() / label.sum()
    assert metrics.auprc(label, score) == pytest.approx(value, abs=1e-12)


@settings(deadline=None)
@given(scored(), st.sampled_from([np.exp, np.arctan, lambda x: x**3 + x, lambda x: 8 * x - 100]))
def test_ranking_ignores_increasing_maps(case, rise):
    label, score = case
    for metric in (metrics.auroc, metrics.auprc):
        np.testing.assert_array_equal(metric(label, rise(score)), metric(label, score))


@settings(deadline=None)
@given(scored())
def test_auroc_of_the_opposite(case):
    label, score = case
    np.testing.assert_allclose(metrics.auroc(label, -score), 1 - metrics.auroc(label, score), atol=1e-12)


@pytest.mark.parametrize("metric", [*OF_SCORES, *OF_DECISIONS], ids=lambda m: m.__name__)
def test_missing_labels_count_for_nothing(metric):
    label, score = draw(1)
    values = score if metric in OF_SCORES else (score >= 0.5).astype(int)
    gaps = np.where(np.arange(len(label)) % 3 == 0, -1, label)
    assert metric(gaps, values) == metric(label[gaps >= 0], values[gaps >= 0]) != metric(label, values)


def test_undefined_is_nan():
    half = np.full(3, 0.5)
    ones, zeros = np.ones(3, int), np.zeros(3, int)
    for metric in (metrics.auroc, metrics.auprc):
        assert np.isnan(metric(ones, half))
        assert np.isnan(metric(zeros, half))
    assert np.isnan(metrics.sensitivity(zeros, ones))
    assert np.isnan(metrics.specificity(ones, ones))
    assert np.isnan(metrics.balanced_accuracy(ones, ones))
    assert np.isnan(metrics.ppv(ones, zeros))
    assert np.isnan(metrics.npv(ones, ones))
    assert np.isnan(metrics.f1(zeros, zeros))
    assert metrics.f1(ones, zeros) == 0
    for metric in OF_SCORES:
        assert np.isnan(metric(np.full(3, -1), half))
        assert np.isnan(metric([0, 1, 1], [0.1, np.nan, 0.3])), metric.__name__
    for metric in OF_DECISIONS:
        assert np.isnan(metric(np.full(3, -1), ones))


def test_wrong_input_is_refused():
    with pytest.raises(ValueError, match="shapes"):
        metrics.auroc([0, 1], [[0.1], [0.2]])
    with pytest.raises(ValueError, match="binary label"):
        metrics.brier([0, 2], [0.1, 0.2])
    with pytest.raises(ValueError, match="decision"):
        metrics.f1([0, 1], [0, 2])


def test_certain_and_wrong_is_clipped():
    assert metrics.log_loss([1], [0.0]) == pytest.approx(-np.log(1e-15))
    assert metrics.log_loss([0], np.ones(1, np.float32)) == pytest.approx(-np.log(1e-15), rel=1e-3)


@pytest.mark.parametrize("seed", SEEDS)
def test_ece_bin_by_bin(seed):
    label, score = draw(seed)
    expected = 0.0
    for low in np.arange(15) / 15:
        inside = (score >= low) & (score < low + 1 / 15)
        if inside.any():
            expected += inside.mean() * abs(score[inside].mean() - label[inside].mean())
    assert metrics.ece(label, score) == pytest.approx(expected, abs=1e-12)
    assert metrics.ece(label, score, bins=1) == pytest.approx(abs(score.mean() - label.mean()), abs=1e-12)


@pytest.mark.parametrize("seed", SEEDS)
def test_reliability_agrees_with_sklearn(seed):
    label, score = draw(seed, n=40)
    mean, rate, count = metrics.reliability(label, score)
    observed, predicted = sklearn.calibration.calibration_curve(label, score, n_bins=10)
    np.testing.assert_allclose(mean, predicted)
    np.testing.assert_allclose(rate, observed)
    assert count.sum() == 40
    assert count.min() > 0
    assert np.sum(count * np.abs(mean - rate)) / 40 == pytest.approx(metrics.ece(label, score, bins=10))


def test_reliability_holds_the_ends():
    mean, rate, count = metrics.reliability([0, 1, -1], [0.0, 1.0, 0.5])
    assert (mean.tolist(), rate.tolist(), count.tolist()) == ([0, 1], [0, 1], [1, 1])


@pytest.mark.parametrize("ties", [False, True])
def test_roc_curve_agrees_with_sklearn(ties):
    label, score = draw(2, ties=ties)
    for ours, theirs in zip(metrics.roc_curve(label, score), sk.roc_curve(label, score, drop_intermediate=False)):
        np.testing.assert_allclose(ours, theirs)


def test_roc_curve_of_one_class():
    fpr, tpr, threshold = metrics.roc_curve([1, 1, -1], [0.2, 0.4, 0.9])
    assert np.isnan(fpr).all()
    assert tpr.tolist() == [0, 0.5, 1]
    assert threshold.tolist() == [np.inf, 0.4, 0.2]


def test_roc_band_agrees_with_resampled_curves():
    label, score = draw(3, n=120, ties=True)
    label[::7] = -1
    clusters = np.arange(120) // 3
    grid = np.array([0.0, 0.1, 0.5, 1.0])
    lo, hi = metrics.roc_band(label, score, clusters, grid=grid, resamples=60, seed=4)
    known = label >= 0
    y, s = label[known], score[known]
    heights = []
    for index in metrics.resamples(known.sum(), clusters[known], 60, 4):
        fpr, tpr, _ = sk.roc_curve(y[index], s[index], drop_intermediate=False)
        # Right of a vertical stretch nothing changes: its upper end is the largest height at or left of the rate.
        heights.append([max(tpr[fpr == g], default=np.interp(g, fpr, tpr)) for g in grid])
    fpr, tpr, _ = sk.roc_curve(y, s, drop_intermediate=False)
    point = np.array([max(tpr[fpr == g], default=np.interp(g, fpr, tpr)) for g in grid])
    np.testing.assert_allclose(lo, np.minimum(np.percentile(heights, 2.5, axis=0), point))
    np.testing.assert_allclose(hi, np.maximum(np.percentile(heights, 97.5, axis=0), point))
    assert (lo[1:3] < hi[1:3]).all()
    assert lo[3] == hi[3] == 1


def test_roc_band_needs_clusters():
    label, score = draw(3, n=90)
    lo, hi = metrics.roc_band(label, score, np.arange(90) % 9, grid=[0.1, 0.2], resamples=5)
    assert np.isnan([*lo, *hi]).all()
    lo, hi = metrics.roc_band(np.full(90, -1), score, np.arange(90), grid=[0.1, 0.2], resamples=5)
    assert np.isnan([*lo, *hi]).all()


def youden(label, score, threshold):
    called = score >= threshold
    return called[label == 1].mean() - called[label == 0].mean()


@settings(deadline=None)
@given(scored())
def test_youden_threshold_is_the_best(case):
    label, score = case
    threshold = metrics.youden_threshold(label, score)
    if len(set(label[label >= 0])) < 2:
        assert threshold == 0.5
        return
    best = max(youden(label, score, t) for t in [*score, 9])
    if best < 1e-9:
        assert threshold == 0.5
    else:
        assert youden(label, score, threshold) == pytest.approx(best, abs=1e-12)
        assert threshold not in score[label >= 0] or best < 1  # in the middle, never on a score, where classes are apart


def test_youden_threshold_is_in_the_middle_of_the_widest_stretch():
    assert metrics.youden_threshold([0, 0, 1, 1], [0.1, 0.2, 0.6, 0.9]) == pytest.approx(0.4)
    # J is 1/2 on (0.1, 0.2] and on (0.3, 0.9]: the second is wider.
    assert metrics.youden_threshold([0, 1, 0, 1], [0.1, 0.2, 0.3, 0.9]) == pytest.approx(0.6)
    # Equally wide: the lower.
    assert metrics.youden_threshold([0, 1, 0, 1], [0.0, 0.25, 0.5, 0.75]) == pytest.approx(0.125)
    # A positive and a negative on one score leave J as it was, and the stretch goes on through it.
    assert metrics.youden_threshold([0, 0, 1, 1], [0.0, 0.5, 0.5, 1.0]) == pytest.approx(0.5)
    for one_class in ([0, 0], [1, 1], [-1, -1]):
        assert metrics.youden_threshold(one_class, [0.1, 0.9]) == 0.5
    assert metrics.youden_threshold([0, 1], [0.3, 0.3]) == 0.5
    assert metrics.youden_threshold([0, 1], [0.9, 0.1]) == 0.5
    assert metrics.youden_threshold([0, 1], [np.nan, 0.1]) == 0.5


@settings(max_examples=20, deadline=None)
@given(st.floats(1e-6, 1))
def test_youden_threshold_between_neighbouring_floats(low):
    high = np.nextafter(low, 2)
    assert youden(np.array([0, 1]), np.array([low, high]), metrics.youden_threshold([0, 1], [low, high])) == 1


def rates_at(label, score, threshold):
    called = score >= threshold
    return called[label == 1].mean(), (~called)[label == 0].mean()


@settings(deadline=None)
@given(scored(), st.sampled_from([0, 0.25, 0.5, 0.9, 0.95, 1]), st.booleans())
def test_threshold_at_is_the_best_that_keeps_the_rate(case, wanted, keep_specificity):
    label, score = case
    keep = {"specificity" if keep_specificity else "sensitivity": wanted}
    threshold = metrics.threshold_at(label, score, **keep)
    if len(set(label[label >= 0])) < 2:
        assert threshold == 0.5
        return
    known = score[label >= 0]
    # (the rate that is kept, the other) at every threshold that differs.
    pairs = [rates_at(label, score, t) for t in [*known, 9]]
    pairs = [pair[::-1] if keep_specificity else pair for pair in pairs]
    found = rates_at(label, score, threshold)
    found = found[::-1] if keep_specificity else found
    best = max((other, kept) for kept, other in pairs if kept >= wanted)
    assert found == best[::-1]
    if known.min() < threshold < known.max():
        below, above = known[known < threshold].max(), known[known >= threshold].min()
        assert threshold == (below + above) / 2


def test_threshold_at_by_hand():
    label, score = [0, 0, 1, 0, 1, 1], [0.1, 0.2, 0.3, 0.4, 0.6, 0.9]
    assert metrics.threshold_at(label, score, specificity=1.0) == pytest.approx(0.5)
    assert metrics.threshold_at(label, score, specificity=0.6) == pytest.approx(0.25)
    assert metrics.threshold_at(label, score, sensitivity=0.6) == pytest.approx(0.5)
    assert metrics.threshold_at(label, score, sensitivity=0.7) == pytest.approx(0.25)
    # Specificity 0 would let the threshold fall to the lowest score, for nothing: all positives are found before.
    assert metrics.threshold_at(label, score, specificity=0.0) == pytest.approx(0.25)
    assert metrics.threshold_at(label, score, sensitivity=0.0) == pytest.approx(0.5)
    # Nobody can be called positive, or everybody must be.
    assert metrics.threshold_at([1, 0], [0.2, 0.9], specificity=0.5) == np.nextafter(0.9, 1)
    assert metrics.threshold_at([1, 0], [0.2, 0.9], sensitivity=0.5) == 0.2
    # 9 of 10 is .9, though 1 - 1 / 10 in floats need not be.
    ten = [0] * 10 + [1]
    assert metrics.threshold_at(ten, [*np.arange(10) / 10, 0.85], specificity=0.9) == pytest.approx(0.825)
    for one_class in ([0, 0], [1, 1], [-1, -1]):
        assert metrics.threshold_at(one_class, [0.1, 0.9], specificity=0.9) == 0.5
    assert metrics.threshold_at([0, 1], [np.nan, 0.1], sensitivity=0.9) == 0.5
    for wrong in ({}, {"specificity": 0.5, "sensitivity": 0.5}, {"specificity": 1.1}, {"sensitivity": np.nan}):
        with pytest.raises(ValueError, match="0 to 1"):
            metrics.threshold_at([0, 1], [0.1, 0.9], **wrong)


@pytest.mark.parametrize("seed", SEEDS)
def test_predictive_values_are_the_counts_at_the_datas_own_prevalence(seed):
    label, score = draw(seed)
    pred = score >= 0.6
    rates = metrics.sensitivity(label, pred), metrics.specificity(label, pred)
    expected = metrics.ppv(label, pred), metrics.npv(label, pred)
    assert metrics.predictive_values(*rates, label.mean()) == pytest.approx(expected, abs=1e-12)
    # At another prevalence: as if each negative were there four times.
    many = np.concatenate([label, *[label[label == 0]] * 3])
    called = np.concatenate([pred, *[pred[label == 0]] * 3])
    expected = metrics.ppv(many, called), metrics.npv(many, called)
    assert metrics.predictive_values(*rates, many.mean()) == pytest.approx(expected, abs=1e-12)


def test_predictive_values_at_the_ends():
    assert metrics.predictive_values(0.9, 0.8, 0.0) == (0, 1)
    assert metrics.predictive_values(0.9, 0.8, 1.0) == (1, 0)
    assert metrics.predictive_values(0.9, 0.9, 0.01)[0] == pytest.approx(1 / 12)
    nobody, everybody = metrics.predictive_values(0.0, 1.0, 0.3), metrics.predictive_values(1.0, 0.0, 0.3)
    assert np.isnan(nobody[0])
    assert np.isnan(everybody[1])
    assert (nobody[1], everybody[0]) == pytest.approx((0.7, 0.3))
    assert np.isnan(metrics.predictive_values(np.nan, 0.5, 0.3)).all()
    with pytest.raises(ValueError, match="0 to 1"):
        metrics.predictive_values(0.5, 0.5, 1.5)
