"""Sets prepared through tensorflow-datasets: the pixels, labels and text that come back are those that went in, bit for bit."""

import concurrent.futures
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
import tracemalloc

import numpy as np
import pytest
from make_layouts import write_medmnist
from web import PROXIES, serve

from medjax.data.builders import medmnist, records
from medjax.data.builders.medmnist import load_medmnist
from medjax.data.builders.medmnist_sets import SETS, MedSet, file_name
from medjax.data.builders.records import read_records, write_records
from medjax.data.layouts import medmnist as medmnist_layout
from medjax.data.prepare import prepare
from medjax.errors import InputError

tfds = pytest.importorskip("tensorflow_datasets")
pytest.importorskip("array_record")


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDJAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("medjax.data.download.WAITS", (0.01,))
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "cache"


def silent(text):
    pass


class Made:
    """A Source of given examples that counts how often it is asked."""

    def __init__(self, examples, name="made"):
        self.examples, self.name, self.asked = examples, name, 0

    def __len__(self):
        return len(self.examples)

    def __getitem__(self, i):
        self.asked += 1
        return self.examples[i]

    def identity(self):
        yield self.name


def case(i, **changes):
    rng = np.random.default_rng(i)
    image = rng.integers(0, 2**16, (5 + i % 3, 7 + i % 2), dtype=np.uint16)
    return {"id": f"a/{i:03d}", "patient": f"P{i // 2}", "label": i % 3, "image": image, "path": "/x/y.png"} | changes


def same(found, wanted):
    """Equal in value, type, dtype and shape, NaN included."""
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        if isinstance(value, np.ndarray):
            assert found[name].dtype == value.dtype.newbyteorder("=")
            np.testing.assert_array_equal(found[name], value)
        else:
            assert type(found[name]) is type(value)
            assert found[name] == value or value != value


# MedMNIST


@pytest.mark.parametrize(
    ("flag", "size", "kind"),
    [
        ("pneumoniamnist", 28, "single"),
        ("pathmnist", 64, "single"),
        ("retinamnist", 28, "ordinal"),
        ("chestmnist", 28, "multi"),
        ("organmnist3d", 28, "single"),
    ],
)
def test_a_medmnist_file_comes_back_bit_for_bit(tmp_path, flag, size, kind):
    path = write_medmnist(tmp_path, flag, size=size)
    layout = load_medmnist(flag, size, path=path, say=silent)
    assert layout.kind == kind
    assert layout.classes == medmnist_layout.CLASSES[flag]
    assert list(layout.sources) == ["train", "val", "test"]
    with np.load(path, allow_pickle=False) as file:
        for split, source in layout.sources.items():
            images, labels = file[f"{split}_images"], file[f"{split}_labels"]
            assert len(source) == len(images)
            for i in (0, len(images) - 1, len(images) // 2):  # in no order
                label = labels[i].astype(np.int8) if kind == "multi" else int(labels[i, 0])
                found = source[i]
                assert found.pop("path").endswith(f": {split}/{i:05d}")
                same(found, {"id": f"{split}/{i:05d}", "patient": "", "label": label, "image": images[i]})
    assert "not the published file" in layout.about
    assert SETS[flag].licence in layout.about


def test_training_sees_the_same_data_as_from_the_file(tmp_path):
    path = write_medmnist(tmp_path, "chestmnist")
    direct = prepare(medmnist_layout.sources(path).sources, lambda example: example)
    through = prepare(load_medmnist("chestmnist", path=path, say=silent).sources, lambda example: example)
    assert through.fingerprint == direct.fingerprint
    np.testing.assert_array_equal(through.cases["image"], direct.cases["image"])


def test_every_set_and_size_has_a_config():
    from medjax.data.builders.medmnist_builder import MedMNIST

    assert len(SETS) == 18
    assert SETS.keys() == medmnist_layout.CLASSES.keys()
    flat = sorted(f for f in SETS if not f.endswith("3d"))
    assert (len(flat), {tuple(SETS[f].md5) for f in flat}) == (12, {(28, 64, 128, 224)})
    assert {tuple(SETS[f].md5) for f in SETS if f not in flat} == {(28, 64)}
    sums = [md5 for made in SETS.values() for md5 in made.md5.values()]
    assert len(set(sums)) == 60
    assert all(len(md5) == 32 and int(md5, 16) for md5 in sums)
    assert set(MedMNIST.builder_configs) == {f"{flag}_{size}" for flag, made in SETS.items() for size in made.md5}


@pytest.fixture
def published(tmp_path, monkeypatch):
    """A small set in the place of PneumoniaMNIST: its file."""
    path = write_medmnist(tmp_path / "archive")
    made = MedSet({28: medmnist.checksum(path)})
    monkeypatch.setattr(medmnist, "SETS", {"pneumoniamnist": made})
    return path


def archive(monkeypatch, url):
    monkeypatch.setattr(medmnist, "ARCHIVE", url.rpartition("/")[0])


def test_a_set_is_downloaded_and_prepared_once(published, own_cache, monkeypatch):
    said = []
    with serve(content=published.read_bytes(), cut_at=(10_000,)) as (url, asked):
        archive(monkeypatch, url)
        layout = load_medmnist("pneumoniamnist", say=said.append)
    assert asked == [None, "bytes=10000-"]
    assert layout.about == "MedMNIST v2, pneumoniamnist at 28 pixels (CC BY 4.0)"
    with np.load(published, allow_pickle=False) as file:
        np.testing.assert_array_equal(layout.sources["val"][3]["image"], file["val_images"][3])
    assert not any((own_cache / "downloads").iterdir())
    assert [path.name for path in (own_cache / "tfds").iterdir()] == ["medmnist"]
    assert said[-1] == "writing 51 cases into shards, once"
    assert any("trying again" in line for line in said)
    said.clear()
    assert len(load_medmnist("pneumoniamnist", say=said.append).sources["train"]) == 30  # the server is gone
    assert said == []


@pytest.mark.parametrize("harm", ["another checksum", "404", "no server"])
def test_a_failed_download_says_how_to_fetch_it_by_hand(published, own_cache, monkeypatch, harm):
    monkeypatch.setattr("medjax.data.download.WAITS", ())
    content = b"" if harm == "no server" else b"something else" * 100
    with serve(content=content, status=[404] if harm == "404" else []) as (url, _):
        archive(monkeypatch, url if harm != "no server" else "http://127.0.0.1:1/files/x")
        with pytest.raises(InputError) as caught:
            load_medmnist("pneumoniamnist", say=silent)
    lines = str(caught.value).split("\n")
    reason = {"another checksum": "wrong checksum", "404": "404 Not Found", "no server": "Connection refused"}[harm]
    assert len(lines) == 2
    assert reason in lines[0]
    assert "pneumoniamnist.npz" in lines[0]
    md5 = medmnist.checksum(published)
    assert (
        lines[1] == f"fetch {medmnist.ARCHIVE}/pneumoniamnist.npz (md5 {md5}) by hand and give --data.path pneumoniamnist.npz"
    )
    assert not (own_cache / "tfds").exists()


def test_another_medmnist_file_is_refused(tmp_path, own_cache):
    colour = write_medmnist(tmp_path, "pathmnist").rename(tmp_path / "a.npz")
    other = write_medmnist(tmp_path, "pathmnist", size=64)
    many = write_medmnist(tmp_path, "organmnist3d").rename(tmp_path / "b.npz")
    wrong = tmp_path / "wrong.npz"
    np.savez(wrong, images=np.zeros((3, 28, 28), np.uint8))
    damaged = write_medmnist(tmp_path, "breastmnist")
    content = bytearray(damaged.read_bytes())
    content[5000] ^= 1
    damaged.write_bytes(content)
    for words, args, path in (
        (r"a\.npz: train holds images \(28, 28, 3\), expected \(28, 28\)", ("pneumoniamnist", 28), colour),
        (r"pathmnist_64\.npz: train holds images \(64, 64, 3\), expected \(28, 28, 3\)", ("pathmnist", 28), other),
        (r"b\.npz: the labels of train are not those of nodulemnist3d", ("nodulemnist3d", 28), many),
        (r"wrong\.npz: is not a MedMNIST file", ("pneumoniamnist", 28), wrong),
        (r"breastmnist\.npz: train_images\.npy is damaged", ("breastmnist", 28), damaged),
        (r"none\.npz: no such file", ("pneumoniamnist", 28), tmp_path / "none.npz"),
        (r"no set 'pneumonia'; the nearest is 'pneumoniamnist'", ("pneumonia", 28), colour),
        (r"nodulemnist3d is not published at size 128\nthere are 28, 64", ("nodulemnist3d", 128), many),
    ):
        with pytest.raises(InputError, match=words) as caught:
            load_medmnist(*args, path=path, say=silent)
        assert len(str(caught.value).split("\n")) == 2
    assert not list(own_cache.rglob("dataset_info.json"))
    assert not list(own_cache.rglob("tmp-*"))


def test_a_file_that_has_changed_is_prepared_anew(tmp_path):
    path = write_medmnist(tmp_path)
    before = load_medmnist("pneumoniamnist", path=path, say=silent).sources["test"][0]["image"]
    write_medmnist(tmp_path, seed=1)
    after = load_medmnist("pneumoniamnist", path=path, say=silent).sources["test"][0]["image"]
    assert not np.array_equal(before, after)


def test_the_set_is_one_of_tensorflow_datasets(tmp_path, published, monkeypatch):
    from medjax.data.builders import medmnist_builder

    assert medmnist_builder.MedMNIST.name == "medmnist"
    place = str(tmp_path / "theirs")
    data = tfds.data_source("medmnist/pneumoniamnist_28", split="test", data_dir=place, builder_kwargs={"path": str(published)})
    layout = load_medmnist("pneumoniamnist", path=published, say=silent)
    ours = tfds.data_source("medmnist/pneumoniamnist_28", data_dir=str(layout.sources["test"].shards[0].parents[3]))["test"]
    names = data.dataset_info.features["label"].names
    assert tuple(names) == layout.classes
    for mine, theirs, source in zip(ours, data, layout.sources["test"], strict=True):
        np.testing.assert_array_equal(mine["image"], theirs["image"])
        assert source["label"] == mine["label"] == theirs["label"]
    with serve(content=published.read_bytes()) as (url, asked):
        archive(monkeypatch, url)
        by_download = tfds.data_source("medmnist/pneumoniamnist_28", split="test", data_dir=str(tmp_path / "third"))
    assert asked == [None]
    assert len(by_download) == len(data)


def test_tensorflow_is_not_needed_and_nothing_is_imported_early_or_left(tmp_path):
    path = write_medmnist(tmp_path)
    code = f"""
        import sys
        import medjax, medjax.cli
        import medjax.data.builders.medmnist as medmnist
        import medjax.data.download
        early = {{"tensorflow_datasets", "array_record", "absl", "pyarrow", "requests"}} & set(sys.modules)
        assert not early, early
        layout = medmnist.load_medmnist("pneumoniamnist", path={str(path)!r})
        assert layout.sources["train"][7]["id"] == "train/00007"
        assert "tensorflow" not in sys.modules
        """
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    environment = {**os.environ, "TMPDIR": str(temporary)}
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert not list(temporary.iterdir())
    assert done.stdout == ""
    assert done.stderr == "writing 51 cases into shards, once\n"


def test_a_missing_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    for ask in (
        lambda: load_medmnist("pneumoniamnist"),
        lambda: write_records("made", {"all": Made([case(0)])}),
        lambda: read_records(tmp_path),
    ):
        with pytest.raises(InputError, match=r"pip install 'medjax\[tfds\]'"):
            ask()


@pytest.mark.realdata
def test_a_real_file_comes_back_whole(real_data):
    path = real_data / "medmnist" / "pneumoniamnist.npz"
    layout = load_medmnist("pneumoniamnist", path=path, say=silent)
    with np.load(path, allow_pickle=False) as file:
        for split, source in layout.sources.items():
            cases = [source[i] for i in range(len(source))]
            np.testing.assert_array_equal(np.stack([one["image"] for one in cases]), file[f"{split}_images"])
            np.testing.assert_array_equal([one["label"] for one in cases], file[f"{split}_labels"][:, 0])


# Any Source


def test_records_keep_every_value_bit_for_bit():
    examples = [
        case(
            i,
            label=np.array([1, 0, -1], np.int8),
            age=float("nan") if i == 3 else 63.123456789012345 + i,
            sex=("F", "M", "")[i % 3],
            site="Universitätsklinik Köln",
            flags=np.array([True, False]),
            far=2**62 + i,
            volume=np.full((2, 1, 1 + i), -1024 + i, ">i2"),
            signal=np.linspace(0, 1, 4 + i).astype(np.float32),
            spacing=np.array([0.1, 1 / 3]),
        )
        for i in range(7)
    ]
    found = write_records("made", {"all": Made(examples)}, say=silent)
    assert list(found) == ["all"]
    assert len(list(found["all"])) == 7
    for i in (6, 0, 3, 5, 1, 2, 4):
        one = found["all"][i]
        assert one.pop("path").endswith(f": a/{i:03d}")
        same(one, {name: value for name, value in examples[i].items() if name != "path"})


def test_records_are_written_once_and_anew_when_the_source_changes():
    source = Made([case(i) for i in range(5)])
    first = write_records("made", {"train": source, "test": Made([case(9)])}, say=silent)
    asked, said = source.asked, []
    again = write_records("made", {"train": source, "test": Made([case(9)])}, say=said.append)
    assert (source.asked, said) == (asked, [])
    assert list(first["train"].identity()) == list(again["train"].identity())
    assert {split: len(part) for split, part in again.items()} == {"train": 5, "test": 1}
    changed = write_records("made", {"train": Made([case(i + 1) for i in range(5)], "changed")}, say=silent)
    assert changed["train"][0]["id"] == "a/001"
    plain = [case(i) for i in range(3)]  # a list has no identity: all of it is read to know
    one = write_records("made", {"all": plain}, say=silent)
    two = write_records("made", {"all": [*plain[:2], case(2, label=7)]}, say=silent)
    assert (one["all"][2]["label"], two["all"][2]["label"]) == (2, 7)


def test_many_shards_keep_the_order_and_little_memory(monkeypatch):
    from medjax.data.builders import shards

    monkeypatch.setattr(shards, "SHARD_BYTES", 40 * 2**20)
    n, size = 240, 2**19  # 120 MB in all, in three shards

    class Large(Made):
        def __getitem__(self, i):
            return {"id": str(i), "label": i, "image": np.full((512, 1024), i % 256, np.uint8)}

    tracemalloc.start()
    found = write_records("large", {"all": Large(range(n))}, say=silent)["all"]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(found.shards) == 3
    assert len(found) == n
    assert peak < 16 * size  # not 80 pictures, of which a shard consists
    for i in np.random.default_rng(0).permutation(n)[:40].tolist():
        assert found[i]["label"] == i
        assert (found[i]["image"] == i % 256).all()


def test_threads_may_read_at_once():
    found = write_records("made", {"all": Made([case(i) for i in range(200)])}, say=silent)["all"]
    order = np.random.default_rng(0).permutation(np.tile(np.arange(200), 5)).tolist()
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for i, one in zip(order, pool.map(found.__getitem__, order), strict=True):
            assert one["id"] == f"a/{i:03d}"
            np.testing.assert_array_equal(one["image"], case(i)["image"])


@pytest.mark.parametrize(
    ("last", "words"),
    [
        (case(2, image=np.zeros((4, 4, 3), np.uint16)), "image is uint16 of 3 dimensions, others are uint16 of 2 dimensions"),
        (case(2, image=np.zeros((4, 4))), "image is float64 of 2 dimensions, others are uint16"),
        (case(2, label="yes"), "label is text, others are int64"),
        (case(2, sex="F"), "sex not in every case"),
        (case(2, extra=None), "extra is object"),
    ],
)
def test_a_case_of_another_kind_is_named(own_cache, last, words):
    with pytest.raises(InputError) as caught:
        write_records("made", {"all": Made([case(0), case(1), last])}, say=silent)
    assert str(caught.value).startswith(f"a/002: {words}")
    assert len(str(caught.value).split("\n")) == 2
    assert not list(own_cache.rglob("*array_record*"))


def test_no_cases_and_no_space(own_cache, monkeypatch):
    with pytest.raises(InputError, match="no cases"):
        write_records("made", {"train": Made([])}, say=silent)
    monkeypatch.setattr(records.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 50}))
    with pytest.raises(InputError, match=r"no space for 0 MB of prepared data.*\n.*MEDJAX_CACHE"):
        write_records("made", {"all": Made([case(0)])}, say=silent)


@pytest.mark.parametrize("harm", ["missing", "cut", "flipped", "no folder"])
def test_a_damaged_folder_says_so(tmp_path, harm):
    source = write_records("made", {"all": Made([case(i) for i in range(4)])}, say=silent)["all"]
    shard = source.shards[0]
    folder = shard.parent
    if harm == "missing":
        shard.unlink()
    elif harm == "cut":
        shard.write_bytes(shard.read_bytes()[:100])
    elif harm == "flipped":
        content = bytearray(shard.read_bytes())
        content[200:260] = bytes(60)
        shard.write_bytes(content)
    else:
        folder = tmp_path
    with pytest.raises(InputError) as caught:
        list(read_records(folder)["all"])
    assert str(folder) in str(caught.value)
    assert len(str(caught.value).split("\n")) == 2


def test_a_kill_leaves_nothing_half_made(tmp_path, own_cache):
    code = """
        import sys, time
        sys.path.insert(0, sys.argv[1])
        from test_builders import Made, case, write_records
        class Slow(Made):
            def __getitem__(self, i):
                time.sleep(0.01)
                return super().__getitem__(i)
        found = write_records("made", {"all": Slow([case(i) for i in range(int(sys.argv[2]))])})
        print(len(found["all"]))
        """
    command = [sys.executable, "-c", textwrap.dedent(code), os.path.dirname(__file__)]
    process = subprocess.Popen([*command, "2000"], stderr=subprocess.DEVNULL)
    while not list(own_cache.rglob("*.array_record-*")):
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not list(own_cache.rglob("dataset_info.json"))
    done = subprocess.run([*command, "5"], capture_output=True, text=True)  # of the same name and identity
    assert done.stdout == "5\n", done.stderr


def test_two_processes_at_once_agree(own_cache):
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        sources = [{"all": Made([case(i) for i in range(50)])} for _ in range(2)]
        one, two = pool.map(lambda made: write_records("made", made, say=silent), sources)
    assert list(one["all"].identity()) == list(two["all"].identity())
    assert len(list(own_cache.rglob("dataset_info.json"))) == 1


def test_the_folder_is_read_without_medjax(own_cache):
    source = write_records("made", {"train": Made([case(i) for i in range(3)])}, say=silent)["train"]
    data = tfds.builder_from_directory(str(source.shards[0].parent)).as_data_source("train")
    np.testing.assert_array_equal(data[2]["image"], case(2)["image"])
    assert data[2]["id"] == b"a/002"
    assert json.loads((source.shards[0].parent / "dataset_info.json").read_text())["fileFormat"] == "array_record"


def test_names_of_files_are_the_archives():
    assert file_name("pathmnist", 28) == "pathmnist.npz"
    assert file_name("pathmnist", 224) == "pathmnist_224.npz"
