import contextlib
import io
import itertools
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image, ImageFile, TiffImagePlugin

from medjax.errors import InputError
from medjax.formats.image import IMAGE_ENDINGS, crop_box_foreground, otsu_threshold, read_image, resize, to_grey

H, W = 19, 26


def noise(*shape, dtype=np.uint8, seed=0):
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)


def smooth_colour():
    y, x = np.mgrid[:64, :96]
    return np.stack([2 * x, 3 * y, 255 - x - y], axis=-1).astype(np.uint8)


def saved(path, image, kind="PNG", **options):
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(path, kind, **options)
    return path


def refused(path, *words):
    with pytest.raises(InputError) as caught:
        read_image(path)
    message = str(caught.value)
    assert str(path) in message
    assert message.count("\n") == 1, "what is wrong, then the mend"
    for word in words:
        assert word in message
    return message


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP"])
def test_eight_bits_are_exact(tmp_path, kind):
    for pixels in (noise(H, W), noise(H, W, 3)):
        read = read_image(saved(tmp_path / "a", pixels, kind))
        assert read.dtype == np.uint8
        np.testing.assert_array_equal(read, pixels)
        read[0] = 0  # writable, and no view of the decoder's memory


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_are_exact(tmp_path, kind):
    pixels = noise(H, W, dtype=np.uint16)
    pixels[0, :2] = 0, 65535
    read = read_image(saved(tmp_path / "a", pixels, kind))
    assert read.dtype == np.uint16
    np.testing.assert_array_equal(read, pixels)


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_deflate", "packbits"])
def test_compressed_tiff(tmp_path, compression):
    for pixels in (noise(H, W, dtype=np.uint16), noise(H, W, 3)):
        np.testing.assert_array_equal(read_image(saved(tmp_path / "a", pixels, "TIFF", compression=compression)), pixels)


def test_big_endian_tiff(tmp_path):
    pixels = noise(H, W, dtype=np.uint16)
    image = Image.frombytes("I;16B", (W, H), pixels.astype(">u2").tobytes())
    path = saved(tmp_path / "a.tif", image, "TIFF")
    assert path.read_bytes()[:2] == b"MM"
    np.testing.assert_array_equal(read_image(path), pixels)


def test_white_is_zero(tmp_path):
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[262] = 0
    stored = noise(H, W, dtype=np.uint16)
    path = saved(tmp_path / "a.tif", Image.fromarray(stored), "TIFF", tiffinfo=tags)
    np.testing.assert_array_equal(read_image(path), 65535 - stored)


def test_thirty_two_bit_integers(tmp_path):
    pixels = noise(H, W, dtype=np.uint16).astype(np.int32)
    read = read_image(saved(tmp_path / "a.tif", pixels, "TIFF"))
    assert read.dtype == np.uint16
    np.testing.assert_array_equal(read, pixels)
    for value in (-1, 65536):
        pixels[3, 4] = value
        refused(saved(tmp_path / "a.tif", pixels, "TIFF"), str(value), "0 to 65535")


def test_float_tiff(tmp_path):
    pixels = np.random.default_rng(0).normal(size=(H, W)).astype(np.float32)
    read = read_image(saved(tmp_path / "a.tif", pixels, "TIFF"))
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read, pixels)
    pixels[0, :3] = np.nan, np.inf, -np.inf
    refused(saved(tmp_path / "a.tif", pixels, "TIFF"), f"3 of {H * W} pixels are NaN or infinite")


def test_jpeg_is_close_and_its_ending_does_not_matter(tmp_path):
    pixels = smooth_colour()
    read = read_image(saved(tmp_path / "a.png", pixels, "JPEG", quality=95))
    assert read.dtype == np.uint8
    assert read.shape == pixels.shape
    assert np.abs(read.astype(int) - pixels).max() <= 8
    assert read_image(saved(tmp_path / "b.tif", pixels[..., 0], "JPEG")).shape == (64, 96)
    assert read_image(saved(tmp_path / "c", Image.fromarray(pixels).convert("CMYK"), "JPEG")).shape == pixels.shape


def test_grey_in_colour_comes_back_grey(tmp_path):
    pixels = noise(H, W)
    path = tmp_path / "a.png"
    np.testing.assert_array_equal(read_image(saved(path, np.stack([pixels] * 3, -1))), pixels)
    almost = np.stack([pixels] * 3, -1)
    almost[4, 5, 2] ^= 1
    np.testing.assert_array_equal(read_image(saved(path, almost)), almost)


def test_palette(tmp_path):
    table, indices = noise(256, 3, seed=1), noise(H, W)
    image = Image.fromarray(indices).convert("L")
    image.putpalette(table.tobytes())
    assert image.mode == "P"
    for kind in ("PNG", "TIFF", "BMP"):
        np.testing.assert_array_equal(read_image(saved(tmp_path / "a", image, kind)), table[indices])
    hidden = saved(tmp_path / "a", image, "PNG", transparency=int(indices[0, 0]))
    expected = np.where((indices == indices[0, 0])[..., None], 0, table[indices])
    np.testing.assert_array_equal(read_image(hidden), expected)


def test_one_bit(tmp_path):
    bits = noise(H, W) > 127
    for kind in ("PNG", "TIFF", "BMP"):
        np.testing.assert_array_equal(read_image(saved(tmp_path / "a", bits, kind)), bits * np.uint8(255))


def test_alpha_is_composited_over_black(tmp_path):
    rgba = noise(H, W, 4)
    expected = np.rint(rgba[..., :3].astype(np.float64) * rgba[..., 3:] / 255)
    np.testing.assert_array_equal(read_image(saved(tmp_path / "a.png", rgba)), expected)
    grey = Image.merge("LA", [Image.fromarray(rgba[..., k]) for k in (0, 3)])
    np.testing.assert_array_equal(read_image(saved(tmp_path / "a.png", grey)), expected[..., 0])
    keyed = noise(H, W)  # one grey value stands for "transparent"
    read = read_image(saved(tmp_path / "a.png", keyed, transparency=int(keyed[0, 0])))
    np.testing.assert_array_equal(read, np.where(keyed == keyed[0, 0], 0, keyed))


# EXIF 2.32, tag 274: which edges of the scene row 0 and column 0 of the stored image are.
UNDO = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: a[::-1].swapaxes(0, 1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: a[:, ::-1].swapaxes(0, 1),
}


@pytest.mark.parametrize("orientation", UNDO)
def test_exif_orientation(tmp_path, orientation):
    exif = Image.Exif()
    exif[274] = orientation
    for pixels in (noise(H, W, 3), noise(H, W, dtype=np.uint16)):
        read = read_image(saved(tmp_path / "a.png", pixels, exif=exif))
        np.testing.assert_array_equal(read, UNDO[orientation](pixels))
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[274] = orientation
    read = read_image(saved(tmp_path / "a.tif", noise(H, W, 3), "TIFF", tiffinfo=tags))
    np.testing.assert_array_equal(read, UNDO[orientation](noise(H, W, 3)))


VARIANTS = [
    ("PNG", np.uint8, {}),
    ("PNG", np.uint16, {}),
    ("JPEG", np.uint8, {}),
    ("JPEG", np.uint8, {"progressive": True}),
    ("TIFF", np.uint8, {}),
    ("TIFF", np.uint16, {"compression": "tiff_lzw"}),
    ("TIFF", np.uint8, {"compression": "tiff_deflate"}),
    ("BMP", np.uint8, {}),
]


@pytest.mark.parametrize(("kind", "dtype", "options"), VARIANTS)
@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_truncated_files_are_refused_at_every_length(tmp_path, kind, dtype, options):
    buffer = io.BytesIO()
    Image.fromarray(noise(H, 28, dtype=dtype)).save(buffer, kind, **options)  # 28: rows of a BMP need no padding
    data, path = buffer.getvalue(), tmp_path / "a"
    path.write_bytes(data)
    whole = read_image(path)
    # The last 4 bytes of a TIFF may be the empty link to a next page: without them nothing is missing.
    vital = len(data) - 4 if "compression" in options else len(data)
    for length in {1, 2, 3, 8, 20, *range(9, vital, 37), *range(vital - 12, vital)}:
        path.write_bytes(data[:length])
        refused(path)
    for length in range(vital, len(data)):
        path.write_bytes(data[:length])
        np.testing.assert_array_equal(read_image(path), whole)
    assert not ImageFile.LOAD_TRUNCATED_IMAGES


def test_leave_to_load_truncated_images_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    refused(saved(tmp_path / "a.png", noise(H, W)), "LOAD_TRUNCATED_IMAGES")


def test_damaged_png_is_refused(tmp_path):
    y, x = np.mgrid[:300, :256]  # well compressed: the decoder alone takes many of these for sound, with other pixels
    path = saved(tmp_path / "a.png", ((x + y) // 9).astype(np.uint8))
    data = path.read_bytes()
    start, end = data.index(b"IDAT") + 4, data.index(b"IEND") - 8
    for position, bit in itertools.product(range(start, end, 15), range(8)):
        path.write_bytes(data[:position] + bytes([data[position] ^ 1 << bit]) + data[position + 1 :])
        refused(path, "damaged PNG")


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_damage_is_an_input_error_or_pixels(tmp_path_factory, data):
    kind, dtype, options = data.draw(st.sampled_from(VARIANTS))
    buffer = io.BytesIO()
    Image.fromarray(noise(H, W, dtype=dtype)).save(buffer, kind, **options)
    content = bytearray(buffer.getvalue())
    for position, value in data.draw(st.lists(st.tuples(st.integers(2, len(content) - 1), st.integers(0, 255)), max_size=4)):
        content[position] = value
    path = tmp_path_factory.getbasetemp() / "damaged"
    path.write_bytes(content)
    with warnings.catch_warnings(), contextlib.suppress(InputError):
        warnings.simplefilter("ignore")
        pixels = read_image(path)
        assert pixels.ndim in (2, 3)
        assert pixels.size > 0


def test_what_is_no_image(tmp_path):
    path = tmp_path / "a.png"
    refused(path, "no such file", "check the path")
    path.write_bytes(b"")
    refused(path, "0 bytes")
    path.write_text("patient,label\n1,2\n")
    refused(path, "starts with b'patient,'", "expected PNG, JPEG, TIFF or BMP")
    Image.fromarray(noise(H, W)).save(path, "GIF")  # Pillow could read it; we do not promise it
    refused(path, "starts with b'GIF8")
    refused(tmp_path, "cannot be read")


def test_several_pages(tmp_path):
    pages = [Image.fromarray(noise(H, W, seed=seed)) for seed in range(3)]
    path = saved(tmp_path / "a.tif", pages[0], "TIFF", save_all=True, append_images=pages[1:])
    refused(path, "3 pages")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_decompression_bomb(tmp_path, monkeypatch):
    path = saved(tmp_path / "a.png", noise(30, 40))
    for limit in (1199, 599, 100):  # Pillow warns over its limit and stops over twice that
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        refused(path, "too many pixels")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1200)
    assert read_image(path).shape == (30, 40)


def test_zero_width(tmp_path):
    path = saved(tmp_path / "a.bmp", noise(4, 4), "BMP")
    data = bytearray(path.read_bytes())
    data[18:22] = bytes(4)
    path.write_bytes(data)
    refused(path)


def test_image_endings():
    assert {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp"} == set(IMAGE_ENDINGS)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_to_grey_rounds_the_luma_to_nearest(dtype):
    image = noise(50, 60, 3, dtype=dtype)
    grey = to_grey(image)
    assert grey.dtype == dtype
    exact = image.astype(np.float64) @ [0.299, 0.587, 0.114]
    assert np.abs(grey - exact).max() <= 0.5 + 1e-9
    equal = np.stack([image[..., 0]] * 3, -1)
    np.testing.assert_array_equal(to_grey(equal), image[..., 0])


def test_to_grey_of_floats_and_grey():
    image = np.random.default_rng(0).random((H, W, 3)).astype(np.float32)
    assert to_grey(image).dtype == np.float32
    np.testing.assert_allclose(to_grey(image), image.astype(np.float64) @ [0.299, 0.587, 0.114], rtol=1e-6)
    np.testing.assert_array_equal(to_grey(image[..., 0]), image[..., 0])
    with pytest.raises(ValueError, match="got"):
        to_grey(noise(H, W, 4))


def triangle(n_in, n_out):
    """Matrix [n_out, n_in] of antialiased linear interpolation, from its definition, in float64."""
    scale = n_in / n_out
    width = max(scale, 1.0)
    centre = (np.arange(n_out)[:, None] + 0.5) * scale
    weight = np.maximum(0, 1 - np.abs(np.arange(n_in) + 0.5 - centre) / width)
    return weight / weight.sum(1, keepdims=True)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.float32, np.float64])
@pytest.mark.parametrize("shape", [(7, 11), (60, 31), (19, 5), (1, 1)])
def test_resize_against_the_definition(dtype, shape):
    rng = np.random.default_rng(1)
    for size in ((H, W), (H, W, 3), (H, W, 2)):
        if np.issubdtype(dtype, np.integer):
            limits = np.iinfo(dtype)
            image, tolerance = (
                rng.integers(limits.min, limits.max, size, dtype, endpoint=True),
                1.0 if dtype == np.uint8 else 0.51,
            )
        else:
            image, tolerance = rng.normal(size=size).astype(dtype), 1e-5
        result = resize(image, shape)
        assert result.dtype == dtype
        assert result.shape == (*shape, *size[2:])
        expected = np.einsum("yh,xw,hw...->yx...", triangle(H, shape[0]), triangle(W, shape[1]), image.astype(np.float64))
        assert np.abs(result - expected).max() <= tolerance


@settings(max_examples=40, deadline=None)
@given(
    image=hnp.arrays(np.uint16, hnp.array_shapes(min_dims=2, max_dims=2, max_side=20)),
    shape=st.tuples(st.integers(1, 30), st.integers(1, 30)),
)
def test_resize_stays_in_range(image, shape):
    result = resize(image, shape)
    assert image.min() <= result.min()
    assert result.max() <= image.max()
    np.testing.assert_array_equal(resize(image, image.shape), image)


def test_resize_refuses_masks_and_empty_shapes():
    with pytest.raises(ValueError, match="bool"):
        resize(np.zeros((4, 4), bool), (2, 2))
    with pytest.raises(ValueError, match="cannot resize"):
        resize(np.zeros((4, 4), np.uint8), (0, 2))
    with pytest.raises(ValueError, match="cannot resize"):
        resize(np.zeros((4, 0), np.uint8), (2, 2))


@settings(max_examples=60, deadline=None)
@given(hnp.arrays(np.uint8, st.integers(2, 60)))
def test_otsu_against_all_splits(values):
    """On integers with one bin a value, the split must reach the greatest variance between classes over all splits."""
    values = np.append(values, [0, 255]).astype(np.float64)

    def between(threshold):
        low, high = values[values < threshold], values[values >= threshold]
        return len(low) * len(high) * (low.mean() - high.mean()) ** 2

    best = max(between(threshold) for threshold in range(1, 256))
    # 256 bins over 0..255 hold one integer each, and their edges lie between integers.
    assert between(otsu_threshold(values)) == pytest.approx(best, rel=1e-6)


def test_otsu_of_two_values_lies_between_them():
    image = np.repeat([10.0, 200.0], [900, 30])
    assert otsu_threshold(image) == pytest.approx(105, abs=2)
    assert otsu_threshold(image - 1e6) == pytest.approx(105 - 1e6, abs=2)
    assert otsu_threshold(np.full((3, 3), 7, np.uint8)) == 7


def head(height, width, box, *, fat=False):
    """An ellipse that fills `box` on dark noise, with a bright rim where `fat`."""
    y0, y1, x0, x1 = box
    y, x = np.mgrid[:height, :width] + 0.5
    radius = np.hypot((y - (y0 + y1) / 2) / ((y1 - y0) / 2), (x - (x0 + x1) / 2) / ((x1 - x0) / 2))
    image = np.random.default_rng(0).uniform(0, 8, (height, width))
    image[radius <= 1] = 110
    if fat:
        image[(radius <= 1) & (radius > 0.9)] = 250
    return image


@pytest.mark.parametrize(("height", "width"), [(200, 180), (640, 512), (1000, 300)])
@pytest.mark.parametrize("fat", [False, True])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_crop_box_holds_the_head(height, width, fat, dtype):
    box = (height // 10, height - height // 5, width // 8, width - width // 4)
    image = head(height, width, box, fat=fat)
    image[:3, :3] = 250  # a label in the corner is not the head
    found = crop_box_foreground((image * (257 if dtype == np.uint16 else 1)).astype(dtype))
    assert all(isinstance(edge, int) for edge in found)
    assert np.abs(np.subtract(found, box)).max() <= 3 * max(1, max(height, width) / 256)


def test_crop_box_does_not_change_with_an_offset():
    image = head(120, 150, (20, 100, 30, 110)).astype(np.float32)
    assert crop_box_foreground(image - 1000) == crop_box_foreground(image)


def test_crop_box_is_the_whole_image_without_a_head():
    assert crop_box_foreground(np.zeros((50, 70), np.uint8)) == (0, 50, 0, 70)
    dot = np.zeros((100, 100), np.uint8)
    dot[50:60, 50:60] = 200
    assert crop_box_foreground(dot) == (0, 100, 0, 100)
    dot[20:60, 20:60] = 200
    y0, y1, x0, x1 = crop_box_foreground(dot)
    assert (19 <= y0 <= 20, 60 <= y1 <= 61, 19 <= x0 <= 20, 60 <= x1 <= 61) == (True,) * 4


@pytest.mark.parametrize(("height", "width"), list(itertools.product([1, 5, 257, 300], [1, 256, 511])))
def test_crop_box_lies_in_the_image(height, width):
    for image in (noise(height, width), np.full((height, width), 9, np.uint8)):
        y0, y1, x0, x1 = crop_box_foreground(image)
        assert 0 <= y0 < y1 <= height
        assert 0 <= x0 < x1 <= width
