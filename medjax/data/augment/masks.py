"""Images and their label maps moved alike: steps `f(key, image, labels) -> (image, labels)`, put together for an example.

`image` is float [*S, C] and `labels` integers [*S], S = (H, W) or (D, H, W).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from medjax.data.augment.compose import ImageAugment, to_unit
from medjax.data.augment.fields import smooth_field
from medjax.data.augment.geometry import interpolate
from medjax.errors import InputError

PairStep = Callable[[jax.Array, jax.Array, jax.Array], tuple[jax.Array, jax.Array]]
_PLANES = {2: ((0, 1),), 3: ((1, 2), (0, 2), (0, 1))}  # of a turn about each axis


def on_image(step: ImageAugment) -> PairStep:
    """A step for images as one for pairs: the labels pass as they are."""

    def apply(key: jax.Array, image: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
        return step(key, image), labels

    return apply


def pair_augment(
    *steps: PairStep, start: Callable[[jax.Array], jax.Array] = to_unit
) -> Callable[[jax.Array, Mapping[str, Any]], dict[str, Any]]:
    """An example's `image` and `labels` through the steps in order, each with a key of its own.

    On a CPU the examples of a batch go one after another, so that what is not drawn for one (`sometimes`, `spatial`) costs
    nothing: a `vmap` computes every step for all of them, as accelerators still do. The numbers are alike.

    Args:
      steps: f(key, image, labels) -> (image, labels); `on_image` makes one of a step for images.
      start: the host's numbers to floats. The task's `inputs` must do the same to what evaluation gives it.
    """

    def run(key: jax.Array, image: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
        image = start(image)
        for i, step in enumerate(steps):
            image, labels = step(jax.random.fold_in(key, i), image, labels)
        return image, labels

    one = _singly(run)

    def augment(key: jax.Array, example: Mapping[str, Any]) -> dict[str, Any]:
        image, labels = one(key, jnp.asarray(example["image"]), jnp.asarray(example["labels"]))
        return {**example, "image": image, "labels": labels}

    return augment


def _singly(f: Callable[..., Any]) -> Callable[..., Any]:
    """f whose `vmap` is a loop on a CPU."""
    mapped = jax.custom_batching.custom_vmap(f)

    @mapped.def_vmap
    def rule(n: int, batched: Sequence[bool], *args: jax.Array) -> tuple[Any, Any]:
        full = [x if b else jnp.broadcast_to(x, (n, *x.shape)) for x, b in zip(args, batched, strict=True)]
        out = jax.lax.platform_dependent(
            *full, cpu=lambda *xs: jax.lax.map(lambda one: f(*one), xs), default=lambda *xs: jax.vmap(f)(*xs)
        )
        return out, jax.tree.map(lambda _: True, out)

    return mapped


def mirror(probabilities: Sequence[float]) -> PairStep:
    """Mirror each axis of both with a probability of its own, exactly.

    Args:
      probabilities: one for each axis of space in the array's order.

    Raises:
      InputError: while tracing, an image of another number of axes.
    """

    def apply(key: jax.Array, image: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
        if len(probabilities) != labels.ndim:
            raise InputError(f"mirror has {len(probabilities)} probabilities for images with {labels.ndim} axes of space")
        for axis, probability in enumerate(probabilities):
            flipped = jax.random.bernoulli(jax.random.fold_in(key, axis), float(probability))
            image, labels = (jnp.where(flipped, jnp.flip(x, axis), x) for x in (image, labels))
        return image, labels

    return apply


def spatial(
    *,
    rotate: float | Sequence[float] = 0.0,
    scale: tuple[float, float] = (1.0, 1.0),
    elastic: float = 0.0,
    shift: float = 0.0,
    flip: Sequence[float] = (),
    rotate_chance: float = 0.2,
    scale_chance: float = 0.2,
    elastic_chance: float = 0.2,
    shift_chance: float = 0.2,
    control: float = 32,
    out: Sequence[int] | None = None,
    dummy_2d: bool = False,
    fill: float = 0.0,
    outside: int = 255,
) -> PairStep:
    """Turn, scale, bend and shift both by one resampling: the image linearly, each label from the nearest voxel.

    A voxel x of the result, from its centre, is read at S R x + u(x) + t from the centre of the crop. Where none of the four
    is drawn the result is the crop itself, exactly.

    Args:
      rotate: degrees, uniform in +-rotate; for volumes one for all, or one each for the turns about depth, height and width,
        that about depth done first, seen from the result. Voxels count as cubes.
      scale: least and greatest S, one for all axes, log-uniform; above 1 things become smaller.
      elastic: bound of the displacement u along each axis, in voxels; see `smooth_field`.
      shift: t, as a fraction of each side of the result, uniform in +-shift.
      flip: probabilities for `mirror`, done afterwards; none by default.
      rotate_chance, scale_chance, elastic_chance, shift_chance: the probability of each part.
      control: voxels from one control point of u to the next.
      out: S of the result, the centre of what comes in (rounded down), so that the host may ship a margin whose voxels
        come in at the corners; as large as that by default.
      dummy_2d: for thick slices: all in the plane of the last two axes, alike for all slices; `rotate` is then one number.
      fill: the image's value outside of what came in, approached linearly.
      outside: the label there, for a background that is not known must not be learnt.

    Raises:
      InputError: a setting out of its range; u could fold (Choi & Lee, 2000: 0.4 of `control` or more). While tracing: sizes
        that do not fit.
    """
    if not 0 < scale[0] <= scale[1]:
        raise InputError(f"spatial: scale {scale} must be two numbers that rise, above 0", usage=True)
    if elastic >= 0.4 * control:
        raise InputError(f"spatial: elastic {elastic} folds the image with control points {control} apart", usage=True)
    turns, zooms = max(map(abs, [rotate] if isinstance(rotate, (int, float)) else rotate)) > 0, tuple(scale) != (1, 1)
    # A part whose setting does nothing is never drawn, lest it cost a resampling.
    chances = [
        chance if does else 0.0
        for chance, does in (
            (rotate_chance, turns),
            (scale_chance, zooms),
            (elastic_chance, elastic > 0),
            (shift_chance, shift > 0),
        )
    ]

    def apply(key: jax.Array, image: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
        space = labels.shape
        size = tuple(space if out is None else out)
        if image.shape[:-1] != space or len(size) != len(space) or any(o > s for o, s in zip(size, space, strict=True)):
            raise InputError(f"spatial: an image {image.shape} and labels {space} for a result of {size}")
        image = image.astype(jnp.promote_types(image.dtype, jnp.float32))
        starts = [(s - o) // 2 for s, o in zip(space, size, strict=True)]
        window = tuple(slice(a, a + o) for a, o in zip(starts, size, strict=True))
        first = 1 if dummy_2d and len(space) == 3 else 0  # first axis that moves
        image, labels = image[window[:first]], labels[window[:first]]
        key_c, key_r, key_s, key_e, key_t, key_f = jax.random.split(key, 6)
        drawn = jax.random.bernoulli(key_c, jnp.array(chances), (4,))

        def moved() -> tuple[jax.Array, jax.Array]:
            n = len(size) - first
            limits = jnp.broadcast_to(jnp.asarray(rotate, jnp.float32), len(_PLANES[n]))
            angles = limits * jax.random.uniform(key_r, limits.shape, minval=-1, maxval=1)
            log_zoom = jax.random.uniform(key_s, minval=jnp.log(scale[0]), maxval=jnp.log(scale[1]))
            offset = jax.random.uniform(key_t, (n,), minval=-shift, maxval=shift) * jnp.array(size[first:])
            at = lattice(size[first:], starts[first:], angles * drawn[0], jnp.exp(log_zoom * drawn[1]), offset * drawn[3])
            if elastic > 0:
                bend = elastic * drawn[2] * smooth_field(key_e, size[first:], control, n)
                at = [a + u for a, u in zip(at, bend, strict=True)]
            return (jax.vmap(read_pair, (0, 0, None, None, None)) if first else read_pair)(image, labels, at, fill, outside)

        whole = (slice(None),) * first + window[first:]
        still = image[whole], labels[whole]
        # What can never be drawn is not even compiled.
        image, labels = jax.lax.cond(drawn.any(), moved, lambda: still) if any(chances) else still
        return mirror(flip)(key_f, image, labels) if flip else (image, labels)

    return apply


def lattice(
    size: Sequence[int], starts: Sequence[int], angles: jax.Array, zoom: jax.Array | float, offset: jax.Array | Sequence[float]
) -> list[jax.Array]:
    """Where each voxel of a result is read, by an affine map about the centre of a crop.

    Args:
      size: S of the result.
      starts: index of the crop's first voxel along each axis.
      angles: degrees [1] for a plane, [3] for a volume, about depth, height and width.
      zoom: steps in the source to a step in the result.
      offset: voxels along each axis.

    Returns:
      For each axis, float32 [*size], in voxels of the source.
    """
    at = list(jnp.meshgrid(*(jnp.arange(n) - (n - 1) / 2 for n in size), indexing="ij"))
    for angle, (i, j) in zip(jnp.deg2rad(angles), _PLANES[len(size)], strict=True):
        cos, sin = jnp.cos(angle), jnp.sin(angle)
        at[i], at[j] = cos * at[i] - sin * at[j], sin * at[i] + cos * at[j]
    return [zoom * x + (offset[i] + starts[i] + (size[i] - 1) / 2) for i, x in enumerate(at)]


def read_pair(
    image: jax.Array, labels: jax.Array, at: Sequence[jax.Array], fill: float, outside: int
) -> tuple[jax.Array, jax.Array]:
    """An image read linearly and labels from the nearest voxel at the same places.

    Args:
      image: float [*S, C].
      labels: integers [*S].
      at: for each axis, where to read, in voxels [*T].
      fill: the image's value outside.
      outside: the label where the nearest voxel lies outside.

    Returns:
      (float [*T, C], labels [*T] of the same dtype).
    """
    place, inside = jnp.zeros((), jnp.int32), jnp.ones((), bool)
    for x, n in zip(at, labels.shape, strict=True):
        i = jnp.floor(x + 0.5).astype(jnp.int32)
        inside &= (i >= 0) & (i < n)
        place = place * n + jnp.clip(i, 0, n - 1)
    nearest = labels.reshape(-1).at[place].get(mode="promise_in_bounds")
    linear = interpolate(image - fill, at) + fill if fill else interpolate(image, at)
    return linear, jnp.where(inside, nearest, jnp.asarray(outside, labels.dtype))
