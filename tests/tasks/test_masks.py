"""Experiments of segmentation: a run on every layout in its true encoding, and masks back where their images lie."""

import csv
import dataclasses
import functools
import json
import sys
from pathlib import Path

import jax
import nibabel
import numpy as np
import pydicom
import pytest
from PIL import Image

import medjax
from medjax.config import Data
from medjax.data.prepare import read_cases
from medjax.deploy import finished
from medjax.deploy.finished import evaluate, predict
from medjax.errors import InputError
from medjax.formats.dicom_seg import read_seg
from medjax.formats.series import find_series, read_slices
from medjax.report.folder import look
from medjax.tasks import masks, overlays
from medjax.tasks.masks import Augmentation, Config, Inference, Network, Plan, PlannedTrain, mask_job, resolve

sys.path += [str(Path(__file__).parents[1] / part) for part in ("data", "formats")]
import make_series
import make_volumes as make

pytestmark = pytest.mark.usefixtures("brief")
SMALL = PlannedTrain(steps=2, batch_size=8, eval_every=2, checkpoint_every=2)
STILL = Augmentation(rotate=0, scale=(1, 1), moved=0, values=0)
PLAN = Plan(width=8, features=(8, 8), strides=((1, 1, 1), (2, 2, 2)), kernels=((3, 3, 3),) * 2, blocks=(1, 1), patch=(4, 8, 8))
FLAT = Plan(width=4, blocks=(1,), size=16)


def write_dicom(folder, n=6):
    """A folder for each case: a CT series and its SEG of two classes."""
    for i in range(n):
        rng = np.random.default_rng(i)
        files = make_series.write_series(folder / f"c{i}", rng.integers(-900, 300, (5, 12, 10)), PatientID=f"P{i}")
        shown = np.zeros((5, 12, 10, 2), bool)
        shown[1:4, 2:6, 3:7, 0] = shown[2:4, 7:10, 2:6, 1] = True
        make_series.write_seg(folder / f"c{i}" / "seg.dcm", files, shown.astype(np.uint8), ["liver", "tumour"])


LAYOUTS = {
    "msd": (make.write_msd, PLAN, ("a", "b", "c", "d")),
    "nnunet_raw": (make.write_nnunet, PLAN, ("organ", "tumour")),
    "images_masks": (make.write_images_masks, FLAT, None),
    "dicom_masks": (write_dicom, PLAN, ("liver", "tumour")),
}


def settings(path, plan, **changes):
    data = Data(path=str(path), near_copies="off", fractions=(0.5, 0.25, 0.25))
    config = Config(data=data, plan=plan, model=Network(deep=False), augment=STILL, train=SMALL)
    return dataclasses.replace(config, **changes)


@pytest.fixture(scope="module", params=LAYOUTS)
def done(request, tmp_path_factory):
    """(layout's name, data folder, settings, run) of a tiny training."""
    write, plan, classes = LAYOUTS[request.param]
    folder = tmp_path_factory.mktemp(request.param)
    write(folder / "data", n=6)
    config = resolve(settings(folder / "data", plan))
    if classes:
        assert config.data.classes == ("background", *classes)
    job = mask_job(config, question="Where is it?", name="toy")
    run = medjax.train(job, config, folder / "run", quiet=True, devices=jax.devices()[:1])
    return request.param, folder / "data", config, run


def test_a_run_on_each_layout(done):
    *_, run = done
    report = json.loads((run.folder / "report.json").read_text())
    assert report["task"] == "segmentation"
    assert {"threshold", "location"} <= report["baselines"].keys()
    assert 0 <= report["metrics"]["test"]["dice"]["value"] <= 1
    assert {"overlays.png", "dice_by_case.png"} <= {p.name for p in (run.folder / "figures").iterdir()}
    with open(run.folder / "predictions" / "test.csv", newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert len(rows) == report["data"]["splits"]["test"]["n"]
    for row in rows:
        assert any((run.folder / "predictions" / "test").glob(f"{row['id']}.*"))


def images_of(name, folder):
    """Inputs as a user would name them, a case each, and the file that tells where its mask must lie."""
    if name == "msd":
        return [[f] for f in sorted((folder / "imagesTr").glob("toy*.nii.gz"))[:2]]
    if name == "nnunet_raw":
        return [sorted(folder.glob("imagesTs/case_Ts0_*.nii.gz"))]
    if name == "images_masks":
        return [[f] for f in sorted((folder / "images").glob("*"))[:3]]
    return [[folder / "c0"]]


def test_predictions_lie_where_their_images_do(done, tmp_path):
    name, folder, config, run = done
    job = mask_job(config, question="Where is it?", name="toy")
    for k, inputs in enumerate(images_of(name, folder)):
        predict(job, config, run.folder, inputs, out=tmp_path / str(k))
        (file,) = [f for f in (tmp_path / str(k) / "predictions").rglob("*") if f.is_file()]
        if name == "images_masks":
            assert Image.open(file).size == Image.open(inputs[0]).size
        elif name == "dicom_masks":
            slices = read_slices(find_series(folder / "c0")[0])
            labels, _ = read_seg(file, slices, names=("liver", "tumour"))
            assert labels.shape == slices.grid.shape
            assert pydicom.dcmread(file).PatientID == "P0"
        else:
            mask, image = nibabel.load(file), nibabel.load(inputs[0])
            np.testing.assert_array_equal(mask.affine, image.affine)
            assert mask.shape == image.shape[:3]


def test_what_is_evaluated_is_what_is_predicted_a_case_at_a_time(done, tmp_path, monkeypatch):
    name, folder, config, run = done
    if name != "msd":
        pytest.skip("one layout is enough")
    job = mask_job(config, question="Where is it?", name="toy")
    kept = sorted((run.folder / "predictions" / "test").rglob("*.nii.gz"))
    inputs = [next((folder / "imagesTr").glob(f.name)) for f in kept]
    a_case_at_a_time = functools.partial(read_cases, most=1)
    monkeypatch.setattr(finished, "read_cases", a_case_at_a_time)
    predict(job, config, run.folder, inputs, out=tmp_path / "again")
    with open(tmp_path / "again" / "predictions.csv", newline="") as handle:
        assert len([row["id"] for row in csv.DictReader(handle)]) == len(kept)
    for file in kept:
        again = nibabel.load(tmp_path / "again" / "predictions" / file.name)
        np.testing.assert_array_equal(again.dataobj, nibabel.load(file).dataobj)
    report = evaluate(job, config, run.folder, out=tmp_path / "evaluated")
    assert report["metrics"]["test"]["dice"] == run.report["metrics"]["test"]["dice"]


def test_the_data_plans_the_network(tmp_path):
    make.write_msd(tmp_path / "thin", n=4)
    planned = resolve(settings(tmp_path / "thin", Plan(width=8, memory=0.5)))
    assert planned.plan.features
    assert planned.train.batch_size >= 1
    assert len(planned.plan.intensity) == 2
    again = resolve(planned)
    assert again == planned


def test_members_are_averaged_before_they_are_labels(tmp_path):
    make.write_images_masks(tmp_path / "data", n=8)
    config = resolve(settings(tmp_path / "data", FLAT, seeds=2, inference=Inference(mirror=(1,))))
    config = dataclasses.replace(config, augment=Augmentation(values=0))  # with a margin to be taken off
    job = mask_job(config, question="Where is it?", name="toy")
    run = medjax.train(job, config, tmp_path / "run", quiet=True, devices=jax.devices()[:1])
    assert {"test", "ensemble"} <= run.report["metrics"].keys()
    assert len(run.report["seeds"]) == 2


def test_empty_masks_everywhere_are_an_error(tmp_path):
    make.write_images_masks(tmp_path / "data", n=8)
    for file in (tmp_path / "data" / "masks").iterdir():
        Image.fromarray(np.zeros(np.asarray(Image.open(file)).shape, np.uint8)).save(file)
    with pytest.raises(InputError, match=r"empty|foreground"):
        medjax.train(mask_job(settings(tmp_path / "data", FLAT), question="?", name="toy"), SMALL, tmp_path / "run", quiet=True)


def test_a_layout_without_masks_is_refused(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    for k, name in enumerate("aabb"):
        Image.fromarray(np.full((16, 16), 9 * k, np.uint8)).save(tmp_path / name / f"{k}.png")
    with pytest.raises(InputError, match="holds no masks"):
        masks.find_layout(settings(tmp_path, FLAT))


def test_a_look_at_the_data_draws_its_masks(done, tmp_path):
    name, folder, *_ = done
    record = look(folder, tmp_path / "out", layout="", splits=None, limit=100)
    assert record["layout"]["name"] == name
    with Image.open(tmp_path / "out" / "contact_sheet.png") as sheet:
        colours = np.asarray(sheet.convert("RGB")).reshape(-1, 3).astype(int)
    # The first class's orange, blurred by the drawing, is on the sheet of grey pictures.
    assert (np.abs(colours - overlays.COLOURS[0]).sum(1) < 60).any()
