import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from make_series import AXIAL, numbers, tilted, to_mm, write_rtstruct, write_series
from pydicom.uid import generate_uid

from medjax.errors import InputError
from medjax.formats.rtstruct import inside, read_rtstruct, referenced_series, rtstruct_names
from medjax.formats.series import one_series, read_slices

SHAPE = (4, 30, 40)
OBLIQUE = (*tilted()[0], *tilted()[1])


@pytest.fixture(scope="module", params=[AXIAL, OBLIQUE], ids=["axial", "oblique"])
def series(request, tmp_path_factory):
    """(files, Slices, (slice, row, column) -> mm)."""
    folder = tmp_path_factory.mktemp("series")
    files = write_series(folder, np.zeros(SHAPE, np.int16), orientation=request.param)
    return files, read_slices(one_series(folder)), lambda points: to_mm(points, orientation=request.param)


def circle(s, centre, radius, n=200):
    """Corners (slice, row, column) of a circle, its radius in pixels."""
    a = np.linspace(0, 2 * np.pi, n, endpoint=False)
    return np.stack([np.full(n, float(s)), centre[0] + radius * np.sin(a), centre[1] + radius * np.cos(a)], 1)


def filled(contours, shape):
    mask = np.zeros(shape, bool)
    part, region = inside(contours, shape)
    assert mask[part].shape == region.shape
    mask[part] = region
    return mask


def ray_cast(contours, shape):
    """Point in polygon, one pixel and one edge after the other, with the half-open rule."""
    mask = np.zeros(shape, bool)
    edges = [
        (*a, *b) for contour in contours for a, b in zip(contour.tolist(), np.roll(contour, -1, axis=0).tolist(), strict=True)
    ]
    for r in range(shape[0]):
        crossed = [edge for edge in edges if (edge[0] <= r) != (edge[2] <= r)]
        for c in range(shape[1]):
            for y0, x0, y1, x1 in crossed:
                if c < x0 + (r - y0) * (x1 - x0) / (y1 - y0):
                    mask[r, c] ^= True
    return mask


def stored(path, slices, **options):
    labels, names = read_rtstruct(path, slices, **options)
    assert (labels.dtype, labels.shape) == (np.uint8, slices.grid.shape)
    return slices.grid.to_stored(labels), names


def refused(path, slices, *words, **options):
    with pytest.raises(InputError) as caught:
        read_rtstruct(path, slices, **options)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert message.count("\n") == 1
    for word in words:
        assert word in message
    for secret in ("Secret", "P7", "1950"):
        assert secret not in message.replace(str(path), "")


# Star-shaped, convex and self-crossing ones, in part beyond the edge; corners often on centres of pixels.
corner = st.tuples(*[st.one_of(st.integers(-3, 15), st.floats(-3, 15))] * 2)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.lists(corner, min_size=1, max_size=9), min_size=1, max_size=3))
def test_any_polygons_are_as_by_brute_force(polygons):
    contours = [np.round(np.array(p, float), 6) for p in polygons]
    np.testing.assert_array_equal(filled(contours, (11, 13)), ray_cast(contours, (11, 13)))


def test_neighbours_share_no_pixel_and_leave_none_out():
    """Polygons that meet in edges through pixels' centres: each pixel is in exactly one of them."""
    middle = (6, 5)
    corners = [(-1, -1), (-1, 12), (12, 12), (12, -1)]
    parts = [
        filled([np.array([middle, a, b], float)], (11, 11)) for a, b in zip(corners, corners[1:] + corners[:1], strict=True)
    ]
    assert (np.sum(parts, 0) == 1).all()


@pytest.mark.parametrize("radius", [40.0, 90.3])
def test_a_circle_has_its_area(radius):
    mask = filled([circle(0, (100.2, 99.7), radius, 2000)[:, 1:]], (200, 210))
    assert mask.sum() == pytest.approx(np.pi * radius**2, rel=2e-3)
    y, x = np.mgrid[:200, :210]
    away = np.hypot(y - 100.2, x - 99.7) - radius
    np.testing.assert_array_equal(mask[np.abs(away) > 0.01], (away < 0)[np.abs(away) > 0.01])


def test_structures_lie_where_they_were_drawn_with_holes(tmp_path, series):
    files, slices, mm = series
    ring = [circle(1, (14, 18), 10), circle(1, (14, 18), 5)]
    two = [circle(3, (8, 9), 5), circle(3, (20, 28), 6), circle(1, (14, 18), 3)]
    drawn = {"ring": [mm(c) for c in ring], "two": [mm(c) for c in two], "empty": []}
    path = write_rtstruct(tmp_path / "rt.dcm", files, drawn)
    assert rtstruct_names(path) == ("ring", "two")
    labels, names = stored(path, slices)
    assert names == ("ring", "two")
    expected = np.zeros(SHAPE, int)
    expected[1] += ray_cast([c[:, 1:] for c in ring], SHAPE[1:])
    expected[1] += 2 * ray_cast([two[2][:, 1:]], SHAPE[1:])
    expected[3] += 2 * ray_cast([c[:, 1:] for c in two[:2]], SHAPE[1:])
    np.testing.assert_array_equal(labels, expected)
    assert labels[1, 14, 18] == 2
    assert labels[1, 14, 22] == 0, "the hole"
    assert labels[1, 14, 26] == 1
    labels, names = stored(path, slices, names=("two", "empty"))
    assert names == ("two",)
    np.testing.assert_array_equal(labels, expected == 2)


def test_corners_on_centres_of_pixels_are_not_moved_by_rounding(tmp_path, series):
    files, slices, mm = series
    square = np.array([(0, 5, 7), (0, 5, 17), (0, 12, 17), (0, 12, 7)])
    path = write_rtstruct(tmp_path / "rt.dcm", files, {"a": [mm(square)]})
    labels, _ = stored(path, slices)
    expected = np.zeros(SHAPE)
    expected[0, 5:12, 7:17] = 1
    np.testing.assert_array_equal(labels, expected)


def test_what_is_beyond_the_edge_is_cut_off(tmp_path, series):
    files, slices, mm = series
    path = write_rtstruct(tmp_path / "rt.dcm", files, {"body": [mm(circle(2, (15, 20), 60))]})
    labels, _ = stored(path, slices)
    assert (labels[2] == 1).all()
    assert labels.sum() == 30 * 40
    refused(write_rtstruct(tmp_path / "rt.dcm", files, {"a": [mm(circle(2, (15, 80), 20))]}), slices, "lies outside the images")


def test_overlaps_are_counted(tmp_path, series):
    files, slices, mm = series
    path = write_rtstruct(tmp_path / "rt", files, {"body": [mm(circle(2, (15, 20), 12))], "gtv": [mm(circle(2, (15, 20), 4))]})
    small = int(ray_cast([circle(2, (15, 20), 4)[:, 1:]], SHAPE[1:]).sum())
    refused(path, slices, f"{small} of 'body' and 'gtv'")
    labels, _ = stored(path, slices, overlap="later")
    assert (labels == 2).sum() == small


@pytest.mark.parametrize("at", [1.2, -1.0, 4.0])
def test_contours_off_the_slices(tmp_path, series, at):
    files, slices, mm = series
    path = write_rtstruct(tmp_path / "rt.dcm", files, {"a": [mm(circle(at, (15, 20), 9))]})
    refused(path, slices, "'a' lies on no slice", f"{at:.2f}", "0 to 3")
    leaning = circle(1, (15, 20), 9)
    leaning[:, 0] += np.linspace(0, 1, len(leaning))
    refused(write_rtstruct(tmp_path / "rt.dcm", files, {"a": [mm(leaning)]}), slices, "'a' lies on no slice")


def test_points_are_no_structures(tmp_path, series):
    files, slices, mm = series
    drawn = {"isocentre": [mm([(1, 4, 5)])], "a": [mm(circle(2, (15, 20), 4))]}
    path = write_rtstruct(tmp_path / "rt.dcm", files, drawn, kinds={"isocentre": "POINT"})
    assert rtstruct_names(path) == ("a",)
    assert stored(path, slices)[1] == ("a",)
    path = write_rtstruct(tmp_path / "rt.dcm", files, drawn, kinds={"isocentre": "POINT", "a": "OPEN_PLANAR"})
    refused(path, slices, "holds no class")


def test_damaged_and_foreign_files(tmp_path, series):
    import pydicom

    files, slices, mm = series
    drawn = {"a": [mm(circle(2, (15, 20), 4))]}
    assert referenced_series(write_rtstruct(tmp_path / "rt", files, drawn)) == {pydicom.dcmread(files[0]).SeriesInstanceUID}
    refused(write_rtstruct(tmp_path / "rt", files, drawn, frame=generate_uid()), slices, "another frame of reference")
    refused(files[0], slices, "is no DICOM structure set")
    path = write_rtstruct(tmp_path / "rt", files, drawn)

    def change(function):
        made = pydicom.dcmread(path)
        function(made)
        made.save_as(tmp_path / "changed")
        return tmp_path / "changed"

    def cut(made):
        made.ROIContourSequence[0].ContourSequence[0].ContourData = numbers((1, 2, 3, 4))

    refused(change(cut), slices, "a contour of 'a' is damaged")
    whole = path.read_bytes()
    at = whole.index(b"\x06\x30\x50\x00") + 8  # where ContourData (3006,0050) begins
    for wrong in (b"nan ", b" inf", b"SSSS", b"\xff\xff\xff\xff", b"1 1 "):
        (tmp_path / "changed").write_bytes(whole[:at] + wrong + whole[at + 4 :])
        refused(tmp_path / "changed", slices, "a contour of 'a' is damaged")
    refused(change(lambda made: setattr(made.ROIContourSequence[0], "ReferencedROINumber", 7)), slices, "has no name")
    refused(change(lambda made: delattr(made, "StructureSetROISequence")), slices, "has no name")
    refused(change(lambda made: delattr(made.StructureSetROISequence[0], "ROINumber")), slices, "ROINumber is missing")


@pytest.mark.slow
def test_a_large_set_takes_seconds():
    contours = [circle(0, (256, 256), r, 300)[:, 1:] for r in (200, 100)]
    start = time.perf_counter()
    for _ in range(100):
        filled(contours, (512, 512))
    assert time.perf_counter() - start < 5
