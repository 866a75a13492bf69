"""COCO's numbers against pycocotools, FROC and the RSNA challenge's against cases counted by hand."""

import contextlib
import io
import json

import numpy as np
import pytest

from medjax.metrics import detection as m


def pictures(seed, n=12, classes=3, *, crowds=True, ties=False):
    """Random pictures of overlapping boxes, and detections that are noisy copies of some of them, and others."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(n):
        k = int(rng.integers(0, 9))
        corner, side = rng.uniform(0, 200, (k, 2)), rng.uniform(4, 120, (k, 2))
        truth = np.concatenate([corner, corner + side], 1)
        kind, crowd = rng.integers(0, classes, k), (rng.random(k) < 0.15) & crowds
        copies = rng.integers(0, max(k, 1), int(rng.integers(0, 14))) if k else np.zeros(0, int)
        noisy = truth[copies] + rng.normal(0, 6, (len(copies), 4))
        noisy[:, 2:] = np.maximum(noisy[:, 2:], noisy[:, :2] + 1)
        other = rng.uniform(0, 200, (int(rng.integers(0, 5)), 2))
        boxes = np.concatenate([noisy, np.concatenate([other, other + 30], 1)])
        category = np.concatenate([kind[copies], rng.integers(0, classes, len(other))]).astype(int)
        score = np.round(rng.random(len(boxes)), 1) if ties else rng.random(len(boxes))
        found.append((boxes, score, category, truth, kind, crowd))
    return found


def stacked(found, classes, **options):
    """(score, category, marks, positives) of all pictures, padded to one length."""
    most = max(max(len(p[1]) for p in found), 1)
    score, category = np.zeros((len(found), most)), np.full((len(found), most), -1)
    marks = np.full((len(found), most, 10), -1, np.int8)
    positives = np.zeros((len(found), classes), int)
    for i, (boxes, s, c, truth, kind, crowd) in enumerate(found):
        score[i, : len(s)], category[i, : len(s)] = s, c
        marks[i, : len(s)] = m.match(boxes, s, c, truth, kind, crowd, **options)
        area = options.get("area") or (0, np.inf)
        size = (truth[:, 2:] - truth[:, :2]).prod(1)
        counts = ~crowd & (size >= area[0]) & (size <= area[1])
        positives[i] = np.bincount(kind[counts], minlength=classes)
    return score, category, marks, positives


def by_pycocotools(found, classes):
    coco = pytest.importorskip("pycocotools.coco")
    evaluation = pytest.importorskip("pycocotools.cocoeval")
    truth = {"images": [{"id": i + 1} for i in range(len(found))], "annotations": []}
    truth["categories"] = [{"id": k + 1, "name": str(k)} for k in range(classes)]
    results = []
    for i, (boxes, score, category, true, kind, crowd) in enumerate(found):
        for b, k, c in zip(true, kind, crowd, strict=True):
            box = [*b[:2], *(b[2:] - b[:2])]
            n = len(truth["annotations"]) + 1
            about = {"id": n, "image_id": i + 1, "category_id": int(k) + 1, "bbox": box, "iscrowd": int(c)}
            truth["annotations"].append({**about, "area": box[2] * box[3]})
        for b, s, k in zip(boxes, score, category, strict=True):
            box = [*b[:2], *(b[2:] - b[:2])]
            results.append({"image_id": i + 1, "category_id": int(k) + 1, "bbox": box, "score": float(s)})
    with contextlib.redirect_stdout(io.StringIO()):
        known = coco.COCO()
        known.dataset = json.loads(json.dumps(truth))
        known.createIndex()
        run = evaluation.COCOeval(known, known.loadRes(results), "bbox")
        run.evaluate()
        run.accumulate()
        run.summarize()
    return run


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("ties", [False, True])
def test_average_precision_and_recall_are_those_of_pycocotools(seed, ties):
    found = pictures(seed, ties=ties)
    run = by_pycocotools(found, 3)
    table = m.coco(*stacked(found, 3))
    precision = run.eval["precision"][:, :, :, 0, -1]  # [T, R, K], all areas, 100 detections
    theirs = np.where((precision > -1).all((0, 1))[:, None], precision.mean(1).T, np.nan)
    np.testing.assert_allclose(table["ap"], theirs, atol=1e-12)
    recall = run.eval["recall"][:, :, 0, -1].T
    np.testing.assert_allclose(table["recall"], np.where(recall > -1, recall, np.nan), atol=1e-12)
    held = np.isfinite(table["ap"][:, 0])
    assert np.isclose(table["ap"][held].mean(), run.stats[0])
    assert np.isclose(table["ap"][held, 0].mean(), run.stats[1])
    assert np.isclose(table["recall"][held].mean(), run.stats[8])


@pytest.mark.parametrize(("name", "at"), [("small", 1), ("medium", 2), ("large", 3)])
def test_ranges_of_area_are_those_of_pycocotools(name, at):
    found = pictures(3, n=20)
    run = by_pycocotools(found, 3)
    table = m.coco(*stacked(found, 3, area=tuple(run.params.areaRng[at])))
    precision = run.eval["precision"][:, :, :, at, -1]
    theirs = np.where((precision > -1).all((0, 1))[:, None], precision.mean(1).T, np.nan)
    np.testing.assert_allclose(table["ap"], theirs, atol=1e-12)


def test_only_the_first_hundred_detections_of_a_class_count():
    boxes = np.tile([[0.0, 0, 10, 10]], (130, 1)) + np.arange(130)[:, None] * 20
    truth = boxes[[5, 120]]
    none = np.zeros(130, int)
    marks = m.match(boxes, np.linspace(1, 0, 130), none, truth, np.zeros(2, int), np.zeros(2, bool))
    assert (marks[:100] >= 0).all()
    assert (marks[100:] == -1).all()
    found = [(boxes, np.linspace(1, 0, 130), none, truth, np.zeros(2, int), np.zeros(2, bool))]
    run = by_pycocotools(found, 1)
    assert np.isclose(m.coco(*stacked(found, 1))["recall"].mean(), run.stats[8])
    assert run.stats[8] == 0.5


def test_real_boxes_scored_as_pycocotools_scores_them(real_data):
    """The true boxes of LIDC's test images, moved and scored at random, by the data's own file."""
    coco = pytest.importorskip("pycocotools.coco")
    evaluation = pytest.importorskip("pycocotools.cocoeval")
    file = real_data / "lidc_nodules" / "annotations" / "instances_test.json"
    rng, found, results = np.random.default_rng(0), [], []
    data = json.loads(file.read_text())
    for image in sorted(data["images"], key=lambda row: row["id"]):
        own = [a for a in data["annotations"] if a["image_id"] == image["id"]]
        boxes = np.array([a["bbox"] for a in own], float)
        boxes[:, 2:] += boxes[:, :2]
        moved = boxes.repeat(3, 0) + rng.normal(0, 1.5, (3 * len(boxes), 1))
        score = rng.random(len(moved))
        none = np.zeros(len(boxes), int)
        found.append((moved, score, none.repeat(3), boxes, none, none.astype(bool)))
        kind = own[0]["category_id"]
        for b, s in zip(moved, score, strict=True):
            box = [*b[:2], *(b[2:] - b[:2])]
            results.append({"image_id": image["id"], "category_id": kind, "bbox": box, "score": float(s)})
    with contextlib.redirect_stdout(io.StringIO()):
        known = coco.COCO(str(file))
        run = evaluation.COCOeval(known, known.loadRes(results), "bbox")
        run.evaluate()
        run.accumulate()
        run.summarize()
    table = m.coco(*stacked(found, 1))
    ours = [table["ap"].mean(), table["ap"][:, 0].mean(), table["recall"].mean()]
    np.testing.assert_allclose(ours, [run.stats[0], run.stats[1], run.stats[8]], atol=1e-12)


A, B = [0.0, 0, 10, 10], [20.0, 20, 30, 30]


def one(boxes, score, truth, *, category=None, kind=None, crowd=None):
    k, t = len(score), len(truth)
    return (
        np.array(boxes, float).reshape(-1, 4),
        np.array(score, float),
        np.zeros(k, int) if category is None else np.array(category),
        np.array(truth, float).reshape(-1, 4),
        np.zeros(t, int) if kind is None else np.array(kind),
        np.zeros(t, bool) if crowd is None else np.array(crowd),
    )


def test_hits_by_the_stated_rule():
    half = [0.0, 0, 10, 4]  # IoU .4 with A
    args = one([half, A, B, [50, 50, 60, 60]], [0.9, 0.8, 0.7, 0.6], [A, B])
    assert m.hits(*args, rule=m.Rule(0.3)).tolist() == [0, -2, 1, -1]
    # Under a stricter rule the first one misses, and the second finds A.
    assert m.hits(*args, rule=m.Rule(0.5)).tolist() == [-1, 0, 1, -1]
    # By centres: (5, 2) lies in A.
    assert m.hits(*args, rule=m.Rule(0)).tolist() == [0, -2, 1, -1]
    wrong_class = one([A, A], [0.9, 0.8], [A], category=[1, 0])
    assert m.hits(*wrong_class).tolist() == [-1, 0]
    region = one([[1, 1, 5, 5], B], [0.9, 0.8], [A, B], crowd=[True, False])
    assert m.hits(*region).tolist() == [-2, 1]


def test_froc_by_hand():
    # Two images, three lesions. By score: true, false, true, false, false.
    score, hit = np.array([0.9, 0.8, 0.7, 0.6, 0.5]), np.array([0, -1, 1, -1, -1])
    fp, sensitivity = m.froc_curve(score, hit, lesions=3, images=2)
    np.testing.assert_allclose(fp, [0, 0, 0.5, 0.5, 1.0, 1.5])
    np.testing.assert_allclose(sensitivity, [0, 1 / 3, 1 / 3, 2 / 3, 2 / 3, 2 / 3])
    np.testing.assert_allclose(m.sensitivity_at(fp, sensitivity, (0.125, 0.5, 1, 8)), [1 / 3, 2 / 3, 2 / 3, 2 / 3])
    # Equal scores are taken together: neither can be had without the other.
    fp, sensitivity = m.froc_curve(np.array([0.5, 0.5]), np.array([0, -1]), lesions=1, images=1)
    np.testing.assert_allclose(m.sensitivity_at(fp, sensitivity, (0.5, 1)), [0, 1])
    assert m.froc_curve(np.zeros(0), np.zeros(0, int), 2, 2)[1].tolist() == [0]
    # A detection that counts neither way changes nothing.
    same = m.froc_curve(np.append(score, 0.95), np.append(hit, -2), 3, 2)
    np.testing.assert_allclose(same[0], m.froc_curve(score, hit, 3, 2)[0])


def rsna_of(args, threshold=0.5):
    marks = m.match(*args, thresholds=m.above(m.RSNA))
    return m.rsna(args[1][None] >= threshold, marks[None], np.array([len(args[3])]))[0]


def test_the_challenge_of_rsna_by_hand():
    assert rsna_of(one([A], [0.9], [A])) == 1
    # IoU .5 passes .40 and .45 and, since it must be greater, not .50: two of eight thresholds.
    assert np.isclose(rsna_of(one([[0, 0, 10, 5]], [0.9], [A])), 2 / 8)
    # One of two lesions, and a false box: 1 / 3 at every threshold.
    assert np.isclose(rsna_of(one([A, [50, 50, 60, 60]], [0.9, 0.8], [A, B])), 1 / 3)
    # Below the operating point a box is not there.
    assert np.isclose(rsna_of(one([A, [50, 50, 60, 60]], [0.9, 0.4], [A, B])), 1 / 2)
    # Without true boxes: 0 where there is a box, left out where there is none.
    assert rsna_of(one([A], [0.9], [])) == 0
    assert np.isnan(rsna_of(one([A], [0.4], [])))
    # Two boxes on one lesion: the second is false.
    assert np.isclose(rsna_of(one([A, A], [0.9, 0.8], [A])), 1 / 2)


def test_iou_of_a_crowd_is_over_the_detection():
    inside = np.array([[2.0, 2, 4, 4]])
    assert np.isclose(m.iou(inside, np.array([A]))[0, 0], 0.04)
    assert np.isclose(m.iou(inside, np.array([A]), np.array([True]))[0, 0], 1)
    assert m.iou(np.array([[3.0, 3, 3, 3]]), np.array([[3.0, 3, 3, 3]]))[0, 0] == 0
