"""Augmentations that a discriminator's gradient passes through, each with a chance.

DiffAugment (Zhao et al., NeurIPS 2020, section 3.2), and some of ADA's (Karras et al., NeurIPS 2020, appendix B).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

Step = Callable[[jax.Array, jax.Array], jax.Array]  # (key, image [H, W, C]) -> image


def colour(key: jax.Array, image: jax.Array) -> jax.Array:
    """Brightness by up to half of the range 0..1 either way, saturation by a factor of 0 to 2, contrast of .5 to 1.5."""
    shift, saturation, contrast = jax.random.uniform(key, (3,))
    image = image + (shift - 0.5)
    grey = image.mean(-1, keepdims=True)
    image = grey + (image - grey) * (2 * saturation)
    middle = image.mean()
    return middle + (image - middle) * (0.5 + contrast)


def translation(key: jax.Array, image: jax.Array, *, most: float = 1 / 8) -> jax.Array:
    """Moved by a whole number of pixels, up to `most` of each side either way; zeros come in."""
    sides = jnp.array(image.shape[:2])
    reach = [int(side * most + 0.5) for side in image.shape[:2]]
    by = jax.random.randint(key, (2,), -jnp.array(reach), jnp.array(reach) + 1)
    # Rolled and masked: a gather would have to be scattered back in the gradient.
    moved = jnp.roll(image, by, (0, 1))
    inside = [(jnp.arange(n) - b >= 0) & (jnp.arange(n) - b < sides[a]) for a, (n, b) in enumerate(zip(image.shape, by))]
    return moved * (inside[0][:, None] & inside[1][None, :])[..., None]


def cutout(key: jax.Array, image: jax.Array, *, share: float = 1 / 2) -> jax.Array:
    """A box of `share` of each side around a random pixel set to 0; it may lie partly outside."""
    h, w = image.shape[:2]
    tall, wide = int(h * share + 0.5), int(w * share + 0.5)
    y, x = jax.random.randint(key, (2,), 0, jnp.array([h + 1 - tall % 2, w + 1 - wide % 2]))
    rows, columns = jnp.arange(h) - y + tall // 2, jnp.arange(w) - x + wide // 2
    hole = ((rows >= 0) & (rows < tall))[:, None] & ((columns >= 0) & (columns < wide))[None, :]
    return jnp.where(hole[..., None], 0.0, image)


def flip(key: jax.Array, image: jax.Array) -> jax.Array:
    """Mirrored left to right in half of the cases."""
    return jnp.where(jax.random.bernoulli(key), image[:, ::-1], image)


def zoom(key: jax.Array, image: jax.Array, *, spread: float = 0.2, shift: float = 0.125) -> jax.Array:
    """Scaled by 2^N(0, spread^2) together and once more along x, moved by N(0, shift^2) of each side; zeros come in.

    Karras et al., NeurIPS 2020, appendix B. Bilinear, as a product with a matrix for each axis.
    """
    both, along, *by = jax.random.normal(key, (4,))
    scales = jnp.exp2(spread * jnp.array([both, both + along]))
    image = jnp.einsum("ih,hwc->iwc", _resampling(image.shape[0], scales[0], by[0] * shift), image)
    return jnp.einsum("jw,iwc->ijc", _resampling(image.shape[1], scales[1], by[1] * shift), image)


def _resampling(n: int, scale: jax.Array, shift: jax.Array) -> jax.Array:
    """[n, n]: row i holds the bilinear weights of where output i lies in the input."""
    middle, place = (n - 1) / 2, jnp.arange(n, dtype=jnp.float32)
    at = (place - middle - shift * n) / scale + middle
    return jax.nn.relu(1 - jnp.abs(at[:, None] - place[None, :]))


STEPS = {"flip": flip, "colour": colour, "translation": translation, "zoom": zoom, "cutout": cutout}


def differentiable(policy: Sequence[str]) -> Callable[..., jax.Array] | None:
    """(keys [n], images [n, H, W, C] in about 0..1) -> the same, each example changed by its own key; None where nothing is.

    A third argument is the chance of each step, drawn by example and step; without it every step is taken.

    Args:
      policy: names out of `STEPS`, in order.
    """
    if not policy:
        return None
    steps = [STEPS[name] for name in policy]

    def one(key: jax.Array, image: jax.Array, chance: jax.Array | None) -> jax.Array:
        for i, step in enumerate(steps):
            own = jax.random.fold_in(key, i)
            changed = step(own, image)
            if chance is not None:
                changed = jnp.where(jax.random.uniform(jax.random.fold_in(own, len(steps))) < chance, changed, image)
            image = changed
        return image

    def change(keys: jax.Array, images: jax.Array, chance: jax.Array | None = None) -> jax.Array:
        return jax.vmap(one, (0, 0, None))(keys, images, chance)

    return change
