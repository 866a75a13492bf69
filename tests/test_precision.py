"""bfloat16 by one switch, and which path of convolutions a run takes, keeps to and tells of."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from families import batch_of, cnn, largest_difference

import medjax
from medjax import loop
from medjax.checkpoint import Checkpoints
from medjax.engine import make_engine
from medjax.nn.onednn import supply

pytestmark = pytest.mark.usefixtures("brief")


@pytest.fixture
def path(monkeypatch):
    """path("on" or "off"): decides anew how convolutions go."""

    def take(switch):
        monkeypatch.setenv(supply.SWITCH, switch)
        supply._decide.cache_clear()
        return supply.choice().path

    try:
        supply.ready()
    except supply._NotToBeHad as why:
        pytest.skip(f"no oneDNN here: {why.reason}")
    yield take
    supply._decide.cache_clear()


def told(folder):
    return json.loads((folder / "environment.json").read_text())


def train(folder, config=None):
    family = cnn()
    return medjax.train(family.job, config or family.config, folder, quiet=True, devices=jax.devices()[:1])


def resume(folder, quiet=True):
    family = cnn()
    return loop.go_on(family.job, family.config, folder, quiet=quiet, devices=jax.devices()[:1])


def stop_at_five(folder, monkeypatch):
    """A run that ends with its first checkpoint, as by a kill."""
    saved = Checkpoints.save

    def save(self, state, progress):
        saved(self, state, progress)
        self.wait()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", save)
        with pytest.raises(KeyboardInterrupt):
            train(folder)


def same_bits(a, b):
    pairs = zip(jax.tree.leaves((a.params, a.extra, a.opt)), jax.tree.leaves((b.params, b.extra, b.opt)), strict=True)
    return all(np.asarray(x).tobytes() == np.asarray(y).tobytes() for x, y in pairs)


def test_a_run_begun_on_lax_keeps_to_it(path, tmp_path, monkeypatch):
    assert path("off") == "lax"
    whole = train(tmp_path / "whole")
    stop_at_five(tmp_path / "cut", monkeypatch)
    assert told(tmp_path / "cut")["convolutions"]["path"] == "lax"
    assert path("on") == "onednn"
    resumed = resume(tmp_path / "cut")
    assert resumed.progress.step == 10
    assert same_bits(resumed.state, whole.state)
    assert resumed.report["metrics"] == whole.report["metrics"]
    assert told(tmp_path / "cut")["convolutions"]["path"] == "lax"


def test_a_run_begun_on_onednn_says_where_it_cannot_keep_to_it(path, tmp_path, monkeypatch, capsys):
    assert path("on") == "onednn"
    stop_at_five(tmp_path / "cut", monkeypatch)
    convolutions = told(tmp_path / "cut")["convolutions"]
    assert convolutions["path"] == "onednn"
    assert {"version", "threads", "speedup", "error", "reason"} <= convolutions.keys()
    assert path("off") == "lax"
    capsys.readouterr()
    assert resume(tmp_path / "cut", quiet=False).progress.step == 10
    lines = [line for line in capsys.readouterr().err.splitlines() if "bits will differ" in line]
    assert len(lines) == 1
    assert "onednn 3" in lines[0]
    assert told(tmp_path / "cut")["convolutions"]["path"] == "lax"


def test_a_resumed_run_on_onednn_is_the_same_to_the_bit(path, tmp_path, monkeypatch, capsys):
    assert path("on") == "onednn"
    whole = train(tmp_path / "whole")
    stop_at_five(tmp_path / "cut", monkeypatch)
    assert same_bits(resume(tmp_path / "cut", quiet=False).state, whole.state)
    assert "bits will differ" not in capsys.readouterr().err


def test_bfloat16_trains_and_is_told(path, tmp_path):
    path("on")
    config = dataclasses.replace(cnn().config, train=dataclasses.replace(cnn().config.train, precision="bfloat16"))
    done = train(tmp_path / "run", config)
    assert told(tmp_path / "run")["precision"] == "bfloat16"
    assert {x.dtype for x in jax.tree.leaves((done.state.params, done.state.extra))} == {np.dtype("float32")}
    assert done.progress.step == 10
    assert done.progress.skipped == 0


def losses(precision, steps=10):
    family = cnn()
    engine = make_engine(family.job.task, "jit", jax.devices()[:1], precision=precision)
    batch = engine.put(batch_of(family))
    state, found = engine.init(jax.random.key(0), batch), []
    for _ in range(steps):
        state, logs = engine.update(state, batch)
        found.append(float(logs["loss"]))
    return np.array(found), state


@pytest.mark.parametrize("switch", ["on", pytest.param("off", marks=pytest.mark.slow)])
def test_bfloat16_learns_as_float32_does(switch, path):
    path(switch)
    (narrow, state), (wide, _) = losses("bfloat16"), losses("float32")
    np.testing.assert_allclose(narrow, wide, rtol=0.05)
    assert not np.array_equal(narrow, wide)
    assert {x.dtype for x in jax.tree.leaves(state.params)} == {np.dtype("float32")}


def equations(jaxpr):
    """Every equation of a jaxpr and of those inside it."""
    for equation in jaxpr.eqns:
        yield equation
        for value in equation.params.values():
            for inner in value if isinstance(value, tuple | list) else (value,):
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    yield from equations(inner)


@pytest.mark.parametrize("switch", ["on", "off"])
@pytest.mark.parametrize("precision", ["bfloat16", "float32"])
def test_convolutions_compute_in_the_precision_asked_for(precision, switch, path):
    path(switch)
    family = cnn()
    engine = make_engine(family.job.task, "jit", jax.devices()[:1], precision=precision)
    batch = engine.put(batch_of(family))
    state = engine.init(jax.random.key(0), batch)
    found = [e for e in equations(engine.update.function.trace(state, batch).jaxpr.jaxpr) if "conv_" in e.primitive.name]
    assert len(found) > 9
    assert {str(v.aval.dtype) for e in found for v in e.invars} == {precision}
    ours = [e.primitive.name.startswith("medjax_conv") for e in found]
    assert any(ours) == (switch == "on")


def test_two_precisions_of_one_task_do_not_share_a_trace():
    (first, _), (other, _), (again, _) = losses("float32", 2), losses("bfloat16", 2), losses("float32", 2)
    assert np.array_equal(first, again)
    assert largest_difference(first, other) > 1e-6
