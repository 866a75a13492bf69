import numpy as np
import pytest
import sklearn.metrics as sk
from hypothesis import given, settings
from hypothesis import strategies as st

from medjax import metrics
from medjax.metrics import segmentation

ALL = ("dice", "iou", "hd95", "nsd", "volume", "volume_pred", "volume_error")
SPACINGS = (None, (1.0, 1.0, 1.0), (2.5, 0.7, 0.9))


def border_points(mask):
    """Points [n, 3] with a face neighbour outside, voxel by voxel; no border along an axis of length 1."""
    points = []
    for at in np.argwhere(mask):
        for axis in range(3):
            for side in (-1, 1):
                other = at.copy()
                other[axis] += side
                beyond = not 0 <= other[axis] < mask.shape[axis]
                if mask.shape[axis] > 1 and (beyond or not mask[tuple(other)]):
                    points.append(tuple(at))
    return np.array(sorted(set(points)), float)


def brute(truth, pred, spacing, tolerance):
    """(hd95, nsd) of two masks that are not empty, from all distances between all border points."""
    step = np.ones(3) if spacing is None else np.array(spacing)
    a, b = border_points(truth) * step, border_points(pred) * step
    apart = np.sqrt(np.square(a[:, None] - b[None]).sum(-1))
    there, back = apart.min(1), apart.min(0)
    near = np.concatenate([there, back]) <= tolerance + 1e-9
    return max(np.percentile(there, 95), np.percentile(back, 95)), near.mean()


def draw(seed, classes=3, shape=None, smooth=True):
    rng = np.random.default_rng(seed)
    shape = shape or tuple(rng.integers(1, 9, 3) + (0, 1, 1))
    truth = rng.integers(0, classes, shape)
    if smooth:
        truth = np.repeat(truth, 2, axis=2)[..., : shape[2]]
    pred = np.where(rng.random(shape) < 0.3, rng.integers(0, classes, shape), truth)
    return truth.astype(np.uint8), pred.astype(np.uint8)


def cube(low, high, shape=(12, 12, 12), value=1):
    labels = np.zeros(shape, np.uint8)
    labels[tuple(slice(a, b) for a, b in zip(low, high))] = value
    return labels


def same(a, b, names=ALL):
    for name in names:
        np.testing.assert_allclose(a[name], b[name], rtol=1e-9, atol=1e-12, err_msg=name)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(SPACINGS), st.sampled_from([0.0, 1.0, 1.7]), st.booleans())
def test_surfaces_agree_with_all_pairs_of_points(seed, spacing, tolerance, tree):
    truth, pred = draw(seed)
    # Both ways to the nearest border, whatever the size of the masks.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(segmentation, "_SPARSE", 0 if tree else 10**9)
        found = metrics.measure_case(truth, pred, classes=3, spacing=spacing, tolerance=tolerance)
    for c in (1, 2):
        if (truth == c).any() and (pred == c).any():
            hd95, nsd = brute(truth == c, pred == c, spacing, tolerance)
            assert found["hd95"][c - 1] == pytest.approx(hd95, abs=1e-9)
            assert found["nsd"][c - 1] == pytest.approx(nsd, abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_overlap_agrees_with_sklearn(seed):
    truth, pred = draw(seed, classes=4, shape=(5, 7, 6))
    found = metrics.measure_case(truth, pred, classes=4)
    f1 = sk.f1_score(truth.ravel(), pred.ravel(), labels=[1, 2, 3], average=None)
    jaccard = sk.jaccard_score(truth.ravel(), pred.ravel(), labels=[1, 2, 3], average=None)
    np.testing.assert_allclose(found["dice"], f1, rtol=1e-12)
    np.testing.assert_allclose(found["iou"], jaccard, rtol=1e-12)
    np.testing.assert_array_equal(found["volume"], [(truth == c).sum() for c in (1, 2, 3)])
    np.testing.assert_array_equal(found["volume_error"], [(pred == c).sum() - (truth == c).sum() for c in (1, 2, 3)])


def test_a_shifted_cube_by_hand():
    truth, pred = cube((2, 2, 2), (6, 6, 6)), cube((3, 2, 2), (7, 6, 6))
    found = metrics.measure_case(truth, pred, classes=2, spacing=(3.0, 1.0, 0.5), tolerance=1.0)
    assert set(found) == set(ALL)
    assert all(values.dtype == np.float64 and values.shape == (1,) for values in found.values())
    assert found["dice"][0] == pytest.approx(48 * 2 / 128)
    assert found["iou"][0] == pytest.approx(48 / 80)
    # 56 border voxels a cube: 12 in each of two middle slices, 16 at each end. Of the truth's those of slice 2 (16) are one
    # slice (3 mm) off, those of slices 3 to 5 within the prediction: slice 3's 12 lie on its border, as slice 4's; of slice 5's
    # 16 the 4 inner ones are 1 mm (rows 3 and 4 to 2 and 5) or 0.5 mm (columns) off. The same mirrored.
    assert found["hd95"][0] == pytest.approx(3.0)
    assert found["nsd"][0] == pytest.approx(40 / 56)
    assert found["volume"][0] == pytest.approx(64 * 1.5 / 1000)
    assert found["volume_pred"][0] == pytest.approx(64 * 1.5 / 1000)
    assert found["volume_error"][0] == 0
    tight = metrics.measure_case(truth, pred, classes=2, spacing=(3.0, 1.0, 0.5), tolerance=0.4)
    assert tight["nsd"][0] == pytest.approx(36 / 56)
    wide = metrics.measure_case(truth, pred, classes=2, spacing=(3.0, 1.0, 0.5), tolerance=3.0)
    assert wide["nsd"][0] == 1


def test_the_95th_percentile_leaves_out_one_far_voxel_in_forty():
    truth = cube((0, 0, 0), (1, 1, 39), (1, 9, 60))
    pred = truth.copy()
    pred[0, 8, 59] = 1
    found = metrics.measure_case(truth, pred, classes=2)
    assert found["hd95"][0] == 0  # the Hausdorff distance itself is hypot(21, 8)
    assert found["nsd"][0] == pytest.approx(78 / 79)


def test_one_voxel_masks():
    truth, pred = cube((1, 1, 1), (2, 2, 2)), cube((3, 5, 2), (4, 6, 3))
    found = metrics.measure_case(truth, pred, classes=2, spacing=(1.0, 0.5, 2.0))
    assert found["hd95"][0] == pytest.approx(np.sqrt(2**2 + 2**2 + 2**2))
    assert (found["dice"][0], found["iou"][0], found["nsd"][0]) == (0, 0, 0)
    only = np.ones((1, 1, 1), np.uint8)
    same(metrics.measure_case(only, only, classes=2), dict(zip(ALL, (1, 1, 0, 1, 1, 1, 0))))


def test_the_tolerance_holds_for_spacings_that_are_not_exact():
    truth, pred = cube((1, 1, 1), (2, 2, 2)), cube((1, 1, 4), (2, 2, 5))
    assert metrics.measure_case(truth, pred, classes=2, spacing=(1, 1, 0.1), tolerance=0.3)["nsd"][0] == 1
    seven = np.float32(0.7) * np.ones(3)
    assert metrics.measure_case(truth, pred, classes=2, spacing=seven, tolerance=2.1)["nsd"][0] == 1
    assert metrics.measure_case(truth, pred, classes=2, spacing=seven, tolerance=2.0999)["nsd"][0] == 0


def test_a_picture_has_lines_as_borders():
    truth, pred = cube((0, 2, 2), (1, 9, 9), (1, 12, 12)), cube((0, 3, 3), (1, 8, 8), (1, 12, 12))
    found = metrics.measure_case(truth, pred, classes=2, tolerance=0)
    # With borders along D all of both squares would be border, and 2 * 25 of 49 + 25 voxels would agree.
    assert found["nsd"][0] == 0
    assert found["hd95"][0] == pytest.approx(np.percentile([1] * 20 + [np.sqrt(2)] * 4, 95))
    # The thickness of the slice, and whether it is known, changes no distance and no diagonal.
    thick = metrics.measure_case(truth, pred, classes=2, spacing=(50.0, 1.0, 1.0), tolerance=0)
    same(found, thick, ("dice", "iou", "hd95", "nsd"))
    missed = metrics.measure_case(truth, 0 * pred, classes=2, spacing=(np.nan, 0.5, 0.5))
    assert missed["hd95"][0] == pytest.approx(6 * np.sqrt(2))
    assert missed["volume"][0] == 49  # pixels: without the thickness there is no volume in ml
    # A slice that is thin within a volume is all border: only the truth's corners are more than 1 off.
    volume = metrics.measure_case(np.pad(truth, ((1, 1), (0, 0), (0, 0))), np.pad(pred, ((1, 1), (0, 0), (0, 0))), classes=2)
    assert volume["nsd"][0] == pytest.approx((49 - 4 + 25) / (49 + 25))
    assert metrics.measure_case(truth, truth, classes=2)["hd95"][0] == 0


@pytest.mark.parametrize("spacing", [(1, 1, np.nan), (np.nan,) * 3, None])
def test_a_spacing_that_is_not_known_gives_voxels(spacing):
    truth, pred = draw(1, shape=(4, 6, 7))
    same(metrics.measure_case(truth, pred, classes=3, spacing=spacing), metrics.measure_case(truth, pred, classes=3))


def test_empty_masks():
    truth, pred = cube((1, 1, 1), (3, 3, 3), (4, 5, 6)), cube((1, 1, 1), (3, 3, 3), (4, 5, 6), value=2)
    found = metrics.measure_case(truth, pred, classes=4, spacing=(3, 2, 1))
    diagonal = np.sqrt(12**2 + 10**2 + 6**2)
    for name in ("dice", "iou", "nsd"):
        np.testing.assert_array_equal(found[name], [0, 0, np.nan])
    np.testing.assert_allclose(found["hd95"], [diagonal, diagonal, np.nan])
    np.testing.assert_allclose(found["volume"], [0.048, 0, 0])
    np.testing.assert_allclose(found["volume_error"], [-0.048, 0.048, 0])


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(SPACINGS))
def test_missing_a_structure_is_never_better(seed, spacing):
    truth, pred = draw(seed)
    found = metrics.measure_case(truth, pred, classes=3, spacing=spacing)
    missed = metrics.measure_case(truth, np.zeros_like(pred), classes=3, spacing=spacing)
    present = ~np.isnan(missed["hd95"])
    assert (missed["hd95"][present] >= found["hd95"][present]).all()
    for name in ("dice", "iou", "nsd"):
        assert (missed[name][present] <= found[name][present]).all()


def test_ignored_voxels_count_on_neither_side():
    truth, pred = draw(3, shape=(6, 7, 8))
    left_out = np.random.default_rng(0).random(truth.shape) < 0.2
    found = metrics.measure_case(np.where(left_out, 255, truth), pred, classes=3)
    same(found, metrics.measure_case(truth * ~left_out, pred * ~left_out, classes=3))
    # Whatever is predicted there.
    other = np.where(left_out, 1, pred)
    same(found, metrics.measure_case(np.where(left_out, 255, truth), other, classes=3))
    same(found, metrics.measure_case(np.where(left_out, 9, truth), other, classes=3, ignore=9))
    keep = ~left_out.ravel()
    f1 = sk.f1_score(truth.ravel()[keep], pred.ravel()[keep], labels=[1, 2], average=None)
    np.testing.assert_allclose(found["dice"], f1)
    nothing = metrics.measure_case(np.full_like(truth, 255), pred, classes=3)
    assert np.isnan(nothing["dice"]).all()
    assert (nothing["volume_pred"] == 0).all()


def test_a_mask_that_runs_into_ignored_voxels_ends_there():
    truth = cube((0, 2, 2), (1, 8, 8), (1, 12, 12))
    pred = cube((0, 2, 2), (1, 8, 11), (1, 12, 12))
    truth[..., 8:] = 255
    found = metrics.measure_case(truth, pred, classes=2, tolerance=0)
    same(found, dict(zip(ALL, (1, 1, 0, 1, 36, 36, 0))))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(SPACINGS[1:]))
def test_invariances(seed, spacing):
    truth, pred = draw(seed)
    found = metrics.measure_case(truth, pred, classes=3, spacing=spacing)
    swapped = metrics.measure_case(pred, truth, classes=3, spacing=spacing)
    same(found, swapped, ("dice", "iou", "hd95", "nsd"))
    np.testing.assert_allclose(swapped["volume_error"], -found["volume_error"])
    for axis in range(3):
        same(found, metrics.measure_case(np.flip(truth, axis), np.flip(pred, axis), classes=3, spacing=spacing))
    turned = metrics.measure_case(truth.transpose(2, 0, 1), pred.transpose(2, 0, 1), classes=3, spacing=np.roll(spacing, 1))
    same(found, turned)
    doubled = metrics.measure_case(truth, pred, classes=3, spacing=2 * np.array(spacing), tolerance=2.0)
    same(found, doubled, ("dice", "iou", "nsd"))
    np.testing.assert_allclose(doubled["hd95"], 2 * found["hd95"])
    np.testing.assert_allclose(doubled["volume"], 8 * found["volume"])


@pytest.mark.parametrize("seed", range(4))
def test_room_around_the_masks_changes_nothing(seed):
    truth, pred = draw(seed, shape=(5, 6, 7))
    found = metrics.measure_case(truth, pred, classes=3, spacing=SPACINGS[2])
    wide = [(3, 20), (0, 9), (11, 2)]
    same(found, metrics.measure_case(np.pad(truth, wide), np.pad(pred, wide), classes=3, spacing=SPACINGS[2]))


def test_inputs_are_left_as_they_are_and_checked():
    truth, pred = draw(0, shape=(3, 4, 5))
    truth[0, 0, 0] = 255
    copies = truth.copy(), pred.copy()
    metrics.measure_case(truth, pred, classes=3)
    assert (truth == copies[0]).all()
    assert (pred == copies[1]).all()
    with pytest.raises(ValueError, match="both be"):
        metrics.measure_case(truth, pred[:2], classes=3)
    with pytest.raises(ValueError, match="both be"):
        metrics.measure_case(truth[0], pred[0], classes=3)
    with pytest.raises(ValueError, match="pred must be 0 to 1"):
        metrics.measure_case(np.minimum(truth, 1), np.full_like(pred, 2), classes=2)
    with pytest.raises(ValueError, match="pred must be 0 to 2, but goes from 0 to 255"):
        metrics.measure_case(0 * truth, cube((0, 0, 0), (1, 1, 1), truth.shape, 255), classes=3)
    with pytest.raises(ValueError, match="truth must be 0 to 1"):
        metrics.measure_case(truth, 0 * pred, classes=2)
    with pytest.raises(ValueError, match="whole numbers"):
        metrics.measure_case(truth, pred / 2, classes=3)
    with pytest.raises(ValueError, match="background"):
        metrics.measure_case(0 * truth, 0 * pred, classes=1)
    for spacing in ((1, 1, 0), (1, 1, -1), (1, 1), (1, 1, np.inf)):
        with pytest.raises(ValueError, match="spacing"):
            metrics.measure_case(truth, pred, classes=3, spacing=spacing)
    with pytest.raises(ValueError, match="tolerance"):
        metrics.measure_case(truth, pred, classes=3, tolerance=np.nan)


def test_summary_and_what_it_leaves_out():
    nan = np.nan
    tables = {
        "dice": np.array([[0.5, nan, nan], [1.0, 0.25, nan]]),
        "hd95": np.array([[2.0, nan, nan], [4.0, 9.0, nan]]),
        "volume": np.ones((2, 3)),
        "volume_error": np.array([[1.0, 0, 0], [2.0, 0, 0]]),
    }
    found = metrics.summarise(tables, ("a", "b", "c"))
    names = ("dice", "hd95", "volume_error")
    assert list(found) == [*names, *(f"{name}/{of}" for name in names for of in "abc")]
    assert found["dice"] == pytest.approx((0.75 + 0.25) / 2)  # not the mean of the three values
    assert found["hd95"] == pytest.approx((3 + 9) / 2)
    assert (found["dice/a"], found["dice/b"]) == (0.75, 0.25)
    assert np.isnan(found["dice/c"])
    assert found["volume_error"] == pytest.approx(0.5)
    assert metrics.count_excluded(tables) == {"dice": 3, "hd95": 3, "volume_error": 0}
    nothing = metrics.summarise({"iou": np.full((4, 2), nan)}, ("a", "b"))
    assert np.isnan([*nothing.values()]).all()
    assert np.isnan(metrics.summarise({"iou": np.empty((0, 1))}, ("a",))["iou"])
    with pytest.raises(ValueError, match="iou must be"):
        metrics.summarise({"iou": np.ones((4, 2))}, ("a",))


def test_one_foreground_class_has_plain_names_only():
    assert metrics.summarise({"dice": np.array([[0.5], [1.0]])}, ("lung",)) == {"dice": 0.75}


@pytest.mark.parametrize("seed", range(3))
def test_summary_is_the_mean_of_means_of_numpy(seed):
    rng = np.random.default_rng(seed)
    tables = {name: np.where(rng.random((30, 4)) < 0.3, np.nan, rng.random((30, 4))) for name in segmentation.MEASURES}
    found = metrics.summarise(tables, tuple("abcd"))
    for name, table in tables.items():
        assert found[name] == pytest.approx(np.nanmean(table, axis=0).mean(), rel=1e-12)
        for at, of in enumerate("abcd"):
            assert found[f"{name}/{of}"] == pytest.approx(np.nanmean(table[:, at]), rel=1e-12)
    assert set(tables) == set(metrics.SEGMENTATION_DEFINITIONS)
    assert "neither" in metrics.why_unmeasured("hd95/a")
    assert "annotated" in metrics.why_unmeasured("volume_error")


def test_largest_component():
    labels = np.zeros((4, 6, 6), np.uint8)
    labels[0, :2, :2] = 1
    labels[1, 2, 2] = 1  # by a corner
    labels[3, 4:, 3:] = 1  # 6 voxels, the most
    labels[3, 0, 0] = 2
    labels[0, 5, 5] = 2
    kept = metrics.largest_component(labels, 1)
    expected = labels.copy()
    expected[0, :2, :2] = expected[1, 2, 2] = 0
    np.testing.assert_array_equal(kept, expected)
    assert kept.dtype == np.uint8
    labels[0, 0, 2:4] = 1  # now the first has 7, with its corner
    kept = metrics.largest_component(labels, 1)
    assert (kept == 1).sum() == 7
    assert kept[1, 2, 2] == 1
    assert (kept == 2).sum() == 2
    np.testing.assert_array_equal(metrics.largest_component(labels, 3), labels)
    # Two of one size: the first stays.
    assert metrics.largest_component(labels, 2)[0, 5, 5] == 2
    assert (labels == 2).sum() == 2


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6))
def test_largest_component_agrees_with_a_flood_fill(seed):
    rng = np.random.default_rng(seed)
    labels = (rng.random((4, 5, 6)) < 0.15).astype(np.uint8) + 2 * (rng.random((4, 5, 6)) < 0.1).astype(np.uint8)
    left, parts = {tuple(at) for at in np.argwhere(labels == 1)}, []
    while left:
        part, queue = set(), [left.pop()]
        while queue:
            at = queue.pop()
            part.add(at)
            touching = {other for other in left if max(abs(a - b) for a, b in zip(at, other)) == 1}
            left -= touching
            queue += touching
        parts.append(part)
    kept = metrics.largest_component(labels, 1)
    assert (kept == 1).sum() == max(map(len, parts), default=0)
    if parts:
        assert {tuple(at) for at in np.argwhere(kept == 1)} in parts
    np.testing.assert_array_equal(kept[labels != 1], labels[labels != 1])


def test_bland_altman_by_hand():
    bias, lo, hi = metrics.bland_altman([10, 20, 30, np.nan], [11, 23, 32, 1])
    assert (bias, lo, hi) == pytest.approx((2, 2 - 1.96, 2 + 1.96))
    bias, lo, hi = metrics.bland_altman([1.0], [3.0])
    assert bias == 2
    assert np.isnan([lo, hi]).all()
    assert np.isnan(metrics.bland_altman([], [])).all()
    with pytest.raises(ValueError, match="both be"):
        metrics.bland_altman([1, 2], [1])
