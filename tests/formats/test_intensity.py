import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from medjax.formats.intensity import clahe, clip_percentiles, fit_square, to_uint8, window, windows

IMAGES = hnp.arrays(np.int16, hnp.array_shapes(min_dims=2, max_dims=3, max_side=12), elements=st.integers(-1024, 3071))


def linear(x, centre, width):
    """DICOM PS3.3 C.11.2.1.2.1, literally, for ymin 0 and ymax 1."""
    if x <= centre - 0.5 - (width - 1) / 2:
        return 0.0
    if x > centre - 0.5 + (width - 1) / 2:
        return 1.0
    return (x - (centre - 0.5)) / (width - 1) + 0.5


@settings(max_examples=80, deadline=None)
@given(image=IMAGES, centre=st.floats(-1000, 3000), width=st.one_of(st.just(1.0), st.floats(1.5, 4000)))
def test_window_against_the_standard(image, centre, width):
    result = window(image, centre, width)
    assert result.dtype == np.float32
    assert result.shape == image.shape
    expected = [linear(float(x), centre, width) for x in image.ravel()]
    np.testing.assert_allclose(result.ravel(), expected, atol=1e-6)


def test_windows_are_channels():
    image = np.arange(-1000, 1000, 7, dtype=np.int16).reshape(2, -1)
    result = windows(image, [(40, 80), (-600, 1500)])
    assert result.shape == (*image.shape, 2)
    np.testing.assert_array_equal(result[..., 1], window(image, -600, 1500))
    with pytest.raises(ValueError, match="width"):
        window(image, 0, 0.5)
    with pytest.raises(ValueError, match="width"):
        window(image, 0, np.nan)
    with pytest.raises(ValueError, match="at least one"):
        windows(image, [])


@settings(max_examples=60, deadline=None)
@given(image=IMAGES, low=st.floats(0, 49), high=st.floats(51, 100))
def test_clip_percentiles(image, low, high):
    exact = np.percentile(image.astype(np.float64), (low, high))
    whole = clip_percentiles(image, low, high)
    assert whole.dtype == np.int16
    np.testing.assert_array_equal(whole, np.clip(image, *np.rint(exact)))
    real = clip_percentiles(image.astype(np.float64), low, high)
    np.testing.assert_allclose(real, np.clip(image, *exact))


def test_clip_percentiles_refuses_an_order_that_is_none():
    for low, high in ((50, 50), (99, 1), (-1, 50), (0, 101)):
        with pytest.raises(ValueError, match="percentiles"):
            clip_percentiles(np.zeros((2, 2)), low, high)


def slow_clahe(image, tiles, clip):
    """CLAHE of uint8, pixel by pixel in float64; returns values before they are rounded."""
    height, width = image.shape
    down, right = (tiles - side % tiles for side in image.shape) if height % tiles or width % tiles else (0, 0)
    mirrored = [
        list(range(side)) + [side - 2 - i for i in range(more)] for side, more in zip(image.shape, (down, right), strict=True)
    ]
    padded = image[np.ix_(*mirrored)]
    rows, columns = padded.shape[0] // tiles, padded.shape[1] // tiles
    curves = {}
    for i in range(tiles):
        for j in range(tiles):
            counts = [0] * 256
            for value in padded[i * rows : (i + 1) * rows, j * columns : (j + 1) * columns].ravel():
                counts[value] += 1
            limit = max(1, int(clip * rows * columns / 256))
            excess = sum(max(0, count - limit) for count in counts)
            counts = [min(count, limit) + excess // 256 for count in counts]
            left, at = excess % 256, 0
            step = max(1, 256 // left) if left else 1
            while left > 0 and at < 256:
                counts[at] += 1
                at, left = at + step, left - 1
            total, curve = 0, []
            for count in counts:
                total += count
                curve.append(np.rint(total * 255 / (rows * columns)))
            curves[i, j] = curve
    result = np.empty(image.shape)
    for y in range(height):
        for x in range(width):
            v, u = (y / rows) - 0.5, (x / columns) - 0.5
            i, j = int(np.floor(v)), int(np.floor(u))
            value = 0.0
            for k, a in ((i, 1 - (v - i)), (i + 1, v - i)):
                for m, b in ((j, 1 - (u - j)), (j + 1, u - j)):
                    value += a * b * curves[min(max(k, 0), tiles - 1), min(max(m, 0), tiles - 1)][image[y, x]]
            result[y, x] = value
    return result


@pytest.mark.parametrize("shape", [(32, 32), (37, 50), (32, 45)])
@pytest.mark.parametrize(("tiles", "clip"), [(4, 2.0), (8, 0.01), (1, 40.0), (3, 1.0)])
def test_clahe_against_a_slow_one(shape, tiles, clip):
    rng = np.random.default_rng(0)
    y, x = np.mgrid[: shape[0], : shape[1]]
    for image in (rng.integers(0, 256, shape, np.uint8), (60 + x + y // 2 + rng.integers(0, 6, shape)).astype(np.uint8)):
        result = clahe(image, tiles, clip)
        assert result.dtype == np.uint8
        assert np.abs(result - slow_clahe(image, tiles, clip)).max() <= 0.5 + 1e-3


def test_clahe_of_sixteen_bits():
    """On values that lie on the bins it is the eight-bit one; between them it keeps the order and tells neighbours apart."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:64, :64]
    eight = (rng.integers(0, 60, (64, 64)) + x + y).astype(np.uint8)
    eight[0, :2] = 0, 255
    wide = clahe(eight.astype(np.uint16) * 16 + 300, 4)
    assert wide.dtype == np.uint16
    assert np.abs(wide / 257 - slow_clahe(eight, 4, 2.0)).max() <= 0.01
    ramp = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64)
    one = clahe(ramp, tiles=1, clip=100).ravel().astype(int)
    assert (np.diff(one) >= 0).all()
    assert len(np.unique(one)) > 3500
    assert len(np.unique(clahe((ramp >> 4).astype(np.uint8), tiles=1, clip=100))) <= 256


def test_clahe_raises_local_contrast_and_takes_constants():
    y, x = np.mgrid[:128, :128]
    image = (120 + 6 * np.sin(x / 3) * np.cos(y / 3) + x / 8).astype(np.uint8)
    assert clahe(image).std() > 1.5 * image.std()
    for dtype in (np.uint8, np.uint16):
        flat = clahe(np.full((16, 16), 7, dtype))
        assert (flat == flat[0, 0]).all()


def test_clahe_refuses():
    for image in (np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4), np.float32)):
        with pytest.raises(ValueError, match="grey image"):
            clahe(image)
    for options in ({"tiles": 0}, {"clip": 0.0}, {"tiles": 5}):
        with pytest.raises(ValueError, match="tiles"):
            clahe(np.zeros((4, 4), np.uint8), **{"tiles": 2, **options})


@settings(max_examples=60, deadline=None)
@given(
    image=hnp.arrays(np.uint16, st.one_of(hnp.array_shapes(min_dims=2, max_dims=2, max_side=30), st.just((9, 14, 3)))),
    size=st.integers(1, 40),
)
def test_fit_square(image, size):
    for how in ("squash", "pad"):
        result = fit_square(image, size, how)
        assert result.shape == (size, size, *image.shape[2:])
        assert result.dtype == image.dtype
        assert image.min() <= result.min()
        assert result.max() <= image.max()


def test_padding_is_centred_and_keeps_the_aspect():
    image = np.full((20, 40), 900, np.int16)
    image[0, 0] = -50
    result = fit_square(image, 80, "pad")
    assert (result[:20] == -50).all()
    assert (result[60:] == -50).all()
    assert (result[25:60] == 900).all()
    np.testing.assert_array_equal(fit_square(image.T, 80, "pad"), result.T)
    with pytest.raises(ValueError, match="stretch"):
        fit_square(image, 8, "stretch")


@settings(max_examples=60, deadline=None)
@given(image=st.one_of(IMAGES, hnp.arrays(np.float32, (3, 4), elements=st.floats(-1e6, 1e6, width=32))))
def test_to_uint8(image):
    result = to_uint8(image)
    assert result.dtype == np.uint8
    low, high = float(image.min()), float(image.max())
    exact = (image.astype(np.float64) - low) / (high - low) * 255 if high > low else np.zeros(image.shape)
    assert np.abs(result - exact).max() <= 0.5 + 1e-6
    assert to_uint8(result) is result
