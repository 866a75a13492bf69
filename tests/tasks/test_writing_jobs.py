"""Writing: preparation, samples and measures by hand, the baselines as arrays, and runs on pairs of texts and on pictures."""

import csv
import dataclasses
import functools
import json
import sys
from pathlib import Path

import jax
import numpy as np
import optax
import pytest
from PIL import Image as Picture

pytest.importorskip("tokenizers")
pytest.importorskip("sacrebleu")
pytest.importorskip("rouge_score")

import medjax
from medjax import experiments
from medjax.cases import Cases, stack_rows
from medjax.config import Data, Optimizer, Train
from medjax.data.layouts import detect, open_layout, report_images
from medjax.data.pieces import END, Pieces, learn_pieces
from medjax.deploy.finished import predict
from medjax.errors import InputError
from medjax.models.writer import TextEncoder, Writer
from medjax.tasks import captions, pairs
from medjax.tasks import writing as task_file
from medjax.tasks import writing_baselines as simple

sys.path.append(str(Path(__file__).parents[1] / "data"))
import make_texts as make

PLACES = ("upper lobe", "lower lobe", "apex")
FINDINGS = ("nodule", "opacity", "effusion")


def report_of(rng):
    """(findings, impression) that follows from them."""
    side, place, what = (str(rng.choice(of)) for of in (("left", "right"), PLACES, FINDINGS))
    calm = "Heart size is normal. " if rng.random() < 0.5 else ""
    if rng.random() < 0.3:
        return f"{calm}Both lungs are clear. No pleural fluid. Week {rng.integers(99)}.", "No acute disease."
    return f"{calm}There is a {what} in the {side} {place}. Week {rng.integers(99)}.", f"{what.capitalize()}, {side} {place}."


def write_table(folder, n=120):
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name, size in {"train": n, "valid": n // 4, "test": n // 4}.items():
        rows = [dict(zip(("findings", "impression", "section"), (*report_of(rng), "chest"))) for _ in range(size)]
        (folder / f"{name}.csv").write_text(make.table([{"id": str(i), **row} for i, row in enumerate(rows)]), encoding="utf-8")
    return folder


PIECES = Pieces(learn_pieces([text for _ in range(50) for text in report_of(np.random.default_rng(_))], 300))


def prepared(rows):
    examples = [{"id": str(i), "patient": "", "label": -1, "text": a, "target": b} for i, (a, b) in enumerate(rows)]
    made = [task_file.prepare_pair(e, pieces=PIECES) for e in examples]
    return Cases(stack_rows([{**of, "group": np.int32(i)} for i, of in enumerate(made)]))


def test_a_target_that_is_cut_has_no_end():
    cases = prepared([("Clear.", "No."), ("x" * 50, "y" * 50), ("", "")])
    made = task_file.examples(PIECES, [(6, 8)])
    cut = made.cut(cases, np.random.default_rng(0))
    assert cases["label"].tolist() == [0, 0, -1]
    assert cut["source_lengths"].tolist() == [min(len(PIECES.encode("Clear.")), 6), 6, 0]
    assert cut["target"][0, cut["lengths"][0] - 1] == END
    assert cut["lengths"][1] == 8
    assert END not in cut["target"][1]
    assert cut["lengths"][2] == 1
    notes = task_file.check(cases, source=6, most=8)
    assert [note.split(" training")[0] for note in notes] == ["1 of 3", "1 of 3"]
    with pytest.raises(InputError, match="no training case has a text to write"):
        task_file.check(cases.take(np.array([2])), source=6, most=8)


def test_short_pairs_are_padded_to_a_small_shape():
    rng = np.random.default_rng(0)
    sources, targets = rng.integers(1, 30, 100), rng.integers(1, 12, 100)
    shapes = task_file.suggest_shapes(sources, targets, source=100, most=50)
    assert shapes[-1] == (100, 50)
    small = np.array(shapes[0])
    assert ((np.stack([sources, targets], 1) <= small).all(1)).mean() >= 0.7
    assert (small < (40, 30)).all()
    assert task_file.suggest_shapes(sources * 0, targets, source=0, most=12)[-1] == (0, 12)
    cases = prepared([("Clear.", "No."), ("x" * 9, "No."), ("Clear.", "y" * 9)])
    made = task_file.examples(PIECES, [(6, 6), (20, 20)])
    assert made.sizes(cases).tolist() == [0, 1, 1]
    assert made.cut(cases, rng)["source"].shape == (3, 20)
    assert made.cut(cases.take(np.array([0])), rng)["source"].shape == (1, 6)
    assert next(made.windows(cases, 2, False))["target"].shape == (20,)


def test_baselines_are_their_rules():
    train = prepared(
        [("A nodule on the left.", "Nodule."), ("Clear lungs.", "Normal."), ("All is clear now.", "Normal."), ("", "Lost.")]
    )
    test = prepared([("Lungs clear today. 1. More words. Then end.", "Normal."), ("one nodule", "Nodule.")])

    def written(baseline):
        arrays = baseline.fit(train, train)
        assert all(np.asarray(a).dtype.kind in "Uifu" for a in arrays.values())
        rows = baseline.predict(arrays, test)
        return [of.tobytes().decode() for of in rows["written"]]

    assert written(simple.frequent()) == ["Normal.", "Normal."]
    assert written(simple.nearest()) == ["Normal.", "Nodule."]
    assert simple.sentences("Lungs clear today. 1. More words. Then end.") == [
        "Lungs clear today.",
        "1. More words.",
        "Then end.",
    ]
    assert written(simple.lead())[1] == "one nodule"


def test_the_surest_member_writes():
    members = [{"sure": np.array([-1.0, -3.0]), "pieces": np.full((2, 2), k)} for k in (5, 6)]
    members[1]["sure"] = np.array([-2.0, -1.0])
    assert task_file.most_sure(members)["pieces"][:, 0].tolist() == [5, 6]


def test_runs_that_two_texts_share():
    text = "There is a small nodule, and no effusion."
    (run,) = task_file.shared_runs(text, "there IS a Small mass and effusion")
    assert text[slice(*run)] == "There is a small"


def test_samples_do_not_depend_on_the_batch():
    model = Writer(PIECES.size, TextEncoder(8), 8, 8)
    task = task_file.writing(model, optax.sgd(0.1), most=6, how="sample", share=1.0)
    cases = prepared([report_of(np.random.default_rng(i)) for i in range(4)])
    batch = task_file.examples(PIECES, [(12, 6)]).cut(cases, np.random.default_rng(0))
    batch |= {"label": cases["label"], "mask": np.ones(4, bool), "index": np.arange(4, dtype=np.int32)}
    state = jax.jit(task.init)(jax.random.key(0), batch)
    write = jax.jit(task.predict)
    whole = write(state, batch)["pieces"]
    part = write(state, {name: column[[2, 3, 2, 3]] for name, column in batch.items()})["pieces"][:2]
    np.testing.assert_array_equal(whole[2:], part)
    assert len({tuple(row) for row in np.asarray(whole).tolist()}) > 1


def small(path, **changes):
    text = pairs.Text(most=40, longest=16, pieces=330)
    return pairs.Config(
        data=Data(path=str(path)),
        text=text,
        model=pairs.Network(words=24, encoder=24, features=48, dropout=0.0),
        write=pairs.Write(width=2),
        train=Train(steps=80, batch_size=16, eval_every=40, checkpoint_every=40),
        optimizer=Optimizer(rate=0.02, clip=1.0),
        **changes,
    )


def test_a_run_on_pairs(tmp_path):
    config = pairs.resolve(small(write_table(tmp_path / "data"), seeds=2))
    job = functools.partial(pairs.pairs_job, config, question="What is it?", name="toy")
    done = medjax.train(job(), config, tmp_path / "run", quiet=True)
    report = json.loads((done.folder / "report.json").read_text())
    test = report["metrics"]["test"]
    assert set(report["baselines"]) == {"frequent", "nearest", "lead"}
    assert test["rouge_l"]["value"] > max(report["baselines"][name]["rouge_l"]["value"] for name in ("frequent", "lead"))
    assert report["metrics"]["ensemble"]["bleu4"]["value"] > 0.3
    assert {"samples.png", "rouge.png"} <= {figure["file"] for figure in report["figures"]}
    with open(done.folder / "predictions" / "test.csv", newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert len(rows) == 30
    assert list(rows[0])[:4] == ["id", "patient", "truth", "pred"]
    # The run needs its data no more to write.
    (tmp_path / "data").rename(tmp_path / "elsewhere")
    (tmp_path / "new.txt").write_text("There is a nodule in the left apex. Week 3.")
    (tmp_path / "nothing.txt").write_text("")
    predict(job(), config, done.folder, [tmp_path / "new.txt", tmp_path / "nothing.txt"], out=tmp_path / "out")
    table, blank = csv.DictReader((tmp_path / "out" / "predictions.csv").read_text().splitlines())
    assert (blank["pred"], blank["sure"]) == ("", "")  # what is written most is no answer to nothing
    written = (tmp_path / "out" / "predictions" / "new.txt").read_text()
    assert written.strip() == table["pred"]
    assert "odule" in written


def write_studies(folder, n=64):
    """Reports of drawn pictures: a bright spot on one side, which the report names; every third study has two views."""
    rng = np.random.default_rng(0)
    found = {}
    for split, size in {"train": n, "val": n // 4, "test": n // 4}.items():
        for i in range(size):
            side = int(rng.integers(2))
            names = [f"{split}{i}/{k}.png" for k in range(1 + (i % 3 == 0))]
            for name in names:
                pixels = rng.integers(0, 60, (40, 48)).astype(np.uint8)
                pixels[10:30, 4 + 24 * side : 20 + 24 * side] = 220
                path = folder / "images" / name
                path.parent.mkdir(parents=True, exist_ok=True)
                Picture.fromarray(pixels).save(path)
            report = f"Opacity on the {('right', 'left')[side]}."
            found.setdefault(split, []).append({"id": f"{split}{i}", "report": report, "image_path": names, "split": split})
    (folder / "annotation.json").write_text(json.dumps(found))
    return folder


def test_a_run_on_pictures_with_reports(tmp_path):
    path = write_studies(tmp_path / "data")
    assert list(detect(path)) == ["report_images"]
    layout = open_layout(path)
    assert layout.holds == "pictures with texts"
    assert [len(layout.sources[split]) for split in ("train", "val", "test")] == [64, 16, 16]
    config = captions.Config(
        data=Data(path=str(path)),
        image=captions.Image(size=32),
        text=captions.Text(longest=10, pieces=290),
        model=captions.Network(name="cnn", words=24, features=48, dropout=0.0),
        write=pairs.Write(width=2),
        train=Train(steps=120, batch_size=16, eval_every=60, checkpoint_every=60),
        optimizer=Optimizer(rate=0.01, clip=1.0),
    )
    config = captions.resolve(config)
    job = functools.partial(captions.caption_job, config, question="What is seen?", name="toy")
    done = medjax.train(job(), config, tmp_path / "run", quiet=True)
    report = json.loads((done.folder / "report.json").read_text())
    assert set(report["baselines"]) == {"frequent", "nearest"}
    assert report["metrics"]["test"]["rouge_l"]["value"] > report["baselines"]["frequent"]["rouge_l"]["value"]
    spot = path / "images" / "test0" / "0.png"
    predict(job(), config, done.folder, [spot], out=tmp_path / "out")
    assert "Opacity" in next((tmp_path / "out").rglob("0.txt")).read_text()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda found: found["train"].append(found["train"][0]), ["annotation.json", "two studies have the id 'train0'"]),
        (lambda found: found["train"][0].pop("report"), ["'train0' lacks"]),
        (lambda found: found["train"][0].update(image_path=["gone.png"]), ["gone.png", "no such file"]),
        (lambda found: found["train"][0].update(image_path=["../../secret.png"]), ["is not in images/"]),
        (lambda found: found.update(other=[]), ["'other' is no split"]),
    ],
)
def test_studies_that_cannot_be_read(change, words, tmp_path):
    path = write_studies(tmp_path / "data", n=4)
    found = json.loads((path / "annotation.json").read_text())
    change(found)
    (path / "annotation.json").write_text(json.dumps(found))
    with pytest.raises(InputError) as error:
        report_images.sources(path)
    assert all(word in str(error.value) for word in words)


@pytest.mark.parametrize("name", ["impression", "dialogue_to_note", "xray_report"])
def test_the_experiments_that_write_keep_to_one_form(name):
    module = experiments.load_by_name(name)
    assert issubclass(module.Config, (pairs.Config, captions.Config))
    assert set(module.PRESETS_OF) == {"fast", "full"}
    assert experiments.card(experiments.find(name)).keys() == {"job", "data", "needs"}
    assert len(experiments.find(name).read_text().splitlines()) < 80


def test_settings_that_mean_nothing():
    for made in (lambda: pairs.Write(width=0), lambda: pairs.Text(pieces=100), lambda: captions.Text(longest=1)):
        with pytest.raises(InputError):
            made()
    with pytest.raises(InputError, match="give yours"):
        pairs.resolve(dataclasses.replace(pairs.Config(), data=Data()))
