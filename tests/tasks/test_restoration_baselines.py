"""Baselines of restoration against their definitions, and their settings chosen on validation data alone."""

import numpy as np
import pytest
from restoring import case, phantom

from medjax.cases import Cases, Ragged
from medjax.errors import InputError
from medjax.formats.grid import Grid
from medjax.formats.volume import grid_columns
from medjax.metrics.restoration import MAXIMUM
from medjax.physics.ct import scan
from medjax.tasks import restoration_baselines as simple
from medjax.tasks.ct_dose import less_dose
from medjax.tasks.ct_scans import simulate
from medjax.tasks.enhance import Worse, degradation

COMPARED = {"scale": MAXIMUM, "structure": MAXIMUM}


def noisy_cases(n, sigma, seed=0):
    rng = np.random.default_rng(seed)
    truth = [phantom(k + 100 * seed)[None, ..., None].astype(np.float32) for k in range(n)]
    worse = [(t + sigma * rng.standard_normal(t.shape)).astype(np.float32) for t in truth]
    columns = {"truth": Ragged.of(truth), "worse": Ragged.of(worse), "label": np.zeros(n, int)}
    return Cases({**columns, "scale": np.tile(np.float32([0, 4000]), (n, 1))})


def test_interpolations_give_smooth_images_back():
    y, x = np.mgrid[:40, :48] / 40
    fine = (np.sin(3 * y) + np.cos(2 * x)).astype(np.float32)[None, ..., None]
    coarse = fine.reshape(1, 20, 2, 24, 2, 1).mean((2, 4))
    inside = np.s_[:, 8:-8, 8:-8]
    np.testing.assert_allclose(simple.bicubic(coarse, factor=2)[inside], fine[inside], atol=5e-3)
    assert simple.sinc(coarse, factor=2).shape == fine.shape
    np.testing.assert_array_equal(simple.as_input(coarse), coarse)


@pytest.mark.parametrize("name", ["tv", "nlm"])
def test_denoisers_are_tuned_on_validation_data(name):
    pytest.importorskip("skimage")
    baseline = simple.tuned(getattr(simple, name), (0.0001, 0.02, 0.5), **COMPARED)
    train, val, test = noisy_cases(1, 0, 1), noisy_cases(4, 80, 2), noisy_cases(4, 80, 3)
    arrays = baseline.fit(train, val)
    assert float(arrays["setting"]) == 0.02  # neither nothing nor everything away
    rows = baseline.predict(arrays, test)
    plain = simple.fixed(simple.as_input, **COMPARED).predict({}, test)
    assert rows["psnr"].mean() > plain["psnr"].mean() + 2


def test_a_tuned_baseline_looks_at_no_more_cases_than_it_may():
    seen = []
    val = noisy_cases(9, 10, 4)

    def restore(worse, setting, unit):
        seen.append(setting)
        return worse * (1 - abs(setting - 2))

    baseline = simple.tuned(restore, (1.0, 2.0, 3.0), most=4, **COMPARED)
    assert float(baseline.fit(val, val)["setting"]) == 2
    assert len(seen) == 12


@pytest.mark.parametrize(("how", "options"), [("kspace", {"shifts": 2.0}), ("photons", {"photons": 500.0}), ("contrast", {})])
def test_images_are_made_worse_as_stated(how, options):
    truth = phantom(0, (40, 44)).astype(np.float32)[None, ..., None]
    make = degradation(Worse(factor=2, how=how, noise=0.02, **options))
    worse, same = make(truth, np.random.default_rng(0), np.full(3, np.nan))
    assert worse.shape == (1, 20, 22, 1)
    assert same is truth
    cells = truth.reshape(20, 2, 22, 2).mean((1, 3))
    error = worse[0, ..., 0] - cells
    top = truth.max()
    if how == "photons":  # of v / top * photons counts each
        assert (error / np.sqrt(cells * top / 500)).std() == pytest.approx(1, rel=0.1)
    elif how == "contrast":
        middle = cells.mean()
        assert (worse[0, ..., 0] - middle - 0.5 * (cells - middle)).std() == pytest.approx(0.02 * top, rel=0.1)
    else:
        assert 0 < np.abs(error).mean() < 0.1 * top


def test_thick_slices_are_means_of_their_neighbours():
    volume = np.random.default_rng(0).random((5, 12, 10, 1)).astype(np.float32)
    worse, _ = degradation(Worse(noise=0.0, thickness=3))(volume, np.random.default_rng(0), np.full(3, np.nan))
    np.testing.assert_allclose(worse[1:-1], (volume[:-2] + volume[1:-1] + volume[2:]) / 3, rtol=1e-5)


def test_ct_of_less_dose_is_noisier_and_of_fewer_views_streaky():
    y, x = np.mgrid[:48, :48] - 23.5
    body = np.where(np.hypot(y, x) < 20, 40.0, -1000.0)
    body[18:24, 28:34] = 300
    volume = body[None, ..., None].astype(np.float32)
    rng, spacing = np.random.default_rng(0), np.array([1.0, 2.0, 2.0])
    low, full = less_dose(views=180, full=1e5, low=2.5e4, electronic=10)(volume, rng, spacing)
    clean = scan(rng, body, pixel=2.0, views=180, photons=[np.inf])[0]
    inside = np.hypot(y, x) < 16
    noise = [(image[0, ..., 0] - clean)[inside].std() for image in (low, full)]
    assert noise[0] / noise[1] == pytest.approx(2, rel=0.15)  # four times the photons
    assert np.abs((clean - body)[inside & (np.hypot(y - 2.5 + 5, x - 7) > 8)]).mean() < 15
    of_two = grid_columns(Grid((1, 48, 48), np.diag([1.0, 2.0, 2.0, 1.0]), spacing=(1.0, 2.0, 2.0)), "nifti")
    given = case(volume, **of_two)
    made = simulate(dict(given), size=60, views=20, photons=1e6, electronic=0.0)
    few, truth = made["worse"].array[0, 6:54, 6:54, 0], made["truth"].array
    np.testing.assert_array_equal(truth[0, 6:54, 6:54, 0], body)
    assert (truth[0, :6] == -1000).all()  # air around
    assert (few - body)[inside].std() > 2 * (clean - body)[inside].std()
    with pytest.raises(InputError, match="pixels' size"):
        simulate(case(volume), size=60, views=20, photons=1e6, electronic=0.0)
    with pytest.raises(InputError, match="wants readings"):
        simulate({**given, "role": "given"}, size=60, views=20, photons=1e6, electronic=0.0)
