"""How the compiled part comes to be, and what happens where it cannot: each case a process of its own with its own cache."""

import importlib.metadata
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import pytest

from medjax.errors import InputError
from medjax.nn.onednn import supply

# Forks one child for each case, once JAX is imported and before it has made a thread: a process each, in a tenth of the time.
# A case is {"name", "env", "before": code run first, "kill": seconds after which it is killed, or null}. Cases run one after
# another, those with "kill" all at once.
NURSERY = """
import json, os, signal, sys, threading, time
import jax, medjax.nn, medjax.nn.onednn.primitive

SMALL_CONVOLUTION = '''
import numpy as np
from medjax.nn.conv import channels_last, conv_general_dilated
from medjax.nn.onednn import choice, primitive
primitive.SMALL = 0
rng = np.random.default_rng(0)
x, w = (rng.normal(size=s).astype("float32") for s in ((2, 9, 16), (3, 16, 32)))
y = conv_general_dilated(x, w, (1,), "VALID", dimension_numbers=channels_last(3))
truth = sum(x[:, k : k + 7].astype(float) @ w[k] for k in range(3))
path, reason, mend, facts = choice()
print(json.dumps({"error": float(np.linalg.norm(y - truth) / np.linalg.norm(truth)), "path": path, "facts": facts, **more}))
'''

def begin(case):
    child = os.fork()
    if child:
        return child
    for stream, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(f"{sys.argv[1]}/{case['name']}.{name}", os.O_WRONLY | os.O_CREAT, 0o600), stream)
    try:
        os.environ.update(case["env"])
        names = {"json": json, "os": os, "more": {}}
        exec(case["before"] + SMALL_CONVOLUTION + case["after"], names)
        code = 0
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        code = 1
    sys.stdout.flush(), sys.stderr.flush()
    os._exit(code)

cases, codes = json.load(sys.stdin), {}
together = [(case, begin(case)) for case in cases if case["kill"]]
began = time.time()
for case, child in sorted(together, key=lambda pair: pair[0]["kill"]):
    time.sleep(max(0, began + case["kill"] - time.time()))
    os.kill(child, signal.SIGKILL)
    codes[case["name"]] = os.waitpid(child, 0)[1]
for case in (case for case in cases if not case["kill"]):
    codes[case["name"]] = os.waitpid(begin(case), 0)[1]
print(json.dumps(codes))
"""


@pytest.fixture(scope="module")
def built(cache):
    """A finished build: (cache folder, Build)."""
    try:
        return cache, supply.ready()
    except supply._NotToBeHad as why:
        pytest.skip(f"no oneDNN here: {why.reason}")


@pytest.fixture(scope="module")
def make(tmp_path_factory, built):
    """make(name, code): an executable shell script; $COMPILED is a finished conv.so."""
    folder = tmp_path_factory.mktemp("bin")

    def write(name, code):
        path = folder / name
        path.write_text(f"#!/bin/sh\nCOMPILED={built[1].folder / 'conv.so'}\n{code}\n")
        path.chmod(0o755)
        return str(path)

    return write


@pytest.fixture(scope="module")
def copier(make):
    """A compiler that is quick: it copies what was built before to the word after -o."""
    return make("copier", 'while [ "$1" != -o ]; do shift; done\ncp "$COMPILED" "$2"')


def case(name, cache, *, before="", after="", kill=None, **env):
    env = {"MEDJAX_CACHE": str(cache), supply.SWITCH: "on" if kill else "auto", "CXX": "", **env}
    return {"name": name, "env": env, "before": before, "after": after, "kill": kill}


class Outcome:
    """What a case's process left: `code`, `lines` on the error stream, `said` of them by supply, `told` (JSON) or None."""

    def __init__(self, folder, name, code):
        self.code = os.waitstatus_to_exitcode(code)
        self.text = (folder / f"{name}.err").read_text()
        self.said = [line for line in self.text.splitlines() if line.startswith("convolutions:")]
        out = (folder / f"{name}.out").read_text().splitlines()
        self.told = json.loads(out[-1]) if out else None


def run(folder, cases):
    env = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", NURSERY, str(folder)],
        input=json.dumps(cases),
        env=env,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    return {name: Outcome(folder, name, code) for name, code in json.loads(done.stdout.splitlines()[-1]).items()}


# Puts another "installed" library in place of the real one.
FAKE = """
import sys
sys.path.insert(0, {!r})
import importlib.metadata
"""
NO_EXTRA = "from medjax.nn.onednn import supply; supply.LIBRARY = 'no-such-distribution'\n"
SETTLED = 3  # rounds after which XLA has all of its own threads, some of which it starts late
THREADS = """
import threading, jax
many = jax.pmap(lambda x: conv_general_dilated(x, w, (1,), "VALID", dimension_numbers=channels_last(3)))
wide = np.stack([x] * 8)
from concurrent.futures import ThreadPoolExecutor
counts = []
for _ in range(6):
    with ThreadPoolExecutor(8) as pool:
        for y in pool.map(lambda i: many(wide), range(16)):
            assert np.linalg.norm(np.asarray(y)[-1] - truth) < 1e-4
    counts.append(len(os.listdir("/proc/self/task")))
print(json.dumps({"counts": counts}))
"""


def fake_install(root, library, headers):
    """Distributions of oneDNN's names under `root`, the library's file being `library`."""
    for name, files in (
        (supply.LIBRARY, {"lib/libdnnl.so.3": library}),
        (supply.HEADERS, {"include/oneapi/dnnl/dnnl.hpp": headers}),
    ):
        info = root / f"{name.replace('-', '_')}-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "RECORD").write_text("".join(f"{file},,\n" for file in files))
        for file, content in files.items():
            (root / file).parent.mkdir(parents=True)
            shutil.copy(content, root / file)
    return str(root)


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory, built, make, copier):
    """Every case that is run by itself, by its name."""
    shared, build = built
    base = tmp_path_factory.mktemp("cases")
    fresh = iter(base / f"cache{i}" for i in range(100))
    _, include = supply._find_library()
    header = include / "oneapi" / "dnnl" / "dnnl.hpp"

    half = base / "half.so"
    half.write_bytes(build.library.read_bytes()[:100_000])
    crash = base / "crash.so"
    source = (
        '#include <cstdlib>\nextern "C" { int dnnl_version; }\n__attribute__((constructor)) static void die() { abort(); }\n'
    )
    subprocess.run(["g++", "-x", "c++", "-shared", "-fPIC", "-o", crash, "-"], input=source, text=True, check=True)
    cut, gone = (fake_install(base / f.stem, f, header) for f in (half, crash))

    def spoilt(**files):
        """A cache with a build in which some files are others."""
        cache = next(fresh)
        folder = cache / "onednn" / build.folder.name
        shutil.copytree(build.folder, folder)
        for name, content in files.items():
            next(f for f in folder.iterdir() if f.stem == name).write_bytes(content)
        return cache

    verdict = (build.folder / "verdict.json").read_bytes()
    compiled = (build.folder / "conv.so").read_bytes()
    blocked = base / "file"
    blocked.write_text("")
    failing, boom = next(fresh), make("boom", "echo 'conv.cc:1: error: boom' >&2; exit 1")
    affinity = "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
    cases = [
        case("good", shared, after=THREADS),
        case("no compiler", next(fresh), PATH=str(base)),
        case("CXX of nothing", next(fresh), CXX="/nonexistent/g++"),
        case("failing compiler", failing, CXX=boom),
        case("failing compiler again", failing, CXX=boom),
        case("truncated library", next(fresh), before=FAKE.format(cut), CXX=copier),
        case("crashing library", next(fresh), before=FAKE.format(gone), CXX=copier),
        case("altered", spoilt(conv=compiled + b"\0")),
        case("verdict cut", spoilt(verdict=verdict[: len(verdict) // 2])),
        case("verdict empty", spoilt(verdict=b"")),
        case("verdict a list", spoilt(verdict=b"[]")),
        case("verdict bare", spoilt(verdict=b'{"works": true}')),
        case("verdict of noise", spoilt(verdict=bytes(range(128, 256)))),
        case("cache below a file", blocked / "cache"),
        case("cache in proc", "/proc/medjax"),
        case("slower", spoilt(verdict=json.dumps({**json.loads(verdict), "speedup": 0.5}).encode())),
        case(
            "slower but on", spoilt(verdict=json.dumps({**json.loads(verdict), "speedup": 0.5}).encode()), MEDJAX_CPU_CONV="on"
        ),
        case("off", shared, MEDJAX_CPU_CONV="off"),
        case("on", shared, MEDJAX_CPU_CONV="on"),
        case("nonsense", shared, MEDJAX_CPU_CONV="fast"),
        case("no extra", next(fresh), before=NO_EXTRA),
        case("no extra but on", next(fresh), before=NO_EXTRA, MEDJAX_CPU_CONV="on"),
        case("other machine", next(fresh), before="import platform; platform.machine = lambda: 'aarch64'\n"),
        case("one thread", shared, OMP_NUM_THREADS="1"),
        case("three threads", shared, OMP_NUM_THREADS="3,2"),
        case("threads of nonsense", shared, OMP_NUM_THREADS="many"),
        case("one CPU", shared, before=affinity),
    ]
    for c in cases:  # "auto" is the default, but a busy machine's timing must not decide
        if c["env"]["MEDJAX_CACHE"] == str(shared) and c["env"][supply.SWITCH] == "auto":
            c["env"][supply.SWITCH] = "on"
    return run(base, cases)


LAX = {
    "no compiler": "no C++ compiler",
    "CXX of nothing": "no C++ compiler",
    "failing compiler": "could not be compiled: conv.cc:1: error: boom",
    "failing compiler again": "could not be compiled: conv.cc:1: error: boom",
    "truncated library": "the check of the build failed",
    "crashing library": "the check of the build failed: it ended with code -6",
    "altered": "is not what was built",
    "verdict cut": "is damaged",
    "verdict empty": "is damaged",
    "verdict a list": "is damaged",
    "verdict bare": "is damaged",
    "verdict of noise": "is damaged",
    "cache below a file": "cannot be used as the cache folder",
    "cache in proc": "cannot be used as the cache folder",
    "slower": "oneDNN is slower here: 0.50 times",
    "no extra": "the extra cpu is not installed",
    "other machine": "x86-64 Linux only, this is aarch64",
}
ONEDNN = ("good", "on", "slower but on", "one thread", "three threads", "threads of nonsense", "one CPU")


@pytest.mark.parametrize("name", LAX)
def test_what_is_missing_is_said_in_one_line_and_lax_takes_over(name, outcomes):
    found = outcomes[name]
    assert found.code == 0, found.text
    assert len(found.said) == 1
    assert found.said[0].startswith("convolutions: lax (")
    assert LAX[name] in found.said[0]
    assert "; " in found.said[0] or name == "other machine"  # the mend; there is none for a processor
    assert "Traceback" not in found.text
    assert found.told["path"] == "lax"
    assert found.told["error"] < 1e-6


@pytest.mark.parametrize("name", ONEDNN)
def test_what_is_there_is_used(name, outcomes):
    found = outcomes[name]
    assert found.code == 0, found.text
    assert [line[:22] for line in found.said] == ["convolutions: oneDNN 3"]
    if name != "good":
        assert found.told["path"] == "onednn"
        assert found.told["error"] < 1e-6
    assert "building" not in found.text


def test_off_says_nothing_and_takes_lax(outcomes):
    assert outcomes["off"].code == 0
    assert outcomes["off"].told["path"] == "lax"
    assert not outcomes["off"].said


def test_a_failed_build_is_remembered(outcomes):
    assert "building" in outcomes["failing compiler"].text
    assert "building" not in outcomes["failing compiler again"].text


@pytest.mark.parametrize(
    ("name", "words"), [("nonsense", "not one of on, off, auto"), ("no extra but on", "the extra cpu is not installed")]
)
def test_what_cannot_be_obeyed_is_an_error(name, words, outcomes):
    found = outcomes[name]
    assert found.code == 1
    assert "InputError" in found.text
    assert words in found.text
    assert not found.said


def test_threads_are_as_many_as_allowed(outcomes):
    threads = {name: outcomes[name].told["facts"]["threads"] for name in ONEDNN if name != "good"}
    assert threads["one thread"] == threads["one CPU"] == 1
    assert threads["three threads"] == 3
    assert threads["threads of nonsense"] == threads["on"] == supply.usable_cores()


def test_threads_do_not_grow_with_callers(outcomes):
    counts = outcomes["good"].told["counts"]
    assert counts[-1] <= counts[SETTLED] + 2


# Several processes, and killed ones.


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["killed", "at once"])
def test_builds_that_meet_or_are_killed_leave_a_good_one(moment, tmp_path, make):
    slow = make(
        "slow", 'while [ "$1" != -o ]; do shift; done\nhead -c 5000 "$COMPILED" > "$2"; sleep 1; cp "$COMPILED" "$2"; sleep 1'
    )
    cache = tmp_path / "cache"
    cases = [case("last", cache, CXX=slow, MEDJAX_CPU_CONV="on")]
    if moment == "killed":
        cases += [case(f"killed{when}", cache, kill=when, CXX=slow) for when in (0.2, 0.7, 1.5, 2.3, 4.0)]
        found = run(tmp_path, cases)
        assert all(found[c["name"]].code == -signal.SIGKILL for c in cases if c["kill"])
    else:
        folders = [tmp_path / name for name in ("a", "b")]
        for folder in folders:
            folder.mkdir()
        env = {**os.environ, "XLA_FLAGS": ""}
        command = [sys.executable, "-W", "ignore", "-c", NURSERY]
        both = [
            subprocess.Popen([*command, str(f)], env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            for f in folders
        ]
        for process in both:
            process.stdin.write(json.dumps(cases))
            process.stdin.close()
        codes = [json.loads(process.stdout.read()) for process in both]
        assert [process.wait() for process in both] == [0, 0]
        found = {"last": Outcome(folders[0], "last", codes[0]["last"]), "other": Outcome(folders[1], "last", codes[1]["last"])}
    for name in ("last", "other") if moment == "at once" else ("last",):
        assert found[name].code == 0, found[name].text
        assert found[name].told["path"] == "onednn"
        assert found[name].told["error"] < 1e-6
    assert len([f for f in (cache / "onednn").iterdir() if not f.name.startswith("tmp-")]) == 1


# In this process.


def test_another_jaxlib_processor_library_or_compiler_is_another_build(built, monkeypatch, tmp_path):
    import jaxlib

    library = built[1].library
    keys = [supply._key(library)]
    assert keys[0] == built[1].folder.name == supply._key(library)
    other = shutil.copy(library, tmp_path / library.name)
    keys.append(supply._key(Path(other)))
    for owner, name, value in (
        (jaxlib, "__version__", "0.0"),
        (jax, "__version__", "0.0"),
        (supply, "_processor", lambda: "Z80"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, value)
            keys.append(supply._key(library))
    monkeypatch.setenv("CXX", "clang++ -O3")
    keys.append(supply._key(library))
    assert len(set(keys)) == len(keys)
    made = []
    monkeypatch.setattr(supply, "_build", lambda work, *_: made.append(work) or {"works": False})
    assert supply.ready().folder.name == keys[-1]
    assert supply.ready().folder.name == keys[-1]
    assert len(made) == 1


def test_the_quota_and_affinity_bound_the_threads(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(10_000, 10_016)))  # CPUs of no known topology
    monkeypatch.setattr(supply, "_quota", lambda: 1 << 20)
    assert supply.usable_cores() == 16
    monkeypatch.setattr(supply, "_quota", lambda: 3)
    assert supply.usable_cores() == 3
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert supply.usable_cores() == 5


def test_a_distribution_that_is_not_whole(monkeypatch):
    monkeypatch.setattr(importlib.metadata, "files", lambda name: [])
    with pytest.raises(supply._NotToBeHad, match="not whole"):
        supply._find_library()
    monkeypatch.setattr(importlib.metadata, "files", lambda name: None)
    with pytest.raises(supply._NotToBeHad, match="not whole"):
        supply._find_library()


def test_a_wrong_switch_is_bad_usage(monkeypatch):
    supply._decide.cache_clear()
    monkeypatch.setenv(supply.SWITCH, "yes")
    with pytest.raises(InputError) as caught:
        supply.choice()
    assert caught.value.usage


PLANS = """
import ctypes, json, sys
from pathlib import Path
from medjax.nn.onednn import supply
handle = supply.load(Path(sys.argv[1]), Path(sys.argv[2]), 2)

def supports(kind, n):
    shapes = (2, n, n + 1, 8), (3, 3, 8, 16), (2, n, n + 1, 16), (1, 1), (1, 1), (1, 1), (1, 1)
    arrays = [(ctypes.c_int64 * len(s))(*s) for s in shapes]
    return handle.medjax_conv_supports(kind, 0, 4, *arrays, ctypes.c_int64(1))

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

held, sizes = (ctypes.c_int64 * 2)(), []
for _ in range(4):
    for i in range(1000):
        assert supports(i % 3, 5 + i) == 1
    handle.medjax_conv_stats(held)
    sizes.append(resident())
print(json.dumps({"plans": held[0], "scratch": held[1], "sizes": sizes}))
"""


@pytest.mark.slow
def test_a_thousand_shapes_again_and_again_leave_memory_bounded(built):
    library = built[1].library
    done = subprocess.run(
        [sys.executable, "-c", PLANS, str(built[1].folder / "conv.so"), str(library)],
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["plans"] == 512
    assert told["scratch"] <= 256 << 20
    _, second, third, fourth = told["sizes"]
    assert max(third, fourth) - second < 30 << 20


LEAVING = """
import sys, numpy as np, jax
from medjax.nn.conv import channels_last, conv_general_dilated
x, w = np.ones((8, 48, 48, 32), "float32"), np.ones((3, 3, 32, 32), "float32")

@jax.jit
def long(x, w):
    for _ in range(20):
        x = conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=channels_last(4)) * 1e-3
    return x

call = long.lower(x, w).compile()
y = call(x, w)  # under way
if sys.argv[1] == "raise":
    raise SystemExit(7)
"""


@pytest.mark.parametrize(("how", "code"), [("end", 0), ("raise", 7)])
def test_a_process_may_end_while_a_convolution_runs(how, code, built):
    env = {**os.environ, supply.SWITCH: "on", "XLA_FLAGS": "", "MEDJAX_CACHE": str(built[0])}
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", LEAVING, how], env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == code, done.stderr
    assert time.monotonic() - began < 50
    assert "oneDNN" in done.stderr
