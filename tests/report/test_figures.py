import io

import numpy as np
import pytest
from PIL import Image

from medjax.core import Figure
from medjax.report import draw, learning_curves, save

LINE = {"label": "Network", "x": [0.0, 0.5, 1.0], "y": [0.0, 0.9, 1.0]}
FIGURES = {
    "lines": Figure(
        "lines",
        "ROC",
        "A caption.",
        {
            "lines": [
                {**LINE, "lo": [0, 0.8, 1], "hi": [0, 1, 1], "style": "network"},
                {**LINE, "y": [0, 0.6, 1], "label": "Header $5$", "style": "baseline"},
                {**LINE, "label": "dashed", "style": "--"},
            ],
            "xlabel": "1 − specificity",
            "ylabel": "Sensitivity",
            "diagonal": True,
        },
    ),
    "bars": Figure(
        "bars",
        "Scores",
        "",
        {
            "groups": [
                {"label": "a", "edges": [0, 0.5, 1], "counts": [3, 1]},
                {"label": "b", "edges": [0, 0.5, 1], "counts": [0, 4]},
            ]
        },
    ),
    "matrix": Figure(
        "matrix",
        "Confusion",
        "",
        {
            "values": np.array([[1234, 5], [0, 0]]),
            "rows": ["no", "yes"],
            "columns": ["no", "yes"],
            "xlabel": "x",
            "ylabel": "y",
        },
    ),
    "grid": Figure(
        "grid",
        "Misses",
        "",
        {
            "rows": [
                {"label": "grey", "images": np.full((8, 12, 16), 200, np.uint8), "titles": [f"case {i}" for i in range(8)]},
                {"label": "colour", "images": np.full((1, 16, 12, 3), (255, 0, 0), np.uint8), "titles": ["red\nsecond line"]},
            ]
        },
    ),
}


def pixels(canvas):
    buffer = io.BytesIO()
    canvas.savefig(buffer, format="png")
    return np.asarray(Image.open(buffer).convert("RGB")).astype(int)


def texts(canvas):
    found = canvas.findobj(lambda artist: hasattr(artist, "get_text"))
    return [artist.get_text() for artist in found if artist.get_text().strip()]


@pytest.mark.parametrize("kind", FIGURES)
def test_each_kind_is_written_as_a_picture_that_is_not_blank(kind, tmp_path):
    listed = save({kind: FIGURES[kind]}, tmp_path / "new")
    assert listed == [{"file": f"{kind}.png", "title": FIGURES[kind].title, "caption": FIGURES[kind].caption}]
    with Image.open(tmp_path / "new" / f"{kind}.png") as image:
        values = np.asarray(image.convert("L"))
    assert values.shape[0] > 300
    assert values.shape[1] > 500
    assert values[0, 0] == 255  # white ground
    assert 0.01 < np.mean(values < 250) < 0.95
    assert [path.name for path in (tmp_path / "new").iterdir()] == [f"{kind}.png"]  # no temporary file is left


def test_equal_figures_give_equal_bytes(tmp_path):
    save({"a.png": FIGURES["bars"], "b": FIGURES["bars"]}, tmp_path)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


@pytest.mark.parametrize("name", ["../evil", "a/b", "", ".hidden", "a\\b"])
def test_names_that_leave_the_folder_are_refused(name, tmp_path):
    with pytest.raises(ValueError, match="plain file name"):
        save({name: FIGURES["bars"]}, tmp_path)


def test_unknown_kind_and_empty_figures_are_refused():
    with pytest.raises(ValueError, match="pie"):
        draw(Figure("pie", "", "", {}))
    for kind, parts in (("lines", "lines"), ("bars", "groups"), ("grid", "rows")):
        with pytest.raises(ValueError, match="no "):
            draw(Figure(kind, "Empty", "", {parts: []}))


@pytest.mark.parametrize(
    ("styles", "expected"),
    [(["baseline", "network"], 1), ([None, None], 0), (["baseline", "points"], 1)],
)
def test_the_network_always_has_the_strong_colour(styles, expected):
    lines = [{"label": f"line {i}", "x": [0, 1], "y": [0, 1], "style": style} for i, style in enumerate(styles)]
    drawn = draw(Figure("lines", "t", "", {"lines": lines, "xlabel": "", "ylabel": ""})).axes[0].get_lines()
    assert [line.get_color() == "#0072B2" for line in drawn] == [i == expected for i in range(len(lines))]


def test_matrix_cells_hold_counts_and_row_percentages():
    said = texts(draw(FIGURES["matrix"]))
    assert {"1,234", "99.6 %", "5", "0.4 %"} <= set(said)
    assert said.count("no cases") == 2  # a class that never occurs has no percentages


def test_grid_shows_every_image_in_its_own_grey_and_colour():
    canvas = draw(FIGURES["grid"])
    assert len(canvas.axes) == 9
    seen = pixels(canvas).reshape(-1, 3)
    grey, red = np.all(seen == 200, axis=1).sum(), np.all(seen == (255, 0, 0), axis=1).sum()
    # A row of 8 images of 12 x 16 and one of 16 x 12, all of the same width: areas as 8 * 3/4 to 4/3.
    assert grey / red == pytest.approx(8 * (3 / 4) / (4 / 3), rel=0.03)
    assert {"grey", "colour", "case 0", "case 7", "red\nsecond line"} <= set(texts(canvas))


def test_formulas_and_markup_in_names_stay_text():
    assert "Header $5$" in texts(draw(FIGURES["lines"]))


def test_learning_curves_show_the_last_value_of_a_step_and_mark_the_checkpoint():
    metrics = [{"step": step, "loss": 1 / step} for step in range(1, 101)]
    metrics += [{"step": 50, "val/auroc": 0.7}, {"step": 50, "val/auroc": 0.9}, {"step": 100, "val/auroc": 0.8}]
    metrics += [{"step": 60, "loss": float("nan")}, {"step": 40, "loss": None}, {"time": 3.0}]
    upper, lower = learning_curves(metrics, monitor="auroc", best_step=50).axes
    raw, smooth = upper.get_lines()
    assert 60 not in raw.get_xdata()
    assert 40 not in raw.get_xdata()
    assert len(raw.get_xdata()) == 98
    assert smooth.get_ydata()[10] == pytest.approx(np.mean(raw.get_ydata()[9:12]))
    np.testing.assert_array_equal(lower.get_lines()[0].get_ydata(), [0.9, 0.8])
    assert "step 50" in lower.texts[0].get_text()
    assert "0.900" in lower.texts[0].get_text()


@pytest.mark.parametrize(
    "metrics",
    [[], [{"step": 1, "loss_g": 1.0, "loss_d": 2.0}], [{"step": 1, "val/dice": 0.5}], [{"step": 1, "loss": float("inf")}]],
)
def test_learning_curves_work_with_what_there_is(metrics):
    assert np.mean(pixels(learning_curves(metrics, monitor="auroc", best_step=None)) < 250) > 0.001
