"""Eight simulated devices, of which runs take the first unless a test says otherwise, and a cache of the session's own."""

import os
from importlib.metadata import version

# Before JAX is imported anywhere.
# Most of the time goes into compiling programs that run once: LLVM's optimisations cost more than they bring here.
os.environ["XLA_FLAGS"] = " ".join(
    [os.environ.get("XLA_FLAGS", ""), "--xla_force_host_platform_device_count=8", "--xla_backend_optimization_level=0"]
)
os.environ["JAX_PLATFORMS"] = "cpu"

import fcntl
import sys
from pathlib import Path

import hypothesis
import jax
import numpy as np
import pytest
from PIL import Image

from medjax import evaluation
from medjax.tasks import baselines

ROOT = Path(__file__).resolve().parents[1]
# The same examples in every run, so that a green suite stays green; `pytest --hypothesis-profile default` draws others.
hypothesis.settings.register_profile("fixed", derandomize=True, deadline=None)
hypothesis.settings.load_profile("fixed")
# XLA's older emitters compile a training in two thirds of the time. Only runs take them: layers are held to float64's numbers
# with those that users get. XLA ends a process at a flag that it does not know, so this is for the version that has it.
OLDER = {"xla_cpu_use_fusion_emitters": False} if version("jaxlib").startswith("0.10.") else {}
# For a process of its own.
ONE_DEVICE = {"XLA_FLAGS": os.environ["XLA_FLAGS"].replace("device_count=8", "device_count=1")}
ONE_DEVICE["XLA_FLAGS"] += "".join(f" --{name}=false" for name in OLDER)


# What takes minutes comes first, so that no worker is left alone with it at the end.
LONGEST = ("test_kill", "test_members", "test_families", "test_imaging", "test_masks")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Files of long tests before the others."""
    items.sort(key=lambda item: LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST))


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory):
    """A private cache for the session. Compiled programs are kept where MEDJAX_CACHE already pointed, if it did."""
    folder = tmp_path_factory.mktemp("cache")
    if "PYTEST_XDIST_WORKER" in os.environ:  # what one worker has compiled the others need not compile again
        for part in ("xla", "onednn"):
            shared = shared_folder(tmp_path_factory) / part
            shared.mkdir(mode=0o700, exist_ok=True)
            (folder / part).symlink_to(shared)
    before = os.environ.get("MEDJAX_CACHE")
    os.environ["MEDJAX_CACHE"] = str(folder)
    yield folder
    os.environ.pop("MEDJAX_CACHE") if before is None else os.environ.__setitem__("MEDJAX_CACHE", before)


@pytest.fixture(scope="session", autouse=True)
def one_device():
    """Runs take one device, as on most machines, unless a test names others: a program for eight takes longer to compile."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "local_devices", lambda: jax.devices()[:1])
        yield


@pytest.fixture(scope="session", autouse=True)
def older_emitters():
    """What engines compile ahead of time compiles faster; what is merely jitted stays as users have it."""
    compile = jax.stages.Lowered.compile

    def faster(lowered, compiler_options=None, **more):
        return compile(lowered, OLDER if compiler_options is None else compiler_options, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax.stages.Lowered, "compile", faster)
        yield


@pytest.fixture
def all_devices(monkeypatch):
    """Runs take all eight devices."""
    monkeypatch.setattr(jax, "local_devices", jax.devices)


@pytest.fixture(scope="module")
def brief():
    """Runs of which nobody looks at intervals or forests: few resamples, small forests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluation, "RESAMPLES", 40)
        patch.setattr(baselines, "TREES", 10)
        patch.setattr(baselines, "TREES_A_LABEL", 4)
        yield


@pytest.fixture(scope="session")
def real_data():
    """The folder of real files that MEDJAX_TEST_DATA names; tests skip without it."""
    folder = os.environ.get("MEDJAX_TEST_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("MEDJAX_TEST_DATA names no folder of real files")
    return Path(folder)


def blob_image(rng: np.random.Generator, *, bright: bool, size: int = 72) -> np.ndarray:
    """A dim disc on black with texture of its own, [size, size] uint8; with a bright spot in it where `bright`."""
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    disc = (y**2 + x**2 < (0.42 * size) ** 2) * 70.0
    coarse = rng.normal(0, 18, (12, 12)).repeat(size // 12, 0).repeat(size // 12, 1)
    image = disc + (disc > 0) * coarse
    if bright:
        cy, cx = rng.uniform(-0.2, 0.2, 2) * size
        image[(y - cy) ** 2 + (x - cx) ** 2 < (0.1 * size) ** 2] = 240
    return np.clip(image, 0, 255).astype(np.uint8)


def write_blobs(folder: Path, *, n: int, seed: int = 0, classes=("no", "yes"), ending: str = "png") -> Path:
    """FOLDER/CLASS/*.png, n images a class: an easy two-class set of independent images in the class-folder layout."""
    rng = np.random.default_rng(seed)
    for label, name in enumerate(classes):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(n):
            Image.fromarray(blob_image(rng, bright=label == 1)).save(folder / name / f"{name}{i:03d}.{ending}")
    return folder


def shared_folder(factory) -> Path:
    """A folder that all workers of the session have in common."""
    base = factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


def made_once(path: Path, make) -> Path:
    """`make(path)` by the first worker that asks; the others wait for it."""
    with open(path.with_name(f"{path.name}.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = path.with_name(f"{path.name}.done")
        if not done.exists():
            make(path)
            done.touch()
    return path


@pytest.fixture(scope="session")
def blobs(tmp_path_factory):
    """120 images in two class folders. Shared, so do not change them."""
    return made_once(shared_folder(tmp_path_factory) / "blobs", lambda path: write_blobs(path, n=60))


SETTINGS = {"model.width": 4, "model.blocks": "1 1", "train.steps": 12, "train.batch_size": 16}
SETTINGS |= {"train.eval_every": 6, "train.checkpoint_every": 6}
SMALL = [word for name, value in SETTINGS.items() for word in (f"--{name}", *str(value).split())]


def run_cli(*args, cwd=None, env=None, timeout=300):
    """`medjax ARGS` in a process of its own, on one device -> CompletedProcess with text output."""
    import subprocess

    return subprocess.run(
        [sys.executable, "-m", "medjax.cli", *map(str, args)],
        cwd=cwd or ROOT,
        env={**os.environ, **ONE_DEVICE, **(env or {})},
        capture_output=True,
        text=True,
        timeout=timeout,
    )


@pytest.fixture(scope="session")
def finished(blobs, tmp_path_factory, cache):
    """A finished small run of the default experiment on `blobs`: (run folder, data folder). Shared, so do not change it."""

    def make(out):
        done = run_cli("train", "brain_tumor_mri", "--data.path", blobs, "--out", out, *SMALL)
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[-1] == str(out)

    return made_once(shared_folder(tmp_path_factory) / "finished", make), blobs
