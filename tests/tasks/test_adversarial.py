"""Losses and penalties of a GAN against formulas in NumPy and PyTorch; a run with all of them, killed, goes on bit for bit."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from families import Config, Generator, batch_of, gan

from medjax import loop
from medjax.checkpoint import Checkpoints
from medjax.core import purpose_keys
from medjax.data.augment.differentiable import STEPS, cutout, differentiable, flip, translation, zoom
from medjax.nn import SpectralConv
from medjax.nn.spectral import largest_singular
from medjax.tasks.adversarial import Game, adversarial
from medjax.tasks.gan_losses import LOSSES, one_centred, per_example, slopes, zero_centred

REAL = np.array([-3.0, -0.2, 0.4, 2.5, 30.0])
FAKE = np.array([1.5, -0.7, 0.1, -40.0, 3.0])


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


# (discriminator's loss, generator's), as the papers print them, in double precision.
FORMULAS = {
    "minimax": lambda r, f: (-np.log(sigmoid(r)) - np.log(1 - sigmoid(f)), np.log(1 - sigmoid(f))),
    "non_saturating": lambda r, f: (-np.log(sigmoid(r)) - np.log(1 - sigmoid(f)), -np.log(sigmoid(f))),
    "hinge": lambda r, f: (np.maximum(0, 1 - r) + np.maximum(0, 1 + f), -f),
    "least_squares": lambda r, f: (0.5 * (r - 1) ** 2 + 0.5 * f**2, 0.5 * (f - 1) ** 2),
    "wasserstein": lambda r, f: (f - r, -f),
    "relativistic": lambda r, f: (-np.log(sigmoid(r - f)), -np.log(sigmoid(f - r))),
}


@pytest.mark.parametrize("name", LOSSES)
def test_losses_are_the_formulas(name):
    real, fake = REAL.astype(np.float32), FAKE.astype(np.float32)
    d, g = FORMULAS[name](REAL, FAKE)
    np.testing.assert_allclose(LOSSES[name].discriminator(real, fake), d, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(LOSSES[name].generator(real, fake), g, rtol=1e-5, atol=1e-6)


def test_a_sure_discriminator_stops_the_minimax_generator_and_not_the_other():
    slope = {name: jax.grad(lambda f, name=name: LOSSES[name].generator(0.0, f))(-20.0) for name in LOSSES}
    assert abs(slope["minimax"]) < 1e-8
    assert slope["non_saturating"] == pytest.approx(-1)


def test_maps_of_logits_count_by_their_mean():
    logits = np.random.default_rng(0).normal(size=(3, 4, 5))
    np.testing.assert_allclose(per_example(jnp.array(logits)), logits.mean((1, 2)), rtol=1e-6)


def judge_in_both(weight, torch):
    """D(x) = w2 . tanh(w1 x), in jnp and in PyTorch."""
    w1, w2 = weight
    return (
        lambda x: jnp.tanh(x.reshape(len(x), -1) @ w1) @ w2,
        lambda x: torch.tanh(x.reshape(len(x), -1) @ torch.tensor(w1)) @ torch.tensor(w2),
    )


@pytest.fixture
def smooth():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(1)
    weight = rng.normal(size=(12, 7)), rng.normal(size=7)
    real, fake = rng.normal(size=(2, 5, 3, 4, 1))
    return torch, *judge_in_both(weight, torch), real, fake


def test_zero_centred_penalty_is_pytorchs(smooth):
    torch, judge, judge_torch, real, _ = smooth
    x = torch.tensor(real, requires_grad=True)
    (gradient,) = torch.autograd.grad(judge_torch(x).sum(), x)
    wanted = 0.5 * gradient.pow(2).reshape(5, -1).sum(1)
    np.testing.assert_allclose(zero_centred(judge, jnp.array(real)), wanted.detach(), rtol=1e-5)


def test_wasserstein_penalty_is_pytorchs(smooth):
    torch, judge, judge_torch, real, fake = smooth
    share = np.linspace(0.1, 0.9, 5)
    x = torch.tensor(share.reshape(5, 1, 1, 1) * real + (1 - share).reshape(5, 1, 1, 1) * fake, requires_grad=True)
    (gradient,) = torch.autograd.grad(judge_torch(x).sum(), x)
    wanted = (gradient.reshape(5, -1).norm(dim=1) - 1) ** 2
    found = one_centred(judge, jnp.array(real), jnp.array(fake), jnp.array(share))
    np.testing.assert_allclose(found, wanted.detach(), rtol=1e-5)


def test_a_flat_discriminator_has_a_finite_slope_of_its_penalty():
    flat = jax.grad(lambda w: one_centred(lambda x: (x * w).sum((1, 2, 3)), *jnp.ones((2, 2, 3, 3, 1)), jnp.ones(2)).sum())
    assert np.isfinite(flat(0.0))
    np.testing.assert_allclose(slopes(lambda x: 3 * x.sum((1, 2, 3)), jnp.zeros((2, 2, 2, 1))), [36, 36])


def test_power_iteration_finds_the_largest_singular_value():
    matrix = np.random.default_rng(2).normal(size=(20, 6)).astype(np.float32)
    sigma, _ = largest_singular(jnp.array(matrix), jnp.ones(6), 200)
    values = np.linalg.svd(matrix.astype(np.float64))
    assert float(sigma) == pytest.approx(values.S[0], rel=1e-5)
    # The gradient of the largest singular value is u v^T.
    slope = jax.grad(lambda w: largest_singular(w, jnp.ones(6), 200)[0])(jnp.array(matrix))
    np.testing.assert_allclose(slope, np.outer(values.U[:, 0], values.Vh[0]), atol=1e-4)


def test_spectral_convolution_has_a_largest_singular_value_of_one_and_moves_only_in_training():
    layer, x = SpectralConv(5, (3, 3), use_bias=False), jnp.ones((1, 6, 6, 2))
    variables = layer.init(jax.random.key(0), x, train=False)
    kernel = np.asarray(variables["params"]["kernel"])
    for _ in range(60):
        _, moved = layer.apply(variables, x, train=True, mutable=["spectral"])
        variables = {**variables, **moved}
    hot = jnp.zeros((1, 7, 7, 2)).at[0, 3, 3, 0].set(1.0)  # its output is the kernel mirrored
    seen = layer.apply(variables, hot, train=False)[0, 2:5, 2:5]
    sigma = np.linalg.svd(kernel.reshape(-1, 5).astype(np.float64)).S[0]
    np.testing.assert_allclose(seen, kernel[::-1, ::-1, 0] / sigma, rtol=1e-4, atol=1e-6)


def test_augmentations_of_the_discriminator_move_and_cut_whole_pixels():
    image = jnp.arange(1.0, 65).reshape(8, 8, 1)
    seen = set()
    for k in range(40):
        moved = np.asarray(translation(jax.random.key(k), image, most=1 / 4))
        kept = moved[moved > 0]
        assert set(kept) <= set(np.ravel(image))
        y, x = np.argwhere(moved[..., 0] == kept[0])[0]
        by = (y - int(kept[0] - 1) // 8, x - int(kept[0] - 1) % 8)
        seen.add(by)
        wanted = np.zeros((8, 8))
        for i in range(8):
            for j in range(8):
                if 0 <= i + by[0] < 8 and 0 <= j + by[1] < 8:
                    wanted[i + by[0], j + by[1]] = image[i, j, 0]
        np.testing.assert_array_equal(moved[..., 0], wanted)
    assert {abs(a) for pair in seen for a in pair} == {0, 1, 2}
    holes = [int((np.asarray(cutout(jax.random.key(k), image)) == 0).sum()) for k in range(40)]
    assert max(holes) == 16
    assert min(holes) >= 4


def test_augmentations_differ_by_example_and_let_the_gradient_pass():
    change = differentiable(tuple(STEPS))
    keys = jax.random.split(jax.random.key(0), 3)
    images = jnp.full((3, 8, 8, 1), 0.5)
    changed = change(keys, images)
    assert not np.allclose(changed[0], changed[1])
    np.testing.assert_array_equal(changed[:1], change(keys[:1], images[:1]))
    slope = jax.grad(lambda x: jnp.abs(change(keys, x)).sum())(images)
    assert (np.abs(np.asarray(slope)).reshape(3, -1).sum(1) > 0).all()
    assert differentiable(()) is None


class Spectral(nn.Module):
    """PatchGAN in small: a map of logits, spectral norm."""

    @nn.compact
    def __call__(self, x, *, train):
        x = nn.leaky_relu(SpectralConv(8, (3, 3), 2)(x, train=train), 0.2)
        return SpectralConv(1, (3, 3))(x, train=train)[..., 0]


def unit(batch):
    return batch["image"].astype(jnp.float32) / 255


def task_of(game, discriminator=None, **more):
    tx = {"generator": optax.adam(1e-3), "discriminator": optax.adam(4e-3)}
    return adversarial(Generator(), discriminator or Spectral(), tx, latent=5, inputs=unit, game=game, **more)


def test_rounds_penalties_spectral_norm_and_averages_resume_bit_for_bit(tmp_path, monkeypatch):
    game = Game("relativistic", rounds=2, r1=1.0, r2=1.0, lazy=3)
    family = gan()
    job = family.job._replace(task=task_of(game, augment=differentiable(("colour", "translation"))))
    config = dataclasses.replace(Config(), train=dataclasses.replace(Config().train, ema=0.9))
    whole = loop.train(job, config, tmp_path / "whole", quiet=True)
    saved = Checkpoints.save

    def stop_after_save(self, state, progress):
        saved(self, state, progress)
        self.wait()
        raise KeyboardInterrupt

    monkeypatch.setattr(Checkpoints, "save", stop_after_save)
    with pytest.raises(KeyboardInterrupt):
        loop.train(job, config, tmp_path / "cut", quiet=True)
    monkeypatch.undo()
    resumed = loop.go_on(job, config, tmp_path / "cut", quiet=True)
    states = [dataclasses.replace(t.state, key=jax.random.key_data(t.state.key)) for t in (resumed, whole)]
    assert {"generator", "discriminator"} == set(states[0].opt) == set(states[0].extra["ema"]["params"])
    for a, b in zip(*map(jax.tree.leaves, states), strict=True):
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()
    assert resumed.engine.update.count == 1


def test_the_discriminators_step_is_that_of_its_loss_and_lazy_penalties():
    """One SGD step against the gradient of the formula, written out anew; the penalty comes at steps 0, 2, 4, ..."""

    class Linear(nn.Module):
        @nn.compact
        def __call__(self, x, *, train):
            return nn.Dense(1, use_bias=False)(x.reshape(len(x), -1))[:, 0]

    game = Game("least_squares", r1=0.5, lazy=2)
    tx = {"generator": optax.sgd(0.0), "discriminator": optax.sgd(1.0)}
    task = adversarial(Generator(), Linear(), tx, latent=5, inputs=unit, game=game)
    batch = batch_of(gan(), 4)
    state = task.init(jax.random.key(0), batch)
    update = jax.jit(task.update)
    real = np.asarray(unit(batch), np.float64).reshape(4, -1)
    for step in range(3):
        w = np.asarray(state.params["discriminator"]["Dense_0"]["kernel"], np.float64)[:, 0]
        keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.fold_in(state.key, step), jnp.arange(4))
        z = jax.vmap(lambda key: jax.random.normal(key, (5,)))(purpose_keys(keys, 2))
        variables = {"params": state.params["generator"], **state.extra["generator"]}
        fake, _ = Generator().apply(variables, z, train=True, mutable=["batch_stats"])
        fake = np.asarray(fake, np.float64).reshape(4, -1)
        slope = ((real @ w - 1)[:, None] * real + (fake @ w)[:, None] * fake).mean(0)
        if step % 2 == 0:
            slope += 0.5 * 2 * w  # gamma * lazy * d(|w|^2 / 2)
        state, logs = update(state, batch)
        moved = w - np.asarray(state.params["discriminator"]["Dense_0"]["kernel"], np.float64)[:, 0]
        np.testing.assert_allclose(moved, slope, rtol=1e-3, atol=1e-5)
    assert float(logs["diversity"]) >= 0
    assert abs(float(logs["real_sign"])) <= 1


def test_padding_changes_nothing():
    task = task_of(Game("hinge", between=10.0))
    batch = batch_of(gan(), 6)
    state = task.init(jax.random.key(0), batch)
    mask = np.arange(6) < 4
    other = np.where(mask[:, None, None, None], batch["image"], 255).astype(np.uint8)
    update = jax.jit(task.update)
    first, second = (
        update(state, {**batch, "image": image, "mask": mask})[0].params["discriminator"] for image in (batch["image"], other)
    )
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_settings_that_make_no_game_are_refused():
    with pytest.raises(ValueError, match="either"):
        task_of(Game("hinge"), given=unit)
    with pytest.raises(ValueError, match="losses"):
        task_of(Game("unheard_of"))
    with pytest.raises(ValueError, match="adapt"):
        task_of(Game("hinge", adapt=100))
    with pytest.raises(ValueError, match="labels"):
        adversarial(Generator(), Spectral(), {}, inputs=unit, given=unit, labels=lambda batch: batch["label"])


def test_the_chance_of_a_change_follows_the_discriminators_sign():
    """Karras et al., 2020, section 3.1: every four batches up or down by their images over `adapt`, never outside of 0..1."""

    class Sure(nn.Module):
        """Says `bias` of everything."""

        bias: float

        @nn.compact
        def __call__(self, x, *, train):
            return self.param("bias", nn.initializers.constant(self.bias), ()) + 0 * x.sum((1, 2, 3))

    def chances(bias, start):
        tx = {"generator": optax.sgd(0.0), "discriminator": optax.sgd(0.0)}
        augment, game = differentiable(("flip", "colour")), Game("hinge", adapt=64)
        task = adversarial(Generator(), Sure(bias), tx, latent=5, inputs=unit, augment=augment, game=game)
        batch = batch_of(gan(), 4)
        state = task.init(jax.random.key(0), batch)
        state.extra["augment"]["chance"] = jnp.float32(start)
        update, found = jax.jit(task.update), []
        for _ in range(9):
            state, logs = update(state, batch)
            found.append(float(logs["chance"]))
        return found

    assert chances(3.0, 0.0) == [0, 0, 0, 0.25, 0.25, 0.25, 0.25, 0.5, 0.5]
    assert chances(-3.0, 0.3)[-1] == 0
    assert chances(3.0, 0.9)[-1] == 1


def test_where_differences_alone_count_the_side_is_taken_from_the_middle():
    """A relativistic discriminator may add any number to its logits: the chance must not follow it."""

    class Shifted(nn.Module):
        by: float

        @nn.compact
        def __call__(self, x, *, train):
            return nn.Dense(1, use_bias=False)(x.reshape(len(x), -1))[:, 0] + self.by

    sides = []
    for by in (-100.0, 0.0, 100.0):
        tx = {"generator": optax.sgd(0.0), "discriminator": optax.sgd(0.0)}
        game = Game("relativistic", adapt=64)
        task = adversarial(Generator(), Shifted(by), tx, latent=5, inputs=unit, augment=differentiable(("flip",)), game=game)
        batch = batch_of(gan(), 8)
        logs = jax.jit(task.update)(task.init(jax.random.key(0), batch), batch)[1]
        assert abs(float(logs["real_sign"])) == 1 or by == 0
        sides.append(float(logs["real_side"]))
    assert sides[0] == sides[1] == sides[2]


def test_changes_come_as_often_as_their_chance_says():
    change = differentiable(("flip", "colour", "translation", "zoom", "cutout"))
    images = jax.random.uniform(jax.random.key(1), (400, 8, 8, 1))
    keys = jax.random.split(jax.random.key(0), 400)
    np.testing.assert_array_equal(change(keys, images, 0.0), images)
    np.testing.assert_array_equal(change(keys, images, 1.0), change(keys, images))
    only = differentiable(("colour",))(keys, images, 0.3)
    moved = np.abs(np.asarray(only - images)).reshape(400, -1).max(1) > 1e-6
    assert abs(moved.mean() - 0.3) < 4 * np.sqrt(0.3 * 0.7 / 400)


def test_zoom_resamples_as_scipy_does_and_flip_mirrors():
    from scipy import ndimage

    image = np.random.default_rng(0).random((9, 12, 1)).astype(np.float32)
    for k in range(8):
        key = jax.random.key(k)
        both, along, *by = np.asarray(jax.random.normal(key, (4,)), np.float64)
        scales = np.exp2(0.2 * np.array([both, both + along]))
        middle = (np.array(image.shape[:2]) - 1) / 2
        offset = middle - (middle + 0.125 * np.array(by) * image.shape[:2]) / scales
        # Zeros around, which bilinear weights reach into.
        padded = np.pad(image[..., 0], 1)
        places = np.stack(np.meshgrid(*[np.arange(n) for n in image.shape[:2]], indexing="ij")) / scales[:, None, None]
        at = places + offset[:, None, None] + 1
        wanted = ndimage.map_coordinates(padded, at, order=1, mode="constant")
        np.testing.assert_allclose(zoom(key, jnp.array(image))[..., 0], wanted, atol=1e-4)
        mirrored = np.asarray(flip(key, jnp.array(image)))
        assert any(np.array_equal(mirrored, x) for x in (image, image[:, ::-1]))


class Classed(nn.Module):
    """A generator of one pixel value a class, or a discriminator that reads it."""

    judges: bool

    @nn.compact
    def __call__(self, x, *, train):
        value = nn.Dense(1, use_bias=False, name="of_class")(jax.nn.one_hot(x["class"], 2))[:, 0]
        if self.judges:
            return value * x["image"].mean((1, 2, 3))
        return value[:, None, None, None] + jnp.zeros((1, 8, 8, 1)) * x["latent"].sum()


def test_a_conditional_game_gives_both_networks_the_examples_own_class():
    tx = {"generator": optax.sgd(1.0), "discriminator": optax.sgd(1.0)}
    labels = np.array([0, 0, 0, 1])
    task = adversarial(
        Classed(False), Classed(True), tx, latent=3, inputs=unit, labels=lambda batch: batch["label"], game=Game("wasserstein")
    )
    batch = {**batch_of(gan(), 4), "label": labels}
    state = task.init(jax.random.key(0), batch)
    made, judged = (np.asarray(state.params[n]["of_class"]["kernel"], np.float64)[:, 0] for n in ("generator", "discriminator"))
    real = np.asarray(unit(batch), np.float64).mean((1, 2, 3))
    moved, _ = jax.jit(task.update)(state, batch)
    # Wasserstein: D(x, y) = j[y] x, and d/dj[c] of the mean of j[y] (m[y] - x), over examples of class c.
    wanted = [np.sum((made[labels] - real)[labels == c]) / 4 for c in (0, 1)]
    after = {n: np.asarray(moved.params[n]["of_class"]["kernel"])[:, 0] for n in ("generator", "discriminator")}
    np.testing.assert_allclose(judged - after["discriminator"], wanted, rtol=1e-4)
    wanted = [-np.sum(judged[labels][labels == c]) / 4 for c in (0, 1)]
    np.testing.assert_allclose(made - after["generator"], wanted, rtol=1e-4)
    rows = jax.jit(task.evaluate)(state, {**batch, "index": np.arange(4)})
    np.testing.assert_allclose(rows["image"][:, 0, 0, 0], made[labels], rtol=1e-5)
