"""Experiments on images: what the data tells the settings, and a run on every layout in its true encoding."""

import csv
import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
import pytest

import medjax
from medjax import experiments, models
from medjax.config import Data, Train
from medjax.data.layouts import open_layout
from medjax.deploy.finished import predict
from medjax.errors import InputError
from medjax.tasks import imaging
from medjax.tasks.imaging import Augmentation, Config, Image, Network, image_job, look_at, make_augment, make_network, resolve

sys.path.append(str(Path(__file__).parents[1] / "data"))
import make_layouts as make

pytestmark = pytest.mark.usefixtures("brief")
SMALL = Train(steps=2, batch_size=8, eval_every=2, checkpoint_every=2)
STILL = Augmentation(rotate=0, scale=0, shift=0, gamma=0, gain=0, noise=0)
WINDOWS = ((40.0, 80.0), (600.0, 2800.0))
# layout -> (writer's arguments, what is to be found: kind, classes, form, and settings it needs).
LAYOUTS = {
    "class_folders": (make.write_class_folders, {"n": 20}, ("single", 2, "grey"), {}),
    "table": (make.write_table, {"n": 40}, ("multi", 2, "grey"), {}),
    "medmnist": (make.write_medmnist, {"flag": "retinamnist"}, ("ordinal", 5, "colour"), {}),
    "medmnist, volumes": (make.write_medmnist, {"flag": "nodulemnist3d"}, ("single", 2, "volume"), {}),
    "medmnist, labels": (make.write_medmnist, {"flag": "chestmnist"}, ("multi", 14, "grey"), {}),
    "rsna_pneumonia": (make.write_rsna_pneumonia, {"n": 30, "size": 64}, ("single", 2, "grey"), {}),
    "nih_chestxray14": (make.write_nih, {"n": 40}, ("multi", 14, "grey"), {}),
    "chexpert": (make.write_chexpert, {"n": 40}, ("multi", 14, "grey"), {}),
    "rsna_haemorrhage": (make.write_rsna_haemorrhage, {"n": 20}, ("multi", 6, "grey"), {"windows": WINDOWS}),
}


def settings(path, *, windows=(), **changes):
    image = Image(size=16, windows=windows)
    data = Data(path=str(path), near_copies="off")
    return dataclasses.replace(Config(data=data, image=image, model=Network(name="cnn"), augment=STILL, train=SMALL), **changes)


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_run_on_each_layout(name, tmp_path):
    write, arguments, (kind, classes, form), needs = LAYOUTS[name]
    write(tmp_path / "data", **arguments)
    config = resolve(settings(tmp_path / "data", **needs))
    assert (config.kind, len(config.data.classes), config.image.form) == (kind, classes, form)
    done = medjax.train(image_job(config, question="What is it?", name=name), config, tmp_path / "run", quiet=True)
    report = json.loads((done.folder / "report.json").read_text())
    assert report["metrics"]["test"]["accuracy"]["n"] > 0
    assert {"logistic", "header", "majority"} <= report["baselines"].keys()
    with open(done.folder / "predictions" / "test.csv", newline="") as handle:
        rows = list(csv.DictReader(handle))
    ids = {source[i]["id"] for source in open_layout(tmp_path / "data").sources.values() for i in range(len(source))}
    assert {row["id"] for row in rows} <= ids
    assert [f"score/{c}" for c in config.data.classes] == [column for column in rows[0] if column.startswith("score/")]
    score = np.array([[float(row[f"score/{c}"]) for c in config.data.classes] for row in rows])
    assert (score >= 0).all()
    assert (score <= 1).all()
    if kind != "multi":
        np.testing.assert_allclose(score.sum(1), 1, atol=1e-5)


def test_a_run_needs_its_data_no_more_to_predict(tmp_path, all_devices):
    data = make.write_class_folders(tmp_path / "data", n=20) or tmp_path / "data"
    config = resolve(settings(data))
    done = medjax.train(image_job(config, question="?", name="x"), config, tmp_path / "run", quiet=True)
    assert (done.engine.kind, done.engine.devices) == ("pmap", 8)
    one = next((tmp_path / "data" / "pneumonia").iterdir())
    kept = one.rename(tmp_path / f"kept{one.suffix}")
    (tmp_path / "data").rename(tmp_path / "elsewhere")
    job = image_job(config, question="?", name="x")
    rows = predict(job, config, done.folder, [kept], out=tmp_path / "predicted")
    assert rows["score"].shape == (1, 2)


def test_settings_that_are_given_stay(tmp_path):
    make.write_class_folders(tmp_path / "data", n=6)
    given = settings(tmp_path / "data", kind="ordinal", image=Image(size=16, form="colour"))
    given = dataclasses.replace(given, data=dataclasses.replace(given.data, classes=("pneumonia", "normal")))
    assert resolve(given) is given
    assert resolve(settings(tmp_path / "data")).data.classes == ("normal", "pneumonia")


def test_no_path_is_said(tmp_path):
    with pytest.raises(InputError, match=r"--data\.path") as caught:
        resolve(Config())
    assert caught.value.usage


def test_one_colour_picture_among_grey_ones_makes_colour():
    class Source(list):
        pass

    grey, colour, cube = np.zeros((9, 9)), np.zeros((9, 9, 3)), np.zeros((9, 9, 9))
    assert look_at({"all": Source([{"image": grey}] * 5)}) == "grey"
    assert look_at({"train": Source([{"image": grey}] * 5), "test": Source([{"image": colour}])}) == "colour"
    assert look_at({"all": Source([{"image": cube}])}) == "volume"


def test_networks_are_found_by_name():
    assert models.find("resnet50")(3).blocks == (3, 4, 6, 3)
    with pytest.raises(InputError, match="the nearest is 'resnet50'") as caught:
        models.find("resnet51")
    assert caught.value.usage
    config = dataclasses.replace(Config(), data=Data(classes=("a", "b", "c")), image=Image(size=64))
    network = make_network(dataclasses.replace(config, model=Network(name="resnet18", width=8, dropout=0.25)))
    assert (network.width, network.dropout, network.classes, network.stem_kernel) == (8, 0.25, 3, 3)
    # Published weights are of the published stem, however small the picture.
    pretrained = make_network(dataclasses.replace(config, model=Network(name="resnet18", weights="w.pth")))
    assert pretrained.stem_kernel == 7
    with pytest.raises(InputError, match="no choice of width"):
        make_network(dataclasses.replace(config, model=Network(name="densenet121", width=8)))


def test_no_augmentation_is_none():
    assert make_augment(dataclasses.replace(Config(), augment=dataclasses.replace(STILL, flip=0))) is None
    assert make_augment(dataclasses.replace(Config(), augment=STILL)) is not None


@pytest.mark.parametrize(
    "name", ["chest_xray", "image_folder", "medmnist", "lung_nodule_malignancy", "pneumonia_rsna", "haemorrhage"]
)
def test_the_experiments_on_images_keep_to_one_form(name):
    module = experiments.load_by_name(name)
    assert issubclass(module.Config, imaging.Config)
    assert set(module.PRESETS_OF) == {"fast", "full"}
    assert experiments.card(experiments.find(name)).keys() == {"job", "data", "needs"}
    assert len(experiments.find(name).read_text().splitlines()) < 80
