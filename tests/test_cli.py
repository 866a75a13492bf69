"""The command line from a user's side: help, exit codes, and what a finished run leaves."""

import csv
import hashlib
import json
import math
import re
import shutil
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, run_cli, write_blobs
from PIL import Image
from sklearn.metrics import accuracy_score, roc_auc_score

from medjax import cli

CONTRACT_FILES = ("config.json", "metrics.jsonl", "report.json", "report.html", "environment.json")
CONTRACT_KEYS = {"task", "experiment", "data", "metrics", "ci_unit", "definitions", "baselines", "throughput", "seeds"}
CONTRACT_METRICS = {"auroc", "auroc_matched", "auprc", "accuracy", "balanced_accuracy", "sensitivity", "specificity"}
CONTRACT_METRICS |= {"ppv", "npv", "f1", "log_loss", "brier", "ece"}
COLUMNS = ["id", "patient", "truth", "pred", "score/no", "score/yes", "group"]


@pytest.fixture
def medjax(capsys, monkeypatch):
    """`medjax ARGS` within this process -> (exit code, standard output, standard error)."""
    monkeypatch.setattr(sys, "argv", ["medjax"])

    def call(*args):
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            cli.main([str(a) for a in args])
        out, err = capsys.readouterr()
        return stop.value.code, out, err

    return call


def read_table(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def snapshot(folder):
    """{file: (time, digest)} of all that lies in a folder."""
    return {
        path: (path.stat().st_mtime_ns, hashlib.sha256(path.read_bytes()).hexdigest())
        for path in sorted(Path(folder).rglob("*"))
        if path.is_file()
    }


def is_refusal(code, err, expected=1):
    return code == expected and 1 <= len(err.strip().splitlines()) <= 2 and "Traceback" not in err


# Help, list, and mistakes in the command itself


@pytest.mark.parametrize("verb", [None, *cli.VERBS])
def test_help(verb, medjax):
    code, out, err = medjax(*filter(None, [verb]), "--help")
    assert code == 0
    assert not err
    assert f"usage: medjax {verb or ''}".strip() in out
    for name in cli.VERBS if verb is None else ():
        assert name in out


def test_help_of_an_experiment_names_every_setting(medjax):
    code, out, _ = medjax("train", "brain_tumor_mri", "--help")
    assert code == 0
    for name in ["steps", "batch_size", "eval_every", "checkpoint_every", "seed"]:
        assert f"--train.{name}" in out
    for name in ("--engine", "--preset", "--data.path", "--model.width", "--optimizer.rate"):
        assert name in out


@pytest.mark.parametrize("args", [["--help"], ["list"], ["train", "--help"]])
def test_light_commands_do_not_import_jax(args):
    code = (
        "import sys; sys.argv = ['medjax', *sys.argv[1:]]\n"
        "from medjax.cli import main\n"
        "try:\n    main()\nexcept SystemExit as stop:\n    assert not stop.code\n"
        "heavy = {'jax', 'flax', 'optax', 'orbax', 'sklearn', 'scipy', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    times = []
    while not times or (min(times) >= 1.5 and len(times) < 5):  # what else the machine does must not decide
        began = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", code, *args], cwd=ROOT, capture_output=True, text=True, timeout=300)
        times.append(time.perf_counter() - began)
        assert done.returncode == 0, done.stderr
    assert min(times) < 1.5


def test_an_experiment_file_is_a_program():
    done = subprocess.run(
        [sys.executable, "experiments/brain_tumor_mri.py", "--help"], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert "--train.steps" in done.stdout


def test_list_shows_the_working_folder_first(medjax, tmp_path, monkeypatch):
    code, out, _ = medjax("list")
    assert code == 0
    assert "brain_tumor_mri" in out
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "mine.py").write_text(
        "CARD = {'job': 'find it', 'data': 'my files', 'needs': 'luck[text]'}\nPRESETS_OF = {}\n"
    )
    (tmp_path / "experiments" / "brain_tumor_mri.py").write_text('"""My own version."""\nPRESETS_OF = {}\n')
    (tmp_path / "experiments" / "helper.py").write_text("")
    monkeypatch.chdir(tmp_path)
    _, out, _ = medjax("list")
    assert re.search(r"mine +find it +my files +luck\[text\]", out)
    assert out.count("brain_tumor_mri") == 1
    assert "My own version." in out
    assert "_helper" not in out


@pytest.mark.parametrize(
    ("args", "nearest"),
    [
        (["trian"], "train"),
        (["evalute", "run"], "evaluate"),
        (["train", "brain_tumour"], "brain_tumor_mri"),
        (["train", "brain_tumor_mri", "--train.stepz", "3"], "--train.steps"),
        (["train", "brain_tumor_mri", "--model.widht=3"], "--model.width"),
        (["train", "brain_tumor_mri", "--preset", "quick"], "fast"),
        (["train", "brain_tumor_mri", "--train.steps", "many"], "int"),
        (["train", "brain_tumor_mri", "--engine", "fsdpp"], "pmap"),
        (["train", "brain_tumor_mri", "--out"], "--out needs a value"),
        (["train", "experiments/nothing.py"], "experiments/nothing.py"),
        (["train"], "NAME"),
        (["predict", "run"], "INPUT"),
        (["predict", "run", "scan.png"], "--out DIR"),
        (["predict", "run", "scan.png", "--count", "3", "--out", "new"], "--count N"),
        (["predict", "run", "scan.png", "--label", "yes", "--out", "new"], "--label CLASS"),
        (["report"], "RUN"),
        (["evaluate", "run", "--split", "holdout"], "test"),
    ],
)
def test_a_command_that_cannot_be_understood(args, nearest, medjax):
    code, out, err = medjax(*args)
    assert is_refusal(code, err, expected=2), err
    assert not out
    assert nearest in err


@pytest.mark.parametrize("verb", ["resume", "evaluate", "report", "predict"])
def test_a_folder_that_is_no_run(verb, medjax, tmp_path):
    more = [tmp_path, "--out", tmp_path / "out"] if verb == "predict" else []
    code, _, err = medjax(verb, tmp_path, *more)
    assert is_refusal(code, err), err
    assert str(tmp_path) in err
    assert not any(tmp_path.iterdir())


def test_debug_shows_where_it_happened():
    done = run_cli("resume", "no/such/run", "--debug")
    assert done.returncode != 0
    assert "Traceback" in done.stderr
    assert "InputError" in done.stderr


def test_what_was_not_foreseen_is_said_in_two_lines(medjax, monkeypatch):
    monkeypatch.setattr(cli, "_list", lambda known: 1 / 0)
    code, _, err = medjax("list")
    assert is_refusal(code, err), err
    assert "ZeroDivisionError" in err
    assert "--debug" in err


# What a finished run holds


def test_the_run_folder_keeps_the_contract(finished):
    run, data = finished
    for name in CONTRACT_FILES:
        assert (run / name).is_file(), name
    assert (run / "checkpoints").is_dir()
    pictures = list(run.glob("figures/*.png"))
    assert pictures
    for path in pictures:
        Image.open(path).verify()
    config = json.loads((run / "config.json").read_text())
    assert config["config"]["train"]["steps"] == 12
    assert config["config"]["data"]["path"] == str(data)
    environment = json.loads((run / "environment.json").read_text())
    assert {"versions", "devices", "commit", "data_fingerprint"} <= environment.keys()
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert all({"step", "time"} <= line.keys() for line in lines)
    assert {line["step"] for line in lines} == {6, 12}
    assert any("val/auroc" in line for line in lines)
    assert not [p for p in run.rglob("*") if p.name.startswith("tmp-") or p.suffix in (".pkl", ".pickle")]


def test_report_json_keeps_the_contract(finished):
    run, _ = finished
    report = json.loads((run / "report.json").read_text())
    assert report.keys() >= CONTRACT_KEYS
    assert report["experiment"] == "brain_tumor_mri"
    assert report["data"].keys() >= {"name", "fingerprint", "splits", "audit"}
    assert set(report["data"]["splits"]) == {"train", "val", "test"}
    for split in report["data"]["splits"].values():
        assert split.keys() >= {"n", "patients", "prevalence"}
        assert sum(split["prevalence"].values()) == pytest.approx(1, abs=1e-5)
    assert sum(split["n"] for split in report["data"]["splits"].values()) == 120
    assert report["throughput"].keys() >= {"examples_per_s", "step_ms", "data_wait_pct", "compile_s"}
    assert all(math.isfinite(value) for value in report["throughput"].values())
    assert set(report["baselines"]) == {"majority", "logistic", "header"}
    assert report["ci_unit"] in ("patient", "group", "case")
    assert set(report["metrics"]) == {"val", "test"}
    (seed,) = report["seeds"]
    assert seed["seed"] == 0
    assert seed["metrics"]["test"]["auroc"] == report["metrics"]["test"]["auroc"]["value"]
    tables = {**report["metrics"], **report["baselines"]}
    for where, table in tables.items():
        assert table
        for name, entry in table.items():
            assert name in CONTRACT_METRICS, f"{where}: {name}"
            assert name in report["definitions"]
            assert math.isfinite(entry["value"])
            if entry["ci95"] is None:
                assert entry["reason"]
            elif name != "ece":
                low, high = entry["ci95"]
                assert low <= entry["value"] <= high, f"{where}: {name}"
            assert where in report["baselines"] or entry["n"] > 0


def test_predictions_are_what_the_report_measured(finished):
    run, data = finished
    report = json.loads((run / "report.json").read_text())
    seen = []
    for split in ("val", "test"):
        path = run / "predictions" / f"{split}.csv"
        assert path.read_text().splitlines()[0].split(",") == COLUMNS
        rows = read_table(path)
        seen += [row["id"] for row in rows]
        for row in rows:
            assert (data / f"{row['id']}.png").is_file()  # relative to the data folder, without the ending
            assert row["truth"] == row["id"].split("/")[0]
            assert row["pred"] in ("no", "yes")
        score = np.array([[float(row["score/no"]), float(row["score/yes"])] for row in rows])
        np.testing.assert_allclose(score.sum(1), 1, atol=1e-6)
        truth, pred = (np.array([row[column] == "yes" for row in rows]) for column in ("truth", "pred"))
        likelihood = np.log(score[np.arange(len(truth)), truth.astype(int)])
        found = report["metrics"][split]
        assert found["auroc"]["value"] == pytest.approx(roc_auc_score(truth, score[:, 1]))
        assert found["accuracy"]["value"] == pytest.approx(accuracy_score(truth, pred))
        assert found["log_loss"]["value"] == pytest.approx(-likelihood.mean(), rel=1e-5)
        assert report["data"]["splits"][split]["n"] == found["auroc"]["n"] == len(rows)
    assert len(set(seen)) == len(seen)


def test_report_html_needs_nothing_else(finished):
    run, _ = finished
    outside = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag, attributes):
            for name, value in attributes:
                loads = name in ("src", "srcset", "poster", "data") or (name == "href" and tag != "a")
                if loads and not value.startswith(("data:", "#")):
                    outside.append((tag, name, value[:80]))

    text = (run / "report.html").read_text()
    Reader().feed(text)
    assert not outside
    assert not re.findall(r"url\(\s*['\"]?(?!data:|#)", text)
    assert "@import" not in text
    assert "http://" not in text.replace("http://www.w3.org", "")


def test_resuming_a_finished_run_changes_nothing(finished, medjax):
    run, _ = finished
    before = snapshot(run)
    code, out, err = medjax("resume", run)
    assert code == 0
    assert not err
    assert "is finished" in out
    assert out.splitlines()[-1] == str(run)
    assert snapshot(run) == before


def test_report_draws_the_page_again(finished, medjax, tmp_path):
    run, _ = finished
    copy = tmp_path / "run"
    shutil.copytree(run, copy, ignore=shutil.ignore_patterns("checkpoints"))
    (copy / "report.html").unlink()
    code, out, _ = medjax("report", copy)
    assert code == 0
    assert "AUROC" in out
    assert out.splitlines()[-1] == str(copy / "report.html")
    assert (copy / "report.html").read_bytes() == (run / "report.html").read_bytes()


# Prediction


def test_predict_gives_the_scores_of_the_evaluation(finished, medjax, tmp_path):
    run, data = finished
    before = snapshot(run)
    code, out, err = medjax("predict", run, data, "--out", tmp_path / "out")
    assert code == 0, err
    assert out.splitlines()[-1] == str(tmp_path / "out")
    rows = read_table(tmp_path / "out" / "predictions.csv")
    assert list(rows[0]) == COLUMNS[:-1]  # without a group: these cases stand for themselves
    assert [row["id"] for row in rows] == sorted(f.relative_to(data).with_suffix("").as_posix() for f in data.rglob("*.png"))
    found = {row["id"]: row for row in rows}
    for split in ("val", "test"):
        for row in read_table(run / "predictions" / f"{split}.csv"):
            for column in ("pred", "score/no", "score/yes"):  # as text: the same digits
                assert found[row["id"]][column] == row[column]
    assert {row["truth"] for row in rows} == {""}
    assert snapshot(run) == before


def test_predict_keeps_the_order_of_files_and_folders(finished, medjax, tmp_path):
    run, data = finished
    inputs = [data / "yes" / "yes007.png", data / "no" / "no050.png", data / "yes" / "yes001.png"]
    folder = tmp_path / "more"
    (folder / "deep").mkdir(parents=True)
    shutil.copy(data / "no" / "no003.png", folder / "b.png")
    shutil.copy(data / "no" / "no004.png", folder / "deep" / "a.png")
    code, _, err = medjax("predict", run, inputs[0], folder, *inputs[1:], "--out", tmp_path / "out")
    assert code == 0, err
    rows = read_table(tmp_path / "out" / "predictions.csv")
    assert [row["id"] for row in rows] == ["yes007", "b", "deep/a", "no050", "yes001"]
    # A file's score does not depend on what is beside it.
    code, _, err = medjax("predict", run, data / "no" / "no003.png", "--out", tmp_path / "alone")
    assert code == 0, err
    (alone,) = read_table(tmp_path / "alone" / "predictions.csv")
    assert alone["score/yes"] == rows[1]["score/yes"]


def test_predict_does_not_write_into_a_folder_in_use(finished, medjax, tmp_path):
    run, data = finished
    (tmp_path / "notes.txt").write_text("mine")
    code, _, err = medjax("predict", run, data, "--out", tmp_path)
    assert is_refusal(code, err), err
    assert str(tmp_path) in err
    assert [f.name for f in tmp_path.iterdir()] == ["notes.txt"]


# Evaluation on other data


def test_evaluate_takes_data_without_splits_whole(finished, medjax, tmp_path):
    run, _ = finished
    other = write_blobs(tmp_path / "other", n=15, seed=7)
    before = snapshot(run)
    code, out, err = medjax("evaluate", run, "--data.path", other, "--out", tmp_path / "out")
    assert code == 0, err
    assert out.splitlines()[-1] == str(tmp_path / "out")
    report, trained = (json.loads((folder / "report.json").read_text()) for folder in (tmp_path / "out", run))
    assert set(report["metrics"]) == {"test"}
    assert report["data"]["splits"]["test"]["n"] == report["metrics"]["test"]["auroc"]["n"] == 30
    assert report["data"]["fingerprint"] != trained["data"]["fingerprint"]
    assert any("no split" in note for note in report["data"]["audit"]["notes"])
    assert report["baselines"].keys() == trained["baselines"].keys()
    assert report["definitions"] == trained["definitions"]
    assert report["point"] == trained["point"]
    rows = read_table(tmp_path / "out" / "predictions" / "test.csv")
    assert len(rows) == 30
    threshold = trained["point"]["threshold"]
    assert all((float(row["score/yes"]) >= threshold) == (row["pred"] == "yes") for row in rows)
    assert (tmp_path / "out" / "report.html").is_file()
    assert snapshot(run) == before


def test_evaluate_takes_only_the_split_asked_for(finished, medjax, tmp_path):
    run, _ = finished
    write_blobs(tmp_path / "other" / "train", n=6, seed=8)
    write_blobs(tmp_path / "other" / "test", n=11, seed=9)
    code, _, err = medjax("evaluate", run, "--data.path", tmp_path / "other", "--out", tmp_path / "out")
    assert code == 0, err
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["data"]["splits"]["test"]["n"] == 22
    assert not any("no split" in note for note in report["data"]["audit"]["notes"])
    assert all(row["id"].startswith("test/") for row in read_table(tmp_path / "out" / "predictions" / "test.csv"))


def test_evaluate_on_the_own_data_leaves_the_training_cases_out(finished, medjax, tmp_path):
    run, _ = finished
    code, _, err = medjax("evaluate", run, "--out", tmp_path / "out")
    assert code == 0, err
    again = (tmp_path / "out" / "predictions" / "test.csv").read_text()
    assert again == (run / "predictions" / "test.csv").read_text()


def test_evaluate_does_not_write_over_a_run(finished, medjax, tmp_path):
    run, data = finished
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    before = snapshot(copy)
    code, _, err = medjax("evaluate", copy, "--data.path", data, "--out", copy)
    assert is_refusal(code, err), err
    assert snapshot(copy) == before
