"""Augmentation keeps boxes true: what is moved by it is a picture of filled boxes, found again where the boxes say."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medjax.core import Augment
from medjax.data.augment.boxes import box_augment, cut, mosaic, resample
from medjax.errors import InputError

H, W = 64, 64
KEYS = st.integers(0, 2**31 - 1)


def painted(boxes, size=(H, W)):
    """Dark, with a box of 1 in each channel: a picture in which each box can be measured by itself."""
    image = np.zeros((*size, len(boxes)), np.float32)
    for k, (x0, y0, x1, y1) in enumerate(np.asarray(boxes).astype(int)):
        image[y0:y1, x0:x1, k] = 1
    return image


def measured(image):
    """The boxes of a `painted` picture, by half its brightness; NaN where nothing is left."""
    found = []
    for k in range(image.shape[-1]):
        y, x = np.nonzero(image[..., k] > 0.5)
        found.append([x.min(), y.min(), x.max() + 1, y.max() + 1] if len(x) else [np.nan] * 4)
    return np.array(found, float)


BOXES = np.array([[20, 22, 44, 40], [8, 30, 20, 52]], np.float32)


def example(boxes=BOXES):
    image = painted(boxes) * 255
    return {
        "image": image.astype(np.uint8),
        "boxes": jnp.asarray(boxes),
        "category": jnp.arange(len(boxes)),
        "extent": jnp.array([H, W], jnp.float32),
        "label": jnp.zeros(3),
    }


ALL = {"shift": 0.3, "scale": (0.6, 1.8), "aspect": 0.2, "mirror": (0.5, 0.5), "transpose": 0.5}
MOVE = jax.jit(box_augment(**ALL, least=0.3))


@given(KEYS)
@settings(max_examples=60, deadline=None)
def test_boxes_lie_where_the_picture_has_them(seed):
    # The mean of the picture is what comes from outside, and is taken off to be measured.
    made = MOVE(jax.random.key(seed), example())
    image, boxes, kind = (np.asarray(made[name]) for name in ("image", "boxes", "category"))
    there = measured(image)
    for k in range(len(BOXES)):
        if kind[k] == -1:
            assert (boxes[k] == 0).all()
            assert np.isnan(there[k]).all() or np.ptp(there[k][[0, 2]]) <= 2 or np.ptp(there[k][[1, 3]]) <= 2
        elif (boxes[k, 2:] - boxes[k, :2]).min() > 3:
            np.testing.assert_allclose(there[k], boxes[k], atol=1.6)
    inside = boxes[kind != -1]
    assert (inside >= 0).all()
    assert (inside[:, 2:] <= W).all()
    assert (inside[:, 2:] > inside[:, :2]).all()
    assert set(kind) <= {0, 1, -1, -2}


@given(KEYS)
@settings(max_examples=30, deadline=None)
def test_mirrors_alone_are_exact(seed):
    made = box_augment(mirror=(0.5, 0.5), transpose=0.5)(jax.random.key(seed), example())
    np.testing.assert_array_equal(measured(np.asarray(made["image"])), made["boxes"])
    area = lambda b: (b[:, 2:] - b[:, :2]).prod(1)  # noqa: E731
    np.testing.assert_array_equal(area(np.asarray(made["boxes"])), area(BOXES))


def test_nothing_is_changed_where_nothing_is_asked():
    made = box_augment(mirror=(0, 0))(jax.random.key(0), example())
    np.testing.assert_array_equal(made["image"], example()["image"] / np.float32(255))
    np.testing.assert_array_equal(made["boxes"], BOXES)
    assert made["category"].tolist() == [0, 1]


def test_padding_and_what_is_not_to_be_learnt_stay_so():
    boxes = np.concatenate([BOXES, np.zeros((1, 4), np.float32)])
    given = {**example(), "boxes": jnp.asarray(boxes), "category": jnp.array([-2, 1, -1])}
    made = MOVE(jax.random.key(3), given)
    assert made["category"][0] in (-2, -1)
    assert made["category"][2] == -1


def test_boxes_cut_at_an_edge():
    frame = jnp.array([0.0, 0, 10, 10])
    boxes = jnp.array([[-5.0, 0, 5, 4], [-9.0, 0, 1, 4], [12.0, 0, 20, 4], [2.0, 2, 4, 4]])
    found, kind = cut(boxes, jnp.array([0, 1, 2, 3]), frame, 0.3)
    assert kind.tolist() == [0, -2, -1, 3]
    assert found.tolist() == [[0, 0, 5, 4], [0, 0, 1, 4], [0, 0, 0, 0], [2, 2, 4, 4]]


def test_resampling_is_scipys():
    from scipy import ndimage

    rng = np.random.default_rng(0)
    image = rng.random((20, 24, 2)).astype(np.float32)
    factor, offset = np.array([1.3, 0.8], np.float32), np.array([-2.0, 3.5], np.float32)
    made = np.asarray(resample(jnp.asarray(image), factor, offset, jnp.array([20.0, 24.0])))
    y, x = ((np.arange(n) + 0.5 - o) / f - 0.5 for n, f, o in zip((20, 24), factor, offset, strict=True))
    for c in range(2):
        mean = image[..., c].mean()
        at = np.meshgrid(y, x, indexing="ij")
        # A constant border of one pixel of the mean goes over into the outside linearly, as ours does.
        padded = np.pad(image[..., c] - image.mean((0, 1))[c], 1)
        theirs = ndimage.map_coordinates(padded, [a + 1 for a in at], order=1, mode="constant", cval=0.0)
        np.testing.assert_allclose(made[..., c], theirs + mean, atol=1e-4)


def test_the_margin_of_a_letterboxed_picture_is_its_mean():
    image = np.zeros((H, W, 1), np.float32)
    image[:32] = 0.6
    given = {**example(), "image": image, "extent": jnp.array([32.0, W])}
    made = box_augment(shift=0.0, scale=(0.5, 0.5), mirror=(0, 0))(jax.random.key(0), given)
    np.testing.assert_allclose(made["image"], 0.6, atol=1e-5)


def batch(n=4):
    boxes = np.tile(BOXES, (n, 1, 1)) + np.arange(n, dtype=np.float32)[:, None, None]
    images = np.stack([painted(b) * (0.9 + 0.02 * i) for i, b in enumerate(boxes)])
    return {
        "image": jnp.asarray(images),
        "boxes": jnp.asarray(np.concatenate([boxes, np.zeros((n, 6, 4), np.float32)], 1)),
        "category": jnp.asarray(np.concatenate([np.tile([0, 1], (n, 1)), np.full((n, 6), -1)], 1)),
        "extent": jnp.full((n, 2), 64.0),
        "mask": jnp.ones(n, bool),
    }


def test_a_mosaic_shows_each_box_where_it_says():
    step = mosaic(lambda key, example: example, chance=1.0)
    assert isinstance(step, Augment)
    made = step.batch(jax.random.split(jax.random.key(1), 8), batch(8))
    image = np.asarray(made["image"])
    learnt = 0
    for i in range(8):
        for (x0, y0, x1, y1), k in zip(np.asarray(made["boxes"][i]), np.asarray(made["category"][i]), strict=True):
            if k < 0:
                continue
            learnt += 1
            part = image[i, round(y0) : round(y1), round(x0) : round(x1), k]
            assert (part > 0.5).mean() > 0.95
    assert learnt > 8
    for name in ("boxes", "category", "image"):
        assert made[name].shape == batch(8)[name].shape


def test_a_mosaic_that_is_not_drawn_changes_nothing():
    given = batch(4)
    made = mosaic(lambda key, example: example, chance=0.0).batch(jax.random.split(jax.random.key(1), 4), given)
    for name in given:
        np.testing.assert_array_equal(made[name], given[name])


def test_a_mosaic_of_any_count_of_devices_is_the_same():
    keys, given = jax.random.split(jax.random.key(2), 8), batch(8)
    step = mosaic(lambda key, example: example, chance=0.7).batch
    whole = step(keys, given)
    half = [step(keys[part], {n: x[part] for n, x in given.items()}) for part in (slice(0, 4), slice(4, 8))]
    for name in ("image", "boxes", "category"):
        np.testing.assert_array_equal(whole[name], np.concatenate([h[name] for h in half]))


def test_settings_that_cannot_be_are_refused():
    with pytest.raises(InputError, match="scale"):
        box_augment(scale=(1.5, 1.0))
    with pytest.raises(InputError, match="four neighbours"):
        mosaic(lambda key, example: example).batch(jax.random.split(jax.random.key(0), 6), batch(6))
    broad = {**example(), "image": np.zeros((32, 64, 2), np.uint8)}
    with pytest.raises(InputError, match="transposed"):
        box_augment(transpose=0.5)(jax.random.key(0), broad)
