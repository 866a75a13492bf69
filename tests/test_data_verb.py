"""`medjax data`: what is counted, found and drawn, against data whose contents are known."""

import contextlib
import json
import shutil

import numpy as np
import pytest
from conftest import run_cli, write_blobs
from data import make_layouts
from PIL import Image
from sklearn.metrics import roc_auc_score

from medjax import cli
from medjax.cases import Cases
from medjax.core import Baseline
from medjax.data.inspect import read_all, report
from medjax.data.layouts import find_layouts
from medjax.data.shortcuts import find_shortcuts
from medjax.errors import InputError
from medjax.report.contact import COLUMNS, SIDE, choose_cases, contact_sheet, intensities, thumbnail
from medjax.report.contents import lines, warnings
from medjax.tasks.baselines import header, majority

CLASSES = ("no", "yes")


class Examples:
    """A Source of examples in memory; an exception in place of one is raised when it is asked for."""

    def __init__(self, examples):
        self.examples = examples

    def __len__(self):
        return len(self.examples)

    def __getitem__(self, i):
        if isinstance(self.examples[i], Exception):
            raise self.examples[i]
        return self.examples[i]


def example(name, label, image, patient="", **known):
    return {"id": name, "patient": patient, "label": label, "image": image, "path": f"/data/{name}.png", **known}


def noise(seed, shape=(72, 80), dtype=np.uint8):
    return np.random.default_rng(seed).integers(0, 200, shape).astype(dtype)


def look(tmp_path, classes=CLASSES, baseline=majority, **sources):
    seen = read_all({split: Examples(examples) for split, examples in sources.items()}, tmp_path)
    return seen, report(seen, classes, baseline)


def rates(k, *, multilabel=False):
    """The share of each class among the training cases of the same header: quicker than a forest, and known beforehand."""

    def fit(train, val):
        label = train["label"] if multilabel else np.where(train["label"][:, None] == np.arange(k), 1, 0)
        return {"header": train["header"], "label": label}

    def predict(arrays, cases):
        same = (cases["header"][:, None] == arrays["header"]).all(2)[..., None] & (arrays["label"] >= 0)
        return {"score": (0.5 + (same * arrays["label"]).sum(1)) / (1 + same.sum(1))}

    return Baseline(fit, predict)


def said(record):
    """All that the terminal shows of a record in lines."""
    return "\n".join([*lines(record), *warnings(record)])


# Counting


def test_cases_are_counted_by_split_and_class(tmp_path):
    labels = {"train": [0, 0, 0, 1, -1], "test": [1, 0]}
    seen, record = look(
        tmp_path,
        **{s: [example(f"{s}/{i}", label, noise(i + 10 * len(s))) for i, label in enumerate(of)] for s, of in labels.items()},
    )
    assert list(record["splits"]) == ["train", "test"]
    train, test = record["splits"]["train"], record["splits"]["test"]
    assert train["classes"] == {"no": {"n": 3, "known": 4}, "yes": {"n": 1, "known": 4}}
    assert (train["n"], train["missing"], test["n"], test["missing"]) == (5, 1, 2, 0)
    assert test["classes"]["yes"] == {"n": 1, "known": 2}
    assert record["cases"] == record["read"] == len(seen.cases) == 7
    assert record["images"]["shapes"] == {"72 x 80": 7}
    assert not json.dumps(record).count("NaN")


def test_several_labels_are_counted_by_what_is_known(tmp_path):
    labels = np.array([[1, 0, -1], [1, 1, 0], [0, 0, 0], [-1, -1, -1]], np.int8)
    _, record = look(tmp_path, ("a", "b", "c"), all=[example(str(i), of, noise(i)) for i, of in enumerate(labels)])
    found = record["splits"]["all"]
    assert found["classes"] == {"a": {"n": 2, "known": 3}, "b": {"n": 1, "known": 3}, "c": {"n": 0, "known": 2}}
    assert (found["none"], found["missing"]) == (1, 1)
    assert "all has no case of c" in said({**record, "kind": "multi"})


def test_known_columns_and_quantiles_are_numpys(tmp_path):
    rng = np.random.default_rng(0)
    sizes, ages = rng.integers(40, 99, (40, 2)), rng.uniform(0, 90, 40)
    ages[:4] = np.nan
    _, record = look(
        tmp_path,
        all=[
            example(str(i), i % 2, noise(i, tuple(size)), sex="FM"[i % 4 == 0], age=age, view="" if i < 9 else "PA")
            for i, (size, age) in enumerate(zip(sizes, ages, strict=True))
        ],
    )
    images, known = record["images"], record["known"]
    for name, column in (("height", sizes[:, 0]), ("width", sizes[:, 1])):
        assert list(images[name].values()) == pytest.approx(np.percentile(column, [0, 25, 50, 75, 100]))
    assert known["sex"] == {"F": 30, "M": 10}
    assert known["view"] == {"PA": 31, "": 9}
    assert known["age"]["median"] == pytest.approx(np.nanmedian(ages))
    assert known["age"]["unknown"] == 4
    assert "site" not in known
    of_class = record["classes"]["yes"]
    assert of_class["height"]["median"] == np.median(sizes[1::2, 0])
    assert of_class["sex"] == {"F": 20}


def test_kinds_of_pictures_are_told_apart(tmp_path):
    kinds = [noise(0, (30, 40)), noise(1, (30, 40, 3)), noise(2, (5, 30, 40), np.int16), noise(3, (30, 40)).astype(np.float32)]
    _, record = look(tmp_path, all=[example(str(i), i % 2, image) for i, image in enumerate(kinds)])
    images = record["images"]
    assert images["dtypes"] == {"uint8": 2, "float32": 1, "int16": 1}
    assert images["colour"] == 1
    assert images["shapes"] == {"30 x 40": 3, "5 x 30 x 40": 1}
    assert images["slices"]["max"] == 5
    assert not record["audit"]["near_copies"]["searched"]


# Files that cannot be read


def test_broken_files_are_listed_and_the_others_counted(tmp_path):
    broken = InputError(f"{tmp_path}/no/7.png: is empty (0 bytes)\ncopy the file again")
    nan = example("nan", 0, np.full((40, 40), np.nan, np.float32))
    seen, record = look(tmp_path, all=[*(example(str(i), i % 2, noise(i)) for i in range(5)), broken, nan])
    assert record["read"] == 5
    assert record["broken"][0] == {"id": "case 5 of all", "reason": "no/7.png: is empty (0 bytes)"}
    assert "NaN" in record["broken"][1]["reason"]
    assert "2 of 7 files cannot be read" in warnings(record)[0]
    assert "no/7.png: is empty" in warnings(record)[0]
    assert seen.total == {"all": 7}


def test_a_folder_of_broken_files_is_an_error(tmp_path):
    with pytest.raises(InputError, match=r"none of 3 files can be read; the first: a\.png: is empty"):
        read_all({"all": Examples([InputError(f"{tmp_path}/a.png: is empty")] * 3)}, tmp_path)


def test_an_exception_that_no_reader_should_raise_is_not_hidden(tmp_path):
    with pytest.raises(ZeroDivisionError):
        read_all({"all": Examples([ZeroDivisionError()])}, tmp_path)


def test_a_limit_draws_from_every_split_in_proportion(tmp_path):
    told = []
    sources = {
        "train": Examples([example(f"a{i}", i % 2, noise(i, (8, 8))) for i in range(300)]),
        "test": Examples([example(f"b{i}", i % 2, noise(i, (8, 9))) for i in range(100)]),
    }
    seen = read_all(sources, tmp_path, limit=120, advance=told.append)
    assert len(seen.cases) == sum(told) == 120
    assert len(set(seen.cases["id"])) == 120
    assert (seen.cases["given"] == "train").mean() == pytest.approx(0.75, abs=0.1)
    assert seen.total == {"train": 300, "test": 100}
    again = read_all(sources, tmp_path, limit=120)
    np.testing.assert_array_equal(again.cases["id"], seen.cases["id"])


# Leaks and copies


def test_leaks_and_copies_are_found(tmp_path):
    pictures = [noise(i, (96, 96)) for i in range(12)]
    train = [example(f"train/{i}", i % 2, pictures[i], patient=f"secret-{i}") for i in range(8)]
    test = [example(f"test/{i}", i % 2, pictures[i], patient=f"secret-{i - 3}") for i in range(8, 12)]  # 5 to 8: three shared
    test += [example("test/copy", 1, pictures[0], patient="secret-20")]  # the same picture, called otherwise
    test += [example("test/turned", 1, np.rot90(pictures[1]).copy(), patient="secret-21")]
    seen, record = look(tmp_path, train=train, test=test)
    audit = record["audit"]
    assert audit["leaks"] == {"patients in both train and test": 3, "identical content dropped from train": 1}
    assert audit["identical"] == {"sets": 1, "files": 2}
    assert audit["near_copies"] == {"searched": True, "groups": 2, "files": 4, "largest": 2, "across_splits": 2}
    assert audit["conflicts"] == {"identical content": 1, "near-copies": 1}
    assert record["patients"]["number"] == 11
    assert record["splits"]["train"]["patients"] == 8
    # Three patients, one identical pair and one turned pair join two cases each.
    assert len(np.unique(seen.cases["group"])) == 14 - 5
    text = said(record)
    assert "Leak: 3 patients in both train and test" in text
    assert "2 groups of near-copies" in text
    assert "secret" not in text + json.dumps(record)


def test_unknown_patients_are_said(tmp_path):
    _, record = look(tmp_path, all=[example(str(i), i % 2, noise(i)) for i in range(4)])
    assert record["patients"] == {"number": 0, "cases_without": 4, "cases_each": None}
    assert "Patients are unknown" in said(record)


# Shortcuts


def cases_with(label, group=None, **columns):
    n = len(label)
    return Cases({"label": label, "group": np.arange(n) if group is None else group, "header": np.zeros((n, 2)), **columns})


def test_a_size_that_gives_the_class_away_is_a_shortcut(tmp_path, monkeypatch):
    monkeypatch.setattr("medjax.data.shortcuts.FOLDS", (3,))  # a third of the forests
    _, record = look(
        tmp_path, all=[example(str(i), i % 2, noise(i, (20 + 8 * (i % 2), 24))) for i in range(60)], baseline=header
    )
    assert record["shortcuts"]["size"]["auroc"] == 1
    assert "Shortcut: size, aspect and depth alone" in said(record)
    _, record = look(tmp_path, all=[example(str(i), i % 2, noise(i, (20 + i % 3, 24))) for i in range(60)], baseline=rates)
    assert record["shortcuts"]["size"]["auroc"] < 0.7
    assert "Shortcut" not in said(record)


def test_the_auroc_of_a_sign_that_is_right_four_times_in_five_is_080():
    rng = np.random.default_rng(0)
    label = rng.integers(0, 2, 1000)
    sign = np.where(rng.random(1000) < 0.8, label, 1 - label)
    found = find_shortcuts(cases_with(label, header=np.stack([sign, sign], 1).astype(np.float32)), CLASSES, rates)["size"]
    assert found["auroc"] == pytest.approx(roc_auc_score(label, sign), abs=0.02)
    assert found["ci95"][0] < found["auroc"] < found["ci95"][1]
    assert found["n"] == 1000


def test_what_memory_of_a_patient_gives_does_not_count():
    """Each patient has sizes of its own: without groups in the folds, knowing the patient would give the class away."""
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(60), 5)
    label = rng.integers(0, 2, 60)[group]
    x = np.stack([rng.permutation(60)[group]] * 2, 1).astype(np.float32)
    by_group, by_case = (
        find_shortcuts(cases_with(label, of, header=x), CLASSES, rates)["size"]["auroc"] for of in (group, np.arange(300))
    )
    assert by_case > 0.9
    assert by_group < 0.75


def test_sex_age_view_and_site_are_tried_where_they_are_known():
    rng = np.random.default_rng(0)
    label = rng.integers(0, 3, 300)
    age = 20.0 + 20 * label
    age[::7] = np.nan
    sex, site = np.array(list("FM"))[rng.integers(0, 2, 300)], np.full(300, "A")
    found = find_shortcuts(cases_with(label, sex=sex, age=age, site=site), ("a", "b", "c"), rates)
    assert found["size"] == {"reason": "the same for all cases"}
    assert found["sex and age"]["auroc"] > 0.9
    assert found["sex and age"]["by_class"].keys() == {"a", "b", "c"}
    assert found.keys() == {"size", "sex and age"}  # one site says nothing


def test_several_labels_and_missing_ones():
    rng = np.random.default_rng(0)
    label = rng.integers(0, 2, (300, 3)).astype(np.int8)
    x = label[:, :1].astype(np.float32)
    label[:50, 0], label[:, 2] = -1, 0
    found = find_shortcuts(cases_with(label, header=x), ("a", "b", "c"), rates)["size"]
    assert found["by_class"].keys() == {"a", "b"}
    assert found["by_class"]["a"] == pytest.approx(1, abs=0.01)
    assert found["auroc"] == pytest.approx(np.mean(list(found["by_class"].values())))


def test_where_nothing_can_be_learned_the_auroc_is_one_half(monkeypatch):
    """Pooled over folds it would be 0.47: what a fold lacks, the others have more of. The mean's standard error is 0.005."""
    monkeypatch.setattr("medjax.data.shortcuts.RESAMPLES", 2)
    found = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        label, x = rng.integers(0, 2, (60, 4)).astype(np.int8), rng.integers(0, 3, (60, 1)).astype(np.float32)
        found.append(find_shortcuts(cases_with(label, header=x), ("a", "b", "c", "d"), rates)["size"]["auroc"])
    assert np.mean(found) == pytest.approx(0.5, abs=0.02)


def test_too_few_groups_are_said():
    label = np.array([0] * 20 + [1, 1])
    found = find_shortcuts(cases_with(label, header=label[:, None].astype(np.float32)), CLASSES, rates)["size"]
    assert "too few independent groups" in found["reason"]


# Pictures


def test_the_sheet_shows_one_case_of_each_group():
    label = np.repeat([0, 1, -1], 20)
    group = np.concatenate([np.arange(20) // 10, np.arange(20, 40), np.full(20, 99)])
    chosen = choose_cases(Cases({"label": label, "group": group}), CLASSES)
    assert {name: len(rows) for name, rows in chosen.items()} == {"no": 2, "yes": COLUMNS, "label unknown": 1}
    for rows in chosen.values():
        assert len(set(group[rows])) == len(rows)
    for k, name in enumerate(CLASSES):
        assert (label[chosen[name]] == k).all()


def test_the_sheet_names_all_that_a_case_has(tmp_path):
    labels = np.array([[1, 1], [0, 0], [-1, 0], [0, 1]], np.int8)
    source = Examples([example(str(i), of, noise(i, (40, 30 + i))) for i, of in enumerate(labels)])
    seen = read_all({"all": source}, tmp_path)
    rows = contact_sheet({"all": source}, seen.cases, ("a", "b"), "t").data["rows"]
    assert [row["label"] for row in rows] == ["a", "b", "no finding"]
    assert rows[0]["titles"] == ["a + 1\n40 × 30"]
    assert set(rows[1]["titles"]) == {"b + 1\n40 × 30", "b\n40 × 33"}
    assert rows[2]["titles"] == ["no finding\n40 × 31"]


def test_thumbnails_keep_the_aspect_on_white():
    page = thumbnail({"image": np.full((50, 100), 80, np.uint8)})
    assert page.shape == (SIDE, SIDE, 3)
    inside = (page == 80).all(-1)
    assert inside.sum() == SIDE * SIDE // 2
    assert (page[~inside] == 255).all()
    assert inside[SIDE // 4 : -SIDE // 4].all()


def test_deep_pixels_are_stretched_and_volumes_show_their_middle():
    ramp = np.tile(np.linspace(-1000, 3000, 192), (192, 1))
    page = thumbnail({"image": ramp.astype(np.int16)})[96, :, 0].astype(float)
    low, high = np.percentile(ramp, (0.5, 99.5))
    np.testing.assert_allclose(page, ((ramp[0] - low) / (high - low) * 255).clip(0, 255), atol=1)
    volume = np.arange(7, dtype=np.uint8)[:, None, None] * np.ones((1, 20, 20), np.uint8)
    assert (thumbnail({"image": volume}) == 3).all()
    colour = np.zeros((20, 20, 3), np.uint8)
    colour[...] = (10, 200, 30)
    assert (thumbnail({"image": colour}) == (10, 200, 30)).all()


def test_pixel_values_are_shares_of_each_class():
    rng = np.random.default_rng(0)
    pixels = np.concatenate([np.full((30, 100), 8.0), rng.integers(0, 256, (30, 100))]).astype(np.float32)
    cases = Cases({"label": np.repeat([0, 1], 30), "pixels": pixels, "dtype": np.full(60, "uint8")})
    (figure,) = intensities(cases, CLASSES).values()
    first, second = figure.data["lines"]
    assert first["y"].max() == first["y"].sum() == 100
    assert abs(first["x"][first["y"].argmax()] - 8) <= 2
    np.testing.assert_allclose(second["y"], 100 / 64, atol=1)


def test_kinds_of_numbers_are_drawn_apart():
    pixels = np.random.default_rng(0).normal(0, 1000, (40, 100)).astype(np.float32)
    cases = Cases({"label": np.arange(40) % 2, "pixels": pixels, "dtype": np.repeat(["int16", "float32"], 20)})
    found = intensities(cases, CLASSES)
    assert set(found) == {"intensities_int16", "intensities_float32"}
    widths = np.diff(found["intensities_int16"].data["lines"][0]["x"])
    assert (widths == widths[0]).all()
    assert widths[0] == int(widths[0])
    assert sum(found["intensities_float32"].data["lines"][0]["y"]) == pytest.approx(100)


# The command


@pytest.fixture
def medjax(capsys, monkeypatch, tmp_path):
    """`medjax ARGS` within this process, in a folder of its own -> (exit code, standard output, standard error)."""
    monkeypatch.chdir(tmp_path)

    def call(*args):
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            cli.main([str(a) for a in args])
        out, err = capsys.readouterr()
        return stop.value.code, out, err

    return call


@pytest.fixture
def quick(monkeypatch):
    """Without the forests, which the tests above have grown, and with a short sheet."""
    monkeypatch.setattr("medjax.report.folder.header", majority)
    monkeypatch.setattr("medjax.report.contact.ROWS", 3)


def read_record(folder):
    def refuse(value):
        raise AssertionError(f"{value} is no JSON")

    return json.loads((folder / "data.json").read_text(), parse_constant=refuse)


LAYOUTS = {
    "class_folders": (lambda folder: make_layouts.write_class_folders(folder, 8, splits=("train", "test")), 32, 2),
    "table": (lambda folder: make_layouts.write_table(folder, 24), 24, 2),
    "medmnist": (lambda folder: make_layouts.write_medmnist(folder, "chestmnist"), 51, 14),
    "rsna_pneumonia": (lambda folder: make_layouts.write_rsna_pneumonia(folder, 12), 12, 2),
    "nih_chestxray14": (lambda folder: make_layouts.write_nih(folder, 20), 20, 14),
    "chexpert": (lambda folder: make_layouts.write_chexpert(folder, 20), None, 14),
    "rsna_haemorrhage": (lambda folder: make_layouts.write_rsna_haemorrhage(folder, 24), 24, 6),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_is_told_counted_and_drawn(name, medjax, quick, tmp_path):
    write, n, k = LAYOUTS[name]
    path = write(tmp_path / "set")
    code, out, err = medjax("data", path)
    assert code == 0, err
    folder = tmp_path / out.splitlines()[-1]
    assert folder.parts[-2] == "data-report"
    record = read_record(folder)
    assert record["layout"]["name"] == name
    assert record["layout"]["fits"][name] in out.splitlines()[0]
    assert record["read"] == record["cases"] == (n or record["cases"]) >= 12
    assert not record["broken"]
    assert len(record["classes"]) == k
    # A table that lines up: each row of the first one ends in the same column.
    at = out.splitlines().index(next(line for line in out.splitlines() if line.startswith("Cases by split")))
    rows = out.splitlines()[at + 1 : at + 3 + k]
    assert len({len(row.rstrip()) for row in rows}) == 1, rows
    assert {figure["file"] for figure in record["figures"]} >= {"contact_sheet.png"}
    for figure in record["figures"]:
        with Image.open(folder / figure["file"]) as image:
            assert np.asarray(image.convert("L")).std() > 10
    if name == "rsna_haemorrhage":
        assert record["known"]["modality"] == {"CT": 24}
        assert record["images"]["files"] == {"DICOM": 24}
        assert record["patients"]["number"] == 8
        assert record["images"]["pixel"]["int16"]["min"] < -990
    if name == "nih_chestxray14":
        assert record["patients"]["number"] == 10
        assert record["known"]["view"] == {"AP": 10, "PA": 10}


@pytest.mark.parametrize("flag", ["retinamnist", "nodulemnist3d"])
def test_colour_and_volumes_of_medmnist(flag, medjax, quick, tmp_path):
    code, out, err = medjax("data", make_layouts.write_medmnist(tmp_path / "set", flag), "--out", tmp_path / "out")
    assert code == 0, err
    record = read_record(tmp_path / "out")
    assert record["images"]["colour"] == (51 if flag == "retinamnist" else 0)
    assert record["images"]["shapes"] == {"28 x 28" if flag == "retinamnist" else "28 x 28 x 28": 51}
    assert ("slices" in out) == flag.endswith("3d")


def test_a_few_broken_files_do_not_stop_it(medjax, quick, tmp_path):
    data = write_blobs(tmp_path / "set", n=6)
    (data / "no" / "empty.png").write_bytes(b"")
    (data / "yes" / "text.png").write_text("not a picture at all")
    whole = (data / "yes" / "yes000.png").read_bytes()
    (data / "yes" / "cut.png").write_bytes(whole[: len(whole) // 2])
    code, out, err = medjax("data", data)
    assert code == 0, err
    assert "12 of 15 cases; 3 cannot be read" in out
    assert "3 of 15 files cannot be read" in out
    for name in ("no/empty", "yes/text", "yes/cut"):
        assert name in out
    assert {entry["id"] for entry in read_record(tmp_path / "data-report" / "set")["broken"]} == {
        "no/empty",
        "yes/text",
        "yes/cut",
    }


def test_a_split_file_takes_the_place_of_the_datas_splits(medjax, quick, tmp_path):
    data = make_layouts.write_class_folders(tmp_path / "set", 6)  # two pictures a patient
    names = [f"{name}/{name}{i:03d}" for name in ("normal", "pneumonia") for i in range(6)]
    where = {name: ("train", "test")[i % 2] for i, name in enumerate(names)}  # tears every patient apart
    splits = make_layouts.write_splits(tmp_path / "splits.csv", where)
    code, out, err = medjax("data", data, "--splits", splits)
    assert code == 0, err
    record = read_record(tmp_path / "data-report" / "set")
    assert {split: of["n"] for split, of in record["splits"].items()} == {"train": 6, "test": 6}
    assert record["audit"]["leaks"] == {"patients in both train and test": 6}
    assert "Leak: 6 patients in both train and test" in out
    code, _, err = medjax("data", data, "--splits", splits, "--limit", "5")
    assert code == 1
    assert "--limit 12" in err


def test_a_limit_is_said(medjax, quick, tmp_path):
    data = write_blobs(tmp_path / "set", n=10)
    code, out, err = medjax("data", data, "--limit", "8")
    assert code == 0, err
    assert "8 of 20 cases were drawn at random" in out
    record = read_record(tmp_path / "data-report" / "set")
    assert (record["read"], record["cases"]) == (8, 20)


def test_mistakes_are_told_in_two_lines(medjax, quick, tmp_path):
    data = write_blobs(tmp_path / "set", n=4)
    empty, mine = tmp_path / "empty", tmp_path / "mine"
    for folder in (empty, mine):
        folder.mkdir()
    (mine / "notes.txt").write_text("mine")
    for args, said, expected in [
        ((empty,), "class_folders", 1),
        ((tmp_path / "nowhere",), "no such file or folder", 1),
        ((data, "--layout", "class_folder"), "'class_folders'", 1),
        ((data, "--out", mine), "mine: exists", 1),
        ((data, "--limit", "0"), "must be 1 or more", 2),
        ((data, "--splits", tmp_path / "none.json"), "none.json", 1),
    ]:
        code, out, err = medjax("data", *args)
        assert code == expected, args
        assert said in err
        told = err.strip().splitlines()
        assert 1 <= len(told) <= 2 + (args == (empty,)) * len(find_layouts()), err
        assert not out
    assert [f.name for f in mine.iterdir()] == ["notes.txt"]
    assert not (tmp_path / "data-report").exists()


def test_looking_again_replaces_what_it_wrote(medjax, quick, tmp_path):
    data = write_blobs(tmp_path / "set", n=4)
    for n in (8, 7):
        code, _, err = medjax("data", data, "--out", tmp_path / "out")
        assert code == 0, err
        assert read_record(tmp_path / "out")["read"] == n
        with contextlib.suppress(FileNotFoundError):
            (data / "no" / "no000.png").unlink()


def test_the_command_as_users_call_it(tmp_path):
    data = write_blobs(tmp_path / "set", n=12)
    shutil.copy(data / "yes" / "yes000.png", data / "yes" / "again.png")
    done = run_cli("data", data, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == str(tmp_path / "out")
    assert "identical content: 2 files in 1 group(s)" in done.stdout
    assert sorted(f.name for f in (tmp_path / "out").iterdir()) == ["contact_sheet.png", "data.json", "intensities.png"]


def test_volumes_in_class_folders(medjax, quick, tmp_path):
    nibabel = pytest.importorskip("nibabel")
    rng = np.random.default_rng(0)
    for name in CLASSES:
        (tmp_path / "set" / name).mkdir(parents=True)
        for i in range(3):
            voxels = rng.integers(-1000, 1000, (20, 24, 10)).astype(np.int16)
            nibabel.save(
                nibabel.Nifti1Image(voxels, np.diag([1.0, 1.0, 2.0, 1.0])), tmp_path / "set" / name / f"{name}{i}.nii.gz"
            )
    code, out, err = medjax("data", tmp_path / "set")
    assert code == 0, err
    record = read_record(tmp_path / "data-report" / "set")
    assert record["images"]["files"] == {"NIfTI": 6}
    assert record["images"]["dtypes"] == {"int16": 6}
    assert record["images"]["slices"]["max"] > 1
    assert "near-copies: not searched" in out
