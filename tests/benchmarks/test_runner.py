"""The runner on cases that are no networks: pairing, percentiles, JSON, what is printed, what is refused."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st

from medjax import bench, cli
from medjax.errors import InputError

runner, cases, measure, worker, system = (bench.load(n) for n in ("runner", "cases", "measure", "worker", "system"))
FAKES = (cases.Case("one", "none", {"batch": 4}, 1.0), cases.Case("two", "none", {"batch": 2, "shape": (8, 8)}, 2.0))


class Clock:
    """Time that passes only when a contender works."""

    def __init__(self):
        self.now = 0.0
        self.log = []

    def __call__(self):
        return self.now

    def contender(self, name, *seconds):
        """Step i of this contender lasts seconds[i % len]; a call of k steps is k times one of them."""
        calls = iter(range(10**9))

        def run(k):
            self.log.append((name, k))
            self.now += k * seconds[next(calls) % len(seconds)]

        return run


def row(name, **more):
    start = {"trace_s": 0.1, "lower_s": 0.1, "compile_s": 0.3, "first_call_s": 0.01}
    common = {"examples_per_s": 10.0, "step_ms": 400.0, "step_ms_p10": 390.0, "step_ms_p90": 410.0, "gflop_per_s": 3.0}
    return {"name": name, **common, "peak_memory_mib": None, "others_share": None, "start": start, **more}


def fake_measure(case, modes, emit):
    emit({"environment": {"device": "cpu", "convolution": {"path": "lax", "reason": "a test"}}})
    if case.name == "two":
        raise runner.CaseFailed("two/infer: the output differs from the peer's by 1.0e+00 (at most 1e-04)")
    for mode in modes:
        emit(row(f"{case.name}/{mode}"))


# The clock


@given(st.floats(1e-7, 2.0), st.floats(0.01, 1.0))
def test_a_repeat_lasts_long_enough_and_not_much_longer(step, least):
    clock = Clock()
    k = measure.steps_for(clock.contender("a", step), least, clock)
    assert k * step >= least * (1 - 1e-9)
    assert (k - 1) * step <= 1.2 * least + step


def test_contenders_take_turns_and_the_first_one_changes():
    clock = Clock()
    plan = measure.Plan(repeat_s=0.3, least=4, most=4, seconds=1e9)
    times, steps = measure.interleave({"a": clock.contender("a", 0.3), "b": clock.contender("b", 0.1)}, plan, clock)
    assert steps == {"a": 1, "b": 4}
    assert "".join(name for name, _ in clock.log[-8:]) == "abbaabba"
    np.testing.assert_allclose(times["a"], [0.3] * 4)
    np.testing.assert_allclose(times["b"], [0.1] * 4)


def test_short_steps_warm_up_untimed():
    clock = Clock()
    plan = measure.Plan(repeat_s=1.0, least=2, most=2, seconds=0.0)
    times, steps = measure.interleave({"a": clock.contender("a", 0.05)}, plan, clock)
    k = steps["a"]
    assert [done for _, done in clock.log[-4:]] == [k // 5, k] * 2
    np.testing.assert_allclose(times["a"], 0.05)


@pytest.mark.parametrize(("seconds", "expected"), [(0.0, 3), (2.5, 5), (1e9, 9)])
def test_repeats_stop_with_the_time_but_not_before_the_least(seconds, expected):
    clock = Clock()
    plan = measure.Plan(repeat_s=0.3, least=3, most=9, seconds=seconds)
    times, _ = measure.interleave({"a": clock.contender("a", 0.5)}, plan, clock)
    assert len(times["a"]) == expected


@given(st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=30))
def test_spread_is_numpys_and_in_order(values):
    found = measure.spread(values)
    assert found == pytest.approx(tuple(np.percentile(values, (50, 10, 90))))
    assert found.p10 <= found.median <= found.p90


def test_the_ratio_is_paired_and_of_the_fastest_peer():
    ours = np.array([1.0, 2.0, 4.0])
    against = worker.compare(ours, {"slow": np.array([9.0, 9.0, 9.0]), "quick": np.array([2.0, 2.0, 6.0])})
    assert against["by"] == "quick"
    # Ratios 2, 1, 1.5: their median is neither the ratio of medians (1) nor that of means.
    assert against["ratio"] == pytest.approx(1.5)
    assert against["step_ms"] == pytest.approx(2000)
    assert against["ratio_p10"] == pytest.approx(1.1)


# Agreement


def test_unequal_outputs_are_loud():
    good = np.ones((3, 4), np.float32)
    assert worker.relative_error(good, good) == 0
    assert worker.relative_error(good * np.float32(1.01), good) == pytest.approx(0.01, rel=1e-3)
    assert worker.relative_error(good.T, good) == np.inf
    assert worker.relative_error(good * np.nan, good) == np.inf
    worker.agree("fine", {"output": 9e-5, "loss": 0.0, "gradient": 1e-3}, gradient=2e-3)
    for errors in ({"output": 2e-4}, {"loss": float("nan")}, {"gradient": 2e-3}, {"gradient": float("inf")}):
        with pytest.raises(worker.Disagreement, match=r"case/mode: the \w+ differs"):
            worker.agree("case/mode", errors, gradient=1e-3)


def test_a_wrong_array_of_a_gradient_shows_however_small_it_is_beside_the_others():
    rng = np.random.default_rng(0)
    gradient = {("a", "kernel"): rng.normal(size=(50, 50)) * 10, ("a", "bias"): rng.normal(size=50)}
    assert worker.gradient_error(gradient, gradient) == 0
    wrong = {**gradient, ("a", "bias"): -gradient["a", "bias"]}
    whole = np.sqrt(sum((g**2).sum() for g in gradient.values()))
    assert np.linalg.norm(2 * gradient["a", "bias"]) / whole < 0.04  # a norm over all would hardly see it
    assert worker.gradient_error(wrong, gradient) > 0.5
    assert worker.gradient_error({("a", "kernel"): gradient["a", "kernel"]}, gradient) == np.inf


# The whole, without a network


def test_json_and_table(tmp_path, capsys):
    target = tmp_path / "deep" / "out.json"
    result = runner.bench(measure=fake_measure, cases=FAKES, json_file=target)
    assert json.loads(target.read_text()) == json.loads(json.dumps(result))
    assert [r["name"] for r in result["cases"]] == ["one/train", "one/infer"]
    assert result["failed"] == [
        {"name": "two", "error": "two/infer: the output differs from the peer's by 1.0e+00 (at most 1e-04)"}
    ]
    environment = result["environment"]
    assert {"versions", "python", "platform", "cpu", "threads", "convolution", "vs", "fast"} <= set(environment)
    assert environment["convolution"] == {"path": "lax", "reason": "a test"}
    assert environment["versions"]["jax"]
    out, err = capsys.readouterr()
    lines = [line for line in out.splitlines() if line.startswith(("case", "one/"))]
    assert len(lines) == 3
    assert len({len(line) for line in lines}) == 1, "columns do not line up"
    assert "FAILED: two/infer" in out
    assert "left in all" in err
    assert list(tmp_path.rglob("*.*")) == [target], "a temporary file stayed"


def test_a_disturbed_row_is_marked_and_named(capsys):
    def disturbed(case, modes, emit):
        emit({"environment": {"device": "cpu", "convolution": {"path": "lax", "reason": "a test"}}})
        emit(row("one/train", others_share=0.6))
        emit(row("one/infer", others_share=0.02))

    runner.bench(measure=disturbed, cases=FAKES[:1])
    out, err = capsys.readouterr()
    assert "400.0*" in out
    assert out.count("*") == 1
    assert "busy meanwhile (*): one/train\n" in err


def test_others_are_told_from_our_own_processes():
    """A process that spins is an other, unless it is one of ours."""
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as spin:
        try:
            blind, seeing = system.Others([]), system.Others([spin.pid])
            time.sleep(0.6)
            spun = int(Path(f"/proc/{spin.pid}/stat").read_text().rpartition(")")[2].split()[11]) / os.sysconf("SC_CLK_TCK")
            difference = (blind.share() - seeing.share()) * os.cpu_count() * 0.6
        finally:
            spin.kill()
    assert difference == pytest.approx(spun, abs=0.15)
    assert spun > 0.1


def test_peers_columns_line_up(capsys):
    def with_peer(case, modes, emit):
        emit({"environment": {"device": "cpu", "convolution": {"path": "lax", "reason": "a test"}}})
        for mode, ratio in zip(modes, (0.5, 12.25)):
            more = {"ratio_vs_torch": ratio, "ratio_p10": ratio, "ratio_p90": ratio, "torch": {"step_ms": 1000 * ratio}}
            emit(row(f"{case.name}/{mode}", **more))

    pytest.importorskip("torch")
    runner.bench(measure=with_peer, cases=FAKES[:1], vs="torch")
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith(("case", "one/"))]
    assert len({len(line) for line in lines}) == 1
    assert lines[2].endswith("12.25 (12.25-12.25)")


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        (None, {"one": ("train", "infer"), "two": ("train", "infer")}),
        ("one", {"one": ("train", "infer")}),
        ("t*", {"two": ("train", "infer")}),
        ("*/infer", {"one": ("infer",), "two": ("infer",)}),
        ("one/train", {"one": ("train",)}),
    ],
)
def test_only(pattern, expected):
    assert {case.name: modes for case, modes in cases.select(pattern, FAKES)} == expected


def test_a_pattern_that_names_nothing():
    with pytest.raises(InputError, match="nearest is one") as error:
        cases.select("onee", FAKES)
    assert error.value.usage


def test_time_left_follows_the_machine():
    assert runner._left(0.0, 0.0, 90.0) == 90.0
    assert runner._left(60.0, 30.0, 90.0) == 120.0


def test_a_process_that_dies_is_a_failed_case(monkeypatch):
    broken = cases.Case("no-such-case", "none", {"batch": 1}, 1.0)
    with pytest.raises(runner.CaseFailed, match="invalid choice"):
        runner._in_process(broken, ("train",), lambda row: None, vs=None, fast=True, compiled=False)


# The command


@pytest.fixture
def medjax(capsys):
    def call(*args):
        with pytest.raises(SystemExit) as stop:
            cli.main(list(map(str, args)))
        out, err = capsys.readouterr()
        return stop.value.code, out, err

    return call


def test_list_names_every_case(medjax):
    code, out, _ = medjax("bench", "--list")
    assert code == 0
    for name in ("resnet18", "resnet50", "unet2d", "unet3d", "dcgan", "lstm", "lstm1000", "gru"):
        assert f"{name}/train" in out
        assert f"{name}/infer" in out


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--only", "resnet19"], "nearest is resnet18"),
        (["--vs", "tensorflow"], "invalid choice"),
        (["--compile"], "add --vs torch"),
        (["--fasst"], "not understood"),
    ],
)
def test_usage_errors(args, words, medjax):
    code, _, err = medjax("bench", *args)
    assert code == 2
    assert words in err
    assert len(err.strip().splitlines()) <= 2


def test_without_torch_the_extra_is_named(monkeypatch, medjax):
    monkeypatch.setattr(runner.importlib.util, "find_spec", lambda name: None)
    code, _, err = medjax("bench", "--vs", "torch")
    assert code == 1
    assert "pip install 'medjax[bench]'" in err


@pytest.mark.parametrize("name", ["beam", "detector", "windows"])
def test_without_torch_no_measurement_beside_it_begins(name, monkeypatch):
    monkeypatch.setattr(runner.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match="not installed\nget it: pip install"):
        bench.load(name).main([])


def test_a_file_that_cannot_be_written_is_said_before_anything_is_measured(tmp_path, medjax):
    code, _, err = medjax("bench", "--json", tmp_path)
    assert code == 2
    assert "is a folder" in err


def test_help_and_list_do_not_import_jax():
    code = (
        "import sys\nfrom medjax import cli\n"
        "for args in (['bench', '--help'], ['bench', '--list']):\n"
        "    try:\n        cli.main(args)\n    except SystemExit as stop:\n        assert not stop.code, stop.code\n"
        "assert 'jax' not in sys.modules and 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


def test_the_wheels_place_is_looked_for_first(tmp_path, monkeypatch):
    package = tmp_path / "medjax"
    shipped = package / "_shipped" / "benchmarks"
    shipped.mkdir(parents=True)
    monkeypatch.setattr(bench, "__file__", str(package / "bench.py"))
    with pytest.raises(InputError, match="without its benchmarks"):
        bench.folder()
    (shipped / "__init__.py").touch()
    assert bench.folder() == shipped
