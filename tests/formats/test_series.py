import highdicom as hd
import numpy as np
import pydicom
import pytest
from make_dicom import dicom, write
from make_series import (
    AXIAL,
    CORONAL,
    SAGITTAL,
    directions,
    headers,
    numbers,
    tilted,
    write_enhanced,
    write_rtstruct,
    write_seg,
    write_series,
)
from pydicom.uid import ExplicitVRBigEndian, ImplicitVRLittleEndian, JPEG2000Lossless, RLELossless, generate_uid

from medjax.errors import InputError
from medjax.formats.series import Series, find_series, one_series, read_series, read_slices

SHAPE = (5, 6, 7)
OBLIQUE = (*tilted()[0], *tilted()[1])
NEGATED = (-1.0, 0.0, 0.0, 0.0, 1.0, 0.0)  # a normal that points to the feet


def unique(shape=SHAPE, seed=0):
    """Hounsfield units that are all different."""
    values = np.random.default_rng(seed).permutation(np.arange(np.prod(shape)) * 3 - 900)
    return values.reshape(shape).astype(np.int16)


def refused(folder, *words):
    with pytest.raises(InputError) as caught:
        read_series(one_series(folder))
    message = str(caught.value)
    assert str(folder) in message
    assert message.count("\n") == 1, "what is wrong, then the mend"
    for word in words:
        assert word in message
    for secret in ("Secret", "P7", "1950"):
        assert secret not in message.replace(str(folder), "")
    return message


@pytest.mark.parametrize(
    "orientation", [AXIAL, NEGATED, SAGITTAL, CORONAL, OBLIQUE], ids=["axial", "negated", "sagittal", "coronal", "oblique"]
)
def test_every_voxel_lies_where_its_file_says(tmp_path, orientation):
    volume = unique()
    files = write_series(tmp_path, volume, orientation=orientation)
    pixels, grid, facts = read_series(one_series(tmp_path))
    assert (pixels.dtype, pixels.shape, sorted(pixels.shape)) == (np.int16, grid.shape, sorted(SHAPE))
    np.testing.assert_array_equal(facts.affine, grid.to_world())
    assert (facts.modality, facts.sex, facts.age, facts.hounsfield, facts.spacing) == ("CT", "F", 61.0, True, grid.spacing)
    rows, columns = np.mgrid[: SHAPE[1], : SHAPE[2]]
    for file, plane in zip(files, volume, strict=True):
        header = pydicom.dcmread(file)
        row, column, _ = directions([float(x) for x in header.ImageOrientationPatient])
        down, across = (float(x) for x in header.PixelSpacing)
        start = np.array([float(x) for x in header.ImagePositionPatient])
        lps = start + rows[..., None] * down * column + columns[..., None] * across * row
        for r, c in np.ndindex(plane.shape):
            at = np.argwhere(pixels == plane[r, c])
            assert len(at) == 1
            np.testing.assert_allclose((grid.to_world() @ [*at[0], 1])[:3], lps[r, c] * (-1, -1, 1), atol=1e-6)
    # In medjax's order: to superior, to posterior, to the left.
    steps = grid.to_world()[:3, :3]
    assert steps[2, 0] > 0
    assert steps[1, 1] < 0
    assert steps[0, 2] < 0
    np.testing.assert_allclose(np.linalg.norm(steps, axis=0), grid.spacing)


def test_an_axial_series_is_as_it_is_stored_and_the_same_as_highdicom_reads_it(tmp_path):
    volume = unique()
    files = write_series(tmp_path, volume, syntax=RLELossless)
    pixels, grid, _ = read_series(one_series(tmp_path))
    np.testing.assert_array_equal(pixels, volume)
    assert (grid.axes, grid.flips, grid.spacing) == ((0, 1, 2), (False,) * 3, (2.5, 0.8, 0.6))
    other = hd.get_volume_from_series([pydicom.dcmread(file) for file in files])
    order = np.argsort([float(pydicom.dcmread(f).ImagePositionPatient[2]) for f in files])
    assert (order == np.arange(len(files))).all()
    to_ras = np.diag([-1.0, -1, 1, 1])
    theirs = to_ras @ other.affine
    corners = np.array([(0, 0, 0, 1), (4, 5, 6, 1)]).T
    mine = grid.affine @ corners
    assert min(np.abs(theirs @ corners - mine).max(), np.abs(theirs @ [[4, 0], [0, 5], [0, 6], [1, 1]] - mine).max()) < 1e-6


@pytest.mark.parametrize("syntax", [None, RLELossless, JPEG2000Lossless], ids=str)
def test_encodings_and_padding(tmp_path, syntax):
    volume = np.random.default_rng(0).integers(-1000, 3000, (3, 40, 48), dtype=np.int16)
    volume[1:, :2] = -1024  # stored 0
    write_series(tmp_path, volume, syntax=syntax, PixelPaddingValue=0)
    pixels, _, facts = read_series(one_series(tmp_path))
    np.testing.assert_array_equal(pixels, np.where(volume == -1024, -1000, volume))
    assert facts.padding == 192


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian], ids=lambda uid: uid.keyword)
def test_headers_in_every_native_encoding_are_grouped(tmp_path, syntax):
    for i, header in enumerate(headers(3)):
        write(tmp_path / str(i), dicom(np.full((4, 5), i, np.uint16), syntax=syntax, **header))
    pixels, _, _ = read_series(one_series(tmp_path))
    np.testing.assert_array_equal(pixels[:, 0, 0], [-1024, -1023, -1022])


def test_monochrome1_and_slices_of_several_dtypes(tmp_path):
    values = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    given = headers(2, Modality="MR", RescaleSlope=None, RescaleIntercept=None, RescaleType=None)
    given = [{k: v for k, v in header.items() if v is not None} for header in given]
    write(tmp_path / "b", dicom(values[0], photometric="MONOCHROME1", **given[0]))
    write(tmp_path / "a", dicom(values[1] * np.uint16(1000), **given[1]))
    pixels, _, facts = read_series(one_series(tmp_path))
    np.testing.assert_array_equal(pixels[0], 255 - values[0])
    np.testing.assert_array_equal(pixels[1], values[1] * np.uint16(1000))
    assert (pixels.dtype, facts.hounsfield) == (np.uint16, False)


@pytest.mark.parametrize("orientation", [AXIAL, OBLIQUE], ids=["axial", "oblique"])
def test_one_enhanced_file_is_the_same_volume(tmp_path, orientation):
    volume = unique()
    write_enhanced(tmp_path / "many.dcm", volume, [3, 0, 4, 1, 2], orientation=orientation)
    write_series(tmp_path / "single", volume, orientation=orientation)
    many, single = find_series(tmp_path)
    one, other = read_series(many), read_series(single)
    np.testing.assert_array_equal(one[0], other[0])
    np.testing.assert_array_equal(one[1].affine, other[1].affine)
    assert one[1][2:] == other[1][2:]
    assert one[2].hounsfield
    assert [frame for _, frame in read_slices(many).places] == [1, 3, 4, 0, 2]


def test_only_image_series_are_found_and_each_by_its_uid(tmp_path):
    volume = unique()
    files = write_series(tmp_path / "ct", volume)
    write_series(tmp_path / "ct" / "below", volume[:3], Modality="MR")
    (tmp_path / "ct" / "notes.txt").write_text("no DICOM")
    (tmp_path / "ct" / "DONE").touch()
    write_seg(tmp_path / "seg.dcm", files, volume[..., None] > 0, ["a"])
    write_rtstruct(tmp_path / "rt.dcm", files, {"a": []})
    write(tmp_path / "dose.dcm", dicom(np.zeros((4, 4), np.uint16), Modality="RTDOSE", SeriesInstanceUID="1.2"))
    found = find_series(tmp_path)
    assert sorted((s.modality, len(s.files), s.patient) for s in found) == [("CT", 5, "P7"), ("MR", 3, "P7")]
    assert {s.uid for s in found} == {str(pydicom.dcmread(s.files[0]).SeriesInstanceUID) for s in found}
    refused(tmp_path, "2 image series where one is expected")


def test_folders_without_a_series(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        find_series(tmp_path / "none")
    refused(tmp_path, "holds no DICOM image series")
    (tmp_path / "a.dcm").touch()
    with pytest.raises(InputError, match=r"a\.dcm: is empty"):
        find_series(tmp_path)


@pytest.mark.parametrize("keyword", ["ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"])
@pytest.mark.parametrize("value", [None, ["1"]], ids=["missing", "one number"])
def test_missing_geometry(tmp_path, keyword, value):
    given = headers(5)
    given[2] = {**given[2], keyword: value}
    files = write_series(tmp_path, unique(), given=given)
    refused(tmp_path, str(files[2]), keyword)


def test_missing_uid_and_two_patients(tmp_path):
    given = headers(5)
    given[1] = {**given[1], "SeriesInstanceUID": None}
    files = write_series(tmp_path, unique(), given=given)
    refused(tmp_path, str(files[1]), "SeriesInstanceUID")
    given = headers(5)
    given[1] = {**given[1], "PatientID": "P7-other"}
    write_series(tmp_path, unique(), given=given)
    refused(tmp_path, "another patient")


def moved(given, i, along=0.0, across=0.0):
    place = np.array(given[i]["ImagePositionPatient"], float) + (across, 0, along)
    return [{**h, "ImagePositionPatient": numbers(place)} if j == i else h for j, h in enumerate(given)]


def test_missing_slices_are_told_with_their_positions(tmp_path):
    given = headers(5)
    given[3] = None
    files = write_series(tmp_path, unique(), given=given)
    refused(tmp_path, str(files[2]), "1 slices", "missing", "between 105.00 and 110.00 mm", "2.5 mm")


def test_two_slices_at_one_position(tmp_path):
    files = write_series(tmp_path, unique(), given=moved(headers(5), 2, along=-2.5))
    message = refused(tmp_path, "lies at the position of", "102.50 mm")
    assert str(files[1]) in message
    assert str(files[2]) in message


def test_uneven_spacing_beyond_a_hundredth(tmp_path):
    files = write_series(tmp_path, unique(), given=moved(headers(5), 2, along=0.03))
    refused(tmp_path, "not evenly spaced", "2.470 to 2.530 mm", str(files[2]))
    write_series(tmp_path, unique(), given=moved(headers(5), 2, along=0.02))
    np.testing.assert_array_equal(read_series(one_series(tmp_path))[0], unique())
    write_series(tmp_path, unique(), given=moved(headers(5), 2, across=0.2))
    refused(tmp_path, "not evenly spaced")


def test_thin_slices_may_be_a_hundredth_of_a_millimetre_off(tmp_path):
    given = headers(5, spacing=(0.2, 0.8, 0.6))
    write_series(tmp_path, unique(), given=moved(given, 2, along=0.009))
    read_series(one_series(tmp_path))
    write_series(tmp_path, unique(), given=moved(given, 2, along=0.012))
    refused(tmp_path, "not evenly spaced")


def test_spacing_that_drifts(tmp_path):
    given = headers(40)
    for i in range(40):
        given = moved(given, i, along=0.0005 * i * i)  # each gap within a hundredth of the next, the middle far off the line
    write_series(tmp_path, unique((40, 3, 4)), given=given)
    refused(tmp_path, "not evenly spaced", "2.501 to 2.538 mm")


def test_gantry_tilt(tmp_path):
    given = headers(5)
    for i in range(5):
        given = moved(given, i, across=0.3 * i)
    write_series(tmp_path, unique(), given=given)
    refused(tmp_path, "gantry tilt", "0.300 mm")


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"ImageOrientationPatient": numbers(CORONAL)}, "another orientation"),
        ({"PixelSpacing": numbers((0.81, 0.6))}, "another pixel spacing"),
        ({"FrameOfReferenceUID": generate_uid()}, "another frame of reference"),
        ({"ImageOrientationPatient": numbers((1, 0, 0, 0.1, 1, 0))}, "no right angle of unit vectors"),
        ({"ImageOrientationPatient": numbers((0, 0, 0, 0, 0, 0))}, "no right angle of unit vectors"),
        ({"PixelSpacing": numbers((0.8, 0))}, "PixelSpacing is not positive"),
        ({"Modality": "MR"}, "only some slices of its series are in Hounsfield units"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_slices_that_do_not_fit_together(tmp_path, change, word):
    given = headers(5)
    given[2] = {**given[2], **change}
    write_series(tmp_path, unique(), given=given)
    refused(tmp_path, word)


def test_mixed_sizes_and_colour(tmp_path):
    given = headers(3)
    for i, header in enumerate(given):
        write(tmp_path / f"{i}.dcm", dicom(np.zeros((4, 5 + i // 2), np.uint16), **header))
    refused(tmp_path, str(tmp_path / "2.dcm"), "another size")
    for i, header in enumerate(given):
        write(tmp_path / f"{i}.dcm", dicom(np.random.default_rng(i).integers(0, 255, (4, 5, 3), np.uint8), **header))
    refused(tmp_path, "colour")


def test_one_slice_is_as_thick_as_its_header_says(tmp_path):
    write_series(tmp_path, unique()[:1])
    pixels, grid, _ = read_series(one_series(tmp_path))
    assert (pixels.shape, grid.spacing) == ((1, 6, 7), (2.5, 0.8, 0.6))
    write_series(tmp_path, unique()[:1], SliceThickness=None)
    refused(tmp_path, "SliceThickness")


def test_damaged_files(tmp_path):
    files = write_series(tmp_path, unique())
    whole = files[1].read_bytes()
    files[1].write_bytes(whole[:-20])
    refused(tmp_path, str(files[1]))
    files[1].write_bytes(whole[:140] + b"\xff" * 40)
    with pytest.raises(InputError):
        read_series(one_series(tmp_path))


def test_a_series_that_is_gone(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_slices(Series("1.2", (tmp_path / "gone.dcm",)))


@pytest.mark.realdata
def test_real_slices_as_a_series(tmp_path, real_data):
    """Real pixels of several scanners' files, given positions of one stack."""
    files = [f for f in sorted((real_data / "ct_dicom").glob("*.dcm")) if pydicom.dcmread(f).Rows == 512][:4]
    from medjax.formats.dicom import read_dicom

    for i, file in enumerate(files):
        made = pydicom.dcmread(file)
        for keyword, value in headers(9)[i].items():
            if keyword not in ("RescaleSlope", "RescaleIntercept", "Modality"):
                setattr(made, keyword, value)
        made.SeriesInstanceUID, made.StudyInstanceUID, made.FrameOfReferenceUID = "1.2.3", "1.2.4", "1.2.5"
        made.PatientID = "P"
        made.save_as(tmp_path / f"{9 - i}.dcm")
    pixels, _, facts = read_series(one_series(tmp_path))
    assert facts.hounsfield
    for plane, file in zip(pixels, files, strict=True):
        np.testing.assert_array_equal(plane, read_dicom(file).pixels)
