import time

import numpy as np
import pytest
import sklearn.metrics as sk
from hypothesis import given, settings
from hypothesis import strategies as st

from medjax import metrics

BY_CLASS = ("auroc", "auprc", "sensitivity", "specificity", "ppv", "npv", "f1")
MACRO = (*BY_CLASS, "accuracy", "balanced_accuracy", "log_loss", "brier", "ece")
OF_SCORES = ("auroc", "auprc", "log_loss", "brier", "ece")
CLASSES = ("effusion", "mass", "nodule", "edema")


def draw(seed, n=300, k=4, missing=0.0):
    rng = np.random.default_rng(seed)
    label = (rng.random((n, k)) < np.linspace(0.15, 0.5, k)).astype(np.int8)
    score = 1 / (1 + np.exp(-(rng.normal(size=(n, k)) + 1.5 * label - 1)))
    label[rng.random((n, k)) < missing] = -1
    return label, score, (score >= 0.5).astype(int)


@pytest.mark.parametrize("seed", range(4))
def test_agrees_with_sklearn(seed):
    label, score, pred = draw(seed)
    found = metrics.multilabel(label, score, pred, CLASSES)
    assert set(found) == {*MACRO, "macro_f1"} | {f"{name}/{c}" for name in BY_CLASS for c in CLASSES}
    tables = sk.multilabel_confusion_matrix(label, pred)
    expected = {
        "auroc": sk.roc_auc_score(label, score, average="macro"),
        "auprc": sk.average_precision_score(label, score, average="macro"),
        "accuracy": np.mean([sk.accuracy_score(label[:, c], pred[:, c]) for c in range(4)]),
        "balanced_accuracy": np.mean([sk.balanced_accuracy_score(label[:, c], pred[:, c]) for c in range(4)]),
        "sensitivity": sk.recall_score(label, pred, average="macro"),
        "specificity": np.mean(tables[:, 0, 0] / tables[:, 0].sum(1)),
        "ppv": sk.precision_score(label, pred, average="macro"),
        "npv": np.mean(tables[:, 0, 0] / tables[:, :, 0].sum(1)),
        "f1": sk.f1_score(label, pred, average="macro"),
        "macro_f1": sk.f1_score(label, pred, average="macro"),
        "log_loss": np.mean([sk.log_loss(label[:, c], score[:, c]) for c in range(4)]),
        "brier": np.mean([sk.brier_score_loss(label[:, c], score[:, c]) for c in range(4)]),
        "ece": np.mean([metrics.ece(label[:, c], score[:, c]) for c in range(4)]),
    }
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, abs=1e-12), name
    for c, name in enumerate(CLASSES):
        assert found[f"auroc/{name}"] == pytest.approx(sk.roc_auc_score(label[:, c], score[:, c]), abs=1e-12)
        assert found[f"auprc/{name}"] == pytest.approx(sk.average_precision_score(label[:, c], score[:, c]), abs=1e-12)
        assert found[f"npv/{name}"] == pytest.approx(tables[c, 0, 0] / tables[c, :, 0].sum(), abs=1e-12)
        assert found[f"f1/{name}"] == pytest.approx(sk.f1_score(label[:, c], pred[:, c]), abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_a_missing_label_counts_in_its_own_class_alone(seed):
    label, score, pred = draw(seed, missing=0.4)
    found = metrics.multilabel(label, score, pred, CLASSES)
    known = label >= 0
    for name in MACRO:
        values = [
            getattr(metrics, name)(label[known[:, c], c], (score if name in OF_SCORES else pred)[known[:, c], c])
            for c in range(4)
        ]
        assert found[name] == pytest.approx(np.mean(values), abs=1e-12), name
        if name in BY_CLASS:
            assert [found[f"{name}/{c}"] for c in CLASSES] == pytest.approx(values, abs=1e-14)
    noise = np.random.default_rng(9)
    elsewhere = np.where(known, score, noise.random(score.shape))
    elsewhere[~known & (noise.random(score.shape) < 0.5)] = np.nan
    assert metrics.multilabel(label, elsewhere, np.where(known, pred, 7), CLASSES) == found


def test_a_label_of_one_kind_is_left_out_of_the_means():
    label, score, pred = draw(0)
    label[:, 1] = 0
    label[:, 2] = -1
    found = metrics.multilabel(label, score, pred, CLASSES)
    assert np.isnan(found["auroc/mass"])
    assert np.isnan(found["sensitivity/mass"])
    assert np.isnan(found["specificity/nodule"])
    assert found["auroc"] == pytest.approx((found["auroc/effusion"] + found["auroc/edema"]) / 2)
    assert found["specificity"] == pytest.approx(np.mean([found[f"specificity/{CLASSES[c]}"] for c in (0, 1, 3)]))
    assert found["log_loss"] == pytest.approx(
        np.mean([sk.log_loss(label[:, c], score[:, c], labels=[0, 1]) for c in (0, 1, 3)])
    )


def test_nothing_known_is_all_nan():
    found = metrics.multilabel(np.full((5, 2), -1), np.full((5, 2), 0.5), np.zeros((5, 2)), ("a", "b"))
    assert set(found) >= {*MACRO, "macro_f1", "auroc/a"}
    assert np.isnan(list(found.values())).all()
    empty = metrics.multilabel(np.empty((0, 2), int), np.empty((0, 2)), np.empty((0, 2), int), ("a", "b"))
    assert list(empty) == list(found)


def test_a_nan_score_is_no_score():
    label, score, pred = draw(1)
    score[4, 0] = np.nan
    for name, value in metrics.multilabel(label, score, pred, CLASSES).items():
        assert np.isnan(value) == (name.split("/")[0] in OF_SCORES), name


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 1000), st.permutations(range(4)))
def test_neither_the_order_of_cases_nor_of_labels_matters(seed, order):
    label, score, pred = draw(seed, n=40, missing=0.2)
    rows = np.random.default_rng(seed).permutation(40)
    found = metrics.multilabel(label, score, pred, CLASSES)
    again = metrics.multilabel(*(x[rows][:, order] for x in (label, score, pred)), tuple(CLASSES[c] for c in order))
    assert again == pytest.approx(found, nan_ok=True, abs=1e-12)


def test_fit_for_a_bootstrap():
    label, score, pred = draw(0, n=1000, k=14, missing=0.1)
    classes = tuple("abcdefghijklmn")
    took = []
    for _ in range(20):
        began = time.perf_counter()
        metrics.multilabel(label, score, pred, classes)
        took.append(time.perf_counter() - began)
    assert min(took) < 0.05


def test_all_names_are_defined_in_words():
    for name in metrics.multilabel(*draw(0), CLASSES):
        assert metrics.DEFINITIONS[name.split("/")[0]].endswith(".")
        assert metrics.why_undefined(name) != metrics.why_undefined("no such metric")


def test_wrong_input_is_refused():
    label, score, pred = draw(0)
    with pytest.raises(ValueError, match="shapes"):
        metrics.multilabel(label, score, pred, CLASSES[:3])
    with pytest.raises(ValueError, match="shapes"):
        metrics.multilabel(label, score[:7], pred, CLASSES)
    with pytest.raises(ValueError, match="binary label"):
        metrics.multilabel(label * 2, score, pred, CLASSES)
    with pytest.raises(ValueError, match="decision"):
        metrics.multilabel(label, score, pred * 2, CLASSES)
