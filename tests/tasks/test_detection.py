"""Experiments of detection: a run on every layout of boxes, numbers that pycocotools repeats, boxes back where pictures lie."""

import contextlib
import dataclasses
import functools
import io
import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from PIL import Image

import medjax
from medjax.config import Data, Train
from medjax.core import Cases, Ragged
from medjax.data.layouts import open_layout
from medjax.data.pipeline import pipeline
from medjax.deploy.finished import evaluate, predict
from medjax.errors import InputError
from medjax.metrics import detection as metrics
from medjax.models.resnet import ResNet
from medjax.models.retinanet import RetinaNet
from medjax.nn import boxes as nn_boxes
from medjax.report.folder import look
from medjax.tasks import boxes as jobs
from medjax.tasks.boxes import (
    Augmentation,
    Config,
    Inference,
    Network,
    box_job,
    plan_canvases,
    plan_strides,
    resolve,
)
from medjax.tasks.boxes import (
    Image as Picture,
)
from medjax.tasks.detection import _loss_of_one, detection
from medjax.tasks.detection_cases import examples, fuse, preprocess_boxes
from medjax.tasks.images import standardised

sys.path += [str(Path(__file__).parents[1] / "data")]
import make_boxes as make

pytestmark = pytest.mark.usefixtures("brief")
# One form and one canvas for all layouts, so that two programs do for five.
SMALL = Config(
    image=Picture(size=64, form="grey", canvases=((64, 64),)),
    model=Network(width=4, stem=2, strides=(8, 16), anchors=2, features=8, depth=1, boxes=8),
    augment=Augmentation(mosaic=0),
    inference=Inference(most=20, candidates=64, least=0.0, mirror=()),
    train=Train(steps=2, batch_size=4, eval_every=2, checkpoint_every=2),
)
FINDS = {"rsna_pneumonia": functools.partial(jobs.find_layout, target="boxes")}


def settings(path, **changes):
    data = Data(path=str(path), near_copies="off", fractions=(0.5, 0.25, 0.25))
    return dataclasses.replace(SMALL, data=data, **changes)


def train(config, out, find=jobs.find_layout):
    config = resolve(config, find)
    job = box_job(config, question="Where is it?", name="toy", find=find)
    return job, config, medjax.train(job, config, out, quiet=True, devices=jax.devices()[:1])


@pytest.fixture(scope="module", params=make.WRITE)
def done(request, tmp_path_factory):
    """(layout's name, data folder, job, settings, run) of a tiny training."""
    folder = tmp_path_factory.mktemp(request.param)
    make.WRITE[request.param](folder / "data")
    find = FINDS.get(request.param, jobs.find_layout)
    return request.param, folder / "data", *train(settings(folder / "data"), folder / "run", find)


def test_a_run_on_each_layout(done):
    _name, _data, _job, _config, run = done
    report = json.loads((run.folder / "report.json").read_text())
    assert report["task"] == "detection"
    assert set(report["baselines"]) == {"blob", "prior"}
    assert {"map", "map50", "mar", "froc", "froc_1", "rsna"} <= set(report["metrics"]["test"]) <= set(report["definitions"])
    assert set(report["comparisons"]) == {"blob", "prior"}
    assert (run.folder / "figures" / "boxes.png").is_file()
    assert (run.folder / "figures" / "froc.png").is_file()
    listed = json.loads((run.folder / "predictions" / "test.json").read_text())
    assert listed
    assert set(listed[0]) == {"image_id", "category_id", "bbox", "score"}
    shapes = np.asarray(run.state.extra["statistics"]["shapes"])
    assert shapes.shape == (2, 2, 2)
    assert (shapes > 2).all(), "anchors are fitted to the boxes"


def test_pycocotools_repeats_the_reports_numbers(done):
    """From the data's own file and the run's predictions/test.json alone."""
    name, data, _job, _config, run = done
    if name != "coco":
        pytest.skip("only COCO's own layout has a file to measure by")
    coco = pytest.importorskip("pycocotools.coco")
    evaluation = pytest.importorskip("pycocotools.cocoeval")
    with contextlib.redirect_stdout(io.StringIO()):
        known = coco.COCO(str(data / "annotations" / "instances_test.json"))
        ran = evaluation.COCOeval(known, known.loadRes(str(run.folder / "predictions" / "test.json")), "bbox")
        ran.evaluate()
        ran.accumulate()
        ran.summarize()
    test = json.loads((run.folder / "report.json").read_text())["metrics"]["test"]
    ours = [test[key]["value"] for key in ("map", "map50", "mar")]
    np.testing.assert_allclose(ours, [ran.stats[0], ran.stats[1], ran.stats[8]], atol=1e-6)


def test_the_same_picture_gives_the_same_boxes(done, tmp_path):
    name, data, job, config, run = done
    if name != "coco":
        pytest.skip("one layout does")
    rows = predict(job, config, run.folder, [data / "images" / "test_003.png"], out=tmp_path / "out")
    number = next(
        i["id"]
        for i in json.loads((data / "annotations" / "instances_test.json").read_text())["images"]
        if i["file_name"] == "test_003.png"
    )
    before = [b for b in json.loads((run.folder / "predictions" / "test.json").read_text()) if b["image_id"] == number]
    after = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert len(before) == len(after) == (rows["category"][0] >= 0).sum()
    np.testing.assert_allclose([b["bbox"] for b in after], [b["bbox"] for b in before], atol=1e-3)
    np.testing.assert_allclose([b["score"] for b in after], [b["score"] for b in before], rtol=1e-5)
    assert (tmp_path / "out" / "predictions.csv").read_text().startswith("id,patient,truth,pred,score/disc,score/square")


def test_another_folder_of_the_kind(done, tmp_path):
    name, _data, _job, config, run = done
    if name != "coco":
        pytest.skip("one layout does")
    make.write_coco(tmp_path / "other", splits=("train",), seed=50)
    moved = dataclasses.replace(config, data=dataclasses.replace(config.data, path=str(tmp_path / "other")))
    again = box_job(moved, question="Where is it?", name="other")
    report = evaluate(again, moved, run.folder, out=tmp_path / "out")
    assert report["data"]["splits"]["test"]["n"] == 8
    assert set(report["baselines"]) == {"blob", "prior"}


def test_the_contact_sheet_shows_boxes(done, tmp_path):
    name, data, *_ = done
    if name not in ("coco", "luna16"):
        pytest.skip("grey and CT do")
    record = look(data, tmp_path / "out", layout="", splits=None, limit=100)
    assert record["kind"] == "boxes"
    assert sum(of["n"] for of in record["boxes"]["classes"].values()) > 4
    page = np.asarray(Image.open(tmp_path / "out" / "contact_sheet.png").convert("RGB")).astype(int)
    assert ((np.abs(page - [230, 159, 0]) < 30).all(-1)).sum() > 200, "frames of the first class"


def test_several_seeds_on_canvases_of_two_shapes(tmp_path):
    """Upright and broad pictures in turn; the ensemble's boxes are the members' fused."""
    make.write_coco(tmp_path / "data", sizes=((40, 80), (80, 40)))
    image = dataclasses.replace(SMALL.image, size=48, canvases=())
    job, config, run = train(settings(tmp_path / "data", image=image, seeds=2), tmp_path / "run")
    assert sorted(config.image.canvases) == [(32, 48), (48, 32)]
    report = json.loads((run.folder / "report.json").read_text())
    assert "ensemble" in report["metrics"]
    assert len(report["seeds"]) == 2
    # Each picture alone, in whatever order, gives the boxes that it had among the others.
    listed = json.loads((run.folder / "predictions" / "test.json").read_text())
    files = {
        i["id"]: i["file_name"] for i in json.loads((tmp_path / "data/annotations/instances_test.json").read_text())["images"]
    }
    names = [files[number] for number in sorted(files, reverse=True)]
    predict(job, config, run.folder, [tmp_path / "data/images" / name for name in names], out=tmp_path / "out")
    after = json.loads((tmp_path / "out" / "predictions.json").read_text())
    for number, name in files.items():
        mine = [b["bbox"] for b in after if b["image_id"] == Path(name).stem]
        np.testing.assert_allclose(mine, [b["bbox"] for b in listed if b["image_id"] == number], atol=2e-3)


def cases_of(bucket):
    """A case for each entry: 4 x 6 pixels of its number (bucket 1), or 6 x 4, with a box at the bottom and one at the right."""
    n = len(bucket)
    images = [np.full((4, 6, 1) if b else (6, 4, 1), i, np.uint8) for i, b in enumerate(bucket)]
    found = [np.array([[0, 0, 2, 6], [0, 4, 4, 6]] if not b else [[0, 0, 6, 2], [4, 0, 6, 4]], np.float32) for b in bucket]
    columns = {"image": Ragged.of(images), "boxes": Ragged.of(found), "category": Ragged.of([np.array([0, 0], np.int32)] * n)}
    columns |= {"crowd": Ragged.of([np.zeros(2, bool)] * n), "scale": np.ones((n, 2), np.float32)}
    columns["extent"] = np.array([(4, 6) if b else (6, 4) for b in bucket], np.float32)
    return Cases({**columns, "bucket": np.asarray(bucket), "label": np.ones((n, 1), np.int8)})


def test_a_batch_has_one_canvas():
    bucket = np.array([0, 1, 1, 1] * 6)
    cases = cases_of(bucket)
    made = examples(most_boxes=3, most=5, classes=1, rule=metrics.USUAL, overlap=0.5, buckets=2)
    assert made.sizes(cases).tolist() == bucket.tolist()
    make_batch = pipeline(cases, 4, seed=0, examples=made)
    drawn, shapes = np.zeros(24, int), set()
    for step in range(96):  # three whole blocks of the pipeline
        batch = make_batch(step)
        shapes.add(batch["image"].shape)
        np.add.at(drawn, batch["image"][:, 0, 0, 0], 1)
    assert shapes == {(4, 4, 6, 1), (4, 6, 4, 1)}
    assert (drawn == 16).all(), "384 draws of 24 cases"
    mixed = made.cut(cases.take(np.array([0, 1])), np.random.default_rng(0))
    assert mixed["image"].shape == (2, 4, 6, 1)
    assert mixed["extent"].tolist() == [[4, 4], [4, 6]]
    # Of the upright picture the lower third is cut off: two thirds of a box stay, and nothing of the other.
    assert mixed["boxes"][0].tolist() == [[0, 0, 2, 4], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert mixed["category"].tolist() == [[0, -1, -1], [0, 0, -1]]


@pytest.fixture(scope="module")
def task_of():
    """(mirrors, gate) -> (task, State, batch) of a small network with random weights."""

    def make_task(mirrors=(), gate=False):
        model = RetinaNet(2, ResNet(1, width=4, blocks=(1, 1), stem_stride=2, centred=True), (4, 8), 2, 8, 1, gate)
        task = detection(model, optax.sgd(0.1), inputs=lambda b: standardised(b), mirrors=mirrors)
        rng = np.random.default_rng(0)
        batch = {
            "image": jnp.asarray(rng.integers(0, 255, (2, 32, 48, 1)), jnp.uint8),
            "boxes": jnp.asarray([[[4.0, 4, 20, 16], [0, 0, 0, 0]], [[10, 10, 30, 30], [30, 5, 44, 20]]]),
            "category": jnp.asarray([[0, -1], [1, 0]]),
            "extent": jnp.asarray([[32.0, 48], [32, 48]]),
            "label": jnp.asarray([[1, 0], [1, 1]], jnp.int8),
            "mask": jnp.ones(2, bool),
        }
        state = jax.jit(task.init)(jax.random.key(1), batch)
        # Heads with an opinion: their first weights are next to nothing.
        params = jax.tree_util.tree_map_with_path(
            lambda path, x: x * 20 if "out" in str(path) and x.ndim > 1 else x, state.params
        )
        return task, state.replace(params=params), batch

    return make_task


def test_mirrored_pictures_have_mirrored_boxes(task_of):
    task, state, batch = task_of(mirrors=(0, 1))
    look_at = jax.jit(task.predict)
    before = look_at(state, batch)
    for axis in (0, 1):
        after = look_at(state, {**batch, "image": jnp.flip(batch["image"], axis + 1)})
        np.testing.assert_allclose(after["score"], before["score"], rtol=1e-3, atol=1e-5)
        size = batch["image"].shape[axis + 1]
        mine = np.asarray(nn_boxes.flip(after["boxes"], axis, size))[:, :5]
        np.testing.assert_allclose(mine, before["boxes"][:, :5], atol=0.05)


def test_the_gate_weighs_a_pictures_boxes(task_of):
    task, state, batch = task_of(gate=True)
    free, plain, _ = task_of(gate=False)
    rows = jax.jit(task.evaluate)(state, batch)
    trimmed = {k: v for k, v in state.params.items() if k != "head_gate"}
    ungated = jax.jit(free.evaluate)(plain.replace(params=trimmed, extra=state.extra), batch)
    factor = np.take_along_axis(np.asarray(rows["gate"]), np.maximum(rows["category"], 0), 1)
    assert factor.min() > 0
    assert factor.max() < 1
    np.testing.assert_allclose(rows["score"], np.asarray(ungated["score"]) * factor, rtol=1e-5)


def test_a_pictures_loss_by_its_formula():
    rng = np.random.default_rng(0)
    anchors = np.array([[0, 0, 10, 10], [1, 1, 11, 11], [30, 30, 40, 40], [4, 4, 14, 14]], np.float32)
    truth, kind = np.array([[0, 0, 10, 10], [0, 0, 0, 0]], np.float32), np.array([1, -1])
    logits, deltas = rng.normal(0, 1, (4, 2)).astype(np.float32), rng.normal(0, 0.1, (4, 4)).astype(np.float32)
    # IoU 1, .68, 0 and .22: two anchors stand for the box, two are background.
    p = 1 / (1 + np.exp(-logits.astype(np.float64)))
    target = np.zeros((4, 2))
    target[:2, 1] = 1
    p_t, a_t = np.where(target > 0, p, 1 - p), np.where(target > 0, 0.25, 0.75)
    classes = -(a_t * (1 - p_t) ** 2 * np.log(p_t)).sum()
    size, middle = anchors[:, 2:] - anchors[:, :2], (anchors[:, 2:] + anchors[:, :2]) / 2
    at, side = middle + deltas[:, :2] * size, np.exp(deltas[:, 2:]) * size
    found = np.concatenate([at - side / 2, at + side / 2], 1).astype(np.float64)[:2]
    overlap = metrics.iou(found, truth[:1])[:, 0]
    hull = (np.maximum(found[:, 2:], 10) - np.minimum(found[:, :2], 0)).prod(1)
    union = (found[:, 2:] - found[:, :2]).prod(1) + 100
    union = union / (1 + overlap)
    giou = overlap - (hull - union) / hull
    wanted = (classes + 2.0 * (1 - giou).sum()) / 2
    value = _loss_of_one(logits, deltas, anchors, truth, kind, box_loss="giou", box_weight=2.0, positive=0.5, negative=0.4)
    np.testing.assert_allclose(value, wanted, rtol=1e-4)
    shift = (truth[0, :2] + 5 - middle[:2]) / size[:2]
    encoded = np.concatenate([shift, np.log(10 / size[:2])], 1)
    d = np.abs(deltas[:2] - encoded)
    smooth = np.where(d < 1 / 9, 4.5 * d * d, d - 1 / 18).sum()
    value = _loss_of_one(logits, deltas, anchors, truth, kind, box_loss="smooth_l1", box_weight=1.0, positive=0.5, negative=0.4)
    np.testing.assert_allclose(value, (classes + smooth) / 2, rtol=1e-4)


def test_pictures_without_boxes_are_negatives(task_of):
    task, state, batch = task_of()
    empty = {**batch, "category": jnp.full((2, 2), -1), "label": jnp.zeros((2, 2), jnp.int8)}
    assert np.isfinite(jax.jit(task.evaluate)(state, empty)["loss"]).all()
    unseen = {**empty, "label": jnp.full((2, 2), -1, jnp.int8)}
    assert np.isnan(jax.jit(task.evaluate)(state, unseen)["loss"]).all(), "nobody has looked: no loss"


def test_fused_boxes_by_hand():
    found = {
        "boxes": np.array([[0, 0, 10, 10], [0, 0, 0, 0], [2, 0, 12, 10], [50, 50, 60, 60.0]]),
        "score": np.array([0.9, 0.0, 0.6, 0.4]),
        "category": np.array([0, -1, 0, 0]),
    }
    made = fuse(found, members=2, most=2, overlap=0.5)
    # Weighted by .9 and .6; the mean of both scores, and half of a score that one member alone gives.
    np.testing.assert_allclose(made["boxes"], [[0.8, 0, 10.8, 10], [50, 50, 60, 60]], rtol=1e-6)
    np.testing.assert_allclose(made["score"], [0.75, 0.2], rtol=1e-6)
    other = fuse({**found, "category": np.array([0, -1, 1, 0])}, members=2, most=3, overlap=0.5)
    assert sorted(other["category"].tolist()) == [0, 0, 1]


@pytest.mark.parametrize(("height", "width"), [(30, 90), (90, 30), (64, 64), (17, 61)])
def test_a_letterboxed_picture_and_its_boxes_lie_alike(height, width):
    image = np.full((height, width), 10, np.uint8)
    box = np.array([[4, 3, 4 + width // 3, 3 + height // 2]], np.float32)
    x0, y0, x1, y1 = box[0].astype(int)
    image[y0:y1, x0:x1] = 250
    made = preprocess_boxes({"id": "x", "image": image}, canvases=((64, 64), (32, 64), (64, 32)), channels="grey")
    page, scale = made["image"].array, made["scale"]
    assert page.shape[:2] == ((64, 64), (32, 64), (64, 32))[int(made["bucket"])]
    h, w = made["extent"].astype(int)
    assert max(h / page.shape[0], w / page.shape[1]) == 1
    y, x = np.nonzero(page[:h, :w, 0] > 130)
    there = np.array([x.min(), y.min(), x.max() + 1, y.max() + 1])
    np.testing.assert_allclose(there, box[0] * np.tile(scale[::-1], 2), atol=1.1)


def test_canvases_and_strides_of_a_plan():
    assert plan_canvases(np.full(20, 0.75), 320, multiple=32) == ((256, 320),)
    three = plan_canvases(np.array([0.6] * 10 + [1.0] * 10 + [1.5] * 10), 300, multiple=32)
    assert sorted(three) == [(192, 320), (320, 224), (320, 320)]
    assert plan_canvases(np.array([1.0] * 99 + [3.0]), 64, multiple=16) == ((64, 64),)
    assert plan_strides(np.full(50, 9.0), least=2) == (4, 8)
    assert plan_strides(np.geomspace(20, 200, 50), least=2) == (16, 32, 64)


def test_training_that_has_no_boxes_is_refused(tmp_path):
    make.write_coco(tmp_path, splits=("train",))
    file = tmp_path / "annotations" / "instances_train.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "annotations": []}))
    with pytest.raises(InputError, match="holds no box"):
        open_layout(tmp_path)


def test_an_encoder_that_has_no_pyramid_is_refused(tmp_path):
    make.write_coco(tmp_path)
    with pytest.raises(InputError, match="takes a ResNet"):
        box_job(settings(tmp_path, model=dataclasses.replace(SMALL.model, name="cnn")), question="", name="")
