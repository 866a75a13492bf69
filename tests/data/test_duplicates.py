import csv
import io

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from medjax.data.duplicates import SIDE, describe, near_copies, same_value
from medjax.formats.image import read_image, to_grey

TURNS = {
    "mirrored": lambda x: x[:, ::-1],
    "upside down": lambda x: x[::-1],
    "turned 90": lambda x: np.rot90(x, 1),
    "turned 180": lambda x: np.rot90(x, 2),
    "turned 270": lambda x: np.rot90(x, 3),
    "transposed": lambda x: x.T,
    "antitransposed": lambda x: np.rot90(x, 2).T,
}


def texture(seed, shape=(96, 96)):
    """A disc of coarse and fine texture of its own on black: all such pictures share their outline, as heads do."""
    rng = np.random.default_rng(seed)
    noise = sum(ndimage.zoom(rng.normal(size=(s, s)), [n / s for n in shape], order=1) for s in (8, 24))
    y, x = (np.linspace(-1, 1, n) for n in shape)
    disc = (y[:, None] ** 2 + x**2) < 0.8
    return np.clip(disc * (110 + 35 * noise), 0, 255).astype(np.uint8)


def recompressed(image):
    data = io.BytesIO()
    Image.fromarray(image).save(data, "JPEG", quality=60)
    return np.array(Image.open(data))


def resized(image):
    height, width = image.shape
    small = Image.fromarray(image).resize((int(0.8 * width), int(0.8 * height)), Image.Resampling.BILINEAR)
    return np.array(small.resize((width, height), Image.Resampling.BILINEAR))


def gamma(power):
    return lambda image: (255 * (image / 255) ** power).astype(np.uint8)


CHANGES = {
    "recompressed": recompressed,
    "resized": resized,
    "gamma 0.8": gamma(0.8),
    "gamma 1.4": gamma(1.4),
    "dimmed": lambda x: (x * 0.6).astype(np.uint8),
    "16 bits": lambda x: x.astype(np.uint16) * 257,
    "in colour": lambda x: np.stack([x] * 3, -1),
}


def joined(images, **how):
    return near_copies(np.stack([describe(image) for image in images]), **how)


@pytest.mark.parametrize("turn", TURNS)
@pytest.mark.parametrize("seed", range(3))
def test_turned_copies_are_found_but_not_in_upright_mode(turn, seed):
    image = texture(seed)
    images = [image, TURNS[turn](image), texture(100 + seed)]
    assert joined(images).tolist() == [0, 0, 1]
    assert joined(images, turned=False).tolist() == [0, 1, 2]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("turned", [True, False])
def test_changed_copies_are_found_in_both_modes(change, turned):
    for seed in range(4):
        image = texture(seed)
        assert joined([image, CHANGES[change](image), texture(50 + seed)], turned=turned).tolist() == [0, 0, 1]


def test_a_copy_may_be_changed_and_turned():
    image = texture(0, (96, 80))
    changed = resized(recompressed(np.ascontiguousarray(np.rot90(image[:, ::-1]))))
    assert joined([image, changed]).tolist() == [0, 0]


def test_independent_textures_are_not_joined_although_they_share_an_outline():
    images = [texture(seed) for seed in range(80)]
    flat = np.stack([image.ravel() for image in images]).astype(float)
    assert np.median(np.corrcoef(flat)) > 0.5
    assert joined(images).tolist() == list(range(80))


def test_chains_join_and_blocks_do_not_matter():
    first, second = texture(1), texture(2)
    images = [first, second, first[::-1], texture(3), recompressed(second), np.rot90(first), gamma(0.8)(texture(3))]
    expected = [0, 1, 0, 2, 1, 0, 2]
    for block in (1, 2, 3, 7, 1024):
        assert joined(images, block=block).tolist() == expected


def test_descriptors_have_length_one_and_mean_zero():
    for shape in ((64, 64), (97, 130), (300, 64)):
        d = describe(texture(4, shape))
        assert d.shape == (SIDE * SIDE,)
        assert d.dtype == np.float32
        assert abs(d.mean()) < 1e-6
        np.testing.assert_allclose(np.linalg.norm(d), 1, rtol=1e-5)


def test_descriptor_is_the_written_formula():
    image = texture(5)
    means = image.astype(float).reshape(SIDE, 3, SIDE, 3).mean((1, 3))
    fine = np.sqrt(means) - ndimage.gaussian_filter(np.sqrt(means), SIDE / 16)
    fine -= fine.mean()
    np.testing.assert_allclose(describe(image).reshape(SIDE, SIDE), fine / np.linalg.norm(fine), atol=2e-6)


def test_a_black_image_is_no_copy_of_anything():
    black = np.zeros((64, 64), np.uint8)
    d = describe(black)
    assert np.isfinite(d).all()
    assert joined([black, texture(0, (64, 64))]).tolist() == [0, 1]


def test_no_images_have_no_groups():
    assert near_copies(np.zeros((0, SIDE * SIDE), np.float32)).shape == (0,)


def test_same_value_joins_equal_rows_but_no_empty_text():
    i, j = same_value(np.array(["a", "", "b", "a", ""]))
    assert set(zip(i.tolist(), j.tolist(), strict=True)) - {(k, k) for k in range(5)} == {(3, 0)}
    i, j = same_value(np.array([0, 2, 0]))
    assert set(zip(i.tolist(), j.tolist(), strict=True)) - {(k, k) for k in range(3)} == {(2, 0)}


@pytest.mark.realdata
def test_few_chest_radiographs_are_joined(real_data):
    with open(real_data / "cxr_lungs" / "metadata.csv", newline="") as handle:
        rows = list(csv.DictReader(handle))
    images = [shrunk(real_data / "cxr_lungs" / "images" / f"{row['name']}.png") for row in rows]
    patient = np.array([row["patient_id"] for row in rows])
    near = joined(images)
    sizes = np.bincount(near)
    assert len(rows) > 300
    assert (sizes > 1).sum() <= 10
    across = [k for k in np.flatnonzero(sizes > 1) if len(set(patient[near == k])) > 1]
    assert len(across) <= 10


@pytest.mark.realdata
def test_few_brain_slices_are_joined(real_data):
    files = sorted((real_data / "brain_tumor4").glob("*/*/*.png"))
    assert len(files) > 300
    sizes = np.bincount(joined([read_image(file) for file in files]))
    assert sizes[sizes > 1].sum() <= 6


def shrunk(path):
    """A large film as the 64 to 256 pixels a side that it would be prepared to."""
    image = Image.fromarray(to_grey(read_image(path)))
    image.thumbnail((256, 256), Image.Resampling.BOX)
    return np.array(image)
