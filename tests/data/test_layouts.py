import json

import make_layouts as make
import numpy as np
import pytest
from make_layouts import everything, rows_of
from PIL import Image
from toy import fails

from medjax.data import layouts
from medjax.data.folders import ImageSource, case_id, drop_ending
from medjax.data.layouts import chexpert, detect, find_layouts, nih_chestxray14, open_layout, rsna_haemorrhage, rsna_pneumonia
from medjax.data.prepare import prepare


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Every layout once. Shared, so do not change it."""
    root = tmp_path_factory.mktemp("layouts")
    make.write_class_folders(root / "class_folders")
    make.write_table(root / "table")
    make.write_medmnist(root / "medmnist")
    make.write_rsna_pneumonia(root / "rsna_pneumonia")
    make.write_nih(root / "nih_chestxray14")
    make.write_chexpert(root / "chexpert")
    make.write_rsna_haemorrhage(root / "rsna_haemorrhage")
    return root


def where(folder, name):
    return folder / name / "CheXpert-v1.0-small" if name == "chexpert" else folder / name


ALL = ("chexpert", "medmnist", "nih_chestxray14", "rsna_haemorrhage", "rsna_pneumonia", "class_folders", "table")


# All of them ---------------------------------------------------------------------------------------------------------------


def test_layouts_are_found_by_looking_into_the_folder():
    found = find_layouts()
    assert tuple(name for name in found if name in ALL) == ALL
    assert all(len(words) > 30 for words in found.values())


@pytest.mark.parametrize("name", ALL)
def test_each_layout_is_recognised_and_its_examples_keep_the_contract(folder, name):
    path = where(folder, name)
    assert next(iter(detect(path))) == name
    layout = open_layout(path)
    ids, fields = set(), set()
    for split, source in layout.sources.items():
        assert split in ("train", "val", "test", "all")
        assert len(source) >= 3
        for i in range(len(source)):
            example = source[i]
            assert example["id"] == source.case_id(i) not in ids
            ids.add(example["id"])
            fields.add(frozenset(example))
            assert isinstance(example["patient"], str)
            assert example["image"].dtype in (np.uint8, np.int16)
            label = example["label"]
            if layout.kind == "multi":
                assert label.dtype == np.int8
                assert label.shape == (len(layout.classes),)
                assert set(label.tolist()) <= {-1, 0, 1}
            else:
                assert isinstance(label, int)
                assert -1 <= label < len(layout.classes)
            assert example.get("sex", "") in ("F", "M", "")
            assert isinstance(example.get("age", 0.0), float)
    assert len(fields) == 1  # a column stands in every case or in none
    assert str(len(ids)) in layout.about


@pytest.mark.parametrize("name", ALL)
def test_each_layout_can_be_prepared_and_its_cache_found_again(folder, name):
    def same_size(example):
        return {**example, "image": np.resize(example["image"], (8, 8)).astype(np.int16)}

    layout = open_layout(where(folder, name), name)
    prepared = prepare(layout.sources, same_size, near="off")
    assert len(prepared.cases) == sum(map(len, layout.sources.values()))
    again = prepare(open_layout(where(folder, name), name).sources, same_size, near="off")
    assert again.folder == prepared.folder
    if layout.kind == "multi":
        assert prepared.cases["label"].shape == (len(prepared.cases), len(layout.classes))
        assert prepared.cases["label"].dtype == np.int8


@pytest.mark.parametrize("name", ALL)
def test_an_empty_folder_is_none_of_them_and_each_says_what_is_missing(tmp_path, name):
    assert detect(tmp_path) == {}
    fails(lambda: open_layout(tmp_path, name), tmp_path)
    fails(lambda: open_layout(tmp_path), tmp_path, name)


def test_names_and_paths_that_do_not_exist_are_refused(tmp_path):
    fails(lambda: open_layout(tmp_path, "rsna_pneumonias"), "rsna_pneumonia", "chexpert")
    fails(lambda: open_layout(tmp_path / "nothing"), tmp_path / "nothing")


def test_options_go_only_to_layouts_that_take_them(folder):
    layout = open_layout(folder / "rsna_pneumonia", target="three", labels=("x",), classes=())
    assert len(layout.classes) == 3


def test_other_files_are_no_layout(tmp_path):
    (tmp_path / "notes.csv").write_text("path,text\na,hello\n")
    (tmp_path / "x.npz").write_bytes(b"PK\x05\x06" + b"\0" * 18)
    make.save(tmp_path / "images" / "a.png", np.zeros((8, 8), np.uint8))
    make.save(tmp_path / "annotations" / "a.png", np.zeros((8, 8), np.uint8))
    assert detect(tmp_path) == {}  # of another job


# Ids -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("a/b.png", "a/b"),
        ("a.v2.TIF", "a.v2"),
        ("scan.nii.gz", "scan"),
        ("1.2.840.10008", "1.2.840.10008"),
        ("x/.png", "x/.png"[:-4]),
        ("plain", "plain"),
        (".png", ".png"),
    ],
)
def test_an_id_loses_only_the_ending_of_a_picture(tmp_path, name, key):
    assert drop_ending(name) == key
    assert case_id(tmp_path / name, tmp_path) == key


# RSNA pneumonia ------------------------------------------------------------------------------------------------------------


def test_rsna_pneumonia_labels_facts_and_boxes(folder):
    root = folder / "rsna_pneumonia"
    labels, classes = {}, {}
    for row in rows_of(root / rsna_pneumonia.LABELS):
        labels.setdefault(row["patientId"], []).append(row)
    for row in rows_of(root / rsna_pneumonia.DETAILS):
        classes[row["patientId"]] = row["class"]
    two, three = open_layout(root), open_layout(root, target="three")
    assert len(everything(two)) == len(labels) == 12  # nothing of the test images
    for item in everything(two).values():
        assert item.label == int(labels[item.patient][0]["Target"])
    order = ("Normal", "No Lung Opacity / Not Normal", "Lung Opacity")
    assert all(order[item.label] == classes[item.patient] for item in everything(three).values())
    boxes = rsna_pneumonia.boxes(root)
    assert boxes.keys() == labels.keys()
    for name, found in boxes.items():
        wanted = [[float(row[c]) for c in ("x", "y", "width", "height")] for row in labels[name] if row["x"]]
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, np.array(wanted, np.float32).reshape(-1, 4))
    assert max(map(len, boxes.values())) == 2
    import pydicom

    source = two.sources["all"]
    example = source[1]
    header = pydicom.dcmread(example["path"])
    assert header.file_meta.TransferSyntaxUID == pydicom.uid.JPEGBaseline8Bit
    assert (example["sex"], example["view"], example["age"]) == (header.PatientSex, header.ViewPosition, 21.0)
    np.testing.assert_array_equal(example["image"], header.pixel_array)


def test_rsna_pneumonia_tables_that_contradict(tmp_path):
    root = make.write_rsna_pneumonia(tmp_path, 3)
    rows = rows_of(root / rsna_pneumonia.LABELS)
    (root / rsna_pneumonia.DETAILS).unlink()
    assert len(open_layout(root).sources["all"]) == 3  # two classes need no details
    fails(lambda: open_layout(root, target="three"), rsna_pneumonia.DETAILS)
    fails(lambda: open_layout(root, target="four"), "four")

    def write(rows):
        make.write_csv(root / rsna_pneumonia.LABELS, list(rows[0]), [list(row.values()) for row in rows])

    write([*rows, {**rows[0], "Target": "1"}])
    fails(lambda: open_layout(root), rsna_pneumonia.LABELS, rows[0]["patientId"])
    write([*rows, {**rows[0], "patientId": "ghost"}])
    fails(lambda: open_layout(root), "1 of the 4", "'ghost'")
    write(rows[:1])
    assert "2 files that the table does not name" in open_layout(root).about
    write([{**rows[0], "x": "1"}])
    fails(lambda: rsna_pneumonia.boxes(root), "row 2")


# NIH -----------------------------------------------------------------------------------------------------------------------


def test_nih_labels_patients_and_official_lists(folder):
    root = folder / "nih_chestxray14"
    layout = open_layout(root)
    rows = {row["Image Index"].removesuffix(".png"): row for row in rows_of(root / "Data_Entry_2017_v2020.csv")}
    test = {name.removesuffix(".png") for name in (root / "test_list.txt").read_text().split()}
    assert layout.classes == make.NIH
    seen = set()
    for split, source in layout.sources.items():
        for item in source.items:
            name = item.id.rpartition("/")[2]
            seen.add(name)
            assert (split == "test") == (name in test)
            found = rows[name]["Finding Labels"].split("|")
            assert [c for c, k in zip(layout.classes, item.label) if k] == [c for c in make.NIH if c in found]
            assert item.patient == rows[name]["Patient ID"]
            sex, age, view = item.known
            assert (sex, view) == (rows[name]["Patient Gender"], rows[name]["View Position"])
            if name == "00000000_000":
                assert age == 58.0
            elif name == "00000000_001":
                assert np.isnan(age)  # "414" in the table
            else:
                assert age == float(rows[name]["Patient Age"])
    assert seen == rows.keys()
    few = open_layout(root, labels=("Mass", "Hernia"))
    assert few.classes == ("Mass", "Hernia")


def test_nih_without_lists_with_one_and_with_gaps(tmp_path):
    root = make.write_nih(tmp_path, 8, lists=False)
    assert set(open_layout(root).sources) == {"all"}
    (root / "test_list.txt").write_text("00000000_000.png\n")
    fails(lambda: open_layout(root), "train_val_list.txt")
    (root / "train_val_list.txt").write_text("00000001_000.png\n")
    fails(lambda: open_layout(root), "00000000_001.png", "train_val_list.txt")
    fails(lambda: nih_chestxray14.sources(root, labels=("Cough",)), "Cough", "Hernia")
    for file in root.glob("*_list.txt"):
        file.unlink()
    for file in root.rglob("00000003_*.png"):
        file.unlink()
    fails(lambda: open_layout(root), "2 of the 8", "00000003_000.png")


# CheXpert ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("uncertain", "of_minus"), [("ignore", -1), ("zeros", 0), ("ones", 1)])
@pytest.mark.parametrize(("missing", "of_blank"), [("ignore", -1), ("zeros", 0)])
def test_chexpert_maps_uncertain_and_missing_labels_by_the_rule(folder, uncertain, of_minus, missing, of_blank):
    root = where(folder, "chexpert")
    layout = open_layout(root, uncertain=uncertain, missing=missing, views="all")
    meaning = {"1.0": 1, "0.0": 0, "-1.0": of_minus, "": of_blank}
    assert layout.classes == make.CHEXPERT
    for split, name in (("train", "train.csv"), ("val", "valid.csv")):
        items = {item.id: item for item in layout.sources[split].items}
        rows = rows_of(root / name)
        assert len(items) == len(rows)
        for row in rows:
            item = items[row["Path"].removeprefix("CheXpert-v1.0-small/").removesuffix(".jpg")]
            assert item.label == tuple(meaning[row[c]] for c in make.CHEXPERT)
            assert item.patient == row["Path"].split("/")[2]
            sex = {"Female": "F", "Male": "M"}.get(row["Sex"], "")
            assert item.known == (sex, float(row["Age"]), row["AP/PA"] or "lateral")
    assert uncertain in layout.about
    assert missing in layout.about


def test_chexpert_takes_frontal_views_and_all_labels_by_default(folder):
    layout = open_layout(where(folder, "chexpert"))
    assert [len(layout.sources[s]) for s in ("train", "val")] == [15, 4]
    assert open_layout(where(folder, "chexpert"), labels=("Edema",)).classes == ("Edema",)


def test_chexpert_errors(tmp_path):
    root = make.write_chexpert(tmp_path, 8)
    fails(lambda: chexpert.sources(root, uncertain="maybe"), "maybe")
    text = (root / "train.csv").read_text()
    (root / "train.csv").write_text(text.replace("1.0", "2.0"))
    fails(lambda: open_layout(root), "train.csv", "2.0'")
    (root / "train.csv").write_text(text)
    for file in (root / "train" / "patient00002").rglob("*frontal*"):
        file.unlink()
    fails(lambda: open_layout(root), "train.csv", "3 of the 6")


# RSNA haemorrhage ------------------------------------------------------------------------------------------------------------


def test_haemorrhage_labels_by_slice_and_patients_from_headers(folder):
    root = folder / "rsna_haemorrhage"
    layout = open_layout(root)
    truth = {row["ID"]: int(row["Label"]) for row in rows_of(root / "stage_2_train.csv")}
    items = everything(layout)
    assert len(items) == 24
    import pydicom

    for key, item in items.items():
        name = key.removeprefix("stage_2_train/")
        assert item.label == tuple(truth[f"{name}_{kind}"] for kind in layout.classes)
        assert item.patient == pydicom.dcmread(item.path).PatientID
    assert len({item.patient for item in items.values()}) == 8
    example = layout.sources["all"][0]
    assert example["image"].dtype == np.int16
    assert example["image"].min() < -900  # Hounsfield units


def test_haemorrhage_headers_are_read_once_and_again_when_a_file_changes(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDJAX_CACHE", str(tmp_path / "cache"))
    root = make.write_rsna_haemorrhage(tmp_path / "data", 4)
    read = []
    original = rsna_haemorrhage._patient
    monkeypatch.setattr(rsna_haemorrhage, "_patient", lambda pydicom, file: read.append(file.stem) or original(pydicom, file))
    first = everything(open_layout(root))
    assert len(read) == 4
    assert everything(open_layout(root)) == first
    assert len(read) == 4
    file = next(iter(first.values())).path
    make.dicom(np.zeros((8, 9), np.int16), patient="", study="1.2.9").save_as(file)
    assert everything(open_layout(root))[f"stage_2_train/{file.stem}"].patient == "1.2.9"
    assert len(read) == 5
    file.write_bytes(b"")
    assert everything(open_layout(root))[f"stage_2_train/{file.stem}"].patient == ""


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([("ID_1_any", 1), ("ID_1_any", 0)], ["ID_1_any", "disagree"]),
        ([("ID_1_all", 1)], ["ID_1_all"]),
        ([("ID_1_any", 2)], ["ID_1_any,2"]),
        ([("ID_1_any", 1)], ["1 of the 1", "'ID_1'"]),
    ],
)
def test_haemorrhage_tables_that_are_wrong(tmp_path, rows, words):
    make.write_csv(tmp_path / "stage_2_train.csv", ("ID", "Label"), rows)
    (tmp_path / "stage_2_train").mkdir()
    fails(lambda: open_layout(tmp_path), "stage_2_train.csv", *words)


def test_a_missing_row_is_a_missing_label(tmp_path):
    root = make.write_rsna_haemorrhage(tmp_path, 3)
    rows = rows_of(root / "stage_2_train.csv")
    make.write_csv(root / "stage_2_train.csv", ("ID", "Label"), [tuple(row.values()) for row in rows[1:]])
    labels = [item.label for item in everything(open_layout(root)).values()]
    assert sum(label.count(-1) for label in labels) == 1


# Pictures of every kind in class folders -------------------------------------------------------------------------------------


def test_dicom_in_class_folders_tells_patient_sex_age_and_view(tmp_path):
    for k, name in enumerate(("no", "yes")):
        (tmp_path / name).mkdir()
        for i in range(2):
            made = make.dicom(np.full((8, 9), 50 * k, np.int16), patient=f"P{i}", PatientSex="F", PatientAge="018M")
            made.save_as(tmp_path / name / f"{i}.dcm")
    assert "class_folders" in detect(tmp_path)
    source = open_layout(tmp_path).sources["all"]
    assert [source[i]["patient"] for i in range(4)] == ["P0", "P1", "P0", "P1"]
    assert (source[0]["sex"], source[0]["age"], source[0]["view"]) == ("F", 1.5, "")
    assert isinstance(source, ImageSource)


def test_16_bit_and_colour_and_several_kinds_in_one_folder(tmp_path):
    rng = np.random.default_rng(0)
    made = {
        "a/1.png": rng.integers(0, 255, (8, 9), np.uint8),
        "a/2.png": rng.integers(0, 65535, (8, 9), np.uint16),
        "b/3.tif": rng.integers(0, 65535, (8, 9), np.uint16),
        "b/4.bmp": rng.integers(0, 255, (8, 9, 3), np.uint8),
    }
    for name, pixels in made.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / name)
    source = open_layout(tmp_path).sources["all"]
    for i, pixels in enumerate(made.values()):
        np.testing.assert_array_equal(source[i]["image"], pixels)


def test_what_class_folders_metadata_knows_goes_into_the_examples(folder):
    source = open_layout(folder / "class_folders").sources["all"]
    for row in rows_of(folder / "class_folders" / "metadata.csv"):
        i = [item.id for item in source.items].index(row["path"].removesuffix(".png"))
        example = source[i]
        assert (example["sex"], example["age"], example["view"]) == (row["sex"], float(row["age"]), row["view"])
        assert example["patient"] == row["patient"]
    assert json.dumps(layouts.find_layouts())


def test_a_folder_around_the_data_is_looked_into(tmp_path):
    make.write_chexpert(tmp_path / "download", n=6)
    inner = next((tmp_path / "download").iterdir())
    assert open_layout(tmp_path / "download").classes == open_layout(inner).classes
    (tmp_path / "download" / "notes.txt").write_text("two things: which one is meant?")
    fails(lambda: open_layout(tmp_path / "download"), "in none of the layouts")
