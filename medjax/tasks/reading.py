"""A blinded reading: real and generated images mixed on one page, the key apart, and the answers scored.

Whoever reads opens reading.html, says of each image whether it is generated, and saves the answers. Then:
python -m medjax.tasks.reading key.csv answers.csv
"""

from __future__ import annotations

import base64
import csv
import html
import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from medjax.errors import InputError
from medjax.formats.table import read_table

EACH = 20  # images of each kind, at most
SHOWN = 192  # pixels of a shown image's longer side, at least

_PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>Reading</title>
<style>body{{font:16px/1.5 sans-serif;margin:2rem;max-width:70rem}}main{{display:flex;flex-wrap:wrap;gap:1.2rem}}
figure{{margin:0}}img{{image-rendering:auto;background:#000}}label{{margin-right:.8rem}}</style>
<h1>Which of these images are generated?</h1>
<p>Half of the {n} images are real, the others were made by a network. Say for each what you take it for, then save.</p>
<main>{figures}</main>
<p><button onclick="save()">Save the answers</button></p>
<script>function save(){{const rows=["id,answer"];
for(const i of document.querySelectorAll("input:checked"))rows.push(i.name+","+i.value);
const a=document.createElement("a");a.href=URL.createObjectURL(new Blob([rows.join("\\n")+"\\n"]));
a.download="answers.csv";a.click()}}</script></html>
"""
_FIGURE = """<figure><img width="{width}" height="{height}" alt="image {name}" src="data:image/png;base64,{data}">
<figcaption>{name}<br><label><input type="radio" name="{name}" value="real"> real</label>
<label><input type="radio" name="{name}" value="generated"> generated</label></figcaption></figure>"""


class Page(NamedTuple):
    """html: the page. key: a CSV of id and truth, real or generated."""

    html: str
    key: str


def make(generated: np.ndarray, real: np.ndarray, *, each: int = EACH, seed: int = 0) -> Page | None:
    """The page and its key of so many images of each kind, drawn and mixed at random; None with fewer than two of a kind.

    Args:
      generated, real: uint8 [n, H, W] or [n, H, W, 3]; the same in size, so that size tells nothing.
      each: of each kind, at most.
      seed: of the draw.
    """
    rng = np.random.default_rng(seed)
    count = min(each, len(generated), len(real))
    if count < 2:
        return None
    drawn = [(kind, x[i]) for kind, x in (("generated", generated), ("real", real)) for i in rng.permutation(len(x))[:count]]
    mixed = [drawn[i] for i in rng.permutation(len(drawn))]
    names = [f"{k + 1:02d}" for k in range(len(mixed))]
    out = io.StringIO()
    table = csv.writer(out, lineterminator="\n")
    table.writerows([["id", "truth"], *zip(names, [kind for kind, _ in mixed], strict=True)])
    figures = "".join(_figure(name, image) for name, (_, image) in zip(names, mixed, strict=True))
    return Page(_PAGE.format(n=len(mixed), figures=figures), out.getvalue())


def _figure(name: str, image: np.ndarray) -> str:
    h, w = image.shape[:2]
    scale = max(1, -(-SHOWN // max(h, w)))
    data = base64.b64encode(png(image)).decode()
    return _FIGURE.format(name=html.escape(name), width=scale * w, height=scale * h, data=data)


def png(image: np.ndarray) -> bytes:
    """uint8 [H, W] or [H, W, 3] as a PNG file."""
    out = io.BytesIO()
    Image.fromarray(image).save(out, "PNG")
    return out.getvalue()


def score(key: str | Path, answers: str | Path) -> dict[str, float]:
    """How well a reader told generated images from real ones.

    Args:
      key: CSV of id and truth.
      answers: CSV of id and answer, real or generated; images without an answer are left out.

    Returns:
      {"n", "right": share of right answers, "low", "high": its 95 % interval (Wilson, 1927), "taken_for_real": share of
      generated images taken for real, nan without any}

    Raises:
      InputError: no answer, an unknown id or word.
    """
    truth = {row["id"]: row["truth"] for row in read_table(Path(key)).rows}
    given = {row["id"]: row["answer"].strip().lower() for row in read_table(Path(answers)).rows if row["answer"].strip()}
    for name, answer in given.items():
        if name not in truth or answer not in ("real", "generated"):
            raise InputError(f"{answers}: {name!r} is answered {answer!r}\nanswer the page's images with real or generated")
    if not given:
        raise InputError(f"{answers}: holds no answer\nsay of the images whether they are real or generated")
    n = len(given)
    right = sum(truth[name] == answer for name, answer in given.items())
    low, high = wilson(right, n)
    fooled = [given[name] == "real" for name in given if truth[name] == "generated"]
    return {
        "n": n,
        "right": right / n,
        "low": low,
        "high": high,
        "taken_for_real": float(np.mean(fooled)) if fooled else float("nan"),
    }


def wilson(right: int, n: int) -> tuple[float, float]:
    """The 95 % score interval of a share: Wilson, Journal of the American Statistical Association 22, 1927."""
    z = 1.959963984540054
    middle, half = right / n + z**2 / (2 * n), z * np.sqrt(right * (n - right) / n**3 + z**2 / (4 * n**2))
    return float((middle - half) / (1 + z**2 / n)), float((middle + half) / (1 + z**2 / n))


def main(args: Sequence[str]) -> None:
    """Print the score of answers."""
    if len(args) != 2:
        raise SystemExit("python -m medjax.tasks.reading KEY ANSWERS")
    try:
        found = score(*args)
    except InputError as error:
        raise SystemExit(f"medjax: {error}") from None
    print(
        f"{found['n']:.0f} images read, {found['right']:.1%} told right (95 % CI {found['low']:.1%} to {found['high']:.1%}; "
        f"50 % is guessing); {found['taken_for_real']:.1%} of the generated ones taken for real"
    )


if __name__ == "__main__":
    main(sys.argv[1:])
