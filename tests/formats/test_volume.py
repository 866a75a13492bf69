import gzip
import itertools

import nibabel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from make_dicom import dicom, write
from PIL import Image

from medjax.errors import InputError
from medjax.formats.grid import Grid
from medjax.formats.nifti import read_nifti
from medjax.formats.volume import grid_columns, grid_of, read_geometry, read_mask, read_volume, write_mask

ORDERS = [(order, signs) for order in itertools.permutations(range(3)) for signs in itertools.product((1, -1), repeat=3)]
SHAPE = (5, 6, 7)


def affine_of(order=(0, 1, 2), signs=(1, 1, 1), *, turn=0.0, seed=0, short=True):
    """[4, 4]: stored axis i runs along the world's axis order[i], turned by a small rotation."""
    rng = np.random.default_rng(seed)
    affine = np.zeros((4, 4))
    for axis, (along, sign) in enumerate(zip(order, signs, strict=True)):
        affine[along, axis] = sign * (0.7, 1.3, 2.5)[along]
    rotation, _ = np.linalg.qr(np.eye(3) + turn * rng.normal(size=(3, 3)))
    affine[:3, :3] = rotation * np.sign(np.diag(rotation)) @ affine[:3, :3]
    affine[:, 3] = (*rng.normal(size=3) * 30, 1)
    return affine.astype(np.float32).astype(np.float64) if short else affine


def saved(path, array, affine=None, *, sform=1, qform=0, kind=nibabel.Nifti1Image):
    image = kind(array, affine_of() if affine is None else affine)
    image.set_sform(image.affine, sform)
    image.set_qform(image.affine if qform else None, qform)
    image.to_filename(path)
    return path


def picture(path, pixels, **options):
    Image.fromarray(pixels).save(path, **options)
    return path


def refused(call, path, *words):
    with pytest.raises(InputError) as caught:
        call(path)
    message = str(caught.value)
    assert str(path) in message
    assert message.count("\n") == 1, "what is wrong, then the mend"
    for word in words:
        assert word in message


def labels_of(shape=SHAPE, most=5, seed=0):
    return np.random.default_rng(seed).integers(0, most, shape).astype(np.uint8)


def again(data, tmp_path, ending):
    path = tmp_path / f"again.{ending}"
    path.write_bytes(data)
    return path


# Reading -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("turn", [0.0, 0.15])
def test_volumes_are_read_as_read_nifti_does_and_their_grid_says_where_they_lie(tmp_path, turn):
    stored = np.random.default_rng(0).integers(-900, 900, SHAPE).astype(np.int16)
    for i, (order, signs) in enumerate(ORDERS):
        affine = affine_of(order, signs, turn=turn, seed=i)
        path = saved(tmp_path / "a.nii", stored, affine)
        volume, expected = read_volume(path), read_nifti(path)
        np.testing.assert_array_equal(volume.pixels[..., 0], expected.pixels)
        np.testing.assert_allclose(volume.grid.to_world(), expected.facts.affine, atol=1e-9)
        np.testing.assert_array_equal(volume.grid.affine, nibabel.load(path).affine)
        assert volume.grid.shape == volume.pixels.shape[:3]
        assert volume.pixels.dtype == np.int16
        np.testing.assert_allclose(volume.grid.spacing, expected.facts.spacing)
        assert volume.form == "nii"


@pytest.mark.parametrize("thin", [0, 1, 2])
def test_a_slice_is_turned_as_read_nifti_does_and_its_own_axis_is_first(tmp_path, thin):
    shape = [5, 6, 7]
    shape[thin] = 1
    for order, signs in ORDERS[::5]:
        path = saved(tmp_path / "a.nii.gz", labels_of(shape), affine_of(order, signs))
        volume = read_volume(path)
        assert volume.pixels.shape[0] == volume.pixels.shape[3] == 1
        np.testing.assert_array_equal(volume.pixels[0, ..., 0], read_nifti(path).pixels)
        np.testing.assert_allclose(volume.grid.to_world(), read_nifti(path).facts.affine, atol=1e-9)
        assert volume.grid == grid_without_affine(read_geometry(path), volume.grid.affine)
        found = nibabel.load(again(write_mask(volume.pixels[..., 0], volume.grid, "nii.gz"), tmp_path, "nii.gz"))
        np.testing.assert_array_equal(np.asarray(found.dataobj), labels_of(shape))


def grid_without_affine(grid, affine):
    """A grid with the very array `affine`, so that tuples compare."""
    np.testing.assert_array_equal(grid.affine, affine)
    return grid._replace(affine=affine)


def test_the_fourth_axis_is_that_of_the_channels(tmp_path):
    stored = np.random.default_rng(0).normal(size=(*SHAPE, 3)).astype(np.float32)
    affine = affine_of((2, 0, 1), (-1, 1, -1))
    volume = read_volume(saved(tmp_path / "a.nii.gz", stored, affine))
    assert volume.form == "nii.gz"
    for c in range(3):
        one = read_nifti(saved(tmp_path / "b.nii", np.ascontiguousarray(stored[..., c]), affine))
        np.testing.assert_array_equal(volume.pixels[..., c], one.pixels)
    assert read_geometry(tmp_path / "a.nii.gz").shape == volume.grid.shape
    flat = read_volume(saved(tmp_path / "c.nii", stored[..., 0][:, :, 0]))
    assert flat.pixels.shape == (1, 6, 5, 1)


@pytest.mark.parametrize(
    ("name", "pixels", "form"),
    [
        ("a.png", np.arange(20, dtype=np.uint8).reshape(4, 5), "png"),
        ("a.tif", np.arange(20, dtype=np.uint16).reshape(4, 5) * 3000, "tif"),
        ("a.png", np.arange(60, dtype=np.uint8).reshape(4, 5, 3), "png"),
        ("a.bmp", np.arange(20, dtype=np.uint8).reshape(4, 5), "png"),
    ],
    ids=["png", "tiff16", "colour", "bmp"],
)
def test_pictures_are_one_slice_as_they_stand(tmp_path, name, pixels, form):
    volume = read_volume(picture(tmp_path / name, pixels))
    np.testing.assert_array_equal(volume.pixels, pixels.reshape(1, 4, 5, -1))
    assert volume.pixels.dtype == pixels.dtype
    assert volume.grid == Grid((1, 4, 5)) == read_geometry(tmp_path / name)
    assert volume.form == form


def test_a_picture_that_its_header_turns_has_the_turned_shape(tmp_path):
    exif = Image.Exif()
    exif[274] = 6
    picture(tmp_path / "a.jpg", np.zeros((4, 6), np.uint8), exif=exif)
    assert read_geometry(tmp_path / "a.jpg").shape == read_volume(tmp_path / "a.jpg").grid.shape == (1, 6, 4)


def test_a_single_dicom_image_is_a_slice_with_the_spacing_of_its_header(tmp_path):
    pixels = np.arange(20, dtype=np.uint16).reshape(4, 5)
    path = tmp_path / "a"
    write(path, dicom(pixels, Modality="DX", ImagerPixelSpacing=[0.2, 0.3]))
    volume = read_volume(path)
    np.testing.assert_array_equal(volume.pixels[0, ..., 0], pixels)
    assert volume.grid.spacing == read_geometry(path).spacing == (1.0, 0.2, 0.3)
    assert (volume.form, volume.facts.patient) == ("png", "P7")
    write(path, dicom(np.zeros((3, 4, 5), np.uint16), frames=True))
    refused(read_volume, path, "3 frames")


# Masks there and back ------------------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(
    order=st.sampled_from(ORDERS),
    turn=st.sampled_from([0.0, 0.1, 0.25]),
    shape=st.tuples(*[st.integers(1, 6)] * 3),
    seed=st.integers(0, 10_000),
    form=st.sampled_from(["nii", "nii.gz"]),
    kind=st.sampled_from([nibabel.Nifti1Image, nibabel.Nifti2Image]),
)
def test_masks_go_back_to_the_bit(tmp_path_factory, order, turn, shape, seed, form, kind):
    tmp_path = tmp_path_factory.mktemp("back")
    stored = labels_of(shape, 4, seed)
    path = saved(
        tmp_path / f"a.{form}",
        stored,
        affine_of(*order, turn=turn, seed=seed, short=kind is not nibabel.Nifti2Image),
        kind=kind,
    )
    labels, grid = read_mask(path)
    assert labels.dtype == np.uint8
    written = nibabel.load(again(write_mask(labels, grid, form), tmp_path, form))
    np.testing.assert_array_equal(np.asarray(written.dataobj), stored)
    assert written.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(written.affine, nibabel.load(path).affine)
    assert int(written.header["sform_code"]) == 1
    assert written.header.get_xyzt_units()[0] == "mm"
    np.testing.assert_allclose(written.header.get_zooms(), nibabel.load(path).header.get_zooms(), rtol=1e-6)


def test_all_48_orientations_go_back(tmp_path):
    for order, signs in ORDERS:
        path = saved(tmp_path / "a.nii", labels_of(), affine_of(order, signs, turn=0.1))
        written = nibabel.load(again(write_mask(*read_mask(path), "nii"), tmp_path, "nii"))
        np.testing.assert_array_equal(np.asarray(written.dataobj), labels_of())
        np.testing.assert_array_equal(written.affine, nibabel.load(path).affine)
        np.testing.assert_allclose(written.header.get_qform(coded=True)[0], written.affine, atol=1e-3)


def test_an_affine_of_a_quaternion_is_kept_to_the_bit_and_one_with_shear_gets_no_qform(tmp_path):
    path = saved(tmp_path / "a.nii.gz", labels_of(), affine_of((1, 2, 0), (-1, 1, 1), turn=0.2, short=False), sform=0, qform=1)
    labels, grid = read_mask(path)
    written = nibabel.load(again(write_mask(labels, grid, "nii.gz"), tmp_path, "nii.gz"))
    np.testing.assert_array_equal(written.affine, nibabel.load(path).affine)
    sheared = affine_of()
    sheared[0, 1] = 0.5
    labels, grid = read_mask(saved(tmp_path / "a.nii.gz", labels_of(), sheared))
    written = nibabel.load(again(write_mask(labels, grid, "nii.gz"), tmp_path, "nii.gz"))
    np.testing.assert_array_equal(written.affine, sheared)
    assert int(written.header["qform_code"]) == 0


def test_equal_masks_are_equal_bytes_whenever_they_are_written(tmp_path, monkeypatch):
    labels, grid = read_mask(saved(tmp_path / "a.nii", labels_of()))
    first = write_mask(labels, grid, "nii.gz")
    monkeypatch.setattr("time.time", lambda: 1e9)
    assert write_mask(labels.copy(), grid, "nii.gz") == first
    assert gzip.decompress(first) == write_mask(labels, grid, "nii")
    assert first[4:8] == b"\0\0\0\0"


@pytest.mark.parametrize("form", ["png", "tif"])
def test_pictures_hold_indices_or_black_and_white(tmp_path, form):
    grid = Grid((1, 6, 7))
    labels = labels_of((1, 6, 7), 4)
    path = again(write_mask(labels, grid, form, classes=3), tmp_path, form)
    found, of = read_mask(path)
    np.testing.assert_array_equal(found, labels)
    assert of == grid
    assert Image.open(path).mode == "L"
    path.write_bytes(write_mask((labels > 1).astype(np.uint8), grid, form, classes=1))
    np.testing.assert_array_equal(np.array(Image.open(path)), np.where(labels[0] > 1, 255, 0))


def test_what_cannot_be_written_is_a_mistake_of_the_caller():
    grid = Grid((1, 4, 5))
    for labels, of, form in [
        (np.zeros((1, 5, 4), np.uint8), grid, "png"),
        (np.zeros((1, 4, 5), np.int64), grid, "png"),
        (np.zeros((2, 4, 5), np.uint8), Grid((2, 4, 5)), "png"),
        (np.zeros((1, 4, 5), np.uint8), grid, "nii"),
        (np.zeros((1, 4, 5), np.uint8), grid, "dicom"),
    ]:
        with pytest.raises(ValueError):
            write_mask(labels, of, form)


def test_columns_keep_a_grid(tmp_path):
    grid = read_volume(saved(tmp_path / "a.nii", labels_of(), affine_of((2, 0, 1), (-1, 1, -1), turn=0.1))).grid
    for one in (grid, Grid((1, 4, 5)), Grid((1, 4, 5), spacing=(1.0, 0.2, 0.3))):
        columns = grid_columns(one, "nii")
        assert [columns[n].dtype for n in ("affine", "axes", "flips", "spacing")] == [np.float64, np.int8, bool, np.float64]
        back = grid_of({**columns, "shape": one.shape})
        assert back == one if one.affine is None else grid_without_affine(one, back.affine)


# Bad input -----------------------------------------------------------------------------------------------------------------


def test_bad_volumes_are_named(tmp_path):
    bad = np.zeros(SHAPE, np.float32)
    bad[0, 0, :3] = np.nan, np.inf, -np.inf
    refused(read_volume, saved(tmp_path / "a.nii", bad), "3 of 210")
    refused(read_mask, tmp_path / "a.nii", "3 of 210")
    refused(read_volume, saved(tmp_path / "b.nii", np.zeros((*SHAPE, 2, 2), np.uint8)), "5 axes")
    image = nibabel.Nifti1Image(labels_of(), None)
    image.to_filename(tmp_path / "c.nii")
    for read in (read_volume, read_geometry):
        refused(read, tmp_path / "c.nii", "no affine")
        refused(read, tmp_path / "none.nii", "no such file")
    singular = affine_of()
    singular[:3, 2] = singular[:3, 1]
    path = saved(tmp_path / "d.nii", labels_of(), singular)
    for read in (read_volume, read_geometry):
        refused(read, path, "singular")
    (tmp_path / "e.nii").write_bytes(b"nothing of the kind")
    for read in (read_volume, read_geometry, read_mask):
        refused(read, tmp_path / "e.nii", "no volume")
    whole = saved(tmp_path / "f.nii.gz", np.random.default_rng(0).integers(0, 255, (20, 20, 20)).astype(np.uint8)).read_bytes()
    (tmp_path / "f.nii.gz").write_bytes(whole[:2000])
    refused(read_volume, tmp_path / "f.nii.gz", "copy the file again")


def test_bad_masks_are_named(tmp_path):
    halves = labels_of().astype(np.float32)
    halves[0, 0, :2] = 0.5
    refused(read_mask, saved(tmp_path / "a.nii", halves), "2 of 210", "0.5")
    refused(read_mask, saved(tmp_path / "b.nii", labels_of().astype(np.int16) - 1), "-1")
    refused(read_mask, saved(tmp_path / "c.nii", np.zeros((*SHAPE, 2), np.uint8)), "2 channels")
    colour = np.zeros((4, 5, 3), np.uint8)
    np.testing.assert_array_equal(read_mask(picture(tmp_path / "d.png", colour + 7))[0], np.full((1, 4, 5), 7))
    colour[0, 0, 1] = 9
    refused(read_mask, picture(tmp_path / "d.png", colour), "channels differ")
    floats = read_mask(saved(tmp_path / "e.nii", labels_of().astype(np.float64) * 100))[0]
    assert floats.dtype == np.uint16
    assert floats.max() == 400


def test_a_jpeg_mask_is_black_and_white_or_refused(tmp_path):
    disc = (np.hypot(*(np.mgrid[:64, :64] - 31.5)) < 20).astype(np.uint8) * 255
    found, _ = read_mask(picture(tmp_path / "a.jpg", disc, quality=80))
    np.testing.assert_array_equal(found[0], disc)
    refused(read_mask, picture(tmp_path / "b.jpg", disc // 2), "JPEG")
    refused(read_mask, picture(tmp_path / "c.jpg", np.tile(np.arange(0, 256, 4, dtype=np.uint8), (64, 1))), "JPEG")
