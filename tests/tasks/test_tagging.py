"""Tagging: windows and joins, the loss at windows' edges, baselines by hand, and runs on every layout of entities."""

import csv
import dataclasses
import itertools
import json
import sys
from pathlib import Path

import jax
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import medjax
from medjax.cases import Cases, Ragged, Varying, stack_rows
from medjax.config import Data, Optimizer, Train
from medjax.data import tags
from medjax.data.layouts import open_layout
from medjax.data.tokenize import FIRST, Numbers, count_vocabulary
from medjax.deploy.finished import predict
from medjax.engine import make_engine
from medjax.errors import InputError
from medjax.infer import each_shape, infer
from medjax.models.tagger import Tagger
from medjax.tasks import tagging
from medjax.tasks.documents import decode
from medjax.tasks.entities import Config, Network, Text, entity_job, resolve
from medjax.tasks.tagging_baselines import dictionary, frequent_tag
from medjax.tasks.tagging_figures import figures

sys.path.append(str(Path(__file__).parents[1] / "data"))
import make_texts as make

NUMBERS = Numbers(*count_vocabulary(["no", "fever", "cough", "of"]), 6)
SMALL = Train(steps=40, batch_size=16, eval_every=40, checkpoint_every=40)


def document(text, spans=(), *, tokens=None, k=2, **known):
    example = {"id": text[:8], "patient": "", "label": np.array([1] * k, np.int8), "text": text, **known}
    example["spans"] = Varying(np.array(spans, np.int32).reshape(-1, 3))
    if tokens is not None:
        example["tokens"] = Varying(np.array(tokens, np.int32))
    return tagging.prepare_tags(example, numbers=NUMBERS, k=k, scheme="iobes")


def cases(*documents):
    return Cases(stack_rows([{**of, "content": "", "group": np.int32(i)} for i, of in enumerate(documents)]))


def test_entities_become_tags_and_texts_stay_as_they_are():
    made = document("No févér, ever", [(3, 8, 1)])
    assert decode(made["text"].array) == "No févér, ever"
    names = tags.tag_names(("a", "b"), "iobes")
    assert [names[t] for t in made["tags"].array] == ["O", "S-b", "O", "O"]
    assert made["words"].array.tolist() == [FIRST + 2, 1, 1, 1]
    inside = document("nofever", [(2, 7, 0)])  # begins inside of a token: learned as the whole, measured as it is
    assert [names[t] for t in inside["tags"].array] == ["S-a"]
    assert inside["spans"].array.tolist() == [[2, 7, 0]]


@given(st.integers(0, 40), st.integers(3, 12), st.integers(0, 2))
@settings(deadline=None, max_examples=60)
def test_windows_cover_every_token_once(n, window, overlap):
    starts = tagging._begins(n, window, overlap)
    assert starts[0] == 0
    assert starts[-1] + window >= n
    assert all(0 < b - a <= window - overlap for a, b in itertools.pairwise(starts))
    assert all(b + window <= n for b in starts[1:])


@pytest.mark.parametrize("n", [0, 1, 7, 8, 9, 30])
def test_joined_windows_find_the_tags_that_they_say(n):
    """Windows that are sure of the truth give it back, whatever their number."""
    text = " ".join(["fever"] * n)
    spans = [(6 * i, 6 * i + 11, i % 2) for i in range(0, n - 1, 3)]
    of = cases(document(text, spans))
    made = tagging.examples(8, 4, k=2, scheme="iobes")
    windows = list(made.windows(of, 0, False))
    assert all(w["words"].shape == (8,) and w["characters"].shape == (8, 6) for w in windows)
    outputs = [{"score": np.eye(9, dtype=np.float32)[w["tags"]], "loss": np.float32(1)} for w in windows]
    row = made.join(of, 0, iter(outputs), False)
    assert row["found"].array.tolist() == [list(s) for s in spans]
    np.testing.assert_array_equal(row["counts"][0], row["counts"][2])
    assert (row["sure"].array == 1).all()
    assert windows[0]["opens"]
    assert windows[-1]["closes"]
    assert not any(w["closes"] for w in windows[:-1])
    cut = made.cut(of, np.random.default_rng(0))
    assert cut["words"].shape == (1, 8)
    assert cut["lengths"][0] == min(n, 8)


def test_short_texts_are_padded_to_less_than_a_window():
    of = cases(document("fever"), document(" ".join(["no"] * 5)), document(" ".join(["no"] * 9)))
    made = tagging.examples(8, 4, k=2, scheme="iobes", lengths=(2, 6))
    assert made.sizes(of).tolist() == [2, 6, 8]
    assert [[w["words"].shape[0] for w in made.windows(of, i, False)] for i in range(3)] == [[2], [6], [8, 8]]
    assert made.cut(of.take(np.array([0, 1])), np.random.default_rng(0))["tags"].shape == (2, 6)
    whole, short = (tagging.examples(8, 4, k=2, scheme="iobes", lengths=n) for n in ((), (2, 6)))
    task, found = small_task(), []
    for examples in (whole, short):
        engine = make_engine(task, "jit")
        batch = engine.put(each_shape([of], 4, examples)[-1])
        state = engine.init(jax.random.key(0), batch)
        for batch in each_shape([of], 4, examples):
            engine.evaluate.compile(state, engine.put(batch))
        rows = infer(engine, state, of, 4, examples)
        found.append((rows["loss"], [x.tolist() for x in rows["found"]]))
    # The same answers in the same order, whatever a text is padded to.
    np.testing.assert_allclose(found[0][0], found[1][0], rtol=1e-5)
    assert found[0][1] == found[1][1]


def test_errors_are_listed_by_kind():
    text = "fever of cough and no fever " * 3
    of = cases(document(text, [(0, 5, 0), (9, 14, 1), (22, 27, 0), (28, 33, 0)]), document("no cough", [(3, 8, 0)]))
    found = [np.array([(0, 8, 0), (9, 14, 0), (60, 65, 1)]), np.array([(3, 8, 0)])]
    rows = {"found": Ragged.of(found)}
    made = figures(rows, of, {}, types=("Disease", "Drug"))
    assert made["errors"].data["values"].tolist() == [[1, 1, 0, 0, 2, 0], [0, 0, 1, 0, 0, 1]]
    listed = made["errors_listed"].data["rows"]
    labels = [row["label"] for row in listed]
    assert labels[0] == "boundary (1 in all): Disease, fever of"
    assert labels[1] == "type (1 in all): Disease for Drug, fever of"
    assert [label.partition(" ")[0] for label in labels[2:]] == ["missed", "missed", "spurious"]
    for row in listed:
        assert all(0 <= a < b <= len(row["text"]) for a, b, *_ in row["marks"])
    assert [row["text"][a:b] for row in listed for a, b, style, _ in row["marks"] if style == "missed"] == [
        *("fever", "cough", "fever", "fever"),
    ]


def small_task():
    model = Tagger(9, 6, 12, word_features=5, filters=4, features=6)
    task = tagging.tagging(model, optax.adam(0.1), k=2)
    return task._replace(**{name: jax.jit(getattr(task, name)) for name in ("init", "update", "evaluate", "predict")})


def test_a_window_that_cuts_an_entity_has_an_ordinary_loss():
    of = cases(document("fever " * 20, [(0, 119, 0)]))
    window = next(w for i, w in enumerate(tagging.examples(8, 4, k=2, scheme="iobes").windows(of, 0, False)) if i == 1)
    batch = {name: np.asarray(x)[None] for name, x in window.items()} | {"mask": np.ones(1, bool), "label": of["label"]}
    task = small_task()
    state = task.init(jax.random.key(0), batch)
    rows = task.evaluate(state, batch)
    assert rows["loss"][0] < 10
    np.testing.assert_allclose(rows["score"].sum(-1), 1, atol=1e-5)
    whole = {**batch, "opens": np.ones(1, bool), "closes": np.ones(1, bool)}
    assert task.evaluate(state, whole)["loss"][0] > 1000  # a whole text may not begin inside of an entity
    unknown = {**batch, "label": np.full((1, 2), -1, np.int8)}
    assert np.isnan(task.evaluate(state, unknown)["loss"][0])


def test_what_is_beyond_a_text_has_no_effect():
    of = cases(document("no fever"), document(""))
    made = tagging.examples(8, 4, k=2, scheme="iobes")
    windows = [next(made.windows(of, i, False)) for i in range(2)]
    batch = {name: np.stack([w[name] for w in windows]) for name in windows[0]} | {"mask": np.ones(2, bool)}
    batch["label"] = of["label"]
    task = small_task()
    state = task.init(jax.random.key(0), batch)
    other = {**batch, "words": np.where(np.arange(8) < batch["lengths"][:, None], batch["words"], 3)}
    a, b = (task.predict(state, x)["score"] for x in (batch, other))
    np.testing.assert_array_equal(a, b)
    assert not np.asarray(a)[0, 2:].any()
    assert not np.asarray(a)[1].any()
    new, logs = task.update(state, batch)
    assert np.isfinite(logs["loss"])
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(new.params))


def test_words_are_dropped_but_padding_stays():
    augment = tagging.drop_words(0.5)
    words = np.repeat([[0, 1, 2, 3]], 500, 0).ravel()
    found = np.asarray(augment(jax.random.key(0), {"words": words})["words"])
    assert (found[words < 2] == words[words < 2]).all()
    assert 0.4 < (found[words >= 2] == 1).mean() < 0.6
    assert tagging.drop_words(0) is None


def test_baselines_by_hand():
    train = cases(
        document("fever no cough", [(0, 5, 0)]),
        document("fever of cough", [(0, 14, 1)]),
        document("cough cough", []),
    )
    test = cases(document("Fever of cough and fever", [(0, 14, 1), (19, 24, 0)]), document("no", []))
    for baseline, spans in (
        (dictionary(2), [[0, 14, 1], [19, 24, 0]]),
        (frequent_tag(2), [[0, 5, 0], [6, 8, 1], [19, 24, 0]]),
    ):
        arrays = baseline.fit(train, train)
        assert all(x.dtype.kind in "Uif" for x in arrays.values())  # kept without pickling
        rows = baseline.predict(arrays, test)
        assert rows["found"][0].tolist() == spans
        assert rows["found"][1].shape == (0, 3)
    assert dictionary(2).fit(train, cases(document("no", []))).keys() == {"phrases", "types", "setting"}


def test_a_type_that_training_lacks_is_noted():
    of = cases(document("fever", [(0, 5, 0)], label=np.array([1, 0], np.int8)))
    assert tagging.check(of, types=("a", "b")) == ["no training text has an entity of the type b"]
    with pytest.raises(InputError, match="no training text has any"):
        tagging.check(cases(document("x", [], label=np.zeros(2, np.int8))), types=("a", "b"))


def small(path, **changes):
    model = Network(words=16, filters=8, features=16, dropout=0.1, unknown=0.0)
    config = Config(data=Data(path=str(path)), text=Text(window=12, overlap=4, characters=8), model=model, train=SMALL)
    return dataclasses.replace(config, optimizer=Optimizer(rate=0.02, clip=5.0), **changes)


def test_words_are_those_of_training_texts_alone(tmp_path):
    config = resolve(small(make.write_conll(tmp_path / "x")))
    words = {line.split("\t")[0] for line in (tmp_path / "x" / "train.tsv").read_text().splitlines() if line}
    assert len(config.known.words) <= len(words)
    assert "ménière" in config.known.words
    test_only = make.conll([("Zyzzyva today .", [])])
    (tmp_path / "x" / "test.tsv").write_text(make.conll(make.sentences(20, 2)) + test_only)
    assert "zyzzyva" not in resolve(small(tmp_path / "x")).known.words
    assert resolve(config) is config


def test_a_run_on_conll(tmp_path):
    config = resolve(small(make.write_conll(tmp_path / "data"), seeds=2))
    job = entity_job(config, question="Which?", name="toy")
    done = medjax.train(job, config, tmp_path / "run", quiet=True)
    report = json.loads((done.folder / "report.json").read_text())
    test = report["metrics"]["test"]
    assert test["entity_f1"]["value"] > 0.6
    assert {"errors.png", "errors_listed.png", "hits_and_misses.png"} <= {figure["file"] for figure in report["figures"]}
    assert {"macro_f1", "f1/Disease", "f1/Drug", "entity_precision", "entity_recall"} <= test.keys()
    assert set(report["baselines"]) == {"dictionary", "frequent_tag"}
    assert report["metrics"]["ensemble"]["entity_f1"]["n"] == test["entity_f1"]["n"] == 20
    with open(done.folder / "predictions" / "test.csv", newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert list(rows[0])[:4] == ["id", "patient", "truth", "pred"]
    # The table of tags gives the report's number again.
    blocks = (done.folder / "predictions" / "test.tsv").read_text().split("\n\n")[:-1]
    assert len(blocks) == len(rows) == 20
    counts = np.zeros(3, int)
    for block, row in zip(blocks, rows):
        sides = list(zip(*[line.split("\t") for line in block.splitlines()]))[1:]
        true, found = (set(tags.spans_of_tags([tags.split_tag(t) for t in side])[0]) for side in sides)
        counts += [len(true & found), len(found), len(true)]
        assert len(found) == len([x for x in row["pred"].split("|") if x])
    f1 = 2 * counts[0] / (counts[1] + counts[2])
    assert report["metrics"]["ensemble"]["entity_f1"]["value"] == pytest.approx(f1)
    # The run needs its data no more to predict, also on tokens without tags.
    (tmp_path / "data").rename(tmp_path / "elsewhere")
    new = tmp_path / "new.tsv"
    new.write_text("He\nhas\nasthma\n.\n")
    rows = predict(entity_job(config, question="Which?", name="toy"), config, done.folder, [new], out=tmp_path / "predicted")
    assert len(rows["found"]) == 1
    written = (tmp_path / "predicted" / "predictions.tsv").read_text()
    assert [line.split("\t")[:2] for line in written.split("\n") if line] == [[t, "_"] for t in ("He", "has", "asthma", ".")]


BRAT = ("The patient has asthma\nand takes β blockers .", [(16, 22, "Disease"), (33, 43, "Drug")])


def write_brat(folder, n=24):
    folder.mkdir()
    for i in range(n):
        text, spans = BRAT
        (folder / f"n{i}.txt").write_text(f"{text} {i}", encoding="utf-8")
        rows = [f"T{k}\t{kind} {a} {b}\t{text[a:b]}\n" for k, (a, b, kind) in enumerate(spans, 1)]
        (folder / f"n{i}.ann").write_text("".join(rows), encoding="utf-8")
    return folder


def write_i2b2(folder, n=24):
    for part in ("concept", "txt"):
        (folder / part).mkdir(parents=True)
    for i in range(n):
        (folder / "txt" / f"n{i}.txt").write_text(f"{BRAT[0]} {i}\n", encoding="utf-8")
        con = 'c="asthma" 1:3 1:3||t="Disease"\nc="β blockers" 2:2 2:3||t="Drug"\n'
        (folder / "concept" / f"n{i}.con").write_text(con, encoding="utf-8")
    return folder


@pytest.mark.parametrize("write", [write_brat, write_i2b2])
def test_a_run_on_documents(write, tmp_path):
    config = resolve(small(write(tmp_path / "data"), train=dataclasses.replace(SMALL, steps=20, eval_every=20)))
    job = entity_job(config, question="Which?", name="toy")
    done = medjax.train(job, config, tmp_path / "run", quiet=True)
    report = json.loads((done.folder / "report.json").read_text())
    assert report["metrics"]["test"]["entity_f1"]["value"] > 0.5
    cut = write is write_brat
    out = done.folder / "predictions"
    assert (out / "test.json").exists() == cut
    if not cut:
        return
    documents = json.loads((out / "test.json").read_text())
    for of in documents:
        text = (tmp_path / "data" / f"{of['id']}.txt").read_text(encoding="utf-8")
        assert all(text[e["begin"] : e["end"]] == e["text"] and 0 < e["sure"] <= 1 for e in of["entities"])
    # What is written can be read as BRAT again.
    for of in documents:
        (out / "test" / f"{of['id']}.txt").write_text((tmp_path / "data" / f"{of['id']}.txt").read_text())
    again = open_layout(out / "test", "brat", classes=config.data.classes).sources["all"]
    assert [len(again[i]["spans"].array) for i in range(len(again))] == [
        len(of["entities"]) for of in sorted(documents, key=lambda of: of["id"])
    ]
    # New texts: one of 100,000 tokens, one without any, and a folder in a folder.
    new = tmp_path / "new"
    (new / "ward").mkdir(parents=True)
    text = "He has asthma .\n" * 25_000
    for name, of in {"long": text, "empty": "", "ward/short": "No asthma .", "blank": " \n"}.items():
        (new / f"{name}.txt").write_text(of, encoding="utf-8")
    rows = predict(job, config, done.folder, [new], out=tmp_path / "out")
    assert len(rows["found"]) == 4
    documents = {of["id"]: of["entities"] for of in json.loads((tmp_path / "out" / "predictions.json").read_text())}
    assert set(documents) == {"long", "empty", "ward/short", "blank"}
    assert documents["empty"] == documents["blank"] == []
    assert {e["text"] for e in documents["long"]} == {"asthma"}
    assert len(documents["long"]) == 25_000
    table = {row["id"]: row for row in csv.DictReader((tmp_path / "out" / "predictions.csv").open(newline=""))}
    assert table["ward/short"]["pred"] == "Disease:3:9"
    written = (tmp_path / "out" / "predictions" / "ward" / "short.ann").read_text()
    assert written == "T1\tDisease 3 9\tasthma\n"
    (new / "short.txt").write_text("No asthma .")
    with pytest.raises(InputError, match="2 documents share the id 'short'"):
        predict(job, config, done.folder, [new / "short.txt", new / "ward" / "short.txt"], out=tmp_path / "never")
    (new / "latin.txt").write_bytes(b"\xe4")
    with pytest.raises(InputError, match=r"latin.txt: is not UTF-8"):
        predict(job, config, done.folder, [new], out=tmp_path / "never")
    assert not (tmp_path / "never").exists()
