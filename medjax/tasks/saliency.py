"""Grad-CAM: where in a picture a network sees a class (Selvaraju et al., ICCV 2017)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from medjax.cases import Cases, Rows
from medjax.core import Batch, Figure, State, Task
from medjax.tasks.images import Windows, as_batch, to_shown
from medjax.tasks.pictures import shown_cases

STAGE = "stage"  # what the names of an encoder's stages start with
PAIRS = 3  # pictures of a row, each with its overlay
OPACITY = 0.65  # of the overlay where the map is 1
# A map's colours, from 0 to 1: purple, red, yellow, ever lighter, so that they also tell apart without hue.
COLOURS = np.array([(70, 20, 120), (200, 50, 70), (250, 160, 40), (255, 245, 150)], float)

Explain = Callable[[State, Rows, Cases], dict[str, Figure]]


class _Seen:
    """What a forward pass showed on its way: the network's output and the outputs of its stages, in order of their calls."""

    def __init__(self, change: Callable[[int, jax.Array], jax.Array] = lambda place, feature: feature):
        self.change = change
        self.output: Any = None
        self.stages: list[jax.Array] = []

    def look(self, call: Callable, args: tuple, kwargs: dict, context: nn.module.InterceptorContext) -> Any:
        y = call(*args, **kwargs)
        if context.method_name != "__call__":
            return y
        path = context.module.path
        if len(path) == 1 and path[0].startswith(STAGE):
            y = self.change(len(self.stages), y)
            self.stages.append(y)
        elif not path:
            self.output = y
        return y


def grad_cam(model: nn.Module, variables: Mapping[str, Any], x: jax.Array, target: jax.Array) -> jax.Array:
    """Grad-CAM of a class for each input, in the network's last stage.

    With A the output of the last top-level submodule whose name starts with "stage" and y the target's logit, the map is
    relu(sum_c a_c A_c), a_c = mean over the grid of dy / dA_c (equations 1 and 2); it is interpolated linearly to the input's
    size and divided by its maximum. Pure; may be jitted.

    Args:
      model: x -> logits [n, K], `__call__(x, *, train)`.
      variables: of the model: params and collections.
      x: [n, H, W, C] or [n, D, H, W, C].
      target: int [n], the class to explain.

    Returns:
      float32 [n, H, W] or [n, D, H, W], 0 to 1; all 0 where nothing speaks for the class.

    Raises:
      ValueError: the model has no such submodule, or its output is no grid.
    """
    return _cam(lambda: model.apply(variables, x, train=False), x.shape[:-1], target)


def task_grad_cam(task: Task, state: State, batch: Batch, target: jax.Array) -> jax.Array:
    """`grad_cam` of a task's network, whose `predict` takes the batch's `image` [n, H, W, C] or [n, D, H, W, C].

    Of an example's views, the example itself is explained.
    """
    return _cam(lambda: task.predict(state, batch), batch["image"].shape[:-1], target)


def has_stages(task: Task, state: State, batch: Mapping[str, Any]) -> bool:
    """Whether the task's network has the named stages that Grad-CAM looks at, the last of them a grid like the `image`."""
    stages = _trace(lambda: task.predict(state, batch)).stages
    return bool(stages) and stages[-1].ndim == batch["image"].ndim


def _trace(forward: Callable[[], Any]) -> _Seen:
    seen = _Seen()
    with nn.intercept_methods(seen.look):
        jax.eval_shape(forward)
    return seen


def _cam(forward: Callable[[], Any], size: tuple[int, ...], target: jax.Array) -> jax.Array:
    stages = _trace(forward).stages
    if not stages:
        raise ValueError(f"the model has no top-level submodule whose name starts with {STAGE!r}")
    last = stages[-1]
    if last.ndim != len(size) + 1:
        raise ValueError(f"the model's last stage gives {list(last.shape)}, which is no grid of {len(size) - 1} dimensions")

    def own(x: jax.Array) -> jax.Array:
        """The rows of the examples themselves, without their views."""
        return x.reshape(size[0], -1, *x.shape[1:])[:, 0]

    def logits(change: jax.Array) -> tuple[jax.Array, jax.Array]:
        seen = _Seen(lambda place, feature: feature + change if place == len(stages) - 1 else feature)
        with nn.intercept_methods(seen.look):
            forward()
        return own(seen.output)[jnp.arange(size[0]), target].sum(), own(seen.stages[-1])

    gradient, feature = jax.grad(logits, has_aux=True)(jnp.zeros(last.shape, last.dtype))
    feature, gradient = feature.astype(jnp.float32), own(gradient).astype(jnp.float32)
    grid = tuple(range(1, feature.ndim - 1))
    coarse = nn.relu((gradient.mean(grid, keepdims=True) * feature).sum(-1))
    fine = jax.image.resize(coarse, size, "linear")
    peak = fine.max(grid, keepdims=True)
    return fine / jnp.where(peak > 0, peak, 1.0)


def overlay(images: np.ndarray, maps: np.ndarray) -> np.ndarray:
    """Heat maps over pictures: the higher the map, the lighter its colour and the less of the picture shines through.

    Args:
      images: uint8 [m, H, W] or [m, H, W, 3].
      maps: float [m, H, W], 0 to 1.

    Returns:
      uint8 [m, H, W, 3].
    """
    picture = np.repeat(images[..., None], 3, axis=-1) if images.ndim == 3 else images
    at = np.linspace(0, 1, len(COLOURS))
    colour = np.stack([np.interp(maps, at, COLOURS[:, c]) for c in range(3)], axis=-1)
    cover = OPACITY * maps[..., None]
    return np.round((1 - cover) * picture + cover * colour).astype(np.uint8)


def explain_with(task: Task, classes: Sequence[str], *, windows: Windows = ()) -> Explain:
    """explain(state, rows, cases) -> {"saliency": Figure}: Grad-CAM of the surest and least sure cases (`shown_cases`).

    It gives no figure for a network without named stages, or for cases without pictures.

    Args:
      task: of `classification` or `multilabel`.
      classes: names of the logits.
      windows: the CT windows that the pictures were prepared for.
    """
    maps_of = jax.jit(lambda state, batch, target: task_grad_cam(task, state, batch, target))

    def explain(state: State, rows: Rows, cases: Cases) -> dict[str, Figure]:
        shown = shown_cases(rows, cases, classes) if "image" in cases else []
        if not shown:
            return {}
        part = cases.take(np.concatenate([row.which[:PAIRS] for row in shown]))
        target = np.concatenate([row.target[:PAIRS] for row in shown])
        batch = as_batch({name: part[name] for name in part.numeric()})
        if not has_stages(task, state, batch):
            return {}
        maps = np.asarray(maps_of(state, batch, target))
        maps = maps[:, maps.shape[1] // 2] if maps.ndim == 4 else maps
        pictures = to_shown(part["image"], windows)
        plain, covered = overlay(pictures, np.zeros_like(maps)), overlay(pictures, maps)
        lines, start = [], 0
        for row in shown:
            end = start + len(row.which[:PAIRS])
            images = np.stack([plain[start:end], covered[start:end]], axis=1).reshape(-1, *plain.shape[1:])
            titles = [text for title, k in zip(row.titles, target[start:end]) for text in (title, f"for {classes[k]}")]
            lines.append({"label": row.label, "images": images, "titles": titles})
            start = end
        return {"saliency": Figure("grid", "What the network looked at", _CAPTION, {"rows": lines})}

    return explain


_CAPTION = (
    "Grad-CAM of the network's last stage: the lighter, the more a place speaks for the class that is named above it, each "
    "picture on a scale of its own. It is as coarse as that stage, and shows what the network used, not where disease is."
)
