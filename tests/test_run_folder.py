import dataclasses
import json
import math
import os
import signal
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medjax import run
from medjax.config import Data, Train
from medjax.errors import InputError

HOLDER = """
import sys, time
from pathlib import Path
from medjax import run
with run.locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path):
    """A process that holds the lock of tmp_path."""
    process = subprocess.Popen([sys.executable, "-c", HOLDER, tmp_path], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def test_a_second_process_is_refused_and_a_killed_one_frees_the_lock(tmp_path, holder):
    with pytest.raises(InputError) as caught, run.locked(tmp_path):
        pytest.fail("two writers")
    assert str(tmp_path) in str(caught.value)
    assert str(holder.pid) in str(caught.value)
    assert len(str(caught.value).splitlines()) == 2
    with pytest.raises(InputError, match="in use"):
        run.create(tmp_path, {})
    assert not (tmp_path / "config.json").exists()
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with run.locked(tmp_path):
        assert (tmp_path / run.LOCK).read_text() == str(os.getpid())


def test_a_folder_in_use_is_never_discarded(tmp_path, holder):
    (tmp_path / "config.json").write_text("{}")
    run.discard_unbegun(tmp_path)  # what a resume does that found the lock taken
    assert (tmp_path / "config.json").is_file()
    holder.kill()
    holder.wait()
    run.discard_unbegun(tmp_path)
    assert not tmp_path.exists()


def test_the_lock_is_freed_at_the_end_also_by_an_error(tmp_path):
    with pytest.raises(KeyError), run.locked(tmp_path):
        raise KeyError
    with run.locked(tmp_path), pytest.raises(InputError, match=str(os.getpid())), run.locked(tmp_path):
        pass
    with run.locked(tmp_path):
        pass


def test_create_writes_config_json_first(tmp_path):
    folder = tmp_path / "runs" / "toy" / "1"
    run.create(folder, {"experiment": "toy", "config": {"a": (1, 2)}})
    assert {f.name for f in folder.iterdir()} == {"config.json", run.LOCK}
    assert run.read_record(folder) == {"experiment": "toy", "config": {"a": [1, 2]}}


@pytest.mark.parametrize("content", ["report.html", "config.json", ".hidden"])
def test_create_refuses_a_folder_with_content(tmp_path, content):
    (tmp_path / content).write_text("mine")
    with pytest.raises(InputError) as caught:
        run.create(tmp_path, {})
    assert str(tmp_path) in str(caught.value)
    assert "medjax resume" in str(caught.value)
    assert {f.name for f in tmp_path.iterdir()} == {content}
    assert (tmp_path / content).read_text() == "mine"


def test_create_takes_an_empty_folder_and_one_with_a_lock_alone(tmp_path):
    (tmp_path / run.LOCK).write_text("1")
    run.create(tmp_path, {})
    (tmp_path / "empty").mkdir()
    run.create(tmp_path / "empty", {})


def test_create_refuses_a_file_and_what_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("x")
    for folder in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(InputError, match=str(folder)):
            run.create(folder, {})


def test_only_an_unbegun_folder_is_discarded(tmp_path):
    begun = tmp_path / "begun"
    run.create(begun, {})
    (begun / "environment.json").write_text("{}")
    run.discard_unbegun(begun)
    assert (begun / "environment.json").is_file()
    parent = tmp_path / "parent"
    run.create(parent / "child", {})
    run.discard_unbegun(parent)
    assert (parent / "child" / "config.json").is_file()
    unbegun = tmp_path / "unbegun"
    run.create(unbegun, {})
    (unbegun / "checkpoints").mkdir()
    run.discard_unbegun(unbegun)
    assert not unbegun.exists()
    run.discard_unbegun(unbegun)  # gone already


def test_a_folder_that_is_no_run_is_named(tmp_path):
    with pytest.raises(InputError, match=str(tmp_path)):
        run.read_record(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(InputError, match=r"config\.json: is not JSON"):
        run.read_record(tmp_path)


def test_the_record_says_what_made_the_run(tmp_path):
    @dataclasses.dataclass(frozen=True)
    class Config:
        data: Data = Data(path="here")
        train: Train = Train(steps=3)

    file = tmp_path / "toy.py"
    file.write_bytes(b"abc")
    record = run.make_record("toy", file, Config(), "medjax train toy.py")
    assert record["file_sha256"] == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2, B.1
    assert record["config"]["train"]["steps"] == 3
    assert record["config"]["data"]["path"] == "here"
    assert record["medjax"] == run.version()
    assert run.make_record("toy", None, Config(), "")["file_sha256"] is None


def test_rewind_drops_later_and_half_written_lines(tmp_path):
    log = run.MetricsLog(tmp_path)
    log.rewind(0)
    assert log.path.read_text() == ""
    for step in (5, 10, 10, 15):
        log.append(step=step, loss=step / 10)
    with open(log.path, "a") as handle:
        handle.write('{"step": 20, "lo')
    log.rewind(10)
    assert [json.loads(line) for line in log.path.read_text().splitlines()] == [
        {"step": 5, "loss": 0.5},
        {"step": 10, "loss": 1.0},
        {"step": 10, "loss": 1.0},
    ]
    log.append(step=11)
    assert [line["step"] for line in run.read_metrics(log.path)] == [5, 10, 10, 11]
    assert [f.name for f in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_a_rewind_to_the_start_leaves_an_empty_log(tmp_path):
    log = run.MetricsLog(tmp_path)
    log.append(step=1)
    log.rewind(0)
    assert log.path.read_text() == ""


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 99), max_size=8).map(sorted), st.integers(0, 99), st.data())
def test_a_log_cut_anywhere_loses_no_whole_line(tmp_path_factory, steps, at, data):
    log = run.MetricsLog(tmp_path_factory.mktemp("log"))
    for step in steps:
        log.append(step=step, time=step / 3)
    text = log.path.read_text() if steps else ""
    cut = data.draw(st.integers(0, len(text)))
    log.path.write_text(text[:cut])
    whole = text[:cut].count("\n") + (text[cut : cut + 1] == "\n")
    assert [line["step"] for line in run.read_metrics(log.path)] == steps[:whole]
    log.rewind(at)
    assert [line["step"] for line in run.read_metrics(log.path)] == [s for s in steps[:whole] if s <= at]


def test_the_log_is_json_also_where_a_value_is_not_finite(tmp_path):
    log = run.MetricsLog(tmp_path)
    log.append(step=1, loss=math.nan, norm=math.inf, rate=0.1)

    def refuse(word):
        pytest.fail(f"{word} is no JSON")

    line = json.loads(log.path.read_text(), parse_constant=refuse)
    assert line == {"step": 1, "loss": None, "norm": None, "rate": 0.1}


def test_the_environment_names_versions_and_devices_but_no_machine(tmp_path):
    run.write_environment(tmp_path, engine="jit")
    found = json.loads((tmp_path / "environment.json").read_text())
    assert found["engine"] == "jit"
    assert len(found["devices"]) == 8
    assert {"jax", "flax", "numpy"} <= found["versions"].keys()
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    text = json.dumps(found)
    assert os.uname().nodename not in text or len(os.uname().nodename) < 4
    assert os.path.expanduser("~/") not in text
