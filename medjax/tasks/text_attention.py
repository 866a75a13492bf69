"""Where in a text a network with label attention looks, as marked passages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import numpy as np

from medjax.cases import Cases, Rows
from medjax.core import Examples, Figure, State, Task
from medjax.models.reader import LabelAttention
from medjax.tasks.documents import decode

SHOWN = 4  # texts that were got right, and that were not
LETTERS = 700  # of a text


def attention(task: Task, state: State, batch: dict[str, Any]) -> np.ndarray | None:
    """Weights float32 [n, T, K], the mean over the task's networks; None where none has a `LabelAttention`."""
    seen: list[Any] = []

    def look(call: Callable, args: tuple, kwargs: dict, context: nn.module.InterceptorContext) -> Any:
        y = call(*args, **kwargs)
        if isinstance(context.module, LabelAttention) and context.method_name == "__call__":
            seen.append(y[1])
        return y

    with nn.intercept_methods(look):
        task.predict(state, batch)
    return np.mean(seen, axis=0) if seen else None


def explain_texts(task: Task, examples: Examples, classes: Sequence[str]) -> Callable[[State, Rows, Cases], dict[str, Figure]]:
    """`explain` of a Job: texts that were got wrong, the surest first, and right, with the words that the decision looked at.

    Args:
      task: whose network has a `LabelAttention`.
      examples: of the Job.
      classes: names.
    """

    def explain(state: State, rows: Rows, cases: Cases) -> dict[str, Figure]:
        label, score = cases["label"], rows["score"]
        called = score.argmax(1) if label.ndim == 2 else rows["pred"]
        known = (label >= 0).reshape(len(cases), -1).any(1)
        right = label[np.arange(len(cases)), called] == 1 if label.ndim == 2 else called == label
        order = np.argsort(-score.max(1), kind="stable")
        sides = [[int(i) for i in order if known[i] and right[i] == side][:SHOWN] for side in (False, True)]
        shown = sides[0] + sides[1]
        if not shown:
            return {}
        windows = [next(examples.windows(cases, i, True)) for i in shown]
        batch = {name: np.stack([w[name] for w in windows]) for name in windows[0]}
        weights = attention(task, state, {**batch, "mask": np.ones(len(shown), bool)})
        if weights is None:
            return {}
        columns = {name: cases[name] for name in ("text", "tokens", "id")}
        made = []
        for i, of in zip(shown, weights, strict=True):
            k = int(called[i])
            if label.ndim == 1:
                truth = classes[label[i]]
            else:
                truth = ", ".join(classes[c] for c in np.flatnonzero(label[i] == 1)[:3].tolist()) or "none"
            places = columns["tokens"][i][: len(of)]
            row = {"label": f"{columns['id'][i]}: {truth}; called {classes[k]} ({score[i, k]:.2f})"}
            made.append({**row, "text": decode(columns["text"][i])[:LETTERS], "marks": _marks(places, of[:, k])})
        title = "What the network looked at"
        text = (
            "Texts that were called wrong, the surest first, then right; the darker a word, the more the decision looked at it."
        )
        return {"hits_attention": Figure("passages", title, text, {"rows": made})}

    return explain


def _marks(places: np.ndarray, weights: np.ndarray) -> list[tuple[int, int, str, float]]:
    top = max(float(weights.max(initial=0.0)), 1e-12)
    strong = [
        (a, b, float(w) / top) for (a, b), w in zip(places.tolist(), weights, strict=False) if w > 0.05 * top and b <= LETTERS
    ]
    return [(a, b, "weight", 0.75 * w) for a, b, w in strong]
