"""Boxes inside a compiled program: anchors, overlaps, coding, matching, and non-maximum suppression of fixed shape.

Boxes are float [..., 4]: left, top, right and bottom edge in pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

BACKGROUND, IGNORED = -1, -2  # what an anchor is matched to, where to no box
MOST_LOG = float(np.log(1000 / 16))  # of a decoded side against its anchor's, as in Fast R-CNN's code


def area(boxes: jax.Array) -> jax.Array:
    """[..., 4] -> [...], 0 for boxes that are inside out."""
    return jnp.maximum(boxes[..., 2:] - boxes[..., :2], 0).prod(-1)


def intersection(a: jax.Array, b: jax.Array) -> jax.Array:
    """Area that boxes [..., 4] have in common, broadcast against each other."""
    low, high = jnp.maximum(a[..., :2], b[..., :2]), jnp.minimum(a[..., 2:], b[..., 2:])
    return jnp.maximum(high - low, 0).prod(-1)


def iou(a: jax.Array, b: jax.Array) -> jax.Array:
    """Intersection over union of boxes [m, 4] and [k, 4], [m, k]; 0 where both are empty."""
    both = intersection(a[:, None], b[None])
    whole = area(a)[:, None] + area(b)[None] - both
    return jnp.where(whole > 0, both / jnp.where(whole > 0, whole, 1), 0)


def giou(a: jax.Array, b: jax.Array) -> jax.Array:
    """Generalised IoU of pairs of boxes [..., 4] (Rezatofighi et al., CVPR 2019, algorithm 1): IoU - (C - U) / C in -1..1.

    Its gradient is finite wherever the boxes are, also for boxes without area.
    """
    both = intersection(a, b)
    whole = area(a) + area(b) - both
    low, high = jnp.minimum(a[..., :2], b[..., :2]), jnp.maximum(a[..., 2:], b[..., 2:])
    hull = jnp.maximum(high - low, 0).prod(-1)
    tiny = 1e-7
    return both / jnp.maximum(whole, tiny) - (hull - whole) / jnp.maximum(hull, tiny)


def encode(boxes: jax.Array, anchors: jax.Array) -> jax.Array:
    """Boxes against anchors, (dx, dy, log w, log h) in units of the anchor (Girshick et al., CVPR 2014, equations 6 to 9)."""
    size, own = _sizes(boxes), _sizes(anchors)
    middle = (boxes[..., :2] + boxes[..., 2:] - anchors[..., :2] - anchors[..., 2:]) / 2
    return jnp.concatenate([middle / own, jnp.log(jnp.maximum(size, 1e-3) / own)], -1)


def decode(deltas: jax.Array, anchors: jax.Array) -> jax.Array:
    """The boxes that `encode` gave deltas of; sides are at most 62.5 times the anchor's."""
    own = _sizes(anchors)
    middle = (anchors[..., :2] + anchors[..., 2:]) / 2 + deltas[..., :2] * own
    half = jnp.exp(jnp.minimum(deltas[..., 2:], MOST_LOG)) * own / 2
    return jnp.concatenate([middle - half, middle + half], -1)


def _sizes(boxes: jax.Array) -> jax.Array:
    return boxes[..., 2:] - boxes[..., :2]


def grid_anchors(height: int, width: int, stride: int, shapes: jax.Array) -> jax.Array:
    """Anchors of each cell of a grid.

    Args:
      height, width: cells.
      stride: pixels from one cell to the next; the first one's centre lies half of it from the edge.
      shapes: float [a, 2], width and height in pixels.

    Returns:
      float32 [height, width, a, 4].
    """
    y, x = (np.arange(height) + 0.5) * stride, (np.arange(width) + 0.5) * stride
    centre = np.stack(np.broadcast_arrays(x[None, :], y[:, None]), -1).astype(np.float32)[:, :, None]
    return jnp.concatenate([centre - shapes / 2, centre + shapes / 2], -1)


def assign(
    anchors: jax.Array, boxes: jax.Array, category: jax.Array, *, positive: float = 0.5, negative: float = 0.4
) -> jax.Array:
    """The box that each anchor stands for, int32 [A], else BACKGROUND or IGNORED (Lin et al., ICCV 2017, section 4).

    An anchor stands for the box that it overlaps most, if its IoU is at least `positive`; it is background below `negative`.
    Each box gets the anchor that overlaps it most besides, however little (Ren et al., NeurIPS 2015, section 3.1.2). What is
    no box of an anchor that lies half or more inside of a region that is not to be learnt is ignored.

    Args:
      anchors: [A, 4].
      boxes: [M, 4].
      category: int [M]: class, -1 for padding, -2 for a region that is not to be learnt.
      positive, negative: bounds of the IoU.
    """
    overlap = jnp.where(category >= 0, iou(anchors, boxes), -1.0)
    best, which = overlap.max(1), overlap.argmax(1)
    found = jnp.where(best >= positive, which, jnp.where(best < negative, BACKGROUND, IGNORED))
    # Of two boxes that have the same best anchor it stands for the one that it overlaps more.
    own = overlap.max(0)
    forced = jnp.where((overlap == own) & (own > 0) & (category >= 0), overlap, -1.0)
    found = jnp.where(forced.max(1) > 0, forced.argmax(1), found)
    share = intersection(anchors[:, None], boxes[None]) / jnp.maximum(area(anchors)[:, None], 1e-9)
    hidden = ((share >= 0.5) & (category == -2)).any(1)
    return jnp.where((found == BACKGROUND) & hidden, IGNORED, found).astype(jnp.int32)


def nms(boxes: jax.Array, category: jax.Array, *, threshold: float = 0.5) -> jax.Array:
    """Greedy non-maximum suppression, class by class: bool [k], the boxes that stay.

    Args:
      boxes: [k, 4], in descending order of score.
      category: int [k], negative for padding, which does not stay.
      threshold: IoU above which the box of lower score goes.
    """
    k = len(boxes)
    over = (iou(boxes, boxes) > threshold) & (category[:, None] == category[None])
    over &= np.tri(k, k=-1, dtype=bool)  # [i, j]: j has the higher score
    valid = category >= 0

    # What the greedy rule says of each box follows from those before it. Asked of all at once, again and again, it is settled
    # once nothing changes: the first box after one round, and at least one more box in each.
    def body(kept: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        now, _ = kept
        new = valid & ~(over & now[None]).any(1)
        return new, (new != now).any()

    return jax.lax.while_loop(lambda kept: kept[1], body, (valid, jnp.bool_(True)))[0]


def select(
    probability: jax.Array,
    boxes: jax.Array,
    *,
    most: int,
    candidates: int = 512,
    least: float = 0.01,
    threshold: float = 0.5,
) -> dict[str, jax.Array]:
    """The detections of an image: the likeliest candidates, suppressed class by class, in descending order of score.

    A box may be a candidate for several classes.

    Args:
      probability: [A, K].
      boxes: [A, 4].
      most: detections D that are given.
      candidates: how many of all A K pairs are looked at.
      least: probability of a detection.
      threshold: IoU above which the box of lower score goes.

    Returns:
      {"boxes": float32 [D, 4], "score": float32 [D], "category": int32 [D]}; the class of padding is -1, its score 0.
    """
    classes = probability.shape[1]
    k = min(candidates, probability.size)
    score, at = jax.lax.top_k(probability.reshape(-1), k)
    category = jnp.where(score >= least, at % classes, -1)
    found = boxes[at // classes]
    kept = nms(found, category, threshold=threshold)
    # Those that stay come first, and keep their order.
    order = jnp.argsort(~kept, stable=True)[:most]
    alive = kept[order]
    made = {
        "boxes": jnp.where(alive[:, None], found[order], 0.0).astype(jnp.float32),
        "score": jnp.where(alive, score[order], 0.0).astype(jnp.float32),
        "category": jnp.where(alive, category[order], -1).astype(jnp.int32),
    }
    short = most - len(order)
    if short <= 0:
        return made
    fill = {"boxes": 0.0, "score": 0.0, "category": -1}
    return {n: jnp.pad(x, [(0, short), *[(0, 0)] * (x.ndim - 1)], constant_values=fill[n]) for n, x in made.items()}


def fit_shapes(sizes: np.ndarray, count: int, *, rounds: int = 100, seed: int = 0) -> np.ndarray:
    """Anchor shapes for boxes: k-means with 1 - IoU of boxes about one centre as distance (Redmon & Farhadi, CVPR 2017, 2).

    Args:
      sizes: float [n, 2], width and height of boxes.
      count: shapes.
      rounds: of the iteration, at most.
      seed: of the start.

    Returns:
      float32 [count, 2], by rising area. Where the boxes have fewer different sizes, shapes between and around them.
    """
    sizes = np.asarray(sizes, np.float64).reshape(-1, 2)
    if not len(sizes):
        raise ValueError("fit_shapes: no boxes")
    # Evenly through the areas, so that the largest and the smallest boxes have a shape near theirs from the start.
    order = sizes[np.argsort(sizes.prod(1), kind="stable")]
    centres = order[((np.arange(count) + 0.5) * len(order) / count).astype(int)]
    rng = np.random.default_rng(seed)
    centres = centres * np.exp(rng.normal(0, 0.05, centres.shape))
    for _ in range(rounds):
        near = np.minimum(sizes[:, None], centres[None]).prod(-1)
        near = near / (sizes.prod(1)[:, None] + centres.prod(1)[None] - near)
        which = near.argmax(1)
        new = np.stack([np.median(sizes[which == c], 0) if (which == c).any() else centres[c] for c in range(count)])
        if np.allclose(new, centres):
            break
        centres = new
    return centres[np.argsort(centres.prod(1), kind="stable")].astype(np.float32)


def flip(boxes: jax.Array, axis: int, size: float) -> jax.Array:
    """Boxes [..., 4] of a picture mirrored along an axis (0: upside down, 1: left to right) of so many pixels."""
    boxes, (low, high) = jnp.asarray(boxes), (1, 3) if axis == 0 else (0, 2)
    return boxes.at[..., low].set(size - boxes[..., high]).at[..., high].set(size - boxes[..., low])


def flip_deltas(deltas: jax.Array, axes: Sequence[int]) -> jax.Array:
    """`encode`d boxes [..., 4] of a mirrored picture, for the picture as it is."""
    sign = np.ones(4, np.float32)
    sign[[1 if axis == 0 else 0 for axis in axes]] = -1
    return deltas * sign
