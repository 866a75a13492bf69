import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from medjax.data.folders import SPLIT_NAMES, class_folders, image_source
from medjax.errors import InputError
from medjax.formats.picture import picture_files


def picture(path, value=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((4, 5), value, np.uint8)).save(path)
    return path


def tree(root, *files):
    for i, name in enumerate(files):
        picture(root / name, i)
    return root


def fails(call, *words):
    with pytest.raises(InputError) as caught:
        call()
    for word in words:
        assert str(word) in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 2


def ids(source):
    return [item[1] for item in source.items]


def test_class_folders_are_labels_in_sorted_order_and_ids_are_relative_without_ending(tmp_path):
    tree(tmp_path, "yes/b.png", "yes/deep/a.v2.tif", "no/c.jpg", "no/.hidden.png", ".git/x.png", "__MACOSX/x.png")
    (tmp_path / "no" / "notes.txt").write_text("no image")
    sources = class_folders(tmp_path)
    assert list(sources) == ["all"]
    source = sources["all"]
    assert ids(source) == ["no/c", "yes/b", "yes/deep/a.v2"]
    assert [source[i]["label"] for i in range(len(source))] == [0, 1, 1]
    example = source[1]
    assert set(example) == {"id", "patient", "label", "image", "path"}
    assert example["patient"] == ""
    assert example["path"] == str(tmp_path / "yes" / "b.png")
    assert example["image"].dtype == np.uint8
    assert example["image"].shape == (4, 5)
    assert example["image"][0, 0] == 0


def test_given_classes_set_the_order_of_labels(tmp_path):
    tree(tmp_path, "a/1.png", "b/2.png")
    source = class_folders(str(tmp_path), classes=("b", "a"))["all"]
    assert {item[1]: item[2] for item in source.items} == {"a/1": 1, "b/2": 0}


@pytest.mark.parametrize(("name", "split"), [("valid", "val"), ("devel", "val"), ("Validation", "val"), ("dev", "val")])
def test_split_folders_get_medjax_names(tmp_path, name, split):
    tree(tmp_path, "Training/a/1.png", "Training/b/1.png", f"{name}/a/1.png", f"{name}/b/1.png", "TEST/b/1.png")
    sources = class_folders(tmp_path)
    assert set(sources) == {"train", split, "test"}
    assert ids(sources["test"]) == ["TEST/b/1"]
    assert ids(sources[split]) == [f"{name}/a/1", f"{name}/b/1"]
    assert sources["test"][0]["label"] == 1


def test_every_split_name_maps_to_a_split():
    assert set(SPLIT_NAMES.values()) == {"train", "val", "test"}
    assert all(SPLIT_NAMES[split] == split for split in ("train", "val", "test"))


def test_two_folders_of_one_split_stop(tmp_path):
    tree(tmp_path, "train/a/1.png", "train/b/1.png", "val/a/1.png", "valid/a/2.png")
    fails(lambda: class_folders(tmp_path), tmp_path / "val", tmp_path / "valid")


@pytest.mark.parametrize("column", ["path", "id", "name", "filename"])
@pytest.mark.parametrize("ending", [".png", ""])
def test_metadata_gives_patients_and_splits(tmp_path, column, ending):
    tree(tmp_path, "a/1.png", "a/2.png", "b/3.png")
    head = "" if column in ("name", "filename") else "a/"
    rows = [(f"{head}1{ending}", " P1 ", "train"), (f"{head}2{ending}", "P2", "Valid")]
    rows += [(f"{head.replace('a', 'b')}3{ending}", "", "")]
    text = "\n".join([f"{column},patient_id,split", *(",".join(row) for row in rows)])
    (tmp_path / "metadata.csv").write_text("\ufeff" + text, encoding="utf-8")
    sources = class_folders(tmp_path)
    assert {split: [(i[1], i[3]) for i in s.items] for split, s in sources.items()} == {
        "train": [("a/1", "P1")],
        "val": [("a/2", "P2")],
        "all": [("b/3", "")],
    }


def test_split_folders_win_over_the_table(tmp_path):
    tree(tmp_path, "train/a/1.png", "train/b/1.png", "test/a/2.png", "test/b/2.png")
    rows = [f"{split}/{name}/{i},P,train" for split, i in (("train", 1), ("test", 2)) for name in "ab"]
    (tmp_path / "metadata.csv").write_text("\n".join(["path,patient,split", *rows]))
    assert {split: len(s) for split, s in class_folders(tmp_path).items()} == {"train": 2, "test": 2}


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("path,patient\na/1,P\n", ["b/2"]),
        ("path,other\na/1,P\n", ["patient", "other"]),
        ("file,patient\na/1,P\n", ["file", "path"]),
        ("path,patient,split\na/1,P,holdout\nb/2,P,\n", ["holdout", "a/1"]),
        ("path,patient\na/1,P\nb/2,P\na/1,Q\n", ["a/1"]),
        ("patient,path\nP,a/1\nP\n", ["b/2"]),
        (b"path,patient\na/1,M\xfcller\n", ["UTF-8"]),
        ("", ["patient"]),
    ],
    ids=["row missing", "no patient", "no name", "unknown split", "two patients", "short row", "latin-1", "empty"],
)
def test_a_bad_table_is_named(tmp_path, table, words):
    tree(tmp_path, "a/1.png", "b/2.png")
    (tmp_path / "metadata.csv").write_bytes(table if isinstance(table, bytes) else table.encode())
    fails(lambda: class_folders(tmp_path), tmp_path / "metadata.csv", *words)


def test_a_bare_name_that_fits_two_files_gives_neither_the_others_patient(tmp_path):
    tree(tmp_path, "a/1.png", "b/1.png")
    (tmp_path / "metadata.csv").write_text("name,patient\n1,P\n")
    fails(lambda: class_folders(tmp_path), tmp_path / "metadata.csv", "a/1.png", "b/1.png")
    (tmp_path / "metadata.csv").write_text("path,patient\na/1,P\nb/1.png,Q\n")
    assert [item[3] for item in class_folders(tmp_path)["all"].items] == ["P", "Q"]


def test_bad_folders_are_named(tmp_path):
    fails(lambda: class_folders(tmp_path / "none"), tmp_path / "none")
    fails(lambda: class_folders(tmp_path), tmp_path)
    file = picture(tmp_path / "file.png")
    fails(lambda: class_folders(file), file)
    one = tree(tmp_path / "one", "a/1.png")
    fails(lambda: class_folders(one), one, "'a'")
    empty = tree(tmp_path / "empty", "a/1.png")
    (empty / "b").mkdir()
    fails(lambda: class_folders(empty), empty / "b")
    fails(lambda: class_folders(empty, classes=("a", "c")), empty, "'b'")
    missing = tree(tmp_path / "missing", "a/1.png", "b/2.png")
    fails(lambda: class_folders(missing, classes=("a", "b", "c")), missing / "c")
    twice = tree(tmp_path / "twice", "a/1.png", "a/1.jpg", "b/2.png")
    fails(lambda: class_folders(twice), twice / "a/1.png", twice / "a/1.jpg", "'a/1'")
    train = tree(tmp_path / "split", "train/a/1.png", "test/a/2.png", "test/b/2.png")
    fails(lambda: class_folders(train), train / "train" / "b")


def test_a_class_may_be_missing_in_validation_and_test(tmp_path):
    tree(tmp_path, "train/a/1.png", "train/b/1.png", "test/a/2.png")
    assert ids(class_folders(tmp_path)["test"]) == ["test/a/2"]


def test_identity_follows_the_files(tmp_path):
    tree(tmp_path, "a/1.png", "b/2.png")
    source = class_folders(tmp_path)["all"]
    before = list(source.identity())
    assert before == list(class_folders(tmp_path)["all"].identity())
    os.utime(tmp_path / "a/1.png", (1, 1))
    after = list(source.identity())
    assert after[0] != before[0]
    assert after[1] == before[1]
    (tmp_path / "metadata.csv").write_text("path,patient\na/1,P\nb/2,Q\n")
    assert list(class_folders(tmp_path)["all"].identity())[1] != after[1]


def test_files_and_folders_for_prediction(tmp_path):
    tree(tmp_path, "x/b.png", "x/in/a.PNG", "one.png")
    source = image_source([tmp_path / "one.png", str(tmp_path / "x")])
    assert ids(source) == ["one", "b", "in/a"]
    assert source[0]["label"] == -1
    (tmp_path / "void").mkdir()
    fails(lambda: image_source([tmp_path / "void"]), tmp_path / "void")
    fails(lambda: image_source([tmp_path / "nothing.png"]), tmp_path / "nothing.png")
    fails(lambda: image_source([tmp_path / "one.png", tmp_path / "one.png"]), "'one'")


@settings(max_examples=20, deadline=None)
@given(st.sets(st.sampled_from([f"{d}{n}{e}" for d in ("", "d/", "d/e/") for n in "ab" for e in (".png", ".JPG", ".txt")])))
def test_picture_files_finds_just_the_pictures_sorted(tmp_path_factory, names):
    folder = tmp_path_factory.mktemp("files")
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")
    expected = sorted(folder / name for name in names if not name.endswith(".txt"))
    assert picture_files(folder) == expected
