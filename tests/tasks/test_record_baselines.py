"""Baselines over records: trees as arrays are scikit-learn's, settings come from validation cases, labels may be missing."""

import numpy as np
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier

from medjax.cases import Cases
from medjax.metrics import auroc
from medjax.tasks import record_baselines as simple
from medjax.tasks.record_baselines import Question, predict_trees, staged_trees, tree_arrays


def table(n, f=5, seed=0, k=2):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, f)).astype(np.float32)
    label = np.clip((x[:, 0] + 0.5 * np.abs(x[:, 1]) + 0.3 * rng.normal(size=n)) * k / 2, 0, k - 1).astype(int)
    x[rng.random(x.shape) < 0.3] = np.nan
    x[:, 4] = np.nan if seed == 0 else x[:, 4]  # unknown throughout in training
    return x, label


@pytest.mark.parametrize("k", [2, 4])
def test_trees_kept_as_arrays_predict_what_scikit_learn_does(k):
    x, label = table(500, seed=3, k=k)
    model = HistGradientBoostingClassifier(max_iter=12, max_leaf_nodes=7).fit(x, label)
    arrays = tree_arrays(model, k)
    for at in (x, table(200, seed=1)[0]):
        np.testing.assert_allclose(predict_trees(arrays, at), model.predict_proba(at), atol=1e-6)
    staged = list(model.staged_predict_proba(x))
    for found, rounds in zip(staged_trees(arrays, x, [3, 9]), (3, 9)):
        np.testing.assert_allclose(found, staged[rounds - 1], atol=1e-6)


def test_a_class_that_training_lacks_is_never_given():
    x, label = table(300)
    arrays = tree_arrays(HistGradientBoostingClassifier(max_iter=2).fit(x[:, :4], label * 2), 4)
    found = predict_trees(arrays, x)
    assert found.shape == (300, 4)
    assert (found[:, [1, 3]] == 0).all()


def question(k, *, multilabel=False):
    return Question(lambda c: c["x"], lambda c: c["label"], lambda c, score: {"score": score}, k, multilabel)


def quick(monkeypatch):
    monkeypatch.setattr(simple, "ROUNDS", 20)
    monkeypatch.setattr(simple, "EVERY", 10)
    monkeypatch.setattr(simple, "TREES", ((4, 0.2, 10),))


@pytest.mark.parametrize("name", ["logistic", "boosting", "majority"])
@pytest.mark.parametrize("form", ["two", "four", "labels"])
def test_every_baseline_learns_with_labels_missing(name, form, monkeypatch):
    quick(monkeypatch)
    k = 4 if form == "four" else 2

    def cases(n, seed):
        x, label = table(n, seed=seed, k=k)
        if form == "labels":
            label = np.stack([label, 1 - label], 1).astype(np.int8)
        label[::7] = -1
        return Cases({"x": x, "label": label})

    baseline = getattr(simple, name)(question(k, multilabel=form == "labels"))
    train, val, test = cases(300, 0), cases(100, 1), cases(100, 2)
    arrays = baseline.fit(train, val)
    assert all(np.asarray(a).dtype.kind in "biuf" for a in arrays.values())
    score = baseline.predict(arrays, test)["score"]
    assert score.shape == (100, k)
    assert np.isfinite(score).all()
    if form != "labels":
        np.testing.assert_allclose(score.sum(1), 1)
    if form == "two" and name != "majority":
        assert auroc(test["label"], score[:, 1]) > 0.7


def test_one_class_alone_gives_its_prevalence(monkeypatch):
    quick(monkeypatch)
    x, label = table(60)
    one = Cases({"x": x, "label": np.stack([label * 0, label], 1).astype(np.int8)})
    baseline = simple.boosting(question(2, multilabel=True))
    score = baseline.predict(baseline.fit(one, one), one)["score"]
    assert score[:, 0].max() < 1e-3
    assert len(np.unique(score[:, 1])) > 1
