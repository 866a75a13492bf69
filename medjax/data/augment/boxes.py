"""Augmentation that keeps boxes true: the picture and its boxes are moved by the same map, cut alike, and nothing is turned.

An example has `image` [H, W, C], `boxes` float [M, 4] (left, top, right, bottom), `category` int [M] (-1 padding, -2 not to be
learnt) and `extent` float [2], the height and width that the picture fills from the top left.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from medjax.core import Augment, Batch
from medjax.data.augment.compose import ImageAugment, to_unit
from medjax.errors import InputError
from medjax.nn.boxes import area, flip

Example = Mapping[str, Any]


def box_augment(
    *steps: ImageAugment,
    shift: float = 0.0,
    scale: tuple[float, float] = (1.0, 1.0),
    aspect: float = 0.0,
    mirror: Sequence[float] = (0.0, 0.5),
    transpose: float = 0.0,
    least: float = 0.3,
    start: Callable[[jax.Array], jax.Array] = to_unit,
) -> Callable[[jax.Array, Example], dict[str, Any]]:
    """One resampling of picture and boxes, mirrors, then steps on values.

    The picture is scaled and laid on the canvas with its centre shifted from the canvas's, so that a scale above 1 crops; what
    comes from outside of the picture is its mean. Boxes are cut at the canvas: of less than `least` of its area a box is not
    learnt, and of none it goes.

    Args:
      *steps: f(key, image) -> image, of values only.
      shift: fraction of each side of the canvas, uniform in +-shift.
      scale: least and greatest factor, log-uniform.
      aspect: log of the factor between the axes, uniform in +-aspect.
      mirror: probabilities of a mirror image upside down, and left to right.
      transpose: probability that rows and columns change over; square canvases only.
      least: share of a box's area.
      start: the host's integers to floats; the task's `inputs` must do the same.

    Raises:
      InputError: a setting out of its range; while tracing, a transpose of a canvas that is not square.
    """
    if not 0 < scale[0] <= scale[1] or len(mirror) != 2:
        raise InputError(f"box_augment: scale {scale} must rise and be above 0, mirror {mirror} be two numbers", usage=True)

    def augment(key: jax.Array, example: Example) -> dict[str, Any]:
        image = start(example["image"])
        boxes, extent, category = example["boxes"], example["extent"], example["category"]
        keys = jax.random.split(jax.random.fold_in(key, 0), 6)
        size = jnp.array(image.shape[:2], jnp.float32)
        if shift or scale != (1.0, 1.0) or aspect:
            grow = jnp.exp(jax.random.uniform(keys[0], minval=jnp.log(scale[0]), maxval=jnp.log(scale[1])))
            skew = jnp.exp(jax.random.uniform(keys[1], minval=-aspect, maxval=aspect) / 2)
            factor = grow * jnp.stack([skew, 1 / skew])
            moved = jax.random.uniform(keys[2], (2,), minval=-shift, maxval=shift) * size
            offset = size / 2 - factor * extent / 2 + moved
            image = resample(image, factor, offset, extent)
            boxes = boxes * jnp.tile(factor[::-1], 2) + jnp.tile(offset[::-1], 2)
        for axis in (0, 1):
            drawn = jax.random.bernoulli(keys[3 + axis], float(mirror[axis]))
            image = jnp.where(drawn, jnp.flip(image, axis), image)
            boxes = jnp.where(drawn, flip(boxes, axis, image.shape[axis]), boxes)
        if transpose:
            if image.shape[0] != image.shape[1]:
                raise InputError(f"box_augment: a canvas {image.shape[:2]} cannot be transposed", usage=True)
            drawn = jax.random.bernoulli(keys[5], float(transpose))
            image = jnp.where(drawn, image.swapaxes(0, 1), image)
            boxes = jnp.where(drawn, boxes[:, jnp.array([1, 0, 3, 2])], boxes)
        for i, step in enumerate(steps):
            image = step(jax.random.fold_in(key, i + 1), image)
        frame = jnp.concatenate([jnp.zeros(2), size[::-1]])
        boxes, category = cut(boxes, category, frame, least)
        return {**example, "image": image, "boxes": boxes, "category": category, "extent": size}

    return augment


def resample(image: jax.Array, factor: jax.Array, offset: jax.Array, extent: jax.Array) -> jax.Array:
    """The picture scaled and shifted along rows and columns, linearly, its mean outside.

    Args:
      image: float [H, W, C], of which rows and columns up to `extent` are the picture.
      factor, offset: [2], for rows and columns: a place p goes to p * factor + offset (pixels are cells, the first 0 to 1).
      extent: [2].

    Returns:
      float [H, W, C].
    """
    inside = [jnp.arange(n) < e for n, e in zip(image.shape[:2], extent, strict=True)]
    weight = (inside[0][:, None] & inside[1][None])[..., None].astype(image.dtype)
    mean = (image * weight).sum((0, 1)) / jnp.maximum(weight.sum(), 1)
    image = jnp.where(weight > 0, image - mean, 0)
    for axis in (0, 1):
        n = image.shape[axis]
        at = (jnp.arange(n) + 0.5 - offset[axis]) / factor[axis] - 0.5
        low = jnp.floor(at)
        part = (at - low).reshape((-1, 1, 1) if axis == 0 else (1, -1, 1))
        first = low.astype(jnp.int32)

        def read(i: jax.Array, axis: int = axis, n: int = n) -> jax.Array:
            known = ((i >= 0) & (i < n)).reshape((-1, 1, 1) if axis == 0 else (1, -1, 1))
            return jnp.where(known, jnp.take(image, jnp.clip(i, 0, n - 1), axis), 0)  # noqa: B023, asked for at once

        image = (1 - part) * read(first) + part * read(first + 1)
    return image + mean


def cut(boxes: jax.Array, category: jax.Array, frame: jax.Array, least: float) -> tuple[jax.Array, jax.Array]:
    """Boxes [M, 4] cut at a frame [4]; of which less than `least` is left are not to be learnt, of which nothing is go."""
    kept = jnp.concatenate(
        [jnp.clip(boxes[:, :2], frame[:2], frame[2:]), jnp.clip(boxes[:, 2:], frame[:2], frame[2:])], axis=-1
    )
    whole, left = area(boxes), area(kept)
    category = jnp.where((left < least * whole) & (category >= 0), -2, category)
    gone = (left <= 0) | (category == -1)
    return jnp.where(gone[:, None], 0, kept), jnp.where(gone, -1, category)


def mosaic(augment: Callable[[jax.Array, Batch], Batch], *, chance: float = 0.5, least: float = 0.3) -> Augment:
    """Four neighbours cut together about a random point (Bochkovskiy et al., arXiv:2004.10934, section 3.3).

    Each of the examples 4i to 4i + 3 of the global batch becomes, by chance, a picture whose quarters are those of itself and
    of the three that follow it in that circle, about a point in the middle half; boxes are cut at the edges of their quarters.

    Args:
      augment: what is done to each example before, such as `box_augment`.
      chance: of each example.
      least: share of a box's area that is to be left, see `box_augment`.

    Raises:
      InputError: while tracing, a device's examples that do not come in fours.
    """

    def mix(keys: jax.Array, batch: Batch) -> Batch:
        image, boxes, category = batch["image"], batch["boxes"], batch["category"]
        if len(image) % 4:
            raise InputError(
                f"mosaic takes four neighbours, and a device's batch is {len(image)}\n"
                "let --train.batch_size be a multiple of four times the number of devices",
                usage=True,
            )
        height, width = image.shape[1:3]
        drawn = jax.vmap(lambda key: jax.random.uniform(jax.random.fold_in(key, 0), (2,), minval=0.25, maxval=0.75))(keys)
        wanted = jax.vmap(lambda key: jax.random.bernoulli(jax.random.fold_in(key, 1), chance))(keys)
        middle = jnp.round(drawn * jnp.array([height, width]))
        ring = [_turned(batch["mask"], k) for k in range(4)]
        wanted &= ring[0] & ring[1] & ring[2] & ring[3]
        below = jnp.arange(height)[None, :, None] >= middle[:, 0, None, None]
        right = jnp.arange(width)[None, None, :] >= middle[:, 1, None, None]
        made, parts, kinds = image, [], []
        for k in range(4):
            down, over = bool(k // 2), bool(k % 2)
            here = ((below == down) & (right == over))[..., None]
            made = jnp.where(here, _turned(image, k), made)
            low = jnp.stack([over * middle[:, 1], down * middle[:, 0]], -1)
            high = jnp.stack([jnp.where(over, width, middle[:, 1]), jnp.where(down, height, middle[:, 0])], -1)
            frame = jnp.concatenate([low, high], -1)
            part, kind = jax.vmap(cut, (0, 0, 0, None))(_turned(boxes, k), _turned(category, k), frame, least)
            parts.append(part)
            kinds.append(kind)
        joined, kind = jnp.concatenate(parts, 1), jnp.concatenate(kinds, 1)
        # As many as fit, those to be learnt first.
        order = jnp.argsort(-kind, axis=1, stable=True)[:, : boxes.shape[1]]
        joined, kind = jnp.take_along_axis(joined, order[..., None], 1), jnp.take_along_axis(kind, order, 1)
        return {
            **batch,
            "image": jnp.where(wanted[:, None, None, None], made, image),
            "boxes": jnp.where(wanted[:, None, None], joined, boxes),
            "category": jnp.where(wanted[:, None], kind, category),
        }

    return Augment(augment, mix)


def _turned(x: jax.Array, k: int) -> jax.Array:
    """Each example's k-th successor in its circle of four."""
    return jnp.roll(x.reshape(-1, 4, *x.shape[1:]), -k, 1).reshape(x.shape)
