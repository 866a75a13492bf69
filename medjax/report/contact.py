"""A data folder in pictures: a contact sheet of each class, and how bright its pictures are."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from medjax.cases import Cases
from medjax.core import Figure
from medjax.formats.dicom import is_dicom
from medjax.formats.facts import first_bytes
from medjax.formats.image import resize
from medjax.formats.intensity import clip_percentiles, to_uint8, window
from medjax.formats.picture import read_picture
from medjax.report.figures import CLASSES as COLOURS
from medjax.report.figures import COLUMNS

SIDE = 192  # pixels of a thumbnail, as large as the page prints it
ROWS = 16  # classes on the sheet at most
WIDE, TALL = 21, 15  # letters above a thumbnail and beside it
BINS = 64
READERS = 4
NONE, UNKNOWN = "no finding", "label unknown"
PAPER = 255


def choose_cases(cases: Cases, classes: Sequence[str]) -> dict[str, np.ndarray]:
    """{class: int [m]}, up to `COLUMNS` rows of each class drawn at random, one of each patient or group.

    With many classes the most frequent ones. With several labels a case, also such as have none.

    Args:
      cases: label and group.
      classes: names of the labels.
    """
    label, group = cases["label"], cases["group"]
    order = np.random.default_rng(0).permutation(len(cases))
    if label.ndim == 1:
        members = {name: label == k for k, name in enumerate(classes)}
        members[UNKNOWN] = label < 0
    else:
        members = {name: label[:, k] == 1 for k, name in enumerate(classes)}
        members[NONE] = (label == 0).all(1)
    frequent = sorted(members, key=lambda name: -int(members[name].sum()))[:ROWS]
    chosen = {}
    for name in (name for name in members if name in frequent and members[name].any()):
        rows = order[members[name][order]]
        _, first = np.unique(group[rows], return_index=True)
        chosen[name] = rows[np.sort(first)[:COLUMNS]]
    return chosen


def contact_sheet(sources: Mapping[str, Any], cases: Cases, classes: Sequence[str], title: str) -> Figure:
    """Sample pictures of each class, read again from the data; of volumes the middle slice.

    Args:
      sources: as `medjax.data.inspect.read_all` had them.
      cases: the columns that it gave.
      classes: names of the labels.
      title: over the sheet.
    """
    chosen = choose_cases(cases, classes)
    source, at, label = cases["source"], cases["at"], cases["label"]
    wanted = np.unique(np.concatenate(list(chosen.values())))
    with ThreadPoolExecutor(READERS) as pool:
        shown = dict(
            zip(wanted.tolist(), pool.map(lambda i: thumbnail(sources[str(source[i])][int(at[i])]), wanted), strict=True)
        )
    rows = [
        {
            "label": " ".join(word if len(word) <= TALL else f"{word[: TALL - 1]}…" for word in name.split()),
            "images": np.stack([shown[i] for i in rows.tolist()]),
            "titles": [f"{_caption(name, label[i])}\n{_size(cases, i)}" for i in rows],
        }
        for name, rows in chosen.items()
    ]
    return Figure(
        "grid",
        title,
        "Cases drawn at random, one of each patient or group of copies; above each its class, how many others it has, and its "
        "size in pixels. Volumes show their middle slice. Pixels deeper than 8 bits are shown through the file's own window "
        "or, where it has none, from their 0.5th to their 99.5th percentile.",
        {"rows": rows},
    )


def _caption(name: str, label: np.ndarray) -> str:
    """The row's class in two lines at most, and how many others the case has."""
    others = int((label == 1).sum()) - 1 if label.ndim else 0
    return "\n".join(textwrap.wrap(f"{name} + {others}" if others > 0 else name, WIDE, max_lines=2, placeholder=" …"))


def _size(cases: Cases, row: int) -> str:
    case = cases.take(np.array([row]))
    slices, height, width = (int(case[name][0]) for name in ("slices", "height", "width"))
    return f"{slices} × {height} × {width}" if slices > 1 else f"{height} × {width}"


def thumbnail(example: Mapping[str, Any]) -> np.ndarray:
    """A picture or the middle slice of a volume as uint8 [SIDE, SIDE, 3], its aspect kept, on white."""
    image = np.asarray(example["image"])
    colour = image.ndim >= 3 and image.shape[-1] == 3
    if image.ndim == 3 + colour:
        image = image[len(image) // 2]
    if image.dtype != np.uint8:
        windows = _windows(Path(example.get("path", "")))
        shown = window(image, *windows[0]) * 255 if windows else to_uint8(clip_percentiles(image))
        image = np.rint(shown).astype(np.uint8)
    height, width = (max(1, round(n * SIDE / max(image.shape[:2]))) for n in image.shape[:2])
    small = resize(image, (height, width))
    page = np.full((SIDE, SIDE, 3), PAPER, np.uint8)
    top, left = (SIDE - height) // 2, (SIDE - width) // 2
    page[top : top + height, left : left + width] = small if colour else small[..., None]
    return page


def _windows(path: Path) -> tuple[tuple[float, float], ...]:
    """The windows that a DICOM file asks to be shown through."""
    return read_picture(path).facts.windows if path.is_file() and is_dicom(first_bytes(path, 1024)) else ()


def intensities(cases: Cases, classes: Sequence[str]) -> dict[str, Figure]:
    """{file name: Figure} of the pixel values of each class, a figure for each kind of number that the files hold.

    With many classes those that have the most cases.
    """
    label, dtype = cases["label"], cases["dtype"]
    kinds = np.unique(dtype).tolist()
    members = [label == k if label.ndim == 1 else label[:, k] == 1 for k in range(len(classes))]
    most = sorted(sorted(range(len(classes)), key=lambda k: -int(members[k].sum()))[: len(COLOURS)])
    found = {}
    for kind in kinds:
        pixels = {classes[k]: cases.take(members[k] & (dtype == kind))["pixels"] for k in most}
        pixels = {name: values for name, values in pixels.items() if len(values)}
        if not pixels:
            continue
        edges = _edges(np.concatenate(list(pixels.values())), kind)
        lines = []
        for name, values in pixels.items():
            counts, _ = np.histogram(values.clip(edges[0], edges[-1]), edges)
            lines.append(
                {"label": name, "x": (edges[:-1] + edges[1:]) / 2, "y": 100 * counts / values.size, "style": "network"}
            )
        found["intensities" if len(kinds) == 1 else f"intensities_{kind}"] = Figure(
            "lines",
            "Pixel values by class" + (f" ({kind})" if len(kinds) > 1 else ""),
            f"Share of the pixels in each of {len(edges) - 1} bins, from pixels drawn evenly from each case. Curves that "
            "differ in the background, and not in the tissue, speak of how the files were made.",
            {
                "lines": lines,
                "xlabel": f"pixel value ({kind})",
                "ylabel": "% of pixels",
            },
        )
    return found


def _edges(values: np.ndarray, kind: str) -> np.ndarray:
    """Edges of the bins; those of whole numbers hold the same count of them each."""
    if kind == "uint8":
        return np.arange(0.0, 257.0, 256 // BINS)
    low, high = np.percentile(values, (0.1, 99.9))
    if kind.startswith("float"):
        return np.linspace(low, max(high, low + 1e-6), BINS + 1)
    step = max(1, -(-int(high - low) // BINS))
    return np.arange(np.floor(low), high + step + 1, step)
