"""What a network made of records: a patient's course with the risk over time, and what spoke for and against it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from medjax.cases import Cases, Rows
from medjax.core import Figure, State, Task
from medjax.data.records import Variable
from medjax.models.observed import STATISTICS

Batch = Mapping[str, Any]
Risk = Callable[[Mapping[str, Any], Any], Any]  # (outputs of predict or rows, length [n]) -> the risk that is explained [n]
PATH = 24  # points of the path from the mean to the record
CASES = 48  # records that the overview is of, at most
VARIABLES, ROWS = 6, 16  # of a course, and of the overview


def integrated_gradients(
    task: Task, state: State, batch: Batch, risk: Risk, *, quantity: Sequence[bool] | None = None, points: int = PATH
) -> np.ndarray:
    """How much each observation adds to the risk, beside an average value in its place (Sundararajan et al., ICML 2017).

    (x - m) times the mean slope of the risk on the straight way from m to x, where m is the training cases' mean of the
    variable, or their median where values are told by ranks. Over a record they sum to the difference of its risk and that of
    a record of average values measured at the same times. Neither that something was measured at all is explained, nor
    categories, between which there is no way.

    Args:
      task: of an `Observed` network.
      state: its weights and statistics.
      batch: {name: array [n, ...]} with `values` [n, T, D].
      risk: (outputs of `task.predict`, length) -> [n].
      quantity: of each column, false for one of categories; all of them are quantities by default.
      points: of the way, in its middle rule.

    Returns:
      float32 [n, T, D], 0 where nothing was observed.
    """
    values = jnp.asarray(batch["values"])
    scale = state.extra[STATISTICS]["scale"]
    if "knots" in scale:
        middle, low, high = scale["knots"][len(scale["knots"]) // 2], scale["knots"][0], scale["knots"][-1]
    else:
        middle, low, high = scale["mean"], scale["low"], scale["high"]
    # Clipped values have no slope: the way ends where the network stops telling them apart.
    movable = ~jnp.isnan(values) & (True if quantity is None else jnp.asarray(quantity))
    start, end = jnp.where(movable, middle, values), jnp.where(movable, jnp.clip(values, low, high), values)

    def total(at: jax.Array) -> jax.Array:
        return risk(task.predict(state, {**batch, "values": at}), batch["length"]).sum()

    def slope(share: jax.Array) -> jax.Array:
        return jax.grad(total)(start + share * (end - start))

    shares = (jnp.arange(points) + 0.5) / points
    mean = jax.jit(lambda shares: jax.lax.map(slope, shares).mean(0))(shares)
    return np.asarray(jnp.nan_to_num((end - start) * mean))


def risk_over_time(task: Task, state: State, batch: Batch, risk: Risk) -> np.ndarray:
    """float32 [n, T]: the risk of each record as it was known at the end of each step; NaN beyond its length."""
    steps = batch["values"].shape[1]
    until = jnp.arange(1, steps + 1)

    def course(one: Batch) -> jax.Array:
        many = {name: jnp.broadcast_to(a, (steps, *a.shape)) for name, a in one.items()}
        return risk(task.predict(state, {**many, "length": until}), until)

    found = np.array(jax.jit(lambda batch: jax.lax.map(course, batch))(dict(batch)), np.float32)
    found[np.arange(steps) >= np.asarray(batch["length"])[:, None]] = np.nan
    return found


def explain_records(
    task: Task, variables: Sequence[Variable], risk: Risk, inputs: Sequence[str], *, positive: str
) -> Callable[[State, Rows, Cases], dict[str, Figure]]:
    """`explain` of a Job: the courses of a record with an event that was found and of one that was missed, and an overview.

    Args:
      task: of an `Observed` network.
      variables: those that are no codes, in the order of the columns.
      risk: (outputs of predict or rows, length) -> [n].
      inputs: names of the columns that predict reads.
      positive: what the risk is of, in words.
    """

    def explain(state: State, rows: Rows, cases: Cases) -> dict[str, Figure]:
        score, label = np.asarray(risk(rows, cases["length"])), cases["label"]
        event = np.flatnonzero(label == 1) if label.ndim == 1 else np.arange(len(cases))
        if not len(event):
            return {}
        order = event[np.argsort(-score[event], kind="stable")]
        chosen = order[np.unique(np.linspace(0, len(order) - 1, min(CASES, len(order))).astype(int))]
        batch = _batch(cases.take(chosen), inputs)
        weights = integrated_gradients(task, state, batch, risk, quantity=[not v.categories for v in variables])
        found = {"attribution": _overview(weights, batch["length"], variables, positive)}
        ends = np.array([0, len(chosen) - 1])
        over = risk_over_time(task, state, {name: a[ends] for name, a in batch.items()}, risk)
        for name, at, course in zip(("high", "low"), ends, over):
            title = f"{cases['id'][chosen[at]]}: of the records with the event, the one of the {name}est risk"
            of = batch["values"][at], batch["times"][at], course, weights[at]
            found[f"course_{name}"] = _course(*of, variables, title, positive)
        return found

    return explain


def _batch(cases: Cases, names: Sequence[str]) -> dict[str, np.ndarray]:
    return {name: np.asarray(cases[name]) for name in names}


def _course(
    values: np.ndarray,
    times: np.ndarray,
    risk: np.ndarray,
    weight: np.ndarray,
    variables: Sequence[Variable],
    title: str,
    positive: str,
) -> Figure:
    top = np.sort(np.argsort(-np.abs(weight).sum(0), kind="stable")[:VARIABLES])
    rows = []
    for k in top:
        seen = ~np.isnan(values[:, k])
        unit = f"\n{variables[k].unit}" if variables[k].unit else ""
        rows.append({"label": variables[k].name + unit, "x": times[seen], "y": values[seen, k], "weight": weight[seen, k]})
    known = ~np.isnan(risk)
    return Figure(
        "course",
        title,
        "Above, the variables that the network made most of: red points raised the risk at the end, blue ones lowered it, by "
        "integrated gradients beside an average value. Below, the risk as the network would have given it at each time, from "
        "what was known by then.",
        {"rows": [row for row in rows if len(row["x"])], "x": times[known], "risk": risk[known], "ylabel": f"risk: {positive}"},
    )


def _overview(weights: np.ndarray, length: np.ndarray, variables: Sequence[Variable], positive: str) -> Figure:
    """Mean size of the attributions by variable and step, the variables that weigh most on top."""
    n = np.maximum((np.arange(weights.shape[1]) < length[:, None]).sum(0), 1)
    size = np.abs(weights).sum(0) / n[:, None]
    order = np.argsort(-size.sum(0), kind="stable")[:ROWS]
    names = [variables[k].name for k in order]
    return Figure(
        "heat",
        "What the risk was made of",
        f"How much values of each variable at each step moved the risk ({positive}), up or down, by integrated gradients "
        f"beside average values: the mean over {len(weights)} records with the event. What the network used is no cause.",
        {"rows": names, "values": size[:, order].T, "xlabel": "step", "ylabel": ""},
    )
