"""Simple models beside the network: what their kept arrays give must be what scikit-learn's own models give."""

import io

import numpy as np
import pytest
import sklearn.ensemble
import sklearn.linear_model
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.decomposition import PCA
from sklearn.metrics import log_loss

from medjax.cases import Cases
from medjax.tasks import baselines

KINDS = {"majority": baselines.majority, "logistic": baselines.logistic, "header": baselines.header}


def make_cases(label, seed=0, size=16):
    """Pictures that are the brighter the higher the label, with a header that knows the label a little."""
    rng = np.random.default_rng(seed)
    label = np.asarray(label)
    images = rng.normal(100, 30, (len(label), size, size, 1)) + 10 * np.maximum(label, 0)[:, None, None, None]
    header = np.column_stack([label + rng.normal(0, 0.7, len(label)), rng.integers(0, 3, len(label))]).astype(np.float32)
    return Cases({"image": images.clip(0, 255).astype(np.uint8), "header": header, "label": label})


def labels(n, k, seed):
    return np.random.default_rng(seed).integers(0, k, n)


@pytest.fixture
def seen(monkeypatch):
    """Every model that scikit-learn fits, in order."""
    models = []
    for module, name in ((sklearn.linear_model, "LogisticRegression"), (sklearn.ensemble, "RandomForestClassifier")):
        original = getattr(module, name)

        class Remembered(original):
            def fit(self, *args, **kwargs):
                models.append(self)
                return super().fit(*args, **kwargs)

        monkeypatch.setattr(module, name, Remembered)
    return models


def features(name, train):
    """cases -> what scikit-learn's model of the baseline takes: the header, or pixels by its own whitened PCA."""
    if name == "header":
        return lambda cases: cases["header"]

    def pixels(cases):
        return cases["image"].reshape(len(cases), -1).astype(np.float32) / 255

    known = pixels(train.take(train["label"] >= 0))
    pca = PCA(min(100, len(known) - 1), svd_solver="randomized", random_state=0, whiten=True).fit(known)
    return lambda cases: pca.transform(pixels(cases))


# Pixels and their projection are float32, and the order of its sums is not scikit-learn's.
TOLERANCE = {"logistic": 2e-5, "header": 1e-6}


@pytest.mark.parametrize("k", [2, 3])
@pytest.mark.parametrize("name", ["logistic", "header"])
def test_equals_scikit_learn(name, k, seen):
    train, val, test = (make_cases(labels(n, k, seed), seed) for n, seed in ((120, 0), (60, 1), (70, 2)))
    baseline = KINDS[name](k)
    arrays = baseline.fit(train, val)
    inputs = features(name, train)
    scores = [model.predict_proba(inputs(val)) for model in seen]
    losses = [log_loss(val["label"], score, labels=range(k)) for score in scores]
    best = seen[int(np.argmin(losses))]  # the setting that validation data prefer, and no other
    assert float(arrays["setting"]) == (best.C if name == "logistic" else best.min_samples_leaf)
    assert len(seen) > 1
    ours = baseline.predict(arrays, test)["score"]
    np.testing.assert_allclose(ours, best.predict_proba(inputs(test)), atol=TOLERANCE[name])
    assert ours.std(0).min() > 1e-3  # it does tell cases apart


@pytest.mark.parametrize("name", ["logistic", "header"])
def test_a_class_that_training_lacks_is_never_chosen(name, seen):
    train = make_cases(labels(100, 2, 0) * 2)  # classes 0 and 2, not 1
    val = make_cases(labels(40, 3, 1), 1)
    baseline = KINDS[name](3)
    arrays = baseline.fit(train, val)
    score = baseline.predict(arrays, val)["score"]
    setting = "C" if name == "logistic" else "min_samples_leaf"
    model = next(m for m in seen if getattr(m, setting) == float(arrays["setting"]))
    np.testing.assert_allclose(score[:, [0, 2]], model.predict_proba(features(name, train)(val)), atol=TOLERANCE[name])
    np.testing.assert_array_equal(score[:, 1], 0)


@pytest.mark.parametrize("name", KINDS)
def test_cases_without_a_label_are_left_out(name):
    label = labels(120, 2, 0)
    some = np.where(np.arange(120) % 4 == 0, -1, label)
    with_gaps, val = make_cases(some), make_cases(labels(40, 2, 1), 1)
    baseline = KINDS[name](2)
    a, b = (baseline.fit(train, val) for train in (with_gaps, with_gaps.take(some >= 0)))
    assert a.keys() == b.keys()
    for key in a:
        np.testing.assert_array_equal(a[key], b[key])


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("k", [2, 3])
def test_arrays_survive_a_file_without_pickle(name, k):
    train, val = make_cases(labels(90, k, 0)), make_cases(labels(40, k, 1), 1)
    baseline = KINDS[name](k)
    arrays = baseline.fit(train, val)
    file = io.BytesIO()
    np.savez_compressed(file, allow_pickle=False, **arrays)
    file.seek(0)
    with np.load(file, allow_pickle=False) as kept:
        again = baseline.predict(dict(kept), val)["score"]
    np.testing.assert_array_equal(again, baseline.predict(arrays, val)["score"])
    assert again.shape == (40, k)
    assert again.min() >= 0
    np.testing.assert_allclose(again.sum(1), 1, atol=1e-6)


@given(st.lists(st.integers(-1, 2), min_size=1, max_size=30).filter(lambda values: max(values) >= 0))
@settings(deadline=None, max_examples=30)
def test_majority_is_the_prevalence(label):
    cases = Cases({"label": np.array(label)})
    score = baselines.majority(3).predict(baselines.majority(3).fit(cases, cases), cases)["score"]
    known = [value for value in label if value >= 0]
    np.testing.assert_allclose(score, [[known.count(k) / len(known) for k in range(3)]] * len(label))


def test_large_pictures_are_reduced_by_averaging_blocks():
    image = np.random.default_rng(0).integers(0, 256, (2, 130, 128, 1), np.uint8)
    reduced = baselines._pixels(image).reshape(2, 65, 64)
    np.testing.assert_allclose(reduced[1, 3, 5], image[1, 6:8, 10:12].mean() / 255, rtol=1e-6)


def make_labels(n, seed=0):
    """Cases of three labels with gaps; the third is never positive."""
    rng = np.random.default_rng(seed)
    label = (rng.random((n, 3)) < (0.5, 0.2, 0.0)).astype(np.int8)
    images = rng.normal(90, 30, (n, 16, 16, 1)) + 15 * label[:, :1, None, None]
    images[:, :8] += 25 * label[:, 1, None, None, None]
    header = np.column_stack([label[:, 0] + rng.normal(0, 0.7, n), rng.integers(0, 3, n)]).astype(np.float32)
    label[rng.random(label.shape) < 0.2] = -1
    return Cases({"image": images.clip(0, 255).astype(np.uint8), "header": header, "label": label})


@pytest.mark.parametrize("name", ["logistic", "header"])
def test_each_label_is_scikit_learns_own_model(name, seen):
    """One model a label and setting, on the cases where it is known; the setting is the best on average over the labels."""
    train, val, test = (make_labels(n, seed) for n, seed in ((300, 0), (120, 1), (70, 2)))
    baseline = KINDS[name](3, multilabel=True)
    arrays = baseline.fit(train, val)
    known_cases = train.take((train["label"] >= 0).any(1))
    inputs = features(name, Cases({**known_cases.columns, "label": np.zeros(len(train), int)}, known_cases.index))
    setting = "C" if name == "logistic" else "min_samples_leaf"
    models = {}
    for model in seen:
        models.setdefault(getattr(model, setting), []).append(model)

    def scores(of, cases):
        columns = [m.predict_proba(inputs(cases)) for m in of]
        columns = [c[:, 1] if c.shape[1] == 2 else np.zeros(len(c)) for c in columns]
        return np.stack([*columns, *[np.zeros(len(cases))] * (3 - len(columns))], 1)  # the third label has no linear model

    def loss(of):
        known, score = val["label"] >= 0, scores(of, val)
        return np.mean([log_loss(val["label"][known[:, k], k], score[known[:, k], k], labels=(0, 1)) for k in range(2)])

    best = min(models, key=lambda value: loss(models[value]))
    assert len(models) > 1
    assert float(arrays["setting"]) == best
    ours = baseline.predict(arrays, test)["score"]
    np.testing.assert_allclose(ours, scores(models[best], test), atol=TOLERANCE[name])
    assert ours[:, :2].std(0).min() > 1e-3


def test_majority_of_labels_is_the_prevalence_where_known():
    label = np.int8([[1, 0, -1], [1, -1, -1], [-1, 1, -1], [0, 0, -1]])
    cases = Cases({"label": label})
    baseline = baselines.majority(3, multilabel=True)
    score = baseline.predict(baseline.fit(cases, cases), cases)["score"]
    np.testing.assert_allclose(score, [[2 / 3, 1 / 3, 0.5]] * 4)


@pytest.mark.parametrize("name", KINDS)
def test_labels_that_are_nowhere_known_do_not_stop_a_baseline(name):
    train, val = make_labels(100), make_labels(40, 1)
    for cases in (train, val):
        cases.columns["label"][:, 1] = -1
    baseline = KINDS[name](3, multilabel=True)
    arrays = baseline.fit(train, val)
    file = io.BytesIO()
    np.savez_compressed(file, allow_pickle=False, **arrays)
    file.seek(0)
    with np.load(file, allow_pickle=False) as kept:
        score = baseline.predict(dict(kept), val)["score"]
    np.testing.assert_allclose(score[:, 1], 0.5, atol=1e-6)
    np.testing.assert_array_equal(score, baseline.predict(arrays, val)["score"])
    assert ((score >= 0) & (score <= 1)).all()


def test_large_sets_are_bounded(monkeypatch):
    """A baseline is fitted on so many cases, in so much memory, and reads them a part at a time."""
    sizes = []

    class Watched(Cases):
        def __getitem__(self, name):
            if name == "image":
                sizes.append(len(self))
            return super().__getitem__(name)

        def take(self, rows):
            return Watched(self.columns, self.index[rows])

    cases = Watched(make_cases(labels(500, 2, 0)).columns)
    monkeypatch.setattr(baselines, "READ_CASES", 64)
    for bound, value, most in (("FIT_CASES", 200, 200), ("FIT_VALUES", 150 * 16 * 16, 150)):
        with monkeypatch.context() as patch:
            patch.setattr(baselines, bound, value)
            sizes.clear()
            arrays = baselines.logistic(2).fit(cases, cases)
            assert max(sizes) <= 64
            assert sum(sizes) <= 1 + 2 * most  # the first case, and then each side once
        sizes.clear()
        score = baselines.logistic(2).predict(arrays, cases)["score"]
        assert (len(score), sum(sizes), max(sizes)) == (500, 500, 64)
        assert ((score[:, 1] > 0.5) == (cases["label"] == 1)).mean() > 0.8


def test_volumes_are_reduced_in_three_dimensions():
    volume = np.random.default_rng(0).integers(0, 256, (2, 57, 28, 60, 1), np.uint8)
    reduced = baselines._pixels(volume).reshape(2, 19, 28, 20)
    np.testing.assert_allclose(reduced[1, 3, 5, 7], volume[1, 9:12, 5, 21:24].mean() / 255, rtol=1e-6)
