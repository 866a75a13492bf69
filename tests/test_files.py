import contextlib
import hashlib
import json
import multiprocessing
import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medjax import files
from medjax.errors import InputError

posix = pytest.mark.skipif(os.name != "posix", reason="modes and owners are POSIX")


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def age(path, seconds):
    then = time.time() - seconds
    for item in (*path.rglob("*"), path):
        os.utime(item, (then, then))


def test_cache_dir_comes_from_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MEDJAX_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert files.cache_dir() == tmp_path / "home" / ".cache" / "medjax"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative/is/ignored")
    assert files.cache_dir() == tmp_path / "home" / ".cache" / "medjax"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert files.cache_dir() == tmp_path / "xdg" / "medjax"
    monkeypatch.setenv("MEDJAX_CACHE", "~/mine")
    assert files.cache_dir() == tmp_path / "home" / "mine"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MEDJAX_CACHE", "here")
    assert files.cache_dir() == tmp_path / "here"


@posix
def test_cache_dir_is_private(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDJAX_CACHE", str(tmp_path / "cache"))
    assert mode(files.cache_dir()) == 0o700
    (tmp_path / "cache").chmod(0o777)
    assert mode(files.cache_dir()) == 0o755
    (tmp_path / "cache").chmod(0o500)
    assert mode(files.cache_dir()) == 0o500  # nobody else can write, so it is left as it is


@posix
def test_cache_dir_of_another_user_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDJAX_CACHE", str(tmp_path))
    owner = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: owner + 1)
    with pytest.raises(InputError, match=rf"{tmp_path}.*another user.*\n.*MEDJAX_CACHE"):
        files.cache_dir()


def test_cache_dir_that_is_a_file_is_refused(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MEDJAX_CACHE", str(tmp_path / "file"))
    with pytest.raises(InputError, match="MEDJAX_CACHE"):
        files.cache_dir()


@settings(max_examples=30, deadline=None)  # each fsync waits for the disk
@given(text=st.text(st.characters(exclude_categories=["Cs"])), data=st.binary())
def test_writes_round_trip(tmp_path_factory, text, data):
    folder = tmp_path_factory.getbasetemp() / "round"
    files.write_text(folder / "deep" / "a.txt", text)
    files.write_bytes(folder / "b", data)
    assert (folder / "deep" / "a.txt").read_bytes() == text.encode()
    assert (folder / "b").read_bytes() == data
    assert {path.name for path in folder.iterdir()} == {"deep", "b"}


def test_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
    files.write_text(tmp_path / "a", "old")
    monkeypatch.setattr(os, "fsync", lambda fd: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        files.write_text(tmp_path / "a", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_text() == "old"


def _write_often(path, letter):
    for _ in range(40):
        files.write_text(path, letter * 50_000)


def test_reader_never_sees_a_part(tmp_path):
    path = tmp_path / "a"
    files.write_text(path, "x" * 50_000)
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_write_often, args=(path, letter)) for letter in "xy"]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        text = path.read_text()
        assert len(text) == 50_000
        assert len(set(text)) == 1
    assert [writer.exitcode for writer in writers] == [0, 0]


def test_write_json_takes_numpy(tmp_path):
    value = {
        "a": np.float32(0.5),
        "b": np.arange(6, dtype=np.int64).reshape(2, 3),
        np.int64(3): (True, None, "ä"),
        "c": np.bool_(True),
        "d": [np.longdouble(0.25), np.array([1.5], np.longdouble)],
        "e": Path("x") / "y",
    }
    files.write_json(tmp_path / "a.json", value)
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert json.loads(text) == {
        "a": 0.5,
        "b": [[0, 1, 2], [3, 4, 5]],
        "3": [True, None, "ä"],
        "c": True,
        "d": [0.25, [1.5]],
        "e": str(Path("x") / "y"),
    }
    assert text.startswith('{\n "a": 0.5,\n')
    assert "ä" in text


@pytest.mark.parametrize("bad", [float("nan"), np.float32("inf"), np.array([0.0, -np.inf])])
def test_write_json_refuses_what_is_not_finite(tmp_path, bad):
    with pytest.raises(ValueError, match="/metrics/auroc"):
        files.write_json(tmp_path / "a.json", {"metrics": {"auroc": bad}})
    assert list(tmp_path.iterdir()) == []


@given(st.binary(max_size=5000))
def test_sha256(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "hashed"
    path.write_bytes(data)
    assert files.sha256(path) == hashlib.sha256(data).hexdigest()


def test_staging_is_removed_however_it_ends(tmp_path):
    with files.staging(tmp_path / "new") as folder:
        (folder / "a").mkdir()
        (folder / "a" / "b").write_text("x")
        assert folder.parent == tmp_path / "new"
        assert folder.name.startswith("tmp-")
        assert os.name != "posix" or mode(folder) == 0o700
    with contextlib.suppress(KeyboardInterrupt), files.staging(tmp_path / "new") as folder:
        (folder / "a").write_text("x")
        raise KeyboardInterrupt
    assert list((tmp_path / "new").iterdir()) == []
    with files.staging(tmp_path / "new") as folder:
        files.publish(folder, tmp_path / "kept")
    assert list((tmp_path / "new").iterdir()) == []
    assert (tmp_path / "kept").is_dir()


def test_staging_clears_what_killed_processes_left(tmp_path):
    code = (
        "import os, sys\nfrom medjax import files\n"
        "with files.staging(sys.argv[1]) as folder:\n (folder / 'half').write_text('x')\n os._exit(9)"
    )
    for _ in range(3):
        subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    old, worked_in, young = (path for path in tmp_path.iterdir())
    (worked_in / "deep").mkdir()
    (worked_in / "deep" / "fresh").touch()
    for path in (old, worked_in):
        age(path, 25 * 3600)
    (worked_in / "deep" / "fresh").write_text("still going on")
    age(young, 23 * 3600)
    theirs = tmp_path / "tmp-scans"
    theirs.mkdir()
    age(theirs, 99 * 3600)
    with files.staging(tmp_path):
        pass
    assert set(tmp_path.iterdir()) == {worked_in, young, theirs}


def test_publish(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    assert files.publish(tmp_path / "a", tmp_path / "deep" / "final") == tmp_path / "deep" / "final"
    assert files.publish(tmp_path / "b", tmp_path / "deep" / "final") == tmp_path / "deep" / "final"
    assert (tmp_path / "deep" / "final" / "file").read_text() == "a"
    assert [path.name for path in tmp_path.iterdir()] == ["deep"]


def test_publish_does_not_hide_errors(tmp_path):
    with pytest.raises(FileNotFoundError):
        files.publish(tmp_path / "missing", tmp_path / "final")
    (tmp_path / "a").mkdir()
    (tmp_path / "file").write_text("x")
    with pytest.raises(OSError):
        files.publish(tmp_path / "a", tmp_path / "file")
    assert (tmp_path / "a").is_dir()


def test_imports_neither_jax_nor_flax():
    code = "import sys, medjax.files, medjax.data.wheels, medjax.formats.image; print({'jax', 'flax'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


def test_rows_of_a_further_part_stand_behind_the_first(tmp_path):
    table, tags = tmp_path / "a.csv", tmp_path / "a.tsv"
    table.write_text("id,x\na,1\n")
    files.append_rows(table, "id,x\nb,2\n")
    assert table.read_text() == "id,x\na,1\nb,2\n"
    tags.write_text("one\tO\n\n")
    files.append_rows(tags, "two\tO\n\n")
    assert tags.read_text() == "one\tO\n\ntwo\tO\n\n"
    listed = tmp_path / "b.json"
    for first in ([], [{"id": "a"}]):
        for second in ([], [{"id": "ä]"}, {"id": "c"}]):
            for indent in (None, 1):
                listed.write_text(json.dumps(first, indent=indent))
                files.append_rows(listed, json.dumps(second, indent=indent, ensure_ascii=False))
                assert json.loads(listed.read_text()) == first + second
    for path, text in ((table, "id,y\nb,2\n"), (tmp_path / "a.json", "{}"), (listed, "{}"), (tmp_path / "a.ann", "x")):
        path.touch()
        with pytest.raises(ValueError, match="cannot take"):
            files.append_rows(path, text)
    assert table.read_text() == "id,x\na,1\nb,2\n"
