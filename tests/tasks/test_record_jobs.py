"""Jobs on records: every kind of question end to end, whose patients the statistics are of, leaks, and explanations."""

import csv
import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import pytest

import medjax
from medjax import evaluation, experiments
from medjax.cases import Cases, Varying
from medjax.config import Data, Train
from medjax.data.load import load_folds
from medjax.data.prepare import read_cases
from medjax.deploy.finished import evaluate, predict
from medjax.errors import InputError
from medjax.models.observed import STATISTICS
from medjax.tasks import record_baselines
from medjax.tasks.record_figures import integrated_gradients, risk_over_time
from medjax.tasks.record_network import input_names, make_network
from medjax.tasks.record_statistics import column_statistics
from medjax.tasks.records import Config, Grid, Known, Network, Target, record_job, resolve, risk_of

sys.path.append(str(Path(__file__).parent))
import toy_records as toy

QUANTITY = np.array([True, True, False])
SMALL = Network(name="simple", features=6, dropout=0.0, code_features=2)


@pytest.fixture(autouse=True, scope="module")
def few_trees():
    """Boosting and the bootstrap as they are, but small."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluation, "RESAMPLES", 40)
        patch.setattr(record_baselines, "ROUNDS", 20)
        patch.setattr(record_baselines, "EVERY", 10)
        patch.setattr(record_baselines, "TREES", ((4, 0.2, 5),))
        yield


def settings(kind="single", *, steps=2, **changes):
    train = Train(steps=steps, batch_size=16, eval_every=steps, checkpoint_every=steps)
    more = {"target": Target(horizon=5.0, bins=4)} if kind == "survival" else {}
    return dataclasses.replace(
        Config(data=Data(near_copies="off"), grid=Grid(hours=toy.HOURS), model=SMALL, train=train), **{**more, **changes}
    )


def build(config, kind="single", **options):
    return record_job(config, question="?", name="toy", find=lambda config: toy.layout(kind, **options))


def job_of(kind="single", *, options=None, **changes):
    config = resolve(settings(kind, **changes), lambda config: toy.layout(kind))
    return config, build(config, kind, **(options or {}))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(config, job, run) of death or survival, trained until it knows a fast heart."""
    config, job = job_of(steps=60, model=dataclasses.replace(SMALL, summary=True), optimizer=medjax.config.Optimizer(rate=2e-2))
    return config, job, medjax.train(job, config, tmp_path_factory.mktemp("run") / "run", quiet=True)


def table(path):
    with open(path, newline="") as handle:
        return list(csv.DictReader(handle))


def test_a_run_learns_and_says_everything(trained):
    done = trained[-1]
    report = json.loads((done.folder / "report.json").read_text())
    found = report["metrics"]["test"]
    assert found["auroc"]["value"] > 0.9
    assert {"min_se_pp", "auprc", "brier", "ece", "sensitivity"} <= found.keys()
    assert {"gbdt", "logistic", "majority"} == report["baselines"].keys()
    assert "min_se_pp" in report["definitions"]
    assert report["task"] == "records"
    names = {Path(figure["file"]).stem for figure in report["figures"]}
    assert {"roc", "calibration", "decision_curve", "course_high", "course_low", "attribution"} <= names
    assert list(table(done.folder / "predictions" / "test.csv")[0]) == [
        *("id", "patient", "truth", "pred", "score/survived", "score/died", "group")
    ]


@pytest.mark.parametrize("kind", ["ordinal", "multi", "steps", "survival"])
def test_every_kind_of_question(kind, tmp_path):
    config, job = job_of(kind)
    job = job if kind == "steps" else job._replace(explain=None)
    done = medjax.train(job, config, tmp_path / "run", quiet=True)
    report = json.loads((done.folder / "report.json").read_text())
    found = {name: entry["value"] for name, entry in report["metrics"]["test"].items()}
    wanted = {
        "ordinal": {"kappa", "kappa_linear", "mad"},
        "multi": {"auroc/renal", "macro_f1"},
        "steps": {"auroc", "alarmed", "false_alarmed", "min_se_pp"},
        "survival": {"c_index", "auroc"},
    }[kind]
    assert wanted <= found.keys()
    assert all(np.isfinite(value) for value in found.values())
    # Trees on summaries know a fast heart, whatever is asked.
    best = report["baselines"]["gbdt"]
    assert best["c_index" if kind == "survival" else "auroc"]["value"] > 0.6
    rows = table(done.folder / "predictions" / "test.csv")
    cases = len({row["patient"] for row in rows})
    assert len(rows) == (4 * cases if kind == "steps" else cases)
    if kind == "steps":
        assert rows[0]["id"].rsplit(":")[-1] == "2"
    score = np.array([[float(row[f"score/{c}"]) for c in toy.CLASSES[kind]] for row in rows])
    assert (score >= 0).all()
    assert (score <= 1).all()


def test_each_fold_scales_by_its_own_training_patients():
    config, job = job_of()
    folds = load_folds(job, config.data, 3, lambda text: None)
    held = set(folds[0].cases["cv"]["id"])

    def change(example):
        if example["id"] in held:
            example["values"] = Varying(example["values"].array * 50)
            example["static"] = example["static"] * 50
        return example

    other = load_folds(build(config, change=change), config.data, 3, lambda text: None)
    assert set(other[0].cases["cv"]["id"]) == held
    state = job.task.init(jax.random.key(0), {**_batch(folds[0].cases["train"]), "mask": np.ones(16, bool)})
    first, changed, second = (
        job.start(state, data.cases["train"]).extra[STATISTICS] for data in (folds[0], other[0], folds[1])
    )
    assert jax.tree.all(jax.tree.map(np.array_equal, first, changed))
    assert not jax.tree.all(jax.tree.map(np.array_equal, first, second))
    # What the training cases say, in plain words.
    seen = folds[0].cases["train"]["values"][..., 0]
    low, high = np.nanpercentile(seen, (0.5, 99.5))
    np.testing.assert_allclose(first["scale"]["mean"][0], np.nanmean(np.clip(seen, low, high)), rtol=1e-5)


def _batch(cases, n=16):
    return {name: np.asarray(cases[name])[:n] for name in cases.numeric()}


def test_statistics_of_odd_columns_are_plain_numbers():
    x = np.array([[np.nan, 3, 0], [np.nan, 3, 0], [np.nan, np.nan, 7]], np.float32)
    found = column_statistics(Cases({"x": x}), "x")
    assert all(np.isfinite(found[name]).all() for name in ("mean", "deviation", "knots"))
    np.testing.assert_array_equal(found["deviation"][:2], [1, 1])
    assert found["high"][0] == np.inf


def test_an_event_after_the_prediction_time_stops_the_run(tmp_path):
    def late(example):
        if example["id"] == "ward/007":
            example["times"] = Varying(np.append(example["times"].array[:-1], np.float32(toy.HOURS + 0.5)))
        return example

    config, job = job_of(options={"change": late})
    with pytest.raises(InputError, match=r"ward/007: an event at 8\.5 h comes after the prediction time 8 h"):
        medjax.train(job, config, tmp_path / "run", quiet=True)


def test_a_finished_run_measures_on_other_records(trained, tmp_path):
    config, _, done = trained
    elsewhere = toy.layout(n=60, seed=5)
    # Another hospital numbers its variables differently, and has one that nobody here knows.
    order = [3, 0, 4, 2, 1]

    def other(example):
        number = np.argsort(order)[example["variables"].array].astype(np.int32)
        number[example["variables"].array == 1] = 5
        return {**example, "id": f"b/{example['id']}", "variables": Varying(number)}

    cases = [other(example) for example in elsewhere.sources["all"]]
    there = (*(toy.VARIABLES[k] for k in order), toy.VARIABLES[1]._replace(name="lactate"))
    found = elsewhere._replace(sources={"all": cases}, variables=there)
    job = record_job(config, question="?", name="b", find=lambda config: found)
    report = evaluate(job, config, done.folder, out=tmp_path / "there")
    assert report["metrics"]["test"]["auroc"]["n"] == 60
    assert report["metrics"]["test"]["auroc"]["value"] > 0.9
    assert {"gbdt", "logistic"} <= report["baselines"].keys()
    none = found._replace(variables=tuple(v._replace(name=f"x{k}") for k, v in enumerate(there)))
    strange = record_job(config, question="?", name="b", find=lambda config: none)
    with pytest.raises(InputError, match="none of this data's variables"):
        strange.sources()


def test_the_same_record_gets_the_same_risk_alone(trained, tmp_path):
    config, job, done = trained
    kept = table(done.folder / "predictions" / "test.csv")
    wanted = {row["id"]: float(row["score/died"]) for row in kept}
    cases = [{**example, "label": -1} for example in toy.layout().sources["all"] if example["id"] in wanted]
    rows = predict(job._replace(read=lambda paths: cases), config, done.folder, ["x"], out=tmp_path / "out")
    np.testing.assert_allclose(rows["score"][:, 1], [wanted[case["id"]] for case in cases], rtol=1e-4, atol=1e-6)


class Explained(NamedTuple):
    """24 records, a way to ask for their risk, and what it is made of."""

    batch: dict[str, np.ndarray]
    ask: Callable
    mean: np.ndarray
    weights: np.ndarray
    over: np.ndarray


@pytest.fixture(scope="module")
def explained(trained):
    config, job, done = trained
    cases = next(read_cases(toy.layout(n=24).sources["all"], job.preprocess))
    batch = {name: np.asarray(cases[name]) for name in input_names(config)}
    batch["length"][3] = 3
    risk = risk_of(config)
    ask = jax.jit(lambda batch: risk(job.task.predict(done.state, batch), batch["length"]))
    mean = np.asarray(done.state.extra[STATISTICS]["scale"]["mean"])
    weights = integrated_gradients(job.task, done.state, batch, risk, quantity=QUANTITY, points=64)
    return Explained(batch, ask, mean, weights, risk_over_time(job.task, done.state, batch, risk))


def test_attributions_sum_to_the_difference_from_average_values(explained):
    batch, ask, mean, weights, _ = explained
    unmoved = np.isnan(batch["values"]) | ~QUANTITY
    average = {**batch, "values": np.where(unmoved, batch["values"], mean).astype(np.float32)}
    np.testing.assert_allclose(weights.sum((1, 2)), ask(batch) - ask(average), atol=0.03)
    assert (weights[unmoved] == 0).all()
    assert np.abs(weights).max() > 0.1


def test_taking_away_what_weighed_most_lowers_the_risk_more_than_chance(explained):
    batch, ask, mean, weights, _ = explained
    sick = np.arange(24) % 3 == 2

    def without(order):
        values = batch["values"].copy()
        for i, rank in order.items():
            step, column = np.unravel_index(rank[:3], values.shape[1:])
            values[i, step, column] = mean[column]
        return float(ask({**batch, "values": values})[sick].mean())

    seen = {i: np.flatnonzero(~np.isnan(batch["values"][i].ravel())) for i in np.flatnonzero(sick)}
    most = {i: s[np.argsort(-weights[i].ravel()[s])] for i, s in seen.items()}
    rng = np.random.default_rng(0)
    chance = np.mean([without({i: rng.permutation(s) for i, s in seen.items()}) for _ in range(8)])
    assert without(most) < chance - 0.1


def test_the_risk_over_time_is_what_was_known_by_then(explained):
    batch, ask, _, _, over = explained
    assert over.shape == (24, toy.HOURS)
    np.testing.assert_allclose(over[:3, -1], ask(batch)[:3], rtol=1e-4)
    np.testing.assert_array_equal(np.isnan(over[3]), np.arange(8) >= 3)
    # A record that ended at hour 4 would have had the same risk.
    np.testing.assert_allclose(
        over[:, 3][batch["length"] == 8], ask({**batch, "length": np.full(24, 4, np.int32)})[batch["length"] == 8], rtol=1e-4
    )


def test_questions_before_the_grid_are_told():
    _, job = job_of("steps", grid=Grid(hours=4))
    cases = next(read_cases(toy.layout("steps").sources["all"], job.preprocess))
    assert job.check(cases) == ["of 360 training questions 180 come before the grid's first step ends: see --grid.hours"]
    with pytest.raises(InputError, match="only answers of 'worse'"):
        job.check(next(read_cases([toy.record(2, "steps", np.random.default_rng(0))], job.preprocess)))


def test_settings_that_cannot_be_are_refused():
    known = Known(("HR",), ("",), ((),), (False,), ())
    base = settings(known=known, kind="single", data=Data(classes=("a", "b")))
    for changes, words in (
        ({"kind": "survival"}, "--target.horizon"),
        ({"kind": "steps", "grid": Grid(form="irregular")}, "--grid.form"),
        ({"target": Target(weights=(1.0, 2.0))}, "--target.weights"),
        ({"kind": "steps", "model": dataclasses.replace(SMALL, summary=True)}, "must not know what comes after"),
        (
            {"target": Target(deep=0.3), "model": dataclasses.replace(SMALL, bidirectional=True)},
            "must not know what comes after",
        ),
    ):
        wrong = dataclasses.replace(base, **changes)
        with pytest.raises(InputError, match=words) as caught:
            record_job(wrong, question="?", name="x", find=lambda config: toy.layout(n=2))
        assert caught.value.usage
    with pytest.raises(InputError, match=r"--data\.path"):
        resolve(Config())
    with pytest.raises(InputError, match="above 0"):
        Grid(step=0)


@pytest.mark.parametrize("name", ["lstm", "gru", "simple", "mingru", "grud", "channelwise"])
@pytest.mark.parametrize("form", ["last", "deep"])
def test_every_network_takes_every_record(name, form):
    config = resolve(
        settings(model=dataclasses.replace(SMALL, name=name, members=2), target=Target(deep=0.5 * (form == "deep"))),
        lambda c: toy.layout(),
    )
    cases = next(read_cases(toy.layout(n=4).sources["all"], build(config).preprocess))
    x = {n: np.asarray(cases[n]) for n in input_names(config)}
    model = make_network(config)
    y = jax.eval_shape(lambda x: model.init_with_output(jax.random.key(0), x, train=False)[0], x)
    assert y["logits"].shape == (4, 2, 2)


def test_the_experiment_keeps_to_one_form():
    module = experiments.load_by_name("icu_mortality")
    assert issubclass(module.Config, Config)
    assert set(module.PRESETS_OF) == {"fast", "full"}
    assert experiments.card(experiments.find("icu_mortality")).keys() == {"job", "data", "needs"}
    assert len(experiments.find("icu_mortality").read_text().splitlines()) < 80


@pytest.mark.realdata
def test_real_stays(real_data, tmp_path):
    """Every stay of a real set is prepared, and a file alone is predicted on."""
    folder = tmp_path / "physionet2012"
    (folder / "set-a").mkdir(parents=True)
    for file in sorted((real_data / "physionet2012" / "set-a").iterdir())[:150]:
        (folder / "set-a" / file.name).write_bytes(file.read_bytes())
    (folder / "Outcomes-a.txt").write_bytes((real_data / "physionet2012" / "Outcomes-a.txt").read_bytes())
    module = experiments.load_by_name("icu_mortality")
    train = Train(steps=2, batch_size=16, eval_every=2, checkpoint_every=2)
    config = dataclasses.replace(module.PRESETS_OF["fast"], data=Data(path=str(folder)), model=SMALL, train=train)
    config = module.resolve(config)
    assert config.layout == "physionet2012"
    done = medjax.train(module.build(config)._replace(explain=None), config, tmp_path / "run", quiet=True)
    assert done.report["metrics"]["test"]["auroc"]["n"] > 20
    one = next((folder / "set-a").iterdir())
    rows = predict(module.build(config), config, done.folder, [one], out=tmp_path / "out")
    assert rows["score"].shape == (1, 2)
