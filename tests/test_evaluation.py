"""From rows to report.json: intervals, paired differences, what cannot be computed, baselines in a file, shortcuts."""

import functools

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, brier_score_loss, roc_auc_score

from medjax import evaluation, keep, metrics
from medjax.cases import Cases
from medjax.core import About, Baseline, Job
from medjax.errors import InputError
from medjax.tasks import classification

CLASSES = ("no", "yes")
ABOUT = About("classification", "Is it?", CLASSES, "auroc", True, {}, "made up")


def make_job(measure=None, baselines=None):
    """A Job of the parts that evaluation looks at."""
    return Job(
        about=ABOUT,
        task=None,
        sources=None,
        read=None,
        preprocess=None,
        augment=None,
        measure=measure or functools.partial(classification.measure, classes=CLASSES),
        baselines=baselines or {},
        figures=None,
        write=functools.partial(classification.write, classes=CLASSES),
        calibrate=classification.calibrate,
        decide=classification.decide,
    )


def make_cases(groups=40, size=3, seed=0):
    """Cases in groups of one label each."""
    rng = np.random.default_rng(seed)
    group = np.repeat(np.arange(groups), size)
    label = (rng.random(groups) < 0.5).astype(int)[group]
    label[:size], label[-size:] = 0, 1
    patient = np.array([f"p{g}" for g in group])
    return Cases({"id": np.array([f"c{i}" for i in range(len(group))]), "patient": patient, "label": label, "group": group})


def make_rows(cases, seed=0, noise=1.0):
    """Scores that know the label, with an error that a group shares."""
    rng = np.random.default_rng([seed, 1])
    group = cases["group"]
    logit = cases["label"] - 0.5 + noise * rng.normal(size=group.max() + 1)[group] + 0.3 * rng.normal(size=len(cases))
    p = 1 / (1 + np.exp(-logit))
    return {"score": np.stack([1 - p, p], 1), "pred": (p > 0.5).astype(int)}


def sklearn_measures(label, rows):
    return {
        "auroc": roc_auc_score(label, rows["score"][:, 1]),
        "accuracy": accuracy_score(label, rows["pred"]),
        "brier": brier_score_loss(label, rows["score"][:, 1]),
    }


def direct_bootstrap(cases, models, count, rng, measures=sklearn_measures):
    """[count] of {model: metrics} by drawing groups with a plain loop."""
    members = [np.flatnonzero(cases["group"] == g) for g in np.unique(cases["group"])]
    for _ in range(count):
        index = np.concatenate([members[i] for i in rng.integers(len(members), size=len(members))])
        label = cases["label"][index]
        if len(np.unique(label)) == 2:
            yield {name: measures(label, {k: x[index] for k, x in rows.items()}) for name, rows in models.items()}


def test_intervals_agree_with_a_direct_bootstrap():
    cases = make_cases()
    models = {"network": make_rows(cases, 0, 0.7), "other": make_rows(cases, 1, 1.5)}
    found = evaluation.measure_all(make_job(), cases, {name: [rows] for name, rows in models.items()})
    draws = list(direct_bootstrap(cases, models, 1000, np.random.default_rng(5)))
    for name, rows in models.items():
        for metric, value in sklearn_measures(cases["label"], rows).items():
            entry = found["metrics"][name][metric]
            assert entry["value"] == pytest.approx(value)
            assert entry["n"] == len(cases)
            ends = np.quantile([d[name][metric] for d in draws], (0.025, 0.975))
            # Two sets of 1,000 draws: their quantiles differ by less than an eighth of the interval's width.
            np.testing.assert_allclose(entry["ci95"], ends, atol=np.ptp(ends) / 8)
    for metric, entry in found["comparisons"]["other"].items():
        if metric not in draws[0]["network"]:
            continue
        network, other = (found["metrics"][name][metric]["value"] for name in models)
        assert entry["difference"] == pytest.approx(network - other)
        ends = np.quantile([d["network"][metric] - d["other"][metric] for d in draws], (0.025, 0.975))
        np.testing.assert_allclose(entry["ci95"], ends, atol=np.ptp(ends) / 8)


def test_intervals_draw_groups_not_cases():
    """Thirty copies of each case tell no more than the case: the interval must not shrink."""
    cases = make_cases(groups=30, size=1)
    rows = make_rows(cases)
    copies = np.repeat(np.arange(30), 30)
    one = evaluation.measure_all(make_job(), cases, {"network": [rows]})["metrics"]["network"]
    many = evaluation.measure_all(make_job(), cases.take(copies), {"network": [{k: x[copies] for k, x in rows.items()}]})
    for metric in ("auroc", "accuracy", "brier"):
        np.testing.assert_allclose(many["metrics"]["network"][metric]["ci95"], one[metric]["ci95"], atol=1e-9)


@pytest.mark.parametrize(("groups", "has_interval"), [(9, False), (10, True)])
def test_too_few_groups_have_no_interval(groups, has_interval):
    cases = make_cases(groups=groups, size=5)
    rows = make_rows(cases)
    found = evaluation.measure_all(make_job(), cases, {"network": [rows], "same": [rows]})
    for entry in (found["metrics"]["network"]["accuracy"], found["comparisons"]["same"]["accuracy"]):
        if has_interval:
            assert entry["ci95"] is not None
            assert "reason" not in entry
        else:
            assert entry["ci95"] is None
            assert "9" in entry["reason"]
            assert "10" in entry["reason"]


def test_a_model_does_not_differ_from_itself():
    cases = make_cases()
    rows = make_rows(cases)
    found = evaluation.measure_all(make_job(), cases, {"network": [rows], "copy": [dict(rows)]})
    assert set(found["comparisons"]) == {"copy"}
    for metric, entry in found["comparisons"]["copy"].items():
        assert entry["difference"] == 0, metric
        assert entry["ci95"] == [0, 0], metric


def test_paired_differences_are_narrower_than_unpaired():
    """Two models that err on the same cases: only pairing shows how sure their difference is."""
    cases = make_cases(groups=60)
    rows = make_rows(cases)
    worse = np.clip(rows["score"][:, 1] * 0.8, 0, 1)
    others = {"score": np.stack([1 - worse, worse], 1), "pred": rows["pred"]}
    found = evaluation.measure_all(make_job(), cases, {"network": [rows], "other": [others]})
    width = np.ptp(found["comparisons"]["other"]["log_loss"]["ci95"])
    unpaired = np.hypot(*(np.ptp(found["metrics"][name]["log_loss"]["ci95"]) for name in ("network", "other")))
    assert width < 0.8 * unpaired


def test_members_are_averaged_in_every_resample():
    """The value is the mean over the members, and so is each draw: the interval is of the mean, not of its members."""
    cases = make_cases()
    members = [make_rows(cases, seed, 0.7) for seed in range(3)]
    found = evaluation.measure_all(make_job(), cases, {"network": members, "other": [make_rows(cases, 9, 1.5)]})
    alone = [sklearn_measures(cases["label"], rows) for rows in members]
    entry = found["metrics"]["network"]["auroc"]
    assert entry["value"] == pytest.approx(np.mean([m["auroc"] for m in alone]))
    auroc = lambda label, rows: roc_auc_score(label, rows["score"][:, 1])  # noqa: E731
    draws = direct_bootstrap(cases, dict(enumerate(members)), 1000, np.random.default_rng(6), auroc)
    ends = np.quantile([np.mean([d[k] for k in range(3)]) for d in draws], (0.025, 0.975))
    np.testing.assert_allclose(entry["ci95"], ends, atol=np.ptp(ends) / 8)
    other = found["metrics"]["other"]["auroc"]["value"]
    assert found["comparisons"]["other"]["auroc"]["difference"] == pytest.approx(entry["value"] - other)


def test_what_is_undefined_is_left_out_and_named():
    cases = make_cases()
    healthy = cases.take(cases["label"] == 0)
    rows = make_rows(healthy)
    found = evaluation.measure_all(make_job(), healthy, {"network": [rows], "other": [make_rows(healthy, 1)]})
    assert "accuracy" in found["metrics"]["network"]
    for metric in ("auroc", "auprc", "sensitivity"):
        assert metric not in found["metrics"]["network"]
        assert metric not in found["comparisons"]["other"]
        assert found["undefined"][metric] == metrics.why_undefined(metric)
    assert not set(found["undefined"]) & set(found["metrics"]["network"])


def test_what_is_rarely_defined_has_no_interval():
    """A resample of forty cases holds a given one with probability 0.64, and three given ones with 0.26."""
    cases = make_cases(groups=40, size=1)
    label = np.zeros(40, int)
    cases = Cases({**cases.columns, "label": label})

    def measure(rows, part):
        ids = set(part["id"])
        return {"rare": 1.0 if {"c1", "c2", "c3"} <= ids else np.nan, "often": float("c1" in ids) or np.nan}

    found = evaluation.measure_all(make_job(measure), cases, {"network": [make_rows(cases)]})["metrics"]["network"]
    assert found["often"]["ci95"] == [1, 1]
    assert found["rare"]["ci95"] is None
    assert "half" in found["rare"]["reason"]


def test_cases_without_a_label_do_not_count():
    cases = make_cases()
    label = np.where(np.arange(len(cases)) % 4 == 0, -1, cases["label"])
    rows = make_rows(cases)
    gaps = Cases({**cases.columns, "label": label})
    entry = evaluation.measure_all(make_job(), gaps, {"network": [rows]})["metrics"]["network"]["auroc"]
    known = label >= 0
    assert entry["n"] == known.sum() == 90
    assert entry["value"] == pytest.approx(roc_auc_score(label[known], rows["score"][known, 1]))


def test_matched_pairs_count_pairs():
    cases = make_cases(groups=60, size=1)
    header = make_rows(cases, 3)
    job = make_job()
    matched = evaluation.match_on_header(cases, {"header": header})
    pair, label, score = matched["pair"], cases["label"], make_rows(cases)["score"][:, 1]
    entry = evaluation.measure_all(job, matched, {"network": [make_rows(cases)]})["metrics"]["network"]["auroc_matched"]
    right = []
    for p in range(pair.max() + 1):
        (positive,) = np.flatnonzero((pair == p) & (label == 1))
        (negative,) = np.flatnonzero((pair == p) & (label == 0))
        right.append(score[positive] > score[negative])
        logit = [np.log(header["score"][i, 1] / header["score"][i, 0]) for i in (positive, negative)]
        assert abs(logit[0] - logit[1]) < 0.3 * np.std(np.log(header["score"][:, 1] / header["score"][:, 0]))
    assert entry["n"] == len(right) > 5
    assert entry["value"] == pytest.approx(np.mean(right))
    assert "pair" not in evaluation.match_on_header(cases, {"majority": header})


def test_baselines_keep_their_arrays_and_points_in_a_file(tmp_path):
    cases = make_cases()
    score = make_rows(cases)["score"]
    fitted_on = []

    def fit(train, val):
        fitted_on.append((len(train), len(val)))
        return {"shift": np.array(0.125), "names": np.array(["a", "b"])}

    def predict(arrays, part):
        p = score[part.index, 1] + arrays["shift"]
        return {"score": np.stack([1 - p, p], 1)}

    job = make_job(baselines={"shifted": Baseline(fit, predict)})
    train, val = cases.take(np.arange(60)), cases.take(np.arange(60, 120))
    fitted = keep.fit_baselines(job, train, val)
    assert fitted_on == [(60, 60)]
    point = {"threshold": np.array(0.25)}
    keep.save_baselines(tmp_path, {"": fitted, "fold1": fitted}, {"": point, "fold1": point, "ensemble": point})
    again, points = keep.load_baselines(tmp_path)
    assert points == {"": point, "fold1": point, "ensemble": point}
    assert again.keys() == {"", "fold1"}
    assert again[""].keys() == {"shifted"}
    for name, array in fitted["shifted"].items():
        np.testing.assert_array_equal(again[""]["shifted"][name], array)
    # Decided at the baseline's own threshold, which is validation's best, not at the network's.
    best = metrics.youden_threshold(val["label"], score[60:, 1] + 0.125)
    rows = keep.score_baselines(job, again[""], val)["shifted"]
    np.testing.assert_array_equal(rows["pred"], (score[60:, 1] + 0.125 >= best).astype(int))


def test_a_file_with_pickled_baselines_is_not_opened(tmp_path):
    np.savez(tmp_path / keep.BASELINES, **{"|logistic|coef": np.array([{"any": "object"}])})
    with pytest.raises(ValueError, match="pickle"):
        keep.load_baselines(tmp_path)


def test_a_run_without_baselines_is_not_finished(tmp_path):
    with pytest.raises(InputError, match="not finished") as error:
        keep.load_baselines(tmp_path)
    assert str(tmp_path) in str(error.value)


def test_splits_are_described():
    cases = make_cases(groups=20, size=3)
    label = cases["label"].copy()
    label[:6] = -1
    found = evaluation.describe_split(Cases({**cases.columns, "label": label}), CLASSES)
    assert (found["n"], found["patients"], found["groups"]) == (60, 20, 20)
    assert found["prevalence"]["yes"] == pytest.approx((label == 1).sum() / 54, abs=1e-6)
    nameless = Cases({**cases.columns, "patient": np.full(60, "")})
    assert evaluation.describe_split(nameless, CLASSES)["patients"] is None


def test_the_unit_of_the_intervals():
    cases = make_cases(groups=20, size=3)
    nameless = {**cases.columns, "patient": np.full(60, "")}
    assert evaluation.ci_unit(cases) == "patient"
    assert evaluation.ci_unit(Cases(nameless)) == "group"
    assert evaluation.ci_unit(Cases({**nameless, "group": np.arange(60)})) == "case"


def test_a_header_that_scores_high_is_a_shortcut():
    entry = {"auroc": {"value": 0.83}}
    found, warnings = evaluation.audit_shortcut({"header": entry}, "test")
    assert found["auroc"] == 0.83
    assert warnings == [found["text"]]
    assert "0.83" in warnings[0]
    assert evaluation.audit_shortcut({"header": {"auroc": {"value": 0.6}}}, "test") == (None, [])
    assert evaluation.audit_shortcut({"logistic": entry}, "test") == (None, [])
