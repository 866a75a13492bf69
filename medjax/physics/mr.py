"""What makes magnetic resonance images worse: thick slices, uneven coils, noise."""

from __future__ import annotations

import numpy as np


def thick_slices(volume: np.ndarray, thickness: int) -> np.ndarray:
    """Means of `thickness` neighbouring slices: float32 [D // thickness, ...] from [D, ...]; what is left over is cut off."""
    d = len(volume) // thickness
    return volume[: d * thickness].reshape(d, thickness, *volume.shape[1:]).mean(1, dtype=np.float64).astype(np.float32)


def bias_field(rng: np.random.Generator, shape: tuple[int, ...], *, strength: float, order: int = 3) -> np.ndarray:
    """A smooth positive field as uneven coils multiply images by: exp of a polynomial of a low order in each axis.

    After Van Leemput et al. (IEEE TMI 18, 1999): log-bias as a linear combination of smooth functions of the place.

    Args:
      rng: draws the coefficients.
      shape: of the field.
      strength: the log of the field runs from -strength to strength.
      order: highest total degree of the polynomial; 1 and more.

    Returns:
      float32 [*shape].
    """
    axes = [np.linspace(-1, 1, n) if n > 1 else np.zeros(1) for n in shape]
    field = np.zeros(shape)
    for degrees in np.ndindex(*[order + 1] * len(shape)):
        if not 0 < sum(degrees) <= order:
            continue
        term = np.full((1,) * len(shape), rng.normal())
        for axis, (x, degree) in enumerate(zip(axes, degrees, strict=True)):
            term = term * np.reshape(x**degree, [-1 if a == axis else 1 for a in range(len(shape))])
        field += term
    low, high = field.min(), field.max()
    return np.exp((field - low) * (2 * strength / max(high - low, 1e-12)) - strength).astype(np.float32)


def rician(rng: np.random.Generator, image: np.ndarray, *, sigma: float) -> np.ndarray:
    """The magnitude of an image with Gaussian noise in both of its channels: sqrt((v + e1)^2 + e2^2), e ~ N(0, sigma^2).

    Gudbjartsson & Patz, Magnetic Resonance in Medicine 34, 1995, equation 1.

    Args:
      rng: draws the noise.
      image: float, real, 0 and more.
      sigma: in the image's units.

    Returns:
      float32, of the image's shape.
    """
    real = image + sigma * rng.standard_normal(image.shape)
    return np.hypot(real, sigma * rng.standard_normal(image.shape)).astype(np.float32)


def truncate(image: np.ndarray, factor: int) -> np.ndarray:
    """What a scan of a `factor`-th of k-space along rows and columns sees: complex64 [..., h / factor, w / factor].

    The centre of the spectrum is kept, sharply cut, as in an acquisition of a smaller matrix (which rings at edges, after
    Gibbs); values keep their scale. Pixels are cells: coarse pixel i covers fine ones i f to i f + f - 1, so the spectrum's
    phase moves samples by (f - 1) / 2. Where a side is even, the frequency at its edge is left out, as it has no partner.

    Args:
      image: [..., h, w], real or complex, sides multiples of `factor`.
      factor: 1 and more.
    """
    return _resampled(image, tuple(side // factor for side in image.shape[-2:]), (factor - 1) / 2).astype(np.complex64)


def enlarge_spectrum(image: np.ndarray, factor: int) -> np.ndarray:
    """Sinc interpolation of [..., h, w] to a grid `factor` times as fine, pixels being cells: zeros around k-space.

    Real where the image is.
    """
    found = _resampled(image, tuple(side * factor for side in image.shape[-2:]), (1 / factor - 1) / 2)
    return found if np.iscomplexobj(image) else found.real


def _resampled(image: np.ndarray, shape: tuple[int, ...], shift: float) -> np.ndarray:
    """[..., h, w] -> [..., *shape] by cutting or filling up its spectrum, sampled `shift` of its own pixels later."""
    for axis, m in zip((-2, -1), shape, strict=True):
        n = image.shape[axis]
        kept = (min(n, m) - 1) // 2  # frequencies -kept to kept
        k = np.arange(-kept, kept + 1)
        spectrum = np.take(np.fft.fft(image, axis=axis), k % n, axis)
        phase = np.exp(2j * np.pi * k * shift / n) * (m / n)
        spectrum = spectrum * phase.reshape([-1 if a == axis % image.ndim else 1 for a in range(image.ndim)])
        wide = np.zeros((*spectrum.shape[: axis % image.ndim], m, *spectrum.shape[axis % image.ndim + 1 :]), spectrum.dtype)
        np.moveaxis(wide, axis, 0)[k % m] = np.moveaxis(spectrum, axis, 0)
        image = np.fft.ifft(wide, axis=axis)
    return image


def motion(rng: np.random.Generator, image: np.ndarray, *, shifts: float, moves: int = 4) -> np.ndarray:
    """A slice whose patient moved a few times while rows of k-space were read one after the other: complex64 [..., h, w].

    Each stretch of rows is of the image moved as a whole, by up to `shifts` pixels along both axes: a phase of its rows
    (Zaitsev et al., Journal of Magnetic Resonance Imaging 42, 2015).

    Args:
      rng: draws when and how far.
      image: [..., h, w], real or complex.
      shifts: the greatest distance along each axis, in pixels; 0 changes nothing.
      moves: how often; the stretch that holds the centre of k-space stays where it is.
    """
    h, w = image.shape[-2:]
    spectrum = np.fft.fftshift(np.fft.fft2(image), axes=(-2, -1))
    ends = np.sort(rng.integers(0, h, moves))
    stretch = np.searchsorted(ends, np.arange(h), side="right")
    by = rng.uniform(-shifts, shifts, (moves + 1, 2))
    by[stretch[h // 2]] = 0
    ky, kx = np.arange(h) - h // 2, np.arange(w) - w // 2
    turns = ky[:, None] * by[stretch, :1] / h + kx[None, :] * by[stretch, 1:] / w
    return np.fft.ifft2(np.fft.ifftshift(spectrum * np.exp(-2j * np.pi * turns), axes=(-2, -1))).astype(np.complex64)
