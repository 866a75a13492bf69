"""Layouts of boxes in their true encodings: the same boxes come out, and what is wrong is named."""

import json
import shutil

import make_boxes as make
import numpy as np
import pytest

from medjax.data.boxes import check_swapped, picture_source
from medjax.data.layouts import detect, open_layout, rsna_pneumonia
from medjax.errors import InputError
from medjax.formats.metaimage import read_header, read_slice

OPTIONS = {"rsna_pneumonia": {"target": "boxes"}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Every layout once. Shared, so do not change it."""
    root = tmp_path_factory.mktemp("boxes")
    for name, write in make.WRITE.items():
        write(root / name)
    return root


@pytest.fixture
def own(folder, tmp_path):
    """A layout to break: name -> its folder."""
    return lambda name: shutil.copytree(folder / name, tmp_path / name)


def refused(call, *words):
    with pytest.raises(InputError) as caught:
        call()
    message = str(caught.value)
    assert message.count("\n") == 1, "what is wrong, then the mend"
    for word in words:
        assert str(word) in message


def examples(layout):
    return {source.case_id(i): source[i] for source in layout.sources.values() for i in range(len(source))}


@pytest.mark.parametrize("name", make.WRITE)
def test_a_layout_is_recognised_and_read(folder, name):
    assert next(iter(detect(folder / name))) == name
    layout = open_layout(folder / name, **OPTIONS.get(name, {}))
    assert layout.holds == "boxes"
    found = examples(layout)
    for example in found.values():
        boxes, (height, width) = example["boxes"].array, example["image"].shape[:2]
        assert boxes.dtype == np.float32
        assert (boxes >= 0).all()
        assert (boxes[:, 2:] <= [width, height]).all()
        assert (boxes[:, 2:] > boxes[:, :2]).all()
        kinds = set(example["category"].array[~example["crowd"].array].tolist())
        assert example["label"].tolist() == [int(k in kinds) for k in range(len(layout.classes))]
    assert any(not len(e["boxes"].array) for e in found.values()), "pictures without boxes are there, as negatives"


@pytest.mark.parametrize("name", ["coco", "voc", "yolo"])
def test_the_boxes_are_those_that_were_drawn(folder, name):
    layout = open_layout(folder / name)
    assert layout.classes == make.CLASSES
    seen = 0
    for example in examples(layout).values():
        image = example["image"] if example["image"].ndim == 2 else example["image"][..., 0]
        for (x0, y0, x1, y1), k in zip(example["boxes"].array, example["category"].array, strict=True):
            inside = image[round(float(y0)) : round(float(y1)), round(float(x0)) : round(float(x1))] > 130
            # A square is full, a disc leaves its corners; both touch all four edges.
            assert (inside.mean() > 0.95) == (k == 1)
            assert inside[0].any()
            assert inside[-1].any()
            assert inside[:, 0].any()
            assert inside[:, -1].any()
            seen += 1
    assert seen > 10


def test_splits_patients_and_numbers_of_coco(folder):
    layout = open_layout(folder / "coco")
    assert {split: len(source) for split, source in layout.sources.items()} == {"train": 8, "val": 8, "test": 8}
    one = layout.sources["val"][3]
    assert one["patient"] == "val1"
    assert one["number"] == "2021"
    assert one["numbers"].tolist() == [3, 9]
    assert one["id"] == "images/val_003"
    turned = open_layout(folder / "coco", classes=("square", "disc"))
    assert turned.sources["val"][3]["numbers"].tolist() == [9, 3]
    assert (turned.sources["val"][0]["category"].array == 1 - layout.sources["val"][0]["category"].array).all()
    alone = open_layout(folder / "coco" / "annotations" / "instances_val.json")
    assert set(alone.sources) == {"all"}
    assert len(alone.sources["all"]) == 8


def test_a_nodule_of_luna_lies_where_it_is_in_the_slice(folder, tmp_path):
    for root in (folder / "luna16", make.write_luna(tmp_path / "packed", packed=True)):
        found = examples(open_layout(root))
        assert len(found) == 8
        held = [e for e in found.values() if len(e["boxes"].array)]
        assert len(held) == 6
        for example in held:
            y, x = np.nonzero(example["image"] > 0)
            drawn = [x.min(), y.min(), x.max() + 1, y.max() + 1]
            np.testing.assert_allclose(example["boxes"].array[0], drawn, atol=0.01)
        assert all(e["image"].dtype == np.int16 and e["patient"] in e["id"] for e in found.values())


def test_the_boxes_of_rsna_are_those_of_its_table(folder):
    layout = open_layout(folder / "rsna_pneumonia", target="boxes")
    for name, of in rsna_pneumonia.boxes(folder / "rsna_pneumonia").items():
        example = next(e for key, e in examples(layout).items() if name in key)
        corners = np.concatenate([of[:, :2], of[:, :2] + of[:, 2:]], 1)
        np.testing.assert_allclose(example["boxes"].array, corners.reshape(-1, 4))
        assert example["patient"] == name
        assert example["sex"] in "FM"


def edit(root, change, split="train"):
    """Change the JSON of a split in place."""
    file = root / "annotations" / f"instances_{split}.json"
    data = json.loads(file.read_text())
    change(data)
    file.write_text(json.dumps(data))
    return root


def test_what_is_wrong_in_a_coco_file_is_named(own):
    root = own("coco")
    good = (root / "annotations" / "instances_train.json").read_text()

    def broken(change, *words):
        (root / "annotations" / "instances_train.json").write_text(good)
        edit(root, change)
        refused(lambda: examples(open_layout(root, "coco")), "instances_train.json", *words)

    broken(lambda d: d["annotations"][0].update(category_id=77), "category 77", "does not list")
    broken(lambda d: d["annotations"][0].update(image_id=5), "image 5", "does not list")
    broken(lambda d: d["images"][1].update(id=d["images"][0]["id"]), "two images have the id")
    broken(lambda d: d["images"][1].update(file_name="nowhere.png"), "nowhere.png is not there")
    broken(lambda d: d["annotations"][0].pop("bbox"), "entry 0 of annotations has no 'bbox'")
    broken(lambda d: d["annotations"][0].update(bbox=[1, 2, 3]), "four numbers")
    broken(lambda d: d["annotations"][0].update(bbox=[20, 20, -5, 5]), "ends before it begins")
    broken(lambda d: d["annotations"][0].update(bbox=[float("nan"), 2, 3, 4]), "no number")
    broken(lambda d: d.pop("categories"), "categories")
    (root / "annotations" / "instances_train.json").write_text(good[:-5])
    refused(lambda: open_layout(root, "coco"), "cannot be read as JSON")
    (root / "annotations" / "instances_train.json").write_text(good)
    refused(lambda: open_layout(root, "coco", classes=("disc", "cat")), "no category 'cat'", "square")


def test_a_file_that_is_listed_twice(own):
    root = edit(own("coco"), lambda d: d["images"][1].update(file_name=d["images"][0]["file_name"]))
    refused(lambda: open_layout(root), "train_000.png: is listed twice", "once")


def test_a_file_that_two_splits_list(own):
    root = own("coco")
    first = json.loads((root / "annotations" / "instances_train.json").read_text())["images"][0]
    edit(root, lambda d: d["images"].append(first), "val")
    refused(lambda: open_layout(root), "train_000.png: is listed twice", "in one split")


def test_boxes_at_and_over_the_edge(own):
    def change(data):
        # Wider than its image by 6 pixels on either side; of no width; and as it was.
        image = data["images"][0]
        of = [a for a in data["annotations"] if a["image_id"] == image["id"]]
        of[0]["bbox"] = [-6, 2, image["width"] + 12, 10]
        of[1]["bbox"] = [5, 5, 0, 10]

    layout = open_layout(edit(own("coco"), change))
    source = layout.sources["train"]
    for _ in range(2):  # what is read again is counted once
        boxes = source[0]["boxes"].array
    assert boxes[0].tolist() == [0, 2, source[0]["image"].shape[1], 12]
    assert dict(source.tally()) == {("boxes clipped to their image", ""): 1, ("boxes without area dropped", ""): 1}


def test_a_box_wholly_outside_is_refused(own):
    def change(data):
        data["annotations"][0]["bbox"] = [500, 5, 10, 10]

    layout = open_layout(edit(own("coco"), change))
    refused(lambda: examples(layout), "(500, 5, 510, 15)", "outside of its 48 x 64")


def test_swapped_axes_are_said(own):
    """All pictures are broad, all boxes have x and y changed over."""
    root = make.write_coco(own("voc") / "turned", sizes=((32, 96),))
    for split in ("train", "val", "test"):

        def change(data):
            for note in data["annotations"]:
                x, y, w, h = note["bbox"]
                note["bbox"] = [y, x, h, w]

        edit(root, change, split)
    refused(lambda: open_layout(root, "coco"), "look swapped", "boxes reach over the edge")


def test_swapped_axes_are_said_where_the_listing_gives_no_sizes(own):
    """Then the picture itself tells, when it is read: all boxes of a broad one lie below it."""

    def change(data):
        for image in data["images"]:
            del image["width"], image["height"]
        broad = data["images"][0]["id"]
        data["annotations"] = [a for a in data["annotations"] if a["image_id"] != broad]
        data["annotations"].append({"id": 99, "image_id": broad, "category_id": 3, "bbox": [20, 50, 10, 10], "iscrowd": 0})

    layout = open_layout(edit(own("coco"), change))
    refused(lambda: examples(layout), "train_000.png", "with x and y changed over all its boxes lie inside")


def test_square_images_cannot_tell_that_axes_are_swapped():
    rng = np.random.default_rng(0)
    from pathlib import Path

    from medjax.data.boxes import BoxItem

    items = [BoxItem(Path(f"{i}.png"), str(i), rng.uniform(0, 40, (2, 4)), np.zeros(2, int), size=(50, 50)) for i in range(9)]
    check_swapped(items, Path("somewhere"))


def test_an_image_of_another_size_than_its_listing(own):
    def change(data):
        data["images"][0].update(height=64, width=48)
        data["annotations"] = [a for a in data["annotations"] if a["image_id"] != data["images"][0]["id"]]

    layout = open_layout(edit(own("coco"), change))
    refused(lambda: layout.sources["train"][0], "48 x 64", "changed over")


def test_what_is_wrong_in_voc_is_named(own):
    root = own("voc")
    file = root / "Annotations" / "smear_000.xml"
    good = file.read_text()

    def broken(text, *words):
        file.write_text(text)
        refused(lambda: examples(open_layout(root, "voc")), *words)
        file.write_text(good)

    broken(good[:-8], file, "cannot be read as XML")
    broken(f'<!DOCTYPE a [<!ENTITY b "c">]>{good}', file, "entities")
    broken(good.replace("<xmin>", "<xmim>", 1).replace("</xmin>", "</xmim>", 1), file, "bndbox")
    refused(lambda: open_layout(root, "voc", classes=("cat",)), "no object of cat", "square")
    alone = examples(open_layout(root, "voc", classes=("square",)))
    assert {k for e in alone.values() for k in e["category"].array.tolist()} == {0}
    (root / "JPEGImages" / "smear_000.jpg").rename(root / "other.jpg")
    refused(lambda: open_layout(root, "voc"), "smear_000.xml", "its image")
    (root / "other.jpg").rename(root / "JPEGImages" / "smear_000.jpg")
    file.unlink()
    refused(lambda: open_layout(root, "voc"), "smear_000")


def test_what_is_wrong_in_yolo_is_named(own):
    root = own("yolo")
    file = next(root.glob("labels/train/*.txt"))
    good = file.read_text()
    for text, word in (
        ("0 .5 .5 .2\n", "no box"),
        ("0 50 50 20 20\n", "no box"),
        ("7 .5 .5 .2 .2\n", "class 7"),
        ("a b c d e", "no box"),
    ):
        file.write_text(text)
        refused(lambda: open_layout(root, "yolo"), word)
    file.write_text(good)
    (root / "labels" / "train" / "lone.txt").write_text(good)
    refused(lambda: open_layout(root, "yolo"), "lone.txt", "its image")


def test_what_is_wrong_in_luna_is_named(own):
    root = own("luna16")
    table = root / "annotations.csv"
    good = table.read_text()
    rows = good.splitlines()
    table.write_text("\n".join([rows[0], rows[1].replace(rows[1].split(",")[1], "900.0"), *rows[2:]]))
    refused(lambda: open_layout(root, "luna16"), "outside of", "world coordinates")
    table.write_text("\n".join([rows[0], rows[1].rpartition(",")[0] + ",none", *rows[2:]]))
    refused(lambda: open_layout(root, "luna16"), "row 2")
    table.write_text(good)
    raw = next(root.glob("subset0/*.raw"))
    raw.write_bytes(raw.read_bytes()[:100])
    refused(lambda: examples(open_layout(root, "luna16")), raw.name, "ends before")
    raw.unlink()
    refused(lambda: open_layout(root, "luna16"), raw.name, "not beside")


def test_metaimage_against_its_definition(folder):
    header = read_header(next((folder / "luna16").glob("subset0/*.mhd")))
    assert header.shape == (6, 40, 48)
    place = header.origin + np.array([3, 5, 2]) * header.spacing
    np.testing.assert_allclose(header.to_voxel(place[None]), [[3, 5, 2]])
    whole = np.fromfile(header.data[0], "<i2").reshape(header.shape)
    np.testing.assert_array_equal(read_slice(header, 4), whole[4])


def test_rsna_tables_that_contradict_themselves(own):
    root = own("rsna_pneumonia")
    table = root / "stage_2_train_labels.csv"
    lines = table.read_text().splitlines()
    at = next(i for i, line in enumerate(lines) if line.endswith(",1"))
    name = lines[at].split(",")[0]
    rest = [line for line in lines if not line.startswith(name)]
    table.write_text("\n".join([*rest, f"{name},,,,,1"]))
    refused(lambda: open_layout(root, target="boxes"), name, "Target 1")


def test_pictures_to_predict_on(folder):
    source = picture_source([folder / "coco" / "images"], classes=make.CLASSES)
    example = source[0]
    assert len(source) == 24
    assert example["label"].tolist() == [-1, -1]
    assert example["boxes"].array.shape == (0, 4)


@pytest.mark.realdata
def test_real_files(real_data):
    lidc = open_layout(real_data / "lidc_nodules")
    assert {s: len(x) for s, x in lidc.sources.items()} == {"train": 825, "val": 99, "test": 212}
    bccd = open_layout(real_data / "bccd")
    assert {s: len(x) for s, x in bccd.sources.items()} == {"train": 205, "val": 87, "test": 72}
    assert bccd.classes == ("Platelets", "RBC", "WBC")
    assert sum(len(i.category) for x in bccd.sources.values() for i in x.items) == 4888
    for source in bccd.sources.values():
        for i in range(len(source)):
            source[i]
    assert sum(source.tally()["boxes without area dropped", ""] for source in bccd.sources.values()) == 2
