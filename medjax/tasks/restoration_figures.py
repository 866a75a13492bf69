"""Figures of a restoration: before, after, truth and difference in a diagnostic window; PSNR by case; power spectra."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from medjax.cases import Cases, Rows
from medjax.core import Figure
from medjax.formats.image import resize
from medjax.metrics import restoration as metrics
from medjax.metrics.restoration import Scale

SIDE = 256  # pixels of a shown slice along its longer side, at least
DIFFERENCE = 5  # how much stronger differences are shown than images
_SPECTRA = 24  # cases that spectra are averaged over, at most


def figures(rows: Rows, cases: Cases, others: Mapping[str, Rows], *, window: Scale, factor: int) -> dict[str, Figure]:
    """See the module. Nothing where no truth is known."""
    psnr = np.asarray(rows["psnr"], float)
    known = np.flatnonzero(np.isfinite(psnr))
    if not len(known):
        return {}
    order = known[np.argsort(psnr[known], kind="stable")]
    variants = [name for name in rows if name.startswith("image")]
    found = {"before_after": _pictures(rows, cases, order, variants, window)}
    groups = [{"label": "network", "x": np.arange(1, len(order) + 1), "y": psnr[order[::-1]]}]
    for name, other in others.items():
        groups.append(
            {"label": name.replace("_", "-"), "x": np.arange(1, len(order) + 1), "y": np.asarray(other["psnr"])[order[::-1]]}
        )
    found["psnr_by_case"] = Figure(
        "points",
        "PSNR, case by case",
        "Each case of the split, the network's best on the left: what a mean hides.",
        {"groups": groups, "xlabel": "case, from best to worst", "ylabel": "PSNR, dB"},
    )
    found["spectra"] = _spectra(rows, cases, known, variants)
    return found


def _title(name: str) -> str:
    return {"image": "network"}.get(name, name.partition("/")[2])


def _pictures(rows: Rows, cases: Cases, order: np.ndarray, variants: Sequence[str], window: Scale) -> Figure:
    middle = len(order) // 2
    chosen = {"best": order[-1], "median": order[middle], "worst": order[0]}
    lines: list[dict[str, Any]] = []
    for label, i in dict(list(chosen.items())[: len(order)]).items():
        truth = cases["truth"][int(i)]
        z = len(truth) // 2
        truth = truth[z, ..., 0]
        span = (0.0, float(truth.max())) if window.low == window.high else (window.low, window.high)
        before = _before(cases, int(i))
        images = [_grey(_larger(before[min(z, len(before) - 1), ..., 0], truth.shape), span), _grey(truth, span)]
        titles = [f"before · {str(cases['id'][i]).rsplit('/', 1)[-1]}", "truth"]
        for name in variants:
            after = np.asarray(rows[name][int(i)])[z, ..., 0]
            wide = (span[1] - span[0]) / (2 * DIFFERENCE)
            images += [_grey(after, span), _grey(after - truth, (-wide, wide))]
            value = float(rows[name.replace("image", "psnr")][i])
            titles += [f"{_title(name)} · {value:.1f} dB", f"its difference, x{DIFFERENCE}"]
        lines.append({"label": label, "images": [_shown(image) for image in images], "titles": titles})
    shown = "0 to the truth's maximum" if window.low == window.high else f"{window.low:g} to {window.high:g}"
    return Figure(
        "grid",
        "Before and after",
        f"The best, median and worst case by the network's PSNR, their middle slices. Window: {shown}; differences to the "
        f"truth are {DIFFERENCE} times stronger, grey where there is none.",
        {"rows": lines},
    )


def _before(cases: Cases, i: int) -> np.ndarray:
    """[D, h, w, C] of what the network was given, as an image: `shown` where the input itself is none."""
    return np.asarray(cases["shown" if "shown" in cases else "worse"][i])


def _grey(image: np.ndarray, span: tuple[float, float]) -> np.ndarray:
    return np.clip((image - span[0]) * (255 / max(span[1] - span[0], 1e-12)), 0, 255).astype(np.uint8)


def _larger(image: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A coarse slice on the fine grid, each pixel a square, as it was measured."""
    rows, columns = (np.minimum(np.arange(n) * m // n, m - 1) for n, m in zip(shape, image.shape))
    return image[np.ix_(rows, columns)]


def _shown(image: np.ndarray) -> np.ndarray:
    grow = max(1.0, SIDE / max(image.shape))
    return resize(image, (round(image.shape[0] * grow), round(image.shape[1] * grow))) if grow > 1 else image


def _spectra(rows: Rows, cases: Cases, known: np.ndarray, variants: Sequence[str]) -> Figure:
    some = known[np.unique(np.linspace(0, len(known) - 1, _SPECTRA).astype(int))]

    def mean(images: Sequence[np.ndarray]) -> np.ndarray:
        return 10 * np.log10(np.maximum(np.mean([metrics.power(x[..., 0]) for x in images], 0), 1e-12))

    truth = [np.asarray(cases["truth"][int(i)]) for i in some]
    x = (np.arange(32) + 0.5) / 64
    lines = [{"label": "truth", "x": x, "y": mean(truth)}]
    for name in variants:
        after = [np.asarray(rows[name][int(i)]) for i in some]
        lines.append({"label": _title(name), "x": x, "y": mean(after)})
        errors = [a - b for a, b in zip(after, truth, strict=True)]
        lines.append({"label": f"error of {_title(name)}", "x": x, "y": mean(errors)})
    return Figure(
        "lines",
        "Power spectra",
        f"Radially averaged power of images and of their errors (the noise spectrum), mean over {len(some)} cases. Where a "
        "line falls below the truth's, texture is lost; above it, texture is made up.",
        {"lines": lines, "xlabel": "frequency, cycles a pixel", "ylabel": "power, dB"},
    )
