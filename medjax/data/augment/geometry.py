"""Steps that move pixels: flips, affine maps, crops and shifts. What comes from outside an image is 0."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from medjax.data.augment.compose import ImageAugment
from medjax.errors import InputError


def interpolate(image: jax.Array, coordinates: Sequence[jax.Array]) -> jax.Array:
    """Linear interpolation in all axes, with 0 outside.

    Args:
      image: float [H, W, C] or [D, H, W, C].
      coordinates: for each axis of space, where to read, in pixels [...].

    Returns:
      float [..., C].
    """
    # One read of a row of channels for each corner, all corners' places added up from the axes: on a CPU it takes a seventh of
    # the time of a `map_coordinates` for each of three channels, and no more for one.
    rows = image.reshape(-1, image.shape[-1])
    stride, ends = len(rows), []
    for at, size in zip(coordinates, image.shape, strict=False):
        stride //= size
        below = jnp.floor(at)
        part, first = at - below, below.astype(jnp.int32)
        ends.append([_end(first, 1 - part, size, stride), _end(first + 1, part, size, stride)])

    def read(axis: int, place: jax.Array | int) -> jax.Array:
        if axis == len(ends):
            return rows.at[place].get(mode="promise_in_bounds")
        (low, low_weight), (high, high_weight) = ends[axis]
        return low_weight * read(axis + 1, place + low) + high_weight * read(axis + 1, place + high)

    return read(0, 0)


def _end(i: jax.Array, weight: jax.Array, size: int, stride: int) -> tuple[jax.Array, jax.Array]:
    """(where index i of an axis leads [...], its weight [..., 1]): weight 0 for what lies outside."""
    return jnp.clip(i, 0, size - 1) * stride, jnp.where((i >= 0) & (i < size), weight, 0)[..., None]


def flip(probabilities: Sequence[float]) -> ImageAugment:
    """Mirror each axis with a probability of its own: (0, 0.5) is left-right in every other image.

    Args:
      probabilities: one for each axis of space in the array's order, (up-down, left-right) or (depth, up-down, left-right).

    Raises:
      InputError: while tracing, an image of another number of axes.
    """

    def apply(key: jax.Array, image: jax.Array) -> jax.Array:
        if len(probabilities) != image.ndim - 1:
            raise InputError(f"flip has {len(probabilities)} probabilities for images with {image.ndim - 1} axes of space")
        for axis, probability in enumerate(probabilities):
            flipped = jax.random.bernoulli(jax.random.fold_in(key, axis), float(probability))
            image = jnp.where(flipped, jnp.flip(image, axis), image)
        return image

    return apply


def affine(
    *, rotate: float = 0.0, scale: float = 0.0, shift: float = 0.0, flip: float = 0.0, quarter_turns: bool = False
) -> ImageAugment:
    """A random affine map about the image's centre, by bilinear interpolation; what comes from outside is 0.

    Args:
      rotate: degrees, uniform in +-rotate.
      scale: log of the scale of each axis, uniform in +-scale.
      shift: fraction of each side, uniform in +-shift.
      flip: probability of a left-right mirror image.
      quarter_turns: add a random multiple of 90 degrees.
    """

    def apply(key: jax.Array, image: jax.Array) -> jax.Array:
        key_r, key_s, key_t, key_f, key_q = jax.random.split(key, 5)
        height, width = image.shape[:2]
        angle = jnp.deg2rad(jax.random.uniform(key_r, minval=-rotate, maxval=rotate))
        if quarter_turns:
            angle += jax.random.randint(key_q, (), 0, 4) * jnp.pi / 2
        sy, sx = jnp.exp(jax.random.uniform(key_s, (2,), minval=-scale, maxval=scale))
        ty, tx = jax.random.uniform(key_t, (2,), minval=-shift, maxval=shift) * jnp.array([height, width])
        mirror = jnp.where(jax.random.bernoulli(key_f, float(flip)), -1.0, 1.0)
        cy, cx = (height - 1) / 2, (width - 1) / 2
        y, x = jnp.meshgrid(jnp.arange(height) - cy, jnp.arange(width) - cx, indexing="ij")
        from_y = (jnp.cos(angle) * y - jnp.sin(angle) * x) * sy + ty + cy
        from_x = (jnp.sin(angle) * y + jnp.cos(angle) * x) * sx * mirror + tx + cx
        return interpolate(image, [from_y, from_x])

    return apply


def affine_3d(*, rotate: float | tuple[float, float, float] = 0.0, scale: float = 0.0, shift: float = 0.0) -> ImageAugment:
    """A random affine map about a volume's centre, by trilinear interpolation; what comes from outside is 0.

    A voxel counts as a cube: with thick slices turn about the first axis only.

    Args:
      rotate: degrees about the axes of depth, height and width, one for all or one each, uniform in +-rotate; the turn about
        depth is done first, seen from the result.
      scale: log of the scale of each axis, uniform in +-scale.
      shift: fraction of each side, uniform in +-shift.
    """

    def apply(key: jax.Array, image: jax.Array) -> jax.Array:
        key_r, key_s, key_t = jax.random.split(key, 3)
        size = jnp.array(image.shape[:3])
        limit = jnp.broadcast_to(jnp.asarray(rotate, jnp.float32), 3)
        angles = jnp.deg2rad(limit * jax.random.uniform(key_r, (3,), minval=-1, maxval=1))
        scales = jnp.exp(jax.random.uniform(key_s, (3,), minval=-scale, maxval=scale))
        offset = jax.random.uniform(key_t, (3,), minval=-shift, maxval=shift) * size
        axes = [jnp.arange(n) - (n - 1) / 2 for n in image.shape[:3]]
        at = list(jnp.meshgrid(*axes, indexing="ij"))
        for axis, (i, j) in enumerate(((1, 2), (0, 2), (0, 1))):
            cos, sin = jnp.cos(angles[axis]), jnp.sin(angles[axis])
            at[i], at[j] = cos * at[i] - sin * at[j], sin * at[i] + cos * at[j]
        return interpolate(image, [at[i] * scales[i] + offset[i] + (image.shape[i] - 1) / 2 for i in range(3)])

    return apply


def resized_crop(*, area: tuple[float, float] = (0.5, 1.0), aspect: float = 4 / 3) -> ImageAugment:
    """A random box of the image, or volume, resized to the whole of it by linear interpolation.

    After Szegedy et al. (CVPR 2015), section 6. The box's sides, as fractions of the image's n axes, are
    v**(1/n) exp(a_i - mean a), at most 1: v uniform in `area`, a_i uniform in +-log(aspect) / 2. It lies anywhere inside.

    Args:
      area: least and greatest share of the image, or volume, in the box; above 0 and at most 1.
      aspect: greatest ratio of two sides, 1 or more.

    Raises:
      InputError: a setting out of its range.
    """
    if not 0 < area[0] <= area[1] <= 1 or aspect < 1:
        raise InputError(f"resized_crop: area {area} must lie in 0..1, above 0, and aspect {aspect} be 1 or more", usage=True)

    def apply(key: jax.Array, image: jax.Array) -> jax.Array:
        key_v, key_a, key_o = jax.random.split(key, 3)
        n = image.ndim - 1
        log_sides = jax.random.uniform(key_a, (n,), minval=-0.5, maxval=0.5) * jnp.log(aspect)
        volume = jax.random.uniform(key_v, minval=area[0], maxval=area[1])
        sides = jnp.minimum(volume ** (1 / n) * jnp.exp(log_sides - log_sides.mean()), 1)
        starts = jax.random.uniform(key_o, (n,)) * (1 - sides)
        # Pixels are cells: the first one's middle lies half a pixel from the edge. At the edge its value goes on.
        at = [
            jnp.clip(starts[axis] * size + (jnp.arange(size) + 0.5) * sides[axis] - 0.5, 0, size - 1)
            for axis, size in enumerate(image.shape[:-1])
        ]
        return interpolate(image, jnp.meshgrid(*at, indexing="ij"))

    return apply


def shift(pixels: int) -> ImageAugment:
    """Move the image by a whole number of pixels, uniform in +-pixels for each axis; what comes in is 0.

    The same as padding by so many zeros and cropping at random (He et al., CVPR 2016, section 4.2).
    """

    def apply(key: jax.Array, image: jax.Array) -> jax.Array:
        n = image.ndim - 1
        starts = jax.random.randint(key, (n,), 0, 2 * pixels + 1)
        padded = jnp.pad(image, [(pixels, pixels)] * n + [(0, 0)])
        return jax.lax.dynamic_slice(padded, (*starts, 0), image.shape)

    return apply
