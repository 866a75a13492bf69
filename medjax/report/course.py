"""Figures of records: a patient's course above the risk over time, and heat maps of variables by step."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure as Canvas

from medjax.core import Figure
from medjax.report import style as base

RAISES, LOWERS = "#D55E00", "#0072B2"


def draw_course(figure: Figure) -> Canvas:
    """Kind "course": a small panel for each variable, its points coloured by what they did to the risk, above the risk."""
    rows, data = figure.data["rows"], figure.data
    canvas = base.new_canvas(6.4, 0.95 * len(rows) + 2.2)
    axes = canvas.subplots(len(rows) + 1, 1, sharex=True, squeeze=False, height_ratios=[1.0] * len(rows) + [1.6])[:, 0]
    largest = max((float(np.abs(row["weight"]).max()) for row in rows), default=0.0) or 1.0
    for panel, row in zip(axes, rows, strict=False):
        weight = np.asarray(row["weight"], float)
        panel.plot(row["x"], row["y"], color=base.FAINT, linewidth=1.2, zorder=1)
        colours = [RAISES if w > 0 else LOWERS for w in weight]
        # Small weights keep a faint point: that it was measured is told as well.
        strength = np.clip(0.15 + 0.85 * np.sqrt(np.abs(weight) / largest), 0, 1)
        panel.scatter(row["x"], row["y"], c=colours, alpha=strength, s=22, linewidths=0, zorder=3)
        panel.set_ylabel(row["label"], rotation=0, ha="right", va="center", fontsize=9.5)
        panel.tick_params(labelsize=8.5)
        base.finish(panel)
    risk = axes[-1]
    risk.plot(data["x"], data["risk"], color=base.NETWORK, linewidth=2.4)
    risk.set_ylim(-0.02, 1.02)
    risk.set_ylabel(base.wrap(data["ylabel"], 18), fontsize=10)
    risk.set_xlabel("hours")
    base.finish(risk)
    canvas.suptitle(base.wrap(figure.title, 58), x=0.02, ha="left", fontweight="bold", fontsize=12, color=base.INK)
    return canvas


def draw_heat(figure: Figure) -> Canvas:
    """Kind "heat": values [R, C] as shades, a name for each row."""
    values = np.asarray(figure.data["values"], float)
    canvas = base.new_canvas(6.4, 0.27 * len(values) + 1.6)
    axes = canvas.add_subplot()
    shown = axes.imshow(values, cmap=base.BLUES, aspect="auto", vmin=0, interpolation="nearest")
    axes.set_yticks(np.arange(len(values)), figure.data["rows"])
    axes.tick_params(length=0, labelsize=9.5)
    canvas.colorbar(shown, ax=axes, fraction=0.04, pad=0.02)
    base.label_axes(axes, figure, width=54)
    return canvas
