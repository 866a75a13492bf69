"""Texts with marked passages as a figure."""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Mapping
from typing import Any

from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.figure import Figure as Canvas
from matplotlib.font_manager import FontProperties
from matplotlib.patches import Rectangle

from medjax.core import Figure
from medjax.report.style import DPI, QUIET, new_canvas, wrap

WIDE = 92  # characters of a line
LINE, BETWEEN, SIZE = 0.24, 0.16, 10.8  # inches of a line and between texts; points
FONT = "DejaVu Sans Mono"
# Filled: what was found. Framed: what is true. Told apart by form first, so that a grey printer keeps them.
STYLES: Mapping[str, dict[str, Any]] = {
    "right": {"facecolor": "#b9dcf0", "edgecolor": "none"},
    "wrong": {"facecolor": "#fbe0cd", "edgecolor": "#eea36d", "linewidth": 0, "hatch": "////"},
    "missed": {"facecolor": "none", "edgecolor": "#D55E00", "linewidth": 1.6},
    "weight": {"facecolor": "#0072B2", "edgecolor": "none"},
}


def lay_out(text: str, wide: int = WIDE) -> list[tuple[int, int]]:
    """(begin, end) of each line of a text, broken at blanks and line ends; a word longer than a line is cut."""
    lines, begin = [], 0
    while begin < len(text):
        stop = text.find("\n", begin, begin + wide + 1)
        if stop < 0:
            stop = len(text) if len(text) - begin <= wide else text.rfind(" ", begin + 1, begin + wide + 1)
        stop = begin + wide if stop < 0 else stop
        lines.append((begin, stop))
        begin = stop + (stop < len(text) and text[stop] in " \n")
    return lines or [(0, 0)]


def draw_passages(figure: Figure) -> Canvas:
    """A figure of kind "passages", see `medjax.core.Figure`."""
    rows = [(row, lay_out(row["text"])) for row in figure.data["rows"]]
    letter = _letter()
    height = 0.6 + sum((len(lines) + 1) * LINE + BETWEEN for _, lines in rows)
    width = WIDE * letter + 0.3
    canvas = new_canvas(width, height, layout=None)
    axes = canvas.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.set_axis_off()
    axes.text(0.15, 0.3, wrap(figure.title, 80, lines=1), fontweight="bold", fontsize=12.5)
    y = 0.6
    for row, lines in rows:
        axes.text(0.15, y + 0.7 * LINE, row["label"], color=QUIET, fontsize=9)
        for begin, end in lines:
            y += LINE
            for first, last, style, strength in row["marks"]:
                _mark(axes, max(first, begin) - begin, min(last, end) - begin, letter, y, style, strength)
            _write(axes, row["text"][begin:end], y)
        y += LINE + BETWEEN
    return canvas


@functools.cache
def _letter() -> float:
    """Inches from one letter to the next as they are drawn: hinting rounds them to whole dots, so not the font's own width."""
    renderer, font = RendererAgg(1, 1, DPI), FontProperties(family=FONT, size=SIZE)
    one, two = (renderer.get_text_width_height_descent("0" * WIDE * n, font, False)[0] for n in (1, 2))
    return float(two - one) / WIDE / DPI


def _mark(axes: Any, first: int, last: int, letter: float, y: float, style: str, strength: float) -> None:
    if first >= last:
        return
    width, height = (last - first) * letter, 0.88 * LINE
    place = 0.15 + first * letter, y + 0.06 * LINE
    alpha = strength if style == "weight" else None
    axes.add_patch(Rectangle(place, width, height, alpha=alpha, **STYLES[style]))


def _write(axes: Any, text: str, y: float) -> None:
    """A line in a font whose letters are all as wide as `_letter`, so that marks lie where they belong."""
    shown = "".join(map(_shown, text))
    axes.text(0.15, y + 0.74 * LINE, shown, family=FONT, size=SIZE)


def _shown(letter: str) -> str:
    """The letter; a blank for any kind of blank, and a square for what the font has not, or not as wide."""
    if letter.isspace():
        return " "
    return letter if ord(letter) < 0x2500 and unicodedata.category(letter)[0] not in "CM" else "\u25a1"
