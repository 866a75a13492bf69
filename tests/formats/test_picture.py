import gzip

import nibabel
import numpy as np
import pytest
from make_dicom import dicom, write
from PIL import Image

from medjax.errors import InputError
from medjax.formats.facts import narrow, rescale
from medjax.formats.picture import PICTURE_ENDINGS, picture_files, read_picture


def grey(*shape, dtype=np.uint8):
    return np.random.default_rng(0).integers(0, 255, shape or (9, 12), dtype=dtype)


def refused(path, *words):
    with pytest.raises(InputError) as caught:
        read_picture(path)
    assert str(path) in str(caught.value)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("name", ["a", "a.png", "a.dcm", "a.nii.gz"])
def test_kinds_are_told_by_their_content(tmp_path, name):
    pixels, path = grey(), tmp_path / name
    for kind in ("PNG", "TIFF", "BMP"):
        Image.fromarray(pixels).save(path, kind)
        read = read_picture(path)
        np.testing.assert_array_equal(read.pixels, pixels)
        assert read.facts.patient == ""
    Image.fromarray(pixels).save(path, "JPEG")
    assert read_picture(path).pixels.shape == pixels.shape
    read = read_picture(write(path, dicom(pixels, Modality="DX")))
    np.testing.assert_array_equal(read.pixels, pixels)
    assert read.facts.modality == "DX"
    data = nibabel.Nifti1Image(grey(4, 5, 6), np.eye(4)).to_bytes()
    for content in (data, gzip.compress(data)):
        path.write_bytes(content)
        read = read_picture(path)
        assert read.pixels.shape == (6, 5, 4)
        assert read.facts.affine is not None


@pytest.mark.parametrize("preamble", [b"II*\x00", b"MM\x00*", b"\x89PNG\r\n\x1a\n"])
def test_a_dicom_file_with_another_kind_in_its_preamble(tmp_path, preamble):
    """The preamble is free for such use (PS3.10 7.1), and real files begin as TIFF."""
    path = write(tmp_path / "a", dicom(grey()))
    path.write_bytes(preamble.ljust(128, b"\0") + path.read_bytes()[128:])
    np.testing.assert_array_equal(read_picture(path).pixels, grey())


def test_what_is_no_picture(tmp_path):
    path = tmp_path / "a.png"
    refused(path, "no such file")
    path.write_bytes(b"")
    refused(path, "0 bytes")
    path.write_text("patient,label\n")
    refused(path, "starts with b'patient,'", "PNG, JPEG, TIFF, BMP, DICOM or NIfTI")
    path.write_bytes(gzip.compress(b"text"))
    refused(path, "no picture")
    Image.fromarray(grey()).save(path, "GIF")
    refused(path, "no picture")
    refused(tmp_path, "cannot be read")


def test_picture_files(tmp_path):
    wanted = ["a.PNG", "sub/b.nii.gz", "sub/c.dcm", "sub/deep/d.ima", "e.tiff", "sub/noending", "sub/1.2.840.10008.7"]
    for name in [*wanted, "x.txt", "x.nii.txt", ".hidden.png", ".git/x.png", "sub/labels.csv", "LICENSE", "DICOMDIR", "x.7"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"" if name in ("LICENSE", "x.7") else bytes(128) + b"DICM")
    assert picture_files(tmp_path) == sorted(tmp_path / name for name in wanted)
    assert ".nii.gz" in PICTURE_ENDINGS
    with pytest.raises(InputError, match="no such folder"):
        picture_files(tmp_path / "none")


def test_rescale_and_narrow_lose_nothing():
    for dtype in (np.uint8, np.int8, np.uint16, np.int16, np.uint32, np.int32):
        info = np.iinfo(dtype)
        stored = np.array([info.min, 0, 1, 7, info.max], dtype)
        for slope, intercept in ((1, 0), (1, -1024), (-3, 5), (70000, 1), (0.5, 0.25)):
            exact = stored.astype(np.float64) * slope + intercept
            scaled = rescale(stored, slope, intercept)
            np.testing.assert_allclose(scaled.astype(np.float64), exact, rtol=0 if scaled.dtype.kind in "iu" else 1e-7)
            small = narrow(scaled)
            assert small.dtype in (np.uint8, np.uint16, np.int16, np.float32)
            np.testing.assert_allclose(small.astype(np.float64), exact, rtol=1e-7)
    assert narrow(np.array([-3, 500])).dtype == np.int16
    assert narrow(np.array([3, 50000])).dtype == np.uint16
    assert narrow(np.array([3, 70000])).dtype == np.float32
    assert narrow(np.array([3, 500], ">u2")).dtype == np.dtype(np.uint16)
