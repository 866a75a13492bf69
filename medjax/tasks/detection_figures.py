"""Figures of a detection: boxes over pictures, FROC, precision and recall, and what is missed by size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from medjax.cases import Cases, Rows
from medjax.core import Figure
from medjax.formats.image import resize
from medjax.formats.intensity import clip_percentiles, to_uint8
from medjax.metrics import detection as metrics

# The truth, boxes that hit, and boxes that do not: Okabe and Ito's colours, told apart by colour-blind readers.
TRUTH, HIT, WRONG = (240, 228, 66), (86, 180, 233), (230, 80, 0)
CLASS_COLOURS = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (204, 121, 167), (240, 228, 66), (213, 94, 0), (0, 114, 178))
COLOUR_NAMES = ("orange", "sky blue", "green", "pink", "yellow", "red", "blue")
SIDE = 320  # pixels of a shown picture's longer side, at least
PICTURES = 6
RATES = ("1/8", "1/4", "1/2", "1", "2", "4", "8")


def drawn(
    picture: np.ndarray, boxes: np.ndarray, colours: Sequence[tuple[int, int, int]], *, dashed: bool = False, width: int = 2
) -> np.ndarray:
    """A picture uint8 [H, W, 3] with frames of boxes [m, 4] in its pixels, a colour each.

    Args:
      dashed: leave gaps in the frames.
      width: of a frame, in pixels.
    """
    page = picture.copy()
    height, wide = page.shape[:2]
    for (x0, y0, x1, y1), colour in zip(np.round(boxes).astype(int), colours, strict=True):
        x0, x1, y0, y1 = max(x0, 0), min(x1, wide), max(y0, 0), min(y1, height)
        if x1 <= x0 or y1 <= y0:
            continue
        frame = np.zeros((y1 - y0, x1 - x0), bool)
        frame[:width], frame[-width:], frame[:, :width], frame[:, -width:] = True, True, True, True
        if dashed:
            y, x = np.ogrid[: y1 - y0, : x1 - x0]
            frame &= (x + y) // 5 % 2 == 0
        page[y0:y1, x0:x1][frame] = colour
    return page


def shown(image: np.ndarray, extent: np.ndarray) -> tuple[np.ndarray, float]:
    """(prepared picture uint8 [h, w, 3] without its margin and enlarged to at least SIDE, factor of the enlargement)."""
    height, width = (int(n) for n in extent)
    part = image[:height, :width]
    if part.dtype != np.uint8:
        part = np.rint(to_uint8(clip_percentiles(part[..., 0])))[..., None].astype(np.uint8)
    grow = max(1.0, SIDE / max(height, width))
    part = resize(part if part.shape[-1] == 3 else part[..., 0], (round(height * grow), round(width * grow)))
    return (part if part.ndim == 3 else np.repeat(part[..., None], 3, -1)), grow


def figures(
    rows: Rows, cases: Cases, others: Mapping[str, Rows], *, classes: Sequence[str], rule: metrics.Rule
) -> dict[str, Figure]:
    """Pictures with boxes; FROC and precision beside the baselines; found and missed by size."""
    known = np.flatnonzero((cases["label"] >= 0).any(1))
    if not len(known):
        return {}
    rows = {name: x[known] for name, x in rows.items()}
    others = {name: {n: x[known] for n, x in other.items()} for name, other in others.items()}
    cases = cases.take(known)
    found = {"boxes": _pictures(rows, cases, classes)}
    if rows["lesions"].sum():
        found["froc"] = _froc(rows, others, rule)
        if (curves := _precision(rows, classes)).data["lines"]:
            found["precision_recall"] = curves
        found["by_size"] = _by_size(rows, cases)
    return found


def _froc(rows: Rows, others: Mapping[str, Rows], rule: metrics.Rule) -> Figure:
    lines = []
    for name, of in {"network": rows, **others}.items():
        fp, sensitivity = metrics.froc_curve(of["score"].ravel(), of["hit"].ravel(), int(of["lesions"].sum()), len(of["score"]))
        at = metrics.sensitivity_at(fp, sensitivity, (1.0,))[0]
        rates = np.geomspace(metrics.RATES[0], metrics.RATES[-1], 80)
        values = metrics.sensitivity_at(fp, sensitivity, rates)
        lines.append({"label": f"{name} ({at:.3f} at 1)", "x": np.log2(rates), "y": values})
    return Figure(
        "lines",
        "FROC",
        f"Share of the lesions found for how many false positives an image, on a scale that doubles; a hit: {rule.words}.",
        {
            "lines": lines,
            "xlabel": "false positives an image",
            "xticks": [(float(np.log2(rate)), name) for rate, name in zip(metrics.RATES, RATES, strict=True)],
            "ylabel": "sensitivity",
            "xlim": (-3.05, 3.05),
            "ylim": (0, 1.02),
        },
    )


def _precision(rows: Rows, classes: Sequence[str]) -> Figure:
    lines = []
    for k, name in enumerate(classes[:6]):
        positives = int(rows["lesions"][:, k].sum())
        own = (rows["category"] == k) & (rows["coco"][..., 0] >= 0)
        if not positives or not own.any():
            continue
        order = np.argsort(-rows["score"][own], kind="stable")
        true = (rows["coco"][..., 0][own] == 1)[order]
        tp = np.cumsum(true)
        ap, _ = metrics.average_precision(rows["score"][own], rows["coco"][own][:, :1], positives)
        lines.append(
            {
                "label": f"{name} (AP {ap[0]:.3f})",
                "x": np.concatenate([[0.0], tp / positives]),
                "y": np.concatenate([[1.0], tp / np.arange(1, len(tp) + 1)]),
                "style": "network",
            }
        )
    return Figure(
        "lines",
        "Precision and recall at IoU .50",
        "Of the boxes from a score on, how many are right (precision), for how many of the true boxes are found (recall).",
        {"lines": lines, "xlabel": "recall", "ylabel": "precision", "xlim": (0, 1.02), "ylim": (0, 1.02)},
    )


def found_boxes(rows: Rows, cases: Cases, i: int) -> np.ndarray:
    """Which true boxes of a case, crowd regions left out, a box kept at the operating point hits: bool [m]."""
    hit = rows["hit"][i][rows["kept"][i]]
    found = np.zeros(len(cases["boxes"][i]), bool)
    found[hit[hit >= 0]] = True
    return found[~cases["crowd"][i]]


def _by_size(rows: Rows, cases: Cases) -> Figure:
    sides, found = [], []
    for i in range(len(cases)):
        b = cases["boxes"][i][~cases["crowd"][i]]
        sides.append(np.sqrt((b[:, 2:] - b[:, :2]).prod(1)))
        found.append(found_boxes(rows, cases, i))
    side, hit = np.concatenate(sides), np.concatenate(found)
    low, high = np.quantile(side, (0.005, 0.995))
    edges = np.linspace(low, max(high, low + 1), 16)
    clipped = np.clip(side, edges[0], edges[-1])
    groups = [
        {"label": name, "edges": edges, "counts": np.histogram(clipped[which], edges)[0]}
        for name, which in (("true boxes", np.ones(len(hit), bool)), ("missed", ~hit))
    ]
    return Figure(
        "bars",
        "Missed by size",
        "True boxes by the root of their area, and those of them that no box kept at the operating point hits.",
        {"groups": groups, "xlabel": "root of the area, pixels", "ylabel": "boxes"},
    )


def _pictures(rows: Rows, cases: Cases, classes: Sequence[str]) -> Figure:
    kept = rows["kept"]
    wrong = (kept & (rows["hit"] == -1)).sum(1)
    missed = np.array([int((~found_boxes(rows, cases, i)).sum()) for i in range(len(cases))])
    truth = rows["lesions"].sum(1)
    order = np.random.default_rng(0).permutation(len(cases))
    order = order[np.argsort(truth[order] == 0, kind="stable")]
    surest = np.where(kept & (rows["hit"] == -1), rows["score"], 0).max(1, initial=0.0)
    chosen = {
        "drawn at random": _first_of_groups(order, cases["group"]),
        "most missed": _first_of_groups(np.flatnonzero(missed)[np.argsort(-missed[missed > 0], kind="stable")], cases["group"]),
        "surest false": _first_of_groups(np.flatnonzero(wrong)[np.argsort(-surest[wrong > 0], kind="stable")], cases["group"]),
    }
    lines = []
    for label, which in chosen.items():
        if len(which):
            images = [_picture(rows, cases, int(i), classes) for i in which]
            titles = [f"{truth[i]} true, {missed[i]} missed\n{wrong[i]} false" for i in which]
            lines.append({"label": label, "images": images, "titles": titles})
    return Figure(
        "grid",
        "Boxes over pictures",
        "At the operating point: dashed yellow frames are the truth, blue ones boxes that hit, orange ones boxes that do not.",
        {"rows": lines},
    )


def _first_of_groups(order: np.ndarray, group: np.ndarray) -> np.ndarray:
    _, first = np.unique(group[order], return_index=True)
    few = order[np.sort(first)][:PICTURES]
    return few if len(few) == PICTURES else order[:PICTURES]


def _picture(rows: Rows, cases: Cases, i: int, classes: Sequence[str]) -> np.ndarray:
    page, grow = shown(cases["image"][i], cases["extent"][i])
    factor = np.tile(cases["scale"][i][::-1], 2) * grow
    kept = rows["kept"][i]
    colours = [HIT if h >= 0 or h == -2 else WRONG for h in rows["hit"][i][kept]]
    page = drawn(page, rows["boxes"][i][kept] * factor, colours)
    truth = cases["boxes"][i]
    return drawn(page, truth * factor, [TRUTH] * len(truth), dashed=True)
