"""Figures as data -> PNG."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import FuncFormatter, MaxNLocator

from medjax.core import Figure
from medjax.files import write_bytes
from medjax.report.style import (
    BASELINES,
    BLUES,
    CLASSES,
    DASHES,
    DPI,
    FAINT,
    INK,
    MARKERS,
    QUIET,
    STYLE,
    finish,
    label_axes,
    new_canvas,
    wrap,
)

COLUMNS, CELL = 6, 1.5  # images beside each other in a grid; inches a cell


def draw(figure: Figure) -> Canvas:
    """Draw a figure of any kind that `medjax.core.Figure` describes.

    A line's optional `style` is "network" (the strong colour), "baseline" (calmer ones, in turn), "points" (markers joined by a
    line, in the network's colour) or a Matplotlib dash such as "--". Without one, the line whose label starts with "network" is
    the network; if none does, the first is.

    Returns:
      A Matplotlib figure with an Agg canvas, 130 dpi.

    Raises:
      ValueError: the kind is unknown, or the data has nothing to draw.
    """
    from medjax.report.course import draw_course, draw_heat  # which draw with what is here
    from medjax.report.passages import draw_passages

    kinds = {**_KINDS, "course": draw_course, "heat": draw_heat, "passages": draw_passages}
    if figure.kind not in kinds:
        raise ValueError(f"figure kind {figure.kind!r} is none of {', '.join(kinds)}")
    parts = "lines" if figure.kind == "lines" else "groups" if figure.kind in ("bars", "points") else "rows"
    if len(figure.data[parts]) == 0:
        raise ValueError(f"figure {figure.title!r} has no {parts}")
    with matplotlib.rc_context(STYLE):
        return kinds[figure.kind](figure)


def save(figures: Mapping[str, Figure], folder: str | Path) -> list[dict[str, str]]:
    """Draw figures into `folder` as NAME.png, each written whole or not at all.

    Args:
      figures: {file name, with or without ".png": figure}.
      folder: made if missing.

    Returns:
      What report.json lists: [{"file", "title", "caption"}], in the order given.

    Raises:
      ValueError: a name that is not a plain file name, or a figure that cannot be drawn.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    listed = []
    for name, figure in figures.items():
        stem = name.removesuffix(".png")
        if not stem or stem.startswith(".") or Path(stem).name != stem or "\\" in stem:
            raise ValueError(f"figure name {name!r} is not a plain file name")
        write_png(draw(figure), folder / f"{stem}.png")
        listed.append({"file": f"{stem}.png", "title": figure.title, "caption": figure.caption})
    return listed


def write_png(canvas: Canvas, path: Path) -> None:
    """Write a drawn figure, whole or not at all; equal figures give equal bytes."""
    buffer = io.BytesIO()
    with matplotlib.rc_context(STYLE):
        canvas.savefig(buffer, format="png", dpi=DPI, facecolor="white", metadata={"Software": None})
    write_bytes(path, buffer.getvalue())


def _is_network(line: Mapping[str, Any]) -> bool:
    style = str(line.get("style") or "")
    return style in ("network", "points") or (not style and str(line["label"]).lower().startswith("network"))


def _draw_lines(figure: Figure) -> Canvas:
    lines = figure.data["lines"]
    network = [_is_network(line) for line in lines]
    if not any(network):
        network = [index == 0 and line.get("style") != "baseline" for index, line in enumerate(lines)]
    square = figure.data.get("diagonal") and "xlim" not in figure.data
    canvas = new_canvas(5.6, 5.3 if square else 4.3)
    axes = canvas.add_subplot()
    if figure.data.get("diagonal"):
        axes.axline((0, 0), slope=1, color=QUIET, linewidth=1, linestyle=(0, (2, 3)), zorder=1)
        axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
    calm = strong = 0
    for line, is_network in zip(lines, network):
        style = str(line.get("style") or "")
        if is_network:
            # Several networks (classes, members) take further strong colours.
            colour, width, order = CLASSES[strong % len(CLASSES)], 2.6, 5
            dash: Any = "-"
            strong += 1
        else:
            colour, width, order = BASELINES[calm % len(BASELINES)], 1.8, 3
            dash = DASHES[calm % len(DASHES)]
            calm += 1
        dash = style if style in ("-", "--", "-.", ":") else dash
        x, y = np.asarray(line["x"], float), np.asarray(line["y"], float)
        marker = "o" if style == "points" or len(x) == 1 else None
        axes.plot(x, y, color=colour, linestyle=dash, linewidth=width, marker=marker, zorder=order, label=line["label"])
        if line.get("lo") is not None and line.get("hi") is not None:
            low, high = np.asarray(line["lo"], float), np.asarray(line["hi"], float)
            axes.fill_between(x, low, high, color=colour, alpha=0.16, linewidth=0, zorder=order - 1)
    if "xlim" in figure.data:
        axes.set_xlim(*figure.data["xlim"])
    if "ylim" in figure.data:
        axes.set_ylim(*figure.data["ylim"])
    if "xticks" in figure.data:
        axes.set_xticks(*zip(*figure.data["xticks"]))
    if square:
        axes.set_aspect("equal")
    label_axes(axes, figure, width=46)
    finish(axes)
    if any(line["label"] for line in lines):
        axes.legend(loc="best", labelcolor=INK, handlelength=2.4, labelspacing=0.45)
    return canvas


def _draw_bars(figure: Figure) -> Canvas:
    canvas = new_canvas(5.6, 4.3)
    axes = canvas.add_subplot()
    for index, group in enumerate(figure.data["groups"]):
        colour, edges, counts = CLASSES[index % len(CLASSES)], np.asarray(group["edges"], float), np.asarray(group["counts"])
        axes.stairs(counts, edges, fill=True, color=colour, alpha=0.28, linewidth=0)
        # The outline tells overlapping groups apart where the fills mix; its dash does so without colour.
        axes.stairs(counts, edges, color=colour, linewidth=2, linestyle=DASHES[index % len(DASHES)], label=group["label"])
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    label_axes(axes, figure, width=46)
    finish(axes)
    axes.grid(visible=False, axis="x")
    if any(group["label"] for group in figure.data["groups"]):
        axes.legend(loc="best", labelcolor=INK)
    return canvas


def _draw_matrix(figure: Figure) -> Canvas:
    values = np.asarray(figure.data["values"])
    totals = values.sum(axis=1, keepdims=True)
    share = np.divide(values, totals, out=np.zeros(values.shape), where=totals > 0)
    k, m = values.shape
    size = min(max(5.2, 0.95 * m + 2.2), 13)
    canvas = new_canvas(size, size * 0.9 if k == m else (size - 2.2) * k / m + 1.9)
    axes = canvas.add_subplot()
    axes.imshow(share, cmap=BLUES, vmin=0, vmax=1)
    axes.set_xticks(range(values.shape[1]), [wrap(name, 14 if k == m else 9) for name in figure.data["columns"]])
    axes.set_yticks(range(k), [wrap(name, 16) for name in figure.data["rows"]])
    if k > 5:
        axes.tick_params(axis="x", rotation=40)
        for tick in axes.get_xticklabels():
            tick.set(ha="right", rotation_mode="anchor")
    room = 15 if k <= 3 else 12 if k <= 6 else 9 if k <= 12 else 6.5
    for (row, column), value in np.ndenumerate(values):
        colour = "white" if share[row, column] > 0.5 else INK
        axes.text(column, row - 0.04, f"{value:,}", ha="center", va="bottom", color=colour, fontsize=room, fontweight="bold")
        percent = f"{100 * share[row, column]:.1f} %" if totals[row] else "no cases"
        axes.text(column, row + 0.08, percent, ha="center", va="top", color=colour, fontsize=0.78 * room)
    axes.spines[:].set_visible(False)
    axes.set_xticks(np.arange(values.shape[1] + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(k + 1) - 0.5, minor=True)
    axes.grid(which="minor", color=FAINT, linewidth=1)
    axes.tick_params(which="both", length=0, labelcolor=INK)
    label_axes(axes, figure, width=int(size * 8))
    return canvas


def _draw_grid(figure: Figure) -> Canvas:
    """Sizes are worked out in inches by hand: automatic layouts shrink the images to make room for their titles."""
    rows = [row for row in figure.data["rows"] if len(row["images"])]
    if not rows:
        raise ValueError(f"figure {figure.title!r} has no images")
    columns = min(COLUMNS, max(len(row["images"]) for row in rows))
    left, gap, line, between = 0.42, 0.08, 0.16, 0.16
    titles = {id(row): [wrap(title, 21) if title else "" for title in row.get("titles", ())] for row in rows}
    laid, y = [], 0.5  # (row, first image, top of its titles, titles' height, cell height), from the top of the page
    for row in rows:
        shape = np.shape(row["images"][0])
        tall = CELL * min(max(shape[0] / shape[1], 0.4), 2.5)
        for first in range(0, len(row["images"]), columns):
            texts = titles[id(row)][first : first + columns]
            head = max((line * (text.count("\n") + 1) for text in texts if text), default=0) + 0.05
            laid.append((row, first, y, head, tall))
            y += head + tall + 0.08
        y += between
    width, height = max(left + columns * (CELL + gap) + 0.1, 5.0), y
    canvas = new_canvas(width, height, layout=None)
    canvas.text(
        0.1 / width, 1 - 0.12 / height, wrap(figure.title, int(width * 8), lines=2), fontweight="bold", fontsize=12.5, va="top"
    )
    for row, first, top, head, tall in laid:
        for place, image in enumerate(row["images"][first : first + columns]):
            x = left + place * (CELL + gap)
            axes = canvas.add_axes((x / width, 1 - (top + head + tall) / height, CELL / width, tall / height))
            axes.set_axis_off()
            _show(axes, np.asarray(image))
            text = (titles[id(row)][first + place : first + place + 1] or [""])[0]
            middle, above = (x + CELL / 2) / width, 1 - (top + head - 0.04) / height
            canvas.text(middle, above, text, ha="center", va="bottom", fontsize=9, linespacing=1.15)
    for row in rows:
        mine = [(top + head, top + head + tall) for other, _, top, head, tall in laid if other is row]
        start, end = mine[0][0], mine[-1][1]
        text = wrap(row.get("label", ""), max(int((end - start) * 10), 8), lines=2)
        canvas.text(
            0.2 / width,
            1 - (start + end) / 2 / height,
            text,
            rotation=90,
            ha="center",
            va="center",
            fontweight="bold",
            fontsize=10.5,
        )
    return canvas


def _show(axes: Axes, image: np.ndarray) -> None:
    if image.ndim == 3 and image.shape[-1] == 1:
        image = image[..., 0]
    # Bilinear, as picture archives show slices; the grey window is the whole range of 8 bits, never stretched per image.
    axes.imshow(image, cmap="gray" if image.ndim == 2 else None, vmin=0, vmax=255, interpolation="bilinear")


def _draw_points(figure: Figure) -> Canvas:
    canvas = new_canvas(5.6, 4.3)
    axes = canvas.add_subplot()
    everything = sum(len(group["x"]) for group in figure.data["groups"])
    for index, group in enumerate(figure.data["groups"]):
        colour, marker = CLASSES[index % len(CLASSES)], MARKERS[index % len(MARKERS)]
        size = 34 if everything < 200 else 14
        axes.scatter(
            group["x"], group["y"], s=size, color=colour, marker=marker, alpha=0.75, linewidths=0, label=group["label"]
        )
    for value, text in figure.data.get("levels", ()):
        axes.axhline(value, color=QUIET, linewidth=1.2, linestyle=(0, (4, 3)), zorder=1)
        place: Any = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points", "xytext": (0, 3)}
        axes.annotate(text, (0.995, value), ha="right", va="bottom", color=QUIET, fontsize=10, **place)
    label_axes(axes, figure, width=46)
    finish(axes)
    if len(figure.data["groups"]) > 1:
        axes.legend(loc="best", labelcolor=INK, handletextpad=0.3)
    return canvas


_KINDS = {"lines": _draw_lines, "bars": _draw_bars, "matrix": _draw_matrix, "grid": _draw_grid, "points": _draw_points}
