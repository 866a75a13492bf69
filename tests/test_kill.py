"""kill -9 at any moment: the resumed run ends as the unkilled one did, to the bit."""

import json
import os
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from conftest import ONE_DEVICE, ROOT, SMALL, run_cli


def start(out, *args, to=subprocess.DEVNULL):
    command = [sys.executable, "-m", "medjax.cli", "train", "brain_tumor_mri", "--out", str(out), *map(str, args)]
    return subprocess.Popen(command, cwd=ROOT, env={**os.environ, **ONE_DEVICE}, stdout=to, stderr=to, text=True)


def outcome(out):
    """All that must be the same: every kept checkpoint's State, the metrics, the baselines, the predictions."""
    states = {}
    for folder in sorted((out / "checkpoints").iterdir()):
        if folder.is_dir():
            tree = ocp.StandardCheckpointer().restore(folder / "state")
            tree["key"] = jax.random.key_data(tree["key"])
            states[folder.name] = [np.asarray(x).tobytes() for x in jax.tree.leaves(tree)]
    report = json.loads((out / "report.json").read_text())
    kept = ("metrics", "baselines", "comparisons", "point", "best_step", "skipped_steps", "seeds")
    return states, {key: report[key] for key in kept}, (out / "predictions" / "test.csv").read_bytes()


def kill_and_resume(out, args, when):
    """Kill the training `when` seconds after its start, resume it, and say what the folder held at that moment."""
    process = start(out, *args)
    time.sleep(when)
    process.send_signal(signal.SIGKILL)
    process.wait()
    steps = sorted(p.name for p in (out / "checkpoints").glob("*")) if out.exists() else []
    if not (out / "config.json").exists():
        # Killed before anything was asked of the disk: there is nothing to resume.
        assert start(out, *args).wait() == 0
    else:
        done = run_cli("resume", out)
        assert done.returncode == 0, done.stderr
    assert not list((out / "checkpoints").glob("*tmp*"))
    return steps


def check(tmp_path, args, moments):
    began = time.perf_counter()
    assert start(tmp_path / "whole", *args).wait() == 0
    length = time.perf_counter() - began
    whole = outcome(tmp_path / "whole")
    for i, share in enumerate(moments):
        steps = kill_and_resume(tmp_path / f"killed{i}", args, share * length)
        print(f"killed at {share:.3f} of {length:.1f} s, checkpoints then: {steps}", flush=True)
        states, report, predictions = outcome(tmp_path / f"killed{i}")
        assert states == whole[0], f"parameters differ after a kill at {share:.3f}"
        assert report == whole[1], f"metrics differ after a kill at {share:.3f}"
        assert predictions == whole[2], f"predictions differ after a kill at {share:.3f}"


def test_two_kills_change_nothing(tmp_path, finished):
    _, blobs = finished
    check(tmp_path, ["--data.path", blobs, *SMALL], (0.3, 0.6))


@pytest.mark.slow
@pytest.mark.network
def test_twenty_kills_of_the_default_job_change_nothing(tmp_path):
    args = ["--train.steps", 60, "--train.eval_every", 20, "--train.checkpoint_every", 10]
    assert start(tmp_path / "prepared", *args).wait() == 0  # download, prepare and compile once
    check(tmp_path, args, np.random.default_rng(0).random(20).tolist())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_request_to_stop_saves_and_says_how_to_go_on(tmp_path, finished, number):
    _, blobs = finished
    out = tmp_path / "run"
    process = start(out, "--data.path", blobs, *SMALL, "--train.steps", 100_000, to=subprocess.PIPE)
    deadline = time.time() + 120
    while not (out / "metrics.jsonl").exists() or not (out / "metrics.jsonl").read_text():
        assert time.time() < deadline
        time.sleep(0.1)
    process.send_signal(number)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 1
    assert f"go on with: medjax resume {out}" in said
    assert "Traceback" not in said
    stopped = int(said.split("stopped at step ")[1].split(",")[0])
    assert (out / "checkpoints" / str(stopped)).is_dir()
    assert not (out / "report.json").exists()
