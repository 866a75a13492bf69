"""Several seeds and folds in one run: each member as if trained alone, averaged and pooled, resumed like any run."""

import csv
import dataclasses
import json
import shutil

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

import medjax
from medjax.cases import average
from medjax.config import Data, Train
from medjax.deploy.finished import Finished, evaluate, predict
from medjax.loop import load_all
from medjax.members import Member, list_members

pytestmark = pytest.mark.usefixtures("brief")
TRAIN = Train(steps=12, batch_size=16, eval_every=6, checkpoint_every=6)


def settings(blobs, **changes):
    """(job, config) of the default experiment, small, on the blobs."""
    module = medjax.experiment("brain_tumor_mri")
    config = module.PRESETS_OF["fast"]
    small = dataclasses.replace(config.model, width=4, blocks=(1, 1))
    config = dataclasses.replace(config, data=Data(path=str(blobs)), model=small, train=TRAIN, **changes)
    return module.build(config), config


@pytest.fixture(scope="module")
def seeds(blobs, tmp_path_factory):
    job, config = settings(blobs, seeds=2)
    return job, config, medjax.train(job, config, tmp_path_factory.mktemp("runs") / "seeds", quiet=True)


@pytest.fixture(scope="module")
def folds(blobs, tmp_path_factory):
    job, config = settings(blobs, folds=3)
    return job, config, medjax.train(job, config, tmp_path_factory.mktemp("runs") / "folds", quiet=True)


def table(path):
    with open(path, newline="") as handle:
        return list(csv.DictReader(handle))


def test_names_of_members():
    class Both:
        seeds, folds, train = 2, 2, Train(seed=5)

    assert list_members(Both) == [
        Member("fold0-seed5", 5, 0),
        Member("fold0-seed6", 6, 0),
        Member("fold1-seed5", 5, 1),
        Member("fold1-seed6", 6, 1),
    ]

    class One:
        train = Train(seed=3)

    assert list_members(One) == [Member("", 3, None)]


def test_a_member_is_what_its_seed_gives_alone(seeds, blobs, tmp_path):
    _, _, done = seeds
    job, alone = settings(blobs)
    alone = dataclasses.replace(alone, train=dataclasses.replace(TRAIN, seed=1))
    single = medjax.train(job, alone, tmp_path / "alone", quiet=True)
    assert done.report["seeds"][1]["metrics"] == single.report["seeds"][0]["metrics"]
    assert done.report["seeds"][0]["metrics"] != single.report["seeds"][0]["metrics"]
    assert [entry["seed"] for entry in done.report["seeds"]] == [0, 1]


def test_all_members_share_one_compilation(seeds, folds):
    for _, _, done in (seeds, folds):
        assert done.engine.update.count == 1


def test_the_test_metrics_are_the_members_mean_and_the_ensemble_their_average(seeds):
    job, config, done = seeds
    of_members = [entry["metrics"]["test"]["auroc"] for entry in done.report["seeds"]]
    assert done.report["metrics"]["test"]["auroc"]["value"] == pytest.approx(np.mean(of_members))
    test = load_all(job, config)[0].cases["test"]
    finished = Finished(job, config, done.folder, test)
    scores = [finished.look([state], test)["score"][:, 1] for *_, state in finished.members]
    assert np.abs(scores[0] - scores[1]).max() > 1e-4
    whole = roc_auc_score(test["label"], np.mean(scores, axis=0))
    assert done.report["metrics"]["ensemble"]["auroc"]["value"] == pytest.approx(whole, abs=1e-9)
    written = [row["id"] for row in table(done.folder / "predictions" / "test.csv")]
    assert written == list(test["id"])


def test_a_resume_goes_on_with_the_member_that_was_left(seeds, tmp_path):
    job, config, done = seeds
    copy = tmp_path / "run"
    shutil.copytree(done.folder, copy)
    for name in ("report.json", "report.html", "baselines.npz"):
        (copy / name).unlink()
    # As if killed in the second member, after its first checkpoint.
    shutil.rmtree(copy / "checkpoints" / "seed1" / "12")
    again = medjax.resume(job, config, copy, quiet=True)
    assert again.report["metrics"] == done.report["metrics"]
    lines = [json.loads(line) for line in (copy / "metrics.jsonl").read_text().splitlines()]
    before = [json.loads(line) for line in (done.folder / "metrics.jsonl").read_text().splitlines()]

    def bare(lines):
        return sorted((x["member"], x["step"], x.get("val/auroc", -1), x.get("loss", -1)) for x in lines)

    assert bare(lines) == bare(before)


def test_folds_hold_every_case_out_once_and_keep_groups_whole(folds):
    job, config, _ = folds
    datasets = load_all(job, config)
    held = np.concatenate([data.cases["cv"]["id"] for data in datasets])
    assert len(held) == len(set(held)) == 120
    for data in datasets:
        groups = [set(data.cases[split]["group"]) for split in ("train", "val", "cv")]
        assert not groups[0] & groups[1]
        assert not groups[0] & groups[2]
        assert not groups[1] & groups[2]
        assert sum(len(data.cases[split]) for split in ("train", "val", "cv")) == 120


def test_cross_validation_is_measured_on_the_pooled_predictions(folds):
    _, _, done = folds
    rows = table(done.folder / "predictions" / "cv.csv")
    truth, score = [row["truth"] == "yes" for row in rows], [float(row["score/yes"]) for row in rows]
    assert done.report["metrics"].keys() == {"cv"}
    assert done.report["metrics"]["cv"]["auroc"]["value"] == pytest.approx(roc_auc_score(truth, score), abs=1e-6)
    right = np.mean([row["truth"] == row["pred"] for row in rows])
    assert done.report["metrics"]["cv"]["accuracy"]["value"] == pytest.approx(right)
    assert done.report["data"]["splits"]["cv"]["n"] == 120
    assert "logistic" in done.report["baselines"]


def test_folds_predict_and_measure_other_data_together(folds, blobs, tmp_path):
    job, config, done = folds
    rows = predict(job, config, done.folder, [blobs / "yes"], out=tmp_path / "predicted")
    assert rows["score"].shape == (60, 2)
    assert len(table(tmp_path / "predicted" / "predictions.csv")) == 60
    from conftest import write_blobs

    other = write_blobs(tmp_path / "other", n=12, seed=9)
    job, config = settings(other, folds=3)
    report = evaluate(job, config, done.folder, out=tmp_path / "external")
    assert report["metrics"]["test"]["auroc"]["n"] == 24
    assert [entry["fold"] for entry in report["seeds"]] == [0, 1, 2]
    # Whatever name the split is reported under.
    report = evaluate(job, config, done.folder, out=tmp_path / "as_val", split="val")
    assert report["metrics"]["val"]["auroc"]["n"] == 24


def test_an_average_of_what_has_none():
    with pytest.raises(ValueError, match="name"):
        average([{"name": np.array(["a"])}, {"name": np.array(["b"])}])
