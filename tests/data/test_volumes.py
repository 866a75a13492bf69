import os
import shutil

import make_layouts
import make_volumes as make
import numpy as np
import pytest

from medjax.data.volumes import MaskItem, MaskSource, volume_source
from medjax.errors import InputError
from medjax.formats.volume import read_volume


def refused(call, *words):
    with pytest.raises(InputError) as caught:
        call()
    assert str(caught.value).count("\n") == 1, "what is wrong, then the mend"
    for word in words:
        assert str(word) in str(caught.value)


def ids(source):
    return [source.case_id(i) for i in range(len(source))]


@pytest.fixture(scope="module")
def nnunet(tmp_path_factory):
    """Shared, so do not change it."""
    return make.write_nnunet(tmp_path_factory.mktemp("nnunet"), 3, test=0)


def write_series(folder, n=4, *, uid="1.2.3", size=6, modality="CT", **facts):
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(n):
        pixels = np.full((size, size), i, np.int16)
        geometry = {"ImagePositionPatient": [0, 0, 2.0 * i], "ImageOrientationPatient": [1, 0, 0, 0, 1, 0]}
        made = make_layouts.dicom(pixels, patient="P", PixelSpacing=[0.5, 0.5], SeriesInstanceUID=uid, **geometry, **facts)
        made.FrameOfReferenceUID, made.Modality = "1.2.3.4", modality
        made.save_as(folder / f"{n - i}.dcm")
    return folder


def test_a_case_without_a_mask_is_not_annotated(tmp_path):
    path = make.save_nifti(tmp_path / "a.nii.gz", np.ones((5, 6, 7), np.int16))
    example = MaskSource([MaskItem((path,), "a")], ("background", "x", "y"), ("CT",))[0]
    assert (example["mask"] == 255).all()
    assert example["label"].tolist() == [-1, -1]
    whole = make.save_nifti(tmp_path / "m.nii.gz", np.full((5, 6, 7), 9, np.uint8))
    source = MaskSource([MaskItem((path,), "a", whole)], ("background", "x", "y"), ("CT",), values={0: 0, 1: 1, 2: 2, 9: 255})
    assert source[0]["label"].tolist() == [-1, -1]


def test_identity_follows_files_and_meaning(tmp_path):
    path = make.save_nifti(tmp_path / "a.nii.gz", np.ones((5, 6, 7), np.int16))
    mask = make.save_nifti(tmp_path / "m.nii.gz", np.ones((5, 6, 7), np.uint8))

    def made(**options):
        return list(MaskSource([MaskItem((path,), "a", mask)], ("background", "x"), ("CT",), **options).identity())

    before = made()
    assert made() == before
    assert made(values={0: 0, 255: 1}) != before
    os.utime(mask, (1, 1))
    assert made() != before
    mask.unlink()
    assert made() != before


def test_channels_of_different_kinds_are_joined_in_one_that_holds_both(tmp_path):
    one = make.save_nifti(tmp_path / "a.nii.gz", np.full((5, 6, 7), -3, np.int16))
    two = make.save_nifti(tmp_path / "b.nii.gz", np.full((5, 6, 7), 200, np.uint8))
    example = MaskSource([MaskItem((one, two), "a")], ("background", "x"), ("T1", "T2"))[0]
    assert example["image"].dtype == np.int16
    assert example["image"][0, 0, 0].tolist() == [-3, 200]


def test_files_named_for_prediction(tmp_path, nnunet):
    path = make.save_nifti(tmp_path / "x" / "a.nii.gz", np.ones((5, 6, 7, 2), np.int16))
    make_layouts.save(tmp_path / "x" / "in" / "b.png", np.zeros((4, 5), np.uint8))
    source = volume_source([path], channels=("T1", "T2"), classes=3)
    assert ids(source) == ["a"]
    example = source[0]
    assert example["image"].shape == (7, 6, 5, 2)
    assert (example["mask"] == 255).all()
    assert example["label"].tolist() == [-1, -1]
    assert example["form"] == "nii.gz"
    assert ids(volume_source([tmp_path / "x"], channels=("grey",), classes=2)) == ["a", "in/b"]
    refused(lambda: volume_source([path], channels=("CT",), classes=2)[0], path, "2 channels")
    (tmp_path / "void").mkdir()
    refused(lambda: volume_source([tmp_path / "void"], channels=("CT",), classes=2), tmp_path / "void", "no images")
    refused(lambda: volume_source([tmp_path / "no"], channels=("CT",), classes=2), tmp_path / "no")
    refused(lambda: volume_source([path, path], channels=("CT",), classes=2), "'a'")


def test_numbered_files_are_the_channels_of_a_case_where_several_are_wanted(tmp_path, nnunet):
    source = volume_source([nnunet / "imagesTr"], channels=("T1", "T2"), classes=3)
    assert ids(source) == ["case_Tr0", "case_Tr1", "case_Tr2"]
    first = read_volume(nnunet / "imagesTr" / "case_Tr1_0001.nii.gz")
    np.testing.assert_array_equal(source[1]["image"][..., 1], first.pixels[..., 0])
    files = [nnunet / "imagesTr" / "case_Tr0_0000.nii.gz"]
    assert ids(volume_source(files, channels=("T1",), classes=3)) == ["case_Tr0_0000"]
    shutil.copytree(nnunet / "imagesTr", tmp_path / "part")
    (tmp_path / "part" / "case_Tr1_0001.nii.gz").unlink()
    refused(lambda: volume_source([tmp_path / "part"], channels=("T1", "T2"), classes=3), "case_Tr1_0001")
    for i in range(1, 3):  # numbered cases that hold both channels
        make.save_nifti(tmp_path / "whole" / f"case_{i:04d}.nii.gz", np.zeros((5, 6, 7, 2), np.int16))
    assert ids(volume_source([tmp_path / "whole"], channels=("T1", "T2"), classes=3)) == ["case_0001", "case_0002"]
    for i in range(3):  # frames of a film in colour are no channels
        make_layouts.save(tmp_path / "film" / f"frame_{i:04d}.png", np.zeros((4, 5, 3), np.uint8))
    source = volume_source([tmp_path / "film"], channels=("red", "green", "blue"), classes=2)
    assert len(source) == 3
    assert source[0]["image"].shape == (1, 4, 5, 3)


def test_numbered_files_named_one_by_one_are_joined_too(nnunet):
    files = [nnunet / "imagesTr" / f"case_Tr0_000{c}.nii.gz" for c in range(2)]
    source = volume_source(files, channels=("T1", "T2"), classes=3)
    assert ids(source) == ["case_Tr0"]
    assert source[0]["image"].shape[-1] == 2


def test_a_dicom_series_is_a_volume_and_single_images_are_pictures(tmp_path):
    write_series(tmp_path / "data" / "ct")
    write_series(tmp_path / "data" / "xray", 1, uid="1.2.9", modality="DX")
    source = volume_source([tmp_path / "data"], channels=("CT",), classes=2)
    assert ids(source) == ["ct", "xray/1"]
    volume, picture = source[0], source[1]
    assert volume["image"].shape == (4, 6, 6, 1)
    assert volume["image"][:, 0, 0, 0].tolist() == [0, 1, 2, 3]
    assert volume["spacing"].tolist() == [2.0, 0.5, 0.5]
    assert (volume["form"], volume["patient"]) == ("dicom", "P")
    assert picture["image"].shape == (1, 6, 6, 1)
    assert picture["form"] == "png"
    assert source.facts(0)["shape"].tolist() == [4, 6, 6]
    assert len(list(source.identity())) == 1 + 2 + 5
    assert ids(volume_source([tmp_path / "data" / "ct"], channels=("CT",), classes=2)) == ["ct"]
