"""What a network that restores images must beat: the input itself, interpolation, classical denoising; on the same cases."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from medjax.cases import Cases, Rows, stack_rows
from medjax.core import Baseline
from medjax.extras import need
from medjax.metrics import restoration as metrics
from medjax.metrics.restoration import Scale
from medjax.tasks.restoration import measure_case
from medjax.tasks.tiles import IMAGE

MOST = 24  # validation cases that a baseline's setting is chosen on, evenly spread
Restore = Callable[..., np.ndarray]  # (a case's columns in turn, setting, unit) -> [D, H, W, C]
COLUMNS = ("worse",)


def as_input(given: np.ndarray, setting: float = 0.0, unit: float = 1.0) -> np.ndarray:
    """The worse image as it is."""
    return given


def bicubic(given: np.ndarray, setting: float = 0.0, unit: float = 1.0, *, factor: int) -> np.ndarray:
    """Cubic convolution with a = -.5 (Keys, IEEE TASSP 29(6), 1981), pixels being cells."""
    d, h, w, c = given.shape
    out = np.empty((d, h * factor, w * factor, c), np.float32)
    for z in range(d):
        for k in range(c):
            picture = Image.fromarray(np.ascontiguousarray(given[z, ..., k], np.float32))
            out[z, ..., k] = np.asarray(picture.resize((w * factor, h * factor), Image.Resampling.BICUBIC))
    return out


def sinc(given: np.ndarray, setting: float = 0.0, unit: float = 1.0, *, factor: int) -> np.ndarray:
    """Zeros around the centre of k-space: what a scanner does to show a coarse image on a fine grid, pixels being cells."""
    from medjax.physics.mr import enlarge_spectrum

    return np.moveaxis(enlarge_spectrum(np.moveaxis(given, -1, 1), factor), 1, -1).astype(np.float32)


def tv(given: np.ndarray, setting: float, unit: float) -> np.ndarray:
    """Total variation denoising (Rudin, Osher & Fatemi, Physica D 60, 1992; Chambolle, JMIV 20, 2004), slice by slice."""
    restoration = need("skimage.restoration", extra="restore")
    return _by_slice(lambda x: restoration.denoise_tv_chambolle(x, weight=setting), given, unit)


def nlm(given: np.ndarray, setting: float, unit: float) -> np.ndarray:
    """Non-local means (Buades et al., CVPR 2005), patches of 5 within 6 pixels, its strength `setting`, slice by slice."""
    restoration = need("skimage.restoration", extra="restore")

    def smooth(x: np.ndarray) -> np.ndarray:
        return restoration.denoise_nl_means(x, patch_size=5, patch_distance=6, h=setting, fast_mode=True)

    return _by_slice(smooth, given, unit)


def _by_slice(smooth: Callable[[np.ndarray], np.ndarray], given: np.ndarray, unit: float) -> np.ndarray:
    out = np.empty_like(given, dtype=np.float32)
    for z in range(given.shape[0]):
        for k in range(given.shape[-1]):
            out[z, ..., k] = smooth(given[z, ..., k].astype(np.float64) / unit) * unit
    return out


def fixed(restore: Restore, *, scale: Scale, structure: Scale, columns: Sequence[str] = COLUMNS) -> Baseline:
    """A baseline without a setting; `columns` are what it restores from."""
    score = functools.partial(_rows, restore, scale=scale, structure=structure, columns=columns)
    # A run keeps baselines by their arrays: one without any would not be found again.
    return Baseline(lambda train, val: {"setting": np.zeros(())}, lambda arrays, cases: score(cases, 0.0))


def tuned(
    restore: Restore,
    settings: Sequence[float],
    *,
    scale: Scale,
    structure: Scale,
    columns: Sequence[str] = COLUMNS,
    most: int = MOST,
) -> Baseline:
    """A baseline whose setting is that of the highest mean PSNR on validation cases, `most` of them."""
    score = functools.partial(_rows, restore, scale=scale, structure=structure, columns=columns)

    def fit(train: Cases, val: Cases) -> dict[str, Any]:
        part = val.take(np.unique(np.linspace(0, len(val) - 1, most).astype(int)))
        values = [metrics.summarise({"psnr": score(part, s, quick=True)["psnr"]})["psnr"] for s in settings]
        return {"setting": np.float64(settings[int(np.nanargmax(values))]), "tried": np.array([settings, values])}

    return Baseline(fit, lambda arrays, cases: score(cases, float(arrays["setting"])))


def _rows(
    restore: Restore,
    cases: Cases,
    setting: float,
    *,
    scale: Scale,
    structure: Scale,
    columns: Sequence[str],
    quick: bool = False,
) -> Rows:
    held, units = [cases[name] for name in columns], cases["scale"][:, 1]
    rows: list[Mapping[str, Any]] = []
    for i in range(len(cases)):
        found = restore(*(column[i] for column in held), setting, float(units[i]))
        rows.append(measure_case(cases, i, {IMAGE: found}, quick, scale=scale, structure=structure))
    return stack_rows(rows)
