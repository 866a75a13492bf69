"""Generative adversarial networks (Goodfellow et al., NeurIPS 2014) as one more Task builder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from medjax.core import LATENT, Batch, State, Task, example_keys, mean, purpose_keys, total
from medjax.tasks.supervised import apply_train, warn_of_foreign_layers

GENERATOR, DISCRIMINATOR = 3, 4  # purposes of keys, after those of `core`


def adversarial(
    generator: nn.Module,
    discriminator: nn.Module,
    tx: Mapping[str, optax.GradientTransformation],
    *,
    latent: int,
    inputs: Callable[[Batch], jax.Array],
) -> Task:
    """Generator against discriminator with the non-saturating logistic loss (Goodfellow et al. 2014, section 3).

    L_D = mean softplus(-D(x)) + softplus(D(G(z))),  L_G = mean softplus(-D(G(z))); one simultaneous step of each.

    Args:
      generator: z [n, latent] -> image [n, ...].
      discriminator: image [n, ...] -> logit [n].
      tx: {"generator": ..., "discriminator": ...}, an optimizer each.
      latent: length of z, standard normal, drawn per example.
      inputs: batch -> real images [n, ...].
    """
    networks = {"generator": generator, "discriminator": discriminator}

    def draw(keys: jax.Array) -> jax.Array:
        return jax.vmap(lambda key: jax.random.normal(key, (latent,)))(purpose_keys(keys, LATENT))

    def init(key: jax.Array, batch: Batch) -> State:
        key_g, key_d, key_state = jax.random.split(key, 3)
        x = inputs(batch)
        z = jnp.zeros((len(x), latent))
        params, extra = {}, {}
        for name, key_params, example in (("generator", key_g, z), ("discriminator", key_d, x)):

            def build(network=networks[name], key_params=key_params, example=example):
                return dict(network.init({"params": key_params}, example, train=False))

            extra[name] = warn_of_foreign_layers(build)
            params[name] = extra[name].pop("params")
        opt = {name: tx[name].init(params[name]) for name in networks}
        return State(jnp.zeros((), jnp.int32), params, extra, opt, key_state)

    def update(state: State, batch: Batch, axis: str | None = None) -> tuple[State, dict[str, jax.Array]]:
        keys = example_keys(state.key, state.step, len(batch["mask"]))
        x, weight = inputs(batch), batch["mask"].astype(jnp.float32)
        share = weight / jnp.maximum(total(weight.sum(), axis), 1.0)
        z = draw(keys)
        # Layers of one name in the two networks must not draw the same dropout mask.
        keys_g, keys_d = purpose_keys(keys, GENERATOR), purpose_keys(keys, DISCRIMINATOR)

        def judge(params: Any, extra: Any, image: jax.Array) -> tuple[jax.Array, Any]:
            return apply_train(discriminator, params, extra, image, keys_d)

        def loss_d(params):
            fake, _ = apply_train(generator, state.params["generator"], state.extra["generator"], z, keys_g)
            on_real, extra = judge(params, state.extra["discriminator"], x)
            on_fake, extra = judge(params, {**state.extra["discriminator"], **extra}, fake)
            return ((jax.nn.softplus(-on_real) + jax.nn.softplus(on_fake)) * share).sum(), extra

        def loss_g(params):
            fake, extra = apply_train(generator, params, state.extra["generator"], z, keys_g)
            on_fake, _ = judge(state.params["discriminator"], state.extra["discriminator"], fake)
            return (jax.nn.softplus(-on_fake) * share).sum(), extra

        losses, grads, params, extra, opt = {}, {}, {}, {}, {}
        for name, objective in (("discriminator", loss_d), ("generator", loss_g)):
            (losses[name], changed), grads[name] = jax.value_and_grad(objective, has_aux=True)(state.params[name])
            losses[name], grads[name] = total((losses[name], grads[name]), axis)
            updates, opt[name] = tx[name].update(grads[name], state.opt[name], state.params[name])
            params[name] = optax.apply_updates(state.params[name], updates)
            extra[name] = mean({**state.extra[name], **changed}, axis)
        logs = {f"loss/{name}": value for name, value in losses.items()}
        logs |= {"loss": losses["generator"] + losses["discriminator"], "grad_norm": optax.tree.norm(grads)}
        return state.replace(step=state.step + 1, params=params, extra=extra, opt=opt), logs

    def apply(state: State, name: str, x: jax.Array) -> Any:
        return networks[name].apply({"params": state.params[name], **state.extra[name]}, x, train=False)

    def predict(state: State, batch: Batch) -> dict[str, jax.Array]:
        return {"image": apply(state, "generator", batch["latent"])}

    def evaluate(state: State, batch: Batch, axis: str | None = None) -> dict[str, jax.Array]:
        # A key that no step has, and each case its own: the same latents at every evaluation, whatever the batch size.
        key = jax.random.fold_in(state.key, jnp.uint32(0xFFFFFFFF))
        z = draw(jax.vmap(jax.random.fold_in, (None, 0))(key, batch["index"]))
        image = predict(state, {"latent": z})["image"]
        on_real, on_fake = apply(state, "discriminator", inputs(batch)), apply(state, "discriminator", image)
        return {"image": image, "real_logit": on_real, "fake_logit": on_fake}

    return Task(init, update, evaluate, predict)
