import make_layouts as make
import numpy as np
import pytest
from make_layouts import everything, rows_of
from toy import fails

from medjax.data.layouts import open_layout


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make.write_table(tmp_path_factory.mktemp("table"))


def table(tmp_path, text, names=("a", "b", "c", "d")):
    for i, name in enumerate(names):
        make.save(tmp_path / f"{name}.png", np.full((8, 8), i, np.uint8))
    (tmp_path / "cases.csv").write_text(text, encoding="utf-8")
    return tmp_path


def test_several_columns_are_several_labels_with_blanks_missing(folder):
    layout = open_layout(folder)
    assert (layout.kind, layout.classes) == ("multi", ("opacity", "effusion"))
    items = everything(layout)
    truth = {"": -1, "0": 0, "1": 1}
    for row in rows_of(folder / "cases.csv"):
        item = items[row["path"].removesuffix(".png")]
        assert item.label == (truth[row["opacity"]], truth[row["effusion"]])
        assert (item.patient, item.known) == (row["patient"], (row["sex"], float(row["age"])))
    assert any(-1 in item.label for item in items.values())
    few = open_layout(folder, labels=("effusion",))
    assert (few.kind, few.classes) == ("single", ("no effusion", "effusion"))


def test_one_column_names_the_class_and_split_and_file_alike_the_table(tmp_path):
    text = "Image ID;Diagnosis;Patient-ID;SPLIT\na;cat;1;Train\nb.png;dog;2;train\nc;cat;;Valid\nd;;4;test\n"
    layout = open_layout(table(tmp_path, text))
    assert (layout.kind, layout.classes) == ("single", ("cat", "dog"))
    found = {split: [(i.id, i.label, i.patient) for i in source.items] for split, source in layout.sources.items()}
    assert found == {"train": [("a", 0, "1"), ("b", 1, "2")], "val": [("c", 0, "")], "test": [("d", -1, "4")]}
    turned = open_layout(tmp_path, classes=("dog", "cat"))
    assert [item.label for item in turned.sources["train"].items] == [1, 0]


def test_numbers_as_classes_are_sorted_as_numbers_and_may_be_given_names(tmp_path):
    table(tmp_path, "path,label\na.png,10\nb.png,2\nc.png,2\nd.png,-1\n")
    layout = open_layout(tmp_path)
    assert layout.classes == ("2", "10")
    assert [item.label for item in layout.sources["all"].items] == [1, 0, 0, -1]
    table(tmp_path, "path,label\na.png,1\nb.png,0\n")
    layout = open_layout(tmp_path, classes=("no", "yes"))
    assert [item.label for item in layout.sources["all"].items] == [1, 0]


def test_a_name_alone_fits_a_file_in_a_folder_if_only_one_has_it(tmp_path):
    text = "name,label\na,0\nb,1\n"
    layout = open_layout(table(tmp_path, text, ("x/a", "y/b")))
    assert [item.id for item in layout.sources["all"].items] == ["x/a", "y/b"]
    table(tmp_path, text, ("z/a",))
    fails(lambda: open_layout(tmp_path, "table"), "cases.csv", "1 of the 2", "'a'")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("path,label\na.png,0\nghost.png,1\nspook.png,1\n", ["2 of the 3", "'ghost.png'"]),
        ("path,label\na.png,0\na.png,1\n", ["'a.png'", "twice"]),
        ("path,label\na.png,0\na,1\n", ["twice"]),
        ("path,text\na.png,hello\n", ["label", "text", "--data.labels"]),
        ("text,label\nhello,1\n", ["path"]),
        ("path,label\na.png,0\nb.png,0\n", ["fewer than two"]),
        ("path,label,split\na.png,0,holdout\nb.png,1,train\n", ["'holdout'", "a.png"]),
        ("path,label\n", ["no rows"]),
        ("path,label\na.png,0,9\n", ["row 2", "3 fields"]),
        ("path,label,label\na.png,0,9\n", ["two columns 'label'"]),
    ],
)
def test_a_bad_table_is_told(tmp_path, text, words):
    table(tmp_path, text)
    fails(lambda: open_layout(tmp_path / "cases.csv", "table"), tmp_path / "cases.csv", *words)


def test_wanted_labels_and_classes_must_be_there(folder, tmp_path):
    fails(lambda: open_layout(folder, labels=("fracture",)), "fracture", "opacity")
    table(tmp_path, "path,label\na.png,cat\nb.png,dog\n")
    fails(lambda: open_layout(tmp_path, classes=("cat", "cow")), "'dog'", "cow")
    table(tmp_path, "path,x,y\na.png,1,2\nb.png,0,1\n")
    fails(lambda: open_layout(tmp_path, labels=("x", "y")), "'2'", "y")
