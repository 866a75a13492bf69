"""Text classification: label attention, terms, the linear baseline as arrays, and runs on tables of texts."""

import csv
import dataclasses
import json
import sys
import zlib
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

import medjax
from medjax import experiments
from medjax.cases import Cases, Ragged, stack_rows
from medjax.config import Data, Optimizer, Train
from medjax.core import State
from medjax.data.tokenize import Numbers, find_tokens, hashed_grams
from medjax.deploy.finished import predict
from medjax.errors import InputError
from medjax.metrics import text as metrics
from medjax.models.reader import Bag, LabelAttention, Reader, SideBySide
from medjax.tasks import entities, imaging, text_classes, texts
from medjax.tasks.documents import decode, padded, suggest_lengths
from medjax.tasks.linear_text import logistic
from medjax.tasks.text_network import begin_bag, count_rarity, reading
from medjax.tasks.texts import Config, Network, Text, resolve, text_job

sys.path.append(str(Path(__file__).parents[1] / "data"))
import make_texts as make

SMALL = Train(steps=30, batch_size=16, eval_every=30, checkpoint_every=30)
NUMBERS = Numbers(("fever", "cough"), tuple("fever"), 5)


def test_label_attention_is_its_formula():
    rng = np.random.default_rng(0)
    y, lengths = rng.normal(size=(3, 5, 4)).astype(np.float32), np.array([5, 2, 0])
    model = LabelAttention(6, features=3)
    variables = model.init(jax.random.key(0), y, lengths)
    p = jax.tree.map(np.asarray, variables["params"])
    logits, weights = model.apply(variables, y, lengths)
    scores = np.tanh(y @ p["project"]["kernel"]) @ p["ask"]["kernel"]
    for i, n in enumerate(lengths):
        share = np.exp(scores[i, :n]) / np.exp(scores[i, :n]).sum(0) if n else np.zeros((0, 6))
        np.testing.assert_allclose(weights[i, :n], share, atol=1e-5)
        assert not np.asarray(weights)[i, n:].any()
        vectors = share.T @ y[i, :n]  # [K, H]
        np.testing.assert_allclose(logits[i], (vectors * p["kernel"].T).sum(1) + p["bias"], atol=1e-5)
    spoilt = np.where(np.arange(5)[:, None] < lengths[:, None, None], y, np.nan)
    np.testing.assert_array_equal(model.apply(variables, np.where(np.isnan(spoilt), 7, spoilt), lengths)[0], logits)


@pytest.mark.parametrize("classes", [3, 200])
def test_a_bag_is_linear_in_tf_idf(classes):
    model = Bag(classes, 50)
    x = {"places": np.array([[3, 4, 0]]), "weights": np.array([[1.5, 1.0, 0.0]], np.float32)}
    variables = dict(model.init(jax.random.key(0), x, train=False))
    variables["params"] = jax.tree.map(lambda a: a + 0.1 * np.arange(a.size).reshape(a.shape), variables["params"])
    variables["statistics"] = {"rarity": np.linspace(1, 3, 50, dtype=np.float32)}
    p = jax.tree.map(np.asarray, variables["params"])
    weights = np.array([1.5, 1.0]) * np.linspace(1, 3, 50)[[3, 4]]
    wanted = 10 * (weights / np.linalg.norm(weights)) @ p["table"][[3, 4]]
    if "widen" in p:
        wanted = wanted @ p["widen"]["kernel"]
    np.testing.assert_allclose(model.apply(variables, x, train=False)[0], wanted, rtol=1e-4)
    none = {**x, "weights": np.zeros((1, 3), np.float32)}
    assert not np.asarray(model.apply(variables, none, train=False)).any()


def test_rarity_is_that_of_scikit_learn():
    texts = ["fever cough", "fever fever", "cough pain", ""]
    found = count_rarity(prepared([(text, 0) for text in texts], buckets=2**16), 2**16)
    made = TfidfVectorizer(ngram_range=(1, 2)).fit(texts)
    for term, place in made.vocabulary_.items():
        np.testing.assert_allclose(found[zlib.crc32(term.encode()) % 2**16], made.idf_[place], rtol=1e-5)


@pytest.mark.parametrize("several", [False, True])
def test_a_fitted_bag_is_a_logistic_regression(several):
    texts = [f"{word} since day {i}" for i in range(12) for word in ("fever", "cough", "pain")] + ["unknown"]
    label = np.append(np.arange(36) % 3, -1)
    if several:
        label = np.where(label[:, None] < 0, -1, np.eye(4, dtype=np.int8)[label]).astype(np.int8)
    cases = prepared(list(zip(texts, label)), buckets=2**12)
    made = text_classes.first_tokens([8], terms=80)
    x = made.cut(cases, np.random.default_rng(0))
    bag = SideBySide((Bag(4, 2**12, fitted=True),))
    variables = bag.init(jax.random.key(0), x, train=False)
    assert "params" not in variables
    state = begin_bag(10.0)(State(*[None] * 5).replace(extra=dict(variables)), cases)
    logits = np.asarray(bag.apply(state.extra, x, train=True))[:36, 0]
    dense, rarity = np.zeros((36, 2**12)), count_rarity(cases, 2**12)
    for row, places, weights in zip(dense, cases["places"], cases["weights"]):
        row[places] = weights * rarity[places]
        row /= np.linalg.norm(row)
    if several:
        columns = [LogisticRegression(C=10.0).fit(dense, label[:36, k]).decision_function(dense) for k in range(3)]
        np.testing.assert_allclose(logits[:, :3], np.stack(columns, 1), atol=1e-2)
        assert (logits[:, 3] < -5).all()
    else:
        wanted = LogisticRegression(C=10.0).fit(dense, label[:36]).predict_proba(dense)
        np.testing.assert_allclose(jax.nn.softmax(logits)[:, :3], wanted, atol=1e-3)


def test_members_learn_by_themselves_and_answer_together():
    logits = np.random.default_rng(0).normal(size=(4, 3, 5)).astype(np.float32)
    batch = {"label": np.array([0, 4, 2, -1]), "mask": np.ones(4, bool)}
    task = reading(Given(jnp.asarray(logits)), optax.sgd(0.1))
    rows = task.evaluate(task.init(jax.random.key(0), batch), batch)
    share = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    wanted = np.exp(np.log(share).mean(1))
    np.testing.assert_allclose(rows["score"], wanted / wanted.sum(-1, keepdims=True), rtol=1e-5)
    np.testing.assert_allclose(rows["loss"][:3], -np.log(share[np.arange(3), :, batch["label"][:3]]).mean(1), rtol=1e-5)
    assert np.isnan(rows["loss"][3])
    several = {"label": np.ones((4, 5), np.int8), "mask": np.ones(4, bool)}
    task = reading(Given(jnp.asarray(logits)), optax.sgd(0.1), multi=True)
    rows = task.evaluate(task.init(jax.random.key(0), several), several)
    np.testing.assert_allclose(rows["score"], 1 / (1 + np.exp(-logits.mean(1))), rtol=1e-5)


class Given(nn.Module):
    """What it was given, whatever it is asked."""

    logits: jax.Array

    @nn.compact
    def __call__(self, x, *, train):
        return self.logits + self.param("zero", nn.initializers.zeros, ())


def test_terms_are_the_same_everywhere():
    places, weights = hashed_grams("Fever fever", find_tokens("Fever fever"), 2**16)
    assert (np.diff(places) > 0).all()
    assert np.linalg.norm(weights) == pytest.approx(1)
    again, _ = hashed_grams("fever FEVER", find_tokens("fever FEVER"), 2**16)
    np.testing.assert_array_equal(places, again)
    # The word, the pair, and its runs of two to five characters with edges: 6 + 5 + 4 + 3, all different.
    assert len(places) == 2 + 18
    assert hashed_grams("", find_tokens(""), 8)[0].shape == (0,)


def prepared(rows, **options):
    examples = [{"id": str(i), "patient": "", "label": label, "text": text} for i, (text, label) in enumerate(rows)]
    made = [text_classes.prepare_words(e, numbers=NUMBERS, **options) for e in examples]
    return Cases(stack_rows([{**of, "group": np.int32(i)} for i, of in enumerate(made)]))


def test_long_texts_lose_their_end_and_light_terms():
    cases = prepared([("fever " * 50 + "cough", 0), ("", 1)], buckets=1000)
    made = text_classes.first_tokens([8], terms=4)
    cut = made.cut(cases, np.random.default_rng(0))
    assert cut["words"].shape == (2, 8)
    assert cut["lengths"].tolist() == [8, 0]
    assert cut["weights"].shape == (2, 4)
    assert cut["weights"][0].min() >= np.sort(cases["weights"][0])[-4]
    window = next(made.windows(cases, 0, False))
    assert all((window[name] == cut[name][0]).all() for name in window)


def test_texts_are_padded_to_the_least_length_they_fit_into():
    assert padded(np.array([0, 3, 4, 5, 99]), (4, 8)).tolist() == [4, 4, 4, 8, 8]
    counts = np.repeat([6, 12, 23, 400], [60, 30, 9, 1])
    assert suggest_lengths(counts, 256) == (8, 12, 256)
    assert suggest_lengths(counts[:99], 256) == (8, 12, 24)
    assert suggest_lengths(np.array([0]), 256) == (4,)
    assert suggest_lengths(np.array([50, 90]), 10) == (10,)
    cases = prepared([("fever " * n, 0) for n in (9, 1, 4)])
    made = text_classes.first_tokens([2, 4, 8])
    assert made.sizes(cases).tolist() == [8, 2, 4]
    assert [next(made.windows(cases, i, False))["words"].shape for i in range(3)] == [(8,), (2,), (4,)]
    assert made.cut(cases.take(np.array([1, 2])), np.random.default_rng(0))["words"].shape == (2, 4)


def test_what_is_not_looked_at_is_told():
    cases = prepared([("fever " * 30, 0), ("a b c", 1), ("", 1)], buckets=100)
    notes = text_classes.check(cases, classes=("a", "b"), most=8, terms=4)
    assert notes == [
        "1 of 3 training texts have more than 8 tokens, the rest is not looked at: 67 % of all tokens",
        "2 of 3 training texts have more than 4 different terms, the lightest are left out",
    ]


def test_sections_alone_are_looked_at():
    rows = [("FINDINGS: fever\nIMPRESSION: cough", 0), ("Nothing.", 1)]
    cases = prepared(rows, sections=("findings", "conclusion"))
    assert [decode(text) for text in cases["text"]] == ["fever\ncough", "Nothing."]
    assert cases["whole"].tolist() == [False, True]
    notes = text_classes.check(cases, classes=("a", "b"), most=8)
    assert notes == ["1 of 2 training texts have none of the sections, and are taken whole"]


def test_the_linear_model_is_kept_as_arrays():
    rows = [(f"{word} since day {i}", k) for i in range(20) for k, word in enumerate(("fever", "cough", "pain"))]
    train = prepared(rows)
    baseline = logistic(3)
    arrays = baseline.fit(train, train)
    assert all(a.dtype.kind in "Uf" for a in arrays.values())
    test = prepared([("a cough", 1), ("FEVER", 0), ("", 2)])
    score = baseline.predict(arrays, test)["score"]
    np.testing.assert_allclose(score.sum(1), 1, atol=1e-5)
    assert score.argmax(1)[:2].tolist() == [1, 0]


def test_rare_labels_get_their_prevalence():
    rng = np.random.default_rng(0)
    label = (rng.random((30, 60)) < np.linspace(0.5, 0.02, 60)).astype(np.int8)
    rows = [(" ".join(f"w{k}" for k in np.flatnonzero(row)) or "none", row) for row in label]
    train = prepared(rows)
    baseline = logistic(60, multilabel=True)
    arrays = baseline.fit(train, train)
    score = baseline.predict(arrays, train)["score"]
    rare = np.argsort(-label.sum(0), kind="stable")[50:]
    np.testing.assert_allclose(score[:, rare], np.broadcast_to(label[:, rare].mean(0), (30, 10)), atol=1e-5)


def test_coding_metrics_by_hand():
    label = np.array([[1, 0, 1, -1], [0, 0, 1, 0]], np.int8)
    score = np.array([[0.9, 0.8, 0.1, 0.7], [0.2, 0.1, 0.6, 0.3]])
    pred = (score >= 0.5).astype(int)
    assert metrics.micro_f1(label, pred) == pytest.approx(2 * 2 / (3 + 3))
    assert metrics.macro_f1(label, pred) == pytest.approx((1 + 0 + 2 / 3 + 0) / 4)
    assert metrics.precision_at(label, score, 2) == pytest.approx((1 / 2 + 1 / 2) / 2)
    assert np.isnan(metrics.precision_at(label, score, 5))
    assert np.isnan(metrics.micro_f1(label[:0], pred[:0]))
    best = metrics.best_threshold(label, score)
    every = {t: metrics.micro_f1(label, (score >= t).astype(int)) for t in np.unique(score)}
    assert every[best] == max(every.values())
    assert metrics.best_threshold(np.zeros((2, 2)), np.zeros((2, 2))) == 0.5


def rows_of(n, seed, several):
    """Made-up notes with the kinds of entities that they name as labels."""
    made = []
    for i, (text, spans) in enumerate(make.sentences(n, seed)):
        kinds = sorted({kind for *_, kind in spans})
        label = ";".join(kinds) if several else kinds[0] if len(kinds) == 1 else "other"
        made.append({"id": f"{seed}-{i}", "text": text, "codes" if several else "label": label})
    return made


ODD = {
    "train": [
        ("empty", "", "other"),
        ("long", "Nothing else . " * 30_000, "other"),
        ("quoted", 'He said "no",\nthen left.', "other"),
    ],
    "test": [("new", "A class that training has not seen.", "unseen"), ("blank", " \n", "other")],
}


def write(folder, *, several=False, n=60, odd=False):
    folder.mkdir()
    for seed, (name, size) in enumerate({"train": n, "valid": n // 3, "test": n // 3}.items()):
        rows = rows_of(size, seed, several)
        rows += [{"id": of, "text": text, "label": label} for of, text, label in ODD.get(name, ()) if odd]
        (folder / f"{name}.csv").write_text(make.table(rows), encoding="utf-8")
    return folder


def small(path, **changes):
    model = Network(words=16, filters=8, features=16, dropout=0.1, unknown=0.0)
    config = Config(data=Data(path=str(path)), text=Text(most=16, lengths=(16,), characters=6), model=model, train=SMALL)
    return dataclasses.replace(config, optimizer=Optimizer(rate=0.02, clip=5.0), **changes)


@pytest.mark.parametrize("several", [False, True])
def test_a_run_on_a_table(several, tmp_path):
    config = small(write(tmp_path / "data", several=several, odd=not several))
    if several:
        model = dataclasses.replace(config.model, buckets=256, terms=64, cell="gru", members=2)
        config = dataclasses.replace(config, model=model, text=dataclasses.replace(config.text, pieces=300, lengths=(12, 24)))
    config = resolve(config)
    assert config.kind == ("multi" if several else "single")
    job = text_job(config, question="Which?", name="toy")
    done = medjax.train(job, config, tmp_path / "run", quiet=True)
    assert done.engine.update.count == len(config.text.lengths) == (2 if several else 1)
    report = json.loads((done.folder / "report.json").read_text())
    main = "micro_f1" if several else "accuracy"
    assert report["metrics"]["test"][main]["value"] > report["baselines"]["majority"][main]["value"]
    assert set(report["baselines"]) == {"logistic", "majority"}
    assert "hits_attention.png" in {figure["file"] for figure in report["figures"]}
    with open(done.folder / "predictions" / "test.csv", newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert len(rows) == (20 if several else 22)
    assert [f"score/{name}" for name in config.data.classes] == [c for c in rows[0] if c.startswith("score/")]
    if not several:
        # What is odd about the texts is told, and stops nothing.
        notes = "\n".join(report["data"]["audit"]["notes"])
        for note in (
            "2 documents without any text, kept",
            "no training text of 1 of 4 classes: unseen",
            "1 of 59 training texts have more than 16 tokens, the rest is not looked at: 99 %",  # copies left out
        ):
            assert note in notes
        assert {row["id"] for row in rows} >= {"test/new", "test/blank"}
        return
    # The run needs its data no more to predict.
    (tmp_path / "data").rename(tmp_path / "elsewhere")
    (tmp_path / "new.txt").write_text("The patient has asthma .")
    found = predict(text_job(config, question="?", name="x"), config, done.folder, [tmp_path / "new.txt"], out=tmp_path / "out")
    assert found["score"].shape == (1, 2)
    assert found["score"][0, 0] > found["score"][0, 1]


def test_many_labels_are_told_together(tmp_path):
    classes = tuple(f"c{k}" for k in range(60))
    label = np.zeros((2, 60), np.int8)
    label[:, :3] = 1
    cases = Cases({"id": np.array(["a", "b"]), "patient": np.array(["", ""]), "label": label, "group": np.arange(2)})
    cases = cases.extend(words=Ragged.of([np.ones(3, np.int32)] * 2))
    score = np.linspace(1, 0, 60)[None].repeat(2, 0)
    rows = {"score": score, "pred": (score >= 0.97).astype(int)}
    assert set(text_classes.measure(rows, cases, classes=classes)) == {"micro_f1", "macro_f1", "p_at_5", "p_at_8"}
    table = list(csv.DictReader(text_classes.write(rows, cases, classes=classes)[".csv"].splitlines()))
    assert table[0]["truth"] == "c0|c1|c2"
    assert table[0]["top"].startswith("c0:1|c1:0.9831")
    assert "calibration" in text_classes.figures(rows, cases, {}, classes=classes)
    assert text_classes.check(cases, classes=classes, most=8)[0].startswith("no training text of 57 of 60 classes: c3,")


def test_texts_and_pictures_are_told_apart(tmp_path):
    make.write_conll(tmp_path / "x")
    with pytest.raises(InputError, match="holds no texts but texts with entities"):
        resolve(Config(data=Data(path=str(tmp_path / "x"))))
    with pytest.raises(InputError, match="holds no texts with entities but texts"):
        entities.resolve(entities.Config(data=Data(path=str(write(tmp_path / "y")))))
    with pytest.raises(InputError, match="holds no pictures but texts with entities"):
        imaging.resolve(imaging.Config(data=Data(path=str(tmp_path / "x"))))


@pytest.mark.parametrize("name", ["disease_ner", "icd_coding", "note_sections"])
def test_the_experiments_on_texts_keep_to_one_form(name):
    module = experiments.load_by_name(name)
    assert issubclass(module.Config, entities.Config if name == "disease_ner" else texts.Config)
    assert set(module.PRESETS_OF) == {"fast", "full"}
    assert experiments.card(experiments.find(name)).keys() == {"job", "data", "needs"}
    assert len(experiments.find(name).read_text().splitlines()) < 80


def test_thousands_of_labels_are_one_product():
    model = Reader(3000, 10, 5, word_features=4, filters=0, features=4)
    x = {"words": np.ones((2, 12), np.int32), "characters": np.zeros((2, 12, 3), np.int32), "lengths": np.array([12, 3])}
    shapes = jax.eval_shape(lambda: model.init_with_output(jax.random.key(0), x, train=False))
    assert shapes[0].shape == (2, 3000)
