"""Computed tomography in two dimensions with parallel beams: a projector with its exact adjoint, reconstruction, dose.

Lengths are in pixels. The image's middle is the axis of rotation; view v looks along the direction at angle a_v, and detector
d reads the line integral at s_d = (d - (D - 1) / 2) from the axis, x cos a + y sin a = s with x along columns and y down rows.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from medjax.physics.scanner import Scanner

MU_WATER = 0.0192  # per mm, at about 70 keV


def view_angles(views: int) -> np.ndarray:
    """Angles evenly spread over half a turn, float64 [views]."""
    return np.arange(views) * (np.pi / views)


def detectors(side: int) -> int:
    """As many detectors of one pixel as see the whole of a square of this side."""
    return int(np.ceil(side * np.sqrt(2))) // 2 * 2 + 3


def _joseph(image: jax.Array, cos: Any, sin: Any, count: int) -> jax.Array:
    """The line integrals [count] of a view whose rays run nearer to the columns (|cos| >= |sin|).

    In each row the ray reads between two pixels, linearly (Joseph, IEEE TMI 1(3), 1982); a row is 1 / |cos| long to it.

    Args:
      image: float [h, w + 3], a column of zeros before it and two behind, which rays that pass outside read.
      cos, sin: of the view.
      count: of detectors.
    """
    h, wide = image.shape
    s, y = jnp.arange(count) - (count - 1) / 2, jnp.arange(h) - (h - 1) / 2
    x = jnp.clip(s[None, :] / cos + ((wide - 4) / 2 + 1 - y * (sin / cos))[:, None], 0, wide - 2)
    left = x.astype(int)
    flat, at = image.reshape(-1), left + (jnp.arange(h) * wide)[:, None]
    # Clipped above: to have each place checked once more would take as long as all else.
    a, b = (flat.at[at + k].get(mode="promise_in_bounds") for k in (0, 1))
    return (a + (b - a) * (x - left)).sum(0) / abs(cos)


def _joseph_adjoint(readings: jax.Array, cos: Any, sin: Any, shape: tuple[int, int]) -> jax.Array:
    """The exact adjoint of `_joseph`: neighbouring rays cross a row 1 / |cos| >= 1 pixels apart, so two see a pixel at most."""
    h, w = shape
    count = readings.shape[0]
    y, x = jnp.arange(h) - (h - 1) / 2, jnp.arange(w) - (w - 1) / 2
    t = x[None, :] * cos + y[:, None] * sin + (count - 1) / 2
    low = jnp.floor(t)
    left = low.astype(int)
    padded = jnp.pad(readings, (1, 2))
    total = jnp.zeros(())
    for k in (0, 1):
        weight = jnp.maximum(1 - jnp.abs(left + k - t) / abs(cos), 0)
        at = left + k
        total = total + padded[jnp.clip(at + 1, 0, count + 1)] * (weight * ((at >= 0) & (at < count)))
    return total / abs(cos)


def _turned(angle: float) -> tuple[bool, float, float]:
    """(whether the image is to be transposed, cos, sin) so that |cos| >= |sin|."""
    cos, sin = float(np.cos(angle)), float(np.sin(angle))
    return (True, sin, cos) if abs(sin) > abs(cos) else (False, cos, sin)


def simulate(image: np.ndarray, angles: np.ndarray, count: int) -> np.ndarray:
    """`project` in NumPy, for preparing data: image [H, W] -> float64 [views, count]."""
    out = np.empty((len(angles), count))
    # Lines with zeros on either side, which rays that pass outside are sent to.
    flat = {swap: np.pad(part, ((0, 0), (1, 2))).astype(np.float32) for swap, part in ((False, image), (True, image.T))}
    s = (np.arange(count) - (count - 1) / 2).astype(np.float32)
    for v, angle in enumerate(angles):
        swap, cos, sin = _turned(angle)
        padded = flat[swap]
        h, wide = padded.shape
        y = (np.arange(h) - (h - 1) / 2).astype(np.float32)
        x = s[None, :] * np.float32(1 / cos) + (np.float32((wide - 4) / 2 + 1) - y * np.float32(sin / cos))[:, None]
        np.clip(x, 0, wide - 2, out=x)
        left = x.astype(np.int32)
        x -= left
        left += (np.arange(h, dtype=np.int32) * wide)[:, None]
        a = padded.ravel().take(left)
        left += 1
        b = padded.ravel().take(left)
        b -= a
        b *= x
        b += a
        out[v] = b.sum(0, dtype=np.float64) / abs(cos)
    return out


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def project(image: jax.Array, angles: tuple[float, ...], count: int) -> jax.Array:
    """Line integrals of an image, differentiable with `back_project` as its gradient.

    Args:
      image: float [H, W].
      angles: of the views, a tuple.
      count: of detectors.

    Returns:
      float [views, count].
    """
    return _all_views(functools.partial(_joseph, count=count), image, angles)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def back_project(readings: jax.Array, angles: tuple[float, ...], shape: tuple[int, int]) -> jax.Array:
    """The exact adjoint of `project`: <project(x), y> = <x, back_project(y)>. float [views, D] -> [H, W]."""
    groups = _groups(angles)
    total = jnp.zeros(shape, readings.dtype)
    for swap, (index, cos, sin) in groups.items():
        size = shape[::-1] if swap else shape

        def add(image: jax.Array, view: Any, size: tuple[int, int] = size) -> tuple[jax.Array, None]:
            row, c, s = view
            return image + _joseph_adjoint(row, c, s, size).astype(image.dtype), None

        part, _ = jax.lax.scan(add, jnp.zeros(size, readings.dtype), (readings[index], cos, sin))
        total = total + (part.T if swap else part)
    return total


def _groups(angles: tuple[float, ...]) -> dict[bool, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """{transposed or not: (places of its views, their cos, their sin)}."""
    turned = [_turned(angle) for angle in angles]
    found = {}
    for swap in (False, True):
        index = np.array([v for v, one in enumerate(turned) if one[0] == swap], int)
        if len(index):
            cos, sin = (np.array([turned[v][k] for v in index], np.float32) for k in (1, 2))
            found[swap] = index, cos, sin
    return found


def _all_views(view: Any, image: jax.Array, angles: tuple[float, ...]) -> jax.Array:
    parts, order = [], []
    for swap, (index, cos, sin) in _groups(angles).items():
        part = jnp.pad(image.T if swap else image, ((0, 0), (1, 2)))
        parts.append(jax.lax.map(lambda cs, part=part: view(part, *cs), (cos, sin)))
        order.append(index)
    return jnp.concatenate(parts)[np.argsort(np.concatenate(order))].astype(image.dtype)


def _project_fwd(image: jax.Array, angles: tuple[float, ...], count: int) -> tuple[jax.Array, Any]:
    return project(image, angles, count), image.shape


def _project_bwd(angles: tuple[float, ...], count: int, shape: Any, slope: jax.Array) -> tuple[jax.Array]:
    return (back_project(slope, angles, tuple(shape)),)


def _back_fwd(readings: jax.Array, angles: tuple[float, ...], shape: tuple[int, int]) -> tuple[jax.Array, Any]:
    return back_project(readings, angles, shape), readings.shape[1]


def _back_bwd(angles: tuple[float, ...], shape: tuple[int, int], count: Any, slope: jax.Array) -> tuple[jax.Array]:
    return (project(slope, angles, int(count)),)


project.defvjp(_project_fwd, _project_bwd)
back_project.defvjp(_back_fwd, _back_bwd)


def ramp(readings: Any) -> Any:
    """Line integrals [..., views, D], each view convolved with the ramp filter.

    From the filter's values in space, which keeps the mean right (Kak & Slaney, Principles of Computerized Tomographic
    Imaging, 1988, equation 3.61). NumPy or jnp, as given.
    """
    xp = np if isinstance(readings, np.ndarray) else jnp
    count = readings.shape[-1]
    size = 1 << int(np.ceil(np.log2(2 * count)))
    n = np.minimum(np.arange(size), size - np.arange(size))
    kernel = np.where(n % 2 == 1, -1 / (np.pi**2 * np.maximum(n, 1) ** 2), 0.0)
    kernel[0] = 0.25
    return xp.fft.irfft(xp.fft.rfft(readings, size, axis=-1) * np.fft.rfft(kernel).real, size, axis=-1)[..., :count]


def filtered_back_projection(readings: np.ndarray, angles: np.ndarray, side: int) -> np.ndarray:
    """The image float32 [side, side] from line integrals [views, D] over half a turn.

    `ramp`, then linear interpolation between detectors (the same, equation 3.83).
    """
    views, count = readings.shape
    filtered = np.pad(ramp(readings), ((0, 0), (0, 1))).astype(np.float32)
    place = (np.arange(side) - (side - 1) / 2).astype(np.float32)
    image = np.zeros((side, side), np.float32)
    for row, angle in zip(filtered, angles, strict=True):
        cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
        t = place[None, :] * cos + (place[:, None] * sin + np.float32((count - 1) / 2))
        left = np.clip(t.astype(np.int32), 0, count - 1)
        a, b = row[left], row[left + 1]
        image += a + (b - a) * (t - left)
    return image * np.float32(np.pi / views)


def scanner(views: int, side: int) -> Scanner:
    """Parallel beams over half a turn: scans are {readings: [n, views, detectors(side)]}, images [n, side, side, 1].

    B is filtered back-projection, so that B A is nearly the identity whatever the number of views; the adjoint alone would
    blur, and take a hundred steps.
    """
    angles, count = tuple(view_angles(views)), detectors(side)

    def ahead(image: jax.Array) -> jax.Array:
        return jax.vmap(lambda one: project(one, angles, count))(image[..., 0])

    def back(readings: jax.Array) -> jax.Array:
        made = jax.vmap(lambda one: back_project(one, angles, (side, side)))(ramp(readings).astype(jnp.float32))
        return made[..., None] * (np.pi / views)

    def residual(image: jax.Array, scan: Any) -> jax.Array:
        off, read = (jnp.sqrt(jnp.square(x).sum((-2, -1))) for x in (ahead(image) - scan["readings"], scan["readings"]))
        return off / jnp.maximum(read, 1e-12)

    return Scanner(1, lambda scan: back(scan["readings"]), lambda image, scan: back(ahead(image) - scan["readings"]), residual)


def noisy_readings(rng: np.random.Generator, readings: np.ndarray, *, photons: float, electronic: float = 0.0) -> np.ndarray:
    """Line integrals as a scan of so many photons a ray sees them: -log of counts over photons, counts below 1 taken as 1.

    Counts are Poisson(photons exp(-p)) + N(0, electronic^2) (Thibault et al., Medical Physics 34, 2007).

    Args:
      rng: draws the noise.
      readings: line integrals, without unit.
      photons: I0, with nothing in the way.
      electronic: standard deviation, in photons.
    """
    counts = rng.poisson(photons * np.exp(-readings)) + electronic * rng.standard_normal(readings.shape)
    return np.log(photons / np.maximum(counts, 1.0))


def to_attenuation(hounsfield: np.ndarray, pixel: float) -> np.ndarray:
    """Hounsfield units -> attenuation a pixel of `pixel` mm, no less than 0."""
    return np.maximum(1 + hounsfield / 1000, 0) * (MU_WATER * pixel)


def to_hounsfield(attenuation: np.ndarray, pixel: float) -> np.ndarray:
    """The inverse of `to_attenuation`, but for what lay under -1000."""
    return (attenuation / (MU_WATER * pixel) - 1) * 1000


def scan(
    rng: np.random.Generator,
    image: np.ndarray,
    *,
    pixel: float,
    views: int,
    photons: Sequence[float],
    electronic: float = 0.0,
) -> list[np.ndarray]:
    """A slice as scans of several doses show it, each reconstructed by filtered back-projection, noise drawn anew for each.

    Args:
      rng: draws the noise.
      image: Hounsfield units [H, W]; it is seen in the middle of a square.
      pixel: its side in mm.
      views: over half a turn.
      photons: I0 of each scan; infinity scans without noise.
      electronic: standard deviation of the detectors' own noise, in photons.

    Returns:
      Hounsfield units float32 [H, W], one for each of `photons`.
    """
    h, w = image.shape
    side = max(h, w)
    top, left = (side - h) // 2, (side - w) // 2
    square = np.pad(to_attenuation(image, pixel), ((top, side - h - top), (left, side - w - left)))
    angles = view_angles(views)
    readings = simulate(square, angles, detectors(side))
    found = []
    for count in photons:
        seen = readings if np.isinf(count) else noisy_readings(rng, readings, photons=count, electronic=electronic)
        made = to_hounsfield(filtered_back_projection(seen, angles, side), pixel)
        found.append(made[top : top + h, left : left + w].astype(np.float32))
    return found
