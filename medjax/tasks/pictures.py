"""Figures that the tasks with classes share: ROC curves, calibration, and pages of cases."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from medjax import metrics
from medjax.cases import Cases, Rows
from medjax.core import Figure
from medjax.tasks.images import Windows, to_shown

GRID = np.linspace(0, 1, 101)
PICTURES = 6  # a row of the page of hits and misses
CLASSES = 6  # classes that have a figure or rows of pictures of their own, at most
LINES = 8  # classes in one figure, at most
STRONG = 6  # lines in strong colours, which are no more than this
ROC = (
    "How many of the sick are found (sensitivity) for how many of the well called sick. In brackets the AUROC; "
    "the band is the 95 % interval at each point."
)


class Shown(NamedTuple):
    """A row of pictures that have something in common.

    Attributes:
      label: what it is.
      which: int [m], the cases.
      target: int [m], the class that each picture is about.
      titles: words above each.
    """

    label: str
    which: np.ndarray
    target: np.ndarray
    titles: list[str]


def per_class(label: np.ndarray, k: int) -> np.ndarray:
    """Labels as int8 [n, K] of 1, 0 or -1 (missing): one class out of several [n] becomes one-versus-rest.

    Labels [n, K] stay, and -1 [n], as of files to predict on, becomes -1 [n, K].
    """
    if label.ndim == 2:
        return label
    return np.where(label[:, None] < 0, -1, label[:, None] == np.arange(k)).astype(np.int8)


def most_frequent(truth: np.ndarray, most: int) -> list[int]:
    """The columns of labels [n, K] with the most positives, at most `most` of them, in their own order."""
    order = np.argsort(-(truth == 1).sum(0), kind="stable")[:most]
    return sorted(order.tolist())


def file_stem(name: str) -> str:
    """A class's name as part of a file's name."""
    return re.sub(r"[^\w.-]+", "_", name).strip("._") or "class"


def roc_beside(
    truth: np.ndarray, score: np.ndarray, group: np.ndarray, others: Mapping[str, np.ndarray], *, title: str
) -> Figure:
    """The ROC curve of one yes-or-no question with its band, beside the baselines'.

    Args:
      truth: int [n], 1, 0 or -1.
      score: float [n].
      group: [n], what the bootstrap draws.
      others: {baseline: score [n]}; the majority, whose curve is the diagonal, is left out.
      title: of the figure.
    """
    lo, hi = metrics.roc_band(truth, score, group, grid=GRID, resamples=500, seed=0)
    x, y, _ = metrics.roc_curve(truth, score)
    named = f"network ({metrics.auroc(truth, score):.3f})"
    lines = [{"label": named, "x": GRID, "y": np.interp(GRID, x, y), "lo": lo, "hi": hi}]
    lines += [_roc_line(name, truth, values) for name, values in others.items() if name != "majority"]
    return _roc(title, ROC, lines)


def roc_of_classes(truth: np.ndarray, score: np.ndarray, classes: Sequence[str]) -> Figure:
    """The network's ROC curves of all classes in one figure, at most `LINES`, the most frequent ones.

    Args:
      truth: int8 [n, K], 1, 0 or -1.
      score: float [n, K].
      classes: names [K].
    """
    kept = [k for k in most_frequent(truth, LINES) if (truth[:, k] == 1).any() and (truth[:, k] == 0).any()]
    lines = [
        {**_roc_line(classes[k], truth[:, k], score[:, k]), "style": "network" if at < STRONG else "--"}
        for at, k in enumerate(kept)
    ]
    left = f" Of {len(classes)} classes the {len(kept)} most frequent." if len(kept) < len(classes) else ""
    caption = f"Each class against the others: sensitivity for the share of the others called so, and the AUROC.{left}"
    return _roc("ROC curves by class", caption, lines)


def roc_figures(
    truth: np.ndarray, score: np.ndarray, group: np.ndarray, others: Mapping[str, np.ndarray], classes: Sequence[str]
) -> dict[str, Figure]:
    """All classes in one figure ("roc"), and each beside the baselines where there are at most `CLASSES` ("roc_CLASS").

    Args: as of `roc_of_classes` and `roc_beside`, scores [n, K].
    """
    found = {}
    overview = roc_of_classes(truth, score, classes)
    if overview.data["lines"]:
        found["roc"] = overview
    if len(classes) <= CLASSES:
        for k, name in enumerate(classes):
            if not ((truth[:, k] == 1).any() and (truth[:, k] == 0).any()):
                continue
            stem = f"roc_{file_stem(name)}"
            beside = {other: values[:, k] for other, values in others.items()}
            figure = roc_beside(truth[:, k], score[:, k], group, beside, title=f"ROC: {name}")
            found[stem if stem not in found else f"{stem}_{k}"] = figure
    return found


def _roc_line(name: str, truth: np.ndarray, score: np.ndarray) -> dict[str, Any]:
    x, y, _ = metrics.roc_curve(truth, score)
    return {"label": f"{name} ({metrics.auroc(truth, score):.3f})", "x": x, "y": y}


def _roc(title: str, caption: str, lines: list[dict[str, Any]]) -> Figure:
    data = {"lines": lines, "xlabel": "1 − specificity", "ylabel": "sensitivity", "diagonal": True}
    return Figure("lines", title, caption, data)


def calibration(truth: np.ndarray, score: np.ndarray, *, xlabel: str) -> Figure:
    """The reliability diagram of probabilities [n] of a yes-or-no question [n]."""
    x, y, _ = metrics.reliability(truth, score)
    return Figure(
        "lines",
        "Calibration",
        "Of the cases given about this probability, how many were positive. On the diagonal, a probability means what it says.",
        {
            "lines": [{"label": "network", "x": x, "y": y, "style": "points"}],
            "xlabel": xlabel,
            "ylabel": "observed share",
            "diagonal": True,
        },
    )


def shown_cases(rows: Rows, cases: Cases, classes: Sequence[str]) -> list[Shown]:
    """The rows of the page of hits and misses: the cases a network was surest of, right and wrong, and the least sure ones.

    Args:
      rows: `score` [n, K], `pred` and `sure` [n]; `pred` [n, K] where a case has several labels.
      cases: `label` and `group`; one picture a group is shown.
      classes: names [K].
    """
    shown = _of_labels(rows, cases, classes) if rows["pred"].ndim == 2 else _of_class(rows, cases, classes)
    return [row for row in shown if len(row.which)]


def _of_class(rows: Rows, cases: Cases, classes: Sequence[str]) -> Iterable[Shown]:
    label, pred, sure, group = cases["label"], rows["pred"], rows["sure"], cases["group"]
    # With two classes it is always the second whose probability is shown.
    target = np.broadcast_to(1 if len(classes) == 2 else pred, pred.shape)
    chance = rows["score"][np.arange(len(pred)), target]
    known = label >= 0
    for name, wanted in (("right, surest", pred == label), ("wrong, surest", pred != label), ("least sure", known)):
        for k in range(len(classes)) if name != "least sure" else (None,):
            mine = wanted & known & ((label == k) if k is not None else True)
            chosen = _first_of_groups(mine, sure if k is None else -sure, group)
            titles = [f"{classes[label[i]]} · P({classes[target[i]]}) {chance[i]:.2f}" for i in chosen]
            yield Shown(name if k is None else f"{classes[k]}\n{name}", chosen, target[chosen], titles)


def _of_labels(rows: Rows, cases: Cases, classes: Sequence[str]) -> Iterable[Shown]:
    label, pred, score, group = per_class(cases["label"], len(classes)), rows["pred"], rows["score"], cases["group"]
    for k in most_frequent(label, CLASSES):
        truth, called, chance = label[:, k], pred[:, k], score[:, k]
        confident = np.where(called == 1, chance, 1 - chance)
        parts = (("found, surest", (truth == 1) & (called == 1)), ("wrong, surest", (truth >= 0) & (called != truth)))
        for name, wanted in parts:
            chosen = _first_of_groups(wanted, -confident, group)
            titles = [f"{classes[k]}: {('no', 'yes')[truth[i]]} · P {chance[i]:.2f}" for i in chosen]
            yield Shown(f"{classes[k]}\n{name}", chosen, np.full(len(chosen), k), titles)


def _first_of_groups(wanted: np.ndarray, rank: np.ndarray, group: np.ndarray) -> np.ndarray:
    """The wanted cases of lowest rank, one of each group: eight copies of one case teach nothing."""
    order = np.flatnonzero(wanted)
    order = order[np.argsort(rank[order], kind="stable")]
    _, first = np.unique(group[order], return_index=True)
    return order[np.sort(first)][:PICTURES]


def hits_and_misses(rows: Rows, cases: Cases, classes: Sequence[str], *, windows: Windows = ()) -> Figure | None:
    """The page of `shown_cases`; None where there is no case to show."""
    lines = [
        {"label": row.label, "images": to_shown(cases.take(row.which)["image"], windows), "titles": row.titles}
        for row in shown_cases(rows, cases, classes)
    ]
    if not lines:
        return None
    return Figure(
        "grid",
        "Hits and misses",
        "As the network saw them: the cases it was surest of, right and wrong, and those it was least sure of, one of each "
        "group. Above each: the truth, and the probability that the network gave."
        if rows["pred"].ndim == 1
        else "As the network saw them: for each class the cases that it was surest of, found ones and wrong ones (missed, or "
        "called without being there), one of each group. Above each: the truth, and the probability that the network gave.",
        {"rows": lines},
    )


def decision_curve(truth: np.ndarray, score: np.ndarray, others: Mapping[str, np.ndarray]) -> Figure:
    """Net benefit of treating by a risk, beside treating all or none and the baselines', over thresholds up to .6.

    Args: as of `roc_beside`, scores probabilities.
    """
    t = np.linspace(0.01, 0.6, 60)
    everyone = metrics.net_benefit(truth, np.ones(len(truth)), t)
    lines = [{"label": "network", "x": t, "y": metrics.net_benefit(truth, score, t), "style": "network"}]
    lines += [{"label": name, "x": t, "y": metrics.net_benefit(truth, values, t)} for name, values in others.items()]
    lines += [
        {"label": "treat all", "x": t, "y": everyone, "style": "--"},
        {"label": "treat none", "x": t, "y": 0 * t, "style": ":"},
    ]
    share = float((truth == 1).sum() / max((truth >= 0).sum(), 1))
    return Figure(
        "lines",
        "Decision curve",
        "Whom to treat, if treating pays from a risk t on: true positives less false positives at the odds of t, a case. "
        "A model is of use at the thresholds where its line lies above those of treating all and none.",
        {
            "lines": lines,
            "xlabel": "threshold t",
            "ylabel": "net benefit",
            "xlim": (0, 0.6),
            "ylim": (-0.3 * share, 1.1 * share),
        },
    )
