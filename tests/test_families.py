"""The three families through the one loop: engines, device counts, resume, compilations."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from families import FAMILIES, batch_of, largest_difference, relative_difference

from medjax import loop
from medjax.checkpoint import Checkpoints
from medjax.core import State, augmented
from medjax.engine import make_engine
from medjax.errors import InputError

pytestmark = pytest.mark.usefixtures("brief")
ENGINES = [("jit", 1), ("jit", 8), ("pmap", 8)]


def run(family, out, *, engine="jit", devices=1, **train):
    config = dataclasses.replace(family.config, engine=engine, train=dataclasses.replace(family.config.train, **train))
    return loop.train(family.job, config, out, quiet=True, devices=jax.devices()[:devices])


def same_bits(a, b):
    a, b = (tree.replace(key=jax.random.key_data(tree.key)) if isinstance(tree, State) else tree for tree in (a, b))
    leaves = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(np.asarray(x).tobytes() == np.asarray(y).tobytes() for x, y in leaves)


@pytest.fixture(scope="module", params=FAMILIES)
def trained(request, tmp_path_factory):
    """{(engine, devices): Trained} of one family, 10 SGD steps each."""
    family = FAMILIES[request.param]()
    folder = tmp_path_factory.mktemp(request.param)
    return family, {(e, n): run(family, folder / f"{e}{n}", engine=e, devices=n, keep=10) for e, n in ENGINES}


def last_state(family, done, devices):
    """The State after the last step (not the best), through its checkpoint."""
    checkpoints = Checkpoints(done.folder / "checkpoints", keep=10)
    engine = make_engine(family.job.task, done.engine.kind, jax.devices()[:devices])
    data = loop.load(family.job, family.config.data, lambda text: None)
    state, _ = checkpoints.restore(10, loop.abstract_state(engine, family.config, data))
    checkpoints.close()
    return state


def test_engines_and_device_counts_give_the_same_parameters(trained):
    family, done = trained
    reference = last_state(family, done["jit", 1], 1)
    for (engine, devices), other in done.items():
        state = last_state(family, other, devices)
        for part in ("params", "extra", "opt"):
            assert relative_difference(getattr(state, part), getattr(reference, part)) < 1e-6, (engine, devices, part)


def test_every_function_compiles_once(trained):
    _, done = trained
    for one in done.values():
        assert one.engine.update.count == 1
        assert one.engine.evaluate.count == 1


def test_training_moves_every_parameter(trained):
    family, done = trained
    first = family.job.task.init(jax.random.key(0), batch_of(family))
    last = last_state(family, done["jit", 1], 1)
    still = jax.tree.map(lambda a, b: bool((a == b).all()), first.params, last.params)
    assert not any(jax.tree.leaves(still))


@pytest.mark.parametrize("name", FAMILIES)
def test_resume_is_bit_identical_and_moves_between_engines(name, tmp_path, monkeypatch):
    family = FAMILIES[name]()
    whole = run(family, tmp_path / "whole")

    # Stop after the first checkpoint, as a kill would: the loop never comes to its end.
    saved = Checkpoints.save

    def stop_after_save(self, state, progress):
        saved(self, state, progress)
        self.wait()
        raise KeyboardInterrupt

    for engine in ("jit", "pmap"):
        folder = tmp_path / engine
        monkeypatch.setattr(Checkpoints, "save", stop_after_save)
        with pytest.raises(KeyboardInterrupt):
            run(family, folder)
        monkeypatch.undo()
        assert [p.name for p in (folder / "checkpoints").iterdir()] == ["5"]
        config = dataclasses.replace(family.config, engine=engine)
        resumed = loop.go_on(family.job, config, folder, quiet=True, devices=jax.devices()[: 1 if engine == "jit" else 8])
        assert resumed.progress.step == 10
        assert resumed.engine.update.count == 1
        if engine == "jit":
            assert same_bits(resumed.state, whole.state)
            assert resumed.report["metrics"] == whole.report["metrics"]
        else:
            assert relative_difference(resumed.state.params, whole.state.params) < 1e-6
        steps = [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
        assert steps == sorted(steps)


@pytest.mark.parametrize("name", FAMILIES)
def test_gradients_on_eight_devices_are_those_of_one(name):
    """One SGD step from the same state: an N-fold gradient, the classic error, would show at once."""
    family = FAMILIES[name]()
    task = augmented(family.job.task, family.job.augment)
    batch = batch_of(family)
    after = {}
    for engine, n in ENGINES:
        e = make_engine(task, engine, jax.devices()[:n])
        state = e.init(jax.random.key(3), e.put(batch))
        before = jax.device_get(state.params)
        state, logs = e.update(state, e.put(batch))
        after[engine, n] = jax.tree.map(lambda new, old: np.asarray(new) - old, state.params, before), jax.device_get(logs)
        for leaf in jax.tree.leaves(state.params):
            shards = [np.asarray(s.data).tobytes() for s in leaf.addressable_shards]
            assert len(set(shards)) == 1, "devices hold different parameters"
    step, logs = after["jit", 1]
    for other, other_logs in after.values():
        # A step is small against the parameter it was taken from, so its own rounding is larger.
        assert largest_difference(other, step) < 1e-4
        assert other_logs["grad_norm"] == pytest.approx(logs["grad_norm"], rel=1e-5)


@pytest.mark.parametrize(("engine", "devices"), ENGINES)
def test_updates_that_are_not_finite_are_skipped_and_counted(engine, devices):
    family = FAMILIES["lstm"]()
    e = make_engine(family.job.task, engine, jax.devices()[:devices])
    good = batch_of(family)
    bad = {**good, "signal": np.where(np.arange(16)[:, None, None] == 9, np.nan, good["signal"])}
    state = e.init(jax.random.key(0), e.put(good))
    before = jax.device_get((state.params, state.extra, state.opt))
    state, logs = e.update(state, e.put(bad))
    assert float(logs["skipped"]) == 1
    assert int(state.step) == 1
    assert same_bits((state.params, state.extra, state.opt), before)
    state, logs = e.update(state, e.put(good))
    assert float(logs["skipped"]) == 0
    assert not same_bits(state.params, before[0])
    assert e.update.count == 1


def test_too_many_skipped_in_a_row_stop_the_run(tmp_path):
    family = FAMILIES["lstm"]()
    task = family.job.task

    def update(state, batch, axis=None):
        new, logs = task.update(state, batch, axis)
        return new, {**logs, "loss": logs["loss"] / (state.step < 3)}

    family = family._replace(job=family.job._replace(task=task._replace(update=update)))
    with pytest.raises(InputError, match=r"4 updates in a row.*not finite"):
        run(family, tmp_path / "run", max_skipped=4)


def test_padding_does_not_change_what_is_learned_or_measured():
    """A masked row is no row, whatever it holds."""
    family = FAMILIES["lstm"]()
    e = make_engine(family.job.task, "jit", jax.devices()[:1])
    batch = batch_of(family, 16)
    mask = np.arange(16) < 11
    junk = {**batch, "mask": mask, "label": np.where(mask, batch["label"], 1 - batch["label"])}
    state = e.init(jax.random.key(0), e.put(batch))
    rows = e.gather(e.evaluate(state, e.put({**batch, "mask": mask})))
    other = e.gather(e.evaluate(state, e.put(junk)))
    np.testing.assert_array_equal(rows["loss"], other["loss"])
    assert np.isnan(rows["loss"][~mask]).all()


def test_early_stopping_survives_a_resume(tmp_path):
    family = FAMILIES["cnn"]()
    worse = family.job._replace(
        about=family.job.about._replace(monitor="constant"), measure=lambda rows, cases: {"constant": 0.5}
    )
    family = family._replace(job=worse)
    done = run(family, tmp_path / "run", steps=40, eval_every=2, checkpoint_every=2, patience=3)
    assert done.progress.stopped
    assert done.progress.step == 8
    assert done.progress.best_step == 2
    (tmp_path / "run" / "report.html").unlink()
    config = dataclasses.replace(
        family.config, train=dataclasses.replace(family.config.train, steps=40, eval_every=2, checkpoint_every=2, patience=3)
    )
    again = loop.go_on(family.job, config, tmp_path / "run", quiet=True, devices=jax.devices()[:1])
    assert again.progress == done.progress
    assert sorted(p.name for p in (tmp_path / "run" / "checkpoints").iterdir()) == ["2", "6", "8"]
