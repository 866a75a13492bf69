"""Experiments on records: a run on every layout in its true encoding, by the experiments that ship."""

import csv
import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
import pytest

import medjax
from medjax import evaluation
from medjax.config import Data, Train
from medjax.deploy.finished import evaluate
from medjax.experiments import load_by_name, resolve
from medjax.tasks import record_baselines

sys.path.append(str(Path(__file__).parents[1] / "data"))
import make_records as make


def write_long(folder, n=30):
    rng = np.random.default_rng(0)
    rows = [(f"r{i}", hour, "hr", rng.normal(110 if i % 2 else 70, 8)) for i in range(n) for hour in range(0, 48, 6)]
    make.write_csv(folder / "events.csv", ("id", "time", "variable", "value"), rows)
    make.write_csv(folder / "labels.csv", ("id", "patient", "ill"), [(f"r{i}", f"p{i // 2}", i % 2) for i in range(n)])


# Layout: (experiment, how it is written, --task, a metric of the test split that must be there).
LAYOUTS = {
    "physionet2012": ("icu_mortality", lambda folder: make.write_physionet(folder, n=30), "", "min_se_pp"),
    "long_table": ("icu_mortality", write_long, "", "min_se_pp"),
    "eicu": ("icu_mortality", lambda folder: make.write_eicu(folder, n=48), "", "auroc"),
    "meds": ("meds", make.write_meds, "", "auroc"),
    **{
        f"mimic3, {task}": ("mimic3", lambda folder, task=task: make.write_mimic3(folder, task), task, metric)
        for task, metric in {
            "in-hospital-mortality": "min_se_pp",
            "decompensation": "alarmed",
            "length-of-stay": "kappa",
            "phenotyping": "macro_f1",
        }.items()
    },
}


@pytest.fixture(autouse=True)
def few_trees(monkeypatch):
    """Boosting and the bootstrap as they are, but small."""
    monkeypatch.setattr(evaluation, "RESAMPLES", 20)
    monkeypatch.setattr(record_baselines, "ROUNDS", 10)
    monkeypatch.setattr(record_baselines, "EVERY", 10)
    monkeypatch.setattr(record_baselines, "TREES", ((4, 0.2, 5),))


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_run_on_each_layout(name, tmp_path):
    experiment, write, task, metric = LAYOUTS[name]
    write(tmp_path / "data")
    module = load_by_name(experiment)
    config = module.Config(data=Data(path=str(tmp_path / "data")), task=task)
    small = {"members": 1, "features": 4, "bins": 0, "name": "simple"}
    config = dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, **small),
        train=Train(steps=2, batch_size=8, eval_every=2, checkpoint_every=2),
    )
    config = resolve(module, config)
    job = module.build(config)._replace(explain=None)
    done = medjax.train(job, config, tmp_path / "run", quiet=True)
    report = json.loads((done.folder / "report.json").read_text())
    assert report["metrics"]["test"][metric]["n"] > 0
    assert {"gbdt", "logistic", "majority"} <= report["baselines"].keys()
    with open(done.folder / "predictions" / "test.csv", newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert rows
    assert all(f"score/{c}" in rows[0] for c in config.data.classes)
    if name == "physionet2012":  # another set of the same challenge
        make.write_physionet(tmp_path / "other", letter="b", n=12, first=142000, seed=5)
        elsewhere = dataclasses.replace(config, data=Data(path=str(tmp_path / "other")))
        found = evaluate(module.build(elsewhere), elsewhere, done.folder, out=tmp_path / "evaluated")
        assert found["data"]["splits"]["test"]["n"] == 12
