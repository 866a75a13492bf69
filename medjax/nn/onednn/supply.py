"""Which path the CPU's convolutions take, and how the compiled part is found, built, checked and loaded."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import importlib.metadata
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import NamedTuple

from medjax.console import say
from medjax.errors import InputError
from medjax.files import cache_dir, publish, sha256, staging, write_json

SPINS = "2000"  # of the loop in which a libgomp thread waits, some 100 us
SWITCH = "MEDJAX_CPU_CONV"
LIBRARY, HEADERS = "onednn-cpu-gomp", "onednn-devel-cpu-gomp"
SOURCE = Path(__file__).with_name("conv.cc")
TARGETS = {
    "medjax_conv_output": "MedjaxConvOutput",
    "medjax_conv_input_grad": "MedjaxConvInputGrad",
    "medjax_conv_kernel_grad": "MedjaxConvKernelGrad",
}
BUILD_SECONDS, CHECK_SECONDS = 300, 300
INSTALL = "pip install 'medjax[cpu]'"


class Choice(NamedTuple):
    """The path of convolutions on the CPU.

    Attributes:
      path: "onednn" or "lax".
      reason: why, in words.
      mend: how to get the other, or "".
      facts: version, threads, the check's figures; empty for lax.
    """

    path: str
    reason: str
    mend: str = ""
    facts: dict = {}  # noqa: RUF012, a NamedTuple's default; never changed

    def line(self) -> str:
        """The one line that a run says."""
        if self.path == "onednn":
            return f"convolutions: oneDNN {self.facts['version']}, {self.facts['threads']} threads"
        return f"convolutions: lax ({self.reason})" + (f"; {self.mend}" if self.mend else "")


class _NotToBeHad(Exception):
    """Why oneDNN cannot be used, and the mend."""

    def __init__(self, reason: str, mend: str = ""):
        super().__init__(reason)
        self.reason, self.mend = reason, mend


def choice() -> Choice:
    """Decide, once a process, whichever thread asks first: that call may build (about 20 s) and says so in one line.

    $MEDJAX_CPU_CONV is "auto" (default: oneDNN where it can be had and is faster), "off" (lax) or "on" (oneDNN even where the
    check found it slower).

    Raises:
      InputError: another value; or "on", and oneDNN cannot be had.
    """
    with _deciding:
        return _decide()


_deciding = threading.Lock()


@functools.cache
def _decide() -> Choice:
    wanted = os.environ.get(SWITCH, "auto") or "auto"
    if wanted not in ("on", "off", "auto"):
        raise InputError(f"{SWITCH}={wanted}: is not one of on, off, auto", usage=True)
    if wanted == "off":
        return Choice("lax", f"{SWITCH}=off", f"unset {SWITCH} for oneDNN")
    import jax

    backend = jax.default_backend()
    if backend != "cpu":
        return Choice("lax", f"the backend is {backend}")
    try:
        found = _load(ready(), even_if_slower=wanted == "on")
    except _NotToBeHad as why:
        if wanted == "on":
            raise InputError(f"{SWITCH}=on, but {why.reason}\n{why.mend or f'unset {SWITCH}'}") from None
        found = Choice("lax", why.reason, why.mend)
    say(found.line())
    return found


class Build(NamedTuple):
    """A finished build: its folder in the cache, the library beside it, and what the check found."""

    folder: Path
    library: Path
    verdict: dict


def ready() -> Build:
    """The build for this source, JAX, library and processor, from the cache or made now.

    Raises:
      _NotToBeHad: it cannot be.
    """
    if sys.platform != "linux" or platform.machine() != "x86_64":
        raise _NotToBeHad(f"oneDNN comes for x86-64 Linux only, this is {platform.machine()} {platform.system()}")
    library, include = _find_library()
    key = _key(library)
    try:
        home = cache_dir() / "onednn"
        home.mkdir(mode=0o700, exist_ok=True)
        folder = home / key
        if not (folder / "verdict.json").is_file():
            say("building the CPU's convolutions with oneDNN, once (about 20 s)")
            with staging(home) as work:
                verdict = _build(work, library, include)
                write_json(work / "verdict.json", verdict)
                publish(work, folder)
        return Build(folder, library, _read_verdict(folder))
    except InputError as error:
        raise _NotToBeHad(*str(error).split("\n", 1)) from None
    except OSError as error:
        mend = "set MEDJAX_CACHE to a folder of your own"
        raise _NotToBeHad(f"the cache cannot be written ({error.strerror})", mend) from None
    except ValueError:
        raise _NotToBeHad(f"{folder / 'verdict.json'} is damaged", f"remove {folder}") from None


def _read_verdict(folder: Path) -> dict:
    """Raises ValueError unless it is one that `_build` wrote."""
    path = folder / "verdict.json"
    if not path.is_file():  # a build is given its name with the verdict in it, so somebody has removed it
        raise ValueError("no verdict")
    verdict = json.loads(path.read_text())
    known = {"version", "speedup", "error", "sha256"}
    if not isinstance(verdict, dict) or (verdict.get("works") and not known <= verdict.keys()):
        raise ValueError("not a verdict")
    return verdict


def _find_library() -> tuple[Path, Path]:
    """(libdnnl.so.3, folder of oneDNN's headers), where pip has put them."""
    try:
        files = [f for name in (LIBRARY, HEADERS) for f in importlib.metadata.files(name) or ()]
    except importlib.metadata.PackageNotFoundError:
        raise _NotToBeHad("the extra cpu is not installed, which trains CNNs 2 to 8 times faster", INSTALL) from None
    libraries = [f for f in files if f.name == "libdnnl.so.3"]
    headers = [f for f in files if f.name == "dnnl.hpp" and f.parent.name == "dnnl"]
    if not libraries or not headers:
        raise _NotToBeHad("the installed oneDNN is not whole", f"{INSTALL} --force-reinstall")
    library, header = (Path(str(f.locate())).resolve() for f in (libraries[0], headers[0]))
    if not library.is_file() or not header.is_file():
        raise _NotToBeHad(f"{library if not library.is_file() else header} is missing", f"{INSTALL} --force-reinstall")
    return library, header.parents[2]


def _key(library: Path) -> str:
    """Names the folder of a build: whatever could make another one necessary is in it."""
    import jax.ffi
    import jaxlib

    sources = [SOURCE, *(SOURCE.with_name(name) for name in ("primitive.py", "check.py"))]
    headers = sorted(Path(jax.ffi.include_dir()).rglob("xla/ffi/api/*.h"))
    info = library.stat()
    parts = [
        *(hashlib.sha256(file.read_bytes()).hexdigest() for file in (*sources, *headers)),
        jax.__version__,
        jaxlib.__version__,
        str(library),
        f"{info.st_size} {info.st_mtime_ns}",
        _processor(),  # home folders are shared between machines, and what is fast on one is an illegal instruction on another
        os.environ.get("CXX", ""),
    ]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:24]


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
    except OSError:
        return platform.processor()
    return "\n".join(line for line in lines if line.startswith(("model name", "flags")))


def in_force() -> dict | None:
    """What environment.json says of the convolutions traced so far; None where nothing has asked for one."""
    if not _decide.cache_info().currsize:
        return None
    import jax

    found = choice()
    return {"path": found.path, "platform": jax.default_backend(), "reason": found.reason, **found.facts}


def _build(work: Path, library: Path, include: Path) -> dict:
    """Compile into `work`, check in a process of its own (it may crash), and return the verdict."""
    import jax.ffi

    compiler = shlex.split(os.environ.get("CXX", "")) or [next((c for c in ("g++", "c++", "clang++") if shutil.which(c)), "")]
    if not compiler[0] or not shutil.which(compiler[0]):
        raise _NotToBeHad("there is no C++ compiler", "install one (apt install g++)")
    command = [*compiler, "-std=c++17", "-O2", "-fPIC", "-shared", str(SOURCE), "-o", str(work / "conv.so")]
    command += ["-I", jax.ffi.include_dir(), "-I", str(include), str(library)]
    built = _run(command, BUILD_SECONDS, "the compiler")
    if built.returncode < 0 or "No space left" in built.stderr or "Killed" in built.stderr:  # may not happen again
        raise _NotToBeHad("the compiler was stopped", "see that there is memory and disk space")
    if built.returncode:
        first = next((line for line in built.stderr.splitlines() if "error" in line), f"{compiler[0]} failed").strip()
        return {"works": False, "reason": f"it could not be compiled: {first}"}
    # -P: a user's own random.py in the working folder is not the standard library's.
    roots = [*filter(None, [os.environ.get("PYTHONPATH")]), str(Path(__file__).parents[3])]
    flags = "--xla_force_host_platform_device_count=2"
    env = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags, SWITCH: "off", "PYTHONPATH": os.pathsep.join(roots)}
    command = [sys.executable, "-P", "-m", "medjax.nn.onednn.check", str(work / "conv.so"), str(library)]
    checked = _run(command, CHECK_SECONDS, "the check", env)
    try:
        verdict = json.loads(checked.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        last = (checked.stderr.strip().splitlines() or [f"it ended with code {checked.returncode}"])[-1]
        return {"works": False, "reason": f"the check of the build failed: {last[:200]}"}
    return {**verdict, "sha256": sha256(work / "conv.so")}


def _run(command: list[str], seconds: float, what: str, env: dict | None = None) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=seconds, env=env, check=False)
    except subprocess.TimeoutExpired:  # a busy machine: not remembered
        raise _NotToBeHad(f"{what} took over {seconds} s") from None
    except OSError as error:
        raise _NotToBeHad(f"{what} could not be started ({error.strerror})") from None


def _load(build: Build, *, even_if_slower: bool) -> Choice:
    """Load a checked build into this process and tell JAX of it."""
    folder, library, verdict = build
    again = f"rm -r {folder} has it built again"
    if not verdict.get("works"):
        raise _NotToBeHad(verdict.get("reason", "the check of the build failed"), again)
    # A machine that is busy while the check runs slows oneDNN's threads more than XLA's: only what is clearly slower counts.
    if verdict["speedup"] < 0.8 and not even_if_slower:
        raise _NotToBeHad(f"oneDNN is slower here: {verdict['speedup']:.2f} times lax's speed", f"{SWITCH}=on takes it still")
    compiled = folder / "conv.so"
    if not compiled.is_file() or sha256(compiled) != verdict.get("sha256"):
        raise _NotToBeHad(f"{compiled} is not what was built", again)
    threads = usable_cores()
    try:
        load(compiled, library, threads)
    except OSError as error:
        raise _NotToBeHad(f"it cannot be loaded: {error}", again) from None
    facts = {"version": verdict["version"], "threads": threads, "speedup": verdict["speedup"], "error": verdict["error"]}
    return Choice("onednn", f"{verdict['speedup']:.1f} times lax's speed when it was checked", f"{SWITCH}=off for lax", facts)


def load(compiled: Path, library: Path, threads: int) -> ctypes.CDLL:
    """Load conv.so after the libdnnl it was built with, and register its targets with XLA."""
    import jax

    from medjax.nn.onednn import primitive

    # Waiting OpenMP threads spin a little, which bridges one call and the next, then sleep: longer, they would fight XLA's
    # threads for the cores. libgomp reads this as it loads.
    wanted = {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": SPINS}
    ours = {name: value for name, value in wanted.items() if name not in os.environ}
    os.environ.update(ours)
    try:
        ctypes.CDLL(str(library))
        handle = ctypes.CDLL(str(compiled))
    finally:
        for name in ours:
            del os.environ[name]
    handle.medjax_conv_threads(threads)
    for target, symbol in TARGETS.items():
        jax.ffi.register_ffi_target(target, jax.ffi.pycapsule(getattr(handle, symbol)), platform="cpu")
    primitive.use(handle)
    return handle


def usable_cores() -> int:
    """Physical cores that this process may use: its affinity, hyper-threads counted once, within the control group's quota."""
    if (count := os.environ.get("OMP_NUM_THREADS", "").split(",")[0]).isdigit() and int(count) > 0:
        return int(count)
    cores = set()
    for cpu in os.sched_getaffinity(0):
        try:
            siblings = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list").read_text().strip()
        except OSError:
            siblings = str(cpu)
        cores.add(siblings)
    return max(1, min(len(cores), _quota()))


def _quota() -> int:
    """CPUs that the control group grants, rounded up; a very large number where it sets no bound."""
    for path in ("/sys/fs/cgroup/cpu.max", "/sys/fs/cgroup/cpu/cpu.cfs_quota_us"):
        try:
            words = Path(path).read_text().split()
            if path.endswith("us"):
                words.append(Path("/sys/fs/cgroup/cpu/cpu.cfs_period_us").read_text())
            if words[0] not in ("max", "-1"):
                return -(-int(words[0]) // int(words[1]))
        except (OSError, ValueError, IndexError):
            continue
    return 1 << 20
