"""Several labels a case: the loss, what is missing, decisions, tables, figures, and a whole run."""

import csv
import dataclasses
import io
import json

import flax.linen as nn
import jax
import numpy as np
import optax
import pytest
from conftest import blob_image
from families import Arrays
from scipy.special import expit
from test_saliency import Staged

import medjax
from medjax.cases import Cases
from medjax.config import Data, Decide, Train
from medjax.core import About
from medjax.errors import InputError
from medjax.report import figures as drawn
from medjax.tasks import decisions
from medjax.tasks import multilabel as task_file
from medjax.tasks.multilabel import multilabel, multilabel_job

CLASSES = ("spot", "bar", "pole")
SIZE = 24


class Linear(nn.Module):
    """Logits are the inputs, so that a test chooses them."""

    @nn.compact
    def __call__(self, x, *, train):
        return x + self.param("bias", jax.nn.initializers.zeros, (x.shape[-1],))


def logit_task(**settings):
    return multilabel(Linear(), optax.sgd(1.0), inputs=lambda batch: batch["logits"], **settings)


def batch_of(logits, label):
    return {"logits": np.float32(logits), "label": np.int8(label), "mask": np.ones(len(label), bool)}


def draw(n=9, k=3, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(0, 3, (n, k)), rng.integers(-1, 2, (n, k))


@pytest.mark.parametrize("weight", [None, (1.0, 4.0, 0.5)])
def test_the_loss_is_the_formula(weight):
    logits, label = draw()
    label[4] = -1  # a case of which nothing is known
    task, batch = logit_task(pos_weight=weight), batch_of(logits, label)
    state = task.init(jax.random.key(0), batch)
    _, logs = task.update(state, batch)
    z, w = np.float64(np.float32(logits)), np.ones(3) if weight is None else np.array(weight)
    each = -np.where(label == 1, w * np.log(expit(z)), np.log(1 - expit(z)))
    assert float(logs["loss"]) == pytest.approx(each[label >= 0].mean(), rel=1e-5)
    # A row's own loss is the mean over what is known of it.
    rows = task.evaluate(state, batch)
    wanted = [each[i][label[i] >= 0].mean() if (label[i] >= 0).any() else np.nan for i in range(len(label))]
    np.testing.assert_allclose(rows["loss"], wanted, rtol=1e-5)
    np.testing.assert_allclose(rows["score"], expit(z), rtol=1e-5)


def test_mixed_examples_have_targets_of_their_own():
    logits, label = draw()
    target = np.where(label < 0, -1, np.random.default_rng(1).random(label.shape))
    task, batch = logit_task(pos_weight=(1.0, 4.0, 0.5)), {**batch_of(logits, label), "target": np.float32(target)}
    _, logs = task.update(task.init(jax.random.key(0), batch), batch)
    z, t = np.float64(np.float32(logits)), np.float64(np.float32(target))
    each = -(np.array([1, 4, 0.5]) * t * np.log(expit(z)) + (1 - t) * np.log(1 - expit(z)))
    assert float(logs["loss"]) == pytest.approx(each[label >= 0].mean(), rel=1e-5)


def test_far_logits_do_not_overflow():
    task, batch = logit_task(), batch_of([[200.0, -200.0, 0.0]], [[0, 1, -1]])
    _, logs = task.update(task.init(jax.random.key(0), batch), batch)
    assert float(logs["loss"]) == pytest.approx(200)
    assert np.isfinite(float(logs["grad_norm"]))


def test_missing_labels_have_no_gradient():
    logits, label = draw()
    task = logit_task()
    state = task.init(jax.random.key(0), batch_of(logits, label))

    def loss(z):
        batch = {**batch_of(logits, label), "logits": z}
        return task.update(state, batch)[1]["loss"]

    gradient = np.asarray(jax.grad(loss)(np.float32(logits)))
    assert (gradient[label < 0] == 0).all()
    known = label >= 0
    wanted = (expit(logits) - label)[known] / known.sum()
    np.testing.assert_allclose(gradient[known], wanted, rtol=1e-4, atol=1e-7)
    # Nor does it matter what stands beside them, and a batch that knows nothing changes nothing.
    none = batch_of(logits, np.full_like(label, -1))
    new, logs = task.update(state, none)
    assert float(logs["loss"]) == 0
    assert float(logs["grad_norm"]) == 0
    jax.tree.map(np.testing.assert_array_equal, new.params, state.params)


def make_cases(n=200, seed=0, missing=0.2):
    """Scores that know the labels, with gaps."""
    rng = np.random.default_rng(seed)
    label = (rng.random((n, 3)) < (0.5, 0.2, 0.3)).astype(np.int8)
    score = expit(2 * (label - 0.5) + rng.normal(0, 1, (n, 3)) + (0, -1, 1))
    label[rng.random((n, 3)) < missing] = -1
    names = np.array([f"c{i}" for i in range(n)])
    image = rng.integers(0, 256, (n, 8, 8, 1), dtype=np.uint8)
    cases = Cases({"id": names, "patient": names, "label": label, "group": np.arange(n) // 2, "image": image})
    return cases, {"score": score}


def test_each_class_has_a_threshold_of_its_own():
    cases, rows = make_cases()
    label = cases["label"]
    point = decisions.calibrate_labels(rows, cases, rule=Decide(rule="specificity", at=0.8, temperature=False))
    decided = decisions.decide_labels(point, rows)
    assert point.keys() == {"threshold"}
    for k in range(3):
        negative, positive = label[:, k] == 0, label[:, k] == 1
        kept = (decided["pred"][negative, k] == 0).mean()
        assert kept >= 0.8
        # The best sensitivity of all thresholds that keep it.
        values = np.unique(rows["score"][:, k])
        reached = max(
            (rows["score"][positive, k] >= t).mean() for t in values if (rows["score"][negative, k] < t).mean() >= 0.8
        )
        assert decided["pred"][positive, k].mean() == pytest.approx(reached)


def test_a_class_of_one_kind_is_cut_in_the_middle():
    cases, rows = make_cases()
    label = cases["label"].copy()
    label[:, 1] = np.where(label[:, 1] == 1, -1, label[:, 1])
    point = decisions.calibrate_labels(rows, Cases({**cases.columns, "label": label}))
    assert point["threshold"][1] == 0.5
    assert (point["threshold"][[0, 2]] != 0.5).all()


def test_decisions_say_how_sure_they_are():
    point = {"threshold": np.array([0.5, 0.2])}
    decided = decisions.decide_labels(point, {"score": np.array([[0.5, 0.9], [1.0, 1.0], [0.0, 0.1], [0.75, 0.0]])})
    np.testing.assert_array_equal(decided["pred"], [[1, 1], [1, 1], [0, 0], [1, 0]])
    np.testing.assert_allclose(decided["sure"], [0, 1, 0.5, 0.5], atol=1e-6)


def test_one_temperature_makes_sharp_scores_true():
    cases, _ = make_cases(2000, missing=0.3)
    rng = np.random.default_rng(5)
    truth = rng.normal(0, 1.5, (2000, 3))
    label = (rng.random(truth.shape) < expit(truth)).astype(np.int8)
    label[cases["label"] < 0] = -1
    rows = {"score": expit(3 * truth)}
    point = decisions.calibrate_labels(rows, Cases({**cases.columns, "label": label}))
    assert float(point["temperature"]) == pytest.approx(3, rel=0.1)
    np.testing.assert_allclose(decisions.decide_labels(point, rows)["score"], expit(truth), atol=0.05)


def test_the_table_names_what_is_there_called_and_unknown():
    cases = Cases(
        {
            "id": np.array(["a", "b", "c"]),
            "patient": np.array(["p", "", "q"]),
            "label": np.int8([[1, 0, 1], [0, 0, 0], [-1, 1, -1]]),
        }
    )
    rows = {
        "score": np.array([[0.9, 0.1, 0.2], [0.25, 0.5, 0.75], [1, 0, 0.125]]),
        "pred": np.array([[1, 0, 0], [0, 0, 1], [1, 1, 0]]),
    }
    (text,) = task_file.write(rows, cases, classes=CLASSES).values()
    table = list(csv.DictReader(io.StringIO(text)))
    assert list(table[0]) == ["id", "patient", "truth", "pred", "score/spot", "score/bar", "score/pole", "missing"]
    assert [r["truth"] for r in table] == ["spot|pole", "", "bar"]
    assert [r["pred"] for r in table] == ["spot", "pole", "spot|bar"]
    assert [r["missing"] for r in table] == ["", "", "spot|pole"]
    assert [float(r["score/pole"]) for r in table] == [0.2, 0.75, 0.125]
    # Files to predict on come with one -1 each.
    unknown = Cases({**cases.columns, "label": np.full(3, -1)})
    (text,) = task_file.write(rows, unknown, classes=CLASSES).values()
    assert [r["missing"] for r in csv.DictReader(io.StringIO(text))] == ["spot|bar|pole"] * 3


def test_class_names_must_fit_a_table():
    with pytest.raises(InputError, match=r"'a\|b'.*\nrename it"):
        job_of(None, classes=("a|b", "c"))


@pytest.mark.parametrize("k", [3, 14])
def test_figures(k, tmp_path):
    rng = np.random.default_rng(0)
    n, classes = 120, tuple(f"finding {i}/{k}" for i in range(k))
    label = (rng.random((n, k)) < np.linspace(0.5, 0.1, k)).astype(np.int8)
    label[rng.random((n, k)) < 0.1] = -1
    score = np.clip(0.3 * (label == 1) + rng.random((n, k)) * 0.7, 0, 1)
    cases = Cases({"label": label, "group": np.arange(n), "image": rng.integers(0, 256, (n, 6, 8, 8, 1), dtype=np.uint8)})
    rows = decisions.decide_labels(decisions.calibrate_labels({"score": score}, cases), {"score": score})
    others = {"logistic": {"score": score[:, ::-1]}, "majority": {"score": np.full((n, k), 0.5)}}
    found = task_file.figures(rows, cases, others, classes=classes)
    own = {name for name in found if name.startswith("roc_")}
    assert len(own) == (k if k <= 6 else 0)
    assert set(found) == own | {"roc", "calibration", "hits_and_misses"}
    assert len(found["roc"].data["lines"]) == min(k, 8)
    for name in own:
        assert [line["label"].split()[0] for line in found[name].data["lines"]] == ["network", "logistic"]
    pooled = found["calibration"].data["lines"][0]
    known = label >= 0
    lowest = (rows["score"] < 0.1) & known
    if lowest.any():
        assert pooled["x"][0] == pytest.approx(rows["score"][lowest].mean())
        assert pooled["y"][0] == pytest.approx(label[lowest].mean())
    page = found["hits_and_misses"].data["rows"]
    assert len(page) <= 12
    assert page[0]["images"].shape[1:] == (8, 8)
    # The slice in the middle of the volume.
    title, image = page[0]["titles"][0], page[0]["images"][0]
    assert (cases["image"][:, 3, ..., 0] == image).all((1, 2)).any()
    assert title.startswith("finding 0")
    drawn.save(found, tmp_path)
    assert len(list(tmp_path.glob("*.png"))) == len(found)


def pictures(n, seed):
    """Pictures with a bright spot, a bar across or a pole upright, independently; a fifth of the labels is missing."""
    rng = np.random.default_rng(seed)
    label = (rng.random((n, 3)) < (0.4, 0.3, 0.3)).astype(np.int8)
    images = []
    for spot, bar, pole in label:
        image = blob_image(rng, bright=bool(spot), size=SIZE)
        if bar:
            image[rng.integers(2, SIZE - 4) :][:2] = 200
        if pole:
            image[:, rng.integers(2, SIZE - 4) :][:, :2] = 200
        images.append(image)
    known = np.where(rng.random((n, 3)) < 0.2, -1, label).astype(np.int8)
    names = np.array([f"{seed}-{i:03d}" for i in range(n)])
    return Arrays(id=names, patient=names, label=known, image=np.stack(images))


@dataclasses.dataclass(frozen=True)
class Config:
    data: Data = Data(near_copies="off")
    train: Train = Train(steps=120, batch_size=32, eval_every=60, checkpoint_every=60)
    engine: str = "jit"


def job_of(task, *, classes=CLASSES, **settings):
    about = About("multilabel", "What is in the picture?", classes, "auroc", "made up")
    sources = {split: pictures(n, seed) for seed, (split, n) in enumerate({"train": 200, "val": 90, "test": 90}.items())}
    return multilabel_job(task, about=about, sources=lambda: sources, size=SIZE, **settings)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    task = multilabel(Staged(classes=3), optax.adam(5e-3))
    folder = tmp_path_factory.mktemp("multilabel") / "run"
    done = medjax.train(
        job_of(task, decide=Decide(rule="sensitivity", at=0.8)), Config(), folder, quiet=True, devices=jax.devices()[:1]
    )
    return folder, done


def test_a_run_beats_the_majority(run):
    _, done = run
    metrics, baselines = done.report["metrics"]["test"], done.report["baselines"]
    assert metrics["auroc"]["value"] > 0.85
    assert baselines["majority"]["auroc"]["value"] == 0.5
    difference = done.report["comparisons"]["majority"]["auroc"]
    assert difference["ci95"][0] > 0.2
    assert metrics["log_loss"]["value"] < baselines["majority"]["log_loss"]["value"]


def test_a_run_is_whole(run):
    folder, _ = run
    report = json.loads((folder / "report.json").read_text())
    for name in (
        "auroc",
        "auprc",
        "sensitivity",
        "f1",
        "ece",
        "brier",
        "accuracy",
        "balanced_accuracy",
        "log_loss",
        "macro_f1",
    ):
        assert name in report["metrics"]["test"], name
        assert name in report["definitions"], name
    for name in CLASSES:
        entry = report["metrics"]["test"][f"auroc/{name}"]
        assert entry["ci95"][0] <= entry["value"] <= entry["ci95"][1]
    assert set(report["baselines"]) == {"logistic", "header", "majority"}
    assert len(report["point"]["threshold"]) == 3
    assert report["point"]["temperature"] > 0
    assert set(report["data"]["splits"]["test"]["prevalence"]) == set(CLASSES)
    assert {f["file"] for f in report["figures"]} >= {"roc.png", "roc_spot.png", "saliency.png", "hits_and_misses.png"}
    assert (folder / "report.html").is_file()
    with open(folder / "predictions" / "test.csv", newline="") as handle:
        table = list(csv.DictReader(handle))
    truth = pictures(90, 2)
    assert [row["id"] for row in table] == list(truth.columns["id"])
    for row, label in zip(table, truth.columns["label"], strict=True):
        assert row["truth"] == "|".join(c for c, y in zip(CLASSES, label) if y == 1)
        assert row["missing"] == "|".join(c for c, y in zip(CLASSES, label) if y < 0)
        called = [c for c, t in zip(CLASSES, report["point"]["threshold"]) if float(row[f"score/{c}"]) >= t]
        assert row["pred"] == "|".join(called)


def test_a_run_keeps_the_sensitivity_on_validation(run):
    _, done = run
    for name in CLASSES:
        assert done.report["metrics"]["val"][f"sensitivity/{name}"]["value"] >= 0.8


@pytest.mark.parametrize("n", [3, 4])
def test_cases_without_any_label_count_for_nothing(n):
    """As many cases as classes, or not: nothing may be broadcast by chance."""
    logits = np.random.default_rng(0).normal(size=(n, 3)).astype(np.float32)
    values, weight = task_file.label_loss()(logits, {"label": np.full(n, -1)})
    assert values.shape == weight.shape == (n,)
    assert not np.asarray(weight).any()
    assert np.isfinite(values).all()
