"""Experiments of detection: a run on every layout of boxes, numbers that pycocotools repeats, boxes back where pictures lie."""

import contextlib
import dataclasses
import functools
import io
import json
import re
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from PIL import Image
from scipy import ndimage

import medjax
from medjax import loop, models
from medjax.cases import Cases, Ragged
from medjax.config import Data, Optimizer, Train
from medjax.data.layouts import open_layout
from medjax.data.load import load
from medjax.data.pipeline import pipeline
from medjax.deploy.finished import evaluate, predict
from medjax.engine import make_engine
from medjax.errors import InputError
from medjax.infer import window_batches
from medjax.metrics import detection as metrics
from medjax.models.resnet import ResNet
from medjax.models.retinanet import RetinaNet
from medjax.nn import boxes as nn_boxes
from medjax.report.folder import look
from medjax.tasks import boxes as jobs
from medjax.tasks import detection_baselines, imaging
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
from conftest import write_blobs

pytestmark = pytest.mark.usefixtures("brief")
# One form and one canvas for all layouts, so that two programs do for five.
SMALL = Config(
    image=Picture(size=64, form="grey", canvases=((64, 64),), scale="standardise"),
    model=Network(strides=(8, 16), anchors=2, features=8, depth=1, boxes=8),
    augment=Augmentation(mosaic=0),
    inference=Inference(most=20, candidates=64, least=0.0, mirror=()),
    optimizer=Optimizer(rate=1e-6),
    train=Train(steps=2, batch_size=4, eval_every=2, eval_cases=2, checkpoint_every=2),
)
LOOKED: dict = {}  # run folder -> numbers of cases that operating points were chosen on


def tiny(classes, *, small_images=False):
    """Takes the place of ResNet-18: three stages of one block, 4 channels in the first."""
    stem = {"stem_stride": 1, "stem_kernel": 3} if small_images else {"stem_kernel": 7, "stem_pool": True}
    return ResNet(classes, 4, (1, 1, 1), centred=True, **stem)


@pytest.fixture(scope="module", autouse=True)
def tiny_encoder():
    with pytest.MonkeyPatch.context() as patch:
        published = models.find
        patch.setattr(models, "find", lambda name: tiny if name == "resnet18" else published(name))
        yield


FINDS = {"rsna_pneumonia": functools.partial(jobs.find_layout, target="boxes")}


def settings(path, **changes):
    data = Data(path=str(path), near_copies="off", fractions=(0.5, 0.25, 0.25))
    return dataclasses.replace(SMALL, data=data, **changes)


SHARED: dict = {}  # number of classes -> the first engine of a run in these settings, which the others compile for as well


@contextlib.contextmanager
def compiled_once(classes):
    """What runs of one form differ in is their data: they need not compile the same programs again."""

    def make(task, *args, **more):
        engine = make_engine(task, *args, **more)
        first = SHARED.setdefault(len(classes), engine)
        engine.update._ready, engine.evaluate._ready = first.update._ready, first.evaluate._ready
        return engine._replace(init=first.init, abstract=first.abstract)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "make_engine", make)
        yield


def train(config, out, find=jobs.find_layout):
    config = resolve(config, find)
    job = box_job(config, question="Where is it?", name="toy", find=find)
    counts, calibrate = LOOKED.setdefault(out, []), job.calibrate
    job = job._replace(calibrate=lambda rows, cases: counts.append(len(cases)) or calibrate(rows, cases))
    with compiled_once(config.data.classes):
        return job, config, medjax.train(job, config, out, quiet=True, devices=jax.devices()[:1])


@pytest.fixture(scope="module", params=make.WRITE)
def done(request, tmp_path_factory):
    """(layout's name, data folder, job, settings, run) of a tiny training; that on COCO's begins from published weights."""
    folder = tmp_path_factory.mktemp(request.param)
    make.WRITE[request.param](folder / "data")
    find = FINDS.get(request.param, jobs.find_layout)
    config = settings(folder / "data")
    if request.param == "coco":
        write_safetensors(folder / "weights.safetensors", published_weights())
        config = dataclasses.replace(
            config, model=dataclasses.replace(config.model, weights=str(folder / "weights.safetensors"))
        )
    return request.param, folder / "data", *train(config, folder / "run", find)


def write_safetensors(path, tensors):
    """https://huggingface.co/docs/safetensors, "Format": the header's length, the header, the arrays."""
    header, data = {}, b""
    for name, x in tensors.items():
        header[name] = {"dtype": "F32", "shape": list(x.shape), "data_offsets": [len(data), len(data) + x.nbytes]}
        data += x.tobytes()
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def published_weights():
    """Random weights of the encoder for three channels, by their names and in their axes in PyTorch."""
    names = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
    swaps = {"stem_conv": "conv1", "stem_norm": "bn1", "project_conv": "downsample.0", "project_norm": "downsample.1"}
    shapes = jax.eval_shape(lambda: tiny(2).init(jax.random.key(0), jnp.zeros((1, 64, 64, 3)), train=False))
    found, rng = {}, np.random.default_rng(7)
    for path, leaf in jax.tree_util.tree_leaves_with_path(dict(shapes)):
        _, first, *rest, last = (part.key for part in path)
        stage = re.fullmatch(r"stage(\d)_block(\d)", first)
        module = f"layer{stage[1]}.{stage[2]}" if stage else swaps.get(first, first)
        parts = [module, *(swaps.get(name, name.replace("norm", "bn")) for name in rest)]
        value = rng.uniform(0.1, 0.5, leaf.shape).astype(np.float32)
        value = np.moveaxis(value, (-1, -2), (0, 1)) if last == "kernel" else value
        if first != "head":
            found[".".join([*parts, names[last]])] = np.ascontiguousarray(value)
    return found


def test_a_run_on_each_layout(done):
    _name, _data, _job, _config, run = done
    report = json.loads((run.folder / "report.json").read_text())
    assert report["task"] == "detection"
    assert set(report["baselines"]) == {"blob", "prior"}
    assert {"map", "map50", "mar", "froc", "froc_1", "rsna"} <= set(report["metrics"]["test"]) <= set(report["definitions"])
    assert set(report["comparisons"]) == {"blob", "prior"}
    for name in ("boxes", "froc", "by_size"):
        assert (run.folder / "figures" / f"{name}.png").is_file()
    listed = json.loads((run.folder / "predictions" / "test.json").read_text())
    assert listed
    assert set(listed[0]) == {"image_id", "category_id", "bbox", "score"}
    shapes = np.asarray(run.state.extra["statistics"]["shapes"])
    assert shapes.shape == (2, 2, 2)
    assert (shapes > 2).all(), "anchors are fitted to the boxes"


def test_training_is_watched_by_some_validation_cases(done):
    """Two of them; the operating point is chosen on all."""
    name, _data, _job, _config, run = done
    first, then, *_ = LOOKED[run.folder]
    assert first == min(2, then)
    assert then == json.loads((run.folder / "report.json").read_text())["data"]["splits"]["val"]["n"]
    assert then > 2 or name != "coco"


def test_a_run_from_published_weights(done):
    """At a rate of next to nothing the encoder stays what the file in PyTorch's names and axes says."""
    name, _data, _job, _config, run = done
    if name != "coco":
        pytest.skip("one layout does")
    encoder, tensors = run.state.params["encoder"], published_weights()
    kernel = np.moveaxis(tensors["layer2.0.downsample.0.weight"], (0, 1), (-1, -2))
    np.testing.assert_allclose(encoder["stage2_block0"]["project_conv"]["kernel"], kernel, atol=1e-5)
    np.testing.assert_allclose(encoder["stem_norm"]["scale"], tensors["bn1.weight"], atol=1e-5)
    grey = np.moveaxis(tensors["conv1.weight"].sum(1, keepdims=True), (0, 1), (-1, -2))
    np.testing.assert_allclose(encoder["stem_conv"]["kernel"], grey, atol=1e-5)


def by_pycocotools(truth, results):
    """[map, map50, mar] of two files."""
    coco = pytest.importorskip("pycocotools.coco")
    evaluation = pytest.importorskip("pycocotools.cocoeval")
    with contextlib.redirect_stdout(io.StringIO()):
        known = coco.COCO(str(truth))
        ran = evaluation.COCOeval(known, known.loadRes(str(results)), "bbox")
        ran.evaluate()
        ran.accumulate()
        ran.summarize()
    return [ran.stats[0], ran.stats[1], ran.stats[8]]


def of_report(folder, split):
    entries = json.loads((folder / "report.json").read_text())["metrics"][split]
    return [entries[key]["value"] for key in ("map", "map50", "mar")]


def test_pycocotools_repeats_the_reports_numbers(done):
    """From the run's predictions and the true boxes beside them, and of COCO's layout from the data's own file."""
    name, data, _job, _config, run = done
    where = run.folder / "predictions"
    truths = [where / "test_truth.json", *([data / "annotations" / "instances_test.json"] if name == "coco" else [])]
    for truth in truths:
        np.testing.assert_allclose(of_report(run.folder, "test"), by_pycocotools(truth, where / "test.json"), atol=1e-6)


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
    assert [b["category_id"] for b in after] == [b["category_id"] for b in before]
    assert {b["category_id"] for b in after} <= {3, 9}
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


def test_folds_on_canvases_of_two_shapes(tmp_path):
    """Square and broad pictures in turn, no validation file; the ensemble's boxes are the folds' fused."""
    make.write_coco(tmp_path / "data", 12, splits=("train", "test"), sizes=((56, 56), (40, 80)))
    image = dataclasses.replace(SMALL.image, canvases=())
    job, config, run = train(settings(tmp_path / "data", image=image, folds=2), tmp_path / "run")
    assert sorted(config.image.canvases) == [(32, 64), (64, 64)]
    report = json.loads((run.folder / "report.json").read_text())
    assert [of["fold"] for of in report["seeds"]] == [0, 1]
    assert report["metrics"]["cv"]["map"]["n"] == 12
    where = run.folder / "predictions"
    for split, of in (("cv", "cv"), ("test", "ensemble")):
        wanted = by_pycocotools(where / f"{split}_truth.json", where / f"{split}.json")
        np.testing.assert_allclose(of_report(run.folder, of), wanted, atol=1e-6)
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


def test_detect_coco_makes_a_validation_split_of_whole_patients(tmp_path):
    """No file of it, pictures of five sizes and some without boxes; what reading has mended is told."""
    sizes = ((40, 80), (80, 40), (56, 56), (48, 64), (90, 70))
    make.write_coco(tmp_path, 24, splits=("train", "test"), sizes=sizes)
    file = tmp_path / "annotations" / "instances_train.json"
    listed = json.loads(file.read_text())
    listed["annotations"][0]["bbox"] = [-6, 2, 20, 10]
    listed["annotations"][1]["bbox"] = [5, 5, 0, 10]
    file.write_text(json.dumps(listed))
    experiment = medjax.experiment("detect_coco")
    config = experiment.resolve(dataclasses.replace(experiment.Config(), data=Data(path=str(tmp_path), near_copies="off")))
    assert config.data.classes == make.CLASSES
    assert len(config.image.canvases) == 3
    data = load(experiment.build(config), config.data, lambda text: None)
    patients = {split: set(cases["patient"]) for split, cases in data.cases.items()}
    assert {p[:4] for p in patients["test"]} == {"test"}
    assert {p[:5] for p in patients["train"] | patients["val"]} == {"train"}
    assert patients["val"]
    assert not patients["train"] & patients["val"]
    assert sum(map(len, data.cases.values())) == 48
    assert (data.cases["train"]["label"].sum(1) == 0).any()
    for told in ("1 boxes clipped to their image", "1 boxes without area dropped"):
        assert any(told in note for note in data.audit["notes"]), data.audit["notes"]


def test_a_run_from_a_classification(tmp_path):
    write_blobs(tmp_path / "heads", n=10)
    classification = imaging.Config(
        data=Data(path=str(tmp_path / "heads"), near_copies="off"),
        image=imaging.Image(size=64),
        train=Train(steps=1, batch_size=4, eval_every=1, checkpoint_every=1),
    )
    classification = imaging.resolve(classification)
    before = imaging.image_job(classification, question="", name="toy")
    begun = medjax.train(before, classification, tmp_path / "first", quiet=True)
    make.write_coco(tmp_path / "data")
    model = dataclasses.replace(SMALL.model, stem=1, strides=(4, 8), weights=str(tmp_path / "first"))
    config = resolve(settings(tmp_path / "data", model=model))
    job = box_job(config, question="", name="toy")
    cases = load(job, config.data, lambda text: None).cases["train"]
    batch = next(window_batches(cases, 4, job.examples))[0]
    state = jax.eval_shape(job.task.init, jax.random.key(0), batch)
    started = job.start(state, cases)
    for name in ("params", "batch_stats"):
        new, old = ({"params": of.params, **of.extra}[name] for of in (started, begun.state))
        jax.tree.map(np.testing.assert_array_equal, new["encoder"], {key: x for key, x in old.items() if key != "head"})
    assert np.asarray(started.extra["statistics"]["shapes"]).max() > 8, "anchors are fitted as well"
    assert started.params["head_box"] is state.params["head_box"], "the rest is left alone"
    other = dataclasses.replace(config, model=dataclasses.replace(config.model, stem=2))
    job = box_job(other, question="", name="toy")
    state = jax.eval_shape(job.task.init, jax.random.key(0), batch)
    with pytest.raises(InputError, match="another one") as caught:
        job.start(state, cases)
    assert "stem_conv" in str(caught.value)


def test_shifts_leave_places_without_a_say():
    """Of nodules that all lie in the middle, one box finds all; shifted as `lung_nodules` shifts them, hardly any."""
    experiment = medjax.experiment("lung_nodules")
    move = jobs.make_augment(experiment.Config())
    one = {"image": jnp.zeros((128, 128, 1), jnp.uint8), "boxes": jnp.array([[58.0, 58, 70, 70]])}
    one |= {"category": jnp.array([0]), "extent": jnp.array([128.0, 128])}
    moved = jax.jit(jax.vmap(lambda key: move(key, one)))(jax.random.split(jax.random.key(0), 400))
    kept = np.asarray(moved["category"][:, 0]) == 0
    assert kept.mean() > 0.8, "and they stay in the picture"
    overlap = metrics.iou(np.asarray(moved["boxes"][kept, 0]), np.asarray(moved["boxes"][kept, 0]))
    assert (overlap >= 0.3).mean(0).max() < 0.1, "the best of all boxes, given always"


def test_blobs_are_scipys_laplacian_of_gaussians():
    picture = ndimage.gaussian_filter(np.random.default_rng(0).normal(0, 50, (40, 57)), 1)
    for sigma in (1.5, 4.0, 11.0):
        wanted = -(sigma**2) * ndimage.gaussian_laplace(picture, sigma, mode="reflect", truncate=8)
        np.testing.assert_allclose(
            detection_baselines.blobness(picture, np.array([sigma]))[0], wanted, atol=2e-3 * wanted.std()
        )


def test_a_centre_prior_brings_nothing_where_pictures_were_shifted():
    """The blob filter learns it from boxes in the middle; on pictures whose boxes lie anywhere it does harm."""
    rng, blob = np.random.default_rng(0), detection_baselines.blob(1, metrics.USUAL)

    def drawn(n, spread):
        images, truth = [], []
        for _ in range(n):
            x, y = (32 + rng.uniform(-spread, spread, 2)).astype(int)
            image = rng.normal(60, 10, (64, 64))
            image[y - 5 : y + 5, x - 5 : x + 5] += 60
            fx, fy = rng.integers(8, 56, 2)
            image[fy - 5 : fy + 5, fx - 5 : fx + 5] += 70  # brighter, and none
            images.append(np.clip(image, 0, 255).astype(np.uint8)[..., None])
            truth.append(np.array([[x - 5, y - 5, x + 5, y + 5]], np.float32))
        columns = {"image": Ragged.of(images), "boxes": Ragged.of(truth), "size": np.full((n, 2), 64)}
        columns |= {"category": Ragged.of([np.zeros(1, np.int32)] * n), "crowd": Ragged.of([np.zeros(1, bool)] * n)}
        return Cases({**columns, "extent": np.full((n, 2), 64, np.float32), "label": np.ones((n, 1), np.int8)})

    def ap(arrays, cases):
        rows = blob.predict(arrays, cases)
        return metrics.coco(rows["score"], rows["category"], rows["coco"], rows["lesions"])["ap"][0, 0]

    arrays = blob.fit(drawn(30, 3), drawn(30, 3))
    assert arrays["prior"] > 0
    without = {**arrays, "prior": np.float64(0)}
    middle, shifted = drawn(60, 3), drawn(60, 26)
    assert ap(arrays, middle) > ap(without, middle) + 0.1
    assert ap(arrays, shifted) < ap(without, shifted)


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
    task, state, batch = task_of(mirrors=(0, 1), gate=True)
    look_at = jax.jit(task.predict)
    before = look_at(state, batch)
    for axis in (0, 1):
        after = look_at(state, {**batch, "image": jnp.flip(batch["image"], axis + 1)})
        np.testing.assert_allclose(after["score"], before["score"], rtol=1e-3, atol=1e-5)
        size = batch["image"].shape[axis + 1]
        mine = np.asarray(nn_boxes.flip(after["boxes"], axis, size))[:, :5]
        np.testing.assert_allclose(mine, before["boxes"][:, :5], atol=0.05)
    # What is said of the whole picture is the mean of what is said of each of the four.
    look_once = jax.jit(task_of(gate=True)[0].predict)
    views = [jnp.flip(batch["image"], axes) for axes in ((), 1, 2, (1, 2))]
    single = [np.asarray(look_once(state, {**batch, "image": view})["gate"], np.float64) for view in views]
    np.testing.assert_allclose(before["gate"], np.mean(single, 0), rtol=1e-5)
    assert np.std(single, 0).max() > 1e-4


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
    # It learns from the labels of the whole picture: binary cross-entropy, added to the loss.
    p, y = np.asarray(rows["gate"], np.float64), np.asarray(batch["label"])
    entropy = -(y * np.log(p) + (1 - y) * np.log(1 - p)).mean(1)
    np.testing.assert_allclose(np.asarray(rows["loss"]) - np.asarray(ungated["loss"]), entropy, rtol=1e-3)


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
    loss = functools.partial(jax.jit(_loss_of_one, static_argnames=("box_loss",)), logits, deltas, anchors, truth, kind)
    value = loss(box_loss="giou", box_weight=2.0, positive=0.5, negative=0.4)
    np.testing.assert_allclose(value, wanted, rtol=1e-4)
    shift = (truth[0, :2] + 5 - middle[:2]) / size[:2]
    encoded = np.concatenate([shift, np.log(10 / size[:2])], 1)
    d = np.abs(deltas[:2] - encoded)
    smooth = np.where(d < 1 / 9, 4.5 * d * d, d - 1 / 18).sum()
    value = loss(box_loss="smooth_l1", box_weight=1.0, positive=0.5, negative=0.4)
    np.testing.assert_allclose(value, (classes + smooth) / 2, rtol=1e-4)
    # A picture without boxes is all background.
    empty = loss.func(
        logits, deltas, anchors, truth, np.array([-1, -1]), box_loss="giou", box_weight=2.0, positive=0.5, negative=0.4
    )
    np.testing.assert_allclose(empty, -(0.75 * p**2 * np.log(1 - p)).sum(), rtol=1e-4)


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
    assert plan_strides(np.geomspace(20, 200, 50), least=1) == (8, 16, 32, 64), "an encoder of stem 1 has no coarser map than 8"


def test_training_that_has_no_boxes_is_refused(tmp_path):
    make.write_coco(tmp_path, splits=("train",))
    file = tmp_path / "annotations" / "instances_train.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "annotations": []}))
    with pytest.raises(InputError, match="holds no box"):
        open_layout(tmp_path)


def test_levels_that_the_encoder_has_no_map_for_are_refused(tmp_path):
    make.write_coco(tmp_path)
    with pytest.raises(InputError, match=r"--model\.strides 16 32"):
        box_job(settings(tmp_path, model=dataclasses.replace(SMALL.model, stem=1, strides=(16, 32))), question="", name="")


def test_an_encoder_that_has_no_pyramid_is_refused(tmp_path):
    make.write_coco(tmp_path)
    with pytest.raises(InputError, match="takes a ResNet"):
        box_job(settings(tmp_path, model=dataclasses.replace(SMALL.model, name="cnn")), question="", name="")
