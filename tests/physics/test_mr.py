"""Coarse scans, sinc interpolation and motion: what is known of them exactly."""

import numpy as np
import pytest

from medjax.physics.mr import enlarge_spectrum, motion, truncate


def smooth(shape, factor=1):
    y, x = ((np.arange(n) + 0.5) / n - 0.5 for n in shape)
    return np.exp(-((y[:, None] / 0.15) ** 2) - (x / 0.2) ** 2)


@pytest.mark.parametrize(("shape", "factor"), [((64, 48), 4), ((63, 45), 3), ((64, 64), 2)])
def test_a_coarse_scan_samples_the_same_object_on_cells(shape, factor):
    fine, coarse = smooth(shape), smooth(tuple(n // factor for n in shape))
    found = truncate(fine, factor)
    np.testing.assert_allclose(found, coarse, atol=2e-3)
    np.testing.assert_allclose(enlarge_spectrum(coarse, factor), fine, atol=2e-3)
    assert truncate(fine + 7.0, factor).real.mean() == pytest.approx((fine + 7.0).mean(), rel=1e-6)


def test_what_is_beyond_the_cut_is_lost_and_the_rest_is_not():
    x = np.arange(64)
    low, high = np.cos(2 * np.pi * 3 * (x + 0.5) / 64), np.cos(2 * np.pi * 20 * x / 64)
    found = truncate(np.tile(low + high, (64, 1)), 4)
    np.testing.assert_allclose(found.real[0], np.cos(2 * np.pi * 3 * (4 * np.arange(16) + 2) / 64), atol=1e-6)


def test_motion_of_none_changes_nothing_and_of_some_ghosts():
    image = smooth((32, 32))
    still = motion(np.random.default_rng(0), image, shifts=0.0)
    np.testing.assert_allclose(still, image, atol=1e-6)
    moved = motion(np.random.default_rng(0), image, shifts=4.0)
    assert np.abs(moved - image).max() > 0.02
    assert np.linalg.norm(moved) == pytest.approx(np.linalg.norm(image), rel=1e-5)  # phases alone
