"""Downloads from a real server on this machine that knows ranges, breaks off, lies and refuses."""

import hashlib
import re
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import web
from web import PROXIES

from medjax.data import download as module
from medjax.data.download import download
from medjax.errors import InputError

CONTENT = np.random.default_rng(0).bytes(3_000_000)
SHA, MD5 = hashlib.sha256(CONTENT).hexdigest(), hashlib.md5(CONTENT).hexdigest()


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(module, "WAITS", (0.01, 0.01))
    monkeypatch.setattr(module, "TIMEOUT", 5.0)
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)


def serve(**options):
    return web.serve(**{"content": CONTENT, **options})


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("checksum", [{"sha256": SHA.upper()}, {"md5": MD5}])
def test_a_file_comes_whole_and_only_once(tmp_path, checksum):
    said = []
    with serve() as (url, asked):
        path = download(url, tmp_path / "deep" / "set.npz", **checksum, say=said.append)
        assert path.read_bytes() == CONTENT
        assert download(url, path, **checksum, say=said.append) == path
    assert asked == [None]
    assert names(path.parent) == ["set.npz"]
    assert said == [f"downloading {url}: 3.0 MB"]


def test_a_server_that_does_not_say_the_length(tmp_path):
    with serve(length=False) as (url, _):
        assert download(url, tmp_path / "set.npz", sha256=SHA).read_bytes() == CONTENT


def test_a_cut_connection_is_taken_up_where_it_broke(tmp_path):
    said = []
    with serve(cut_at=(1_000_000, 500_000)) as (url, asked):
        path = download(url, tmp_path / "set.npz", sha256=SHA, say=said.append)
    assert path.read_bytes() == CONTENT
    assert asked == [None, "bytes=1000000-", "bytes=1500000-"]
    assert [line.partition(": ")[2] for line in said[1:]] == [
        "the connection broke off at 1.0 of 3.0 MB; trying again in 0.01 s",
        "the connection broke off at 1.5 of 3.0 MB; trying again in 0.01 s",
    ]


def test_a_server_without_ranges_starts_again(tmp_path):
    with serve(ranges=False, cut_at=(1_000_000,)) as (url, asked):
        assert download(url, tmp_path / "set.npz", sha256=SHA).read_bytes() == CONTENT
    assert asked == [None, "bytes=1000000-"]


def test_a_busy_server_is_asked_again(tmp_path):
    with serve(status=(503, 429)) as (url, asked):
        assert download(url, tmp_path / "set.npz", sha256=SHA).read_bytes() == CONTENT
    assert len(asked) == 3


@pytest.mark.parametrize("have", [1_234_567, len(CONTENT)])
def test_what_an_earlier_process_left_is_gone_on_with(tmp_path, have):
    (tmp_path / "set.npz.part").write_bytes(CONTENT[:have])
    with serve() as (url, asked):
        assert download(url, tmp_path / "set.npz", sha256=SHA).read_bytes() == CONTENT
    assert asked == [f"bytes={have}-"]
    assert names(tmp_path) == ["set.npz"]


@pytest.mark.parametrize("left", [b"of an older version" * 1000, bytes(len(CONTENT) + 5)])
def test_parts_that_do_not_fit_are_thrown_away(tmp_path, left):
    (tmp_path / "set.npz.part").write_bytes(left)
    with serve() as (url, asked):
        assert download(url, tmp_path / "set.npz", sha256=SHA).read_bytes() == CONTENT
    assert len(asked) == 2
    assert asked[1] is None


def test_a_killed_process_leaves_what_the_next_one_needs(tmp_path):
    to = tmp_path / "set.npz"
    with serve(pause=0.1) as (url, asked):
        code = f"from medjax.data.download import download; download({url!r}, {str(to)!r}, sha256={SHA!r})"
        process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
        part = tmp_path / "set.npz.part"
        while not (part.exists() and part.stat().st_size > 300_000):
            assert process.poll() is None
            time.sleep(0.01)
        process.kill()
        process.wait()
        left = part.stat().st_size
        assert left < len(CONTENT)
        assert names(tmp_path) == ["set.npz.part"]
        assert download(url, to, sha256=SHA).read_bytes() == CONTENT
    assert asked == [None, f"bytes={left}-"]


def test_two_at_once_load_it_once(tmp_path):
    said, to = [], tmp_path / "set.npz"
    with serve(pause=0.02) as (url, asked):
        threads = [threading.Thread(target=download, args=(url, to), kwargs={"md5": MD5, "say": said.append}) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert to.read_bytes() == CONTENT
    assert asked == [None]
    assert names(tmp_path) == ["set.npz"]
    assert sum("another process" in line for line in said) >= 2


def refused(url, to, **options):
    with pytest.raises(InputError) as caught:
        download(url, to, **{"sha256": SHA, "mend": "give --data.path set.npz", **options})
    lines = str(caught.value).split("\n")
    assert len(lines) == 2
    assert lines[1] == "give --data.path set.npz"
    return lines[0]


def test_another_checksum_is_told_and_nothing_is_kept(tmp_path):
    with serve(content=b"<html>moved</html>") as (url, asked):
        line = refused(url, tmp_path / "set.npz")
    got = hashlib.sha256(b"<html>moved</html>").hexdigest()
    assert line == f"{url}: wrong checksum: expected sha256 {SHA}, got {got}; nothing is kept"
    assert names(tmp_path) == []
    assert len(asked) == 1


@pytest.mark.parametrize("code", [404, 403])
def test_a_refusal_is_final(tmp_path, code):
    with serve(status=[code] * 9) as (url, asked):
        assert f"{url}: cannot be downloaded: the server says {code} " in refused(url, tmp_path / "set.npz")
    assert len(asked) == 1


def test_a_server_that_keeps_failing_is_given_up(tmp_path):
    with serve(status=[500] * 9) as (url, asked):
        line = refused(url, tmp_path / "set.npz")
    assert line.endswith("the server says 500 Internal Server Error, in 3 tries running")
    assert len(asked) == 3


def test_no_server_and_no_name(tmp_path, monkeypatch):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/set.npz"
        assert "Connection refused, in 3 tries running" in refused(url, tmp_path / "set.npz")
    start = time.perf_counter()
    monkeypatch.setattr(module, "WAITS", (60.0,))  # nothing to wait for
    line = refused("http://no.such.name.invalid/set.npz?token=secret", tmp_path / "set.npz")
    assert line.startswith("http://no.such.name.invalid/set.npz: cannot be downloaded: the server's name is not found")
    assert time.perf_counter() - start < 30
    line = refused("http://user:secret@no.such.name.invalid/set.npz", tmp_path / "set.npz")
    assert line == "http://no.such.name.invalid/set.npz: cannot be downloaded: not a valid address"


def test_a_server_that_falls_silent(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "TIMEOUT", 0.2)
    monkeypatch.setattr(module, "WAITS", ())
    with serve(pause=1.0) as (url, _):
        assert "no answer within 0.2 s" in refused(url, tmp_path / "set.npz")


def test_no_space_is_told_before_the_first_byte(tmp_path, monkeypatch):
    usage = type("Usage", (), {"free": 1_000_000})
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: usage)
    with (
        serve() as (url, _),
        pytest.raises(InputError, match=r"no space for 3\.0 MB, only 1\.0 are free\nfree some, or give X"),
    ):
        download(url, tmp_path / "set.npz", sha256=SHA, mend="give X")


def test_other_schemes_and_a_foreign_file_are_refused(tmp_path):
    assert "not an http" in refused("file:///etc/hostname", tmp_path / "set.npz")
    (tmp_path / "set.npz").write_bytes(b"mine")
    with pytest.raises(InputError, match=r"set\.npz: wrong checksum: expected sha256"):
        download("http://127.0.0.1:1/set.npz", tmp_path / "set.npz", sha256=SHA)
    assert (tmp_path / "set.npz").read_bytes() == b"mine"
    with pytest.raises(ValueError, match="checksum"):
        download("http://127.0.0.1:1/set.npz", tmp_path / "x")


def test_lines_tell_amount_rate_and_time_left(tmp_path, monkeypatch):
    monkeypatch.setattr(module.console, "PLAIN_EVERY", 0.1)
    said = []
    with serve(pause=0.05) as (url, _):
        download(url, tmp_path / "set.npz", sha256=SHA, say=said.append)
    assert len(said) >= 3
    for line in said[1:]:
        assert re.fullmatch(r"set\.npz: \d\.\d of 3\.0 MB, \d+\.\d MB/s, 0:0\d left", line), line
