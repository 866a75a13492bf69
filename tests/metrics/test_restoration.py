"""PSNR, SSIM and NMSE against scikit-image and fastMRI's definitions; sharpness and spectra against what is known of images."""

import numpy as np
import pytest
from scipy import ndimage

from medjax.metrics import restoration as metrics
from medjax.metrics.restoration import Scale

CT = Scale(-1000, 1000)


def pair(shape=(3, 40, 37), seed=0):
    rng = np.random.default_rng(seed)
    truth = ndimage.gaussian_filter(rng.normal(size=shape), (0, 2, 2)) * 900 + 300
    return truth, truth + rng.normal(size=shape) * 60


@pytest.mark.parametrize("window", ["uniform", "gaussian"])
@pytest.mark.parametrize("scale", [Scale(), CT])
def test_measures_are_scikit_images(window, scale):
    skimage = pytest.importorskip("skimage.metrics")
    truth, found = pair()
    a, b = (truth, found) if scale == Scale() else (np.clip(truth, *scale), np.clip(found, *scale))
    span = a.max() if scale == Scale() else 2000
    options = {} if window == "uniform" else {"gaussian_weights": True, "use_sample_covariance": False}
    # fastMRI's evaluate.py: the mean over slices with the volume's maximum, and PSNR of the volume at once.
    wanted = np.mean([skimage.structural_similarity(a[i], b[i], data_range=span, **options) for i in range(3)])
    assert metrics.ssim(truth, found, scale, window=window) == pytest.approx(wanted, abs=1e-12)
    assert metrics.psnr(truth, found, scale) == pytest.approx(skimage.peak_signal_noise_ratio(a, b, data_range=span), abs=1e-10)


def test_nmse_is_fastmris():
    truth, found = pair()
    assert metrics.nmse(truth, found) == pytest.approx(np.linalg.norm(truth - found) ** 2 / np.linalg.norm(truth) ** 2)


def test_edges_are_sharp_as_the_truths_or_blurred():
    truth = np.zeros((1, 64, 64))
    truth[:, 16:48, 16:48] = 100.0
    assert metrics.edge(truth, truth) == pytest.approx(1)
    assert metrics.edge(truth, truth * 0.5) == pytest.approx(0.5)
    # A step's gradient behind Gaussians of 1 and s falls by 1 / sqrt(1 + s^2) at the edge.
    blurred = ndimage.gaussian_filter(truth, (0, 2, 2))
    assert metrics.edge(truth, blurred) < 0.75
    assert metrics.edge(truth, blurred) > metrics.edge(truth, ndimage.gaussian_filter(truth, (0, 4, 4)))


def test_spectra_find_the_frequency_and_keep_the_energy():
    x = np.cos(2 * np.pi * 8 * np.arange(64) / 64)
    wave = np.tile(x, (2, 64, 1))
    spectrum = metrics.power(wave, bins=32)
    assert spectrum.argmax() == int(8 / 64 * 2 * 32)
    noise = np.random.default_rng(0).normal(size=(4, 64, 64)) * 3
    assert metrics.power(noise)[2:].mean() == pytest.approx(9, rel=0.05)  # white: the variance everywhere
    assert metrics.texture(noise, noise) == 0
    assert metrics.texture(noise, 2 * noise) == pytest.approx(20 * np.log10(2), rel=1e-6)


def test_what_cannot_be_measured_is_not_a_number():
    flat = np.zeros((1, 8, 8))
    values = metrics.measure_volume(flat, flat)
    assert all(np.isnan(values[name]) for name in ("psnr", "ssim", "nmse", "edge"))
    small = np.ones((1, 5, 5))
    assert np.isnan(metrics.ssim(small, small))
    assert metrics.psnr(small, small) == np.inf
    means = metrics.summarise({"psnr": np.array([np.inf, 20, np.nan]), "edge": np.array([np.nan])})
    assert means["psnr"] == 60
    assert np.isnan(means["edge"])


def test_definitions_tell_range_and_window_of_every_measure():
    found = metrics.definitions(CT, Scale(-160, 240), ["adversarial"])
    truth, other = pair()
    for name in metrics.measure_volume(truth, other):
        assert name in found
        assert f"{name}/adversarial" in found
    assert "-1000 to 1000" in found["psnr"]
    assert "-160 to 240" in found["ssim/adversarial"]
