"""Figures as data -> PNG, in one style: white ground, readable labels, colours that colour-blind readers tell apart.

Nothing here touches pyplot's global state, so that figures can be drawn from any thread of a run.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure as Canvas
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter, MaxNLocator

from medjax.core import Figure
from medjax.files import write_bytes
from medjax.report.words import is_number, name_metric

DPI = 130
INK, QUIET, FAINT = "#1b2733", "#5c6873", "#d9dee3"
NETWORK = "#0072B2"
# Baselines: muted, told apart by lightness and by dash, so that they also survive a grey printer.
BASELINES = ("#8a8f94", "#c98a3c", "#5fa08c", "#a583b5", "#6b7fa3", "#b5727a")
DASHES = ("-", (0, (6, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)), (0, (3, 2)), (0, (8, 2, 1.5, 2, 1.5, 2)))
CLASSES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")  # Okabe and Ito's palette
# Any: Matplotlib types the names one by one, and they differ between its versions.
STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 11.5,
    "axes.titlesize": 12.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 12,
    "axes.titlecolor": INK,
    "axes.edgecolor": QUIET,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.unicode_minus": True,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "text.color": INK,
    "text.parse_math": False,  # a class named "$5$" is a name, not a formula
    "legend.frameon": False,
    "legend.fontsize": 11,
    "lines.solid_capstyle": "round",
    "figure.dpi": DPI,
}
COLUMNS, CELL = 6, 1.5  # images beside each other in a grid; inches a cell
BLUES = LinearSegmentedColormap.from_list("medjax", ["#ffffff", "#cfe3f1", "#6fb0d8", NETWORK, "#00486f"])


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
    if figure.kind not in _KINDS:
        raise ValueError(f"figure kind {figure.kind!r} is none of {', '.join(_KINDS)}")
    parts = "lines" if figure.kind == "lines" else "groups" if figure.kind == "bars" else "rows"
    if len(figure.data[parts]) == 0:
        raise ValueError(f"figure {figure.title!r} has no {parts}")
    with matplotlib.rc_context(STYLE):
        return _KINDS[figure.kind](figure)


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
        canvas = _canvas(6.2, 2.9 * max(panels, 1) + 0.2, layout=ConstrainedLayoutEngine(h_pad=0.12))
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
    _finish(axes)
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
    _finish(axes)


def _canvas(width: float, height: float, *, layout: Any = "constrained") -> Canvas:
    canvas = Canvas(figsize=(width, height), dpi=DPI, layout=layout)
    FigureCanvasAgg(canvas)
    return canvas


def _wrap(text: str, width: int, *, lines: int = 3) -> str:
    wrapped = [part for line in str(text).splitlines() for part in textwrap.wrap(line, width)]
    if len(wrapped) > lines:
        wrapped[lines - 1 :] = [wrapped[lines - 1][: width - 2] + " …"]
    return "\n".join(wrapped) or " "


def _finish(axes: Axes) -> None:
    axes.grid(color=FAINT, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(length=0)


def _label(axes: Axes, figure: Figure, *, width: int = 54) -> None:
    axes.set_title(_wrap(figure.title, width))
    axes.set_xlabel(figure.data.get("xlabel", ""))
    axes.set_ylabel(figure.data.get("ylabel", ""))


def _is_network(line: Mapping[str, Any]) -> bool:
    style = str(line.get("style") or "")
    return style in ("network", "points") or (not style and str(line["label"]).lower().startswith("network"))


def _draw_lines(figure: Figure) -> Canvas:
    lines = figure.data["lines"]
    network = [_is_network(line) for line in lines]
    if not any(network):
        network = [index == 0 and line.get("style") != "baseline" for index, line in enumerate(lines)]
    square = figure.data.get("diagonal") and "xlim" not in figure.data
    canvas = _canvas(5.6, 5.3 if square else 4.3)
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
    if square:
        axes.set_aspect("equal")
    _label(axes, figure, width=46)
    _finish(axes)
    if any(line["label"] for line in lines):
        axes.legend(loc="best", labelcolor=INK, handlelength=2.4, labelspacing=0.45)
    return canvas


def _draw_bars(figure: Figure) -> Canvas:
    canvas = _canvas(5.6, 4.3)
    axes = canvas.add_subplot()
    for index, group in enumerate(figure.data["groups"]):
        colour, edges, counts = CLASSES[index % len(CLASSES)], np.asarray(group["edges"], float), np.asarray(group["counts"])
        axes.stairs(counts, edges, fill=True, color=colour, alpha=0.28, linewidth=0)
        # The outline tells overlapping groups apart where the fills mix; its dash does so without colour.
        axes.stairs(counts, edges, color=colour, linewidth=2, linestyle=DASHES[index % len(DASHES)], label=group["label"])
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    _label(axes, figure, width=46)
    _finish(axes)
    axes.grid(visible=False, axis="x")
    if any(group["label"] for group in figure.data["groups"]):
        axes.legend(loc="best", labelcolor=INK)
    return canvas


def _draw_matrix(figure: Figure) -> Canvas:
    values = np.asarray(figure.data["values"])
    totals = values.sum(axis=1, keepdims=True)
    share = np.divide(values, totals, out=np.zeros(values.shape), where=totals > 0)
    k = len(values)
    size = min(max(5.2, 0.95 * k + 2.2), 13)
    canvas = _canvas(size, size * 0.9)
    axes = canvas.add_subplot()
    axes.imshow(share, cmap=BLUES, vmin=0, vmax=1)
    axes.set_xticks(range(values.shape[1]), [_wrap(name, 14) for name in figure.data["columns"]])
    axes.set_yticks(range(k), [_wrap(name, 16) for name in figure.data["rows"]])
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
    _label(axes, figure, width=int(size * 8))
    return canvas


def _draw_grid(figure: Figure) -> Canvas:
    """Sizes are worked out in inches by hand: automatic layouts shrink the images to make room for their titles."""
    rows = [row for row in figure.data["rows"] if len(row["images"])]
    if not rows:
        raise ValueError(f"figure {figure.title!r} has no images")
    columns = min(COLUMNS, max(len(row["images"]) for row in rows))
    left, gap, line, between = 0.42, 0.08, 0.16, 0.16
    titles = {id(row): [_wrap(title, 21) if title else "" for title in row.get("titles", ())] for row in rows}
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
    canvas = _canvas(width, height, layout=None)
    canvas.text(
        0.1 / width, 1 - 0.12 / height, _wrap(figure.title, int(width * 8), lines=2), fontweight="bold", fontsize=12.5, va="top"
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
        text = _wrap(row.get("label", ""), max(int((end - start) * 10), 8), lines=2)
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


_KINDS = {"lines": _draw_lines, "bars": _draw_bars, "matrix": _draw_matrix, "grid": _draw_grid}
