"""One class out of several: what is chosen on validation data, what is measured, and the figures."""

import dataclasses
import types

import numpy as np
import optax
import pytest
from families import cnn, names
from scipy.special import softmax
from sklearn.metrics import cohen_kappa_score, confusion_matrix

from medjax import metrics
from medjax.cases import Cases
from medjax.config import Decide
from medjax.core import About
from medjax.models.resnet import ResNet
from medjax.report import figures as drawn
from medjax.tasks import classification as task_file
from medjax.tasks import decisions, pictures
from medjax.tasks.classification import classification, classification_job

RAW = Decide(temperature=False)


def make(n=400, k=2, seed=0, sharp=1.0):
    """Cases whose labels are drawn from softmax(logits), and rows that claim softmax(sharp * logits)."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 1.5, (n, k))
    label = (rng.random((n, 1)) > softmax(logits, 1).cumsum(1)).sum(1)
    image = rng.integers(0, 256, (n, 8, 8, 1), dtype=np.uint8)
    cases = Cases({"id": names(n), "patient": names(n), "label": label, "group": np.arange(n), "image": image})
    return cases, {"score": softmax(sharp * logits, 1)}


def decided(rows, cases, rule=RAW):
    return decisions.decide(decisions.calibrate(rows, cases, rule=rule), rows)


def job_of(classes=("no", "yes"), **settings):
    task = classification(ResNet(len(classes), width=4, blocks=(1,)), optax.sgd(0.1))
    about = About("classification", "Which?", classes, "auroc", "made up")
    return classification_job(task, about=about, sources=dict, size=8, **settings)


@pytest.mark.parametrize("k", [2, 4])
def test_the_temperature_undoes_sharpening(k):
    cases, rows = make(3000, k, sharp=2.5)
    point = decisions.calibrate(rows, cases)
    assert float(point["temperature"]) == pytest.approx(2.5, rel=0.1)
    assert ("threshold" in point) == (k == 2)
    sure, true = (metrics.log_loss(cases["label"] == 0, s[:, 0]) for s in (rows["score"], make(3000, k)[1]["score"]))
    mended = metrics.log_loss(cases["label"] == 0, decisions.decide(point, rows)["score"][:, 0])
    assert mended == pytest.approx(true, abs=0.01)
    assert mended < sure - 0.03


def test_the_temperature_moves_no_decision():
    cases, rows = make(sharp=2.0)
    with_it, without = (decided(rows, cases, rule) for rule in (Decide(), RAW))
    assert with_it["score"].max() < without["score"].max()
    # Between the same two scores lies the threshold, as far as the middle of the gap is not the same on both scales.
    assert (with_it["pred"] != without["pred"]).mean() < 0.01
    for rows_of in (with_it, without):
        assert metrics.auroc(cases["label"], rows_of["score"][:, 1]) == pytest.approx(
            metrics.auroc(cases["label"], rows["score"][:, 1])
        )


def test_youden_is_the_default():
    cases, rows = make()
    point = decisions.calibrate(rows, cases, rule=RAW)
    assert point.keys() == {"threshold"}
    assert float(point["threshold"]) == metrics.youden_threshold(cases["label"], rows["score"][:, 1])
    np.testing.assert_array_equal(decided(rows, cases)["pred"], rows["score"][:, 1] >= point["threshold"])


@pytest.mark.parametrize("kept", ["sensitivity", "specificity"])
@pytest.mark.parametrize("temperature", [True, False])
def test_a_rate_is_kept_with_the_best_of_the_other(kept, temperature):
    cases, rows = make()
    label, score = cases["label"], rows["score"][:, 1]
    pred = decided(rows, cases, Decide(rule=kept, at=0.9, temperature=temperature))["pred"]
    rates = {"sensitivity": lambda p: p[label == 1].mean(), "specificity": lambda p: 1 - p[label == 0].mean()}
    other = rates["specificity" if kept == "sensitivity" else "sensitivity"]
    assert rates[kept](pred) >= 0.9
    assert other(pred) == max(other(score >= t) for t in score if rates[kept](score >= t) >= 0.9)


def test_a_single_class_is_cut_in_the_middle():
    cases, rows = make()
    point = decisions.calibrate(rows, Cases({**cases.columns, "label": np.ones(400, int)}))
    assert float(point["threshold"]) == 0.5
    assert float(point["temperature"]) == 1


def test_predictive_values_at_a_prevalence_are_those_of_such_data():
    """Beside the rates of cases that are drawn again with that prevalence."""
    cases, rows = make(2000)
    rows = decided(rows, cases)
    found = task_file.measure(rows, cases, classes=("no", "yes"), prevalence=0.05)
    label, pred = cases["label"], rows["pred"]
    weight = np.where(label == 1, 0.05 / (label == 1).sum(), 0.95 / (label == 0).sum())
    (tn, fp), (fn, tp) = confusion_matrix(label, pred, sample_weight=weight)
    assert found["ppv_at_prevalence"] == pytest.approx(tp / (tp + fp))
    assert found["npv_at_prevalence"] == pytest.approx(tn / (tn + fn))
    assert found["ppv_at_prevalence"] < found["ppv"]
    assert "ppv_at_prevalence" not in task_file.measure(rows, cases, classes=("no", "yes"))
    job = job_of(decide=Decide(prevalence=0.05))
    assert "5 %" in job.about.definitions["ppv_at_prevalence"]
    assert job.measure(rows, cases)["npv_at_prevalence"] == found["npv_at_prevalence"]


def test_grades_have_a_kappa():
    cases, rows = make(k=4)
    rows = decided(rows, cases)
    classes = tuple("0123")
    found = job_of(classes, ordinal=True).measure(rows, cases)
    assert found["kappa"] == pytest.approx(cohen_kappa_score(cases["label"], rows["pred"], weights="quadratic"))
    assert "kappa" not in job_of(classes).measure(rows, cases)


@pytest.mark.parametrize("k", [2, 3, 9])
def test_figures(k, tmp_path):
    cases, rows = make(300, k)
    classes = tuple(f"a/{c}" for c in range(k))
    rows = decided(rows, cases)
    others = {"header": {"score": make(300, k, 1)[1]["score"]}, "majority": {"score": np.full((300, k), 1 / k)}}
    found = job_of(classes).figures(rows, cases, others)
    own = {name for name in found if name.startswith("roc_")}
    assert own == ({f"roc_a_{c}" for c in range(k)} if 2 < k <= 6 else set())
    assert set(found) == own | {"roc", "confusion", "hits_and_misses"} | ({"calibration"} if k == 2 else set())
    (line, beside) = found["roc" if k == 2 else "roc_a_1"].data["lines"] if k <= 6 else (None, None)
    if line:
        auroc = metrics.auroc(cases["label"] == 1, rows["score"][:, 1])
        assert line["label"] == f"network ({auroc:.3f})"
        assert beside["label"].startswith("header")
    assert len(found["roc"].data["lines"]) == (2 if k == 2 else min(k, 8))
    np.testing.assert_array_equal(found["confusion"].data["values"], confusion_matrix(cases["label"], rows["pred"]))
    drawn.save(found, tmp_path)
    assert len(list(tmp_path.glob("*.png"))) == len(found)


def test_a_class_that_is_not_there_has_no_curve():
    cases, rows = make(k=3)
    label = np.where(cases["label"] == 2, -1, cases["label"])
    cases = Cases({**cases.columns, "label": label})
    found = task_file.figures(decided(rows, cases), cases, {}, classes=("a", "b", "c"))
    assert {name for name in found if name.startswith("roc")} == {"roc", "roc_a", "roc_b"}
    assert len(found["roc"].data["lines"]) == 2


def test_pictures_are_sorted_and_one_a_group():
    label, pred = np.array([0, 0, 1, 1, 1, -1]), np.array([0, 1, 1, 1, 0, 1])
    sure, score = np.array([0.3, 0.9, 0.5, 0.8, 0.1, 1.0]), np.full((6, 2), 0.5)
    cases = Cases({"label": label, "group": np.array([0, 1, 2, 2, 3, 4])})
    shown = pictures.shown_cases({"score": score, "pred": pred, "sure": sure}, cases, ("no", "yes"))
    found = {row.label.replace("\n", " "): row.which.tolist() for row in shown}
    assert found == {
        "no right, surest": [0],
        "yes right, surest": [3],
        "no wrong, surest": [1],
        "yes wrong, surest": [4],
        "least sure": [4, 0, 2, 1],
    }
    assert all((row.target == 1).all() for row in shown)


def test_file_names_of_classes():
    assert pictures.file_stem("Nodule/Mass (>3 cm)") == "Nodule_Mass_3_cm"
    assert pictures.file_stem("..") == "class"
    assert pictures.file_stem("肺炎") == "肺炎"


def test_one_against_the_rest():
    np.testing.assert_array_equal(pictures.per_class(np.array([0, 2, -1]), 3), [[1, 0, 0], [0, 0, 1], [-1, -1, -1]])
    several = np.int8([[1, -1], [0, 1]])
    np.testing.assert_array_equal(pictures.per_class(several, 2), several)
    assert pictures.most_frequent(np.int8([[1, 0, 1], [1, 0, 0], [0, -1, 1]]), 2) == [0, 2]


def test_a_job_has_what_the_command_line_settings_say():
    job = job_of(channels="colour", fit="pad", decide=dataclasses.replace(RAW, rule="specificity", at=0.7))
    made = job.preprocess({"id": "a", "label": 0, "image": np.zeros((6, 9), np.uint8)})
    assert made["image"].shape == (8, 8, 3)
    cases, rows = make()
    pred = job.decide(job.calibrate(rows, cases), rows)["pred"]
    assert (pred[cases["label"] == 0] == 0).mean() >= 0.7
    assert cnn().job.calibrate(rows, cases).keys() == {"temperature", "threshold"}
    assert isinstance(job.about.definitions, (dict, types.MappingProxyType))
