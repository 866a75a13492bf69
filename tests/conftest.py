"""Every test sees eight simulated devices and a cache of its own session; nothing touches the user's cache."""

import os

# Before JAX is imported anywhere.
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
os.environ["JAX_PLATFORMS"] = "cpu"

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory):
    """A private cache for the session. Compiled programs are kept where MEDJAX_CACHE already pointed, if it did."""
    folder = tmp_path_factory.mktemp("cache")
    before = os.environ.get("MEDJAX_CACHE")
    os.environ["MEDJAX_CACHE"] = str(folder)
    yield folder
    os.environ.pop("MEDJAX_CACHE") if before is None else os.environ.__setitem__("MEDJAX_CACHE", before)


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


@pytest.fixture(scope="session")
def blobs(tmp_path_factory):
    """120 images in two class folders."""
    return write_blobs(tmp_path_factory.mktemp("blobs"), n=60)


SETTINGS = {"model.width": 4, "model.blocks": "1 1", "train.steps": 12, "train.batch_size": 16}
SETTINGS |= {"train.eval_every": 6, "train.checkpoint_every": 6}
SMALL = [word for name, value in SETTINGS.items() for word in (f"--{name}", *str(value).split())]


def run_cli(*args, cwd=None, env=None, timeout=300):
    """`medjax ARGS` in a process of its own -> CompletedProcess with text output."""
    import subprocess

    return subprocess.run(
        [sys.executable, "-m", "medjax.cli", *map(str, args)],
        cwd=cwd or ROOT,
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        timeout=timeout,
    )


@pytest.fixture(scope="session")
def finished(blobs, tmp_path_factory, cache):
    """A finished small run of the default experiment on `blobs`: (run folder, data folder). Shared, so do not change it."""
    out = tmp_path_factory.mktemp("runs") / "finished"
    done = run_cli("train", "brain_tumor_mri", "--data.path", blobs, "--out", out, *SMALL)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == str(out)
    return out, blobs
