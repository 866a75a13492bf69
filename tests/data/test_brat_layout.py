"""BRAT and i2b2 2010 in their true encodings: offsets, gaps, overlaps, and what is broken."""

import pytest
from toy import fails

from medjax.data.layouts import brat, detect, i2b2, open_layout

TEXT = "Ménière's disease\nand β-blocker 💊 for asthma.\n"


def write(folder, files):
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(text.encode())
    return folder


def names(layout, split="all"):
    source = layout.sources[split]
    return [
        [(source[i]["text"][a:b], layout.classes[of]) for a, b, of in source[i]["spans"].array.tolist()]
        for i in range(len(source))
    ]


def line(number, kind, phrase, text=TEXT, places=None):
    at = text.index(phrase)
    return f"T{number}\t{kind} {places or f'{at} {at + len(phrase)}'}\t{phrase}\n"


def test_brat_offsets_count_characters_behind_signs_of_two_bytes(tmp_path):
    ann = line(1, "Disease", "Ménière's disease") + line(2, "Drug", "β-blocker") + line(3, "Disease", "asthma")
    ann += "R1\tCauses Arg1:T1 Arg2:T2\n#1\tAnnotatorNotes T1\tno\n"
    folder = write(tmp_path / "x", {"train/a.txt": TEXT, "train/a.ann": ann, "dev/b.txt": "Nothing.", "dev/b.ann": ""})
    assert list(detect(folder)) == ["brat"]
    layout = open_layout(folder)
    assert (layout.kind, layout.classes) == ("spans", ("Disease", "Drug"))
    assert names(layout, "train") == [[("Ménière's disease", "Disease"), ("β-blocker", "Drug"), ("asthma", "Disease")]]
    assert names(layout, "val") == [[]]
    assert layout.sources["train"].case_id(0) == "train/a"
    assert names(open_layout(folder, classes=("Drug",)), "train") == [[("β-blocker", "Drug")]]


def test_brat_gaps_and_overlaps_are_taken_by_rule_and_counted(tmp_path):
    ann = line(1, "a", "for") + "T2\ta 18 21;34 40\tand asthma\n" + line(3, "b", "β-blocker")
    at = TEXT.index("asthma")
    ann = ann.replace("34 40", f"{at} {at + 6}")
    layout = open_layout(write(tmp_path / "x", {"a.txt": TEXT, "a.ann": ann}))
    assert names(layout) == [[("and β-blocker 💊 for asthma", "a")]]
    assert layout.sources["all"].tally() == {(brat.GAPS, ""): 1, (brat.OVERLAP, ""): 2}


def test_line_ends_of_windows_count_as_two(tmp_path):
    text = TEXT.replace("\n", "\r\n")
    folder = write(tmp_path / "x", {"a.txt": text, "a.ann": line(1, "a", "asthma", text).replace("\n", "\r\n")})
    assert names(open_layout(folder)) == [[("asthma", "a")]]


@pytest.mark.parametrize(
    ("ann", "says"),
    [
        ("T1\tDisease x 5\tMé\n", ("row 1", "no entity")),
        ("T1\tDisease 0 500\tMé\n", ("row 1", "0 to 500", "46")),
        ("\nT1\tDisease 1 3\tMé\n", ("row 2", "not what the row says")),
        ("", ("no .ann file has an entity",)),
    ],
)
def test_broken_brat_is_named(tmp_path, ann, says):
    folder = write(tmp_path / "x", {"a.txt": TEXT, "a.ann": ann})
    fails(lambda: open_layout(folder, "brat"), *says)


def test_a_text_without_annotations_is_named(tmp_path):
    folder = write(tmp_path / "x", {"a.txt": TEXT, "a.ann": line(1, "a", "asthma"), "b.txt": "b"})
    fails(lambda: open_layout(folder), "b.txt", "b.ann")
    layout = brat.sources(folder / "b.txt", classes=("a",), unlabelled=True)
    assert "spans" not in layout.sources["all"][0]
    assert layout.sources["all"][0]["label"].tolist() == [-1]


NOTE = "Admission Date :\n2010\nHe has  asthma , no\xa0fever\nand takes Aspirin daily .\n"
CON = 'c="asthma" 3:2 3:2||t="problem"\nc="aspirin daily" 4:2 4:3||t="treatment"\n'


def test_i2b2_places_are_lines_and_tokens(tmp_path):
    folder = write(tmp_path / "x", {"train/concept/a.con": CON, "train/txt/a.txt": NOTE, "test/txt/b.txt": NOTE})
    write(folder, {"test/concept/b.con": 'c="no\xa0fever" 3:4 3:4||t="problem"\r\n'})
    assert list(detect(folder)) == ["i2b2"]
    layout = open_layout(folder)
    assert layout.classes == ("problem", "treatment")
    assert names(layout, "train") == [[("asthma", "problem"), ("Aspirin daily", "treatment")]]
    assert names(layout, "test") == [[("no\xa0fever", "problem")]]
    example = layout.sources["train"][0]
    assert example["text"] == NOTE
    words = [
        "Admission",
        "Date",
        ":",
        "2010",
        "He",
        "has",
        "asthma",
        ",",
        "no\xa0fever",
        "and",
        "takes",
        "Aspirin",
        "daily",
        ".",
    ]
    assert [NOTE[a:b] for a, b in example["tokens"].array.tolist()] == words


@pytest.mark.parametrize(
    ("con", "says"),
    [
        ('c="asthma" 3:2||t="problem"\n', ("row 1", "no concept")),
        ('c="asthma" 3:20 3:20||t="problem"\n', ("row 1", "3:20")),
        ('c="asthma" 0:0 0:0||t="problem"\n', ("row 1", "0:0")),
        ('c="asthma" 3:0 3:0||t="problem"\n', ("row 1", "something else")),
    ],
)
def test_broken_i2b2_is_named(tmp_path, con, says):
    folder = write(tmp_path / "x", {"concept/a.con": con, "txt/a.txt": NOTE})
    fails(lambda: open_layout(folder, "i2b2"), "a.con", *says)


def test_i2b2_without_notes_is_named(tmp_path):
    folder = write(tmp_path / "x", {"concept/a.con": CON})
    fails(lambda: open_layout(folder, "i2b2"), "a.con", "a.txt")
    note = write(tmp_path / "y", {"n.txt": NOTE}) / "n.txt"
    assert "spans" not in i2b2.sources(note, classes=("problem",), unlabelled=True).sources["all"][0]
