import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage, stats

from medjax.data.augment import affine, cutout, image_augment, intensity, to_unit

SHAPES = ((8, 8, 1), (9, 12, 2))
STEPS = {
    "affine": affine(rotate=30, scale=0.2, shift=0.1, flip=0.5, quarter_turns=True),
    "intensity": intensity(gamma=0.5, gain=0.3, noise=0.1),
    "cutout": cutout(size=0.4),
}
ZERO = {
    "affine": jax.jit(affine()),
    "intensity": jax.jit(intensity()),
    "no size": jax.jit(cutout(size=0, probability=1)),
    "no chance": jax.jit(cutout(size=0.5, probability=0)),
}
CONTRAST = jax.jit(intensity(gamma=0.5, gain=0.3))
FLIP = {p: jax.jit(affine(flip=p)) for p in (0.5, 1)}
COMPILED = {name: jax.jit(step) for name, step in STEPS.items()}
seeds = st.integers(0, 2**31 - 1)
few = settings(max_examples=20, deadline=None)


def picture(shape, seed=0):
    return np.random.default_rng(seed).uniform(0, 1, shape).astype(np.float32)


def coordinates(height, width):
    y, x = np.mgrid[:height, :width].astype(np.float32)
    return y, x


@few
@given(seeds, st.sampled_from(SHAPES))
def test_zero_settings_are_the_identity(seed, shape):
    image = picture(shape, seed)
    image[0, 0] = 0
    key = jax.random.key(seed)
    np.testing.assert_allclose(ZERO["affine"](key, image), image, atol=1e-5)
    same = ZERO["intensity"](key, image)
    np.testing.assert_allclose(same, image, atol=1e-6)
    assert same[0, 0, 0] == 0
    np.testing.assert_array_equal(ZERO["no size"](key, image), image)
    np.testing.assert_array_equal(ZERO["no chance"](key, image), image)


@few
@given(seeds, st.sampled_from(SHAPES))
def test_a_flip_only_mirrors(seed, shape):
    image, key = picture(shape, seed), jax.random.key(seed)
    np.testing.assert_allclose(FLIP[1](key, image), image[:, ::-1], atol=1e-5)
    either = np.asarray(FLIP[0.5](key, image))
    assert min(np.abs(either - image).max(), np.abs(either - image[:, ::-1]).max()) < 1e-5


def test_flips_come_as_often_as_asked():
    image = jnp.array([[[0.0], [1.0]]])
    flip = jax.jit(jax.vmap(lambda key: affine(flip=0.3)(key, image)))
    flipped = flip(jax.random.split(jax.random.key(0), 4000))[:, 0, 0, 0] > 0.5
    assert stats.binomtest(int(flipped.sum()), 4000, 0.3).pvalue > 1e-3


def test_quarter_turns_permute_the_pixels_of_square_images():
    turns = np.zeros(4, int)
    turn = jax.jit(affine(quarter_turns=True))
    for size in (7, 8):
        image = picture((size, size, 2))
        for seed in range(40):
            got = np.asarray(turn(jax.random.key(seed), image))
            error = [np.abs(got - np.rot90(image, k)).max() for k in range(4)]
            assert min(error) < 1e-4
            turns[int(np.argmin(error))] += 1
    assert (turns > 5).all()


@few
@given(seeds, st.sampled_from(SHAPES), st.sampled_from(list(STEPS)))
def test_shape_dtype_and_determinism(seed, shape, name):
    image, key = picture(shape, seed), jax.random.key(seed)
    out = COMPILED[name](key, image)
    assert out.shape == shape
    assert out.dtype == jnp.float32
    np.testing.assert_array_equal(out, COMPILED[name](key, image))
    assert np.isfinite(out).all()
    assert np.isfinite(COMPILED[name](key, np.zeros_like(image))).all()
    assert np.isfinite(COMPILED[name](key, -image)).all()


@pytest.mark.parametrize("name", STEPS)
def test_other_keys_give_other_images(name):
    image = picture((8, 8, 1))
    outs = {np.asarray(COMPILED[name](jax.random.key(seed), image)).tobytes() for seed in range(40)}
    assert len(outs) > (39 if name != "cutout" else 8)  # half of the cut-outs do nothing


@pytest.mark.parametrize("shape", [(40, 40), (31, 44)])
@pytest.mark.parametrize(
    "how",
    [
        {"rotate": 40},
        {"scale": 0.3},
        {"shift": 0.2},
        {"rotate": 25, "scale": 0.2, "shift": 0.1, "flip": 0.5},
        {"rotate": 25, "scale": 0.2, "shift": 0.1, "flip": 0.5, "quarter_turns": True},
    ],
    ids=str,
)
def test_affine_is_one_affine_map_with_bilinear_interpolation(shape, how):
    """Pictures of the coordinates tell the map that was drawn; SciPy with that map must give the same picture."""
    height, width = shape
    y, x = coordinates(*shape)
    image = picture(shape, 3)
    step = jax.jit(affine(**how))
    flipped = uneven = 0
    for seed in range(12):
        out = np.asarray(step(jax.random.key(seed), np.stack([np.ones(shape, np.float32), y, x, image], -1)), np.float64)
        inside = ndimage.binary_erosion(out[..., 0] > 0.9999, border_value=1)
        assert inside.sum() > 100
        design = np.stack([y[inside], x[inside], np.ones(inside.sum())], 1)
        fit, *_ = np.linalg.lstsq(design, out[inside][:, 1:3], rcond=None)
        np.testing.assert_allclose(design @ fit, out[inside][:, 1:3], atol=2e-4)  # affine, in every pixel
        matrix, offset = fit[:2].T, fit[2]
        expected = ndimage.affine_transform(image.astype(np.float64), matrix, offset, order=1, mode="grid-constant")
        np.testing.assert_allclose(out[..., 3], expected, atol=2e-3)
        # The drawn map lies within what was asked for: matrix = diag(scales, with the mirror) @ rotation.
        scales = np.linalg.norm(matrix, axis=1)
        assert (np.abs(np.log(scales)) <= how.get("scale", 0) + 1e-4).all()
        uneven += abs(np.log(scales[0] / scales[1])) > 1e-3
        rotation = matrix / scales[:, None]
        np.testing.assert_allclose(rotation @ rotation.T, np.eye(2), atol=1e-3)
        flipped += np.linalg.det(rotation) < 0
        angle = np.rad2deg(np.arctan2(-rotation[0, 1], rotation[0, 0]))
        from_quarter = abs((angle + 45) % 90 - 45) if how.get("quarter_turns") else abs(angle)
        assert from_quarter <= how.get("rotate", 0) + 0.05
        centre = np.array([height - 1, width - 1]) / 2
        moved = matrix @ centre + offset - centre
        assert (np.abs(moved) <= how.get("shift", 0) * np.array(shape) + 1e-2).all()
    assert (0 < flipped < 12) == ("flip" in how)
    assert (uneven > 6) == ("scale" in how)  # each axis has a scale of its own


def test_what_comes_from_outside_is_zero():
    shift = jax.jit(affine(shift=0.5))
    shifted = np.stack([np.asarray(shift(jax.random.key(seed), jnp.ones((16, 16, 1)))) for seed in range(8)])
    assert shifted.min() == 0
    assert shifted.max() <= 1 + 1e-6


def test_noise_has_the_standard_deviation_asked_for_and_no_mean():
    image = jnp.full((128, 128, 2), 0.5)
    noise = np.asarray(intensity(noise=0.07)(jax.random.key(1), image)) - 0.5
    np.testing.assert_allclose(noise.std(), 0.07, rtol=0.05)
    assert abs(noise.mean()) < 4 * 0.07 / np.sqrt(noise.size)
    assert stats.kstest(noise.ravel()[::8] / 0.07, "norm").pvalue > 1e-3


@few
@given(seeds)
def test_intensity_is_one_power_times_one_factor(seed):
    image = np.linspace(0.02, 1, 60, dtype=np.float32).reshape(6, 10, 1)
    out = np.asarray(CONTRAST(jax.random.key(seed), image), np.float64)
    power, log_gain = np.polyfit(np.log(image.astype(np.float64).ravel()), np.log(out.ravel()), 1)
    np.testing.assert_allclose(out, np.exp(log_gain) * image.astype(np.float64) ** power, rtol=1e-4)
    assert abs(np.log(power)) <= 0.5 + 1e-4
    assert abs(log_gain) <= 0.3 + 1e-4


def test_a_cut_out_is_a_square_of_the_mean():
    image = picture((20, 20, 3))
    covered = []
    cut = jax.jit(cutout(size=0.3, probability=1.0))
    for seed in range(60):
        out = np.asarray(cut(jax.random.key(seed), image))
        hole = (out != image).any(-1)
        np.testing.assert_allclose(out[hole], image.mean(), rtol=1e-5)
        rows, columns = hole.any(1), hole.any(0)
        np.testing.assert_array_equal(hole, rows[:, None] & columns)
        assert 3 <= rows.sum() <= 7
        assert 3 <= columns.sum() <= 7
        assert np.ptp(np.flatnonzero(rows)) == rows.sum() - 1
        covered.append(hole)
    assert np.any(covered, 0).mean() > 0.9
    sometimes = cutout(size=0.3, probability=0.25)
    done = jax.jit(jax.vmap(lambda key: (sometimes(key, image) != image).any()))(jax.random.split(jax.random.key(9), 2000))
    assert stats.binomtest(int(done.sum()), 2000, 0.25).pvalue > 1e-3


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.uint8([0, 51, 255]), [0, 0.2, 1]),
        (np.uint16([0, 13107, 65535]), [0, 0.2, 1]),
        (np.int16([-32767, 0, 32767]), [-1, 0, 1]),
        (np.float32([-0.5, 0.25, 3]), [-0.5, 0.25, 3]),
    ],
)
def test_integers_become_the_unit_range(value, expected):
    out = to_unit(jnp.asarray(value))
    assert out.dtype == jnp.float32
    np.testing.assert_allclose(out, expected, atol=1e-6)


def test_steps_run_in_order_with_keys_of_their_own():
    def add(key, image):
        return image + jax.random.uniform(key, ())

    def double(key, image):
        return image * 2

    key, image = jax.random.key(5), np.full((3, 3, 1), 51, np.uint8)
    example = {"image": image, "label": 1}
    out = image_augment(add, double, add)(key, example)
    a, b = (jax.random.uniform(jax.random.fold_in(key, i), ()) for i in (0, 2))
    np.testing.assert_allclose(out["image"], np.full((3, 3, 1), (0.2 + a) * 2 + b), rtol=1e-6)
    assert a != b
    assert out["label"] == 1
    assert example["image"] is image  # the argument is not changed


def test_a_batch_is_augmented_example_by_example():
    step = jax.jit(image_augment(affine(rotate=20, flip=0.5), cutout(size=0.4)))
    keys = jax.random.split(jax.random.key(0), 5)
    images = np.random.default_rng(0).integers(0, 255, (5, 8, 8, 1), np.uint8)
    batch = jax.jit(jax.vmap(lambda key, image: step(key, {"image": image})["image"]))(keys, images)
    for i in range(5):
        np.testing.assert_allclose(batch[i], step(keys[i], {"image": images[i]})["image"], atol=1e-5)
