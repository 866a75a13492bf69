"""`medjax doctor`: versions, devices, the path of convolutions, caches, what is missing and how to get it."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import sys
from pathlib import Path
from typing import NamedTuple

from medjax.errors import InputError

CORE = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "scipy", "scikit-learn")
# What each extra is for, and a distribution that tells whether it is there.
EXTRAS = {
    "cpu": ("fast convolutions on the CPU", "onednn-cpu-gomp"),
    "cuda": ("NVIDIA GPUs", "jax-cuda13-plugin"),
    "tpu": ("TPUs", "libtpu"),
    "bench": ("PyTorch, to compare speed with", "torch"),
    "records": ("Parquet and long tables of records", "pyarrow"),
    "text": ("byte-pair pieces of words", "tokenizers"),
    "test": ("the tests", "pytest"),
}


class Finding(NamedTuple):
    """One line: what was looked at, how it stands, and what would mend or change it ("" where nothing need be done)."""

    topic: str
    state: str
    mend: str = ""


def examine() -> list[Finding]:
    """Look at this installation and machine. May build the CPU's convolutions, as a first run would."""
    import jax

    from medjax.nn.onednn import choice
    from medjax.nn.onednn.supply import usable_cores
    from medjax.run import version

    found = [Finding("medjax", f"{version()} in {Path(__file__).parent}")]
    found.append(Finding("python", f"{platform.python_version()} on {platform.system()} {platform.machine()}"))
    for name in CORE:
        installed = _version(name)
        found.append(Finding(name, installed or "missing", "" if installed else "pip install medjax"))
    devices = [f"{d.platform} {d.device_kind}" for d in jax.devices()]
    what = ", ".join(f"{devices.count(d)} x {d}" for d in dict.fromkeys(devices))
    found.append(Finding("devices", what, _driver_hint(jax.default_backend())))
    found.append(Finding("CPU cores", f"{usable_cores()} usable of {os.cpu_count()}"))
    try:
        path = choice()
        name = f"oneDNN {path.facts['version']}, {path.facts['threads']} threads" if path.path == "onednn" else "lax"
        found.append(Finding("convolutions", f"{name}: {path.reason}", path.mend))
    except InputError as error:
        reason, _, mend = str(error).partition("\n")
        found.append(Finding("convolutions", reason, mend))
    found.append(_cache())
    compiler = next((c for c in ("g++", "c++", "clang++") if shutil.which(c)), None)
    found.append(Finding("C++ compiler", compiler or "none", "" if compiler else "apt install g++ (for the extra cpu)"))
    for extra, (purpose, distribution) in EXTRAS.items():
        installed = _version(distribution)
        state = f"{distribution} {installed}" if installed else f"not installed ({purpose})"
        found.append(Finding(f"extra {extra}", state, "" if installed else f"pip install 'medjax[{extra}]'"))
    return found


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _driver_hint(backend: str) -> str:
    """A GPU that the system shows and JAX does not use is worth a word."""
    if backend == "cpu" and sys.platform == "linux" and Path("/proc/driver/nvidia/version").exists():
        return "there is an NVIDIA driver, but JAX does not use it: pip install 'medjax[cuda]'"
    return ""


def _cache() -> Finding:
    from medjax.files import cache_dir

    try:
        folder = cache_dir()
        size = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file() and not f.is_symlink())
        free = shutil.disk_usage(folder).free
    except InputError as error:
        reason, _, mend = str(error).partition("\n")
        return Finding("cache", reason, mend)
    except OSError as error:
        return Finding("cache", f"cannot be read ({error.strerror})", "set MEDJAX_CACHE to a folder of your own")
    state = f"{folder}: {size / 2**20:,.0f} MB, {free / 2**30:,.0f} GB free"
    return Finding("cache", state, "" if free > 2**32 else "make room")
