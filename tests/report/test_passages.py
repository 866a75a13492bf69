"""Texts with marked passages."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from medjax.core import Figure
from medjax.report import figures
from medjax.report.passages import lay_out


@given(st.text(alphabet="ab \n", max_size=80), st.integers(1, 12))
def test_lines_hold_every_letter_once(text, wide):
    lines = lay_out(text, wide)
    assert all(0 <= end - begin <= wide for begin, end in lines)
    held = np.zeros(len(text), int)
    for begin, end in lines:
        held[begin:end] += 1
        assert "\n" not in text[begin:end]
    assert all(n == 1 or letter in " \n" for n, letter in zip(held, text))
    assert (held <= 1).all()


def test_passages_are_drawn_with_any_letters(tmp_path):
    row = {
        "label": "a: Disease",
        "text": "Ménière β $x$ 💊\n" + "word " * 60,
        "marks": [(0, 7, "right", 1.0), (8, 9, "missed", 1.0)],
    }
    row["marks"] += [(10, 13, "wrong", 1.0), (20, 24, "weight", 0.5)]
    made = Figure("passages", "Texts", "Marked.", {"rows": [row]})
    listed = figures.save({"texts": made}, tmp_path)
    assert listed[0]["file"] == "texts.png"
    assert (tmp_path / "texts.png").stat().st_size > 3000


def test_marks_lie_under_their_letters():
    """At the end of a line as at its beginning: the dots of a letter lie between the sides of its mark."""
    text = "." * 89 + "M" + "." * 2
    figure = Figure("passages", "Texts", "Marked.", {"rows": [{"label": "", "text": text, "marks": [(89, 90, "right", 1.0)]}]})
    canvas = figures.draw(figure)
    canvas.canvas.draw()
    dots = np.asarray(canvas.canvas.buffer_rgba())[..., :3].astype(int)
    blue = np.abs(dots - [0xB9, 0xDC, 0xF0]).sum(-1) < 6
    rows, columns = (np.flatnonzero(blue.any(axis)) for axis in (1, 0))
    inside = dots[rows[0] : rows[-1]].min(-1)
    dark = np.flatnonzero((inside < 90).sum(0) >= 5)  # the letter's stems are higher than any point
    assert columns[0] <= dark[0] <= dark[-1] <= columns[-1]
