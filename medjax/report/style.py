"""The one style of all figures: white ground, readable labels, colours that colour-blind readers tell apart.

Nothing here touches pyplot's global state, so that figures can be drawn from any thread of a run.
"""

from __future__ import annotations

import textwrap
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure as Canvas

from medjax.core import Figure

DPI = 130
INK, QUIET, FAINT = "#1b2733", "#5c6873", "#d9dee3"
NETWORK = "#0072B2"
# Baselines: muted, told apart by lightness and by dash, so that they also survive a grey printer.
BASELINES = ("#8a8f94", "#c98a3c", "#5fa08c", "#a583b5", "#6b7fa3", "#b5727a")
DASHES = ("-", (0, (6, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)), (0, (3, 2)), (0, (8, 2, 1.5, 2, 1.5, 2)))
MARKERS = ("o", "s", "^", "D", "v", "P")
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
BLUES = LinearSegmentedColormap.from_list("medjax", ["#ffffff", "#cfe3f1", "#6fb0d8", NETWORK, "#00486f"])


def new_canvas(width: float, height: float, *, layout: Any = "constrained") -> Canvas:
    """An empty figure, in inches."""
    canvas = Canvas(figsize=(width, height), dpi=DPI, layout=layout)
    FigureCanvasAgg(canvas)
    return canvas


def wrap(text: str, width: int, *, lines: int = 3) -> str:
    """A text in lines of so many characters, so many at most."""
    wrapped = [part for line in str(text).splitlines() for part in textwrap.wrap(line, width)]
    if len(wrapped) > lines:
        wrapped[lines - 1 :] = [wrapped[lines - 1][: width - 2] + " …"]
    return "\n".join(wrapped) or " "


def finish(axes: Axes) -> None:
    """A faint grid behind, no ticks."""
    axes.grid(color=FAINT, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(length=0)


def label_axes(axes: Axes, figure: Figure, *, width: int = 54) -> None:
    """The title and the axes' names that a figure gives."""
    axes.set_title(wrap(figure.title, width))
    axes.set_xlabel(figure.data.get("xlabel", ""))
    axes.set_ylabel(figure.data.get("ylabel", ""))
