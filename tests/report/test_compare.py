import contextlib
import csv
import functools
import io
import json
import re
import shutil
import sys
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pytest
import sklearn.metrics as sk
from scipy import stats

from medjax import cli, metrics
from medjax.cases import Cases, Ragged, stack_rows
from medjax.errors import InputError
from medjax.files import write_json, write_text
from medjax.metrics import detection
from medjax.report import compare_runs, comparison_table, write_comparison
from medjax.report.predictions import read_predictions
from medjax.tasks import classification, detections, multilabel, segmentation
from medjax.tasks.detection_cases import padded

EVIL = "<script>alert('x')</script>"


def make_cases(label, *, patient=None, group=None, first=0):
    n = len(label)
    return Cases(
        {
            "id": np.array([f"scan{i:04d}" for i in range(first, first + n)]),
            "patient": np.full(n, "") if patient is None else patient,
            "label": label,
            **({} if group is None else {"group": group}),
        }
    )


def write_run(folder, cases, rows, classes, *, module=classification, split="test", values=None, **more):
    """A run folder with what a comparison reads, its table written by the task itself."""
    for ending, text in module.write(rows, cases, classes=classes).items():
        write_text(folder / "predictions" / f"{split}{ending}", text)
    report = {"task": "classification", "question": "Is it there?", "classes": list(classes), "monitor": "auroc"}
    report |= {"experiment": "demo", "ci_unit": "case", "seeds": [{"seed": 0}], "data": {"fingerprint": "abc"}}
    write_json(folder / "report.json", {**report, "metrics": {split: values or {"auroc": {"value": 0.9}}}, **more})
    return folder


def scores(label, k, lift, seed):
    noise = np.random.default_rng(seed).normal(size=(len(label), k))
    raw = np.exp(noise + lift * (np.arange(k) == np.asarray(label)[:, None]))
    score = raw / raw.sum(1, keepdims=True)
    return {"score": score, "pred": score.argmax(1)}


def make_pair(folder, *, n=150, k=2, patient=None, group=None, lifts=(2.5, 1.0), **more):
    label = np.random.default_rng(0).integers(k, size=n)
    cases, classes = make_cases(label, patient=patient, group=group), ("no", "yes", "maybe")[:k]
    rows = [scores(label, k, lift, seed) for seed, lift in enumerate(lifts, start=1)]
    runs = [write_run(folder / name, cases, r, classes, **more) for name, r in zip("abcd", rows)]
    return runs, label, rows


def test_two_classes_agree_with_sklearn_and_delong(tmp_path):
    runs, label, (a, b) = make_pair(tmp_path)
    found = compare_runs(runs)
    assert found["cases"] == {"shared": 150, "labelled": 150, "clusters": 150}
    assert (found["ci_unit"], found["split"]) == ("case", "test")
    for name, rows in (("a", a), ("b", b)):
        of = found["metrics"][name]
        assert of["auroc"]["value"] == pytest.approx(sk.roc_auc_score(label, rows["score"][:, 1]), abs=1e-9)
        assert of["log_loss"]["value"] == pytest.approx(sk.log_loss(label, rows["score"]), abs=1e-7)
        assert of["f1"]["value"] == pytest.approx(sk.f1_score(label, rows["pred"]), abs=1e-12)
        assert all(entry["n"] == 150 and entry["ci95"][0] <= entry["ci95"][1] for entry in of.values())
    for metric, entry in found["comparisons"]["b"].items():
        values = [found["metrics"][name][metric]["value"] for name in "ab"]
        assert entry["difference"] == pytest.approx(values[0] - values[1], abs=1e-15)
    difference, error, p = metrics.delong(label, a["score"][:, 1], b["score"][:, 1])
    delong = found["delong"]["b"]
    assert delong["difference"] == pytest.approx(difference, abs=1e-9)
    assert delong["standard_error"] == pytest.approx(error, rel=1e-6)
    assert delong["p"] == pytest.approx(p, rel=1e-4)
    # Without clusters both ways must tell about the same.
    low, high = found["comparisons"]["b"]["auroc"]["ci95"]
    assert (low, high) == pytest.approx(stats.norm.interval(0.95, difference, error), abs=0.02)


def test_intervals_are_of_the_paired_bootstrap_over_patients(tmp_path):
    patient = np.array([f"p{i // 5}" for i in range(150)])
    runs, label, rows = make_pair(tmp_path, patient=patient)
    found = compare_runs(runs)
    assert (found["ci_unit"], found["cases"]["clusters"]) == ("patient", 30)
    assert not found["delong"]
    assert any("DeLong" in note for note in found["notes"])

    def measure(r):
        return lambda i: metrics.classification(label[i], r["score"][i], r["pred"][i], ("no", "yes"))

    expected = metrics.paired_bootstrap(measure(rows[0]), measure(rows[1]), 150, patient)
    for metric, entry in found["comparisons"]["b"].items():
        assert entry["ci95"] == pytest.approx(expected[metric]["ci95"], abs=1e-6), metric
    alone = metrics.bootstrap(measure(rows[0]), 150, patient)
    for metric, entry in found["metrics"]["a"].items():
        assert entry["ci95"] == pytest.approx(alone[metric], abs=1e-6), metric


def test_cases_without_a_patient_stand_for_themselves(tmp_path):
    patient = np.array([f"p{i}" if i % 3 else "" for i in range(150)])
    found = compare_runs(make_pair(tmp_path, patient=patient)[0])
    assert (found["ci_unit"], found["cases"]["clusters"]) == ("patient", 150)
    assert any("50 cases without a patient" in note for note in found["notes"])
    assert found["delong"]


def test_groups_that_predictions_do_not_name_are_spoken_of(tmp_path):
    found = compare_runs(make_pair(tmp_path, ci_unit="group")[0])
    assert any("narrower" in note for note in found["notes"])
    assert not found["delong"]


def test_groups_that_predictions_name_are_drawn_whole(tmp_path):
    """Near-copies, of patients known or not, stay together, and so does all that a patient and a group have in common."""
    copies = np.arange(150) // 2
    runs, label, rows = make_pair(tmp_path, group=copies, ci_unit="group")
    found = compare_runs(runs)
    assert (found["ci_unit"], found["cases"]["clusters"]) == ("group", 75)
    assert not found["delong"]
    assert not any("narrower" in note or "No patient" in note for note in found["notes"])

    def measure(r):
        return lambda i: metrics.classification(label[i], r["score"][i], r["pred"][i], ("no", "yes"))

    expected = metrics.paired_bootstrap(measure(rows[0]), measure(rows[1]), 150, copies)
    for metric, entry in found["comparisons"]["b"].items():
        assert entry["ci95"] == pytest.approx(expected[metric]["ci95"], abs=1e-6), metric

    patient = np.array([f"p{i // 4}" if i < 100 else "" for i in range(150)])  # cases 0 to 99: 25 patients of 2 groups each
    found = compare_runs(make_pair(tmp_path / "patients", group=copies, patient=patient)[0])
    assert (found["ci_unit"], found["cases"]["clusters"]) == ("group", 25 + 25)
    within = compare_runs(make_pair(tmp_path / "within", group=patient_numbers(patient), patient=patient)[0])
    assert (within["ci_unit"], within["cases"]["clusters"]) == ("patient", 25 + 50)


def patient_numbers(patient):
    """A group for each patient, and for each case without one."""
    return np.unique(np.where(patient == "", np.arange(len(patient)).astype(str), patient), return_inverse=True)[1]


def test_a_group_is_named_by_its_first_case_and_further_columns_do_no_harm(tmp_path):
    runs, *_ = make_pair(tmp_path, n=6, group=np.array([5, 9, 5, 2, 9, 9]))
    path = runs[0] / "predictions" / "test.csv"
    table = path.read_text().splitlines()
    assert table[0] == "id,patient,truth,pred,score/no,score/yes,group"
    assert [line.rpartition(",")[2][-1] for line in table[1:]] == list("010311")
    path.write_text("\n".join([table[0] + ",reader", *(line + ",me" for line in table[1:])]) + "\n")
    assert read_predictions(runs[0], "test").group.tolist() == [f"scan000{i}" for i in "010311"]
    several, first = tmp_path / "several", make_cases(np.int8([[1, 0], [-1, 1], [0, 0]]), group=np.array([0, 1, 0]))
    rows = {"score": np.full((3, 2), 0.5), "pred": np.int8([[1, 1], [0, 1], [0, 0]])}
    write_run(several, first, rows, ("a", "b"), module=multilabel)
    read = read_predictions(several, "test")
    assert read.group.tolist() == ["scan0000", "scan0001", "scan0000"]
    assert read.label.tolist() == first["label"].tolist()


def test_cases_are_matched_by_id(tmp_path):
    runs, label, (a, b) = make_pair(tmp_path)
    order = np.random.default_rng(5).permutation(150)[:120]
    shuffled = make_cases(label).take(order)
    write_run(tmp_path / "b", shuffled, {key: x[order] for key, x in b.items()}, ("no", "yes"))
    found = compare_runs(runs)
    kept = np.sort(order)
    assert found["cases"]["shared"] == 120
    assert [run["cases"] for run in found["runs"]] == [150, 120]
    for name, rows in (("a", a), ("b", b)):
        value = found["metrics"][name]["auroc"]["value"]
        assert value == pytest.approx(sk.roc_auc_score(label[kept], rows["score"][kept, 1]), abs=1e-9)
    assert any("30 cases of its 150" in note for note in found["notes"])


def test_several_classes_and_several_runs(tmp_path):
    values = {"kappa": {"value": 0.5}, "auroc_matched": {"value": 0.5}}
    runs, label, rows = make_pair(tmp_path, k=3, lifts=(2.0, 2.0, 0.5), values=values)
    found = compare_runs(runs)
    assert list(found["metrics"]) == ["a", "b", "c"]
    assert list(found["comparisons"]) == ["b", "c"]
    assert not found["delong"]
    for name, r in zip("abc", rows):
        expected = metrics.classification(label, r["score"], r["pred"], ("no", "yes", "maybe"), ordinal=True)
        got = {metric: entry["value"] for metric, entry in found["metrics"][name].items()}
        assert got == pytest.approx(expected, abs=1e-6)
    assert any("AUROC on header-matched pairs" in note for note in found["notes"])
    page = write_comparison(found, tmp_path / "out").read_text()
    assert "Difference to c" in page
    assert "AUROC · maybe" in page


def test_several_labels_with_missing_ones(tmp_path):
    rng = np.random.default_rng(0)
    label = rng.integers(-1, 2, (200, 3)).astype(np.int8)
    label[:2] = -1
    classes, rows = ("mass", "nodule", "edema"), []
    for seed, lift in ((1, 2.0), (2, 1.0)):
        raw = np.random.default_rng(seed).normal(size=label.shape) + lift * (label - 0.5)
        score = 1 / (1 + np.exp(-raw))
        rows.append({"score": score, "pred": (score > 0.5).astype(int)})
    cases = make_cases(label)
    runs = [write_run(tmp_path / name, cases, r, classes, module=multilabel) for name, r in zip("ab", rows)]
    np.testing.assert_array_equal(read_predictions(runs[0], "test").label, label)
    np.testing.assert_array_equal(read_predictions(runs[0], "test").pred, rows[0]["pred"])
    found = compare_runs(runs)
    assert found["cases"]["labelled"] == np.sum((label >= 0).any(1)) < 200
    for name, r in zip("ab", rows):
        expected = metrics.multilabel(label, r["score"], r["pred"], classes)
        got = {metric: entry["value"] for metric, entry in found["metrics"][name].items()}
        assert got == pytest.approx(expected, abs=1e-6)
    assert found["comparisons"]["b"]["auroc"]["ci95"][0] > 0
    assert not found["delong"]
    plain = write_run(tmp_path / "plain", make_cases(label[:, 0].clip(0)), scores(label[:, 0], 3, 1, 0), classes)
    with pytest.raises(InputError, match="of several labels"):
        compare_runs([runs[0], plain])


def make_segmentations(folder, *, definitions=({}, {})):
    """Two runs over 30 cases of 15 patients, the first better at the second class, which some cases lack."""
    rng = np.random.default_rng(4)
    cases = make_cases(np.ones((30, 2), np.int8), patient=np.repeat([f"p{i}" for i in range(15)], 2))
    worse = rng.uniform(0.5, 0.8, (30, 2))
    worse[::5, 1] = np.nan
    better = worse + np.array([0.0, 0.1]) + rng.normal(0, 0.01, (30, 2))
    tables = [{"dice": x, "nsd": x, "volume_error": rng.normal(0, 0.1, (30, 2))} for x in (better, worse)]
    report = {"task": "segmentation", "monitor": "dice", "values": {"dice": {"value": 0.7}}}
    runs = [
        write_run(folder / name, cases, rows, ("liver", "tumour"), module=segmentation, definitions=of, **report)
        for name, rows, of in zip("ab", tables, definitions)
    ]
    return runs, tables


def test_segmentations_by_their_cases(tmp_path):
    runs, (a, b) = make_segmentations(tmp_path)
    found = compare_runs(runs)
    assert found["cases"] == {"shared": 30, "labelled": 30, "clusters": 15}
    assert found["delong"] == {}
    for name, rows in (("a", a), ("b", b)):
        means = np.nanmean(rows["dice"], axis=0)
        of = found["metrics"][name]
        assert of["dice"]["value"] == pytest.approx(means.mean(), abs=1e-8)
        assert of["dice/tumour"]["value"] == pytest.approx(means[1], abs=1e-8)
        assert of["volume_error"]["value"] == pytest.approx(np.abs(rows["volume_error"]).mean(), abs=1e-8)
    lo, hi = found["comparisons"]["b"]["dice/tumour"]["ci95"]
    assert 0.08 < lo < np.nanmean(a["dice"][:, 1]) - np.nanmean(b["dice"][:, 1]) < hi < 0.12
    lo, hi = found["comparisons"]["b"]["dice/liver"]["ci95"]
    assert lo < 0 < hi
    assert "a is better" in write_comparison(found, tmp_path / "out").read_text()


def make_detections(folder, *, n=40, rules=(0.3, 0.3), known=None, alike=1):
    """Two runs over images of two classes, some empty, every other pair of a patient: the first's boxes lie closer."""
    rng = np.random.default_rng(6)
    truth = [rng.uniform(0, 70, (int(m), 2)) for m in rng.integers(0, 4, n)]
    truth = [np.concatenate([low, low + rng.uniform(8, 30, low.shape)], 1).astype(np.float32) for low in truth]
    kinds = [rng.integers(0, 2, len(b)).astype(np.int32) for b in truth]
    label = np.array([[int((k == c).any()) for c in (0, 1)] for k in kinds], np.int8)
    label[[] if known is None else ~known] = -1
    columns = {"boxes": Ragged.of(truth), "category": Ragged.of(kinds), "number": (np.arange(n) // alike).astype(str)}
    columns |= {"crowd": Ragged.of([np.zeros(len(b), bool) for b in truth]), "size": np.full((n, 2), 100)}
    cases = Cases({**make_cases(label, patient=np.repeat([f"p{i}" for i in range(n // 2)], 2)).columns, **columns})
    cases = cases.extend(numbers=np.tile([3, 9], (n, 1)))
    runs, tables = [], []
    for seed, (name, spread, at) in enumerate(zip("ab", (1.0, 4.0), rules, strict=True)):
        draw, rule, made = np.random.default_rng(seed), detection.Rule(at), []
        for b, k in zip(truth, kinds, strict=True):
            boxes = np.concatenate(
                [b + draw.normal(0, spread, b.shape).clip(-3.9, 3.9), draw.uniform(0, 40, (2, 4)) + [0, 0, 50, 50]]
            )
            found = padded(boxes, draw.uniform(0.1, 1, len(boxes)), np.append(k, [0, 1]), 6)
            args = *(found[key] for key in ("boxes", "score", "category")), b, k, np.zeros(len(b), bool)
            made.append({**found, **detection.judge(*args, classes=2, rule=rule)})
        rows = detections.decide({"threshold": np.float64(0.4)}, stack_rows(made))
        report = {"task": "detection", "monitor": "map50", "definitions": dict(detection.definitions(rule, ("cyst", "stone")))}
        module = SimpleNamespace(write=functools.partial(detections.write, rule=rule))
        runs.append(write_run(folder / name, cases, rows, ("cyst", "stone"), module=module, **report))
        tables.append(detections.measure(rows, cases, classes=("cyst", "stone")))
    return runs, tables


def test_detections_by_their_images(tmp_path):
    """Measured anew from the files alone: what the run has said of itself, and what pycocotools says of the files."""
    runs, tables = make_detections(tmp_path)
    found = compare_runs(runs)
    assert found["cases"] == {"shared": 40, "labelled": 40, "clusters": 20}
    for name, table in zip("ab", tables, strict=True):
        assert {m: e["value"] for m, e in found["metrics"][name].items()} == pytest.approx(table, abs=1e-6)
    coco, evaluation = pytest.importorskip("pycocotools.coco"), pytest.importorskip("pycocotools.cocoeval")
    with contextlib.redirect_stdout(io.StringIO()):
        known = coco.COCO(str(runs[1] / "predictions" / "test_truth.json"))
        ran = evaluation.COCOeval(known, known.loadRes(str(runs[1] / "predictions" / "test.json")), "bbox")
        ran.evaluate()
        ran.accumulate()
        ran.summarize()
    ours = [found["metrics"]["b"][name]["value"] for name in ("map", "map50", "mar")]
    assert ours == pytest.approx([ran.stats[0], ran.stats[1], ran.stats[8]], abs=1e-6)
    lo, hi = found["comparisons"]["b"]["map"]["ci95"]
    assert 0 < lo < tables[0]["map"] - tables[1]["map"] < hi
    assert not found["delong"]
    assert "a is better" in write_comparison(found, tmp_path / "out").read_text()


def test_images_that_two_listings_call_alike_are_called_by_their_ids(tmp_path):
    """As where the folds pool images of a file of training and one of validation."""
    runs, tables = make_detections(tmp_path, alike=2)
    listed = json.loads((runs[0] / "predictions" / "test.json").read_text())
    assert {b["image_id"] for b in listed} == {f"scan{i:04d}" for i in range(40)}
    found = compare_runs(runs)
    assert {m: e["value"] for m, e in found["metrics"]["a"].items()} == pytest.approx(tables[0], abs=1e-6)


def test_detections_of_images_that_nobody_has_looked_at_do_not_count(tmp_path):
    runs, tables = make_detections(tmp_path, known=np.arange(40) % 4 > 0)
    found = compare_runs(runs)
    assert found["cases"]["labelled"] == found["metrics"]["a"]["map"]["n"] == 30
    assert {m: e["value"] for m, e in found["metrics"]["a"].items()} == pytest.approx(tables[0], abs=1e-6)


def test_detections_that_hit_by_other_rules_share_no_froc(tmp_path):
    runs, _ = make_detections(tmp_path, rules=(0.3, 0.0))
    found = compare_runs(runs)
    assert {"map", "map50", "mar", "rsna"} <= set(found["metrics"]["a"])
    assert not {"froc", "froc_1"} & set(found["metrics"]["a"])
    assert any("define it otherwise" in note for note in found["notes"])


def test_detections_whose_truth_differs_or_is_gone(tmp_path):
    (a, b), _ = make_detections(tmp_path)
    path = b / "predictions" / "test_truth.json"
    truth = json.loads(path.read_text())
    truth["annotations"][0]["bbox"][0] += 1
    path.write_text(json.dumps(truth))
    with pytest.raises(InputError, match="another truth for 1 case"):
        compare_runs([a, b])
    del truth["categories"]
    path.write_text(json.dumps(truth))
    with pytest.raises(InputError, match=r"are no boxes in COCO's form"):
        compare_runs([a, b])
    path.unlink()
    with pytest.raises(InputError, match=r"test_truth.json is not there"):
        compare_runs([a, b])


def test_measures_of_another_definition_are_not_compared(tmp_path):
    runs, _ = make_segmentations(tmp_path, definitions=({"nsd": "within 1 mm"}, {"nsd": "within 2 mm"}))
    found = compare_runs(runs)
    assert "nsd" not in found["metrics"]["a"]
    assert any("define it otherwise" in note for note in found["notes"])


def test_a_segmentation_beside_a_classification_is_refused(tmp_path):
    (run, _), _ = make_segmentations(tmp_path)
    (other, _), _, _ = make_pair(tmp_path / "other")
    with pytest.raises(InputError, match="compare runs of one task"):
        compare_runs([run, other])


def test_missing_labels_are_left_out(tmp_path):
    label = np.random.default_rng(0).integers(-1, 2, 90)
    cases = make_cases(label)
    runs = [write_run(tmp_path / name, cases, scores(label, 2, lift, 0), ("no", "yes")) for name, lift in (("a", 2), ("b", 1))]
    found = compare_runs(runs)
    assert found["cases"]["labelled"] == found["metrics"]["a"]["auroc"]["n"] == np.sum(label >= 0)


def test_too_few_clusters_have_no_interval(tmp_path):
    runs, *_ = make_pair(tmp_path, n=40, patient=np.array([f"p{i % 9}" for i in range(40)]))
    found = compare_runs(runs)
    entry = found["comparisons"]["b"]["auroc"]
    assert entry["ci95"] is None
    assert "9 clusters" in entry["reason"]
    assert "9 clusters" in write_comparison(found, tmp_path / "out").read_text()


def test_undefined_metrics_are_named(tmp_path):
    cases, label = make_cases(np.zeros(30, int)), np.zeros(30, int)
    runs = [write_run(tmp_path / name, cases, scores(label, 2, 1, seed), ("no", "yes")) for name, seed in (("a", 1), ("b", 2))]
    found = compare_runs(runs)
    assert "auroc" not in found["metrics"]["a"]
    assert "auroc" in found["undefined"]["b"]
    assert found["delong"]["b"] == {"difference": None, "standard_error": None, "p": None}
    assert "cannot be made" in write_comparison(found, tmp_path / "out").read_text()


def test_members_folds_and_validation_are_said(tmp_path):
    many = [{"seed": s} for s in range(3)]
    runs, *_ = make_pair(tmp_path / "seeds", seeds=many)
    assert any("3 members" in note for note in compare_runs(runs)["notes"])
    runs, *_ = make_pair(tmp_path / "folds", split="cv")
    assert compare_runs(runs)["split"] == "cv"
    runs, *_ = make_pair(tmp_path / "val", split="val")
    assert any("flatter" in note for note in compare_runs(runs)["notes"])
    other = write_run(
        tmp_path / "x", make_cases(np.arange(20) % 2), scores(np.arange(20) % 2, 2, 1, 0), ("no", "yes"), split="test"
    )
    with pytest.raises(InputError, match="no split in common"):
        compare_runs([runs[0], other])


def change(run, **more):
    write_json(run / "report.json", {**json.loads((run / "report.json").read_text()), **more})


def edit(run, old, new):
    path = run / "predictions" / "test.csv"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda run: change(run, task="segmentation"), "is not of a segmentation into"),
        (lambda run: (run / "report.json").unlink(), "no report.json"),
        (lambda run: (run / "report.json").write_text("{"), "not valid JSON"),
        (lambda run: shutil.rmtree(run / "predictions"), "no predictions/test.csv"),
        (lambda run: change(run, classes=["no", "ill"]), "test.csv: is not of a classification"),
        (lambda run: edit(run, "scan0003,", "scan0002,"), "line 5: the id 'scan0002' is there twice"),
        (lambda run: edit(run, "scan0003,,no,", "scan0003,,on,"), "line 5: 'on' is none of the classes"),
        (lambda run: edit(run, "scan0003,,no,", "scan0003,,yes,"), "another truth for 1 case, the first is 'scan0003'"),
        (lambda run: edit(run, "scan0003,,", "scan0003,"), "line 5: does not have the 6 columns"),
        (lambda run: edit(run, "scan0003,,no,no,0", "scan0003,,no,no,x0"), "line 5: could not convert"),
        (lambda run: (run / "predictions" / "test.csv").write_bytes(b"\xff\xfe\x00"), "no UTF-8 table"),
        (lambda run: write_run(run, make_cases(np.arange(9) % 2, first=900), scores(np.arange(9) % 2, 2, 1, 0), ("no", "yes")),
         "share no case"),
    ],
)  # fmt: skip
def test_what_cannot_be_compared_is_refused(tmp_path, spoil, says):
    label = np.array([0, 1, 1, 0] * 5)
    rows = scores(label, 2, 9, 0)
    runs = [write_run(tmp_path / name, make_cases(label), rows, ("no", "yes")) for name in "ab"]
    spoil(runs[1])
    with pytest.raises(InputError, match=re.escape(says)) as caught:
        compare_runs(runs)
    assert len(str(caught.value).splitlines()) == 2
    assert str(tmp_path / "b") in str(caught.value) or "no case" in says


def test_other_classes_and_patients_are_refused(tmp_path):
    label = np.arange(30) % 2
    rows = scores(label, 2, 1, 0)
    a = write_run(tmp_path / "a", make_cases(label), rows, ("no", "yes"))
    b = write_run(tmp_path / "b", make_cases(label), rows, ("yes", "no"))
    with pytest.raises(InputError, match="same classes"):
        compare_runs([a, b])
    c, d = (
        write_run(tmp_path / name, make_cases(label, patient=np.full(30, name)), rows, ("no", "yes")) for name in ("p", "q")
    )
    with pytest.raises(InputError, match="another patient for 30 cases"):
        compare_runs([c, d])
    assert compare_runs([a, c])["ci_unit"] == "patient"
    with pytest.raises(InputError, match="twice"):
        compare_runs([a, tmp_path / "b" / ".." / "a"])


def test_names_tell_runs_apart(tmp_path):
    for folder in ("one", "two"):
        make_pair(tmp_path / folder, n=20)
    found = compare_runs([tmp_path / "one" / "a", tmp_path / "two" / "a"])
    assert [run["name"] for run in found["runs"]] == ["one/a", "two/a"]
    assert found["comparisons"]["two/a"]["auroc"]["difference"] == 0
    assert found["delong"]["two/a"]["p"] == 1


class Page(HTMLParser):
    def __init__(self):
        super().__init__()
        self.open, self.tags = [], set()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        assert not any(name in ("src", "href") or name.startswith("on") for name, _ in attrs)
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_holds_all_and_nothing_runs(tmp_path):
    label = np.arange(60) % 2
    classes = ("no", EVIL)
    runs = [
        write_run(
            tmp_path / name, make_cases(label), scores(label, 2, lift, 3), classes, question=f"{EVIL} https://example.org"
        )
        for name, lift in (("<b>new", 3.0), ("old", 0.3))
    ]
    found = compare_runs(runs)
    path = write_comparison(found, tmp_path / "out")
    page, reader = path.read_text(), Page()
    reader.feed(page)
    assert not reader.open
    assert "script" not in reader.tags
    assert "<b>" not in page
    assert "https:" not in page
    assert "is better" in page
    assert 'class="sub better"' in page
    assert {file.name for file in (tmp_path / "out").iterdir()} == {"comparison.json", "comparison.html"}
    written = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert written["comparisons"] == found["comparisons"]
    assert set(written["definitions"]) == {name.split("/")[0] for name in written["metrics"]["old"]}


def test_the_table_of_the_terminal(tmp_path):
    from rich.console import Console

    runs, *_ = make_pair(tmp_path)
    console = Console(width=110, file=io.StringIO())
    console.print(comparison_table(compare_runs(runs), "b"))
    text = console.file.getvalue()
    assert re.search(r"AUROC +0\.\d{3} +0\.\d{3} +\+0\.\d{3} +\[\+0\.\d{3}, \+0\.\d{3}\] +better", text)
    assert re.search(r"Log loss ↓ .* better", text)
    assert "150 cases" in text


@pytest.fixture
def medjax(capsys, monkeypatch):
    def call(*args):
        monkeypatch.setattr(sys, "argv", ["medjax"])
        with pytest.raises(SystemExit) as stop:
            cli.main([str(a) for a in args])
        return stop.value.code, *capsys.readouterr()

    return call


def test_the_command(tmp_path, medjax):
    runs, *_ = make_pair(tmp_path)
    code, out, err = medjax("report", *runs)
    assert (code, err) == (0, "")
    assert "AUROC" in out
    assert "DeLong's test, a minus b: difference of the AUROCs +" in out
    assert {file.name for file in tmp_path.iterdir()} == {"a", "b"}
    code, out, _ = medjax("report", *runs, "--out", tmp_path / "new" / "out")
    assert code == 0
    assert out.splitlines()[-1].endswith("comparison.html")
    assert (tmp_path / "new" / "out" / "comparison.json").is_file()
    code, _, err = medjax("report", runs[0], "--out", tmp_path / "out")
    assert code == 2
    assert "several runs" in err
    code, _, err = medjax("report", runs[0], tmp_path / "none")
    assert code == 1
    assert len(err.splitlines()) == 2


def test_a_real_run_beside_a_spoilt_copy(finished, tmp_path):
    run, _ = finished
    copy = tmp_path / "copy"
    shutil.copytree(run, copy, ignore=shutil.ignore_patterns("checkpoints", "figures"))
    path = copy / "predictions" / "test.csv"
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    for i, row in enumerate(rows):  # an uninformed score
        row["score/no"], row["score/yes"] = (0.25, 0.75) if i % 2 else (0.75, 0.25)
    with open(path, "w", newline="") as file:
        table = csv.DictWriter(file, rows[0].keys())
        table.writeheader()
        table.writerows(rows[::-1])
    found = compare_runs([run, copy])
    report = json.loads((run / "report.json").read_text())
    for metric, entry in found["metrics"][run.name].items():
        assert entry["value"] == pytest.approx(report["metrics"]["test"][metric]["value"], abs=1e-6), metric
        assert entry["n"] == report["metrics"]["test"][metric]["n"]
    expected = sk.roc_auc_score([row["truth"] == "yes" for row in rows], [row["score/yes"] for row in rows])
    assert found["metrics"]["copy"]["auroc"]["value"] == pytest.approx(expected)
