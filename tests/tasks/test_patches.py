"""Volumes to patches and windows, and back: against direct sums, SciPy, and themselves turned round."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from medjax.cases import Cases, Ragged, Varying
from medjax.tasks import volumes
from medjax.tasks.volumes import Geometry

SIDES = st.tuples(*[st.integers(1, 13)] * 3)


def case(image, mask, **facts):
    label = np.array([1], np.int8)
    known = {"id": "a", "patient": "", "label": label, "spacing": np.ones(3), "path": "a.nii"}
    return {**known, **facts, "image": image, "mask": mask}


@given(shape=SIDES, out=SIDES, seed=st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_linear_resizing_is_scipys(shape, out, seed):
    array = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    wanted = array.astype(np.float64)
    for axis, m in enumerate(out):
        n = shape[axis]
        at = np.clip((np.arange(m) + 0.5) * n / m - 0.5, 0, n - 1)
        wanted = np.apply_along_axis(lambda line, at=at: ndimage.map_coordinates(line, [at], order=1), axis, wanted)
    np.testing.assert_allclose(volumes.resize_linear(array, out), wanted, atol=1e-5)


@given(shape=SIDES, seed=st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_labels_come_back_from_three_times_the_grid(shape, seed):
    labels = np.random.default_rng(seed).integers(0, 3, shape).astype(np.uint8)
    finer = volumes.resize_labels(labels, tuple(3 * n for n in shape))
    assert set(np.unique(finer)) <= set(np.unique(labels))
    np.testing.assert_array_equal(finer[1::3, 1::3, 1::3], labels)  # where the centres fall together


@given(shape=SIDES, patch=st.tuples(*[st.integers(1, 7)] * 3), step=st.sampled_from([0.3, 0.5, 1.0]), seed=st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_joined_windows_are_the_weighted_mean(shape, patch, step, seed):
    rng = np.random.default_rng(seed)
    geometry = Geometry(patch, step=step)
    steps = [1.0 if p == 1 else step for p in patch]
    starts = [volumes.window_starts(n, p, s) for n, p, s in zip(shape, patch, steps)]
    outputs = [rng.random((*patch, 2)).astype(np.float32) for _ in itertools.product(*starts)]
    total, weight = np.zeros((*shape, 2)), np.zeros((*shape, 1))
    bells = [np.maximum(np.exp(-0.5 * ((np.arange(p) - (p - 1) / 2) / (p / 8)) ** 2), 1e-4) for p in patch]
    for start, out in zip(itertools.product(*starts), outputs):
        for at in itertools.product(*map(range, patch)):
            place = tuple(a + s for a, s in zip(at, start))
            if all(0 <= i < n for i, n in zip(place, shape)):
                w = np.prod([bell[i] for bell, i in zip(bells, at)])
                total[place] += w * out[at]
                weight[place] += w
    assert (weight > 0).all(), "a voxel that no window sees"
    squeezed = [out[0] if patch[0] == 1 else out for out in outputs]
    joined = np.stack(list(volumes.join_planes(iter(squeezed), shape, geometry)))
    np.testing.assert_allclose(joined, total / weight, rtol=1e-3, atol=1e-5)


@given(shape=SIDES, out=SIDES, seed=st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_planes_become_labels_as_the_whole_would(shape, out, seed):
    scores = np.random.default_rng(seed).random((*shape, 3)).astype(np.float32)
    found = volumes.planes_to_labels(iter(scores), shape, out)
    whole = volumes.resize_linear(scores, out)
    top = np.sort(whole, -1)
    sure = top[..., -1] - top[..., -2] > 1e-5
    np.testing.assert_array_equal(found[sure], whole.argmax(-1)[sure])


def prepared(shape=(9, 20, 17), patch=(4, 8, 8), **geometry):
    rng = np.random.default_rng(3)
    image = rng.integers(1, 900, (*shape, 2)).astype(np.uint16)
    mask = (rng.random(shape) < 0.02).astype(np.uint8)
    made = volumes.preprocess_volume(case(image, mask), geometry=Geometry(patch, **geometry), normalise=("zscore", "range"))
    columns = {n: Ragged.of([v.array]) if isinstance(v, Varying) else np.stack([v]) for n, v in made.items()}
    return image, mask, Cases(columns)


def test_channels_are_brought_to_int16_by_their_own_rule():
    image, _, cases = prepared()
    made = cases["image"][0].astype(np.float64)
    assert cases["image"].flat.dtype == np.int16
    first = image[..., 0].astype(np.float64)
    np.testing.assert_allclose(made[..., 0], (first - first.mean()) / first.std() * volumes.UNIT, atol=0.51)
    np.testing.assert_allclose(made[..., 1], image[..., 1] / 65535 * 2000 - 1000, atol=0.51)


def test_zscores_leave_out_a_background_of_zeros_and_it_is_cropped():
    image = np.zeros((6, 10, 10, 1), np.int16)
    image[1:4, 2:9, 3:7, 0] = np.random.default_rng(0).integers(50, 90, (3, 7, 4))
    image[2, 4, 4] = 0
    mask = np.zeros(image.shape[:3], np.uint8)
    made = volumes.preprocess_volume(case(image, mask), geometry=Geometry((1, 4, 4)), normalise=("zscore",))
    assert made["box"].tolist() == [[1, 4], [2, 9], [3, 7]]
    assert made["truth"].array.shape == (6, 10, 10)
    assert made["image"].array.shape == (3, 7, 4, 1)


@pytest.mark.parametrize("size", [6, 12])
def test_tissue_means_the_same_whatever_air_is_around_it(size):
    rng = np.random.default_rng(1)
    image = rng.rayleigh(20, (4, 24, 24, 1))
    inside = np.s_[:, 6 : 6 + size, 6 : 6 + size]
    tissue = image[inside] = rng.normal(200, 15, (4, size, size, 1))
    mask = np.zeros(image.shape[:3], np.uint8)
    made = volumes.preprocess_volume(case(image.astype(np.float32), mask), geometry=Geometry((1, 8, 8)), normalise=("tissue",))
    want = (tissue - tissue.mean()) / tissue.std() * volumes.UNIT
    np.testing.assert_allclose(made["image"].array[inside], want, atol=1)


def test_ct_keeps_its_units_and_its_air():
    image = np.full((3, 8, 8, 1), -1000, np.int16)
    image[:, 2:5] = 40
    made = volumes.preprocess_volume(
        case(image, np.zeros((3, 8, 8), np.uint8)), geometry=Geometry((1, 4, 4)), normalise=("ct",)
    )
    np.testing.assert_array_equal(made["image"].array, image)


@pytest.mark.parametrize("patch", [(4, 8, 8), (12, 32, 8), (1, 8, 8)])
def test_a_cut_is_what_stands_in_the_volume(patch):
    _, _, cases = prepared(patch=patch, margin=1.0)
    many = cases.take(np.zeros(40, int))
    made = volumes.cut(many, np.random.default_rng(0), geometry=Geometry(patch, margin=1.0), fill=(7, -7))
    again = volumes.cut(many, np.random.default_rng(0), geometry=Geometry(patch, margin=1.0), fill=(7, -7))
    np.testing.assert_array_equal(made["image"], again["image"])
    whole, labels = cases["image"][0], cases["labels"][0]
    x = made["image"] if patch[0] > 1 else made["image"][:, None]
    y = made["labels"] if patch[0] > 1 else made["labels"][:, None]
    outside = y == 255
    assert outside.any() == any(p > n for p, n in zip(patch, labels.shape))
    assert (x[outside] == (7, -7)).all()
    # Every value that is inside stands somewhere in the volume, and the rows of a patch lie beside each other there.
    rows = {tuple(row) for row in whole.reshape(-1, 2)}
    assert {tuple(row) for row in x[~outside].reshape(-1, 2)} <= rows
    assert ((y == 1).reshape(len(y), -1).any(1)).mean() > 1 / 3


def test_a_case_without_foreground_is_cut_all_the_same():
    image = np.random.default_rng(0).integers(1, 9, (5, 9, 9, 1)).astype(np.int16)
    geometry = Geometry((2, 4, 4), foreground=1.0)
    made = volumes.preprocess_volume(case(image, np.zeros((5, 9, 9), np.uint8)), geometry=geometry, normalise=("zscore",))
    columns = {n: Ragged.of([v.array]) if isinstance(v, Varying) else np.stack([v]) for n, v in made.items()}
    cut = volumes.cut(Cases(columns), np.random.default_rng(0), geometry=geometry, fill=(0,))
    assert cut["image"].shape == (1, *geometry.cut_shape(), 1)


def test_windows_cover_the_volume_and_bring_its_labels():
    _, _, cases = prepared()
    geometry = Geometry((4, 8, 8))
    outputs = (
        np.eye(2, dtype=np.float32)[np.minimum(w["labels"], 1)]
        for w in volumes.windows(cases, 0, False, geometry=geometry, fill=(0, 0))
    )
    shape = cases["labels"][0].shape
    found = volumes.planes_to_labels(volumes.join_planes(outputs, shape, geometry), shape, shape)
    np.testing.assert_array_equal(found, cases["labels"][0])


def test_a_target_spacing_changes_the_shape_by_it():
    geometry = Geometry((1, 4, 4), spacing=(2.0, 1.0, 0.5))
    assert volumes.target_shape((10, 10, 10), np.array([1.0, 1.0, 1.0]), geometry) == (5, 10, 20)
    assert volumes.target_shape((10, 10, 10), np.array([np.nan] * 3), geometry) == (10, 10, 10)
