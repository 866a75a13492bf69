"""The builder behind every task with one network, one loss and one optimizer."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from medjax.core import DROPOUT, Batch, State, Task, example_keys, mean, purpose_keys, scope, total


def warn_of_foreign_layers(init: Callable[[], Any]) -> Any:
    """Run a model's `init` and warn of flax layers whose result depends on the number of devices."""
    found: set[str] = set()

    def look(call: Callable, args: tuple, kwargs: dict, context: nn.module.InterceptorContext) -> Any:
        if type(context.module) in (nn.BatchNorm, nn.Dropout) and context.method_name == "__call__":
            found.add(type(context.module).__name__)
        return call(*args, **kwargs)

    with nn.intercept_methods(look):
        result = init()
    for name in sorted(found):
        warnings.warn(
            f"the model uses flax.linen.{name}: engines and device counts will give different numbers; "
            f"medjax.nn.{name} gives the same on all",
            stacklevel=2,
        )
    return result


def apply_train(model: nn.Module, params: Any, extra: Mapping, x: Any, keys: jax.Array) -> tuple[Any, Mapping]:
    """Forward pass in training: output and the changed collections of `extra`. `keys` [n] are per example."""
    with scope(keys=purpose_keys(keys, DROPOUT)):
        # flax's own random layers take one key a call; ours take the scope's.
        return model.apply({"params": params, **extra}, x, train=True, rngs={"dropout": keys[0]}, mutable=list(extra))


def supervised(
    model: nn.Module,
    tx: optax.GradientTransformation,
    *,
    inputs: Callable[[Batch], Any],
    loss: Callable[[Any, Batch], tuple[jax.Array, jax.Array]],
    outputs: Callable[[Any], dict[str, jax.Array]],
    views: Callable[[jax.Array], jax.Array] | None = None,
    back: Callable[[dict[str, jax.Array]], dict[str, jax.Array]] | None = None,
) -> Task:
    """A Task from a model, an optimizer and a per-example loss.

    Args:
      model: flax module with `__call__(x, *, train)`.
      tx: any optax transformation.
      inputs: batch -> x, what the model takes; used alike in training, evaluation and deployment.
      loss: (y, batch) -> (values [n], weight [n]): per-example loss and its weight, 0 where the label is missing.
      outputs: y -> {name: array [n, ...]}, what `predict` gives and `evaluate` passes on.
      views: x [n, ...] -> [n, v, ...], views of each example, itself the first, that `predict` averages the outputs over.
      back: outputs {name: [n, v, ...]} of the views -> the same laid on the example, where a view moves what they are of.

    Returns:
      Task whose objective is sum(weight * mask * values) / sum(weight * mask) over the global batch.
    """

    def init(key: jax.Array, batch: Batch) -> State:
        key_params, key_state = jax.random.split(key)
        x = inputs(batch)
        variables = warn_of_foreign_layers(lambda: dict(model.init({"params": key_params}, x, train=False)))
        params = variables.pop("params")
        return State(jnp.zeros((), jnp.int32), params, variables, tx.init(params), key_state)

    def weighted(y: Any, batch: Batch) -> tuple[jax.Array, jax.Array]:
        values, weight = loss(y, batch)
        weight = weight * batch["mask"]
        # A padded row may hold anything, NaN included: it must not reach the sum even as 0 * NaN.
        return jnp.where(weight > 0, values, 0.0), weight

    def update(state: State, batch: Batch, axis: str | None = None) -> tuple[State, dict[str, jax.Array]]:
        keys = example_keys(state.key, state.step, len(batch["mask"]))

        def objective(params):
            y, extra = apply_train(model, params, state.extra, inputs(batch), keys)
            values, weight = weighted(y, batch)
            count = jnp.maximum(total(jax.lax.stop_gradient(weight.sum()), axis), 1e-12)
            return (values * weight).sum() / count, extra

        (value, extra), grads = jax.value_and_grad(objective, has_aux=True)(state.params)
        value, grads = total((value, grads), axis)
        updates, opt = tx.update(grads, state.opt, state.params)
        new = state.replace(
            step=state.step + 1, params=optax.apply_updates(state.params, updates), extra=mean(dict(extra), axis), opt=opt
        )
        return new, {"loss": value, "grad_norm": optax.tree.norm(grads)}

    def forward(state: State, batch: Batch) -> tuple[Any, dict[str, jax.Array]]:
        """What the model says of the examples as they are, and the outputs averaged over their views."""
        x, variables = inputs(batch), {"params": state.params, **state.extra}
        if views is None:
            y = model.apply(variables, x, train=False)
            return y, outputs(y)
        # An example's views stay beside each other, so that a batch spread over devices stays where it is.
        many = views(x)
        n, v = many.shape[:2]
        y = model.apply(variables, many.reshape(n * v, *many.shape[2:]), train=False)
        y, seen = jax.tree.map(lambda a: a.reshape(n, v, *a.shape[1:]), (y, outputs(y)))
        seen = seen if back is None else back(seen)
        return jax.tree.map(lambda a: a[:, 0], y), jax.tree.map(lambda a: a.mean(1), seen)

    def evaluate(state: State, batch: Batch, axis: str | None = None) -> dict[str, jax.Array]:
        y, seen = forward(state, batch)
        values, weight = weighted(y, batch)
        return {**seen, "loss": jnp.where(weight > 0, values, jnp.nan)}

    def predict(state: State, batch: Batch) -> dict[str, jax.Array]:
        return forward(state, batch)[1]

    return Task(init, update, evaluate, predict)
