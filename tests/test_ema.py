"""The moving average of the weights: its formula, on every engine, through a kill, and wherever a run's numbers come from."""

import dataclasses

import jax
import numpy as np
import pytest
from families import FAMILIES, batch_of, relative_difference
from test_families import ENGINES, run, same_bits

from medjax import loop
from medjax.checkpoint import Checkpoints
from medjax.config import Train
from medjax.core import augmented
from medjax.deploy import finished
from medjax.ema import averaged, averages, started
from medjax.engine import make_engine
from medjax.errors import InputError

pytestmark = pytest.mark.usefixtures("brief")
DECAY = 0.3  # reached after four updates, so that a few of them see both sides of the minimum


def bad(batch):
    """The batch with a picture or record that makes the loss not a number."""
    return {**batch, "signal": np.where(np.arange(16)[:, None, None] == 9, np.nan, batch["signal"])}


# Networks of convolutions take long to compile on eight devices; what is averaged there is no other.
@pytest.mark.parametrize(("name", "engines"), [("lstm", ENGINES), ("cnn", ENGINES[:1]), ("gan", ENGINES[:1])])
def test_it_is_the_recursion_on_every_engine(name, engines):
    family = FAMILIES[name]()
    task, batch, found = augmented(family.job.task, family.job.augment), batch_of(family), {}
    for kind, n in engines:
        engine = make_engine(averaged(task, DECAY), kind, jax.devices()[:n])
        state = engine.init(jax.random.key(3), engine.put(batch))
        assert same_bits(averages(state).params, state.params)
        expected = None
        for t in range(7):
            state, _ = engine.update(state, engine.put(batch))
            extra = {name: value for name, value in state.extra.items() if name != "ema"}
            weights = jax.tree.map(lambda x: np.asarray(x, np.float64), {"params": state.params, "extra": extra})
            rate = min(DECAY, t / (9 + t))
            mix = lambda old, new, rate=rate: rate * old + (1 - rate) * new  # noqa: E731
            expected = weights if expected is None else jax.tree.map(mix, expected, weights)
        assert relative_difference(state.extra["ema"], expected) < 1e-6
        assert relative_difference(state.extra["ema"], weights) > 1e-4
        for leaf in jax.tree.leaves(state.extra["ema"]):
            assert len({np.asarray(s.data).tobytes() for s in leaf.addressable_shards}) == 1, "devices hold different averages"
        found[kind, n] = jax.device_get(state.extra["ema"])
    for other in found.values():
        assert relative_difference(other, found["jit", 1]) < 1e-6


@pytest.mark.parametrize("name", FAMILIES)
def test_evaluation_and_prediction_are_of_the_averages(name):
    family = FAMILIES[name]()
    plain, batch = family.job.task, {**batch_of(family), "index": np.arange(16)}
    task = averaged(plain, DECAY)
    init, evaluate = jax.jit(plain.init), jax.jit(plain.evaluate)
    state, other = (init(jax.random.key(seed), batch) for seed in (0, 1))
    both = state.replace(extra={**state.extra, "ema": {"params": other.params, "extra": other.extra}})
    taken = averages(both)
    assert same_bits((taken.params, taken.extra), (other.params, other.extra))
    expected = evaluate(state.replace(params=other.params, extra=other.extra), batch)
    assert relative_difference(jax.jit(task.evaluate)(both, batch), expected) < 1e-6
    assert relative_difference(evaluate(state, batch), expected) > 1e-3
    inputs = batch if name != "gan" else {"latent": np.ones((2, 5), np.float32)}
    predict, by_average = jax.jit(plain.predict), jax.jit(task.predict)(both, inputs)
    assert relative_difference(by_average, predict(other, inputs)) < 1e-6
    assert relative_difference(by_average, predict(state, inputs)) > 1e-3


@pytest.mark.parametrize(("kind", "n"), ENGINES)
def test_an_update_that_is_not_finite_moves_no_average(kind, n):
    family = FAMILIES["lstm"]()
    engine, good = make_engine(averaged(family.job.task, DECAY), kind, jax.devices()[:n]), batch_of(family)
    state = engine.init(jax.random.key(0), engine.put(good))
    for batch in (good, good):
        state, _ = engine.update(state, engine.put(batch))
    before = jax.device_get((state.params, state.extra))
    state, logs = engine.update(state, engine.put(bad(good)))
    assert float(logs["skipped"]) == 1
    assert same_bits((state.params, state.extra), before)
    state, _ = engine.update(state, engine.put(good))
    assert not same_bits(state.extra["ema"], before[1]["ema"])


def test_a_run_goes_on_bit_for_bit_and_its_numbers_are_the_averages_everywhere(tmp_path, monkeypatch):
    family, explained = FAMILIES["lstm"](), []
    job = family.job._replace(explain=lambda state, rows, cases: explained.append(state) or {})
    family = family._replace(job=job)
    whole = run(family, tmp_path / "whole", ema=DECAY)
    config = dataclasses.replace(family.config, train=dataclasses.replace(family.config.train, ema=DECAY))
    assert same_bits((explained[0].params, explained[0].extra), tuple(whole.state.extra["ema"][k] for k in ("params", "extra")))

    saved = Checkpoints.save

    def stop_after_save(self, state, progress):
        saved(self, state, progress)
        self.wait()
        raise KeyboardInterrupt

    monkeypatch.setattr(Checkpoints, "save", stop_after_save)
    with pytest.raises(KeyboardInterrupt):
        run(family, tmp_path / "cut", ema=DECAY)
    monkeypatch.undo()
    resumed = loop.go_on(job, config, tmp_path / "cut", quiet=True, devices=jax.devices()[:1])
    assert same_bits(resumed.state, whole.state)
    assert resumed.report["metrics"] == whole.report["metrics"]

    again = finished.evaluate(job, config, tmp_path / "whole", out=tmp_path / "again")
    for metric, entry in again["metrics"]["test"].items():
        assert entry["value"] == pytest.approx(whole.report["metrics"]["test"][metric]["value"], abs=1e-6)
    without = run(family, tmp_path / "without")
    assert without.report["metrics"]["test"]["log_loss"] != whole.report["metrics"]["test"]["log_loss"]
    assert same_bits(without.state.params, whole.state.params) == (without.progress.best_step == whole.progress.best_step)


def test_averages_begin_at_the_weights_that_a_training_starts_from(tmp_path):
    family = FAMILIES["lstm"]()
    seen = []

    def start(state, cases):
        seen.append(sorted(state.extra))
        return state.replace(params=jax.tree.map(lambda x: x + 1, state.params))

    task = averaged(family.job.task, DECAY)
    state = started(start, task.init(jax.random.key(0), batch_of(family)), None)
    assert same_bits(averages(state).params, state.params)
    # The whole way, with a State whose memory is given away at each update.
    run(family._replace(job=family.job._replace(start=start)), tmp_path / "run", ema=DECAY, steps=2)
    run(family._replace(job=family.job._replace(start=start)), tmp_path / "plain", steps=2)
    assert seen == [["batch_stats"]] * 3


def test_none_is_the_task_itself_and_a_wrong_decay_is_said():
    task = FAMILIES["lstm"]().job.task
    assert averaged(task, 0.0) is task
    for value in (1.0, -0.1):
        with pytest.raises(InputError, match=rf"--train.ema {value}: must be 0 or more and below 1"):
            Train(ema=value)
    with pytest.raises(ValueError, match="of its own at extra"):
        averaged(averaged(task, 0.5), 0.5).init(jax.random.key(0), batch_of(FAMILIES["lstm"]()))
