"""The trial of generated training data: the same beginning for all arms, phases, paired gains, and the first line's honesty."""

import dataclasses
import importlib.util
import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import ROOT, blob_image
from families import batch_of, gan
from PIL import Image

import medjax
from medjax import evaluation
from medjax.cases import Cases
from medjax.config import Data, Decide
from medjax.data.augment.compose import to_unit
from medjax.data.split import keep_share
from medjax.metrics import auroc
from medjax.models.resnet import ResNet
from medjax.tasks.adversarial import adversarial
from medjax.tasks.augmentation_trial import ARMS, Classifier, GanFirst, calibrate, decide, measure, tell, trial
from medjax.tasks.classification import classification
from medjax.tasks.generate import Networks, Picture, Rules


def bits(tree):
    return [np.asarray(x).tobytes() for x in jax.tree.leaves(tree)]


class OfClass(nn.Module):
    """Pictures of one grey for each class, so that they are known where they come."""

    @nn.compact
    def __call__(self, x, *, train):
        self.param("nothing", nn.initializers.zeros, ())
        return jnp.broadcast_to((x["class"] * 2.0 - 1.0)[:, None, None, None], (len(x["class"]), 8, 8, 1))


class Judge(nn.Module):
    @nn.compact
    def __call__(self, x, *, train):
        return nn.Dense(1)(x["image"].reshape(len(x["image"]), -1))[:, 0]


def arms_of(share):
    tx = {"generator": optax.sgd(0.0), "discriminator": optax.sgd(0.0)}
    made = adversarial(
        OfClass(),
        Judge(),
        tx,
        latent=3,
        labels=lambda batch: batch["label"],
        inputs=lambda batch: to_unit(batch["image"]),
    )
    classify = classification(
        ResNet(2, 2, (1,), stem_stride=1, dropout=0.0), optax.sgd(0.1), inputs=lambda b: to_unit(b["image"])
    )
    still = lambda key, example: {**example, "image": to_unit(example["image"])}  # noqa: E731
    return trial(made, classify, at=2, latent=3, share=share, augment=still)


def test_arms_begin_alike_wait_for_the_gan_and_differ_by_what_they_see():
    batch = {**batch_of(gan(), 8), "label": np.arange(8) % 2}
    states = {}
    for share in (0.0, 1.0):
        task = arms_of(share)
        state = task.init(jax.random.key(0), batch)
        begin = bits(state.params["real"])
        assert all(bits(state.params[name]) == begin for name in ARMS)
        update = jax.jit(task.update)
        for _ in range(2):
            state, logs = update(state, batch)
        assert all(bits(state.params[name]) == begin for name in ARMS)
        assert float(logs["loss/generator"]) != 0
        state, logs = update(state, batch)
        assert int(state.step) == 3
        assert bits(state.params["real"]) != begin
        states[share] = state
    # Without changes and without generated images, the three arms are one training.
    same = states[0.0]
    for name in ("classic", "gan"):
        for a, b in zip(jax.tree.leaves(same.params["real"]), jax.tree.leaves(same.params[name]), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-6)
    # With generated images alone the third has learned from these, and from their classes.
    classify = classification(
        ResNet(2, 2, (1,), stem_stride=1, dropout=0.0), optax.sgd(0.1), inputs=lambda b: to_unit(b["image"])
    )
    first = arms_of(1.0).init(jax.random.key(0), batch)
    alone = first.replace(params=first.params["gan"], extra=first.extra["gan"], opt=first.opt["gan"], step=jnp.int32(2))
    plain = {**batch, "image": np.broadcast_to(255 * (np.arange(8) % 2)[:, None, None, None], (8, 8, 8, 1)).astype(np.uint8)}
    wanted, _ = jax.jit(classify.update)(alone, plain)
    for a, b in zip(jax.tree.leaves(wanted.params), jax.tree.leaves(states[1.0].params["gan"]), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_gains_are_differences_on_the_same_cases_at_points_of_their_own():
    rng = np.random.default_rng(0)
    label = np.arange(60) % 2

    def score(strength):
        positive = 1 / (1 + np.exp(-(strength * (2 * label - 1) + rng.normal(size=60))))
        return np.stack([1 - positive, positive], 1)

    rows, cases = {"score": score(2.0), "score/classic": score(1.0), "score/real": score(0.5)}, Cases({"label": label})
    point = calibrate(rows, cases, rule=Decide())
    assert {"threshold", "threshold/classic", "threshold/real"} <= point.keys()
    found = measure(decide(point, rows), cases, classes=("no", "yes"))
    for name in ("", "/classic", "/real"):
        assert found[f"auroc{name}"] == pytest.approx(auroc(label, rows[f"score{name}"][:, 1]))
    assert found["auroc_gain"] == pytest.approx(found["auroc"] - found["auroc/classic"])
    assert found["auroc_gain/classic"] == pytest.approx(found["auroc/classic"] - found["auroc/real"])
    assert found["sensitivity_gain"] == pytest.approx(found["sensitivity"] - found["sensitivity/classic"])


@pytest.mark.parametrize(
    ("auroc_ends", "sensitivity_ends", "words"),
    [
        ((-0.01, 0.02), (-0.1, 0.1), "No gain from generated images is shown"),
        ((0.01, 0.03), (-0.1, 0.1), "Generated images helped"),
        ((-0.05, -0.01), None, "Generated images did harm"),
        ((0.01, 0.03), (-0.2, -0.1), "helped in one way and harmed in another"),
    ],
)
def test_the_first_line_says_what_the_intervals_say(auroc_ends, sensitivity_ends, words):
    def entry(ends):
        return {"value": 0.01, "ci95": None if ends is None else list(ends)}

    (line,) = tell({"auroc_gain": entry(auroc_ends), "sensitivity_gain": entry(sensitivity_ends)})
    assert words in line
    assert tell({"auroc": entry(auroc_ends)}) == []


def test_a_share_keeps_whole_groups_of_every_class_and_small_shares_lie_in_large_ones():
    rng = np.random.default_rng(0)
    group = rng.integers(0, 80, 500)
    kind = group % 4
    parts = {share: keep_share(group, kind, share, 3) for share in (0.01, 0.1, 0.25, 1.0)}
    assert parts[1.0].all()
    for small, large in ((0.01, 0.1), (0.1, 0.25), (0.25, 1.0)):
        assert not (parts[small] & ~parts[large]).any()
    for share, kept in parts.items():
        assert not set(group[kept]) & set(group[~kept])
        for k in range(4):
            groups = len(np.unique(group[kind == k]))
            assert len(np.unique(group[kept & (kind == k)])) == max(1, round(share * groups))
    assert (keep_share(group, kind, 0.25, 4) != parts[0.25]).any()


def test_a_trial_runs_and_its_report_begins_with_the_answer(tmp_path, monkeypatch):
    spec = importlib.util.spec_from_file_location("gan_augmentation", ROOT / "experiments" / "gan_augmentation.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(evaluation, "RESAMPLES", 40)
    rng = np.random.default_rng(0)
    for name in ("no", "yes"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for k in range(40):
            Image.fromarray(blob_image(rng, bright=name == "yes")).save(tmp_path / "data" / name / f"{k:02d}.png")
    config = dataclasses.replace(
        module.PRESETS_OF["fast"],
        data=Data(path=str(tmp_path / "data"), fraction=0.5),
        image=Picture(size=16),
        model=Networks(features=4, most=8, latent=6),
        game=Rules(lazy=2),
        classifier=Classifier(width=2, blocks=(1, 1)),
        train=GanFirst(steps=6, gan_steps=6, batch_size=8, eval_every=6, checkpoint_every=6),
        seeds=2,
    )
    config = module.resolve(config)
    done = medjax.train(module.build(config), config, tmp_path / "run", quiet=True)
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert "enerated images" in report["warnings"][0]
    assert "auroc" in report["warnings"][0]
    found = report["metrics"]["test"]
    assert found["auroc_gain"]["value"] == pytest.approx(found["auroc"]["value"] - found["auroc/classic"]["value"])
    low, high = found["auroc_gain"]["ci95"]
    assert low <= found["auroc_gain"]["value"] <= high
    assert len(report["seeds"]) == 2
    assert any("--data.fraction 0.5" in note for note in report["data"]["audit"]["notes"])
    assert done.progress.step == 12
    assert {p.name for p in (tmp_path / "run" / "figures").glob("*.png")} >= {"training.png", "roc.png"}
