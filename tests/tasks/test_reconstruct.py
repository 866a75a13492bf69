"""Reconstruction from simulated k-space end to end, and scans that are refused."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from restoring import STEPS, case, phantom

import medjax
from medjax.data.restored import given_images, whole_images
from medjax.errors import InputError
from medjax.physics import kspace as mr
from medjax.tasks.enhance import Adversary, TwoPhases
from medjax.tasks.kspace_cases import Sampling, Simulation, centre, scanned, simulate
from medjax.tasks.kspace_scans import acquisition, baselines, given, magnitude, mirror, mirrored
from medjax.tasks.reconstruct import Config, Network, reconstruct_job
from medjax.tasks.reconstruct_maps import uncertainty

SIMULATION, SAMPLING = Simulation(size=32, coils=2), Sampling("equispaced", 3, 0.2)


def settings(path, **more):
    return Config(
        data=medjax.config.Data(path=str(path), near_copies="off"),
        model=Network("unet", features=4, depth=1),
        adversary=Adversary(features=4, r1=0.0),
        train=TwoPhases(**{**STEPS, **more}),
    )


def job_of(config):
    return reconstruct_job(
        config,
        acquisition(SAMPLING, (32, 32), SIMULATION.coils),
        question="What does it look like?",
        name="scans (simulated k-space)",
        sources=lambda: whole_images(config.data.path),
        read=given_images,
        preprocess=lambda example: simulate(example, of=SIMULATION, sampling=SAMPLING),
        baselines=baselines(SIMULATION.coils),
        stated="Simulated. ",
    )


def test_a_run_is_told_beside_zero_filling_and_total_variation(tmp_path):
    for k in range(16):
        Image.fromarray(phantom(k)).save(tmp_path / f"slice{k:02d}.png")
    config = settings(tmp_path)
    done = medjax.train(job_of(config), config, tmp_path / "run", quiet=True)
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert {"zero_filled", "tv"} == report["baselines"].keys()
    for name in ("psnr", "psnr/adversarial", "residual", "residual/adversarial"):
        assert np.isfinite(report["metrics"]["test"][name]["value"])
        assert report["definitions"][name]
    assert report["definitions"]["psnr"].startswith("Simulated")
    assert report["baselines"]["tv"]["psnr"]["value"] > report["baselines"]["zero_filled"]["psnr"]["value"]
    assert done.progress.step == 12
    assert (tmp_path / "run" / "figures" / "maps.png").is_file()
    written = next((tmp_path / "run" / "predictions" / "test").glob("*.png"))
    assert np.asarray(Image.open(written)).shape == (32, 32)


def test_simulated_scans_are_the_same_each_time_and_hold_the_image():
    of, sampling = Simulation(size=64, noise=0.0, coils=1), Sampling("random", 2, 0.2)
    first, second = (simulate(case(phantom(1)[None, ..., None]), of=of, sampling=sampling) for _ in range(2))
    np.testing.assert_array_equal(first["kspace"].array, second["kspace"].array)
    truth = first["truth"].array[0, ..., 0]
    assert truth.shape == (64, 64)
    np.testing.assert_array_equal(truth[10:54, 11:52], phantom(1))
    whole = np.abs(mr.to_image(mr.as_complex(first["kspace"].array[0, 0])))
    np.testing.assert_allclose(whole, truth, atol=0.5)
    assert first["sampled"].array.mean() == pytest.approx(0.5, abs=0.15)


def test_scans_that_cannot_be_reconstructed_are_refused():
    kspace, mask = np.ones((2, 1, 8, 8), np.complex64), np.ones((2, 8, 8), bool)
    make = {"stored": np.float32}
    with pytest.raises(InputError, match="are expected"):
        scanned({"id": "a"}, kspace[:, 0], mask, None, **make)
    with pytest.raises(InputError, match="are expected"):
        scanned({"id": "a"}, kspace, mask[:, :4], None, **make)
    with pytest.raises(InputError, match="samples nothing"):
        scanned({"id": "a"}, kspace, mask & (np.arange(2)[:, None, None] > 0), None, **make)
    with pytest.raises(InputError, match="NaN"):
        scanned({"id": "a"}, kspace * np.nan, mask, None, **make)
    with pytest.raises(InputError, match="larger than its k-space"):
        scanned({"id": "a"}, kspace, mask, np.ones((2, 9, 8)), **make)
    with pytest.raises(InputError, match="wants k-space"):
        simulate(case(np.ones((1, 8, 8, 1), np.uint8), "given"), of=Simulation(), sampling=Sampling())


@pytest.mark.parametrize("shape", [(8, 10), (7, 9)])
def test_a_mirrored_mask_is_where_the_mirrored_image_was_read(shape):
    rng = np.random.default_rng(0)
    kspace = (rng.normal(size=shape) + 1j * rng.normal(size=shape)) * (mask := rng.random(shape) < 0.5)
    for axis in (-2, -1):
        turned = mr.to_kspace(np.flip(mr.to_image(kspace), axis))
        np.testing.assert_array_equal(np.abs(turned) > 1e-9, mirrored(mask, axis))


def test_a_network_that_is_sure_has_no_uncertainty():
    example = simulate(
        case(phantom(1)[None, ..., None]), of=Simulation(size=64, noise=0.0), sampling=Sampling("random", 2, 0.2)
    )
    batch = {name: jnp.asarray(example[name].array[0])[None] for name in ("kspace", "sampled", "truth")}
    batch["scale"] = jnp.asarray(example["scale"])[None]

    def zero_filled(b):
        return magnitude(mr.as_pair(mr.adjoint(given(b)["kspace"], given(b))), b)

    # A linear reconstruction answers alike to mirror images; one that prefers a side does not.
    assert float(uncertainty(zero_filled, batch, mirror).max()) < 1e-4
    assert float(uncertainty(lambda b: zero_filled(b) * jnp.linspace(0, 1, 64)[:, None], batch, mirror).max()) > 0.1


def test_the_middle_is_cut_out():
    image = jnp.arange(42.0).reshape(6, 7)
    np.testing.assert_array_equal(centre(image, (4, 3)), image[1:5, 2:5])
