import gzip
import itertools

import nibabel
import numpy as np
import pytest

from medjax.errors import InputError
from medjax.formats import nifti
from medjax.formats.nifti import is_nifti, load_nifti, read_nifti

SHAPE = (5, 6, 7)
SPACING = np.array([0.5, 1.5, 3.0])


def volume(*shape, dtype=np.int16, seed=0):
    return np.random.default_rng(seed).integers(0, 200, shape or SHAPE).astype(dtype)


def saved(path, array, affine=None, *, kind=nibabel.Nifti1Image, slope=None, intercept=0.0, unit="mm"):
    image = kind(array, np.diag([*SPACING, 1]) if affine is None else affine)
    image.header.set_xyzt_units(unit, "sec")
    if slope is not None:
        image.header.set_slope_inter(slope, intercept)
    image.to_filename(path)
    return path


def refused(path, *words, read=read_nifti):
    with pytest.raises(InputError) as caught:
        read(path)
    message = str(caught.value)
    assert str(path) in message
    assert message.count("\n") == 1, "what is wrong, then the mend"
    for word in words:
        assert word in message


# Which of the world's axes each stored axis runs along, in which direction: all 48.
ORDERS = [(order, signs) for order in itertools.permutations(range(3)) for signs in itertools.product((1, -1), repeat=3)]


@pytest.mark.parametrize("ending", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
def test_every_stored_orientation_reads_alike(tmp_path, ending, kind):
    """A world of voxels on a grid, stored in 48 ways: pixels [inferior-superior, anterior-posterior, right-left]."""
    world = volume()  # [x to the right, y to the front, z upward]
    expected = world.transpose(2, 1, 0)[:, ::-1, ::-1]
    for order, signs in ORDERS if ending == "a.nii" and kind is nibabel.Nifti1Image else ORDERS[::7]:
        stored = world.transpose(order)
        affine = np.zeros((4, 4))
        affine[3, 3] = 1
        for axis, (along, sign) in enumerate(zip(order, signs, strict=True)):
            stored = np.flip(stored, axis) if sign < 0 else stored
            affine[along, axis] = sign * SPACING[along]
            affine[along, 3] = 10 * along + (SPACING[along] * (SHAPE[along] - 1) if sign < 0 else 0)
        pixels, facts = read_nifti(saved(tmp_path / ending, np.ascontiguousarray(stored), affine, kind=kind))
        assert pixels.dtype == np.int16
        np.testing.assert_array_equal(pixels, expected)
        assert facts.spacing == (3.0, 1.5, 0.5)
        # Where the world says that a voxel lies, there it lies.
        for index in ((0, 0, 0), (2, 3, 1), (6, 5, 4)):
            x, y, z = (facts.affine @ [*index, 1])[:3]
            at = np.rint(np.array([x, y - 10, z - 20]) / SPACING).astype(int)
            assert pixels[index] == world[tuple(at)]


def test_oblique_volumes_keep_their_affine(tmp_path):
    rng = np.random.default_rng(0)
    turn, _ = np.linalg.qr(np.eye(3) + 0.2 * rng.normal(size=(3, 3)))
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = turn * SPACING, (4, -5, 6)
    stored = volume()
    path = saved(tmp_path / "a.nii", stored, affine)
    pixels, facts = read_nifti(path)
    array, raw, _ = load_nifti(path)
    np.testing.assert_array_equal(array, stored)
    np.testing.assert_allclose(raw, affine, atol=1e-6)
    values, counts = np.unique(stored, return_counts=True)
    for value in values[counts == 1][:20]:
        here, there = (np.argwhere(a == value)[0] for a in (pixels, stored))
        np.testing.assert_allclose(facts.affine @ [*here, 1], affine @ [*there, 1], atol=1e-4)


@pytest.mark.parametrize("thin", [0, 1, 2])
def test_slices(tmp_path, thin):
    """Axial: front above, right on the left; coronal and sagittal: head above."""
    shape = [5, 6, 7]
    shape[thin] = 1
    world = volume(*shape)
    pixels, facts = read_nifti(saved(tmp_path / "a.nii", world))
    expected = {
        2: world[:, :, 0].T[::-1, ::-1],  # rows from the front, columns from the right
        1: world[:, 0, :].T[::-1, ::-1],  # rows from above, columns from the right
        0: world[0, :, :].T[::-1, ::-1],  # rows from above, columns from the front
    }[thin]
    np.testing.assert_array_equal(pixels, expected)
    assert facts.spacing == tuple(reversed([s for axis, s in enumerate(SPACING) if axis != thin]))
    for j, k in ((0, 0), (2, 3)):
        at = np.rint((facts.affine @ [0, j, k, 1])[:3] / SPACING).astype(int)
        assert pixels[j, k] == world[tuple(at)]


def test_two_axes_and_trailing_ones(tmp_path):
    flat = volume(5, 6)
    np.testing.assert_array_equal(read_nifti(saved(tmp_path / "a.nii", flat)).pixels, flat.T[::-1, ::-1])
    deep = volume()
    expected = read_nifti(saved(tmp_path / "a.nii", deep)).pixels
    np.testing.assert_array_equal(read_nifti(saved(tmp_path / "a.nii", deep[..., None])).pixels, expected)


@pytest.mark.parametrize(
    ("stored", "slope", "intercept", "expected"),
    [
        (np.uint8, None, 0, np.uint8),
        (np.uint16, 1, 0, np.uint16),
        (np.int16, 1, -1024, np.int16),
        (np.uint8, 2, 0, np.int16),
        (np.int16, 0.25, 3, np.float32),
        (np.int32, 1, 0, np.int16),
        (np.float32, None, 0, np.float32),
        (np.float64, None, 0, np.float32),
    ],
)
def test_scaling(tmp_path, stored, slope, intercept, expected):
    array = volume(dtype=stored)
    path = saved(tmp_path / "a.nii", array)
    if slope is not None:  # nibabel would scale what it saves
        data = bytearray(path.read_bytes())
        data[112:120] = np.array([slope, intercept], "<f4").tobytes()
        path.write_bytes(data)
    read, _, facts = load_nifti(path)
    assert read.dtype == expected
    assert (facts.slope, facts.intercept) == (slope or 1, intercept)
    np.testing.assert_array_equal(read, array * float(slope or 1) + intercept)


def test_several_volumes(tmp_path):
    array = volume(4, 5, 6, 3)
    image = nibabel.Nifti1Image(array, np.diag([*SPACING, 1]))
    image.header["pixdim"][4] = 2.5
    image.to_filename(tmp_path / "a.nii.gz")
    refused(tmp_path / "a.nii.gz", "4 axes [4, 5, 6, 3]")
    read, affine, facts = load_nifti(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(read, array)
    np.testing.assert_allclose(affine, np.diag([*SPACING, 1]))
    assert facts.spacing == tuple(SPACING)
    assert facts.step == 2.5


def test_units_become_mm(tmp_path):
    for unit, scale in (("mm", 1), ("unknown", 1), ("meter", 1000), ("micron", 1e-3)):
        _, facts = read_nifti(saved(tmp_path / "a.nii", volume(), unit=unit))
        np.testing.assert_allclose(facts.spacing, SPACING[::-1] * scale)
        np.testing.assert_allclose(np.linalg.norm(facts.affine[:3, :3], axis=0), SPACING[::-1] * scale)


def changed(path, **fields):
    """Overwrite header fields of a NIfTI-1 file, past what nibabel would agree to write."""
    header = nibabel.load(path).header.copy()
    for name, value in fields.items():
        header[name] = value
    data = path.read_bytes()
    path.write_bytes(header.binaryblock + data[348:])
    return path


def test_an_affine_is_never_made_up(tmp_path):
    def fresh():
        return saved(tmp_path / "a.nii", volume())

    refused(changed(fresh(), sform_code=0, qform_code=0), "no affine", "codes are 0")
    refused(changed(fresh(), srow_x=[np.nan, 0, 0, 0]), "not finite")
    refused(changed(fresh(), srow_z=[0, 0, 0, 0]), "singular")
    refused(changed(fresh(), srow_z=[0, 1.5, 0, 0]), "singular")
    refused(changed(fresh(), srow_x=[1e30, 0, 0, 0]), "not finite")
    refused(changed(fresh(), xyzt_units=5), "unit")
    refused(changed(fresh(), sform_code=17, qform_code=1), "no such sform")  # nibabel would take the other
    # The qform stands in where only it is coded.
    image = nibabel.Nifti1Image(volume(), None)
    image.header.set_zooms(SPACING)
    image.header.set_qform(np.diag([*SPACING, 1]), code=1)
    image.header.set_sform(None, code=0)
    image.to_filename(tmp_path / "a.nii")
    assert read_nifti(tmp_path / "a.nii").facts.spacing == pytest.approx(tuple(SPACING[::-1]))


def test_truncated_files_are_refused_at_every_length(tmp_path):
    for name in ("a.nii", "a.nii.gz"):
        path = saved(tmp_path / name, volume())
        data = path.read_bytes()
        for length in {1, 2, 10, 20, *range(100, len(data), 53), *range(len(data) - 10, len(data))}:
            path.write_bytes(data[:length])
            refused(path)


def test_damage_in_a_compressed_file_is_found(tmp_path):
    path = saved(tmp_path / "a.nii.gz", volume())
    data, whole = path.read_bytes(), read_nifti(path).pixels
    passed = 0
    for position in range(10, len(data) - 4, 3):  # past gzip's own header
        path.write_bytes(data[:position] + bytes([data[position] ^ 16]) + data[position + 1 :])
        try:
            pixels = read_nifti(path).pixels
        except InputError:
            continue
        passed += 1  # a few bits of deflate mean nothing
        np.testing.assert_array_equal(pixels, whole)
    assert passed <= 3


def test_what_is_no_picture_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "a.nii"
    refused(path, "no such file")
    path.write_bytes(b"")
    refused(path, "0 bytes")
    path.write_bytes(gzip.compress(b"patient,label\n" * 100))
    refused(path, "no NIfTI")
    path.write_bytes(b"patient,label\n" * 100)
    refused(path, "no NIfTI")
    saved(path, volume(4, 5, 6, 3).astype(np.uint8).view([("R", "u1"), ("G", "u1"), ("B", "u1")])[..., 0])
    refused(path, "not an array of numbers")
    saved(path, volume().astype(np.complex64))
    refused(path, "not an array of numbers")
    bad = volume(dtype=np.float32)
    bad[0, :2, 0] = np.nan, np.inf
    refused(saved(path, bad), "2 of 210 pixels are NaN or infinite")
    assert np.isnan(load_nifti(path)[0]).sum() == 1
    nibabel.Nifti1Pair(volume(), np.eye(4)).to_filename(tmp_path / "b.hdr")
    refused(tmp_path / "b.hdr", ".img")
    saved(path, volume())
    monkeypatch.setattr(nifti, "MAX_BYTES", 500)
    refused(path, "too large")


def test_a_header_that_promises_too_much_is_refused_before_reading(tmp_path):
    path = saved(tmp_path / "a.nii", volume())
    refused(changed(path, dim=[3, 30000, 30000, 30000, 1, 1, 1, 1]), "too large")
    refused(changed(path, dim=[3, 500, 600, 700, 1, 1, 1, 1]), "ends after")


def test_signature():
    assert not is_nifti(b"")
    assert not is_nifti(b"\x1f\x8bgarbage")
    assert not is_nifti(bytes(1024))
