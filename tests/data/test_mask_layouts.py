import json
import shutil

import make_layouts
import make_volumes as make
import nibabel
import numpy as np
import pytest
from PIL import Image

from medjax.data.layouts import detect, find_layouts, images_masks, msd, nnunet_raw, open_layout
from medjax.errors import InputError
from medjax.formats.grid import Grid
from medjax.formats.volume import grid_of, write_mask

ALL = ("msd", "nnunet_raw", "images_masks")
WRITE = {"msd": make.write_msd, "nnunet_raw": make.write_nnunet, "images_masks": make.write_images_masks}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Every layout once. Shared, so do not change it."""
    root = tmp_path_factory.mktemp("masks")
    for name, write in WRITE.items():
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


def edit(path, **changes):
    """A JSON file with other entries, without those that are None."""
    about = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in about.items() if value is not None}))


def examples(layout):
    return {source.case_id(i): source[i] for source in layout.sources.values() for i in range(len(source))}


def repaint(path, change):
    """Change the voxels of a NIfTI file in place."""
    image = nibabel.load(path)
    array = change(np.asanyarray(image.dataobj).copy())
    nibabel.Nifti1Image(array, image.affine).to_filename(path)


# All of them ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL)
def test_each_layout_is_recognised_and_its_examples_keep_the_contract(folder, name):
    assert next(iter(detect(folder / name))) == name
    assert name in find_layouts()
    layout = open_layout(folder / name)
    assert layout.kind == "masks"
    assert layout.classes[0] == "background"
    k = len(layout.classes)
    for source in layout.sources.values():
        for i in range(len(source)):
            example = source[i]
            image, mask = example["image"], example["mask"]
            assert example["id"] == source.case_id(i)
            assert image.dtype in (np.uint8, np.uint16, np.int16, np.float32)
            assert image.ndim == 4
            assert image.shape[-1] == len(source.channels)
            assert mask.shape == image.shape[:3]
            assert mask.dtype == np.uint8
            assert set(np.unique(mask).tolist()) <= set(range(k))
            assert example["label"].dtype == np.int8
            assert example["label"].tolist() == [int((mask == c).any()) for c in range(1, k)]
            facts = source.facts(i)
            assert facts["shape"].tolist() == list(mask.shape)
            np.testing.assert_array_equal(facts["spacing"], example["spacing"])
            assert facts["channels"] == source.channels
    assert str(sum(map(len, layout.sources.values()))) in layout.about


@pytest.mark.parametrize("name", ["msd", "nnunet_raw"])
def test_a_perfect_prediction_is_the_file_of_the_truth(folder, name, tmp_path):
    for key, example in examples(open_layout(folder / name)).items():
        truth = nibabel.load(folder / name / f"{key}.nii.gz".replace("images", "labels"))
        grid = grid_of({**example, "shape": example["mask"].shape})
        path = tmp_path / "a.nii.gz"
        path.write_bytes(write_mask(example["mask"], grid, example["form"], classes=4))
        written = nibabel.load(path)
        np.testing.assert_array_equal(np.asarray(written.dataobj), np.asarray(truth.dataobj))
        np.testing.assert_array_equal(written.affine, truth.affine)


@pytest.mark.parametrize("name", ALL)
def test_classes_that_a_run_remembers_read_the_same_data_alike(folder, name):
    layout = open_layout(folder / name)
    again = open_layout(folder / name, name, classes=layout.classes)
    assert again.classes == layout.classes
    for key, example in examples(layout).items():
        np.testing.assert_array_equal(examples(again)[key]["mask"], example["mask"])
        break
    identities = [[list(s.identity()) for s in found.sources.values()] for found in (layout, again)]
    assert identities[0] == identities[1]


@pytest.mark.parametrize("name", ALL)
def test_an_empty_folder_is_none_of_them_and_each_says_what_is_missing(tmp_path, name):
    assert detect(tmp_path) == {}
    refused(lambda: open_layout(tmp_path, name), tmp_path)
    refused(lambda: {"msd": msd, "nnunet_raw": nnunet_raw, "images_masks": images_masks}[name].sources(tmp_path / "no"), "no")


def test_folders_of_classes_and_tables_are_not_taken_for_masks(tmp_path):
    assert next(iter(detect(make_layouts.write_class_folders(tmp_path / "a")))) == "class_folders"
    assert next(iter(detect(make_layouts.write_table(tmp_path / "b")))) == "table"
    make_layouts.save(tmp_path / "c" / "images" / "x.png", np.zeros((4, 4), np.uint8))
    (tmp_path / "c" / "labels").mkdir()
    (tmp_path / "c" / "labels" / "x.txt").write_text("0 .5 .5 .1 .1")  # boxes, of another job
    assert set(detect(tmp_path / "c")) == {"yolo"}
    split = make.write_images_masks(tmp_path / "d", 3, splits=("train", "test"))
    assert list(detect(split)) == ["images_masks"]


@pytest.mark.parametrize("name", ["msd", "nnunet_raw"])
def test_a_mask_that_does_not_fit_its_image_is_named(own, name):
    root = own(name)
    first = sorted((root / "labelsTr").glob("[a-z]*"))[0]
    whole = first.read_bytes()

    def read():
        source = open_layout(root, name).sources
        return [s[i] for s in source.values() for i in range(len(s))]

    repaint(first, lambda array: array[:-1])
    refused(read, first, "shape", root / "imagesTr")
    first.write_bytes(whole)
    image = nibabel.load(first)
    moved = image.affine.copy()
    moved[0, 3] += 3
    nibabel.Nifti1Image(np.asanyarray(image.dataobj).copy(), moved).to_filename(first)
    refused(read, first, "3 mm", "affine")
    first.write_bytes(whole)

    def strange(array):
        array[0, 0, :2] = 7
        return array

    repaint(first, strange)
    refused(read, first, "value 7", "2 of")
    first.unlink()
    refused(read, first)


# The Decathlon -------------------------------------------------------------------------------------------------------------


def test_msd_names_its_modalities_and_classes_and_leaves_the_test_cases_out(folder):
    layout = open_layout(folder / "msd")
    assert layout.classes == ("background", "a", "b", "c", "d")
    (source,) = layout.sources.values()
    assert list(layout.sources) == ["all"]
    assert source.channels == ("FLAIR", "T1w")
    assert [source.case_id(i) for i in range(6)] == [f"imagesTr/toy_{i:03d}" for i in range(6)]
    assert "2 test volumes" in layout.about
    assert source[2]["label"].tolist() == [1, 1, 0, 1]


def test_msd_of_one_modality_and_a_choice_of_classes(tmp_path):
    root = make.write_msd(tmp_path, 2, modality=("CT",), lacking=-1)
    layout = msd.sources(root, classes=("c", "a"))
    (source,) = layout.sources.values()
    assert source.channels == ("CT",)
    assert layout.classes == ("background", "c", "a")
    whole, some = msd.sources(root).sources["all"][0]["mask"], source[0]["mask"]
    np.testing.assert_array_equal(some, np.array([0, 2, 0, 1, 0])[whole])
    refused(lambda: msd.sources(root, classes=("liver",)), "liver", "a, b, c, d")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"training": None}, ["training"]),
        ({"training": [{"image": "./imagesTr/toy_000.nii.gz"}]}, ["case 0"]),
        ({"training": [{"image": "./imagesTr/x.nii.gz", "label": "./labelsTr/x.nii.gz"}]}, ["imagesTr/x.nii.gz", "lists"]),
        ({"modality": None}, ["channels"]),
        ({"modality": {"1": "CT"}}, ["from 0"]),
        ({"labels": None}, ["labels"]),
        ({"labels": {"0": "background", "2": "liver"}}, ["without a gap"]),
        ({"labels": {"0": "background", "1": "a", "2": "a"}}, ["twice"]),
        ({"labels": {"0": "background"}}, ["no class"]),
        ({"labels": {"background": 0, "liver": "one"}}, ["whole numbers"]),
        ({"labels": {"background": 0, "whole": [1, 2], "core": [2]}}, ["region", "'whole'"]),
    ],
)
def test_a_dataset_json_that_cannot_be_used_is_named(own, changes, words):
    root = own("msd")
    edit(root / "dataset.json", **changes)
    refused(lambda: msd.sources(root), root, *words)


def test_a_dataset_json_that_is_none_is_named(own):
    root = own("msd")
    for text in ("{", "[]"):
        (root / "dataset.json").write_text(text)
        refused(lambda: msd.sources(root), root / "dataset.json")
        assert "msd" not in detect(root)


def test_a_case_with_another_number_of_channels_is_named(own):
    root = own("msd")
    edit(root / "dataset.json", modality={"0": "CT"})
    refused(lambda: msd.sources(root).sources["all"][0], "toy_000", "2 channels", "CT")


# nnU-Net -------------------------------------------------------------------------------------------------------------------


def test_nnunet_joins_channels_and_takes_its_splits(folder):
    layout = open_layout(folder / "nnunet_raw")
    assert layout.classes == ("background", "organ", "tumour")
    assert {split: len(s) for split, s in layout.sources.items()} == {"train": 4, "val": 2, "test": 2}
    assert layout.sources["val"].channels == ("T1", "T2")
    assert layout.sources["val"].case_id(1) == "imagesTr/case_Tr1"
    assert layout.sources["test"].case_id(0) == "imagesTs/case_Ts0"
    example = layout.sources["train"][0]
    for c in range(2):
        stored = nibabel.load(folder / "nnunet_raw" / "imagesTr" / f"case_Tr2_{c:04d}.nii.gz")
        grid = grid_of({**example, "shape": example["mask"].shape})
        np.testing.assert_array_equal(grid.to_stored(example["image"][..., c]), np.asarray(stored.dataobj))
    other = open_layout(folder / "nnunet_raw", fold=1)
    assert other.sources["val"].case_id(0) == "imagesTr/case_Tr4"
    refused(lambda: nnunet_raw.sources(folder / "nnunet_raw", fold=2), "2 folds")


def test_nnunet_without_splits_and_with_splits_elsewhere(tmp_path):
    root = make.write_nnunet(tmp_path / "raw", 4, splits=False, test=1)
    assert {split: len(s) for split, s in nnunet_raw.sources(root).sources.items()} == {"train": 4, "test": 1}
    shutil.rmtree(root / "labelsTs")
    layout = nnunet_raw.sources(root)
    assert {split: len(s) for split, s in layout.sources.items()} == {"all": 4}
    assert "imagesTs" in layout.about
    (tmp_path / "preprocessed").mkdir()
    file = tmp_path / "preprocessed" / "splits_final.json"
    file.write_text(json.dumps([{"train": ["case_Tr0", "case_Tr1"], "val": ["case_Tr3"]}]))
    for given in (file, file.parent):
        layout = nnunet_raw.sources(root, splits=given)
        assert {split: len(s) for split, s in layout.sources.items()} == {"train": 2, "val": 1}
        assert "without 1 cases" in layout.about
    refused(lambda: nnunet_raw.sources(root, splits=tmp_path), tmp_path / "splits_final.json")
    for bad, word in (
        ([{"train": ["case_Tr9"], "val": []}], "case_Tr9"),
        ([{"train": ["case_Tr0"], "val": ["case_Tr0"]}], "train and in val"),
        ([["case_Tr0"]], "is no list"),
        ({}, "is no list"),
    ):
        file.write_text(json.dumps(bad))
        refused(lambda: nnunet_raw.sources(root, splits=file), file, word)


def test_nnunets_ignore_label_is_not_annotated(tmp_path):
    root = make.write_nnunet(tmp_path, 2, labels={"background": 0, "organ": 1, "ignore": 2}, test=0, splits=False)
    layout = nnunet_raw.sources(root)
    assert layout.classes == ("background", "organ")
    example = layout.sources["all"][0]
    assert set(np.unique(example["mask"]).tolist()) == {0, 1, 255}
    assert example["label"].tolist() == [1]


def test_nnunets_older_form(tmp_path):
    root = make.write_nnunet(tmp_path, 2, test=0, splits=False)
    listed = [{"image": f"./imagesTr/case_Tr{i}.nii.gz", "label": f"./labelsTr/case_Tr{i}.nii.gz"} for i in range(2)]
    labels = {"0": "background", "1": "organ", "2": "tumour"}
    changes = {"modality": {"0": "T1", "1": "T2"}, "labels": labels, "training": listed}
    edit(root / "dataset.json", channel_names=None, file_ending=None, **changes)
    assert list(detect(root)) == ["nnunet_raw"]
    assert open_layout(root).classes == ("background", "organ", "tumour")


def test_what_nnunets_folders_lack_is_named(own):
    root = own("nnunet_raw")
    read = lambda: nnunet_raw.sources(root)  # noqa: E731
    images, masks = root / "imagesTr", root / "labelsTr"
    edit(root / "dataset.json", numTraining=7)
    refused(read, "numTraining is 7", "6 cases")
    edit(root / "dataset.json", numTraining=6, file_ending=".nrrd")
    refused(read, ".nrrd")
    edit(root / "dataset.json", file_ending=".nii.gz", regions_class_order=[1, 2], labels={"background": 0, "whole": [1, 2]})
    refused(read, "region")
    edit(root / "dataset.json", labels={"background": 0, "organ": 1, "tumour": 2})
    shutil.move(images / "case_Tr0_0001.nii.gz", root / "kept")
    refused(read, images / "case_Tr0_0001")
    shutil.move(root / "kept", images / "case_Tr0_0002.nii.gz")
    shutil.copy(images / "case_Tr0_0002.nii.gz", images / "case_Tr0_0001.nii.gz")
    refused(read, images / "case_Tr0_0002.nii.gz", "more than the 2")
    (images / "case_Tr0_0002.nii.gz").unlink()
    shutil.copy(masks / "case_Tr0.nii.gz", masks / "lone.nii.gz")
    refused(read, masks / "lone.nii.gz", "no image")
    (masks / "lone.nii.gz").unlink()
    (masks / "case_Tr1.nii.gz").unlink()
    refused(read, masks / "case_Tr1.nii.gz", "no mask")


def test_channels_that_do_not_lie_on_one_another_are_named(own):
    root = own("nnunet_raw")
    second = root / "imagesTr" / "case_Tr2_0001.nii.gz"
    repaint(second, lambda array: array[:, 1:])
    refused(lambda: nnunet_raw.sources(root).sources["train"][0], second, "first channel")


# Images and masks ----------------------------------------------------------------------------------------------------------


def test_images_and_masks_with_their_patients(folder):
    layout = open_layout(folder / "images_masks")
    (source,) = layout.sources.values()
    example = source[1]
    assert (example["id"], example["patient"], example["sex"], example["age"]) == ("images/001", "P0", "F", 41.0)
    assert layout.classes == ("background", "foreground")
    assert source.channels == ("grey",)
    assert example["form"] == "png"
    stored = np.array(Image.open(folder / "images_masks" / "masks" / "001.png"))
    np.testing.assert_array_equal(example["mask"][0] * 255, stored)
    written = write_mask(example["mask"], Grid(example["mask"].shape), "png", classes=1)
    path = folder.parent / "written.png"
    path.write_bytes(written)
    np.testing.assert_array_equal(np.array(Image.open(path)), stored)


@pytest.mark.parametrize(
    ("values", "classes", "names", "ignored"),
    [
        ((0, 1), (), ("background", "foreground"), False),
        ((0, 255), ("lung",), ("background", "lung"), False),
        ((0, 1, 2, 3), (), ("background", "1", "2", "3"), False),
        ((0, 1, 2), ("background", "cup", "disc"), ("background", "cup", "disc"), False),
        ((0, 1, 255), ("lung",), ("background", "lung"), True),
        ((0, 1, 2), ("a", "b", "c"), ("background", "a", "b", "c"), False),
    ],
)
def test_what_masks_hold_tells_the_classes(tmp_path, values, classes, names, ignored):
    root = make.write_images_masks(tmp_path, 3, values=values, suffix="_mask", ending=".tif", dtype=np.uint16)
    layout = images_masks.sources(root, classes=classes)
    assert layout.classes == names
    example = layout.sources["all"][0]
    assert example["image"].dtype == np.uint16
    assert example["form"] == "tif"
    stored = np.array(Image.open(root / "masks" / "000_mask.png"))
    expected = np.where(stored == 255, 1, stored) if not ignored else stored
    np.testing.assert_array_equal(example["mask"][0], expected)


def test_other_values_can_be_given(tmp_path):
    root = make.write_images_masks(tmp_path, 2, values=(0, 85, 170))
    refused(lambda: images_masks.sources(root), "0, 85, 170", "--data.classes")
    refused(lambda: images_masks.sources(root, values=(0, 85), classes=("a", "b")), "[0, 85]")
    layout = images_masks.sources(root, values=(0, 85, 170), classes=("a", "b"))
    assert set(np.unique(layout.sources["all"][0]["mask"]).tolist()) == {0, 1, 2}


def test_splits_in_folders_of_either_nesting(tmp_path):
    outer = make.write_images_masks(tmp_path / "a", 2, splits=("train", "val", "test"))
    assert {split: len(s) for split, s in images_masks.sources(outer).sources.items()} == {"train": 2, "val": 2, "test": 2}
    inner = tmp_path / "b"
    for split in ("train", "test"):
        for kind in ("images", "masks"):
            shutil.copytree(outer / split / kind, inner / kind / split)
    assert {split: len(s) for split, s in open_layout(inner).sources.items()} == {"train": 2, "test": 2}
    shutil.copytree(outer / "val", outer / "valid")
    refused(lambda: images_masks.sources(outer), outer / "val", outer / "valid")


def test_colour_among_grey_and_nifti_with_bare_names(tmp_path):
    rng = np.random.default_rng(0)
    root = make.write_images_masks(tmp_path / "a", 3)
    make_layouts.save(root / "images" / "000.png", rng.integers(0, 255, (12, 10, 3)).astype(np.uint8))
    source = images_masks.sources(root).sources["all"]
    assert source.channels == ("red", "green", "blue")
    assert [source[i]["image"].shape[-1] for i in range(3)] == [3, 3, 3]
    root = tmp_path / "b"
    for i in range(2):
        make.save_nifti(root / "images" / f"x{i}.nii.gz", rng.integers(0, 99, (5, 6, 7)).astype(np.int16))
        make.save_nifti(root / "labels" / f"x{i}_seg.nii.gz", make.labels_of(rng, (5, 6, 7), 3))
    make_layouts.write_csv(root / "metadata.csv", ("name", "patient", "split"), [("x0", "P", "train"), ("x1", "Q", "test")])
    layout = open_layout(root, channels=("CT",))
    assert {split: s.items[0].patient for split, s in layout.sources.items()} == {"train": "P", "test": "Q"}
    assert layout.sources["train"].channels == ("CT",)
    assert layout.classes == ("background", "1", "2")


def test_what_images_and_masks_lack_is_named(own):
    root = own("images_masks")
    read = lambda: images_masks.sources(root)  # noqa: E731
    make_layouts.save(root / "masks" / "extra.png", np.zeros((4, 4), np.uint8))
    refused(read, root / "masks" / "extra.png", "no image")
    (root / "masks" / "extra.png").unlink()
    shutil.copy(root / "masks" / "000.png", root / "masks" / "000_seg.png")
    refused(read, "000_seg.png", "both masks")
    (root / "masks" / "000_seg.png").unlink()
    colour = np.zeros((13, 10, 3), np.uint8)
    colour[0, 0, 0] = 255
    make_layouts.save(root / "masks" / "001.png", colour)
    refused(read, root / "masks" / "001.png", "channels differ")
    make_layouts.save(root / "masks" / "001.png", np.full((5, 5), 255, np.uint8))
    refused(lambda: read().sources["all"][1], root / "masks" / "001.png", "[1, 13, 10]")
    for i in range(6):
        make_layouts.save(root / "masks" / f"{i:03d}.png", np.zeros((12 + i, 10), np.uint8))
    refused(read, root, "no foreground")
    (root / "masks" / "001.png").unlink()
    refused(read, root / "images" / "001.png", "no mask")
    shutil.rmtree(root / "masks")
    refused(read, root, "images and masks")


@pytest.mark.realdata
def test_lungs_on_chest_x_rays(real_data):
    root = real_data / "cxr_lungs"
    assert list(detect(root)) == ["images_masks"]
    layout = open_layout(root, classes=("lung",))
    assert {split: len(s) for split, s in layout.sources.items()} == {"train": 340, "test": 78}
    patients = {split: {item.patient for item in s.items} for split, s in layout.sources.items()}
    assert len(patients["train"] | patients["test"]) == 255
    assert not patients["train"] & patients["test"]
    shares = []
    for source in layout.sources.values():
        for i in range(0, len(source), 7):
            example = source[i]
            assert example["image"].shape == (1, 256, 256, 1)
            assert example["label"].tolist() == [1]
            shares.append((example["mask"] == 1).mean())
    assert 0.1 < np.mean(shares) < 0.5
