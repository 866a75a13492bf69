"""Magnetic resonance from k-space: sampling masks, the centred Fourier transform, coils. NumPy for masks, any array else.

Masks take NumPy's old `RandomState`, whose numbers never change, in the order in which fastMRI 0.3 draws them: the same seed
gives the same mask to the bit. A file's seed there is `tuple(map(ord, file name))`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from medjax.errors import InputError
from medjax.physics.scanner import Scanner

Seed = int | Sequence[int]


def column_mask(kind: str, columns: int, acceleration: int, centre: float, seed: Seed) -> np.ndarray:
    """Which columns of k-space are read: bool [columns], a share `centre` in the middle and others by `kind`.

    Args:
      kind: "random", each other column with one probability; "equispaced", every `acceleration`-th; "equispaced_fraction",
        spaced so that the centre counts too (both after Zbontar et al., arXiv:1811.08839, section 4.9); "magic", offset from
        the middle so that the conjugate of a column is not read as well, and "magic_fraction", likewise with the centre
        counted (Defazio, arXiv:1912.01101).
      columns: their number.
      acceleration: 1 and more.
      centre: share of the columns, such as .08 for 4 and .04 for 8.
      seed: of `RandomState`.

    Raises:
      InputError: another kind, or a mask that would sample nothing.
    """
    if kind not in _KINDS:
        raise InputError(f"there is no mask {kind!r}\nthere are {', '.join(_KINDS)}, poisson", usage=True)
    if acceleration < 1 or not 0 <= centre <= 1:
        raise InputError(f"an acceleration of {acceleration} with a centre of {centre}: no such mask", usage=True)
    rng = np.random.RandomState()
    rng.seed(seed)
    rng.randint(1)  # fastMRI draws which of its accelerations it takes
    low, step = round(columns * centre), acceleration
    if kind == "magic_fraction":
        wanted = round(columns / acceleration)
        low = max(min(low, wanted), 1)
        step = round(columns / (wanted - low)) if wanted > low else 0
    mask = _KINDS[kind](rng, columns, step, low) if step else np.zeros(columns, bool)
    begin = (columns - low + 1) // 2
    mask[begin : begin + low] = True
    if not mask.any():
        raise InputError(f"a mask of {columns} columns, {acceleration} times fewer, samples nothing\ngive a centre", usage=True)
    return mask


def _random(rng: Any, columns: int, step: int, low: int) -> np.ndarray:
    share = (columns / step - low) / max(columns - low, 1)
    return rng.uniform(size=columns) < share


def _equispaced(rng: Any, columns: int, step: int, low: int) -> np.ndarray:
    mask = np.zeros(columns, bool)
    mask[rng.randint(0, high=step) :: step] = True
    return mask


def _equispaced_fraction(rng: Any, columns: int, step: int, low: int) -> np.ndarray:
    mask = np.zeros(columns, bool)
    if low * step == columns:  # the centre is all that may be read
        return mask
    apart = (step * (low - columns)) / (low * step - columns)
    if apart <= 0:
        return mask
    begin = rng.randint(0, high=round(apart))
    mask[np.around(np.arange(begin, columns - 1, apart)).astype(int)] = True
    return mask


def _magic(rng: Any, columns: int, step: int, low: int) -> np.ndarray:
    offset = rng.randint(0, high=step)
    right, left = (offset + 1, offset + 2) if offset % 2 == 0 else (offset + 2, offset - 1)
    half = (columns + 1) // 2
    positive, negative = np.zeros(half, bool), np.zeros(columns - half, bool)
    positive[right::step] = True
    negative[left::step] = True
    return np.fft.fftshift(np.concatenate([positive, negative[::-1]]))


_KINDS: Mapping[str, Callable[[Any, int, int, int], np.ndarray]] = {
    "random": _random,
    "equispaced": _equispaced,
    "equispaced_fraction": _equispaced_fraction,
    "magic": _magic,
    "magic_fraction": _magic,
}


def poisson_disc(
    shape: tuple[int, int], acceleration: float, seed: Seed, *, centre: int = 16, tolerance: float = 0.05
) -> np.ndarray:
    """A mask of points of k-space that keep a distance, which grows from the middle outwards: bool [H, W].

    Dart throwing in a random order (Cook, ACM TOG 5(1), 1986) with the distance r0 (1 + 2 |k| / |k|max) of variable-density
    sampling (Lustig et al., MRM 58, 2007); r0 is sought until the acceleration is met.

    Args:
      shape: of k-space, its middle at H // 2, W // 2.
      acceleration: points over those that are read, the centre counted.
      seed: of `RandomState`.
      centre: side of a square in the middle that is read as a whole.
      tolerance: of the acceleration, relative.

    Raises:
      InputError: the centre alone holds more points than may be read.
    """
    h, w = shape
    rng = np.random.RandomState(seed)
    order = rng.permutation(h * w)
    y, x = (order // w).astype(float), (order % w).astype(float)
    far = np.hypot((y - h // 2) / (h / 2), (x - w // 2) / (w / 2)) / np.sqrt(2)
    middle = np.zeros(shape, bool)
    middle[h // 2 - centre // 2 : h // 2 - centre // 2 + centre, w // 2 - centre // 2 : w // 2 - centre // 2 + centre] = True
    wanted = h * w / acceleration
    if middle.sum() > wanted:
        raise InputError(
            f"a centre of {centre} x {centre} is over the {wanted:.0f} points to be read\nmake it smaller", usage=True
        )
    least, most = 0.0, 2.0 * np.sqrt(acceleration) + 2
    mask = middle
    for _ in range(16):
        spread = (least + most) / 2
        mask = middle | _darts(shape, y.astype(int), x.astype(int), spread * (1 + 2 * far))
        if abs(mask.sum() / wanted - 1) <= tolerance:
            break
        least, most = (spread, most) if mask.sum() > wanted else (least, spread)
    return mask


def _darts(shape: tuple[int, int], ys: np.ndarray, xs: np.ndarray, distance: np.ndarray) -> np.ndarray:
    """Points in order, each kept unless one kept before lies nearer than its own distance."""
    kept = np.zeros(shape, bool)
    for y, x, r in zip(ys.tolist(), xs.tolist(), distance.tolist(), strict=True):
        reach = int(r)
        top, left = max(y - reach, 0), max(x - reach, 0)
        near = kept[top : y + reach + 1, left : x + reach + 1]
        if near.any():
            rows, columns = np.nonzero(near)
            if ((rows + top - y) ** 2 + (columns + left - x) ** 2 < r * r).any():
                continue
        kept[y, x] = True
    return kept


def to_image(kspace: Any) -> Any:
    """The centred, orthonormal inverse Fourier transform over the last two axes, in which the middle is at N // 2."""
    xp = np if isinstance(kspace, np.ndarray) else jnp
    moved = xp.fft.ifft2(xp.fft.ifftshift(kspace, axes=(-2, -1)), norm="ortho")
    return xp.fft.fftshift(moved, axes=(-2, -1))


def to_kspace(image: Any) -> Any:
    """The inverse of `to_image`."""
    xp = np if isinstance(image, np.ndarray) else jnp
    moved = xp.fft.fft2(xp.fft.ifftshift(image, axes=(-2, -1)), norm="ortho")
    return xp.fft.fftshift(moved, axes=(-2, -1))


def root_sum_of_squares(images: Any, axis: int = 0) -> Any:
    """The magnitude of all coils' images together (Roemer et al., MRM 16, 1990)."""
    xp = np if isinstance(images, np.ndarray) else jnp
    return xp.sqrt((xp.abs(images) ** 2).sum(axis))


def estimate_sensitivities(kspace: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Coils' sensitivities [C, H, W] complex64 from the fully read columns around the middle, their squares summing to 1.

    McKenzie et al., MRM 47, 2002: the coils' coarse images over their root of squares, a Hann window against ringing.

    Args:
      kspace: complex [C, H, W].
      mask: bool [W], the columns read.
    """
    _, h, w = kspace.shape
    left = right = w // 2
    if not mask[left]:
        raise InputError("the middle column of k-space was not read: sensitivities cannot be told\ngive a mask with a centre")
    while left > 0 and mask[left - 1]:
        left -= 1
    while right < w - 1 and mask[right + 1]:
        right += 1
    reach = max(min(w // 2 - left, right - w // 2), 1)
    hann = np.zeros(w)
    hann[w // 2 - reach : w // 2 + reach + 1] = np.hanning(2 * reach + 3)[1:-1]
    rows = np.hanning(h + 2)[1:-1]
    coarse = to_image(kspace * hann * rows[:, None])
    total = np.maximum(root_sum_of_squares(coarse), 1e-12 + 1e-6 * float(np.abs(coarse).max()))
    return (coarse / total).astype(np.complex64)


def smooth_phase(rng: np.random.Generator, shape: tuple[int, int], *, strength: float = np.pi, order: int = 3) -> np.ndarray:
    """A random phase that varies slowly over a slice, float32 [H, W] within +- strength: a polynomial of a low order."""
    y, x = (np.linspace(-1, 1, n) for n in shape)
    field = np.zeros(shape)
    for i in range(order + 1):
        for j in range(order + 1 - i):
            field += rng.normal() * np.outer(y**i, x**j)
    return (field * (strength / max(float(np.abs(field).max()), 1e-12))).astype(np.float32)


def birdcage(coils: int, shape: tuple[int, int]) -> np.ndarray:
    """Sensitivities [coils, H, W] complex64 of coils on a circle around the slice, their squares summing to 1.

    Each falls off with the distance d to its coil as 1 / (1 + (2 d)^2), in half widths of the slice, and its phase turns once.
    """
    y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    angles = 2 * np.pi * np.arange(coils) / coils
    maps = []
    for angle in angles:
        dy, dx = y - 1.5 * np.sin(angle), x - 1.5 * np.cos(angle)
        maps.append(np.exp(1j * np.arctan2(dy, dx)) / (1 + 4 * (dy**2 + dx**2)))
    found = np.stack(maps)
    return (found / root_sum_of_squares(found)).astype(np.complex64)


def as_complex(pair: Any) -> Any:
    """[..., 2] real -> [...] complex."""
    return pair[..., 0] + 1j * pair[..., 1]


def as_pair(values: Any) -> Any:
    """[...] complex -> [..., 2], real and imaginary part."""
    xp = np if isinstance(values, np.ndarray) else jnp
    return xp.stack([values.real, values.imag], -1)


def measure(image: Any, scan: Mapping[str, Any]) -> Any:
    """A x: what the coils measure of an image.

    Args:
      image: complex [..., H, W].
      scan: `sampled` [..., 1, H, W], 1 where k-space is read; `maps` complex [..., C, H, W], the coils' sensitivities.

    Returns:
      complex [..., C, H, W], 0 where nothing is read.
    """
    return scan["sampled"] * to_kspace(scan["maps"] * image[..., None, :, :])


def adjoint(kspace: Any, scan: Mapping[str, Any]) -> Any:
    """A^H y: [..., C, H, W] -> [..., H, W]; with one coil the zero-filled image."""
    return (scan["maps"].conj() * to_image(scan["sampled"] * kspace)).sum(-3)


def misfit(image: Any, scan: Mapping[str, Any]) -> Any:
    """A^H (A x - y), the gradient of |A x - y|^2 / 2: y is `kspace` of the scan. [..., H, W] -> [..., H, W]."""
    return adjoint(measure(image, scan) - scan["sampled"] * scan["kspace"], scan)


def residual(image: Any, scan: Mapping[str, Any]) -> Any:
    """|A x - y| / |y| over the points that were read: [...]. 0 where the image says all that was measured."""
    xp = np if isinstance(image, np.ndarray) else jnp
    read = scan["sampled"] * scan["kspace"]
    off = xp.sqrt((xp.abs(measure(image, scan) - read) ** 2).sum((-3, -2, -1)))
    return off / xp.maximum(xp.sqrt((xp.abs(read) ** 2).sum((-3, -2, -1))), 1e-12)


def total_variation(scan: Mapping[str, Any], weight: Any, *, iterations: int = 60) -> Any:
    """The image complex [H, W] that minimises |A x - y|^2 / 2 + weight sum |grad x|: compressed sensing's classic.

    Lustig et al., MRM 58, 2007, equation 3, with total variation alone; by the primal-dual algorithm of Condat (JOTA 158,
    2013, algorithm 3.1), differences forward, gradients of real and imaginary part taken together.

    Args:
      scan: `kspace` and `maps` complex [C, H, W], `sampled` [1, H, W].
      weight: in the units of the image; a traced value is fine.
      iterations: how many.
    """
    tau, sigma = 0.9, 1 / 16  # 1 / tau - 8 sigma >= 1 / 2, the data term's Lipschitz constant being 1

    def gradient(x: jnp.ndarray) -> jnp.ndarray:
        return jnp.stack([jnp.diff(x, axis=0, append=x[-1:]), jnp.diff(x, axis=1, append=x[:, -1:])])

    def divergence(p: jnp.ndarray) -> jnp.ndarray:
        down = p[0].at[-1].set(0)
        across = p[1].at[:, -1].set(0)
        return jnp.diff(down, axis=0, prepend=0) + jnp.diff(across, axis=1, prepend=0)

    def step(_: Any, state: Any) -> Any:
        x, p = state
        new = x - tau * (misfit(x, scan) - divergence(p))
        q = p + sigma * gradient(2 * new - x)
        length = jnp.sqrt((jnp.abs(q) ** 2).sum(0))
        return new, q * jnp.minimum(1.0, weight / jnp.maximum(length, 1e-20))

    start = adjoint(jnp.asarray(scan["kspace"]), scan)
    return jax.lax.fori_loop(0, iterations, step, (start, jnp.zeros((2, *start.shape), start.dtype)))[0]


# Scans are {kspace, maps: complex [n, C, H, W], sampled [n, 1, H, W]}; B is the adjoint, and |A| at most 1.
SCANNER = Scanner(
    channels=2,
    start=lambda scan: as_pair(adjoint(scan["kspace"], scan)),
    step=lambda image, scan: as_pair(misfit(as_complex(image), scan)),
    residual=lambda image, scan: residual(as_complex(image), scan),
)
