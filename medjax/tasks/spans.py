"""Entities between tokens and characters, and what a row says of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from medjax.cases import Varying
from medjax.metrics import text as metrics

Spans = np.ndarray  # int32 [m, 3]: begin, end, type


def on_tokens(spans: Spans, tokens: np.ndarray) -> list[tuple[int, int, int]]:
    """Spans in characters as (first token, behind the last, type), without those that touch no token, or only taken ones."""
    found, free = [], 0
    for begin, end, of in spans.tolist():
        first = max(int(np.searchsorted(tokens[:, 1], begin, side="right")), free)
        stop = int(np.searchsorted(tokens[:, 0], end, side="left"))
        if first < stop:
            found.append((first, stop, of))
            free = stop
    return found


def in_text(found: Sequence[tuple[int, int, int]], tokens: np.ndarray) -> Spans:
    """Spans (first token, behind the last, type) as int32 [m, 3] of (begin, end, type) in characters."""
    spans = [(tokens[first, 0], tokens[stop - 1, 1], of) for first, stop, of in found]
    return np.array(spans, np.int32).reshape(-1, 3)


def entity_row(truth: Spans, found: Spans, k: int) -> dict[str, Any]:
    """What rows of this job hold of a case: `counts` and `found`; `sure` is 1 for all."""
    sure = Varying(np.ones(len(found), np.float32))
    counts = metrics.count_entities(truth.tolist(), found.tolist(), k).astype(np.float32)  # floats, which members' means are of
    return {"counts": counts, "found": Varying(found), "sure": sure}
