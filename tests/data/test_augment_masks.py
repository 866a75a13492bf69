"""Images and label maps moved together, and the steps for scans: against NumPy, SciPy and PyTorch."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import interpolate, ndimage, stats

from medjax.core import Augment, Task, augmented
from medjax.data import augment
from medjax.data.augment import fields, masks
from medjax.errors import InputError

OFTEN = dict.fromkeys(("rotate_chance", "scale_chance", "elastic_chance", "shift_chance"), 0.6)
PARTS = {"rotate": 40, "scale": (0.7, 1.4), "elastic": 2, "shift": 0.1, "control": 6}
KINDS = {"plane": (12, 15), "volume": (9, 11, 10), "thick": (9, 11, 10)}
VALUES = {
    "rescale": augment.rescale((0.7, 1.3)),
    "contrast": augment.rescale((0.7, 1.3), about_mean=True),
    "retained_gamma": augment.retained_gamma((0.7, 1.5)),
    "inverted_gamma": augment.retained_gamma((0.7, 1.5), invert=True),
    "blur_between": augment.blur_between((0.5, 1)),
    "low_resolution": augment.low_resolution(0.5),
    "bias_field": augment.bias_field(0.8, control=12),
}
FLAT, DEEP = (24, 25), (6, 7, 8)
seeds = st.integers(0, 2**31 - 1)
few = settings(max_examples=10, deadline=None)


@functools.cache
def move(kind, **more):
    """All parts of `spatial`, some of which are drawn; compiled once for each kind."""
    return jax.jit(augment.spatial(**PARTS | OFTEN | {"dummy_2d": kind == "thick"} | more))


@functools.cache
def read(fill=0.0, outside=255):
    def run(image, labels, angles, zoom, offset):
        at = masks.lattice(labels.shape, [0] * labels.ndim, angles, zoom, offset)
        return at, masks.read_pair(image, labels, at, fill, outside)

    return jax.jit(run)


@functools.cache
def compiled_values():
    """All of them at once, which compiles in a fraction of the time; two shapes are used, FLAT and DEEP."""
    return jax.jit(lambda key, image: {name: step(key, image) for name, step in VALUES.items()})


def value(name, key, image):
    return np.asarray(compiled_values()(key, image)[name])


def pair(shape, seed=0, channels=1):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(*shape, channels)).astype(np.float32), rng.integers(0, 4, shape).astype(np.uint8)


@pytest.mark.parametrize("shape", [(9, 9), (8, 8, 8)], ids=str)
@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_turn_by_90_degrees_is_rot90(shape, count):
    image, labels = pair(shape, channels=2)
    for about, plane in enumerate([(0, 1)] if len(shape) == 2 else [(1, 2), (0, 2), (0, 1)]):
        angles = np.zeros({2: 1, 3: 3}[len(shape)], np.float32)
        angles[about] = 90 * count
        _, (out, moved) = read()(image, labels, angles, 1.0, np.zeros(len(shape), np.float32))
        np.testing.assert_allclose(out, np.rot90(image, -count, plane), atol=2e-5)
        np.testing.assert_array_equal(moved, np.rot90(labels, -count, plane))


@pytest.mark.parametrize("kind", KINDS)
@few
@given(seed=seeds)
def test_image_and_labels_move_together(kind, seed):
    """The coordinates, moved as an image, tell where each label was read."""
    shape = KINDS[kind]
    labels = np.zeros(shape, np.uint8)
    labels[tuple(slice(n // 4, 1 - n // 3) for n in shape)] = 3
    grid = np.stack([*np.mgrid[tuple(slice(n) for n in shape)], np.ones(shape), labels], -1).astype(np.float32)
    out, moved = (np.asarray(x) for x in move(kind)(jax.random.key(seed), grid, labels))
    assert moved.dtype == np.uint8
    assert set(np.unique(moved)) <= {0, 3, 255}
    whole = out[..., -2]  # share of what was read that lies inside
    assert (moved[whole < 0.01] == 255).all()
    inside = whole > 0.9999
    assert inside.sum() > 10
    at = out[inside][:, :-2]
    clear = (np.abs(at - np.floor(at) - 0.5) > 1e-3).all(-1)  # not half way between two voxels
    nearest = np.rint(at[clear]).astype(int)
    np.testing.assert_array_equal(moved[inside][clear], labels[tuple(nearest.T)])
    # image = labels as float: away from borders they are the same.
    flat = inside & ((np.abs(out[..., -1]) < 1e-4) | (np.abs(out[..., -1] - 3) < 1e-4))
    np.testing.assert_array_equal(np.rint(out[..., -1])[flat], moved[flat])
    if kind == "thick":
        np.testing.assert_allclose(out[..., 0], np.arange(9)[:, None, None] * whole, atol=1e-5)
        np.testing.assert_array_equal(out[..., 1:-1], np.broadcast_to(out[:1, ..., 1:-1], out[..., 1:-1].shape))


@pytest.mark.parametrize("shape", [KINDS["plane"], KINDS["volume"]], ids=str)
def test_an_affine_move_is_scipy_s_with_its_matrix(shape):
    n = len(shape)
    grid = np.stack([*np.mgrid[tuple(slice(k) for k in shape)]], -1)
    image, labels = pair(shape, 5)
    angles, zoom, offset = np.float32([25, -10, 15][: {2: 1, 3: 3}[n]]), 1.2, np.float32([0.7, -1.1, 0.4][:n])
    at, (out, moved) = read(-2.0, 9)(image, labels, angles, zoom, offset)
    at = [np.asarray(x, float) for x in at]
    design = np.concatenate([grid.reshape(-1, n), np.ones((labels.size, 1))], 1)
    fit, residual, *_ = np.linalg.lstsq(design, np.stack([x.ravel() for x in at], 1), rcond=None)
    assert residual.max() < 1e-6
    rotation = fit[:n].T / zoom
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(n), atol=1e-5)
    centre = (np.array(shape) - 1) / 2
    np.testing.assert_allclose(fit[:n].T @ centre + fit[n], centre + offset, atol=1e-4)
    expected = ndimage.affine_transform(image[..., 0].astype(float), fit[:n].T, fit[n], order=1, mode="grid-constant", cval=-2)
    np.testing.assert_allclose(out[..., 0], expected, atol=1e-3)
    nearest = ndimage.affine_transform(labels, fit[:n].T, fit[n], order=0, mode="grid-constant", cval=9)
    np.testing.assert_array_equal(moved, nearest)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_drawn_is_the_centre_crop_exactly(kind):
    """As a conditional, and as the choice that a plain vmap makes of it."""
    image, labels = pair(KINDS[kind], channels=2)
    size = tuple(n - 3 for n in labels.shape)
    window = tuple(slice(1, 1 + n) for n in size)
    step = move(kind, out=size, **dict.fromkeys(OFTEN, 0), elastic=0)
    for run in (step, jax.vmap(step, (0, None, None))):
        keys = jax.random.key(1) if run is step else jax.random.split(jax.random.key(1), 2)
        out, moved = run(keys, image, labels)
        np.testing.assert_array_equal(out, np.broadcast_to(image[window], out.shape))
        np.testing.assert_array_equal(moved, np.broadcast_to(labels[window], moved.shape))


def test_a_margin_only_adds_what_was_missing():
    """The crop of a large patch moves as the crop alone does, and the margin fills the corners."""
    image, labels = pair((44, 45), 2)
    window = (slice(16, 28), slice(15, 30))
    missing = 0
    for seed in range(8):
        key = jax.random.key(seed)
        out, moved = (np.asarray(x) for x in move("plane", out=KINDS["plane"])(key, image, labels))
        alone, alone_moved = (np.asarray(x) for x in move("plane")(key, image[window], labels[window]))
        found = alone_moved != 255
        np.testing.assert_array_equal(moved[found], alone_moved[found])
        inside = ndimage.binary_erosion(found, iterations=2)
        np.testing.assert_allclose(out[inside], alone[inside], atol=1e-4)
        assert (moved != 255).all()
        missing += (~found).sum()
    assert missing > 50


def test_the_parts_are_drawn_as_often_as_asked_and_within_their_ranges():
    grid = np.stack(np.mgrid[:8, :8], -1).astype(np.float32)
    step = augment.spatial(rotate=30, scale=(0.5, 1.0), rotate_chance=0.3, scale_chance=0.6, out=(2, 2))
    keys = jax.random.split(jax.random.key(0), 2000)
    out = jax.jit(jax.vmap(step, (0, None, None)))(keys, grid, np.zeros((8, 8), np.uint8))[0]
    across = np.asarray(out[:, 1, 0] - out[:, 0, 0], float)  # a step down in the result, in the source
    zoom, angle = np.linalg.norm(across, axis=1), np.rad2deg(np.arctan2(across[:, 1], across[:, 0]))
    turned, zoomed = np.abs(angle) > 1e-3, np.abs(zoom - 1) > 1e-5
    for drawn, chance in ((turned, 0.3), (zoomed, 0.6), (turned & zoomed, 0.18)):
        assert stats.binomtest(int(drawn.sum()), 2000, chance).pvalue > 1e-3
    assert stats.kstest(angle[turned] / 60 + 0.5, "uniform").pvalue > 1e-3
    assert stats.kstest(-np.log2(zoom[zoomed]), "uniform").pvalue > 1e-3


@pytest.mark.parametrize("shape", [KINDS["plane"], KINDS["volume"]], ids=str)
def test_mirrors_are_exact_and_undo_themselves(shape):
    image, labels = pair(shape, channels=2)
    either, sure = jax.jit(augment.mirror((0.5,) * len(shape))), augment.mirror((1, *(0,) * (len(shape) - 1)))
    np.testing.assert_array_equal(sure(jax.random.key(0), image, labels)[0], image[::-1])
    seen = set()
    for seed in range(12):
        key = jax.random.key(seed)
        out, moved = either(key, image, labels)
        found = [a for a in np.ndindex(*(2,) * len(shape)) if np.array_equal(moved, np.flip(labels, np.flatnonzero(a)))]
        assert len(found) == 1
        np.testing.assert_array_equal(out, np.flip(image, np.flatnonzero(found[0])))
        seen.add(found[0])
        for a, b in zip(either(key, out, moved), (image, labels), strict=True):
            np.testing.assert_array_equal(a, b)
    assert len(seen) > 3


def test_the_recipe_draws_anew_for_each_key():
    chances = {
        f"{name}_chance": 0.5 for name in ("rotate", "scale", "noise", "blur", "brightness", "contrast", "low_res", "gamma")
    }
    recipe = augment.nnunet_recipe(3, anisotropic=True, out=(5, 6, 6), start=lambda image: image / 100, **chances)
    image, labels = pair((4, 5, 9, 9))
    batch = {"image": (image * 100).astype(np.int16), "labels": labels, "label": np.zeros((4, 3), np.int8)}
    run, keys = jax.jit(jax.vmap(recipe)), jax.random.split(jax.random.key(4), 4)
    out = run(keys, batch)
    assert np.isfinite(out["image"]).all()
    assert set(np.unique(out["labels"])) <= {0, 1, 2, 3, 255}
    jax.tree.map(np.testing.assert_array_equal, run(keys, batch), out)
    assert not np.array_equal(run(jax.random.split(jax.random.key(5), 4), batch)["image"], out["image"])


@pytest.mark.parametrize(("dims", "thick"), [(2, False), (3, False), (3, True)])
def test_the_recipe_fits_every_kind_of_patch(dims, thick):
    key, space, size = jax.random.key(0), (9, 10, 11)[:dims], (6, 7, 8)[:dims]
    example = {"image": np.zeros((*space, 2), np.int16), "labels": np.zeros(space, np.uint8), "label": np.zeros(3, np.int8)}
    out = jax.eval_shape(augment.nnunet_recipe(dims, thick, out=size, elastic=3), key, example)
    assert (out["image"].shape, out["image"].dtype) == ((*size, 2), np.float32)
    assert (out["labels"].shape, out["labels"].dtype) == (size, np.uint8)
    assert out["label"].shape == (3,)


def test_batches_of_any_size_and_accelerators_get_the_same_numbers(monkeypatch):
    """Examples one by one, in batches of 5 and 2, and the plain `vmap` of other devices."""
    steps = (augment.spatial(rotate=90, rotate_chance=0.5), augment.on_image(augment.sometimes(0.5, VALUES["rescale"])))
    image, labels = pair((5, 9, 9))
    batch, keys = {"image": image, "labels": labels}, jax.random.split(jax.random.key(8), 5)
    run = jax.jit(jax.vmap(augment.pair_augment(*steps)))
    out = run(keys, batch)
    part = run(keys[1:3], jax.tree.map(lambda x: x[1:3], batch))
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b[1:3]), part, out)
    monkeypatch.setattr(masks, "_singly", lambda f: f)
    together = jax.jit(jax.vmap(augment.pair_augment(*steps)))(keys, batch)
    np.testing.assert_allclose(together["image"], out["image"], atol=1e-5)
    np.testing.assert_array_equal(together["labels"], out["labels"])


def test_steps_run_in_order_with_keys_of_their_own_inside_a_task():
    def add(key, image):
        return image + jax.random.uniform(key, ())

    def mark(key, image, labels):
        return image * 2, labels + 1

    example = {"image": np.full((3, 3, 1), 51, np.uint8), "labels": np.ones((3, 3), np.uint8), "id": 7}
    key, one = jax.random.key(5), augment.pair_augment(augment.on_image(add), mark, augment.on_image(add))
    out = one(key, example)
    a, b = (jax.random.uniform(jax.random.fold_in(key, i), ()) for i in (0, 2))
    np.testing.assert_allclose(out["image"], np.full((3, 3, 1), (0.2 + a) * 2 + b), rtol=1e-6)
    np.testing.assert_array_equal(out["labels"], np.full((3, 3), 2))
    assert out["id"] == 7

    class State:
        key, step = jax.random.key(0), 3

    seen = {}
    task = augmented(
        Task(None, lambda state, batch, axis: seen.update(batch), None, None), Augment(one, lambda keys, batch: batch)
    )
    batch = {**jax.tree.map(lambda x: np.stack([x] * 4), example), "mask": np.ones(4, bool)}
    task.update(State, batch)
    assert len(np.unique(np.asarray(seen["image"])[:, 0, 0])) == 4
    assert (np.asarray(seen["labels"]) == 2).all()


@pytest.mark.parametrize("name", VALUES)
@pytest.mark.parametrize("shape", [FLAT, DEEP], ids=str)
def test_value_steps_keep_shape_and_are_finite_on_flat_images(name, shape):
    image = pair(shape, channels=2)[0] * 3
    for seed in range(3):
        key = jax.random.key(seed)
        out = value(name, key, image)
        assert out.shape == image.shape
        assert out.dtype == np.float32
        assert np.isfinite(out).all()
        assert not np.array_equal(out, image)
        np.testing.assert_array_equal(out, value(name, key, image))
        np.testing.assert_allclose(value(name, key, np.zeros_like(image)), 0, atol=1e-5)


def test_factors_lie_as_often_below_1_as_above():
    image = jnp.ones((1, 1, 1))
    keys = jax.random.split(jax.random.key(1), 3000)
    drawn = np.asarray(jax.jit(jax.vmap(lambda key: augment.rescale((0.75, 1.5))(key, image)))(keys)).ravel()
    below = drawn < 1
    assert stats.binomtest(int(below.sum()), 3000, 0.5).pvalue > 1e-3
    assert stats.kstest((drawn[below] - 0.75) * 4, "uniform").pvalue > 1e-3
    assert stats.kstest((drawn[~below] - 1) * 2, "uniform").pvalue > 1e-3


@few
@given(seeds)
def test_contrast_keeps_the_mean_s_place_and_the_range(seed):
    image = pair(FLAT, seed, 2)[0].astype(float)
    out = np.asarray(value("contrast", jax.random.key(seed), image.astype(np.float32)), float)
    rest = (out > image.min() + 1e-4) & (out < image.max() - 1e-4)
    slope, offset = np.polyfit(image[rest], out[rest], 1)
    assert 0.7 <= slope <= 1.3
    np.testing.assert_allclose(slope * image.mean() + offset, image.mean(), atol=1e-4)
    np.testing.assert_allclose(out, np.clip(slope * image + offset, image.min(), image.max()), atol=1e-4)


@pytest.mark.parametrize("invert", [False, True])
@few
@given(seed=seeds)
def test_gamma_is_a_power_in_the_image_s_own_range(invert, seed):
    image = pair(FLAT, seed, 2)[0]
    out = np.asarray(value("inverted_gamma" if invert else "retained_gamma", jax.random.key(seed), image), float)
    x, sign = image.astype(float), -1 if invert else 1
    np.testing.assert_allclose([out.mean(), out.std()], [x.mean(), x.std()], atol=1e-5)
    assert (np.diff(out.ravel()[np.argsort(x.ravel())]) >= -1e-5).all()

    def powered(g):
        u = ((sign * x - (sign * x).min()) / np.ptp(x)) ** g
        return sign * ((u - u.mean()) / u.std() * x.std()) + x.mean()

    errors = [np.abs(powered(g) - out).max() for g in np.linspace(0.7, 1.5, 801)]
    assert min(errors) < 5e-3


def test_blur_is_scipy_s_gaussian_far_from_the_edge():
    image = pair(FLAT, channels=2)[0]
    for seed in range(4):
        key = jax.random.key(seed)
        sigma = float(jax.random.uniform(key, minval=0.5, maxval=1))  # as the step draws it
        expected = ndimage.gaussian_filter(image.astype(float), (sigma, sigma, 0), truncate=8)
        np.testing.assert_allclose(value("blur_between", key, image)[8:-8, 8:-8], expected[8:-8, 8:-8], atol=1e-5)
    np.testing.assert_allclose(value("blur_between", key, np.full_like(image, -3)), -3, atol=1e-5)


@pytest.mark.parametrize("shape", [FLAT, DEEP], ids=str)
def test_low_resolution_is_nearest_down_and_linear_up(shape):
    """Against PyTorch's own two resamplings, at the size that was drawn."""
    torch = pytest.importorskip("torch")
    image = pair(shape, channels=2)[0]
    up = {2: "bilinear", 3: "trilinear"}[len(shape)]
    for seed in range(5):
        key = jax.random.key(seed)
        zoom = float(jax.random.uniform(key, minval=0.5, maxval=1))
        x = torch.from_numpy(np.moveaxis(image, -1, 0)[None].copy())
        coarse = torch.nn.functional.interpolate(x, tuple(round(n * zoom) for n in shape), mode="nearest-exact")
        expected = torch.nn.functional.interpolate(coarse, shape, mode=up, align_corners=False)[0].numpy()
        np.testing.assert_allclose(value("low_resolution", key, image), np.moveaxis(expected, 0, -1), atol=1e-5)


def test_low_resolution_by_hand_and_in_some_axes_only():
    image = np.arange(8, dtype=np.float32).reshape(1, 8, 1) ** 2
    step = augment.low_resolution(0.5, axes=(1,))
    key = next(k for k in map(jax.random.key, range(999)) if round(8 * float(jax.random.uniform(k, minval=0.5, maxval=1))) == 4)
    # Voxels 1, 3, 5, 7 are kept, whose cells' middles lie at 0.5, 2.5, 4.5 and 6.5.
    np.testing.assert_allclose(step(key, image)[0, :, 0], [1, 3, 7, 13, 21, 31, 43, 49])


@pytest.mark.parametrize(("shape", "control"), [((23,), 5), ((16, 9), 4.5)], ids=str)
def test_fields_are_scipy_s_cubic_splines(shape, control):
    for size in shape:
        weights = fields._splines(size, control)
        np.testing.assert_allclose(weights.sum(1), 1, atol=1e-6)
        count = weights.shape[1]
        knots = control * (np.arange(count + 4) - 3)
        expected = interpolate.BSpline.design_matrix(np.arange(size, dtype=float), knots, 3).toarray()
        np.testing.assert_allclose(weights, expected, atol=1e-6)
    key = jax.random.key(0)
    field = np.asarray(fields.smooth_field(key, shape, control, 2))
    assert field.shape == (2, *shape)
    first = np.asarray(jax.random.uniform(key, (2, *(fields._splines(n, control).shape[1] for n in shape)), minval=-1))
    for axis, size in enumerate(shape, 1):
        first = np.moveaxis(np.tensordot(first, fields._splines(size, control), (axis, 1)), -1, axis)
    np.testing.assert_allclose(field, first, atol=1e-6)


@few
@given(seeds)
def test_a_bias_field_is_smooth_positive_and_of_mean_log_0(seed):
    image = np.ones((*FLAT, 2), np.float32)
    image[0, 0] = 0  # no signal: the gain is told from 0
    out = value("bias_field", jax.random.key(seed), image).astype(float)
    np.testing.assert_array_equal(out[..., 0], out[..., 1])
    gain = out[..., 0]
    assert gain[0, 0] == 0
    gain[0, 0] = gain[0, 1] * gain[1, 0] / gain[1, 1]  # nearly what stood there
    assert gain.min() > 0
    log = np.log(gain)
    assert abs(log.mean()) < 1e-4
    assert np.abs(log).max() <= 1.6
    for axis in (0, 1):  # slopes of a spline: at most 2 x bound / control
        assert np.abs(np.diff(log, axis=axis)).max() <= 2 * 0.8 / 12 + 1e-4
        assert np.abs(np.diff(log[1:, 1:], 2, axis=axis)).max() <= 4 * 0.8 / 12**2 + 1e-4


def test_each_channel_draws_for_itself():
    image = jnp.ones((2, 2, 3))
    keys = jax.random.split(jax.random.key(2), 2000)
    out = np.asarray(jax.jit(jax.vmap(lambda key: augment.each_channel(augment.rescale((0.7, 1.3)), 0.4)(key, image)))(keys))
    changed = out[:, 0, 0] != 1
    for c in range(3):
        assert stats.binomtest(int(changed[:, c].sum()), 2000, 0.4).pvalue > 1e-3
    assert stats.binomtest(int((changed[:, 0] & changed[:, 1]).sum()), 2000, 0.16).pvalue > 1e-3
    both = out[changed[:, 0] & changed[:, 1]]
    assert abs(np.corrcoef(both[:, 0, 0, 0], both[:, 0, 0, 1])[0, 1]) < 0.2


def test_settings_that_cannot_be_are_refused():
    for make in (
        lambda: augment.spatial(scale=(1.2, 0.8)),
        lambda: augment.spatial(elastic=13, control=32),
        lambda: augment.low_resolution(0),
        lambda: augment.rescale((0, 1)),
        lambda: augment.retained_gamma((1.5, 0.7)),
        lambda: augment.blur_between((-1, 1)),
        lambda: augment.nnunet_recipe(4),
        lambda: augment.nnunet_recipe(2, anisotropic=True),
    ):
        with pytest.raises(InputError):
            make()
    image, labels = pair((5, 6))
    for step in (augment.spatial(out=(6, 6)), augment.spatial(out=(5, 6, 7)), augment.mirror((0.5,) * 3)):
        with pytest.raises(InputError, match=r"\(5, 6\)|2 axes"):
            step(jax.random.key(0), image, labels)
