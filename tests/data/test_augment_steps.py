"""Each step against NumPy and SciPy in float64, on images and volumes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage, stats

from medjax.data import augment
from medjax.errors import InputError

SHAPES = ((9, 12, 2), (6, 7, 8, 1))
STEPS = {
    "affine_3d": augment.affine_3d(rotate=(30, 10, 5), scale=0.2, shift=0.1),
    "resized_crop": augment.resized_crop(area=(0.3, 0.9)),
    "shift": augment.shift(2),
    "gamma": augment.gamma(0.4),
    "brightness": augment.brightness(0.3),
    "contrast": augment.contrast(0.4),
    "noise": augment.noise(0.1),
    "blur": augment.blur(1.5),
    "cutout": augment.cutout(size=0.5, probability=1.0),
    "standardise": augment.standardise(),
    "clip_percentiles": augment.clip_percentiles(5, 90),
}
FIXED = ("standardise", "clip_percentiles")  # nothing is drawn
INSIDE = ("affine_3d", "resized_crop", "shift", "gamma", "blur", "cutout", "clip_percentiles")  # 0..1 stays 0..1
ZERO = {
    "affine_3d": augment.affine_3d(),
    "resized_crop": augment.resized_crop(area=(1, 1), aspect=1),
    "shift": augment.shift(0),
    "gamma": augment.gamma(0),
    "brightness": augment.brightness(0),
    "contrast": augment.contrast(0),
    "noise": augment.noise(0),
    "blur": augment.blur(0),
    "cutout": augment.cutout(size=0, probability=1),
    "choose": augment.choose(0, augment.brightness(1)),
}
seeds = st.integers(0, 2**31 - 1)
few = settings(max_examples=15, deadline=None)


@functools.cache
def compiled(name, zero=False):
    return jax.jit((ZERO if zero else STEPS)[name])


@functools.cache
def flip_of(chances):
    return jax.jit(augment.flip(chances))


def picture(shape, seed=0):
    return np.random.default_rng(seed).uniform(0, 1, shape).astype(np.float32)


def shapes_of(name):
    return SHAPES[1:] if name == "affine_3d" else SHAPES


@pytest.mark.parametrize("name", ZERO)
def test_zero_settings_are_the_identity(name):
    for shape in shapes_of(name):
        for seed in range(3):
            image = picture(shape, seed)
            np.testing.assert_allclose(compiled(name, True)(jax.random.key(seed), image), image, atol=1e-5)


@pytest.mark.parametrize("name", STEPS)
@few
@given(seed=seeds)
def test_shape_dtype_range_and_determinism(name, seed):
    for shape in shapes_of(name):
        image, key, step = picture(shape, seed), jax.random.key(seed), compiled(name)
        out = np.asarray(step(key, image))
        assert out.shape == shape
        assert out.dtype == np.float32
        np.testing.assert_array_equal(out, step(key, image))
        for odd in (np.zeros_like(image), -image):
            assert np.isfinite(step(key, odd)).all()
        if name in INSIDE:
            assert out.min() >= -1e-6
            assert out.max() <= 1 + 1e-6


@pytest.mark.parametrize("name", [name for name in STEPS if name not in FIXED])
def test_other_keys_give_other_images(name):
    image = picture(shapes_of(name)[-1])
    outs = {np.asarray(compiled(name)(jax.random.key(seed), image)).tobytes() for seed in range(30)}
    assert len(outs) > 15


@few
@given(seeds)
def test_flips_are_involutions_along_the_axes_asked_for(seed):
    key = jax.random.key(seed)
    for shape, chances in ((SHAPES[0], (0.5, 0.5)), (SHAPES[1], (0.5, 0.5, 0.5))):
        image = picture(shape, seed)
        either = flip_of(chances)
        out = either(key, image)
        np.testing.assert_array_equal(either(key, out), image)
        subsets = [[a for a in range(len(chances)) if mask >> a & 1] for mask in range(2 ** len(chances))]
        assert sum(np.array_equal(out, np.flip(image, subset)) for subset in subsets) == 1


def test_each_axis_flips_with_its_own_probability():
    image = np.arange(8, dtype=np.float32).reshape(2, 2, 2, 1)
    np.testing.assert_array_equal(augment.flip((0, 0, 1))(jax.random.key(0), image), image[:, :, ::-1])
    np.testing.assert_array_equal(augment.flip((1, 0, 0))(jax.random.key(0), image), image[::-1])
    out = jax.vmap(lambda key: augment.flip((0.3, 0.6, 0))(key, image))(jax.random.split(jax.random.key(1), 3000))
    first = np.asarray(out)[:, 0, 0, 0, 0].astype(int)  # 4 and 2 are the strides of the two axes
    for stride, chance in ((4, 0.3), (2, 0.6)):
        assert stats.binomtest(int((first & stride > 0).sum()), 3000, chance).pvalue > 1e-3
    with pytest.raises(InputError, match="flip has 2 probabilities for images with 3 axes"):
        augment.flip((0, 0.5))(jax.random.key(0), image)


@pytest.mark.parametrize("how", [{"rotate": 25}, {"rotate": (20, 0, 0)}, {"scale": 0.2}, {"shift": 0.2},
                                 {"rotate": 15, "scale": 0.1, "shift": 0.05}], ids=str)  # fmt: skip
def test_affine_3d_is_one_affine_map_with_trilinear_interpolation(how):
    """Volumes of the coordinates tell the map that was drawn; SciPy with that map must give the same volume."""
    shape = (14, 16, 19)
    grid = np.stack(np.mgrid[tuple(slice(n) for n in shape)], -1).astype(np.float32)
    image = picture(shape, 3)
    step = jax.jit(augment.affine_3d(**how))
    moved_any = 0
    for seed in range(5):
        out = np.asarray(step(jax.random.key(seed), np.concatenate([np.ones((*shape, 1)), grid, image[..., None]], -1)), float)
        inside = ndimage.binary_erosion(out[..., 0] > 0.9999, border_value=1)
        assert inside.sum() > 200
        design = np.concatenate([grid[inside], np.ones((inside.sum(), 1))], 1).astype(float)
        fit, *_ = np.linalg.lstsq(design, out[inside][:, 1:4], rcond=None)
        np.testing.assert_allclose(design @ fit, out[inside][:, 1:4], atol=2e-4)
        matrix, offset = fit[:3].T, fit[3]
        expected = ndimage.affine_transform(image.astype(float), matrix, offset, order=1, mode="grid-constant")
        np.testing.assert_allclose(out[..., 4], expected, atol=2e-3)
        # matrix = diag(scales) @ rotation, within what was asked for.
        scales = np.linalg.norm(matrix, axis=1)
        assert (np.abs(np.log(scales)) <= how.get("scale", 0) + 1e-3).all()
        rotation = matrix / scales[:, None]
        np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=2e-3)
        assert np.linalg.det(rotation) > 0
        limits = np.broadcast_to(how.get("rotate", 0), 3)
        total = np.rad2deg(np.arccos(np.clip((np.trace(rotation) - 1) / 2, -1, 1)))
        assert total <= limits.sum() + 0.1
        if how.get("rotate") == (20, 0, 0):
            np.testing.assert_allclose(rotation[0], [1, 0, 0], atol=1e-3)
        centre = (np.array(shape) - 1) / 2
        assert (np.abs(matrix @ centre + offset - centre) <= how.get("shift", 0) * np.array(shape) + 1e-2).all()
        moved_any += np.abs(matrix - np.eye(3)).max() + np.abs(offset).max() > 1e-2
    assert moved_any == 5


@pytest.mark.parametrize("shape", [(20, 31), (11, 13, 15)])
def test_a_resized_crop_is_a_box_of_its_share_of_the_image(shape):
    n = len(shape)
    grid = np.stack(np.mgrid[tuple(slice(k) for k in shape)], -1).astype(np.float32)
    image = picture(shape, 1)
    step = jax.jit(augment.resized_crop(area=(0.3, 0.6), aspect=1.3))
    shares = []
    for seed in range(20):
        out = np.asarray(step(jax.random.key(seed), np.concatenate([grid, image[..., None]], -1)), float)
        places, sides = [], []
        for axis in range(n):
            line = np.moveaxis(out[..., axis], axis, 0).reshape(shape[axis], -1)
            np.testing.assert_allclose(line, np.repeat(line[:, :1], line.shape[1], 1), atol=1e-4)
            places.append(line[:, 0])
            middle = line[2:-2, 0]  # the edge's pixels are held inside the image
            slope = (middle[-1] - middle[0]) / (len(middle) - 1)
            np.testing.assert_allclose(np.diff(middle), slope, atol=1e-3)
            assert line.min() >= 0
            assert line.max() <= shape[axis] - 1
            sides.append(slope)
        shares.append(np.prod(sides))
        assert max(sides) / min(sides) < 1.3 + 1e-3
        expected = ndimage.map_coordinates(image.astype(float), np.meshgrid(*places, indexing="ij"), order=1)
        np.testing.assert_allclose(out[..., n], expected, atol=1e-3)
    assert 0.3 - 1e-3 <= min(shares) < 0.4
    assert 0.5 < max(shares) <= 0.6 + 1e-3
    for wrong in ({"area": (0, 1)}, {"area": (0.5, 1.2)}, {"aspect": 0.5}):
        with pytest.raises(InputError, match="resized_crop"):
            augment.resized_crop(**wrong)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_shift_moves_whole_pixels_and_brings_in_zeros(shape):
    image = picture(shape) + 1
    step, n = jax.jit(augment.shift(2)), len(shape) - 1
    padded = np.pad(image, [(2, 2)] * n + [(0, 0)])
    starts = set()
    for seed in range(60):
        out = np.asarray(step(jax.random.key(seed), image))
        found = [
            start
            for start in np.ndindex(*[5] * n)
            if np.array_equal(out, padded[tuple(slice(s, s + k) for s, k in zip(start, shape[:-1], strict=True))])
        ]
        assert len(found) == 1
        starts.add(found[0])
    assert {s[0] for s in starts} == set(range(5))


@pytest.mark.parametrize("shape", [(17, 23, 2), (9, 10, 11, 1)])
def test_blur_is_scipy_s_gaussian_filter_with_mode_nearest(shape):
    image, sigmas = picture(shape), []
    step = jax.jit(augment.blur(2.0))
    for seed in range(12):
        key = jax.random.key(seed)
        # A point far from the edge tells the sigma that was drawn.
        sigma = float(jax.random.uniform(key, maxval=2.0))
        sigmas.append(sigma)
        expected = image.astype(float)
        for c in range(shape[-1]):
            expected[..., c] = ndimage.gaussian_filter(image[..., c].astype(float), sigma, mode="nearest", truncate=4.0)
        np.testing.assert_allclose(step(key, image), expected, atol=2e-6)
    assert max(sigmas) - min(sigmas) > 1


def test_gamma_brightness_and_contrast_are_their_formulas():
    image = picture((12, 14, 1), 2) * 0.9 + 0.05
    flat = image.astype(float).ravel()
    drawn = {"gamma": [], "brightness": [], "contrast": []}
    for seed in range(25):
        key = jax.random.key(seed)
        out = {name: np.asarray(compiled(name)(key, image), float).ravel() for name in drawn}
        power = np.log(out["gamma"]).sum() / np.log(flat).sum()
        np.testing.assert_allclose(out["gamma"], flat**power, rtol=1e-4)
        added = (out["brightness"] - flat).mean()
        np.testing.assert_allclose(out["brightness"], flat + added, atol=1e-6)
        factor = out["contrast"].std() / flat.std()
        np.testing.assert_allclose(out["contrast"], (flat - flat.mean()) * factor + flat.mean(), atol=1e-5)
        for name, value in (("gamma", np.log(power)), ("brightness", added), ("contrast", np.log(factor))):
            drawn[name].append(value)
    for name, limit in (("gamma", 0.4), ("brightness", 0.3), ("contrast", 0.4)):
        assert np.abs(drawn[name]).max() <= limit + 1e-4
        assert min(drawn[name]) < -limit / 3
        assert max(drawn[name]) > limit / 3


def test_noise_is_gaussian_with_a_deviation_up_to_what_is_asked():
    image, step = jnp.full((64, 64, 2), 0.5), jax.jit(augment.noise(0.2))
    parts = [np.asarray(step(jax.random.key(seed), image), float).ravel() - 0.5 for seed in range(20)]
    deviations = np.array([part.std() for part in parts])
    assert deviations.max() <= 0.2 * 1.05
    assert stats.kstest(deviations / 0.2, "uniform").pvalue > 1e-3
    assert stats.kstest(np.concatenate([p[::16] / p.std() for p in parts]), "norm").pvalue > 1e-3


@few
@given(seeds, st.floats(0, 40), st.floats(60, 100))
def test_percentiles_are_numpy_s(seed, low, high):
    image = picture((7, 9, 2), seed) * 5 - 2
    out = augment.clip_percentiles(low, high)(jax.random.key(0), image)
    lowest, highest = np.percentile(image.astype(float), [low, high])
    np.testing.assert_allclose(out, (np.clip(image, lowest, highest) - lowest) / (highest - lowest), atol=1e-5)


def test_flat_images_become_zero():
    flat = np.full((5, 6, 1), 0.7, np.float32)
    for name in FIXED:
        np.testing.assert_allclose(compiled(name)(jax.random.key(0), flat), 0, atol=1e-3)


@few
@given(seeds)
def test_standardised_images_have_mean_0_and_deviation_1(seed):
    image = picture((8, 9, 3), seed) * 40 + 7
    out = compiled("standardise")(jax.random.key(0), image)
    np.testing.assert_allclose(out, (image - image.mean(dtype=float)) / image.std(dtype=float), atol=1e-4)


@few
@given(seeds, st.lists(st.tuples(st.floats(-1000, 1000), st.floats(1, 3000)), min_size=1, max_size=4))
def test_windows_are_the_formula_in_hounsfield_units(seed, windows):
    hu = np.random.default_rng(seed).integers(-1024, 3072, (6, 5, 1)).astype(np.int16)
    out = augment.apply_windows(jnp.asarray(hu), windows)
    expected = np.concatenate([np.clip((hu.astype(float) - (c - w / 2)) / w, 0, 1) for c, w in windows], -1)
    assert out.dtype == jnp.float32
    np.testing.assert_allclose(out, expected, atol=2e-3 if min(w for _, w in windows) < 2 else 3e-4)
    np.testing.assert_array_equal(augment.apply_windows(out, windows), out)  # windowed already


def test_augmentation_can_start_from_windows():
    hu = np.array([[[-1000], [40]], [[80], [3000]]], np.int16)
    windows = ((40, 80), (500, 1000))
    step = augment.image_augment(augment.flip((0, 1)), start=lambda image: augment.apply_windows(image, windows))
    out = step(jax.random.key(0), {"image": jnp.asarray(hu)})["image"]
    np.testing.assert_allclose(out, [[[0.5, 0.04], [0, 0]], [[1, 1], [1, 0.08]]], atol=1e-6)


def test_a_step_is_chosen_as_often_as_asked():
    image = jnp.zeros((3, 3, 1))
    some = augment.choose(0.3, augment.brightness(1))
    out = np.asarray(jax.jit(jax.vmap(lambda key: some(key, image)))(jax.random.split(jax.random.key(2), 3000)))
    assert stats.binomtest(int((out[:, 0, 0, 0] != 0).sum()), 3000, 0.3).pvalue > 1e-3
    added = out[out[:, 0, 0, 0] != 0][:, 0, 0, 0]
    assert stats.kstest((added + 1) / 2, "uniform").pvalue > 1e-3  # what is drawn does not depend on being chosen


def test_a_cut_out_of_a_volume_is_a_box_of_the_mean():
    image = picture((10, 12, 14, 1))
    for seed in range(5):
        out = np.asarray(compiled("cutout")(jax.random.key(seed), image))
        hole = (out != image)[..., 0]
        np.testing.assert_allclose(out[hole], image.mean(), rtol=1e-5)
        axes = [hole.any(tuple(a for a in range(3) if a != axis)) for axis in range(3)]
        np.testing.assert_array_equal(hole, axes[0][:, None, None] & axes[1][:, None] & axes[2])
        assert hole.sum() > 10
