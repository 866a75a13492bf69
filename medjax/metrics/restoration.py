"""How near a restored image is to the truth: error, structure, sharpness of edges, texture. NumPy in float64.

Images are volumes [D, H, W] of slices, a picture having D = 1. PSNR, SSIM and NMSE are those of scikit-image and of fastMRI
(Zbontar et al., arXiv:1811.08839, section 6), which measures a volume at once with the volume's maximum for a range.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import ndimage

K1, K2 = 0.01, 0.03
UNIFORM = 7  # side of the uniform window
SIGMA, TRUNCATE = 1.5, 3.5  # of the Gaussian window, which is then 11 wide
EDGES = 0.1  # share of the pixels that count as edges
BLUR = 1.0  # standard deviation of the derivative of Gaussian that finds them, in pixels
_TINY = 1e-12


class Scale(NamedTuple):
    """Between which values images are compared; both are clipped to them. `low` = `high` means: 0 to the volume's maximum,
    nothing clipped.
    """

    low: float = 0.0
    high: float = 0.0

    def apply(self, truth: np.ndarray, found: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
        """(truth, found, range), float64."""
        truth, found = truth.astype(np.float64), found.astype(np.float64)
        if self.low == self.high:
            return truth, found, float(truth.max())
        return np.clip(truth, self.low, self.high), np.clip(found, self.low, self.high), self.high - self.low

    def words(self) -> str:
        """What a definition says of it."""
        if self.low == self.high:
            return "range: the true volume's maximum"
        return f"clipped to {self.low:g} to {self.high:g}, range {self.high - self.low:g}"


MAXIMUM = Scale()


def nmse(truth: np.ndarray, found: np.ndarray) -> float:
    """|found - truth|^2 / |truth|^2 over the volume; NaN where the truth is all 0."""
    truth, found = truth.astype(np.float64), found.astype(np.float64)
    power = float(np.square(truth).sum())
    return float(np.square(found - truth).sum()) / power if power else np.nan


def psnr(truth: np.ndarray, found: np.ndarray, scale: Scale = MAXIMUM) -> float:
    """10 log10(range^2 / mean squared error) over the volume, in dB; infinite for equal images, NaN without a range."""
    truth, found, span = scale.apply(truth, found)
    if span <= 0:
        return np.nan
    error = float(np.square(found - truth).mean())
    return float(10 * np.log10(span**2 / error)) if error else np.inf


def ssim(truth: np.ndarray, found: np.ndarray, scale: Scale = MAXIMUM, *, window: str = "uniform") -> float:
    """The mean structural similarity of the slices (Wang et al., IEEE TIP 13(4), 2004, equation 13), C1 and C2 by .01 and .03.

    Args:
      truth, found: [D, H, W].
      scale: gives the range.
      window: "uniform", 7 x 7 with sample variances, as fastMRI has it; or "gaussian", of 1.5 pixels and 11 x 11 with
        population variances, as the paper has it.

    Returns:
      the mean over the pixels whose window lies inside; NaN where the slices are smaller than it, or without a range.
    """
    truth, found, span = scale.apply(truth, found)
    side = UNIFORM if window == "uniform" else 2 * int(TRUNCATE * SIGMA + 0.5) + 1
    if min(truth.shape[1:]) < side or span <= 0:
        return np.nan
    return float(np.mean([ssim_map(a, b, span, window=window).mean() for a, b in zip(truth, found, strict=True)]))


def ssim_map(truth: np.ndarray, found: np.ndarray, span: float, *, window: str = "uniform") -> np.ndarray:
    """SSIM at each pixel of a slice float64 [H, W] whose window lies inside."""
    if window == "uniform":
        side, inside = UNIFORM, UNIFORM**2 / (UNIFORM**2 - 1)

        def blur(x: np.ndarray) -> np.ndarray:
            return ndimage.uniform_filter(x, UNIFORM)
    else:
        side, inside = 2 * int(TRUNCATE * SIGMA + 0.5) + 1, 1.0

        def blur(x: np.ndarray) -> np.ndarray:
            return ndimage.gaussian_filter(x, SIGMA, truncate=TRUNCATE)

    a, b = blur(truth), blur(found)
    va, vb = inside * (blur(truth * truth) - a * a), inside * (blur(found * found) - b * b)
    both = inside * (blur(truth * found) - a * b)
    c1, c2 = (K1 * span) ** 2, (K2 * span) ** 2
    values = ((2 * a * b + c1) * (2 * both + c2)) / ((a * a + b * b + c1) * (va + vb + c2))
    cut = side // 2
    return values[cut : values.shape[0] - cut, cut : values.shape[1] - cut]


def edge(truth: np.ndarray, found: np.ndarray) -> float:
    """Sharpness of edges: the mean length of `found`'s gradient over that of the truth's, where the truth has its edges.

    Gradients are derivatives of a Gaussian of `BLUR` pixels; edges are the tenth of a volume's pixels where the truth's is
    longest. 1 is as sharp as the truth, below is blurred; noise raises it, so read it beside PSNR.
    """
    ours, theirs = _slope(truth), _slope(found)
    bound = np.quantile(ours, 1 - EDGES)
    at = (ours >= bound) & (ours > 0)
    return float(theirs[at].mean() / ours[at].mean()) if at.any() else np.nan


def _slope(volume: np.ndarray) -> np.ndarray:
    return np.stack([ndimage.gaussian_gradient_magnitude(x.astype(np.float64), BLUR) for x in volume])


def power(volume: np.ndarray, bins: int = 32) -> np.ndarray:
    """Radially averaged power spectrum [bins] from 0 to Nyquist (.5 a pixel), of slices less their means, mean over slices."""
    _, h, w = volume.shape
    radius = np.hypot(np.fft.fftfreq(h)[:, None], np.fft.fftfreq(w)[None])
    place = np.minimum((radius * 2 * bins).astype(int), bins)  # the corners beyond Nyquist in a bin of their own
    counts = np.bincount(place.ravel(), minlength=bins + 1)[:bins]
    found = np.zeros(bins)
    for x in volume.astype(np.float64):
        energy = np.abs(np.fft.fft2(x - x.mean(), norm="ortho")) ** 2
        found += np.bincount(place.ravel(), energy.ravel(), bins + 1)[:bins]
    return found / np.maximum(counts, 1) / len(volume)


def texture(truth: np.ndarray, found: np.ndarray) -> float:
    """How far apart the spectra are, in dB: the mean of |10 log10 of their ratio| over the upper half of the frequencies."""
    a, b = power(truth), power(found)
    upper = np.arange(len(a)) >= len(a) // 2
    floor = _TINY * max(float(a.max()), _TINY)
    return float(np.abs(10 * np.log10((b[upper] + floor) / (a[upper] + floor))).mean())


QUICK = ("psnr", "ssim")
MEASURES = ("psnr", "ssim", "ssim_gaussian", "nmse", "edge", "texture")


def measure_volume(
    truth: np.ndarray, found: np.ndarray, *, scale: Scale = MAXIMUM, structure: Scale = MAXIMUM, quick: bool = False
) -> dict[str, float]:
    """Each of `MEASURES` of a volume [D, H, W], and of several slices `psnr/slice`, the mean over them one by one.

    Args:
      truth, found: in the same units.
      scale: of PSNR.
      structure: of SSIM.
      quick: PSNR and SSIM alone.
    """
    values = {"psnr": psnr(truth, found, scale), "ssim": ssim(truth, found, structure)}
    if quick:
        return values
    values |= {"ssim_gaussian": ssim(truth, found, structure, window="gaussian"), "nmse": nmse(truth, found)}
    values |= {"edge": edge(truth, found), "texture": texture(truth, found)}
    slices = [psnr(truth[i : i + 1], found[i : i + 1], scale) for i in range(len(truth))]
    return {**values, "psnr/slice": float(np.mean(slices))}


def summarise(tables: Mapping[str, np.ndarray]) -> dict[str, float]:
    """{measure: [n]} -> the mean over the cases that have it; infinite PSNR counts as 100 dB."""
    found = {}
    for name, values in tables.items():
        known = np.minimum(values[~np.isnan(values)], 100.0) if name.startswith("psnr") else values[np.isfinite(values)]
        found[name] = float(known.mean()) if known.size else np.nan
    return found


def definitions(scale: Scale, structure: Scale, extra: Sequence[str] = ()) -> dict[str, str]:
    """{measure: text} for a report, of the plain names and of NAME/VARIANT for each variant of `extra`."""
    texts: dict[str, Any] = {
        "psnr": f"Peak signal-to-noise ratio of the whole volume, dB; {scale.words()}. Mean over cases; more than 100 dB "
        "counts as 100.",
        "psnr/slice": f"PSNR slice by slice; {scale.words().replace('volume', 'slice')}. Mean over slices, then cases.",
        "ssim": f"Structural similarity, uniform 7 x 7 window with sample variances; {structure.words()}. Mean over slices, "
        "then cases, as fastMRI has it.",
        "ssim_gaussian": f"Structural similarity, Gaussian window of 1.5 pixels (11 x 11); {structure.words()}. Mean over "
        "slices, then cases.",
        "nmse": "|found - truth|^2 / |truth|^2 over the volume, nothing clipped. Mean over cases.",
        "edge": "Sharpness of edges: mean gradient (derivative of a Gaussian of 1 pixel) over the truth's, at the tenth of the "
        "pixels where the truth's is largest. 1 is as sharp as the truth; noise raises it. Mean over cases.",
        "texture": "Distance of the radial power spectra of found and true images between half of Nyquist's frequency and all "
        "of it, in dB (noise spectrum); 0 is the truth's own texture. Mean over cases.",
    }
    return {**texts, **{f"{name}/{variant}": text for name, text in texts.items() for variant in extra}}
