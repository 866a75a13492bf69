import logging
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pydicom
import pytest
from make_dicom import dicom, write
from PIL import ImageFile
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, get_frame
from pydicom.sequence import Sequence
from pydicom.uid import (
    JPEG2000,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from medjax import extras
from medjax.errors import InputError
from medjax.formats import dicom_pixels
from medjax.formats.dicom import dicom_facts, is_dicom, read_dicom
from medjax.formats.intensity import window

SHIPPED = Path(pydicom.__file__).parent / "data" / "test_files"
NATIVE = [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian]
LOSSLESS = [RLELossless, JPEGLossless, JPEGLosslessSV1, JPEGLSLossless, JPEG2000Lossless]
LOSSY = [JPEGBaseline8Bit, JPEGExtended12Bit, JPEG2000]
CT = {"Modality": "CT", "RescaleSlope": 1, "RescaleIntercept": -1024}


def noise(*shape, low=0, high=4096, dtype=np.uint16, seed=0):
    return np.random.default_rng(seed).integers(low, high, shape, dtype=dtype)


def smooth(dtype=np.uint16):
    y, x = np.mgrid[:40, :56]
    values = 2000 + 1500 * np.sin(x / 9) * np.cos(y / 7)
    return (values / 16 if dtype == np.uint8 else values).astype(dtype)


def refused(path, *words, read=read_dicom, **options):
    with pytest.raises(InputError) as caught:
        read(path, **options)
    message = str(caught.value)
    assert str(path) in message
    assert message.count("\n") == 1, "what is wrong, then the mend"
    for word in words:
        assert word in message
    for secret in ("Secret", "P7", "1950"):
        assert secret not in message.replace(str(path), "")
    return message


@pytest.mark.parametrize("syntax", NATIVE, ids=lambda uid: uid.keyword)
def test_native_pixels_are_exact(tmp_path, syntax):
    signed = noise(13, 18, low=-2048, high=2048, dtype=np.int16)
    for pixels, stored in ((noise(13, 18), 12), (signed, 12), (signed, 16), (noise(13, 17, high=256, dtype=np.uint8), 8)):
        read = read_dicom(write(tmp_path / "a", dicom(pixels, stored=stored, syntax=syntax))).pixels
        assert read.dtype == pixels.dtype
        np.testing.assert_array_equal(read, pixels)
        read[0] = 0  # writable
    assert read_dicom(write(tmp_path / "a", dicom(noise(4, 5, 3, high=256, dtype=np.uint8), syntax=syntax))).pixels.shape == (
        4,
        5,
        3,
    )


@pytest.mark.parametrize("syntax", LOSSLESS, ids=lambda uid: uid.keyword)
def test_lossless_compression_is_exact(tmp_path, syntax):
    signed = smooth().astype(np.int16) - 2000
    for pixels, stored in ((smooth(), 12), (smooth(), 16), (signed, 12), (signed, 16), (smooth(np.uint8), 8)):
        read = read_dicom(write(tmp_path / "a", dicom(pixels, stored=stored), syntax)).pixels
        assert read.dtype == pixels.dtype
        np.testing.assert_array_equal(read, pixels)


@pytest.mark.parametrize("syntax", LOSSY, ids=lambda uid: uid.keyword)
def test_lossy_compression_is_close(tmp_path, syntax):
    pixels, stored = (smooth(np.uint8), 8) if syntax == JPEGBaseline8Bit else (smooth(), 12)
    read = read_dicom(write(tmp_path / "a", dicom(pixels, stored=stored), syntax)).pixels
    assert read.dtype == pixels.dtype
    assert np.abs(read.astype(int) - pixels).max() <= 3


@pytest.mark.parametrize("name", sorted(path.name for path in SHIPPED.glob("*.dcm")))
def test_shipped_files_against_pydicom(name):
    """Every real file that pydicom ships: its own decoding, or a refusal that says why."""
    path = SHIPPED / name
    truth = pydicom.dcmread(path, force=True)
    try:
        expected = truth.pixel_array
    except Exception:
        if name not in ("JPGExtended.dcm", "JPEG-lossy.dcm"):  # 12-bit JPEG, which pydicom leaves to a GPL decoder
            refused(path)
            return
        picture = read_dicom(path).pixels
        twin = pydicom.dcmread(SHIPPED / "JPEG2000.dcm").pixel_array  # the same scan
        assert np.corrcoef(picture.ravel(), twin.ravel())[0, 1] > 0.9
        return
    if name in ("SC_rgb_rle_32bit.dcm", "SC_rgb_rle_32bit_2frame.dcm"):
        refused(path, "32 bits")
        return
    if name == "badVR.dcm":
        refused(path, "NumberOfFrames")
        return
    pixels, facts = read_dicom(path)
    if "PALETTE" in truth.PhotometricInterpretation:
        expected = pydicom.pixels.apply_color_lut(expected, truth) >> 8
    if facts.hounsfield:
        expected = expected.astype(float) * float(truth.RescaleSlope) + float(truth.RescaleIntercept)
        padding = float(truth.get("PixelPaddingValue", -1e9)) * float(truth.RescaleSlope) + float(truth.RescaleIntercept)
        outside = (expected < -1024) | (expected == padding)
        assert facts.padding == outside.sum()
        expected = np.where(outside, -1000, expected)
        assert pixels.dtype == np.int16
    # pydicom takes the first available decoder, we the fastest: JPEG's inverse transform may round otherwise.
    lossy = truth.file_meta.TransferSyntaxUID in (JPEGBaseline8Bit, JPEG2000) if hasattr(truth, "file_meta") else False
    assert pixels.shape == expected.shape
    assert np.abs(pixels.astype(float) - expected).max() <= (4 if lossy else 0)


def test_unused_bits_are_masked(tmp_path):
    for dtype, low, high in ((np.uint16, 0, 4096), (np.int16, -2048, 2048)):
        pixels = noise(6, 7, low=low, high=high, dtype=dtype)
        dirty = (pixels.astype(np.uint16) & 0x0FFF) | 0x5000  # an overlay's bits, as old files keep them
        made = dicom(pixels, stored=12)
        made.PixelData = dirty.astype("<u2").tobytes()
        np.testing.assert_array_equal(read_dicom(write(tmp_path / "a", made)).pixels, pixels)


@pytest.mark.parametrize(
    ("dtype", "stored", "total"), [(np.uint16, 12, 4095), (np.uint8, 8, 255), (np.int16, 16, -1), (np.int16, 12, -1)]
)
def test_monochrome1_is_inverted_in_the_stored_range(tmp_path, dtype, stored, total):
    info = np.iinfo(dtype)
    pixels = noise(9, 8, low=max(info.min, -2048), high=min(info.max, 2047) + 1, dtype=dtype)
    read = read_dicom(write(tmp_path / "a", dicom(pixels, stored=stored, photometric="MONOCHROME1"))).pixels
    assert read.dtype == dtype
    np.testing.assert_array_equal(read, total - pixels.astype(int))


def test_windows_of_monochrome1_show_the_same_picture(tmp_path):
    pixels = noise(20, 20)
    made = dicom(
        pixels,
        stored=12,
        photometric="MONOCHROME1",
        WindowCenter=[1500, 2000],
        WindowWidth=[900, 1],
        RescaleSlope=2,
        RescaleIntercept=-7,
    )
    read, facts = read_dicom(write(tmp_path / "a", made))
    for (centre, width), (old_centre, old_width) in zip(facts.windows, [(1500, 900), (2000, 1)], strict=True):
        expected = 1 - window(pixels * 2.0 - 7, old_centre, old_width)
        np.testing.assert_allclose(window(read, centre, width), expected, atol=1e-6)


@pytest.mark.parametrize("slope", [1, 2, 0.5, 1.0000152])
def test_rescale(tmp_path, slope):
    pixels = noise(9, 8)
    read, facts = read_dicom(
        write(tmp_path / "a", dicom(pixels, stored=12, Modality="MR", RescaleSlope=slope, RescaleIntercept=-100))
    )
    assert read.dtype == (np.int16 if float(slope).is_integer() else np.float32)
    np.testing.assert_allclose(read, pixels * np.float64(slope) - 100, rtol=1e-7, atol=1e-4)
    assert not facts.hounsfield


def test_modality_look_up_table(tmp_path):
    pixels = noise(9, 8, high=300)
    table = Dataset()
    entries = (np.linspace(0, 1023, 256) ** 1.2).astype("<u2")
    table.LUTDescriptor, table.LUTData = [256, 10, 16], entries.tobytes()
    for photometric in ("MONOCHROME2", "MONOCHROME1"):
        made = dicom(pixels, stored=12, photometric=photometric, ModalityLUTSequence=Sequence([table]))
        expected = entries.astype(int)[np.clip(pixels.astype(int) - 10, 0, 255)]
        expected = 65535 - expected if photometric == "MONOCHROME1" else expected
        np.testing.assert_array_equal(read_dicom(write(tmp_path / "a", made)).pixels, expected)


@pytest.mark.parametrize("padding", [-2000, 63536])  # the second is the first, written with the wrong sign
def test_ct_is_in_hounsfield_units_with_air_for_padding(tmp_path, padding):
    stored = noise(30, 30, low=0, high=3000, dtype=np.int16)
    stored[:3], stored[3, :4], stored[4, :5] = -2000, -1, 0
    made = dicom(stored, PixelPaddingValue=-2000, **CT)
    path = write(tmp_path / "a", made)
    if padding > 0:
        data = path.read_bytes()
        assert data.count(b"\x28\x00\x20\x01SS\x02\x00\x30\xf8") == 1
        path.write_bytes(data.replace(b"\x28\x00\x20\x01SS", b"\x28\x00\x20\x01US"))
    pixels, facts = read_dicom(path)
    assert pixels.dtype == np.int16
    assert facts.hounsfield
    assert facts.padding == 3 * 30 + 4  # -1 is -1025 HU; 0 is -1024 and stays
    expected = stored.astype(int) - 1024
    np.testing.assert_array_equal(pixels, np.where((stored == -2000) | (stored == -1), -1000, expected))


def test_ct_dtypes_and_what_is_not_in_hounsfield_units(tmp_path):
    stored = noise(8, 8)
    assert read_dicom(write(tmp_path / "a", dicom(stored, **{**CT, "RescaleIntercept": 0}))).pixels.dtype == np.int16
    for dtype in (np.uint8, np.uint16):  # air does not fit what is stored
        filled = stored.astype(dtype)
        filled[0] = 255
        made = dicom(filled, PixelPaddingValue=255, **{**CT, "RescaleIntercept": 0})
        np.testing.assert_array_equal(
            read_dicom(write(tmp_path / "a", made)).pixels, np.where(filled == 255, -1000, filled.astype(int))
        )
    half = read_dicom(write(tmp_path / "a", dicom(stored, **{**CT, "RescaleSlope": 0.5}))).pixels
    assert half.dtype == np.float32
    np.testing.assert_allclose(half, stored * 0.5 - 1024)
    inverse = read_dicom(write(tmp_path / "a", dicom(stored, stored=12, photometric="MONOCHROME1", **CT))).pixels
    np.testing.assert_array_equal(inverse, stored.astype(int) - 1024)  # the unit says what is more
    scout = read_dicom(write(tmp_path / "a", dicom(stored, RescaleType="US", **CT)))
    assert not scout.facts.hounsfield
    bare = read_dicom(write(tmp_path / "a", dicom(stored, Modality="CT")))
    assert not bare.facts.hounsfield
    assert bare.pixels.dtype == np.uint16


def test_padding_range_is_counted_elsewhere(tmp_path):
    stored = noise(8, 8, low=100)
    stored[0, :3] = 0, 5, 9
    pixels, facts = read_dicom(
        write(tmp_path / "a", dicom(stored, Modality="MG", PixelPaddingValue=0, PixelPaddingRangeLimit=5))
    )
    assert facts.padding == 2
    np.testing.assert_array_equal(pixels, stored)


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, RLELossless, JPEG2000Lossless])
def test_colour(tmp_path, syntax):
    pixels = noise(40, 44, 3, high=256, dtype=np.uint8)
    made = dicom(pixels, Modality="US")
    np.testing.assert_array_equal(read_dicom(write(tmp_path / "a", made, syntax)).pixels, pixels)
    grey = np.repeat(pixels[..., :1], 3, -1)
    np.testing.assert_array_equal(read_dicom(write(tmp_path / "a", dicom(grey), syntax)).pixels, grey[..., 0])


def test_ybr_and_planes(tmp_path):
    rgb = noise(10, 12, 3, high=256, dtype=np.uint8)
    # PS3.3 C.7.6.3.1.2
    forward = np.array([[0.299, 0.587, 0.114], [-0.1687, -0.3313, 0.5], [0.5, -0.4187, -0.0813]])
    ybr = np.clip(np.rint(rgb @ forward.T + [0, 128, 128]), 0, 255).astype(np.uint8)
    read = read_dicom(write(tmp_path / "a", dicom(ybr, photometric="YBR_FULL"))).pixels
    assert np.abs(read.astype(int) - rgb).max() <= 3
    made = dicom(rgb)
    made.PlanarConfiguration, made.PixelData = 1, np.ascontiguousarray(rgb.transpose(2, 0, 1)).tobytes()
    np.testing.assert_array_equal(read_dicom(write(tmp_path / "a", made)).pixels, rgb)
    y, x = np.mgrid[:48, :64]
    slow = np.stack([3 * x, 4 * y, 200 - x - y], -1).astype(np.uint8)
    assert np.abs(read_dicom(write(tmp_path / "a", dicom(slow), JPEGBaseline8Bit)).pixels.astype(int) - slow).max() <= 10


@pytest.mark.parametrize("bits", [8, 16])
def test_palette(tmp_path, bits):
    index = noise(9, 10, high=256, dtype=np.uint8)
    tables = noise(3, 256, high=2**bits, dtype=np.uint16, seed=1)
    made = dicom(index, photometric="PALETTE COLOR")
    for name, table in zip(("Red", "Green", "Blue"), tables, strict=True):
        setattr(made, f"{name}PaletteColorLookupTableDescriptor", [256, 0, bits])
        setattr(made, f"{name}PaletteColorLookupTableData", table.astype("u1" if bits == 8 else "<u2").tobytes())
    expected = (tables >> bits - 8).T[index]
    for syntax in (None, RLELossless, JPEGLSLossless):
        np.testing.assert_array_equal(read_dicom(write(tmp_path / "a", made, syntax)).pixels, expected)
        made = dicom(index, photometric="PALETTE COLOR", **{name: made[name].value for name in made.dir("PaletteColor")})


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, RLELossless, JPEG2000Lossless])
def test_frames(tmp_path, syntax):
    pixels = noise(5, 40, 50)
    path = write(
        tmp_path / "a", dicom(pixels, frames=True, stored=12, PixelSpacing=[0.5, 0.25], SpacingBetweenSlices=2), syntax
    )
    read, facts = read_dicom(path)
    np.testing.assert_array_equal(read, pixels)
    assert facts.spacing == (2, 0.5, 0.25)
    one = read_dicom(path, frame=3)
    np.testing.assert_array_equal(one.pixels, pixels[3])
    assert one.facts.spacing == (0.5, 0.25)
    refused(path, "no frame 5", frame=5)
    refused(path, "no frame -1", frame=-1)


def test_a_single_frame_is_an_image(tmp_path):
    pixels = noise(1, 8, 10)
    np.testing.assert_array_equal(read_dicom(write(tmp_path / "a", dicom(pixels, frames=True))).pixels, pixels[0])


def item(**elements):
    made = Dataset()
    for keyword, value in elements.items():
        setattr(made, keyword, value)
    return made


def test_functional_groups(tmp_path):
    """An enhanced CT: spacing shared, rescale, windows and positions by frame."""
    stored = noise(3, 6, 7)
    shared = item(PixelMeasuresSequence=[item(PixelSpacing=[0.5, 0.5])])
    frames = [
        item(
            PixelValueTransformationSequence=[item(RescaleSlope=k + 1, RescaleIntercept=-100 * k, RescaleType="HU")],
            FrameVOILUTSequence=[item(WindowCenter=40 + k, WindowWidth=400)],
            PlanePositionSequence=[item(ImagePositionPatient=[0, 0, 2.5 * k])],
        )
        for k in range(3)
    ]
    made = dicom(
        stored, frames=True, Modality="CT", SharedFunctionalGroupsSequence=[shared], PerFrameFunctionalGroupsSequence=frames
    )
    path = write(tmp_path / "a", made)
    pixels, facts = read_dicom(path)
    assert pixels.dtype == np.int16
    assert facts.hounsfield
    assert facts.spacing == (2.5, 0.5, 0.5)
    np.testing.assert_array_equal(pixels, np.stack([stored[k].astype(int) * (k + 1) - 100 * k for k in range(3)]))
    one = read_dicom(path, frame=2)
    np.testing.assert_array_equal(one.pixels, pixels[2])
    assert one.facts.windows == ((42, 400),)
    frames[2].PlanePositionSequence[0].ImagePositionPatient = [0, 0, 9]
    assert read_dicom(write(tmp_path / "a", made)).facts.spacing is None  # uneven


def test_facts(tmp_path):
    known = {
        "PatientSex": "F",
        "PatientAge": "060Y",
        "ViewPosition": "pa",
        "Modality": "DX",
        "InstitutionName": "North",
        "ImagerPixelSpacing": [0.14, 0.15],
        "WindowCenter": [40, 300],
        "WindowWidth": [400, 1500],
    }
    path = write(tmp_path / "a", dicom(noise(4, 4), **known))
    for facts in (read_dicom(path).facts, dicom_facts(path)):
        assert facts[:6] == ("P7", "F", 60, "PA", "DX", "North")
        assert facts.spacing == (0.14, 0.15)
        assert facts.windows == ((40, 400), (300, 1500))
    bare = read_dicom(write(tmp_path / "a", dicom(noise(4, 4), PatientSex="O"))).facts
    assert (bare.sex, bare.view, bare.modality, bare.site, bare.spacing, bare.windows) == ("", "", "", "", None, ())
    assert np.isnan(bare.age)
    assert "Secret" not in repr(bare)


@pytest.mark.parametrize(
    ("text", "years"),
    [("060Y", 60), ("018M", 1.5), ("010W", 70 / 365.25), ("004D", 4 / 365.25), ("51", 51), ("", np.nan), ("Y", np.nan)],
)
def test_ages(tmp_path, text, years):
    assert dicom_facts(write(tmp_path / "a", dicom(noise(4, 4), PatientAge=text))).age == pytest.approx(years, nan_ok=True)


def test_facts_that_do_not_parse_are_unknown(tmp_path):
    path = write(
        tmp_path / "a", dicom(noise(4, 4), PixelSpacing=[0.125, 0.125], WindowCenter=44, WindowWidth=4000, PatientAge="044Y")
    )
    data = path.read_bytes()
    for old, new in ((b"0.125\\0.125", b"0.1x5\\0.125"), (b"4000", b"4,00"), (b"044Y", b"4 Y?")):
        assert data.count(old) == 1
        data = data.replace(old, new)
    path.write_bytes(data)
    facts = read_dicom(path).facts
    assert (facts.spacing, facts.windows) == (None, ())
    assert np.isnan(facts.age)


def test_without_preamble(tmp_path):
    for syntax in (ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian):
        pixels = noise(6, 7)
        path = write(tmp_path / "a", dicom(pixels, syntax=syntax))
        data = path.read_bytes()
        meta = 132 + 12 + int.from_bytes(data[140:144], "little")  # the length of group 0002
        for start in (132, meta):  # with and without the file's meta information
            path.write_bytes(data[start:])
            np.testing.assert_array_equal(read_dicom(path).pixels, pixels)


def test_what_is_no_dicom(tmp_path):
    path = tmp_path / "a.dcm"
    refused(path, "no such file")
    path.write_bytes(b"")
    refused(path, "0 bytes")
    for text in (b"patient,label\n1,2\n" * 20, b"\x89PNG\r\n\x1a\n" + bytes(300), bytes(300), b"\x08\x00"):
        path.write_bytes(text)
        assert not is_dicom(text)
        refused(path, "no DICOM")
    refused(tmp_path, "cannot be read")


BROKEN = [
    ({"Rows": None}, "Rows"),
    ({"Rows": 0}, "no pixels"),
    ({"NumberOfFrames": 0}, "0 frames"),
    ({"Columns": 11}, "truncated or damaged"),
    ({"PhotometricInterpretation": "Secret"}, "photometric"),
    ({"PhotometricInterpretation": "RGB"}, "1 samples a pixel contradict RGB"),
    ({"BitsAllocated": 12}, "bits"),
    ({"BitsStored": 17}, "bits"),
    ({"HighBit": 14}, "bits"),
    ({"RescaleSlope": 0}, "RescaleSlope"),
    ({"Rows": 60000, "Columns": 60000}, "too many pixels"),
    ({"NumberOfFrames": 2**30}, "too many pixels"),
]


@pytest.mark.parametrize(("changes", "words"), BROKEN, ids=lambda value: str(value)[:30])
def test_contradictions_are_refused(tmp_path, changes, words):
    made = dicom(noise(9, 10))
    for keyword, value in changes.items():
        if value is None:
            delattr(made, keyword)
        else:
            setattr(made, keyword, value)
    refused(write(tmp_path / "a", made), words)


def test_no_pixel_data(tmp_path):
    made = dicom(noise(9, 10))
    del made.PixelData
    refused(write(tmp_path / "a", made), "no pixel data")


@pytest.mark.parametrize("syntax", [*NATIVE, *LOSSLESS, *LOSSY], ids=lambda uid: uid.keyword)
def test_truncated_files_are_refused(tmp_path, syntax):
    eight = syntax == JPEGBaseline8Bit
    native = syntax in NATIVE
    made = dicom(
        smooth(np.uint8 if eight else np.uint16), stored=8 if eight else 12, syntax=syntax if native else ExplicitVRLittleEndian
    )
    path = write(tmp_path / "a", made, None if native else syntax)
    data = path.read_bytes()
    for length in {*range(133, len(data) - 12, len(data) // 40), *range(len(data) - 40, len(data) - 12)}:
        path.write_bytes(data[:length])
        refused(path)


@pytest.mark.parametrize("syntax", [*LOSSLESS, *LOSSY], ids=lambda uid: uid.keyword)
def test_truncated_frames_are_refused(tmp_path, syntax):
    """The container is whole, the compressed stream in it is not."""
    made = dicom(smooth(np.uint8), stored=8) if syntax == JPEGBaseline8Bit else dicom(smooth(), stored=12)
    path = write(tmp_path / "a", made, syntax)
    whole = pydicom.dcmread(path)
    frame = get_frame(whole.PixelData, 0, number_of_frames=1)
    for cut in (12, len(frame) // 4, len(frame) // 2, len(frame) - 30):
        whole.PixelData = encapsulate([frame[:-cut]])
        whole.save_as(path)
        refused(path)


def test_streams_at_which_gdcm_ends_the_process_are_refused(tmp_path):
    path = write(tmp_path / "a", pydicom.dcmread(SHIPPED / "SC_rgb_jpeg_gdcm.dcm"))
    data = path.read_bytes()
    at = data.index(b"Adobe")
    for changed, value in ((at + 11, 35), (data.index(b"\xff\xc3") + 9, 2)):  # colour transform; components
        path.write_bytes(data[:changed] + bytes([value]) + data[changed + 1 :])
        refused(path, "damaged")
    path.write_bytes(data)
    assert read_dicom(path).pixels.shape == (100, 100, 3)


def test_leave_to_load_truncated_images_is_refused(tmp_path, monkeypatch):
    path = write(tmp_path / "a", dicom(smooth(np.uint8)), JPEGBaseline8Bit)
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    refused(path, "LOAD_TRUNCATED_IMAGES")


def test_frames_of_another_size_or_number_are_refused_before_decoding(tmp_path):
    for syntax in (JPEGBaseline8Bit, JPEGLSLossless, JPEGLosslessSV1, JPEG2000Lossless):
        path = write(tmp_path / "a", dicom(smooth(np.uint8)), syntax)
        made = pydicom.dcmread(path)
        made.Rows, made.Columns = 56, 40
        made.save_as(path)
        refused(path, "frame is 40 x 56, the header says 56 x 40")
    made = pydicom.dcmread(write(tmp_path / "a", dicom(noise(3, 8, 10), frames=True), RLELossless))
    made.NumberOfFrames = 4
    made.save_as(tmp_path / "a")
    refused(tmp_path / "a")


def test_any_damage_is_an_input_error_or_pixels(tmp_path):
    rng = np.random.default_rng(0)
    path = tmp_path / "a"
    wholes = [
        write(path, dicom(smooth(np.uint8), **CT), syntax).read_bytes() for syntax in (None, RLELossless, JPEG2000Lossless)
    ]
    read, refusals = 0, []
    for _ in range(300):
        data = bytearray(wholes[rng.integers(len(wholes))])
        for position in rng.integers(132, 700, rng.integers(1, 5)):
            data[position] = rng.integers(256)
        path.write_bytes(data)
        try:
            read += read_dicom(path).pixels.size > 0
        except InputError as error:
            refusals.append(str(error))
    assert read > 20
    assert len(refusals) > 20
    assert "Secret" not in "".join(refusals)


def test_a_decoder_that_is_not_installed_is_named(tmp_path, monkeypatch):
    path = write(tmp_path / "a", dicom(smooth(), stored=12), JPEGLosslessSV1)
    monkeypatch.setattr(pydicom.pixels.decoders.JPEGLosslessSV1Decoder, "_available", {})
    refused(path, "no decoder for JPEG Lossless", "pip install 'medjax[imaging]'")

    def missing(module, *, extra):
        return extras.need("no_such_module", extra=extra)

    monkeypatch.setattr(dicom_pixels, "need", missing)
    with pytest.raises(InputError, match=r"medjax\[imaging\]"):
        read_dicom(path)


def test_nothing_reaches_the_console(tmp_path):
    """Files that pydicom warns about, read with logging on: warnings would quote the header."""
    made = dicom(smooth(), stored=12)
    made.PatientBirthDate = "1950-Secret"
    made.PixelData += bytes(8)  # more than needed
    odd = write(tmp_path / "odd", made)
    files = [
        odd,
        SHIPPED / "MR_small_padded.dcm",
        SHIPPED / "SC_rgb_jpeg_dcmtk.dcm",
        SHIPPED / "693_J2KI.dcm",
        SHIPPED / "MR_truncated.dcm",
    ]
    code = f"""
        import logging
        logging.basicConfig(level=logging.INFO)
        from medjax.formats.dicom import read_dicom
        for path in {[str(file) for file in files]!r}:
            try:
                read_dicom(path)
            except ValueError:
                pass
    """
    environment = {**os.environ, "PYTHONWARNINGS": "default"}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, env=environment, check=True
    )
    assert (done.stdout, done.stderr) == ("", "")
    assert logging.getLogger("pydicom").isEnabledFor(logging.CRITICAL + 1)


@pytest.mark.realdata
def test_real_ct_slices(real_data):
    files = sorted((real_data / "ct_dicom").glob("*.dcm"))
    assert len(files) >= 50
    padded = 0
    for file in files[::4]:
        pixels, facts = read_dicom(file)
        truth = pydicom.dcmread(file)
        hounsfield = truth.pixel_array * float(truth.RescaleSlope) + float(truth.RescaleIntercept)
        assert facts.hounsfield
        assert facts.patient == truth.PatientID
        assert pixels.dtype == (np.int16 if float(truth.RescaleSlope) == 1 else np.float32)
        outside = np.abs(pixels - hounsfield) > 1e-3
        assert (pixels[outside] == -1000).all()
        assert facts.padding >= outside.sum()
        assert pixels.min() >= -1024
        padded += facts.padding > 0
    assert padded > 0
