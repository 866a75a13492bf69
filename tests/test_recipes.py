"""A newcomer's three files, outside the package: a new model, a new data set, a new task. `tests/recipes` shows how."""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, run_cli
from sklearn.metrics import cohen_kappa_score, mean_absolute_error, roc_auc_score

RECIPES = Path(__file__).parent / "recipes"
PATH = {"PYTHONPATH": str(ROOT)}


@pytest.fixture
def newcomer(tmp_path):
    """A fresh working folder with the recipes in it, and nothing of medjax."""
    return Path(shutil.copytree(RECIPES, tmp_path / "work", ignore=shutil.ignore_patterns("__pycache__")))


def train(folder, name, *args, **env):
    """Run `medjax train NAME` there -> (report, rows of test.csv, lines of stdout)."""
    done = run_cli("train", name, *args, cwd=folder, env={**PATH, **env})
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    lines = done.stdout.splitlines()
    run = folder / lines[-1]
    with open(run / "predictions" / "test.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    for name in ("config.json", "metrics.jsonl", "environment.json", "report.html", "checkpoints"):
        assert (run / name).exists()
    assert list(run.glob("figures/*.png"))
    return json.loads((run / "report.json").read_text()), rows, lines


@pytest.mark.parametrize("file", sorted(RECIPES.glob("experiments/*.py")), ids=lambda file: file.stem)
def test_an_experiment_is_short(file):
    assert len(file.read_text().splitlines()) < 80


def test_new_model(newcomer, blobs):
    # As users compile it: without the flags that spare the tests the compiler's optimisations.
    report, rows, lines = train(newcomer, "spots", "--data.path", blobs, "--out", "runs/mine", XLA_FLAGS="")
    assert lines[-1] == "runs/mine"
    assert report["experiment"] == "spots"
    # The convolution's 5 * 5 * 4 weights, batch norm's 2 * 4, and the head's 4 * 2 + 2.
    assert report["parameters"] == 118
    truth = [row["truth"] == "yes" for row in rows]
    score = [float(row["score/yes"]) for row in rows]
    assert report["metrics"]["test"]["auroc"]["value"] == pytest.approx(roc_auc_score(truth, score))
    assert set(report["baselines"]) == {"majority", "logistic", "header"}

    # What the run says first: devices, engine, size of the network, work of a step.
    first = lines[0]
    assert "1 x cpu" in first
    assert "engine jit" in first
    assert "118 parameters" in first
    assert "FLOP per step" in first


def test_new_data(newcomer):
    report, rows, lines = train(newcomer, "ripples")
    assert Path(lines[-1]).parent == Path("runs/ripples")
    splits = report["data"]["splits"]
    assert sum(s["n"] for s in splits.values()) == 180
    assert sum(s["patients"] for s in splits.values()) == 60  # so nobody stands on two sides
    assert report["ci_unit"] == "patient"
    assert {row["truth"] for row in rows} == {"plain", "striped"}
    assert len({row["patient"] for row in rows}) == splits["test"]["patients"]
    assert all(row["id"].startswith("ripple") for row in rows)


def test_new_task(newcomer):
    report, rows, _ = train(newcomer, "grades", "--out", "run")
    grades = report["classes"]
    truth, pred = ([grades.index(row[column]) for row in rows] for column in ("truth", "pred"))
    score = np.array([[float(row[f"score/{grade}"]) for grade in grades] for row in rows])
    np.testing.assert_allclose(score.sum(1), 1, atol=1e-4)
    assert score.min() >= 0
    found = report["metrics"]["test"]
    assert found["mae"]["value"] == pytest.approx(mean_absolute_error(truth, pred))
    assert found["kappa"]["value"] == pytest.approx(cohen_kappa_score(truth, pred, weights="quadratic"))
    for entry in found.values():
        low, high = entry["ci95"]
        assert low <= entry["value"] <= high
        assert entry["n"] == len(rows)
    assert report["baselines"]["median"]["mae"]["value"] == pytest.approx(np.abs(np.array(truth) - 1).mean())
    assert set(report["definitions"]) == {"mae", "kappa"}
    assert report["comparisons"]["median"]["mae"]["difference"] < 0
    assert (newcomer / "run" / "figures" / "distance.png").is_file()


def test_files_beside_the_experiments_are_found(newcomer):
    """The installed command's own folder is on Python's path, not the working folder (`python -P` is alike)."""
    done = subprocess.run(
        [sys.executable, "-P", "-m", "medjax.cli", "train", "ripples", "--help"],
        cwd=newcomer,
        env={**os.environ, **PATH},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
