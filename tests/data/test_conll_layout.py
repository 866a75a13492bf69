"""CoNLL files in their true encodings, whole and broken."""

import numpy as np
import pytest
from toy import fails

from medjax.data.layouts import conll, detect, open_layout

TRAIN = "Ärztin\tO\nsah\tO\nM\tB-Disease\n.\tI-Disease\nAddison\tI-Disease\n\nnothing\tO\n\nACE\tB-Drug\n"


def write(folder, **files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / f"{name}.tsv").write_bytes(text.encode() if isinstance(text, str) else text)
    return folder


def spans_of(source):
    return [[tuple(s) for s in source[i]["spans"].array.tolist()] for i in range(len(source))]


def test_sentences_with_offsets_and_splits(tmp_path):
    folder = write(tmp_path / "x", train=TRAIN, devel="a\tO\n", test="b\tO\n")
    assert list(detect(folder)) == ["conll"]
    layout = open_layout(folder)
    assert (layout.kind, layout.classes, layout.texts) == ("spans", ("Disease", "Drug"), ("text",))
    assert {split: len(source) for split, source in layout.sources.items()} == {"train": 3, "val": 1, "test": 1}
    train = layout.sources["train"]
    first = train[0]
    assert (first["id"], first["text"]) == ("train/1", "Ärztin sah M . Addison")
    begin, end, of = first["spans"].array[0]
    assert (first["text"][begin:end], layout.classes[of]) == ("M . Addison", "Disease")
    assert [first["text"][a:b] for a, b in first["tokens"].array.tolist()] == first["text"].split()
    assert [train[i]["label"].tolist() for i in range(3)] == [[1, 0], [0, 0], [0, 1]]
    assert [train.case_id(i) for i in range(3)] == ["train/1", "train/7", "train/9"]
    assert not train.tally()


def test_windows_ends_a_mark_and_unicode_blanks_change_nothing(tmp_path):
    plain = open_layout(write(tmp_path / "a", train=TRAIN)).sources["train"]
    other = open_layout(write(tmp_path / "b", train=b"\xef\xbb\xbf" + TRAIN.replace("\n", "\r\n").encode())).sources["train"]
    assert [plain[i]["text"] for i in range(3)] == [other[i]["text"] for i in range(3)]
    assert spans_of(plain) == spans_of(other)
    odd = open_layout(write(tmp_path / "c", train="a\u2028b\tB-x\n")).sources["train"]
    assert odd[0]["text"] == "a\u2028b"


@pytest.mark.parametrize(
    ("tags", "spans", "broken"),
    [
        ("B-x I-x O", [(0, 3, 0)], 0),
        ("B-x E-x S-x", [(0, 3, 0), (4, 5, 0)], 0),
        ("B-x L-x U-x", [(0, 3, 0), (4, 5, 0)], 0),
        ("B-x O I-x", [(0, 1, 0), (4, 5, 0)], 1),  # mended, and counted
        ("I-x B-x O", [(0, 1, 0), (2, 3, 0)], 0),  # IOB1: B only behind another of its type
    ],
)
def test_schemes(tmp_path, tags, spans, broken):
    text = "".join(f"{token} {tag}\n" for token, tag in zip("abc", tags.split()))
    source = open_layout(write(tmp_path / "x", train=text)).sources["train"]
    assert spans_of(source) == [spans]
    assert sum(source.tally().values()) == broken


def test_documents_are_groups_and_columns_between_are_left_out(tmp_path):
    text = "-DOCSTART- -X- O O\n\na NN I-NP O\n\nb NN I-NP B-x\n\n-DOCSTART- -X- O O\n\nc NN I-NP B-x\n"
    source = open_layout(write(tmp_path / "x", train=text)).sources["train"]
    assert [source[i]["patient"] for i in range(3)] == ["train/1", "train/1", "train/2"]
    assert [source[i]["text"] for i in range(3)] == ["a", "b", "c"]


def test_one_file_is_split_by_medjax(tmp_path):
    layout = open_layout(write(tmp_path / "x", anything=TRAIN) / "anything.tsv")
    assert list(layout.sources) == ["all"]


def test_types_in_a_given_order(tmp_path):
    folder = write(tmp_path / "x", train=TRAIN)
    assert open_layout(folder, classes=("Drug", "Disease")).classes == ("Drug", "Disease")
    fails(lambda: open_layout(folder, classes=("Drug",)), "Disease", "--data.classes")


def test_unlabelled_tokens_are_read_for_prediction(tmp_path):
    file = write(tmp_path / "x", train="a\nb\n\nc\n") / "train.tsv"
    layout = conll.sources(file, classes=("x",), unlabelled=True)
    assert [layout.sources["all"][i]["text"] for i in range(2)] == ["a b", "c"]
    assert (np.stack([layout.sources["all"][i]["label"] for i in range(2)]) == -1).all()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a\tO\nb\n", ("row 2", "no tag")),
        ("a\tO\nb\tDisease\n", ("row 2", "'Disease'")),
        ("a\tO\n", ("every tag is O",)),
        (b"\xe4\tO\n", ("not UTF-8", "iconv")),
    ],
)
def test_bad_files_are_named(tmp_path, text, says):
    folder = write(tmp_path / "x", train=text)
    fails(lambda: open_layout(folder, "conll"), "train.tsv", *says)


def test_no_files_are_said(tmp_path):
    (tmp_path / "x").mkdir()
    fails(lambda: open_layout(tmp_path / "x", "conll"), "no file of tagged tokens")


@pytest.mark.realdata
def test_the_disease_corpus(real_data):
    layout = open_layout(real_data / "ncbi_disease")
    assert {split: len(source) for split, source in layout.sources.items()} == {"train": 5424, "val": 923, "test": 940}
    assert layout.classes == ("Disease",)
    assert sum(len(of) for of in spans_of(layout.sources["test"])) == 960
