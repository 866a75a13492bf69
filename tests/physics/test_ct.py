"""The projector against discs whose shadows are known and against its own adjoint; reconstruction; what dose does."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medjax.physics import ct

SIDE, RADIUS, AT = 64, 20.0, (-5.5, 3.2)  # x, y of the disc's middle
ANGLES = ct.view_angles(60)
COUNT = ct.detectors(SIDE)


@pytest.fixture(scope="module")
def disc():
    """(image whose pixels hold the share of them that the disc covers, its line integrals)."""
    y, x = ((np.mgrid[: 8 * SIDE, : 8 * SIDE] + 0.5) / 8) - SIDE / 2
    image = ((x - AT[0]) ** 2 + (y - AT[1]) ** 2 < RADIUS**2).reshape(SIDE, 8, SIDE, 8).mean((1, 3))
    s = np.arange(COUNT) - (COUNT - 1) / 2
    off = s - (AT[0] * np.cos(ANGLES) + AT[1] * np.sin(ANGLES))[:, None]
    return image, 2 * np.sqrt(np.maximum(RADIUS**2 - off**2, 0))


def test_the_shadow_of_a_disc_is_its_chords(disc):
    image, chords = disc
    found = ct.simulate(image, ANGLES, COUNT)
    inside = chords > 15  # the chord's slope is infinite at the rim
    assert np.abs(found - chords)[inside].max() < 1.0
    assert np.abs(found - chords).mean() < 0.1
    np.testing.assert_allclose(found.sum(1), image.sum(), rtol=0.01)  # each view sees all of it


def test_jax_and_numpy_project_alike(disc):
    image, _ = disc
    found = ct.project(jnp.array(image, jnp.float32), tuple(ANGLES), COUNT)
    np.testing.assert_allclose(found, ct.simulate(image, ANGLES, COUNT), atol=2e-3)


@pytest.mark.parametrize("shape", [(24, 24), (17, 30)])
def test_back_projection_is_the_adjoint(shape):
    rng = np.random.default_rng(0)
    count = ct.detectors(max(shape))
    angles = tuple(rng.uniform(0, np.pi, 13)) + (0.0, np.pi / 4, np.pi / 2, 3 * np.pi / 4)
    x = jnp.array(rng.normal(size=shape), jnp.float32)
    y = jnp.array(rng.normal(size=(len(angles), count)), jnp.float32)
    ahead = float(jnp.vdot(ct.project(x, angles, count), y))
    back = float(jnp.vdot(x, ct.back_project(y, angles, shape)))
    scale = float(jnp.linalg.norm(ct.project(x, angles, count)) * jnp.linalg.norm(y))
    assert abs(ahead - back) < 1e-6 * scale


def test_gradients_are_the_adjoints():
    rng = np.random.default_rng(1)
    angles, count = tuple(ct.view_angles(5)), ct.detectors(12)
    x, y = jnp.array(rng.normal(size=(12, 12)), jnp.float32), jnp.array(rng.normal(size=(5, count)), jnp.float32)

    def misfit(image):
        return 0.5 * jnp.square(ct.project(image, angles, count) - y).sum()

    wanted = ct.back_project(ct.project(x, angles, count) - y, angles, (12, 12))
    np.testing.assert_allclose(jax.grad(misfit)(x), wanted, rtol=1e-4, atol=1e-3)
    slope = jax.grad(lambda r: jnp.vdot(ct.back_project(r, angles, (12, 12)), x))(y)
    np.testing.assert_allclose(slope, ct.project(x, angles, count), rtol=1e-4, atol=1e-4)


def test_filtered_back_projection_gives_the_disc_back(disc):
    image, chords = disc
    found = ct.filtered_back_projection(chords, ANGLES, SIDE)
    assert found.sum() == pytest.approx(image.sum(), rel=0.01)
    y, x = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2
    far = np.hypot(x - AT[0], y - AT[1])
    assert found[far < RADIUS - 4].mean() == pytest.approx(1, abs=0.01)
    assert np.abs(found[far < RADIUS - 4] - 1).max() < 0.1
    assert abs(found[(far > RADIUS + 4) & (np.hypot(x, y) < 30)]).mean() < 0.05


def test_a_scanner_takes_back_what_it_measures(disc):
    """B is filtered back-projection: as NumPy's, and the residual that of the formula."""
    image, chords = disc
    scanner, scan = ct.scanner(60, SIDE), {"readings": jnp.array(chords, jnp.float32)[None]}
    begin = scanner.start(scan)
    plain = ct.filtered_back_projection(chords, ANGLES, SIDE)
    assert np.abs(np.asarray(begin[0, ..., 0]) - plain).mean() < 0.01
    ahead = ct.simulate(image, ANGLES, COUNT)
    x = jnp.array(image, jnp.float32)[None, ..., None]
    wanted = np.linalg.norm(ahead - chords) / np.linalg.norm(chords)
    np.testing.assert_allclose(scanner.residual(x, scan), [wanted], rtol=1e-3)
    same = {"readings": jnp.array(ahead, jnp.float32)[None]}
    np.testing.assert_allclose(scanner.step(x, same), 0, atol=1e-3)
    nearer = begin - 0.5 * scanner.step(begin, scan)
    assert float(scanner.residual(nearer, scan)[0]) < float(scanner.residual(begin, scan)[0])


@pytest.mark.parametrize("views", [5, 8])
def test_readings_of_a_mirrored_image_are_mirrored_readings(views):
    from medjax.tasks.ct_scans import mirrored

    image = np.random.default_rng(2).random((17, 17))
    angles, count = ct.view_angles(views), ct.detectors(17)
    readings = ct.simulate(image, angles, count)
    for axis in (-2, -1):
        wanted = ct.simulate(np.flip(image, axis), angles, count)
        np.testing.assert_allclose(mirrored(jnp.array(readings), axis), wanted, atol=1e-3)


def test_less_dose_is_more_noise_as_photon_statistics_have_it():
    readings = np.full((400, 200), 2.0)
    rng = np.random.default_rng(0)
    for photons, electronic in ((1e5, 0.0), (2.5e4, 0.0), (2.5e4, 50.0)):
        noisy = ct.noisy_readings(rng, readings, photons=photons, electronic=electronic)
        counts = photons * np.exp(-2.0)
        assert noisy.std() == pytest.approx(np.sqrt(counts + electronic**2) / counts, rel=0.02)
        assert noisy.mean() == pytest.approx(2.0, abs=0.01)
    starved = ct.noisy_readings(rng, np.full((4, 4), 30.0), photons=1e4, electronic=10)
    assert np.isfinite(starved).all()


def test_units_go_there_and_back():
    values = np.array([-1000.0, 0, 40, 3000])
    attenuation = ct.to_attenuation(values, 0.7)
    assert attenuation[1] == pytest.approx(0.0192 * 0.7)
    np.testing.assert_allclose(ct.to_hounsfield(attenuation, 0.7), values, atol=1e-9)
    assert ct.to_attenuation(np.array([-3000.0]), 1.0) == 0
