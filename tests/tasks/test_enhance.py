"""Images restored end to end: tiles without seams, both phases, files at full depth, and what is refused."""

import dataclasses
import functools
import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import nibabel
import numpy as np
import optax
import pytest
from PIL import Image
from restoring import STEPS, case, job_of, phantom, settings

import medjax
from medjax import loop
from medjax.cases import Cases, Ragged
from medjax.checkpoint import Checkpoints
from medjax.data.restored import given_images, whole_images
from medjax.errors import InputError
from medjax.formats.image import read_image
from medjax.tasks import tiles
from medjax.tasks.adversarial import Game
from medjax.tasks.enhance import Network, Pictures, TwoPhases
from medjax.tasks.features import encoder_distance
from medjax.tasks.restoration import content_loss, in_turn, refining, restoring
from medjax.tasks.restored_cases import prepare
from medjax.tasks.tiles import Tiling


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scans")
    for k in range(24):
        Image.fromarray(phantom(k)).save(folder / f"slice{k:02d}.png")
    return folder


@pytest.fixture(scope="module")
def trained(scans, tmp_path_factory):
    config = settings(scans)
    folder = tmp_path_factory.mktemp("enhanced") / "run"
    return config, folder, medjax.train(job_of(config), config, folder, quiet=True)


def test_a_run_shows_both_phases_beside_interpolation(trained):
    _, folder, done = trained
    report = json.loads((folder / "report.json").read_text())
    found = report["metrics"]["test"]
    for name in ("psnr", "ssim", "nmse", "edge", "texture", "ssim_gaussian"):
        assert {name, f"{name}/adversarial"} <= found.keys()
        assert report["definitions"][name]
        assert report["definitions"][f"{name}/adversarial"]
    assert {"bicubic", "zero_filled"} == report["baselines"].keys()
    assert "Simulated" in report["definitions"]["psnr"]
    assert report["comparisons"]["bicubic"]["psnr"]["ci95"] is None or report["comparisons"]["bicubic"]["psnr"]["difference"]
    assert found["psnr"]["n"] == report["data"]["splits"]["test"]["n"]
    assert "real_sign/adversarial" in found
    assert {p.name for p in (folder / "figures").glob("*.png")} >= {"before_after.png", "psnr_by_case.png", "spectra.png"}
    assert done.progress.step == 12


@pytest.mark.parametrize("engine", ["jit", "pmap"])
def test_a_resume_goes_over_the_border_of_the_phases(trained, tmp_path, monkeypatch, engine):
    config, _, whole = trained
    saved = Checkpoints.save

    def stop_after_save(self, state, progress):
        saved(self, state, progress)
        self.wait()
        raise KeyboardInterrupt

    monkeypatch.setattr(Checkpoints, "save", stop_after_save)
    with pytest.raises(KeyboardInterrupt):
        medjax.train(job_of(config), config, tmp_path / "cut", quiet=True)
    monkeypatch.undo()
    assert [p.name for p in (tmp_path / "cut" / "checkpoints").iterdir()] == ["4"]
    devices = jax.devices()[: 1 if engine == "jit" else 4]
    config = dataclasses.replace(config, engine=engine)
    resumed = loop.go_on(job_of(config), config, tmp_path / "cut", quiet=True, devices=devices)
    assert resumed.progress.step == 12
    pairs = zip(*map(jax.tree.leaves, (resumed.state.params, whole.state.params)), strict=True)
    if engine == "jit":
        assert all((np.asarray(a) == np.asarray(b)).all() for a, b in pairs)
        assert resumed.report["metrics"] == whole.report["metrics"]
    else:
        # Adam divides by a gradient's size: where that is next to nothing, its sign may differ between device counts.
        far = np.concatenate([np.abs(np.asarray(a) - np.asarray(b)).ravel() for a, b in pairs])
        assert np.quantile(far, 0.99) < 1e-4
        assert resumed.report["metrics"]["test"]["psnr"]["value"] == pytest.approx(
            whole.report["metrics"]["test"]["psnr"]["value"], abs=0.05
        )


def test_volumes_are_restored_whole_on_a_finer_grid(tmp_path):
    rng = np.random.default_rng(3)
    (tmp_path / "scans").mkdir()
    for k in range(12):
        stack = np.stack([phantom(100 * k + z) for z in range(3)], -1)  # as NIfTI stores it, slices last
        affine = np.diag([0.8, 0.9, 3.0, 1.0])
        affine[:3, 3] = rng.uniform(-50, 50, 3)
        nibabel.save(nibabel.Nifti1Image(stack, affine), tmp_path / "scans" / f"brain{k:02d}.nii.gz")
    config = settings(tmp_path / "scans", train=TwoPhases(**{**STEPS, "adversarial_steps": 0}))
    done = medjax.train(job_of(config), config, tmp_path / "run", quiet=True)
    found = done.report["metrics"]["test"]
    assert {"psnr", "psnr/slice"} <= found.keys()
    written = next((tmp_path / "run" / "predictions" / "test").glob("*.nii.gz"))
    given, made = nibabel.load(tmp_path / "scans" / written.name), nibabel.load(written)
    assert made.shape == (44, 40, 3)
    # Rows run from front to back in medjax: the line that an odd number loses is the file's first.
    begin = given.affine @ [0, 1, 0, 1]
    np.testing.assert_allclose(made.affine[:, :3], given.affine[:, :3], atol=1e-4)
    np.testing.assert_allclose(made.affine[:, 3], begin, atol=1e-4)
    same, other = (np.corrcoef(made.get_fdata().ravel(), given.get_fdata()[:, k : k + 40].ravel())[0, 1] for k in (1, 0))
    assert same > 0.9
    assert same > other


class Tiny(nn.Module):
    """Enlarges twice."""

    @nn.compact
    def __call__(self, x, *, train):
        return jnp.repeat(jnp.repeat(nn.Conv(1, (3, 3))(x), 2, 1), 2, 2)


class Judge(nn.Module):
    @nn.compact
    def __call__(self, x, *, train):
        return nn.Dense(1)(x.reshape(len(x), -1))[:, 0]


def same(a, b):
    return jax.tree.all(jax.tree.map(lambda x, y: bool((x == y).all()), a, b))


def test_the_plain_network_stays_as_its_phase_left_it_and_the_other_goes_on():
    rng, loss = np.random.default_rng(0), content_loss()
    plain = restoring(Tiny(), optax.sgd(0.1), loss=loss)
    tx = {"generator": optax.sgd(0.1), "discriminator": optax.sgd(0.1)}
    task = in_turn(plain, refining(Tiny(), Judge(), tx, loss=loss, game=Game(weight=0.5)), 3)
    batch = {
        "worse": rng.normal(size=(4, 6, 6, 1)).astype(np.float32),
        "truth": rng.normal(size=(4, 12, 12, 1)).astype(np.float32),
        "scale": np.tile(np.float32([0, 1]), (4, 1)),
        "label": np.zeros(4, np.int8),
        "mask": np.ones(4, bool),
    }
    state, alone = task.init(jax.random.key(0), batch), plain.init(jax.random.key(0), batch)
    assert same(state.params["first"], alone.params)
    update, single = jax.jit(task.update), jax.jit(plain.update)
    for step in range(6):
        before = state
        state, logs = update(state, batch)
        if step < 3:
            alone, _ = single(alone, batch)
        assert int(state.step) == step + 1
        np.testing.assert_allclose(
            *(p["Conv_0"]["kernel"] for p in (state.params["first"], alone.params)), rtol=1e-5, atol=1e-6
        )
        assert same(state.params["first"], before.params["first"]) == (step >= 3)
        assert same(state.params["first"], state.params["then"]["generator"]) == (step < 3)
        assert same(state.params["then"]["discriminator"], before.params["then"]["discriminator"]) == (step < 3)
        assert (float(logs["loss/discriminator"]) > 0) == (step >= 3)
    rows = task.evaluate(state, {**batch, "index": np.arange(4)})
    assert {"image", "loss", "image/adversarial", "real_logit/adversarial"} <= rows.keys()
    np.testing.assert_array_equal(rows["image"], task.predict(state, batch)["image"])


def test_predictions_are_files_of_the_inputs_kind_and_depth(trained, scans, tmp_path):
    config, folder, _ = trained
    rows = medjax.predict(job_of(config), config, folder, [scans / "slice00.png"], out=tmp_path / "out")
    written = read_image(tmp_path / "out" / "predictions" / "slice00.png")
    assert written.dtype == np.uint16
    assert written.shape == (88, 82)  # what is given is enlarged as it is
    np.testing.assert_allclose(written, np.clip(rows["image"][0][0, ..., 0], 0, 65535), atol=0.51)
    assert len(np.unique(written)) > 256
    assert (tmp_path / "out" / "predictions" / "adversarial" / "slice00.png").is_file()
    assert np.isnan(rows["psnr"][0])


def test_no_adversarial_steps_stops_after_the_plain_phase(scans, tmp_path):
    config = settings(scans, train=TwoPhases(**{**STEPS, "steps": 4, "adversarial_steps": 0}))
    done = medjax.train(job_of(config), config, tmp_path / "run", quiet=True)
    assert not any("adversarial" in name for name in done.report["metrics"]["test"])
    assert done.report["monitor"] == "psnr"
    assert done.progress.step == 4
    rows = medjax.evaluate(job_of(config), config, tmp_path / "run", out=tmp_path / "again")
    assert rows["metrics"]["test"]["psnr"]["value"] == pytest.approx(done.report["metrics"]["test"]["psnr"]["value"], abs=1e-6)


@pytest.mark.parametrize("size", [(2, 30, 37), (1, 16, 16), (1, 9, 50)])
def test_tiles_join_without_seams(size):
    """Any function that acts pixel by pixel must come back as if there were no tiles."""
    d, h, w = size
    rng = np.random.default_rng(0)
    given, f = rng.normal(size=(d, h, w, 1)).astype(np.float32), 2
    truth = np.repeat(np.repeat(given, f, 1), f, 2)
    cases = Cases({"worse": Ragged.of([given]), "truth": Ragged.of([truth]), "scale": np.array([[0, 1]], np.float32)})
    for quick in (False, True):
        tiling = Tiling(8, 16, f)
        windows = list(tiles.windows(cases, 0, quick, tiling=tiling))
        assert all(one["worse"].shape == (16, 16, 1) and one["truth"].shape == (32, 32, 1) for one in windows)
        outputs = ({"image": one["truth"] * 3 + 1, "loss": 2.0} for one in windows)
        joined, rest = tiles.join_tiles(outputs, given.shape[:3], tiling, quick=quick)
        np.testing.assert_allclose(joined["image"], truth * 3 + 1, atol=1e-5)
        assert set(rest["loss"]) == {2.0}


def test_patches_are_of_one_place_in_both_images():
    rng = np.random.default_rng(1)
    truth = rng.normal(size=(3, 40, 36, 1)).astype(np.float32)
    given = truth[:, ::2, ::2]
    cases = Cases({"worse": Ragged.of([given]), "truth": Ragged.of([truth])})
    for seed in range(5):
        part = tiles.cut(cases, np.random.default_rng(seed), tiling=Tiling(8, 16, 2))
        np.testing.assert_array_equal(part["truth"][:, ::2, ::2], part["worse"])


def halve(truth, rng, spacing):
    return truth[:, ::2, ::2], truth


ready = functools.partial(prepare, degrade=halve, factor=2)


def test_odd_sizes_lose_a_line_and_flat_ones_are_told():
    made = ready(case(phantom(0)[None, ..., None]))
    assert made["truth"].array.shape == (1, 44, 40, 1)
    assert not made["flat"]
    flat = ready(case(np.full((1, 20, 20, 1), 7, np.uint8)))
    assert flat["flat"]
    assert np.isfinite(flat["scale"]).all()


def test_what_cannot_be_restored_is_refused(tmp_path, scans):
    with pytest.raises(InputError, match="too small"):
        ready(case(np.ones((1, 5, 20, 1), np.uint8)))
    with pytest.raises(InputError, match="3 times as large, not 2"):
        ready(case(np.ones((1, 20, 20, 1), np.uint8), "pair", target=np.ones((1, 60, 60, 1), np.uint8)))
    with pytest.raises(InputError, match="NaN"):
        ready(case(np.ones((1, 20, 20, 1), np.uint8), "pair", target=np.full((1, 40, 40, 1), np.nan, np.float32)))
    with pytest.raises(InputError, match="exists"):
        whole_images(tmp_path / "nowhere")
    with pytest.raises(InputError, match="no images"):
        whole_images(tmp_path)
    with pytest.raises(InputError, match="only rrdb"):
        job_of(settings(scans, model=Network("redcnn")))
    with pytest.raises(InputError, match="adversarial_steps"):
        TwoPhases(adversarial_steps=-1)
    for k in range(3):
        Image.fromarray(np.full((30, 30), k, np.uint8)).save(tmp_path / f"flat{k}.png")
    config = settings(tmp_path)
    with pytest.raises(InputError, match="of one value"):
        medjax.train(job_of(config), config, tmp_path / "run", quiet=True)


def test_colour_is_kept_where_it_is_asked_for(tmp_path):
    colour = np.stack([phantom(k) >> 4 for k in range(3)], -1).astype(np.uint8)
    Image.fromarray(colour).save(tmp_path / "a.png")
    config = settings(tmp_path, image=Pictures(patch=12, tile=16, channels=("red", "green", "blue")))
    job = job_of(config)
    source = job.sources()["all"]
    np.testing.assert_array_equal(source[0]["image"][0], colour)
    made = job.preprocess({name: value for name, value in source[0].items() if name != "path"})
    assert made["worse"].array.shape == (1, 22, 20, 3)
    batch = {
        "worse": np.zeros((2, 12, 12, 3)),
        "truth": np.zeros((2, 24, 24, 3)),
        "scale": np.ones((2, 2)),
        "label": np.zeros(2),
    }
    state = jax.eval_shape(lambda: job.task.init(jax.random.key(0), batch))
    assert jax.eval_shape(job.task.predict, state, batch)["image"].shape == (2, 24, 24, 3)


def test_given_images_keep_their_values(scans):
    source = given_images([scans / "slice03.png"])
    example = source[0]
    assert example["role"] == "given"
    np.testing.assert_array_equal(example["image"][0, ..., 0], phantom(3))


def test_an_encoder_of_a_finished_run_judges_features(finished, scans):
    folder, _ = finished
    distance = encoder_distance(folder)
    a, b = (jnp.array(np.random.default_rng(k).random((2, 32, 32, 1)), jnp.float32) for k in range(2))
    assert (np.asarray(distance(a, b)) > 0).all()
    np.testing.assert_array_equal(distance(a, a), 0)
    assert float(jnp.abs(jax.grad(lambda x: distance(x, b).sum())(a)).sum()) > 0
    with pytest.raises(InputError, match="no finished run"):
        encoder_distance(scans)
