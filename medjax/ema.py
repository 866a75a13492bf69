"""An exponential moving average of the weights, kept beside them and used in their place for all but training.

Polyak & Juditsky, SIAM Journal on Control and Optimization 30(4), 1992, average the iterates of a stochastic descent, which are
noisier than their mean; as an exponential average it is the habit of Inception (Szegedy et al., CVPR 2016, section 8) and, for
generators, of Karras et al., ICLR 2018, section 4.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from medjax.cases import Cases
from medjax.core import Batch, State, Task

EMA = "ema"  # its place in `State.extra`


def averaged(task: Task, decay: float) -> Task:
    """The task with moving averages of its weights, by which it evaluates and predicts.

    After update t = 0, 1, 2, ... an average is m_t = d_t m_(t-1) + (1 - d_t) w_t with d_t = min(decay, t / (9 + t)). It begins
    at the first updated weights, and then has TensorFlow's warm-up min(decay, (1 + n) / (10 + n)), n = t - 1, so that a short
    training does not end at an average of its beginning. The batch statistics in `extra` are averaged alike, for they belong to
    the weights that they were seen with; whole numbers are the newest.

    The averages are plain functions of what is the same on every device, so that engines and device counts agree. An engine's
    guard holds them still together with the weights where an update is not finite.

    Args:
      task: any Task whose `State.extra` is a dict.
      decay: of the average, 0 <= decay < 1; 0 gives the task as it is.

    Returns:
      Task whose `State.extra` has besides the `ema` {"params", "extra"} of the same trees.
    """
    if not decay:
        return task

    def init(key: jax.Array, batch: Batch) -> State:
        return _with(task.init(key, batch), None)

    def update(state: State, batch: Batch, axis: str | None = None) -> tuple[State, dict[str, jax.Array]]:
        before, t = state.extra[EMA], state.step.astype(jnp.float32)
        new, logs = task.update(_without(state), batch, axis)
        rate = jnp.minimum(decay, t / (9 + t))

        def move(old: jax.Array, now: jax.Array) -> jax.Array:
            return (rate * old + (1 - rate) * now).astype(now.dtype) if jnp.issubdtype(now.dtype, jnp.inexact) else now

        return _with(new, jax.tree.map(move, before, {"params": new.params, "extra": new.extra})), logs

    def evaluate(state: State, batch: Batch, axis: str | None = None) -> dict[str, jax.Array]:
        return task.evaluate(averages(state), batch, axis)

    def predict(state: State, batch: Batch) -> dict[str, jax.Array]:
        return task.predict(averages(state), batch)

    return Task(init, update, evaluate, predict)


def averages(state: State) -> State:
    """The state with its averages in place of its weights, as the task without averages takes it; itself where it has none."""
    if not _has(state):
        return state
    average = state.extra[EMA]
    return state.replace(params=average["params"], extra=average["extra"])


def started(start: Callable[[State, Cases], State], state: State, cases: Cases) -> State:
    """`start(state, cases)`, which knows nothing of averages, with the averages of a state that has them begun anew there."""
    return _with(start(_without(state), cases), None) if _has(state) else start(state, cases)


def _has(state: State) -> bool:
    return isinstance(state.extra, dict) and EMA in state.extra


def _without(state: State) -> State:
    return state.replace(extra={name: value for name, value in state.extra.items() if name != EMA})


def _with(state: State, average: Any) -> State:
    if EMA in state.extra:
        raise ValueError(f"the task keeps something of its own at extra[{EMA!r}]")
    if average is None:
        # Copies, since an engine gives the state's memory away at an update, which it can do only once.
        average = jax.tree.map(jnp.copy, {"params": state.params, "extra": dict(state.extra)})
    return state.replace(extra={**state.extra, EMA: average})
