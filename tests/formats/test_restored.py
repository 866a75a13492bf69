"""Restored images in their inputs' formats: what is read back is what was written, where it was."""

import numpy as np
import pytest
from PIL import Image

from medjax.data.restored import given_images
from medjax.formats.grid import Grid
from medjax.formats.image import read_image
from medjax.formats.restored import refined, regridded, write_restored
from medjax.formats.volume import read_volume

nibabel = pytest.importorskip("nibabel")
AFFINE = np.array([[0, -1.5, 0.1, 10], [2.0, 0, 0, -20], [0, 0.2, -3, 5], [0, 0, 0, 1]])


def facts_of(path):
    example = given_images([path])[0]
    image = example["image"]
    return image, {
        **{k: example[k] for k in ("affine", "axes", "flips", "spacing", "form", "files")},
        "stored": image.dtype.name,
    }


def test_nifti_keeps_its_affine_and_depth(tmp_path):
    values = np.random.default_rng(0).integers(-900, 3000, (6, 8, 5)).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(values, AFFINE), tmp_path / "a.nii.gz")
    image, facts = facts_of(tmp_path / "a.nii.gz")
    (ending, data), *_ = write_restored(image + 0.4, image.shape, facts).items()
    (tmp_path / f"b{ending}").write_bytes(data)
    back = nibabel.load(tmp_path / f"b{ending}")
    np.testing.assert_array_equal(np.asarray(back.dataobj), values)
    np.testing.assert_allclose(back.affine, AFFINE, atol=1e-6)
    assert back.get_data_dtype() == np.int16


@pytest.mark.parametrize("factor", [2, 3])
def test_a_finer_grid_covers_the_same_field(tmp_path, factor):
    nibabel.save(nibabel.Nifti1Image(np.zeros((6, 8, 5), np.float32), AFFINE), tmp_path / "a.nii")
    grid = read_volume(tmp_path / "a.nii").grid
    fine = refined(grid, factor)
    coarse_world, fine_world = grid.to_world(), fine.to_world()
    for j, k in ((0, 0), (2, 3)):
        # The mean place of the fine voxels of a coarse one is the coarse one's.
        inside = [(1, j * factor + a, k * factor + b, 1) for a in range(factor) for b in range(factor)]
        middle = np.mean([fine_world @ np.array(v) for v in inside], 0)
        np.testing.assert_allclose(middle, coarse_world @ np.array([1, j, k, 1]), atol=1e-9)
    assert fine.spacing[1:] == pytest.approx([s / factor for s in grid.spacing[1:]])


def test_cut_and_padded_grids_stay_in_place(tmp_path):
    nibabel.save(nibabel.Nifti1Image(np.zeros((6, 8, 5), np.float32), AFFINE), tmp_path / "a.nii")
    grid = read_volume(tmp_path / "a.nii").grid
    d, h, w = grid.shape
    padded = regridded(grid, (d, h + 5, w + 2), (1, 1, 1), (0, 3, 1))
    np.testing.assert_allclose(padded.to_world() @ [1, 3 + 2, 1 + 1, 1], grid.to_world() @ [1, 2, 1, 1], atol=1e-9)
    cut = regridded(grid, (d, h - 1, w - 1), (1, 1, 1))
    np.testing.assert_allclose(cut.to_world() @ [1, 2, 1, 1], grid.to_world() @ [1, 2, 1, 1], atol=1e-9)
    assert regridded(grid, grid.shape, (1, 1, 1)) is grid
    assert regridded(Grid((1, 4, 4)), (1, 8, 8), (1, 0.5, 0.5)).affine is None


@pytest.mark.parametrize(
    ("dtype", "name"), [(np.uint8, "a.png"), (np.uint16, "a.png"), (np.uint16, "a.tif"), (np.float32, "a.tif")]
)
def test_pictures_keep_their_depth(tmp_path, dtype, name):
    top = 1.0 if dtype == np.float32 else np.iinfo(dtype).max
    values = (np.random.default_rng(1).random((9, 7)) * top).astype(dtype)
    Image.fromarray(values).save(tmp_path / name)
    image, facts = facts_of(tmp_path / name)
    ((ending, data),) = write_restored(image.astype(np.float32), image.shape, facts).items()
    (tmp_path / f"b{ending}").write_bytes(data)
    back = read_image(tmp_path / f"b{ending}")
    assert back.dtype == dtype
    np.testing.assert_array_equal(back, values)
    assert ending == f".{name[2:]}"


def test_values_beyond_the_depth_are_clipped(tmp_path):
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "a.png")
    image, facts = facts_of(tmp_path / "a.png")
    ((ending, data),) = write_restored(np.full(image.shape, 300.0), image.shape, facts).items()
    (tmp_path / f"b{ending}").write_bytes(data)
    assert (read_image(tmp_path / f"b{ending}") == 255).all()


@pytest.mark.realdata
def test_dicom_slices_come_back_in_hounsfield_units(real_data, tmp_path):
    pydicom = pytest.importorskip("pydicom")
    file = next(f for f in sorted((real_data / "ct_dicom").iterdir()) if f.is_file() and f.suffix != ".csv")
    image, facts = facts_of(file)
    assert facts["form"] == "dicom"
    for factor in (1, 2):
        wanted = np.repeat(np.repeat(image.astype(np.float32), factor, 1), factor, 2)
        ((ending, data),) = write_restored(wanted, image.shape, facts).items()
        (tmp_path / f"b{ending}").write_bytes(data)
        back, _ = facts_of(tmp_path / f"b{ending}")
        np.testing.assert_array_equal(back, wanted)
        old, new = pydicom.dcmread(file), pydicom.dcmread(tmp_path / f"b{ending}")
        assert new.SOPInstanceUID != old.SOPInstanceUID
        assert new.PatientID == old.PatientID
        assert float(new.PixelSpacing[0]) == pytest.approx(float(old.PixelSpacing[0]) / factor)
        assert new.ImageType[0] == "DERIVED"
    assert write_restored(wanted, image.shape, facts)[".dcm"] == data
