import highdicom as hd
import numpy as np
import pydicom
import pytest
from make_series import AXIAL, CORONAL, SAGITTAL, numbers, tilted, write_enhanced, write_rtstruct, write_seg, write_series
from pydicom.uid import RLELossless, generate_uid

from medjax.errors import InputError
from medjax.formats import dicom_seg
from medjax.formats.dicom_seg import read_seg, referenced_series, seg_names
from medjax.formats.series import one_series, read_series, read_slices

SHAPE = (4, 9, 11)  # no multiple of 8 pixels: frames of one bit a pixel do not end at a byte
OBLIQUE = (*tilted()[0], *tilted()[1])


def volume(seed=0):
    return np.random.default_rng(seed).integers(-1000, 3000, SHAPE, dtype=np.int16)


def truth(classes=3, seed=1):
    """Stored labels [slices, rows, columns] uint8 with an empty slice."""
    labels = np.random.default_rng(seed).integers(0, classes + 1, SHAPE, dtype=np.uint8)
    labels[2] = 0
    return labels


def one_hot(labels, classes):
    return np.stack([labels == k for k in range(1, classes + 1)], -1).astype(np.uint8)


@pytest.fixture(scope="module")
def series(tmp_path_factory):
    """(files of the slices in order, Slices) of an oblique series."""
    folder = tmp_path_factory.mktemp("series")
    files = write_series(folder, volume(), orientation=OBLIQUE)
    return files, read_slices(one_series(folder))


def refused(path, slices, *words, **options):
    with pytest.raises(InputError) as caught:
        read_seg(path, slices, **options)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert message.count("\n") == 1
    for word in words:
        assert word in message
    for secret in ("Secret", "P7", "1950"):
        assert secret not in message.replace(str(path), "")


@pytest.mark.parametrize("kind", ["BINARY", "LABELMAP"])
def test_a_seg_by_highdicom_is_read_on_the_grid_of_its_series(tmp_path, series, kind):
    files, slices = series
    stored = truth()
    path = write_seg(tmp_path / "seg.dcm", files, stored if kind == "LABELMAP" else one_hot(stored, 3), list("cab"), kind)
    assert seg_names(path) == ("c", "a", "b")
    assert referenced_series(path) == {str(pydicom.dcmread(files[0]).SeriesInstanceUID)}
    labels, names = read_seg(path, slices)
    assert (labels.dtype, labels.shape, names) == (np.uint8, slices.grid.shape, ("c", "a", "b"))
    np.testing.assert_array_equal(slices.grid.to_stored(labels), stored)
    labels, names = read_seg(path, slices, names=("b", "none", "c"))
    assert names == ("b", "c")
    np.testing.assert_array_equal(slices.grid.to_stored(labels), np.array([0, 2, 0, 1])[stored])


def test_fractional_is_in_from_half_on(tmp_path, series):
    files, slices = series
    shares = np.random.default_rng(0).integers(0, 9, (*SHAPE, 1)) / 8
    path = write_seg(tmp_path / "seg.dcm", files, shares, ["a"], "FRACTIONAL", max_fractional_value=200)
    for compressed in (False, True):
        if compressed:
            changed(path, lambda made: made.compress(RLELossless, encoding_plugin="pydicom"))
        np.testing.assert_array_equal(slices.grid.to_stored(read_seg(path, slices)[0]), shares[..., 0] >= 0.5)


def test_segments_of_one_label_are_one_class(tmp_path, series):
    files, slices = series
    masks = np.random.default_rng(0).integers(0, 2, (*SHAPE, 3), dtype=np.uint8)
    masks[..., 1] &= 1 - (masks[..., 0] | masks[..., 2])
    path = write_seg(tmp_path / "seg.dcm", files, masks, ["lesion", "organ", "lesion"])
    labels, names = read_seg(path, slices)
    assert names == ("lesion", "organ")
    expected = np.where(masks[..., 0] | masks[..., 2], 1, 2 * masks[..., 1])
    np.testing.assert_array_equal(slices.grid.to_stored(labels), expected)


def test_overlapping_classes_stop_and_are_counted_or_the_later_wins(tmp_path, series):
    files, slices = series
    masks = np.random.default_rng(0).integers(0, 2, (*SHAPE, 2), dtype=np.uint8)
    path = write_seg(tmp_path / "seg.dcm", files, masks, ["organ", "tumour"])
    both = int((masks.sum(-1) == 2).sum())
    refused(path, slices, f"{both} voxels are of several classes", f"{both} of 'organ' and 'tumour'")
    expected = np.where(masks[..., 1], 2, masks[..., 0])
    np.testing.assert_array_equal(slices.grid.to_stored(read_seg(path, slices, overlap="later")[0]), expected)
    expected = np.where(masks[..., 0], 2, masks[..., 1])
    labels, names = read_seg(path, slices, overlap="later", names=("tumour", "organ"))
    assert names == ("tumour", "organ")
    np.testing.assert_array_equal(slices.grid.to_stored(labels), expected)
    np.testing.assert_array_equal(slices.grid.to_stored(read_seg(path, slices, names=("tumour",))[0]), masks[..., 1])


def changed(path, change):
    made = pydicom.dcmread(path)
    change(made)
    made.save_as(path)
    return path


def test_a_part_of_the_images_may_be_covered(tmp_path, series):
    """Frames of a part of rows and columns, placed by their positions."""
    files, slices = series
    stored = truth(1)
    path = write_seg(tmp_path / "seg.dcm", files, one_hot(stored, 1), ["a"])

    def crop(made):
        row, column = np.array(OBLIQUE[:3]), np.array(OBLIQUE[3:])
        frames = made.pixel_array[:, 2:7, 3:10]
        for group in made.PerFrameFunctionalGroupsSequence:
            item = group.PlanePositionSequence[0]
            item.ImagePositionPatient = numbers(np.array(item.ImagePositionPatient, float) + 2 * 0.8 * column + 3 * 0.6 * row)
        made.Rows, made.Columns = 5, 7
        bits = np.packbits(frames.ravel(), bitorder="little").tobytes()
        made.PixelData = bits + b"\0" * (len(bits) % 2)

    changed(path, crop)
    expected = np.zeros(SHAPE)
    expected[:, 2:7, 3:10] = stored[:, 2:7, 3:10]
    np.testing.assert_array_equal(slices.grid.to_stored(read_seg(path, slices)[0]), expected)
    changed(path, lambda made: setattr(made, "Columns", 9))
    refused(path, slices, "is larger than the images")


def shift(mm):
    def change(made):
        item = made.PerFrameFunctionalGroupsSequence[1].PlanePositionSequence[0]
        item.ImagePositionPatient = numbers(np.array(item.ImagePositionPatient, float) + mm)

    return change


def without(sequence):
    def change(made):
        for group in (*made.PerFrameFunctionalGroupsSequence, *made.SharedFunctionalGroupsSequence):
            if sequence in group:
                del group[sequence]

    return change


def turned(made):
    made.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0].ImageOrientationPatient = numbers(AXIAL)


def spaced(made):
    made.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing = ["0.8", "0.7"]


def stranger(made):
    made.PerFrameFunctionalGroupsSequence[0].SegmentIdentificationSequence[0].ReferencedSegmentNumber = 9


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (shift((0.1, 0, 0)), ("frame 1 does not lie on the voxels", "corner is at (slice, row, column)")),
        (shift((0, -50, 100)), ("frame 1 does not lie on the voxels",)),
        (turned, ("does not lie on the voxels",)),
        (spaced, ("does not lie on the voxels",)),
        (without("PlanePositionSequence"), ("frame 0 has no PlanePositionSequence",)),
        (without("PlaneOrientationSequence"), ("has no PlaneOrientationSequence",)),
        (without("PixelMeasuresSequence"), ("has no PixelMeasuresSequence",)),
        (without("SegmentIdentificationSequence"), ("frame 0 is of no segment",)),
        (stranger, ("frame 0 is of no segment",)),
        (lambda made: setattr(made, "FrameOfReferenceUID", generate_uid()), ("another frame of reference",)),
        (lambda made: setattr(made, "SegmentationType", "SECRET"), ("SegmentationType is missing or none of",)),
        (lambda made: delattr(made.SegmentSequence[0], "SegmentLabel"), ("a segment has no label",)),
        (lambda made: setattr(made.SegmentSequence[1], "SegmentNumber", 1), ("a segment has no label, or no number",)),
        (lambda made: setattr(made, "SegmentSequence", []), ("holds no class",)),
        (lambda made: setattr(made, "PixelData", made.PixelData[:4]), ("truncated or damaged",)),
    ],
    ids=range(15),
)
def test_a_seg_that_does_not_fit_or_is_damaged(tmp_path, series, change, words):
    files, slices = series
    path = write_seg(tmp_path / "seg.dcm", files, one_hot(truth(2), 2), ["a", "b"])
    refused(changed(path, change), slices, *words)


def test_other_files_are_no_seg(tmp_path, series):
    files, slices = series
    refused(files[0], slices, "is no DICOM segmentation")
    refused(write_rtstruct(tmp_path / "rt", files, {}), slices, "is no DICOM segmentation")
    (tmp_path / "text").write_text("x" * 200)
    refused(tmp_path / "text", slices, "no DICOM")


@pytest.mark.parametrize("orientation", [AXIAL, SAGITTAL, CORONAL, OBLIQUE], ids=["axial", "sagittal", "coronal", "oblique"])
@pytest.mark.parametrize("many", [False, True], ids=["single frames", "enhanced"])
def test_what_is_written_is_read_back_here_and_by_highdicom(tmp_path, orientation, many):
    if many:
        folder = tmp_path / "many"
        folder.mkdir()
        files = [write_enhanced(folder / "a.dcm", volume(), [2, 0, 3, 1], orientation=orientation)]
    else:
        files = write_series(tmp_path / "single", volume(), orientation=orientation)
    slices = read_slices(one_series(files[0].parent))
    stored = truth()
    stored[0, 0, 0] = 255
    labels = slices.grid.from_stored(stored)
    data = dicom_seg.write_seg(labels, slices, ["liver", "b", "c"])
    path = tmp_path / "seg.dcm"
    path.write_bytes(data)
    stored[0, 0, 0] = 0
    mine, names = read_seg(path, slices)
    assert names == ("liver", "b", "c")
    np.testing.assert_array_equal(mine, slices.grid.from_stored(stored))
    theirs = hd.seg.segread(path)
    source = pydicom.dcmread(files[0])
    assert (theirs.PatientID, theirs.StudyInstanceUID) == (source.PatientID, source.StudyInstanceUID)
    assert theirs.FrameOfReferenceUID == source.FrameOfReferenceUID
    assert [theirs.get_segment_description(k).segment_label for k in theirs.segment_numbers] == ["liver", "b", "c"]
    assert referenced_series(path) == {str(source.SeriesInstanceUID)}
    if many:
        read = theirs.get_pixels_by_source_frame(source.SOPInstanceUID, [2, 4, 1, 3], combine_segments=True)
    else:
        uids = [pydicom.dcmread(file).SOPInstanceUID for file in files]
        read = theirs.get_pixels_by_source_instance(uids, combine_segments=True, assert_missing_frames_are_empty=True)
    np.testing.assert_array_equal(read, stored)


def test_an_empty_mask_and_the_same_identity_twice(series, tmp_path):
    _, slices = series
    path = tmp_path / "seg.dcm"
    path.write_bytes(dicom_seg.write_seg(np.zeros(slices.grid.shape, np.uint8), slices, ["a"]))
    labels, names = read_seg(path, slices)
    assert (labels.max(), names) == (0, ("a",))
    empty = pydicom.dcmread(path)
    labels[0, 0, 0] = 1
    made = [pydicom.dcmread(write(tmp_path, slices, labels)) for _ in range(2)]
    assert made[0].SOPInstanceUID == made[1].SOPInstanceUID != empty.SOPInstanceUID


def write(tmp_path, slices, labels, names=("a",)):
    (tmp_path / "x").write_bytes(dicom_seg.write_seg(labels, slices, names))
    return tmp_path / "x"


def test_names_and_labels_that_cannot_be_written(series, tmp_path):
    _, slices = series
    labels = np.zeros(slices.grid.shape, np.uint8)
    for names, words in (
        (["a" * 65], "cannot be a segment's label"),
        ([" "], "cannot be a segment's label"),
        (["a\\b"], "cannot be a segment's label"),
        (["a", "a"], "different names"),
        ([], "different names"),
    ):
        with pytest.raises(InputError, match=words):
            write(tmp_path, slices, labels, names)
    with pytest.raises(ValueError, match="1 classes"):
        write(tmp_path, slices, labels + np.uint8(2))
    with pytest.raises(ValueError, match="grid"):
        write(tmp_path, slices, labels[:-1])
    assert len(pydicom.dcmread(write(tmp_path, slices, labels, ["ä" * 64])).SegmentSequence) == 1


def test_sources_without_what_a_seg_needs(tmp_path):
    write_series(
        tmp_path / "bare", volume(), PatientSex=None, StudyID=None, AccessionNumber=None, StudyDate=None, Manufacturer=None
    )
    slices = read_slices(one_series(tmp_path / "bare"))
    labels = slices.grid.from_stored(truth(1))
    np.testing.assert_array_equal(read_seg(write(tmp_path, slices, labels), slices)[0], labels)
    write_series(tmp_path / "no study", volume(), StudyInstanceUID=None)
    slices = read_slices(one_series(tmp_path / "no study"))
    with pytest.raises(InputError, match="do not suffice") as caught:
        write(tmp_path, slices, labels)
    assert "P7" not in str(caught.value).replace(str(tmp_path), "")


def test_a_whole_ct_of_many_frames(tmp_path):
    """A read mask belongs to the read pixels: the bright is what is labelled."""
    hounsfield = np.full((12, 40, 48), -1000, np.int16)
    hounsfield[3:9, 10:20, 5:30] = 60
    files = write_series(tmp_path / "ct", hounsfield, orientation=SAGITTAL)
    path = write_seg(tmp_path / "seg.dcm", files, (hounsfield > 0)[..., None].astype(np.uint8), ["organ"])
    series = one_series(tmp_path / "ct")
    labels, _ = read_seg(path, read_slices(series))
    np.testing.assert_array_equal(labels, read_series(series)[0] > 0)
