import functools
import json
import os
import signal
import subprocess
import sys
import time
import types

import numpy as np
import pytest
from PIL import Image
from toy import Known, Source, examples, fails, keep

from medjax.data import prepare as module
from medjax.data.digests import code_digest, digest
from medjax.data.folders import class_folders
from medjax.data.prepare import prepare, read_cases


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDJAX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "prepared"


def left(cache):
    return sorted(f.name for f in cache.iterdir()) if cache.is_dir() else []


def test_columns_have_the_cases_values_and_only_pictures_stay_on_disk():
    made = examples()
    prepared = prepare({"train": Source(made[:4]), "all": Source(made[4:])}, keep)
    cases = prepared.cases
    assert set(cases.columns) == {"id", "patient", "label", "image", "content", "near", "given"}
    order = {name: i for i, name in enumerate(cases["id"])}
    assert sorted(order) == [e["id"] for e in made]
    for e in made:
        i = order[e["id"]]
        np.testing.assert_array_equal(cases["image"][i], e["image"])
        assert (cases["label"][i], cases["patient"][i]) == (e["label"], e["patient"])
        assert cases["given"][i] == ("train" if e in made[:4] else "all")
    assert cases["image"].dtype == np.uint8
    assert isinstance(cases.columns["image"], np.memmap)
    assert not cases.columns["image"].flags.writeable
    assert not any(isinstance(cases.columns[name], np.memmap) for name in ("id", "label", "near", "content"))
    assert cases["label"].dtype.kind == "i"
    assert cases["near"].tolist() == list(range(6))
    assert len(set(cases["content"])) == 6
    assert prepared.searched


def test_preprocess_is_applied_and_may_add_columns():
    def halve(e):
        return {**e, "image": e["image"][::2, ::2], "header": np.array(e["image"].shape, np.float32), "age": 3}

    cases = prepare({"all": Source(examples(shape=(64, 80)))}, halve).cases
    assert cases["image"].shape == (6, 32, 40)
    np.testing.assert_array_equal(cases["header"], np.tile(np.float32([64, 80]), (6, 1)))
    assert cases["age"].tolist() == [3] * 6


def test_the_second_call_decodes_nothing():
    calls = []

    def counted(e):
        calls.append(e["id"])
        return e

    # The list is part of the closure, and changes: the digest must look the same in both calls.
    first = prepare({"all": Known(examples(), "x")}, functools.partial(count_into, log=Log()))
    source = Known(examples(), "x")
    second = prepare({"all": source}, functools.partial(count_into, log=Log()))
    assert source.reads == 0
    assert second.folder == first.folder
    assert second.fingerprint == first.fingerprint
    np.testing.assert_array_equal(second.cases["image"], first.cases["image"])
    prepare({"all": Known(examples(), "other")}, counted)
    assert sorted(calls) == [e["id"] for e in examples()]


class Log:
    """Nothing that the digest looks at."""

    __slots__ = ()

    def __repr__(self):
        return "Log"


def count_into(example, log):
    return example


def test_files_are_read_once_and_again_when_one_changes(tmp_path, monkeypatch):
    for i, e in enumerate(examples(4)):
        folder = tmp_path / "data" / "ab"[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(e["image"]).save(folder / f"{i}.png")
    read = []
    original = module._case
    monkeypatch.setattr(module, "_case", lambda example, how: read.append(example["id"]) or original(example, how))

    def again():
        read.clear()
        prepared = prepare(class_folders(tmp_path / "data"), keep)
        return prepared, len(read)

    first, n = again()
    assert n == 4
    assert again()[1] == 0
    file = tmp_path / "data" / "a" / "0.png"
    then = file.stat()
    os.utime(file, ns=(then.st_atime_ns, then.st_mtime_ns + 1))
    touched, n = again()
    assert n == 4
    assert touched.fingerprint == first.fingerprint  # the time is no content
    Image.fromarray(255 - examples(1)[0]["image"]).save(file)
    changed, n = again()
    assert n == 4
    assert changed.fingerprint != first.fingerprint


def test_the_same_content_elsewhere_has_the_same_fingerprint(tmp_path):
    for name in ("one", "two/deep"):
        for i, e in enumerate(examples(4)):
            folder = tmp_path / name / "ab"[i % 2]
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(e["image"]).save(folder / f"{i}.png")
    one, two = (prepare(class_folders(tmp_path / name), keep) for name in ("one", "two/deep"))
    assert one.folder != two.folder
    assert one.fingerprint == two.fingerprint
    (tmp_path / "two/deep/a/0.png").rename(tmp_path / "two/deep/b/0.png")
    assert prepare(class_folders(tmp_path / "two/deep"), keep).fingerprint != one.fingerprint


def test_fingerprint_follows_label_split_id_and_content():
    base = examples()
    seen = {prepare({"all": Source(base)}, keep).fingerprint}
    for field, value in (("label", 1), ("id", "case/new"), ("image", np.zeros((64, 64), np.uint8))):
        seen.add(prepare({"all": Source([{**base[0], field: value}, *base[1:]])}, keep).fingerprint)
    seen.add(prepare({"train": Source(base)}, keep).fingerprint)
    assert len(seen) == 5
    assert prepare({"all": Source(base[::-1])}, keep).fingerprint in seen


def test_a_source_without_identity_is_known_by_its_content():
    first = prepare({"all": Source(examples())}, keep)
    assert prepare({"all": Source(examples())}, keep).folder == first.folder
    assert prepare({"all": Source(examples(seed=1))}, keep).folder != first.folder


def test_content_is_every_number_and_text_but_neither_name_nor_label():
    e = {"id": "a", "label": 1, "patient": "p", "path": "x", "image": np.eye(3), "text": "cough", "age": 40}
    same = {**e, "id": "b", "label": 0, "patient": "q", "path": "y"}
    assert digest(e) == digest(same)
    others = [{**e, "text": "fever"}, {**e, "age": 41}, {**e, "image": np.eye(3) * 2}, {**e, "image": np.eye(3, dtype="f4")}]
    assert len({digest(x) for x in [e, *others]}) == 5
    assert digest({**e, "image": np.asfortranarray(np.arange(9.0).reshape(3, 3))}) == digest(
        {**e, "image": np.arange(9.0).reshape(3, 3)}
    )
    fails(lambda: digest({**e, "image": np.array([None, "x"], object)}), "image", "a")


# What makes another cache ------------------------------------------------------------------------------------------------

PLAIN = """
import functools
import numpy as np
SIZE = 4
TABLE = {"lung": (1, 12)}
WEIGHTS = np.arange(3.0)
def helper(x): return x + 1
class Window:
    width = 5
    def __init__(self, level): self.level = level
    def __call__(self, e): return e["x"] + self.level + self.width
@functools.lru_cache
def cached(x): return x * 2
def f(e, a=1):
    return [helper(v) for v in (e, SIZE, TABLE, WEIGHTS, cached(2), a)]
window = Window(3)
def g(e): return window(e)
"""


def compiled(text, name="f"):
    space = types.ModuleType("some_experiment")
    exec(compile(text, "some file", "exec"), space.__dict__)
    return space.__dict__[name]


def test_the_digest_is_the_same_for_the_same_code():
    assert code_digest(compiled(PLAIN)) == code_digest(compiled(PLAIN))
    assert code_digest(compiled(PLAIN, "g")) == code_digest(compiled(PLAIN, "g"))
    # Comments and what stands elsewhere in the file do not matter.
    assert code_digest(compiled("# hello\n\n" + PLAIN + "\ndef other(): return 1\n")) == code_digest(compiled(PLAIN))


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("f", "SIZE = 4", "SIZE = 5"),
        ("f", "(1, 12)", "(11, 2)"),
        ("f", "np.arange(3.0)", "np.arange(3.0) + 1e-9"),
        ("f", "return x + 1", "return x - 1"),
        ("f", "return x + 1", "return x + 2"),
        ("f", "return x * 2", "return x * 3"),
        ("f", "a=1", "a=2"),
        ("g", "width = 5", "width = 6"),
        ("g", "Window(3)", "Window(4)"),
        ("g", "+ self.width", "- self.width"),
    ],
)
def test_the_digest_follows_constants_helpers_defaults_and_objects(name, old, new):
    assert old in PLAIN
    assert code_digest(compiled(PLAIN, name)) != code_digest(compiled(PLAIN.replace(old, new), name))


def test_the_digest_follows_closures_partials_and_callable_objects():
    def make(k):
        def inner(e):
            return e["x"] * k

        return inner

    class Scale:
        def __init__(self, k):
            self.k = k

        def __call__(self, e):
            return e["x"] * self.k

        def method(self, e):
            return self(e)

    partial = functools.partial
    functions = [
        *(make(k) for k in (1, 2, "1", (1, 12), (11, 2), np.zeros(3), np.zeros((3, 1)), None, 1.0, True)),
        *(Scale(k) for k in (1, 2)),
        *(Scale(k).method for k in (1, 2)),
        *(partial(keep, size=k) for k in (1, 2)),
        *(partial(keep, k) for k in (1, 2)),
        *(partial(keep, crop=f) for f in (keep, count_into, make(1), make(2), np.sqrt, np.cos)),
        *(partial(keep, **{name: 1}) for name in ("height", "width")),
        partial(partial(keep, 1), 1),
    ]
    digests = [code_digest(f) for f in functions]
    assert len(set(digests)) == len(functions)
    assert digests == [code_digest(f) for f in functions]
    assert code_digest(make({"a": 1, "b": 2})) == code_digest(make({"b": 2, "a": 1}))
    assert code_digest(make({"a", "b", "c"})) == code_digest(make({"c", "b", "a"}))


def test_the_digest_is_the_same_in_another_process(tmp_path):
    (tmp_path / "mine.py").write_text(PLAIN)
    code = "import mine; from medjax.data.prepare import code_digest as d; print(d(mine.f), d(mine.g))"
    found = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": f"{tmp_path}{os.pathsep}{os.getcwd()}"},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(found) == 1


def test_another_setting_makes_another_cache(own_cache):
    def brighten(e, by):
        return {**e, "image": e["image"] // 2 + by}

    made = [prepare({"all": Known(examples(), "x")}, functools.partial(brighten, by=np.uint8(k))) for k in (1, 2, 1)]
    assert made[0].folder == made[2].folder != made[1].folder
    assert made[0].cases["image"][0, 0, 0] + 1 == made[1].cases["image"][0, 0, 0]
    assert (
        prepare({"all": Known(examples(), "x")}, keep, near="off").folder
        != prepare({"all": Known(examples(), "x")}, keep).folder
    )
    assert len(left(own_cache)) == 4


# What must not pass -------------------------------------------------------------------------------------------------------


def test_a_failing_file_leaves_nothing_behind(tmp_path, own_cache):
    for i, e in enumerate(examples(80)):
        folder = tmp_path / "data" / "ab"[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(e["image"][:8, :8]).save(folder / f"{i}.png")
    bad = tmp_path / "data" / "b" / "77.png"
    bad.write_bytes(bad.read_bytes()[:-20])
    fails(lambda: prepare(class_folders(tmp_path / "data"), keep), bad)
    assert left(own_cache) == []
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(bad)
    assert len(prepare(class_folders(tmp_path / "data"), keep).cases) == 80


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("name", ["signal", "image"])
def test_values_that_are_not_finite_are_refused_with_the_files_name(own_cache, name, value):
    rows = [{"id": str(i), "label": 0, "path": f"folder/{i}.dat", name: np.zeros((70, 2), np.float32)} for i in range(3)]
    rows[2][name][5, 1] = value
    fails(lambda: prepare({"all": Source(rows)}, keep), "folder/2.dat", name)
    fails(lambda: list(read_cases(Source(rows), keep)), "folder/2.dat", name)
    assert left(own_cache) == []


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("image", np.zeros((64, 65), np.uint8)),
        ("image", np.zeros((64, 64), np.uint16)),
        ("image", np.zeros((64, 64, 1), np.uint8)),
        ("signal", np.zeros(9)),
        ("signal", np.zeros((8, 1))),
        ("label", "two"),
        ("extra", 3),
        ("signal", None),
    ],
)
def test_cases_of_another_shape_or_kind_are_refused(own_cache, field, value):
    rows = [{**e, "signal": np.zeros(8)} for e in examples()]
    rows[4][field] = value
    fails(lambda: prepare({"all": Known(rows, "x")}, keep), "case/004", field)
    assert left(own_cache) == []


@pytest.mark.parametrize("field", ["image", "signal", "label"])
def test_a_field_that_one_case_lacks_is_refused(own_cache, field):
    rows = [{**e, "signal": np.zeros(8)} for e in examples()]
    del rows[4][field]
    fails(lambda: prepare({"all": Known(rows, "x")}, keep), "case/004", field)
    assert left(own_cache) == []


def test_text_may_differ_in_length_and_numbers_in_kind():
    rows = [{**e, "note": "x" * i, "age": 40 + i / 2 if i % 2 else 40} for i, e in enumerate(examples())]
    cases = prepare({"all": Source(rows)}, keep).cases
    assert cases["note"].tolist() == ["x" * i for i in range(6)]
    assert cases["age"].tolist() == [40, 40.5, 40, 41.5, 40, 42.5]


def test_no_cases_are_refused():
    fails(lambda: prepare({"all": Source([])}, keep), "no cases")
    fails(lambda: list(read_cases(Source([]), keep)), "no cases")


def test_cases_for_prediction_are_not_cached(own_cache):
    (cases,) = read_cases(Source(examples()), keep)
    assert cases["id"].tolist() == [e["id"] for e in examples()]
    np.testing.assert_array_equal(cases["image"], [e["image"] for e in examples()])
    assert left(own_cache) == []


@pytest.mark.parametrize(("most", "lengths"), [(1, [1] * 6), (2.5 * 4096, [2, 2, 2])])
def test_cases_for_prediction_come_in_parts_that_fit(most, lengths):
    rows = [{"id": str(i), "label": 0, "image": np.full((64, 64), i, np.uint8)} for i in range(6)]
    parts = list(read_cases(Source(rows), keep, most=most))
    assert [len(part) for part in parts] == lengths
    np.testing.assert_array_equal(np.concatenate([part["image"][:, 0, 0] for part in parts]), np.arange(6))


# Several processes and kills ----------------------------------------------------------------------------------------------

WORKER = """
import sys, time
from pathlib import Path
from medjax.data.folders import class_folders
from medjax.data.prepare import prepare
data, ready, go = map(Path, sys.argv[1:4])
def slow(e, wait=float(sys.argv[4])):
    time.sleep(wait * (e["id"] > "b"))
    return e
ready.touch()
while not go.exists(): time.sleep(0.005)
print(prepare(class_folders(data), slow, near="off").fingerprint)
"""


@pytest.fixture
def small_files(tmp_path):
    for i, e in enumerate(examples(12)):
        folder = tmp_path / "data" / "ab"[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(e["image"][:8, :8]).save(folder / f"{i}.png")
    return tmp_path / "data"


def start(tmp_path, data, name, wait):
    return subprocess.Popen(
        [sys.executable, "-c", WORKER, data, tmp_path / f"ready-{name}", tmp_path / "go", str(wait)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.005)


def test_two_processes_at_once_both_succeed(tmp_path, small_files, own_cache):
    workers = [start(tmp_path, small_files, i, 0.03) for i in range(2)]
    until(lambda: all((tmp_path / f"ready-{i}").exists() for i in range(2)))
    (tmp_path / "go").touch()
    out = [worker.communicate(timeout=300) for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], out
    assert len({text for text, _ in out}) == 1
    assert len(left(own_cache)) == 1


def test_a_killed_preparation_is_not_taken_for_whole(tmp_path, small_files, own_cache):
    worker = start(tmp_path, small_files, 0, 60)
    (tmp_path / "go").touch()
    until(lambda: list(own_cache.glob("tmp-*/image.npy")))  # in the midst of it
    worker.send_signal(signal.SIGKILL)
    worker.communicate(timeout=300)
    assert all(name.startswith("tmp-") for name in left(own_cache))
    again = start(tmp_path, small_files, 1, 0)
    out, error = again.communicate(timeout=300)
    assert again.returncode == 0, error
    whole = [f for f in own_cache.iterdir() if not f.name.startswith("tmp-")]
    assert len(whole) == 1
    assert json.loads((whole[0] / "meta.json").read_text())["fingerprint"] == out.strip()
    assert np.load(whole[0] / "image.npy").any(axis=(1, 2)).all()
