"""Pictures and volumes as networks get them: shapes, windows, headers, what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from medjax.core import Augment
from medjax.data.augment import apply_windows
from medjax.errors import InputError
from medjax.formats.image import resize, to_grey
from medjax.tasks import images
from medjax.tasks.images import image_preprocess, preprocess_image, preprocess_volume

BRAIN, BONE = (40.0, 80.0), (600.0, 2800.0)


def example(image, **more):
    return {"id": "case7", "label": 1, "image": image, **more}


def noise(*shape, dtype=np.uint8, high=256):
    return np.random.default_rng(0).integers(0, high, shape).astype(dtype)


def test_the_default_is_a_grey_square():
    picture = noise(50, 30, 3)
    made = preprocess_image(example(picture, patient="p"), size=16)
    np.testing.assert_array_equal(made["image"][..., 0], resize(to_grey(picture), (16, 16)))
    assert made["image"].dtype == np.uint8
    assert made["patient"] == "p"
    np.testing.assert_allclose(made["header"], [np.log(50), np.log(30), np.log(30 / 50), 3, 1], rtol=1e-6)


def test_colour_stays_colour_and_grey_becomes_three_channels():
    picture = noise(50, 30, 3)
    made = preprocess_image(example(picture), size=16, channels="colour")["image"]
    np.testing.assert_array_equal(made, resize(picture, (16, 16)))
    grey = preprocess_image(example(noise(50, 30)), size=16, channels="colour")["image"]
    assert grey.shape == (16, 16, 3)
    np.testing.assert_array_equal(grey, resize(noise(50, 30), (16, 16))[..., None].repeat(3, -1))


def test_deep_colour_keeps_the_balance_of_its_channels():
    picture = np.zeros((4, 4, 3), np.uint16)
    picture[..., 0], picture[..., 1] = 4000, 1000
    picture[0, 0] = 0
    made = preprocess_image(example(picture), size=4, channels="colour")["image"]
    np.testing.assert_array_equal(made[2, 2], [255, 64, 0])


@pytest.mark.parametrize("shape", [(40, 20), (20, 40), (21, 40)])
def test_padding_keeps_the_aspect(shape):
    picture = np.full(shape, 200, np.uint8)
    picture[0, 0] = 7  # the darkest, which the padding takes
    made = preprocess_image(example(picture), size=40, fit="pad")["image"][..., 0]
    bright = made > 100
    height, width = (np.ptp(np.flatnonzero(bright.any(axis))) + 1 for axis in (1, 0))
    assert (height, width) == shape
    assert set(np.unique(made[~bright])) == {7}
    ys, xs = np.nonzero(bright)
    assert abs(ys.mean() - 19.5) <= 0.6
    assert abs(xs.mean() - 19.5) <= 0.6


def test_crops_look_at_grey_and_come_before_padding():
    seen = []

    def crop(grey):
        seen.append(grey.shape)
        return 10, 20, 0, 30

    made = preprocess_image(example(noise(40, 30, 3)), size=30, channels="colour", fit="pad", crop=crop)["image"]
    assert seen == [(40, 30)]
    np.testing.assert_array_equal(made[10:20], noise(40, 30, 3)[10:20])


def test_windows_keep_hounsfield_units():
    ct = np.linspace(-1024, 3000, 64 * 64).reshape(64, 64).astype(np.int16)
    made = preprocess_image(example(ct), size=64, windows=(BRAIN, BONE))["image"]
    assert made.dtype == np.int16
    assert made.shape == (64, 64, 1)
    np.testing.assert_array_equal(made[..., 0], ct.clip(-800, 2000))
    batch = {"image": made[None]}
    x = np.asarray(images.windowed((BRAIN, BONE))(batch))
    assert x.shape == (1, 64, 64, 2)
    for channel, (centre, width) in enumerate((BRAIN, BONE)):
        wanted = np.clip((np.float64(ct) - (centre - width / 2)) / width, 0, 1)
        np.testing.assert_allclose(x[0, ..., channel], 2 * wanted - 1, atol=1e-6)


def test_windows_come_before_augmentation():
    ct = noise(8, 8, 1, dtype=np.int16, high=100)
    seen = []

    def augment(key, e):
        seen.append(e["image"])
        return {**e, "image": e["image"] * 0.5}

    wanted = apply_windows(ct, (BRAIN, BONE))
    for given_augment in (augment, Augment(augment, lambda keys, batch: batch)):
        wrapped = images.window_first(given_augment, (BRAIN, BONE))
        one = wrapped.example if isinstance(wrapped, Augment) else wrapped
        made = one(jax.random.key(0), {"image": jnp.asarray(ct), "label": 1})
        np.testing.assert_allclose(seen[-1], wanted, atol=1e-6)
        # What the network sees of it is on the scale of what it sees in evaluation.
        x = images.windowed((BRAIN, BONE))({"image": made["image"][None]})
        np.testing.assert_allclose(x[0], 2 * (0.5 * wanted) - 1, atol=1e-6)
    assert images.window_first(augment, ()) is augment
    assert images.window_first(None, (BRAIN,)) is None


@pytest.mark.parametrize("make", [preprocess_image, preprocess_volume])
def test_windows_of_bytes_are_refused(make):
    picture = noise(8, 8) if make is preprocess_image else noise(8, 8, 8)
    with pytest.raises(InputError, match=r"case7: CT windows need Hounsfield units, but its pixels are uint8\n"):
        make(example(picture), size=8, windows=(BRAIN,))


@pytest.mark.parametrize("shape", [(5, 8, 8), (8, 8, 4), (8,)])
def test_volumes_are_no_pictures(shape):
    with pytest.raises(InputError, match="case7: has the shape"):
        preprocess_image(example(noise(*shape)), size=8)


@pytest.mark.parametrize("shape", [(8, 8), (8, 8, 3)])
def test_pictures_are_no_volumes(shape):
    with pytest.raises(InputError, match="case7: has the shape"):
        preprocess_volume(example(noise(*shape)), size=8)


def test_a_volume_of_the_right_size_is_left_alone():
    volume = noise(28, 28, 28)
    made = preprocess_volume(example(volume), size=28)
    np.testing.assert_array_equal(made["image"][..., 0], volume)
    np.testing.assert_allclose(made["header"], [np.log(28)] * 3 + [0, 1], rtol=1e-6)


@given(st.tuples(*[st.integers(4, 40)] * 3), st.sampled_from([8, 16]))
@settings(deadline=None, max_examples=20)
def test_volumes_keep_their_field_of_view(shape, size):
    """Trilinear interpolation at the centres of the new voxels, by coordinates."""
    volume = np.random.default_rng(1).integers(0, 256, shape).astype(np.uint8)
    volume[0, 0, 0], volume[-1, -1, -1] = 0, 255
    made = preprocess_volume(example(volume), size=size)["image"]
    assert made.shape == (size, size, size, 1)
    assert made.dtype == np.uint8
    blurred = ndimage.gaussian_filter(np.float64(volume), [max(0, (n / size - 1) / 2) for n in shape], mode="nearest")
    places = np.meshgrid(*[(np.arange(size) + 0.5) * n / size - 0.5 for n in shape], indexing="ij")
    wanted = volume if shape == (size,) * 3 else ndimage.map_coordinates(blurred, places, order=1, mode="nearest")
    np.testing.assert_allclose(made[..., 0], wanted, atol=0.51)


def test_a_smaller_volume_does_not_alias():
    volume = np.zeros((64, 64, 64), np.uint8)
    volume[::2] = 200  # as thin as it can be: only its mean can be seen
    made = preprocess_volume(example(volume), size=16)["image"]
    assert made.std() < 12  # of 100 before
    assert abs(float(made.mean()) - 100) < 3


def test_deep_volumes_are_scaled_by_their_own_range():
    volume = noise(6, 6, 6, dtype=np.uint16, high=4096)
    made = preprocess_volume(example(volume), size=6)["image"][..., 0]
    low, high = int(volume.min()), int(volume.max())
    np.testing.assert_allclose(made, np.round((np.float64(volume) - low) * 255 / (high - low)), atol=1)
    windowed = preprocess_volume(example(volume.astype(np.int16)), size=6, windows=(BONE,))["image"]
    assert windowed.dtype == np.int16


def test_settings_that_volumes_do_not_have():
    assert image_preprocess(size=4, volumes=True)(example(noise(4, 5, 6)))["image"].shape == (4, 4, 4, 1)
    with pytest.raises(ValueError, match="neither cropped nor padded"):
        image_preprocess(size=4, volumes=True, fit="pad")


@pytest.mark.parametrize("shape", [(3, 9, 7, 1), (3, 9, 7, 3), (3, 5, 6, 7, 1)])
def test_standardise(shape):
    image = noise(*shape)
    x = np.asarray(images.standardise(image))
    flat = image.reshape(3, -1) / 255
    wanted = (flat - flat.mean(1, keepdims=True)) / np.sqrt(flat.var(1, keepdims=True) + 1e-6)
    np.testing.assert_allclose(x.reshape(3, -1), wanted, atol=1e-4)


@pytest.mark.parametrize("shape", [(2, 4, 5, 3), (2, 3, 4, 5, 1)])
def test_mirrored_turns_left_and_right(shape):
    image = noise(*shape)
    both = np.asarray(images.mirrored(image))
    np.testing.assert_array_equal(both[:, 0], image)
    np.testing.assert_array_equal(both[:, 1], np.flip(image, -2))


def test_what_a_report_shows():
    grey, colour = noise(2, 4, 5, 1), noise(2, 4, 5, 3)
    np.testing.assert_array_equal(images.to_shown(grey), grey[..., 0])
    np.testing.assert_array_equal(images.to_shown(colour), colour)
    volume = noise(2, 6, 4, 5, 1)
    np.testing.assert_array_equal(images.to_shown(volume), volume[:, 3, ..., 0])
    ct = noise(2, 6, 4, 5, 1, dtype=np.int16, high=120)
    shown = images.to_shown(ct, (BRAIN, BONE))
    np.testing.assert_array_equal(shown, np.round(np.clip(ct[:, 3, ..., 0] / 80, 0, 1) * 255).astype(np.uint8))
