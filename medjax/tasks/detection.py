"""Detect things in pictures: the Task."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from medjax.core import Batch, State, Task
from medjax.nn import box_losses, boxes
from medjax.tasks.supervised import supervised


class Selection(NamedTuple):
    """Which boxes of all anchors are given.

    Attributes:
      most: detections in a picture.
      candidates: that suppression looks at.
      least: score of a detection.
      overlap: IoU above which the box of lower score goes.
    """

    most: int = 100
    candidates: int = 512
    least: float = 0.01
    overlap: float = 0.5


USUAL = Selection()


def detection(
    model: nn.Module,
    tx: optax.GradientTransformation,
    *,
    inputs: Callable[[Batch], jax.Array],
    selection: Selection = USUAL,
    mirrors: Sequence[int] = (),
    box_loss: Literal["giou", "smooth_l1"] = "giou",
    box_weight: float = 1.0,
    positive: float = 0.5,
    negative: float = 0.4,
) -> Task:
    """Boxes of several classes by a network of anchors.

    Args:
      model: x -> lists of maps over levels, such as `medjax.models.retinanet.RetinaNet`.
      tx: optimizer.
      inputs: batch -> x.
      selection: of detections.
      mirrors: axes (0 upside down, 1 left to right) over whose mirror images scores and boxes are averaged before selection.
      box_loss: of matched anchors, added `box_weight` times to the focal loss; both are divided by their number in a picture.
      positive, negative: IoU bounds of `medjax.nn.boxes.assign`.

    Returns:
      Task over batches with `image` [n, H, W, C], `boxes` float32 [n, M, 4], `category` int32 [n, M] (-1 padding, -2 not to be
      learnt), `extent` float32 [n, 2] (height and width that the picture fills) and `label` int8 [n, K]. Outputs: `boxes`
      float32 [n, D, 4] in pixels of the canvas, `score` [n, D], `category` int32 [n, D] (-1 padding), `gate` float32 [n, K].
    """

    def objective(y: Any, batch: Batch) -> tuple[jax.Array, jax.Array]:
        flat = {name: _flat(y[name]) for name in ("logits", "deltas", "anchors")}
        one = functools.partial(_loss_of_one, box_loss=box_loss, box_weight=box_weight, positive=positive, negative=negative)
        values = jax.vmap(one)(flat["logits"], flat["deltas"], flat["anchors"], batch["boxes"], batch["category"])
        known = batch["label"] >= 0
        if "gate" in y:
            entropy = optax.sigmoid_binary_cross_entropy(y["gate"], jnp.maximum(batch["label"], 0).astype(jnp.float32))
            values = values + jnp.where(known, entropy, 0.0).mean(-1)
        return values, known.any(1).astype(jnp.float32)

    def outputs(y: Any) -> dict[str, Any]:
        seen = {"probability": [jax.nn.sigmoid(x) for x in y["logits"]], "deltas": y["deltas"], "anchors": y["anchors"]}
        return {**seen, "gate": jax.nn.sigmoid(y["gate"])} if "gate" in y else seen

    flips = [axes for k in range(len(mirrors) + 1) for axes in itertools.combinations(sorted(mirrors), k)]

    def views(x: jax.Array) -> jax.Array:
        return jnp.stack([jnp.flip(x, [axis + 1 for axis in axes]) for axes in flips], axis=1)

    def back(seen: dict[str, Any]) -> dict[str, Any]:
        # Cells of a grid change places as pixels do; the anchors of mirrored cells are mirror images, and stay where they are.
        def unflip(maps: Sequence[jax.Array], name: str) -> list[jax.Array]:
            def one(y: jax.Array, v: int, axes: tuple[int, ...]) -> jax.Array:
                if name == "anchors":
                    return y[:, v]
                y = jnp.flip(y[:, v], [axis + 1 for axis in axes])
                return boxes.flip_deltas(y, axes) if name == "deltas" else y

            return [jnp.stack([one(y, v, axes) for v, axes in enumerate(flips)], axis=1) for y in maps]

        return {name: y if name == "gate" else unflip(y, name) for name, y in seen.items()}

    turned: dict[str, Any] = {"views": views, "back": back} if mirrors else {}
    dense = supervised(model, tx, inputs=inputs, loss=objective, outputs=outputs, **turned)

    def chosen(seen: Mapping[str, Any], batch: Batch) -> dict[str, jax.Array]:
        flat = {name: _flat(seen[name]) for name in ("probability", "deltas", "anchors")}

        def one(probability: jax.Array, deltas: jax.Array, anchors: jax.Array, extent: jax.Array) -> dict[str, jax.Array]:
            found = boxes.decode(deltas, anchors)
            limit = jnp.tile(extent[::-1], 2)
            return boxes.select(
                probability,
                jnp.clip(found, 0, limit),
                most=selection.most,
                candidates=selection.candidates,
                least=selection.least,
                threshold=selection.overlap,
            )

        rows = jax.vmap(one)(flat["probability"], flat["deltas"], flat["anchors"], batch["extent"])
        gate = seen.get("gate")
        if gate is None:
            return {**rows, "gate": jnp.ones((len(rows["score"]), flat["probability"].shape[-1]), jnp.float32)}
        factor = jnp.take_along_axis(gate, jnp.maximum(rows["category"], 0), 1)
        return {**rows, "score": rows["score"] * factor, "gate": gate}

    def evaluate(state: State, batch: Batch, axis: str | None = None) -> dict[str, jax.Array]:
        seen = dense.evaluate(state, batch, axis)
        return {**chosen(seen, batch), "loss": seen["loss"]}

    def predict(state: State, batch: Batch) -> dict[str, jax.Array]:
        return chosen(dense.predict(state, batch), batch)

    return Task(dense.init, dense.update, evaluate, predict)


def _flat(maps: Sequence[jax.Array]) -> jax.Array:
    """Maps [n, h, w, a, C] of all levels as [n, A, C]."""
    return jnp.concatenate([y.reshape(len(y), -1, y.shape[-1]) for y in maps], 1)


def _loss_of_one(
    logits: jax.Array,
    deltas: jax.Array,
    anchors: jax.Array,
    truth: jax.Array,
    category: jax.Array,
    *,
    box_loss: str,
    box_weight: float,
    positive: float,
    negative: float,
) -> jax.Array:
    """The loss of a picture, a number: [A, K], [A, 4], [A, 4], [M, 4], [M] -> []."""
    which = jax.lax.stop_gradient(boxes.assign(anchors, truth, category, positive=positive, negative=negative))
    mine = which >= 0
    number = jnp.maximum(mine.sum(), 1).astype(jnp.float32)
    of, kind = truth[jnp.maximum(which, 0)], category[jnp.maximum(which, 0)]
    target = (mine[:, None] & (kind[:, None] == jnp.arange(logits.shape[-1]))).astype(jnp.float32)
    classes = jnp.where((which != boxes.IGNORED)[:, None], box_losses.focal(logits, target), 0.0).sum()
    # What is no match has no box to be compared with: its own anchor keeps the numbers finite.
    of = jnp.where(mine[:, None], of, anchors)
    if box_loss == "giou":
        places = box_losses.giou(deltas, anchors, of)
    else:
        places = box_losses.smooth_l1(deltas, boxes.encode(of, anchors))
    return (classes + box_weight * jnp.where(mine, places, 0.0).sum()) / number
