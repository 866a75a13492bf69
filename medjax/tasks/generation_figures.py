"""Figures of a generation: generated beside real images, beside their nearest training images, and along the training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from medjax.cases import Cases, Rows
from medjax.core import Figure, State

ROW = 12  # pictures of a class
PAIRS = 6
CLASSES = 6  # of which there are pictures, at most


def shown(image: np.ndarray) -> np.ndarray:
    """uint8 [n, H, W, C] as pictures [n, H, W] or [n, H, W, 3]; of two or four channels the first."""
    return image if image.shape[-1] == 3 else image[..., 0]


def figures(rows: Rows, cases: Cases, others: Mapping[str, Rows], *, classes: Sequence[str]) -> dict[str, Figure]:
    """See the module."""
    made, real, label = shown(rows["image"]), shown(cases["image"]), cases["label"]
    lines: list[dict[str, Any]] = []
    for k, name in list(enumerate(classes))[:CLASSES] or [(-1, "")]:
        mine = np.flatnonzero(label == k)[:ROW] if classes else np.arange(min(ROW, len(made)))
        lines.append({"label": f"{name}\ngenerated".strip(), "images": made[mine]})
        lines.append({"label": f"{name}\nreal".strip(), "images": real[mine[: ROW // 2]]})
    found = {}
    lines = [line for line in lines if len(line["images"])]
    if lines:
        found["samples"] = Figure(
            "grid",
            "Generated beside real images",
            "The first generated images of each class, from fixed seeds and not chosen, and the first held-out real ones.",
            {"rows": lines},
        )
    found["nearest"] = _nearest(rows, made)
    distances = [
        {"label": "generated", "values": rows["nearest"]},
        *({"label": "real, held out", "values": o["nearest"]} for name, o in others.items() if name == "real"),
    ]
    top = max(float(np.max(d["values"])) for d in distances) or 1.0
    edges = np.linspace(0, top, 31)
    found["distances"] = Figure(
        "bars",
        "Distance to the nearest training image",
        "By features. Generated images that lie nearer than held-out real ones repeat the training images.",
        {
            "groups": [{"label": d["label"], "edges": edges, "counts": np.histogram(d["values"], edges)[0]} for d in distances],
            "xlabel": "distance",
            "ylabel": "images",
        },
    )
    return found


def _nearest(rows: Rows, made: np.ndarray) -> Figure:
    picture, distance = shown(rows["picture"]), rows["nearest"]
    order = np.argsort(distance, kind="stable")
    lines = []
    for name, which in (("nearest of all", order[:PAIRS]), ("any", np.arange(min(PAIRS, len(made))))):
        titles = [f"distance {distance[i]:.2f}" for i in which]
        lines.append({"label": f"generated,\n{name}", "images": made[which], "titles": titles})
        lines.append({"label": "nearest\ntraining", "images": picture[which]})
    return Figure(
        "grid",
        "Nearest training images",
        "Generated images above the training image that is nearest by features (shown reduced): those with the nearest ones of "
        "all, and the first ones. A generator that copies shows the same picture twice.",
        {"rows": lines},
    )


def course(state: State, rows: Rows, cases: Cases, *, steps: int) -> dict[str, Figure]:
    """The album of a training: the same latents' images at even times, up to the checkpoint that was chosen."""
    album = np.asarray(state.extra["album"])
    every = max(1, steps // len(album))
    lines = [
        {"label": f"step\n{every * (k + 1):,}", "images": shown(album[k])}
        for k in range(len(album))
        if every * (k + 1) <= int(state.step)
    ]
    if not lines:
        return {}
    return {
        "training": Figure(
            "grid",
            "Along the training",
            "Images of the same latents as the training went on, up to the chosen checkpoint, by the weights of the moment.",
            {"rows": lines},
        )
    }
