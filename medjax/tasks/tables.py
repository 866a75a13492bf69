"""predictions/SPLIT.csv: a row a case, the same first and last columns whatever is predicted."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from medjax.cases import Cases


def write_cases(cases: Cases, columns: Mapping[str, Sequence[Any]]) -> str:
    """A CSV table of id, patient, the columns, and `group` where the cases have one.

    A group of cases that belong together is named by the id of the first of them, so that the table of another run says
    the same, and a case of no group but its own by its own id.

    Args:
      cases: `id` and `patient`, text [n], and `group` int [n] where it is known.
      columns: {name: n values}, in their order.
    """
    ids, given = cases["id"], {"patient": cases["patient"], **columns}
    if "group" in cases:
        _, first, where = np.unique(cases["group"], return_index=True, return_inverse=True)
        given["group"] = ids[first[where]]
    out = io.StringIO()
    table = csv.writer(out, lineterminator="\n")
    table.writerow(["id", *given])
    table.writerows(zip(ids, *given.values(), strict=True))
    return out.getvalue()


def score_columns(score: np.ndarray, classes: Sequence[str]) -> dict[str, list[str]]:
    """{"score/CLASS": text [n]} of scores [n, K], with the digits that a float32 has."""
    return {f"score/{name}": [f"{s:.9g}" for s in column] for name, column in zip(classes, score.T, strict=True)}
