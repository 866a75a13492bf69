"""Generative adversarial networks (Goodfellow et al., NeurIPS 2014) as one more Task builder, from noise or from an image."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from medjax.core import LATENT, Batch, State, Task, example_keys, mean, purpose_keys, total
from medjax.tasks.gan_losses import LOSSES, one_centred, per_example, zero_centred
from medjax.tasks.supervised import apply_train, warn_of_foreign_layers

GENERATOR, DISCRIMINATOR, CHANGED, MIXED = 4, 5, 6, 7  # purposes of keys, after those of `core`
Images = Callable[[jax.Array, Batch], jax.Array]
Changed = Callable[..., jax.Array]
AUGMENT, TARGET, EVERY = (
    "augment",
    0.6,
    4,
)  # place in `extra`; r_t to aim at, and steps it is averaged over: Karras et al., 2020


class Game(NamedTuple):
    """What generator and discriminator play by.

    Attributes:
      loss: a name of `medjax.tasks.gan_losses.LOSSES`.
      rounds: the discriminator's steps for one of the generator's, each with other noise and other changes, unrolled.
      r1, r2: weight (gamma) of |grad D|^2 / 2 at real and at generated images; 0 leaves it out.
      lazy: take r1 and r2 every so many steps, weighing that much more (Karras et al., CVPR 2020, section 3.1).
      between: weight of WGAN-GP's penalty, at every step; 10 in the paper; 0 leaves it out.
      weight: of the adversarial term beside the content term.
      adapt: images in which the chance of each change of what the discriminator sees may go from 0 to 1 (adaptive augmentation,
        Karras et al., NeurIPS 2020, section 3: half a million there); 0 makes every change always.
    """

    loss: str = "non_saturating"
    rounds: int = 1
    r1: float = 0.0
    r2: float = 0.0
    lazy: int = 1
    between: float = 0.0
    weight: float = 1.0
    adapt: int = 0


PLAIN = Game()


def adversarial(
    generator: nn.Module,
    discriminator: nn.Module,
    tx: Mapping[str, optax.GradientTransformation],
    *,
    inputs: Callable[[Batch], jax.Array],
    latent: int = 0,
    given: Callable[[Batch], Any] | None = None,
    labels: Callable[[Batch], jax.Array] | None = None,
    content: Callable[[Any, Batch], tuple[jax.Array, jax.Array]] | None = None,
    judged: Images = lambda image, batch: image,
    augment: Changed | None = None,
    game: Game = PLAIN,
) -> Task:
    """Generator against discriminator, all in one update: the discriminator's steps, penalties, and the generator's step.

    The generator is judged by the discriminator as it was before its last step: with one round, both step at the same time.
    Losses and penalties are those of `medjax.tasks.gan_losses`; optimizers with rates of their own are the two time scales of
    Heusel et al., NeurIPS 2017. A moving average of the weights is `medjax.ema.averaged`'s.

    Args:
      generator: z [n, latent], or what `given` returns -> image [n, ...].
      discriminator: image [n, ...] -> logits [n] or a map of them [n, h, w].
      tx: {"generator": ..., "discriminator": ...}, an optimizer each.
      inputs: batch -> real images [n, ...].
      latent: length of z, standard normal, drawn per example, where nothing is given.
      given: batch -> what the generator makes an image from, such as a worse image.
      labels: batch -> classes int [n], -1 where unknown, of a conditional GAN: the networks then take {"latent", "class"} and
        {"image", "class"}. A generated image has the class of the real example beside it, so that classes come as often as in
        the data, and relativistic pairs are of one class.
      content: (generated, batch) -> (loss [n], weight [n]), added to the generator's.
      judged: (image, batch) -> what the discriminator sees, such as a magnitude, or the image with what it was made from.
      augment: (keys [n], images) -> images, of what the discriminator sees, real and generated alike; with `game.adapt` it
        takes the chance of each change too. That is `State.extra["augment"]`: every so many steps it goes up where D is surer
        of training images than it should be, and down where it is not.
      game: the rest.

    Returns:
      Task whose rows are `image`, `real_logit` and `fake_logit` [n], and whose logs tell of trouble: `diversity`, the mean
      distance of neighbouring generated images over that of real ones (0 where all are one), and `real_sign`, the mean sign of
      D on training images (r_t of Karras et al., NeurIPS 2020, section 3: towards 1 where D knows them by heart). With
      `game.adapt` also `chance`, and `real_side`, which it follows: `real_sign`, for the relativistic loss from the middle
      between the mean logits of real and generated images.

    Raises:
      ValueError: neither or both of `latent` and `given`, labels of what is given, an unknown loss, nothing to adapt.
    """
    if bool(latent) == (given is not None) or game.loss not in LOSSES:
        raise ValueError("adversarial takes either `latent` or `given`, and one of the losses " + ", ".join(LOSSES))
    if (labels is not None and given is not None) or (game.adapt and augment is None):
        raise ValueError("adversarial takes `labels` with `latent` alone, and `game.adapt` with `augment`")
    networks, loss = {"generator": generator, "discriminator": discriminator}, LOSSES[game.loss]

    def noise(keys: jax.Array) -> jax.Array:
        return jax.vmap(lambda key: jax.random.normal(key, (latent,)))(purpose_keys(keys, LATENT))

    def with_class(name: str, x: Any, batch: Batch) -> Any:
        return x if labels is None else {name: x, "class": labels(batch)}

    def source(batch: Batch, keys: jax.Array) -> Any:
        return with_class("latent", noise(keys), batch) if given is None else given(batch)

    def init(key: jax.Array, batch: Batch) -> State:
        key_g, key_d, key_state = jax.random.split(key, 3)
        real = inputs(batch)
        begin = with_class("latent", jnp.zeros((len(real), latent)), batch) if given is None else given(batch)
        seen = with_class("image", judged(real, batch), batch)
        params: dict[str, Any] = {}
        extra: dict[str, Any] = {}
        for name, key_params, x in (("generator", key_g, begin), ("discriminator", key_d, seen)):
            build = functools.partial(networks[name].init, {"params": key_params}, x, train=False)
            extra[name] = dict(warn_of_foreign_layers(build))
            params[name] = extra[name].pop("params")
        opt = {name: tx[name].init(params[name]) for name in networks}
        if game.adapt:
            extra[AUGMENT] = {"chance": jnp.zeros(()), "signs": jnp.zeros(())}
        return State(jnp.zeros((), jnp.int32), params, extra, opt, key_state)

    def update(state: State, batch: Batch, axis: str | None = None) -> tuple[State, dict[str, jax.Array]]:
        keys = example_keys(state.key, state.step, len(batch["mask"]))
        real, mask = inputs(batch), batch["mask"].astype(jnp.float32)
        share = mask / jnp.maximum(total(mask.sum(), axis), 1.0)

        def shown(image: jax.Array, keys: jax.Array) -> jax.Array:
            seen, chance = judged(image, batch), (state.extra[AUGMENT]["chance"],) if game.adapt else ()
            return seen if augment is None else augment(purpose_keys(keys, CHANGED), seen, *chance)

        def judge(params: Any, extra: Any, seen: jax.Array, keys: jax.Array) -> tuple[jax.Array, Any]:
            # Layers of one name in the two networks must not draw the same dropout mask.
            return apply_train(
                discriminator, params, extra, with_class("image", seen, batch), purpose_keys(keys, DISCRIMINATOR)
            )

        def generate(params: Any, keys: jax.Array) -> tuple[Any, Any]:
            x = source(batch, keys)
            return apply_train(generator, params, state.extra["generator"], x, purpose_keys(keys, GENERATOR))

        def penalty(params: Any, extra: Any, seen: jax.Array, fake: jax.Array, keys: jax.Array) -> jax.Array:
            def look(x: jax.Array) -> jax.Array:
                return judge(params, extra, x, keys)[0]

            value = jnp.zeros(())
            if game.between:
                mix = jax.vmap(jax.random.uniform)(purpose_keys(keys, MIXED))
                value += game.between * (one_centred(look, seen, fake, mix) * share).sum()

            def smooth() -> jax.Array:
                found = jnp.zeros(())
                for gamma, at in ((game.r1, seen), (game.r2, fake)):
                    if gamma:
                        found += gamma * game.lazy * (zero_centred(look, at) * share).sum()
                return found

            if not (game.r1 or game.r2):
                return value
            if game.lazy == 1:
                return value + smooth()
            return value + jax.lax.cond(state.step % game.lazy == 0, smooth, lambda: jnp.zeros(()))

        def loss_d(params: Any, extra: Any, keys: jax.Array) -> tuple[jax.Array, Any]:
            fake, _ = generate(state.params["generator"], keys)
            # Other changes for the generated images than for the real ones.
            seen, fake = shown(real, keys), shown(fake, purpose_keys(keys, 1))
            on_real, moved = judge(params, extra, seen, keys)
            on_fake, moved = judge(params, {**extra, **moved}, fake, keys)
            value = (per_example(loss.discriminator(on_real, on_fake)) * share).sum()
            value += penalty(params, extra, seen, fake, keys)
            on_real, on_fake = per_example(on_real), per_example(on_fake)
            middle = jnp.zeros(())
            if game.loss == "relativistic":  # of which differences alone count: 0 has no meaning
                middle = total(jax.lax.stop_gradient(((on_real + on_fake) * share).sum()), axis) / 2
            return value, (moved, ((jnp.sign(on_real) * share).sum(), (jnp.sign(on_real - middle) * share).sum()))

        def loss_g(params: Any, judging: Any, extra: Any) -> tuple[jax.Array, Any]:
            image, moved = generate(params, keys)
            on_fake, _ = judge(judging, extra, shown(image, purpose_keys(keys, 1)), keys)
            on_real = on_fake
            if game.loss == "relativistic":
                on_real, _ = judge(judging, extra, shown(real, keys), keys)
            value = game.weight * (per_example(loss.generator(on_real, on_fake)) * share).sum()
            if content is not None:
                values, weight = content(image, batch)
                weight = weight * mask
                value += (jnp.where(weight > 0, values, 0.0) * weight).sum() / jnp.maximum(total(weight.sum(), axis), 1e-12)
            spread = _spread(judged(image, batch)), _spread(judged(real, batch))
            return value, (moved, spread)

        losses, grads, params, extra, opt = {}, {}, dict(state.params), dict(state.extra), dict(state.opt)

        def step(name: str, objective: Callable, *args: Any) -> Any:
            (losses[name], (moved, told)), grads[name] = jax.value_and_grad(objective, has_aux=True)(params[name], *args)
            losses[name], grads[name], told = total((losses[name], grads[name], told), axis)
            updates, opt[name] = tx[name].update(grads[name], opt[name], params[name])
            params[name] = optax.apply_updates(params[name], updates)
            extra[name] = mean({**extra[name], **moved}, axis)
            return told

        judging = params["discriminator"], extra["discriminator"]
        sign, side = jnp.zeros(()), jnp.zeros(())
        for k in range(game.rounds):
            judging = params["discriminator"], extra["discriminator"]
            # The last round has the generator's own noise.
            own = keys if k + 1 == game.rounds else purpose_keys(keys, MIXED + 1 + k)
            sign, side = step("discriminator", loss_d, extra["discriminator"], own)
        fakes, reals = step("generator", loss_g, *judging)
        logs = {f"loss/{name}": value for name, value in losses.items()}
        logs |= {"loss": losses["generator"] + losses["discriminator"], "grad_norm": optax.tree.norm(grads)}
        logs |= {"real_sign": sign, "diversity": fakes / jnp.maximum(reals, 1e-12)}
        if game.adapt:
            extra[AUGMENT] = adapted(state, side, total(mask.sum(), axis))
            logs |= {"chance": extra[AUGMENT]["chance"], "real_side": side}
        return state.replace(step=state.step + 1, params=params, extra=extra, opt=opt), logs

    def adapted(state: State, side: jax.Array, images: jax.Array) -> dict[str, jax.Array]:
        before, last = state.extra[AUGMENT], state.step % EVERY == EVERY - 1
        signs = before["signs"] + side
        moved = before["chance"] + jnp.sign(signs / EVERY - TARGET) * EVERY * images / game.adapt
        chance = jnp.where(last, jnp.clip(moved, 0, 1), before["chance"])
        return {"chance": chance, "signs": jnp.where(last, 0.0, signs)}

    def apply(state: State, name: str, x: Any) -> Any:
        return networks[name].apply({"params": state.params[name], **state.extra[name]}, x, train=False)

    def predict(state: State, batch: Batch) -> dict[str, jax.Array]:
        x = with_class("latent", batch["latent"], batch) if given is None else given(batch)
        return {"image": apply(state, "generator", x)}

    def evaluate(state: State, batch: Batch, axis: str | None = None) -> dict[str, jax.Array]:
        if given is None:
            # A key that no step has, and each case its own: the same latents at every evaluation, whatever the batch size.
            key = jax.random.fold_in(state.key, jnp.uint32(0xFFFFFFFF))
            place = batch["index"] + batch["first"] if "first" in batch else batch["index"]  # a series in parts goes on
            batch = {**batch, "latent": noise(jax.vmap(jax.random.fold_in, (None, 0))(key, place))}
        image = predict(state, batch)["image"]
        seen = {"real": judged(inputs(batch), batch), "fake": judged(image, batch)}
        logits = {
            f"{name}_logit": per_example(apply(state, "discriminator", with_class("image", x, batch)))
            for name, x in seen.items()
        }
        return {"image": image, **logits}

    return Task(init, update, evaluate, predict)


def _spread(image: jax.Array) -> jax.Array:
    """The sum of distances of examples 2i and 2i + 1, which lie on one device whatever the number of devices."""
    if len(image) < 2:
        return jnp.zeros(())
    even = len(image) // 2 * 2
    pairs = jnp.abs(image[0:even:2] - image[1:even:2])
    return jax.lax.stop_gradient(pairs.reshape(len(pairs), -1).mean(1).sum())
