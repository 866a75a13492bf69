"""Generation end to end on small pictures: measures, floors, an album, files that train; what cannot be is refused."""

import csv
import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import blob_image
from PIL import Image
from scipy.spatial.distance import cdist

import medjax
from medjax.cases import Cases
from medjax.config import Data, Train
from medjax.data.layouts import class_folders
from medjax.deploy.generate import generate
from medjax.engine import make_engine
from medjax.errors import InputError
from medjax.metrics.generation import frechet_distance
from medjax.tasks import extractor as judging
from medjax.tasks import reading
from medjax.tasks.extractor import Extractor
from medjax.tasks.generate import Config, Networks, Picture, Rules, generate_job, resolve
from medjax.tasks.generation import check, decide, halves, measure, one_a_case

SMALL = Extractor(steps=12, width=2, reference=50)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for name in ("no", "yes"):
        (folder / name).mkdir()
        for k in range(40):
            image = Image.fromarray(blob_image(rng, bright=name == "yes"))
            image.save(folder / name / f"{k:02d}.png")
    return folder


def settings(folder, **more):
    base = Config(
        data=Data(path=str(folder), classes=(), sampling="groups"),
        image=Picture(size=16),
        model=Networks(features=4, most=8, latent=6),
        game=Rules(lazy=2, adapt=400),
        measure=SMALL,
        train=Train(steps=12, batch_size=8, eval_every=6, checkpoint_every=6, ema=0.9),
    )
    return resolve(dataclasses.replace(base, **more))


def job_of(config):
    return generate_job(config, question="More?", name="pictures")


@pytest.fixture(scope="module")
def trained(pictures, tmp_path_factory):
    from medjax import evaluation

    folder = tmp_path_factory.mktemp("generated") / "run"
    config = settings(pictures)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluation, "RESAMPLES", 40)
        return config, folder, medjax.train(job_of(config), config, folder, quiet=True)


def test_a_run_measures_its_images_beside_two_floors(trained):
    config, folder, done = trained
    assert config.data.classes == ("no", "yes")
    assert config.image.form == "grey"
    report = json.loads((folder / "report.json").read_text())
    found = report["metrics"]["test"]
    for name in ("fid", "kid", "is", "precision", "recall", "farther", "farther_pixels"):
        assert report["definitions"][name]
        assert np.isfinite(found[name]["value"])
    assert found["fid"]["ci95"] is None
    assert "repeats images" in found["fid"]["reason"]
    assert found["farther"]["ci95"] is not None
    assert {"real", "training"} == report["baselines"].keys()
    assert report["baselines"]["training"]["farther"]["value"] == 0
    assert found["fid"]["value"] > report["baselines"]["training"]["fid"]["value"]
    assert "16 x 16" in report["definitions"]["fid"]
    names = {f.name for f in (folder / "figures").glob("*.png")}
    assert names >= {"samples.png", "nearest.png", "distances.png", "training.png"}
    album = np.asarray(done.state.extra["album"])
    assert len({page.tobytes() for page in album}) == len(album) == 6
    with open(folder / "predictions" / "test.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == report["data"]["splits"]["test"]["n"]
    assert 0 <= np.mean([float(row["farther"]) for row in rows]) == pytest.approx(found["farther"]["value"])


def test_an_evaluation_repeats_the_runs_numbers_with_the_extractor_it_kept(trained, tmp_path, monkeypatch):
    from medjax import evaluation
    from medjax.deploy.finished import evaluate

    config, folder, _ = trained
    monkeypatch.setattr(evaluation, "RESAMPLES", 40)
    monkeypatch.setattr(judging, "fit", lambda *args: pytest.fail("trained an extractor anew"))
    report = evaluate(job_of(config), config, folder, out=tmp_path / "again")
    before = json.loads((folder / "report.json").read_text())
    for name, entry in before["metrics"]["test"].items():
        assert report["metrics"]["test"][name]["value"] == pytest.approx(entry["value"], rel=1e-5)
    for name, entry in before["baselines"]["real"].items():
        assert report["baselines"]["real"][name]["value"] == pytest.approx(entry["value"], rel=1e-5)


def test_generated_folders_are_labelled_repeatable_and_train(trained, tmp_path):
    config, folder, _ = trained
    job = job_of(config)
    made = generate(job, config, folder, count=9, out=tmp_path / "nine")
    assert made == {"no": 5, "yes": 4}
    files = sorted((tmp_path / "nine").rglob("*.png"))
    assert len(files) == 9
    assert "GENERATED" in (tmp_path / "nine" / "GENERATED.txt").read_text()
    layout = class_folders.sources(tmp_path / "nine")
    assert layout.classes == ("no", "yes")
    assert len(layout.sources["all"]) == 9
    assert layout.sources["all"][0]["image"].shape == (16, 16)
    with open(tmp_path / "nine" / "predictions.csv", newline="") as file:
        assert {row["id"] + ".png" for row in csv.DictReader(file)} == {
            f.relative_to(tmp_path / "nine").as_posix() for f in files
        }
    again = generate(job, config, folder, count=3, label="yes", out=tmp_path / "three")
    assert again == {"yes": 3}
    # The second image of the first series is the second of this one: of one class and one latent.
    first, second = (Path(tmp_path / part / "yes" / "000002.png").read_bytes() for part in ("nine", "three"))
    assert first == second


def test_a_series_in_parts_is_the_series(trained, tmp_path, monkeypatch):
    from medjax.deploy import generate as module

    config, folder, _ = trained
    whole = tmp_path / "whole"
    generate(job_of(config), config, folder, count=7, out=whole)
    monkeypatch.setattr(module, "PART", 3)
    generate(job_of(config), config, folder, count=7, out=tmp_path / "parts")
    for file in whole.rglob("*.png"):
        assert file.read_bytes() == (tmp_path / "parts" / file.relative_to(whole)).read_bytes()


def test_what_cannot_be_generated_is_refused_in_a_sentence(trained, tmp_path):
    config, folder, _ = trained
    job = job_of(config)
    for more, words in (
        ({"count": 0}, "--count 0"),
        ({"count": 3, "label": "yess"}, "nearest is 'yes'"),
    ):
        with pytest.raises(InputError, match=words):
            generate(job, config, folder, out=tmp_path / "out", **more)
    other = job._replace(about=job.about._replace(task="classification"))
    with pytest.raises(InputError, match="generates nothing"):
        generate(other, config, folder, count=1, out=tmp_path / "out")
    plain = job._replace(about=job.about._replace(classes=()))
    with pytest.raises(InputError, match="without classes"):
        generate(plain, config, folder, count=1, label="yes", out=tmp_path / "out")
    with pytest.raises(InputError, match="--count N"):
        job.read([folder])
    assert not (tmp_path / "out").exists()


def test_pictures_of_two_forms_constant_ones_and_small_classes_stop(pictures):
    job = job_of(settings(pictures))
    grey = np.arange(400, dtype=np.uint8).reshape(20, 20) % 251
    with pytest.raises(InputError, match="a/b: is colour, where others are grey"):
        job.preprocess({"id": "a/b", "image": np.stack([grey, grey.T, grey], -1)})
    with pytest.raises(InputError, match="every pixel has the value 7"):
        job.preprocess({"id": "a/c", "image": np.full((20, 20), 7, np.uint8)})
    converted = job_of(settings(pictures, image=Picture(size=16, mixed="convert")))
    assert converted.preprocess({"id": "a", "image": np.stack([grey, grey.T, grey], -1)})["image"].shape == (16, 16, 1)
    label = np.array([0] * 40 + [1] * 3)
    with pytest.raises(InputError, match="'rare' has 3 training images"):
        check(Cases({"label": label}), classes=("usual", "rare"))
    with pytest.raises(InputError, match="size 30"):
        job_of(settings(pictures, image=Picture(size=30), model=Networks(name="dcgan")))
    with pytest.raises(InputError, match="must be 16"):
        Picture(size=8)


def test_the_nearest_training_image_is_scipys_and_the_median_leaves_copies_out():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (30, 16, 16, 1)).astype(np.uint8)
    image[20:] = image[:10]  # ten copies, each in its picture's group
    group = np.concatenate([np.arange(20), np.arange(10)])
    label = np.arange(30) % 2
    cases = Cases({"image": image, "label": label, "group": group, "content": group.astype(str)})
    judge = judging.fit(SMALL, 2, cases)
    features = judge["features"][:30].astype(np.float64)
    apart = cdist(features, features) + np.where(group[:, None] == group, np.inf, 0)
    assert judge["medians"][0] == pytest.approx(np.median(apart.min(1)), rel=1e-4)
    flat = image.reshape(30, -1).astype(float)
    of_pixels = cdist(flat, flat) / 16 + np.where(group[:, None] == group, np.inf, 0)
    assert judge["medians"][1] == pytest.approx(np.median(of_pixels.min(1)), rel=1e-4)
    new = rng.integers(0, 255, (4, 16, 16, 1)).astype(np.uint8)
    seen, _, _ = judging.see(SMALL, judging.network(SMALL, 2, 16), judge["variables"], new)
    found = jax.jit(judging.compare)(judge, jnp.array(seen), jnp.array(new))
    np.testing.assert_allclose(found["nearest"], cdist(seen, features).min(1), rtol=1e-3)
    np.testing.assert_array_equal(found["place"], cdist(seen, features).argmin(1))
    wanted = cdist(new.reshape(4, -1).astype(float), flat).min(1) / 16
    np.testing.assert_allclose(found["nearest_pixels"], wanted, rtol=1e-3)
    np.testing.assert_array_equal(found["farther_pixels"], wanted > judge["medians"][1])
    # Copies are told: the first images themselves, whose features come by another batch size.
    copies = jax.jit(judging.compare)(judge, jnp.array(judge["features"][:4]), jnp.array(image[:4]))
    assert not np.asarray(copies["farther"]).any()
    assert np.asarray(copies["nearest_pixels"]).max() < 0.1
    again = judging.flatten(judging.fit(SMALL, 2, cases))
    for name, value in judging.flatten(judge).items():
        np.testing.assert_array_equal(value, again[name])


def test_measures_are_of_the_rows_that_count_and_none_where_images_come_twice():
    rng = np.random.default_rng(1)
    n = 40
    rows = {
        "features": rng.normal(size=(n, 3)),
        "real_features": rng.normal(size=(n, 3)),
        "score": rng.dirichlet(np.ones(2), n),
        "farther": rng.random(n) < 0.5,
        "farther_pixels": rng.random(n) < 0.5,
        "number": np.arange(n),
        "generated": np.arange(n) < 25,
        "real": np.arange(n) >= 10,
    }
    rows = decide({}, rows)
    found = measure(rows, None, classes=2)
    assert found["fid"] == pytest.approx(frechet_distance(rows["features"][:25], rows["real_features"][10:]))
    assert found["farther"] == rows["farther"][:25].mean()
    twice = {name: x[np.zeros(n, int)] for name, x in rows.items()}
    assert "fid" not in measure(twice, None, classes=2)
    assert "is" not in measure(rows, None, classes=0)


def test_halves_share_no_group_and_balance_classes():
    rng = np.random.default_rng(2)
    group = rng.integers(0, 60, 400)
    label = group % 3
    first = halves(group, label)
    assert not set(group[first]) & set(group[~first])
    for k in range(3):
        assert abs(first[label == k].mean() - 0.5) < 0.1


def test_members_take_turns():
    rows = [{"number": np.arange(4), "image": np.full((4, 2), k)} for k in (7, 8)]
    np.testing.assert_array_equal(one_a_case().merge(rows)["image"][:, 0], [7, 8, 7, 8])


def test_a_reading_hides_the_truth_and_scores_answers(tmp_path, capsys):
    rng = np.random.default_rng(0)
    generated, real = (rng.integers(0, 255, (9, 8, 8)).astype(np.uint8) for _ in range(2))
    page = reading.make(generated, real, each=6)
    truth = dict(csv.reader(page.key.splitlines()[1:]))
    assert sorted(truth.values()) == ["generated"] * 6 + ["real"] * 6
    assert list(truth.values()) != sorted(truth.values())
    assert page.html.count("data:image/png;base64") == 12
    # The truth stands in no file that the reader opens but as the words to choose from.
    assert page.html.count('value="generated"') == page.html.count('value="real"') == 12
    assert "http" not in page.html
    (tmp_path / "key.csv").write_text(page.key)
    answers = {name: ("generated" if k < 9 else "real") for k, name in enumerate(truth)}
    lines = "".join(f"{name},{answer}\n" for name, answer in answers.items())
    (tmp_path / "answers.csv").write_text(f"id,answer\n{lines}")
    found = reading.score(tmp_path / "key.csv", tmp_path / "answers.csv")
    right = sum(truth[name] == answer for name, answer in answers.items())
    assert found["right"] == right / 12
    assert found["low"] < found["right"] < found["high"]
    reading.main([str(tmp_path / "key.csv"), str(tmp_path / "answers.csv")])
    assert "12 images read" in capsys.readouterr().out
    (tmp_path / "answers.csv").write_text("id,answer\n99,real\n")
    with pytest.raises(InputError, match="99"):
        reading.score(tmp_path / "key.csv", tmp_path / "answers.csv")


def test_wilsons_interval_is_the_score_tests():
    """Its ends are the shares whose test statistic against the observed one is 1.96."""
    for right, n in ((3, 10), (10, 10), (25, 40)):
        for end in reading.wilson(right, n):
            if 1e-6 < end < 1 - 1e-6:
                assert abs(right / n - end) / np.sqrt(end * (1 - end) / n) == pytest.approx(1.959964, rel=1e-5)


def test_a_killed_run_goes_on_bit_for_bit(trained, tmp_path, monkeypatch):
    from medjax import evaluation, loop
    from medjax.checkpoint import Checkpoints

    config, _, done = trained
    monkeypatch.setattr(evaluation, "RESAMPLES", 40)
    saved = Checkpoints.save

    def stop_after_save(self, state, progress):
        saved(self, state, progress)
        self.wait()
        raise KeyboardInterrupt

    monkeypatch.setattr(Checkpoints, "save", stop_after_save)
    with pytest.raises(KeyboardInterrupt):
        medjax.train(job_of(config), config, tmp_path / "cut", quiet=True)
    monkeypatch.undo()
    monkeypatch.setattr(evaluation, "RESAMPLES", 40)
    resumed = loop.go_on(job_of(config), config, tmp_path / "cut", quiet=True)
    states = [dataclasses.replace(t.state, key=jax.random.key_data(t.state.key)) for t in (resumed, done)]
    assert float(states[0].extra["augment"]["chance"]) == float(states[1].extra["augment"]["chance"])
    for a, b in zip(*map(jax.tree.leaves, states), strict=True):
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def test_devices_agree_on_the_chance_the_album_and_every_step(pictures):
    config = settings(pictures, game=Rules(lazy=2, adapt=64))
    task = job_of(config).task
    rng = np.random.default_rng(0)
    batch = {
        "image": rng.integers(0, 255, (8, 16, 16, 1)).astype(np.uint8),
        "label": np.arange(8) % 2,
        "mask": np.ones(8, bool),
        "index": np.arange(8, dtype=np.int32),
    }
    found = []
    for kind, devices in (("jit", 1), ("pmap", 4)):
        engine = make_engine(task, kind, jax.devices()[:devices])
        placed = engine.put(batch)
        state = engine.init(jax.random.key(0), placed)
        for _ in range(4):
            state, _ = engine.update(state, placed)
        for leaf in jax.tree.leaves((state.extra, state.params)):
            assert len({np.asarray(s.data).tobytes() for s in leaf.addressable_shards}) == 1
        found.append(jax.device_get((state.extra["augment"], state.params, state.extra["album"])))
    assert float(found[0][0]["chance"]) in (0.0, 0.5)
    assert found[0][0]["chance"] == found[1][0]["chance"]
    for a, b in zip(*map(jax.tree.leaves, (f[1] for f in found)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)
    assert np.abs(found[0][2].astype(int) - found[1][2]).max() <= 1


@pytest.mark.parametrize("name", ["r3gan", "dcgan"])
@pytest.mark.parametrize(("conditional", "form"), [(True, "colour"), (False, "grey")])
def test_every_kind_of_job_can_be_traced(pictures, name, conditional, form):
    config = settings(
        pictures,
        image=Picture(size=28, form=form),
        model=Networks(name=name, features=4, most=8, conditional=conditional),
        game=Rules(augment=("flip", "translation", "cutout"), adapt=0, lazy=1),
    )
    job = job_of(config)
    assert job.about.classes == (("no", "yes") if conditional else ())
    channels = 3 if form == "colour" else 1
    batch = {
        "image": jax.ShapeDtypeStruct((4, 28, 28, channels), jnp.uint8),
        "label": jax.ShapeDtypeStruct((4,), jnp.int32),
        "index": jax.ShapeDtypeStruct((4,), jnp.int32),
        "mask": jax.ShapeDtypeStruct((4,), bool),
    }
    state = jax.eval_shape(job.task.init, jax.random.key(0), batch)
    after, logs = jax.eval_shape(job.task.update, state, batch)
    assert jax.tree.structure(after) == jax.tree.structure(state)
    assert {"loss", "diversity", "real_sign"} <= logs.keys()
    rows = jax.eval_shape(job.task.evaluate, state, batch)
    assert rows["image"].shape == (4, 28, 28, channels)
    assert rows["score"].shape == (4, 2 if conditional else judging.TURNS)


def test_without_classes_the_extractor_learns_how_images_are_turned():
    """A bright upper half: after a short training its turns are told better than by chance."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 60, (48, 16, 16, 1)).astype(np.uint8)
    image[:, :8] += 150
    cases = Cases({"image": image, "label": np.full(48, -1), "group": np.arange(48)})
    of = Extractor(steps=60, width=4, reference=48)
    judge = judging.fit(of, 0, cases)
    model = judging.network(of, 0, 16)
    right = []
    for quarters in range(4):
        turned = np.ascontiguousarray(np.rot90(image, quarters, (1, 2)))
        right.append((judging.see(of, model, judge["variables"], turned)[1].argmax(1) == quarters).mean())
    assert np.mean(right) > 0.6
