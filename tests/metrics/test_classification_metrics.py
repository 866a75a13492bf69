import numpy as np
import pytest
import sklearn.metrics as sk

from medjax import metrics

NAMES = {
    *("auroc", "auprc", "accuracy", "balanced_accuracy", "sensitivity", "specificity", "ppv", "npv", "f1"),
    *("log_loss", "brier", "ece"),
}
PER_CLASS = ("auroc", "auprc", "sensitivity", "specificity", "ppv", "npv", "f1")


def draw(seed, k, n=300, ties=False):
    rng = np.random.default_rng(seed)
    label = rng.choice(k, size=n, p=np.arange(1, k + 1) / (k * (k + 1) / 2))
    score = np.exp(rng.normal(size=(n, k)) + 1.5 * np.eye(k)[label])
    score /= score.sum(1, keepdims=True)
    if ties:
        score = np.round(score, 1) + 0.05
        score /= score.sum(1, keepdims=True)
    return label, score


@pytest.mark.parametrize("seed", range(3))
def test_two_classes_are_the_binary_functions(seed):
    label, score = draw(seed, 2)
    label[::5] = -1
    pred = (score[:, 1] >= 0.4).astype(int)
    found = metrics.classification(label, score, pred, ("well", "ill"))
    assert set(found) == NAMES
    for name, value in found.items():
        given = score[:, 1] if name in ("auroc", "auprc", "log_loss", "brier", "ece") else pred
        assert value == pytest.approx(getattr(metrics, name)(label, given), abs=1e-14), name


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("k", [3, 5])
def test_several_classes_agree_with_sklearn(seed, ties, k):
    label, score = draw(seed, k, ties=ties)
    pred = score.argmax(1)
    classes = tuple("abcde"[:k])
    found = metrics.classification(label, score, pred, classes)
    assert set(found) == NAMES | {"macro_f1"} | {f"{name}/{c}" for name in PER_CLASS for c in classes}
    onehot = np.eye(k, dtype=int)[label]
    tables = sk.multilabel_confusion_matrix(label, pred)
    specificity = tables[:, 0, 0] / tables[:, 0].sum(1)
    npv = tables[:, 0, 0] / tables[:, :, 0].sum(1)
    auprc = sk.average_precision_score(onehot, score, average=None)
    expected = {
        "auroc": sk.roc_auc_score(onehot, score, average="macro"),
        "auprc": auprc.mean(),
        "accuracy": sk.accuracy_score(label, pred),
        "balanced_accuracy": sk.balanced_accuracy_score(label, pred),
        "sensitivity": sk.recall_score(label, pred, average="macro"),
        "specificity": specificity.mean(),
        "ppv": sk.precision_score(label, pred, average="macro"),
        "npv": npv.mean(),
        "f1": sk.f1_score(label, pred, average="macro"),
        "macro_f1": sk.f1_score(label, pred, average="macro"),
        "log_loss": sk.log_loss(label, score),
        "brier": np.mean([sum((row - truth) ** 2) for row, truth in zip(score, onehot)]),
    }
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, abs=1e-12), name
    for c in range(k):
        assert found[f"auroc/{classes[c]}"] == pytest.approx(sk.roc_auc_score(onehot[:, c], score[:, c]), abs=1e-12)
        assert found[f"auprc/{classes[c]}"] == pytest.approx(auprc[c], abs=1e-12)
        assert found[f"specificity/{classes[c]}"] == pytest.approx(specificity[c], abs=1e-12)
        assert found[f"npv/{classes[c]}"] == pytest.approx(npv[c], abs=1e-12)
        assert found[f"f1/{classes[c]}"] == pytest.approx(sk.f1_score(onehot[:, c], pred == c), abs=1e-12)


def test_ece_is_of_the_top_label():
    label, score = draw(1, 4)
    confidence, right = score.max(1), score.argmax(1) == label
    place = np.minimum(np.floor(confidence * 15), 14)
    expected = sum(
        np.mean(place == b) * abs(confidence[place == b].mean() - right[place == b].mean()) for b in np.unique(place)
    )
    found = metrics.classification(label, score, np.zeros(len(label), int), tuple("abcd"))
    assert found["ece"] == pytest.approx(expected, abs=1e-12)


def test_missing_labels_are_dropped():
    label, score = draw(2, 3)
    pred = score.argmax(1)
    gaps = np.where(np.arange(len(label)) % 4 == 0, -1, label)
    keep = gaps >= 0
    assert metrics.classification(gaps, score, pred, tuple("abc")) == metrics.classification(
        label[keep], score[keep], pred[keep], tuple("abc")
    )


def test_a_class_without_cases_is_left_out_of_the_mean():
    label, score = draw(3, 3)
    keep = label != 1
    label, score = label[keep], score[keep]
    pred = score.argmax(1)
    found = metrics.classification(label, score, pred, ("a", "b", "c"))
    assert np.isnan(found["auroc/b"])
    assert np.isnan(found["auprc/b"])
    assert np.isnan(found["sensitivity/b"])
    assert found["auroc"] == pytest.approx((found["auroc/a"] + found["auroc/c"]) / 2)
    recall = [np.mean(pred[label == c] == c) for c in (0, 2)]
    assert found["balanced_accuracy"] == found["sensitivity"] == pytest.approx(np.mean(recall))
    assert found["ppv/b"] == 0  # called b, and never right
    assert found["f1/b"] == 0
    assert found["macro_f1"] == pytest.approx(sk.f1_score(label, pred, labels=[0, 1, 2], average="macro"))


@pytest.mark.parametrize("k", [2, 3])
def test_no_case_is_all_nan(k):
    found = metrics.classification(np.full(4, -1), np.full((4, k), 1 / k), np.zeros(4, int), tuple("abc"[:k]))
    assert set(found) >= NAMES
    assert np.isnan(list(found.values())).all()


@pytest.mark.parametrize("k", [2, 4])
def test_nan_scores_make_their_metrics_nan(k):
    label, score = draw(1, k)
    score[7, 1] = np.nan
    found = metrics.classification(label, score, np.zeros(len(label), int), tuple("abcd"[:k]))
    for name, value in found.items():
        of_scores = name.split("/")[0] in ("auroc", "auprc", "log_loss", "brier", "ece")
        # argmax of a row with a NaN is that NaN, and of two classes only the positive one's score is read.
        assert not of_scores or np.isnan(value) or (k == 4 and name == "log_loss" and label[7] != 1), name
    assert found["accuracy"] == np.mean(label == 0)


def test_all_names_are_defined_in_words():
    found = metrics.classification([0, 1, 2], np.full((3, 3), 1 / 3), [0, 1, 2], tuple("abc"), ordinal=True)
    assert "kappa" in found
    for name in [*found, "auroc_matched"]:
        assert metrics.DEFINITIONS[name.split("/")[0]].endswith(".")
        assert metrics.why_undefined(name) != metrics.why_undefined("no such metric")


def test_confusion_agrees_with_sklearn():
    label, score = draw(0, 4)
    pred = score.argmax(1)
    np.testing.assert_array_equal(metrics.confusion(label, pred, 4), sk.confusion_matrix(label, pred, labels=range(4)))
    assert metrics.confusion([-1, 0, 2], [1, 2, 0], 3).tolist() == [[0, 0, 1], [0, 0, 0], [1, 0, 0]]
    small = metrics.confusion(np.array([15, 0], np.uint8), np.array([15, 1], np.uint8), 17)
    assert (small[15, 15], small[0, 1], small.sum()) == (1, 1, 2)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("k", [2, 3, 6])
def test_kappa_agrees_with_sklearn(seed, k):
    rng = np.random.default_rng(seed)
    label = rng.integers(k, size=200)
    pred = np.clip(label + rng.integers(-1, 2, 200), 0, k - 1)
    expected = sk.cohen_kappa_score(label, pred, weights="quadratic", labels=range(k))
    assert metrics.kappa(label, pred, k) == pytest.approx(expected, abs=1e-12)
    gaps = np.where(np.arange(200) % 3 == 0, -1, label)
    kept = gaps >= 0
    expected = sk.cohen_kappa_score(label[kept], pred[kept], weights="quadratic", labels=range(k))
    assert metrics.kappa(gaps, pred, k) == pytest.approx(expected, abs=1e-12)
    found = metrics.classification(gaps, np.full((200, k), 1 / k), pred, tuple("abcdef"[:k]), ordinal=True)
    assert found["kappa"] == metrics.kappa(gaps, pred, k)
    plain = metrics.classification(gaps, np.full((200, k), 1 / k), pred, tuple("abcdef"[:k]))
    assert {**plain, "kappa": found["kappa"]} == pytest.approx(found, nan_ok=True)


def test_kappa_at_its_ends():
    assert metrics.kappa([0, 1, 2], [0, 1, 2], 3) == 1
    assert metrics.kappa([0, 2], [2, 0], 3) == -1
    assert metrics.kappa([0, 1, 0, 1], [0, 0, 1, 1], 2) == 0
    # Far misses count more than near ones.
    assert metrics.kappa([0, 1, 2, 2], [0, 1, 2, 1], 3) > metrics.kappa([0, 1, 2, 2], [0, 1, 2, 0], 3)
    assert metrics.kappa([0, 2], [1, 1], 3) == 0
    for alike in ([1, 1], [-1, -1]):
        assert np.isnan(metrics.kappa(alike, [1, 1], 3))


def test_wrong_input_is_refused():
    score = np.full((2, 3), 1 / 3)
    with pytest.raises(ValueError, match="score must be"):
        metrics.classification([0, 1], score, [0, 1], ("a", "b"))
    with pytest.raises(ValueError, match="score must be"):
        metrics.classification([0, 0], score[:, :1], [0, 0], ("a",))
    with pytest.raises(ValueError, match="0 to 2"):
        metrics.classification([0, 3], score, [0, 1], ("a", "b", "c"))
    with pytest.raises(ValueError, match="0 to 2"):
        metrics.classification([0, 1], score, [0, -1], ("a", "b", "c"))
    with pytest.raises(ValueError, match="shapes"):
        metrics.confusion([0, 1], [0], 2)
