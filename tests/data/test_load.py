import json

import numpy as np
import pytest
from PIL import Image
from toy import Known, Source, examples, fails, job, keep, silent

from medjax.config import Data
from medjax.data.folders import class_folders
from medjax.data.load import load, load_folds, load_one
from medjax.data.prepare import prepare
from medjax.errors import InputError


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDJAX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "prepared"


def left(cache):
    return sorted(f.name for f in cache.iterdir()) if cache.is_dir() else []


def test_load_keeps_patients_and_copies_on_one_side():
    rows = examples(60)
    rows += [{**rows[i], "id": f"copy/{i:03d}", "patient": "", "image": np.rot90(rows[i]["image"])} for i in range(10)]
    data = load(job({"all": Source(rows)}), Data(), silent)
    assert sum(len(c) for c in data.cases.values()) == 70
    groups = [set(c["group"]) for c in data.cases.values()]
    assert not groups[0] & groups[1] | groups[0] & groups[2] | groups[1] & groups[2]
    patients = [set(c["patient"]) - {""} for c in data.cases.values()]
    assert not patients[0] & patients[1] | patients[0] & patients[2] | patients[1] & patients[2]
    assert data.audit["near_copies"] == {"groups": 10, "files": 20, "largest": 2, "search": "in any orientation"}
    assert data.audit["leaks"] == {}
    assert data.audit["notes"] == []
    again = load(job({"all": Source(rows)}), Data(), silent)
    assert all(again.cases[s]["id"].tolist() == data.cases[s]["id"].tolist() for s in data.cases)


def test_the_audit_does_not_claim_a_search_that_was_not_made():
    rows = examples(60, shape=(32, 32))
    audit = load(job({"all": Source(rows)}), Data(), silent).audit
    assert audit["near_copies"]["search"].startswith("not searched, since")
    audit = load(job({"all": Source(examples(60))}), Data(near_copies="upright"), silent).audit
    assert audit["near_copies"]["search"] == "upright only"


def test_copies_of_other_labels_are_noted():
    rows = examples(60)
    rows[7] = {**rows[7], "image": rows[4]["image"]}
    notes = load(job({"all": Source(rows)}), Data(), silent).audit["notes"]
    assert notes == [f"1 set(s) of {what} carry different labels" for what in ("identical content", "near-copies")]


def test_a_split_that_loses_all_its_cases_stops():
    rows = examples(40)
    given = {"train": rows[:10], "val": rows[20:30], "test": [{**e, "id": f"t{e['id']}"} for e in rows[:10]]}
    sources = {split: Source([{**e, "patient": ""} for e in part]) for split, part in given.items()}
    fails(lambda: load(job(sources), Data(), silent), "train split is empty")


def test_a_training_split_of_one_class_stops():
    rows = examples(40)
    sources = {"train": Source(rows[:20:2]), "val": Source(rows[20:30]), "test": Source(rows[30:])}
    fails(lambda: load(job(sources), Data(), silent), "only the class 'a'")


def test_one_split_or_all_of_it():
    rows = examples(40)
    sources = {"train": Source(rows[:20]), "test": Source(rows[20:])}
    data = load_one(job(sources), Data(), "test", silent)
    assert data.cases["test"]["id"].tolist() == [e["id"] for e in rows[20:]]
    assert data.audit["notes"] == []
    data = load_one(job(sources), Data(), "val", silent)
    assert len(data.cases["val"]) == 40
    assert any("no split 'val'" in note for note in data.audit["notes"])


# Several labels ------------------------------------------------------------------------------------------------------------


FINDINGS = ("common", "rare", "never")


def findings(n=60, *, seed=0, shape=(16, 16)):
    """Examples with labels int8 [3]: half, a tenth and none positive, some missing."""
    rng = np.random.default_rng(seed)
    made = []
    for i, e in enumerate(examples(n, shape=shape, seed=seed)):
        label = np.array([rng.random() < 0.5, i % 10 == 0, 0], np.int8)
        label[rng.random(3) < 0.1] = -1
        made.append({**e, "label": label, "sex": "FM"[i % 2], "age": 20.0 + i if i else np.nan})
    return made


def test_several_labels_and_what_is_known_of_a_patient_stay_columns():
    rows = findings()
    prepared = prepare({"all": Source(rows)}, keep)
    assert prepared.cases["label"].dtype == np.int8
    np.testing.assert_array_equal(prepared.cases["label"], [e["label"] for e in rows])
    assert prepared.cases["sex"].tolist() == [e["sex"] for e in rows]
    np.testing.assert_array_equal(prepared.cases["age"], [e["age"] for e in rows])
    other = [{**e, "label": e["label"].copy()} for e in rows]
    other[3]["label"][0] = 1 - max(other[3]["label"][0], 0)
    assert prepare({"all": Source(other)}, keep).fingerprint != prepared.fingerprint


def test_the_same_picture_of_patients_of_another_age_is_the_same_content():
    rows = findings(4)
    rows[1] = {**rows[0], "id": "again", "age": 77.0, "sex": "M"}
    content = prepare({"all": Source(rows)}, keep).cases["content"]
    assert content[0] == content[1]
    assert len(set(content)) == 3
    # Where there is no picture, an age is content like any other number.
    table = [{"id": str(i), "label": 0, "age": float(i)} for i in range(3)]
    assert len(set(prepare({"all": Source(table)}, keep).cases["content"])) == 3


def test_several_labels_are_split_by_patient_with_the_rare_one_in_every_part():
    data = load(job({"all": Source(findings(400))}, FINDINGS), Data(), silent)
    shares = [len(cases) / 400 for cases in data.cases.values()]
    np.testing.assert_allclose(shares, Data().fractions, atol=0.02)
    for k in range(2):
        positive = [(cases["label"][:, k] == 1).mean() for cases in data.cases.values()]
        assert max(positive) - min(positive) < 0.15
        assert min(positive) > 0
    patients = [set(cases["patient"]) for cases in data.cases.values()]
    assert not patients[0] & patients[1] | patients[0] & patients[2] | patients[1] & patients[2]
    assert data.audit["notes"] == ["no positive case in the training split: never"]


def test_several_labels_can_be_cross_validated():
    folds = load_folds(job({"all": Source(findings(120))}, FINDINGS), Data(), 4, silent)
    held = np.concatenate([data.cases["cv"]["id"] for data in folds])
    assert sorted(held) == [e["id"] for e in findings(120)]
    assert all((data.cases["cv"]["label"] == 1).any(0)[:2].all() for data in folds)


def test_labels_that_do_not_fit_the_classes_are_refused():
    rows = findings(30)
    fails(lambda: load(job({"all": Source(rows)}, ("a", "b")), Data(), silent), "3 labels for 2 classes")
    rows[4]["label"] = np.array([2, 0, 0], np.int8)
    fails(lambda: load(job({"all": Source(rows)}, FINDINGS), Data(), silent), "case/004", "label 2 is outside 0 to 1")
    none = [{**e, "label": np.array([1, -1, 0], np.int8)} for e in rows]
    fails(lambda: load(job({"all": Source(none)}, FINDINGS), Data(), silent), "both positive and negative")


# Files that cannot be read -------------------------------------------------------------------------------------------------


@pytest.fixture
def broken(tmp_path):
    """200 pictures of 160 independent cases in two class folders, three of them unreadable, the first of all among them."""
    rng = np.random.default_rng(0)
    for i in range(200):
        folder = tmp_path / "data" / "ab"[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (9, 7), np.uint8)).save(folder / f"{i:03d}.png")
    bad = [tmp_path / "data" / "a" / "000.png", tmp_path / "data" / "a" / "100.png", tmp_path / "data" / "b" / "101.png"]
    bad[0].write_bytes(b"")
    bad[1].write_bytes(bad[1].read_bytes()[:-15])
    bad[2].write_text("no picture")
    return tmp_path / "data"


def test_a_bad_file_stops_or_is_skipped_and_listed(broken, own_cache):
    fails(lambda: prepare(class_folders(broken), keep), "a/000.png")
    assert left(own_cache) == []
    said = []
    prepared = prepare(class_folders(broken), keep, on_error="skip", say=said.append)
    assert [name for name, _ in prepared.skipped] == ["a/000", "a/100", "b/101"]
    assert all(reason and str(broken) not in reason for _, reason in prepared.skipped)
    assert any("skipped 3 of 200" in line for line in said)
    cases = prepared.cases
    assert len(cases) == 197
    assert {len(column) for column in cases.columns.values()} == {197}
    for i in (0, 50, 98, 99, 196):
        truth = np.array(Image.open(broken / f"{cases['id'][i]}.png"))
        np.testing.assert_array_equal(cases["image"][i], truth)
    # The file on disk is as short as the header says.
    path = prepared.folder / "image.npy"
    np.testing.assert_array_equal(np.load(path), cases["image"])
    assert path.stat().st_size == 128 + 197 * 9 * 7
    again = prepare(class_folders(broken), keep, on_error="skip")
    assert again.skipped == prepared.skipped
    assert again.folder == prepared.folder
    fails(lambda: prepare(class_folders(broken), keep), "a/000.png")  # the skipping cache does not serve the strict
    data = load(job(class_folders(broken)), Data(on_error="skip"), silent)
    assert sum(map(len, data.cases.values())) == 197
    assert data.audit["skipped"]["count"] == 3
    assert data.audit["skipped"]["first"][0].startswith("a/000: ")
    assert data.skipped == prepared.skipped


def test_only_the_first_twenty_are_shown_and_over_half_still_stops(broken):
    files = sorted(broken.rglob("*.png"))
    for file in files[:30]:
        file.write_bytes(b"")
    data = load(job(class_folders(broken)), Data(on_error="skip"), silent)
    assert data.audit["skipped"]["count"] == 32
    assert len(data.audit["skipped"]["first"]) == 20
    assert len(data.skipped) == 32
    for file in files[:101]:
        file.write_bytes(b"")
    fails(lambda: prepare(class_folders(broken), keep, on_error="skip"), "more than half of 200", "a/000")


def test_preprocessing_that_refuses_a_case_is_skipped_too_but_not_a_mistake_in_the_code(own_cache):
    def picky(e):
        if e["id"] == "case/003":
            raise InputError("case/003: too dark\ntake another")
        return e

    prepared = prepare({"all": Source(examples())}, picky, on_error="skip")
    assert prepared.skipped == (("case/003", "too dark"),)
    assert prepared.cases["id"].tolist() == [f"case/{i:03d}" for i in (0, 1, 2, 4, 5)]
    assert prepared.cases["near"].tolist() == list(range(5))

    def wrong(e):
        return {**e, "image": e["image"][: 60 + int(e["id"][-1])]}

    fails(lambda: prepare({"all": Known(examples(), "y")}, wrong, on_error="skip"), "case/001", "image")
    assert len(left(own_cache)) == 1


# A user's split file --------------------------------------------------------------------------------------------------------


def places(data):
    return {str(name): split for split, cases in data.cases.items() for name in cases["id"]}


@pytest.mark.parametrize("kind", ["id.csv", "path.csv", "patient.csv", "ids.json"])
def test_a_users_file_says_which_case_stands_where(tmp_path, kind):
    rows = examples(40)
    split = {e["id"]: ("test", "train", "train", "val")[i // 2 % 4] for i, e in enumerate(rows)}
    file = tmp_path / kind
    if kind == "ids.json":
        spoken = {"testing": "test", "Train": "train", "valid": "val"}
        file.write_text(json.dumps({word: [k for k, s in split.items() if s == name] for word, name in spoken.items()}))
    elif kind == "patient.csv":
        of = {e["patient"]: split[e["id"]] for e in rows}
        file.write_text("\n".join(["patient_id,split", *map(",".join, of.items())]))
    else:
        ending = ".png" if kind == "path.csv" else ""
        file.write_text("\n".join([f"{kind[:-4]},split", *(f"{k}{ending},{s}" for k, s in split.items())]))
    # The data's own splits do not count.
    sources = {"train": Source(rows[:20]), "test": Source(rows[20:])}
    settings = Data(splits=str(file))
    assert places(load(job(sources), settings, silent)) == split
    assert places(load_one(job(sources), settings, "test", silent)) == {k: s for k, s in split.items() if s == "test"}
    folds = load_folds(job(sources), settings, 3, silent)
    assert all(set(data.cases["test"]["id"]) == {k for k, s in split.items() if s == "test"} for data in folds)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("id,split\ncase/000,train\nghost,test\n", ["1 of its 2 names", "'ghost'", "case/000"]),
        ("id,split\ncase/000,train\ncase/001,test\n", ["no split for 38 of 40", "'case/002'"]),
        ("id,split\ncase/000,train\ncase/000,test\n", ["'case/000'", "train", "test"]),
        ("id,split\ncase/000,holdout\n", ["'holdout'", "case/000"]),
        ("id,split\ncase/000,\n", ["row 2"]),
        ("name_of,split\ncase/000,train\n", ["id", "name_of"]),
        ("id,part\ncase/000,train\n", ["split", "part"]),
        ('{"train": "case/000"}', ["{split: [ids]}"]),
        ('["case/000"]', ["{split: [ids]}"]),
        ("{", ["JSON"]),
    ],
)
def test_a_split_file_that_does_not_fit_is_told(tmp_path, text, words):
    file = tmp_path / ("s.json" if text[0] in "{[" else "s.csv")
    file.write_text(text)
    fails(lambda: load(job({"all": Source(examples(40))}), Data(splits=str(file)), silent), file, *words)
    fails(lambda: load(job({"all": Source(examples(40))}), Data(splits=str(tmp_path / "no.csv")), silent), "no.csv")


def test_a_split_file_may_name_cases_that_were_skipped(tmp_path, broken):
    ids = [f"{f.parent.name}/{f.stem}" for f in sorted(broken.rglob("*.png"))]
    split = {name: ("train", "train", "val", "test")[i % 4] for i, name in enumerate(ids)}
    file = tmp_path / "s.csv"
    file.write_text("\n".join(["id,split", *map(",".join, split.items())]))
    data = load(job(class_folders(broken)), Data(splits=str(file), on_error="skip"), silent)
    assert places(data) == {name: where for name, where in split.items() if name not in ("a/000", "a/100", "b/101")}


def test_a_split_file_of_other_data_says_nothing_when_a_run_is_measured_elsewhere(tmp_path):
    file = tmp_path / "s.csv"
    file.write_text("id,split\nelsewhere/1,train\nelsewhere/2,test\n")
    data = load_one(job({"test": Source(examples(8))}), Data(splits=str(file)), "test", silent)
    assert len(data.cases["test"]) == 8


def test_a_split_without_a_group_of_its_own_is_told():
    rows = [{**e, "patient": "one"} for e in findings(30)]
    fails(lambda: load(job({"all": Source(rows)}, FINDINGS), Data(), silent), "split is empty", "1 group")
