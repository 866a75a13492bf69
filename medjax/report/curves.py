"""The course of a training: its loss, and the validation metric with the chosen checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter, MaxNLocator

from medjax.report.style import CLASSES, NETWORK, QUIET, STYLE, finish, new_canvas
from medjax.report.words import is_number, name_metric


def learning_curves(metrics: Sequence[Mapping[str, Any]], *, monitor: str, best_step: int | None) -> Canvas:
    """Training loss over steps (faint raw, strong smoothed) above the validation metric with the chosen checkpoint marked.

    The smoothed line is the centred mean over a fortieth of the points, so that it does not lag behind. Where a step was logged
    twice, as after a roll-back, the last line counts. Points that are not finite are left out. Of a run of
    several members each has a line of its own.

    Args:
      metrics: the lines of metrics.jsonl.
      monitor: the validation metric that picked the checkpoint, with or without "val/"; where it was not logged, the first one
        that was.
      best_step: the chosen checkpoint's step, or None.
    """
    keys = list(dict.fromkeys(key for line in metrics for key in line))
    losses = ["loss"] if "loss" in keys else [key for key in keys if "loss" in key and "/" not in key]
    validation = [key for key in keys if key.startswith("val/")]
    chosen = "val/" + monitor.removeprefix("val/")
    chosen = chosen if chosen in validation else next(iter(validation), "")
    members: dict[str, list[Mapping[str, Any]]] = {}
    for line in metrics:
        members.setdefault(str(line.get("member", "")), []).append(line)
    if len(members) > 1:
        training = {name: _series(lines, losses[0]) for name, lines in members.items()} if losses else {}
    else:
        training = {key: _series(metrics, key) for key in losses}
    training = {name: points for name, points in training.items() if len(points[0])}
    validation_of = {name: _series(lines, chosen) for name, lines in members.items()}
    validation_of = {name: points for name, points in validation_of.items() if len(points[0])}
    panels = int(bool(training)) + int(bool(validation_of))
    with matplotlib.rc_context(STYLE):
        canvas = new_canvas(6.2, 2.9 * max(panels, 1) + 0.2, layout=ConstrainedLayoutEngine(h_pad=0.12))
        axes = list(canvas.subplots(max(panels, 1), 1, sharex=True, squeeze=False)[:, 0])
        if panels == 0:
            axes[0].axis("off")
            axes[0].text(0.5, 0.5, "metrics.jsonl holds no loss and no validation metric", ha="center", color=QUIET)
        if training:
            _draw_losses(axes[0], training)
        if validation_of:
            _draw_validation(axes[-1], validation_of, name_metric(chosen.removeprefix("val/")), best_step)
        if panels:
            axes[-1].set_xlabel("Step")
            axes[-1].xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
            axes[-1].xaxis.set_major_locator(MaxNLocator(6, integer=True))
    return canvas


def _series(metrics: Sequence[Mapping[str, Any]], key: str) -> tuple[np.ndarray, np.ndarray]:
    by_step = {line["step"]: line[key] for line in metrics if is_number(line.get("step")) and key in line}
    steps = [step for step in sorted(by_step) if is_number(by_step[step])]
    return np.array(steps, float), np.array([by_step[step] for step in steps], float)


def _smooth(y: np.ndarray) -> np.ndarray:
    half = max(len(y) // 80, 1)
    sums = np.concatenate([[0.0], np.cumsum(y)])
    left = np.maximum(np.arange(len(y)) - half, 0)
    right = np.minimum(np.arange(len(y)) + half + 1, len(y))
    return (sums[right] - sums[left]) / (right - left)


def _draw_losses(axes: Axes, series: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> None:
    everything = np.concatenate([y for _, y in series.values()])
    for colour, (key, (x, y)) in zip(CLASSES * len(series), series.items(), strict=False):
        axes.plot(x, y, color=colour, alpha=0.25, linewidth=1, marker="o" if len(x) == 1 else None)
        axes.plot(x, _smooth(y), color=colour, linewidth=2.2, label=key.replace("_", " "))
    # On a logarithm, late progress is still seen; it needs positive values over at least a decade.
    if everything.min() > 0 and everything.max() > 10 * everything.min():
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(FuncFormatter(lambda *_: ""))
    axes.set_title("Training loss")
    finish(axes)
    if len(series) > 1:
        axes.legend(labelcolor="linecolor")


def _draw_validation(axes: Axes, series: Mapping[str, tuple[np.ndarray, np.ndarray]], name: str, best_step: int | None) -> None:
    colours = CLASSES * len(series) if len(series) > 1 else (NETWORK,)
    for colour, (x, y) in zip(colours, series.values(), strict=False):
        axes.plot(x, y, color=colour, linewidth=2.2, marker="o", markersize=4 if len(x) < 60 else 0)
    axes.set_title(f"{name} on validation data")
    axes.margins(y=0.15)
    if len(series) > 1:
        return
    if best_step is not None:
        axes.axvline(best_step, color=QUIET, linewidth=1, linestyle=(0, (2, 2)), zorder=1)
        at = np.flatnonzero(x == best_step)
        if len(at):
            axes.plot(x[at], y[at], "o", color="white", markeredgecolor=CLASSES[1], markeredgewidth=2.4, markersize=9)
        late = len(x) > 1 and best_step > (x[0] + x[-1]) / 2
        text = f"chosen: step {best_step:,}" + (f", {y[at[-1]]:.3f}" if len(at) else "")
        place = (best_step, 0.06), "data", ("right" if late else "left")
        axes.annotate(
            text,
            place[0],
            xycoords=(place[1], "axes fraction"),
            textcoords="offset points",
            xytext=(-7 if late else 7, 0),
            ha=place[2],
            color=CLASSES[1],
            fontweight="bold",
            fontsize=10.5,
        )
    finish(axes)
