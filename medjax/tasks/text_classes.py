"""Classify texts: preparation, and a Job's defaults, for one class out of several or any number of labels, up to thousands."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from medjax import metrics
from medjax.cases import Cases, Rows, Varying
from medjax.config import Decide
from medjax.core import About, Baseline, Batch, Examples, Figure, Job, Task
from medjax.data.pieces import Pieces
from medjax.data.tokenize import Numbers, hashed_grams
from medjax.metrics import text as text_metrics
from medjax.tasks import baselines as simple
from medjax.tasks import classification, decisions, multilabel, pictures
from medjax.tasks.documents import keep_text, only, padded, place_tokens
from medjax.tasks.linear_text import logistic
from medjax.tasks.tables import write_cases
from medjax.tasks.text_attention import explain_texts

MANY = 50  # labels from which each is no longer measured by itself
TOP = 8  # labels that the table of predictions names with their scores where there are many
COLUMNS, TERMS = ("words", "characters"), ("places", "weights")


def text_inputs(batch: Batch) -> dict[str, Any]:
    """What a network over tokens takes of a batch."""
    return {name: batch[name] for name in (*COLUMNS, *TERMS, "lengths") if name in batch}


def prepare_words(
    example: Mapping[str, Any],
    *,
    numbers: Numbers,
    buckets: int = 0,
    merges: tuple[str, ...] = (),
    sections: tuple[str, ...] = (),
) -> dict[str, Any]:
    """A text as numbers: id, patient, label and what is known besides, and, all `Varying`: text uint8, UTF-8; tokens int32
    [k, 2], begin and end in characters; words int32 [k]; characters uint16 [k, C]; and with buckets places int32 [m] and
    weights float32 [m] of the whole text, see `hashed_grams`.

    Args:
      example: of a Source of texts.
      numbers: of words and characters.
      buckets: of terms, see `hashed_grams`; 0 for none.
      merges: of `Pieces`, where these are the tokens, and `words` their numbers.
      sections: names of those that the text is to be of, see `medjax.tasks.documents.only`.
    """
    example = only(example, sections)
    text, tokens = example["text"], place_tokens(example)
    terms = hashed_grams(text, tokens, buckets) if buckets else ()
    if merges:
        tokens, words = _pieces(merges).cut(text)
    else:
        words = numbers.of_words([text[a:b] for a, b in tokens.tolist()])
    return {
        "label": -1,
        **keep_text(example),
        "tokens": Varying(tokens),
        "words": Varying(words),
        "characters": Varying(numbers.of_characters([text[a:b] for a, b in tokens.tolist()])),
        **{name: Varying(array) for name, array in zip(TERMS, terms)},
    }


_pieces = functools.lru_cache(maxsize=1)(Pieces)


def first_tokens(lengths: Sequence[int], terms: int = 0) -> Examples:
    """An example is a text's first tokens, padded to the least of the lengths that they fit into; what comes behind the last of
    these is not looked at, but by its terms, of which there are `terms` at most, those of the greatest weight.
    """
    names = (*COLUMNS, *TERMS) if terms else COLUMNS

    def sizes(cases: Cases) -> np.ndarray:
        return padded(cases["words"].shapes[:, 0], lengths)

    def one(columns: Mapping[str, Any], i: int, most: int) -> dict[str, np.ndarray]:
        own = {name: column[i] for name, column in columns.items()}
        if terms and len(own["places"]) > terms:
            kept = np.sort(np.argsort(-own["weights"], kind="stable")[:terms])
            own |= {name: own[name][kept] for name in TERMS}
        found = {}
        for name, part in own.items():
            size = terms if name in TERMS else most
            dtype = np.float32 if name == "weights" else np.int32
            found[name] = np.zeros((size, *part.shape[1:]), dtype)
            found[name][: len(part)] = part[:size]
        return {**found, "lengths": np.array(min(len(own["words"]), most), np.int32)}

    def cut(cases: Cases, rng: np.random.Generator) -> dict[str, np.ndarray]:
        columns, most = {name: cases[name] for name in names}, int(sizes(cases).max())
        made = [one(columns, i, most) for i in range(len(cases))]
        return {name: np.stack([each[name] for each in made]) for name in made[0]}

    def windows(cases: Cases, i: int, quick: bool) -> Iterator[dict[str, np.ndarray]]:
        case = cases.take(np.array([i]))
        yield one({name: case[name] for name in names}, 0, int(sizes(case)[0]))

    def join(cases: Cases, i: int, outputs: Iterator[dict[str, np.ndarray]], quick: bool) -> dict[str, Any]:
        return dict(next(outputs))

    return Examples(cut, windows, join, sizes)


def calibrate(rows: Rows, cases: Cases) -> dict[str, np.ndarray]:
    """{"threshold": []}, one for all labels, of the highest micro-F1 on validation data."""
    return {"threshold": np.array(text_metrics.best_threshold(cases["label"], rows["score"]))}


def measure(rows: Rows, cases: Cases, *, classes: Sequence[str]) -> dict[str, float]:
    """micro_f1, macro_f1, p_at_5, p_at_8 of many labels; of `MANY` or fewer also all of `metrics.multilabel`."""
    label, score, pred = cases["label"], rows["score"], rows["pred"]
    found = {"micro_f1": text_metrics.micro_f1(label, pred)}
    found |= {f"p_at_{k}": text_metrics.precision_at(label, score, k) for k in (5, 8) if len(classes) > k}
    if len(classes) <= MANY:
        return {**found, **metrics.multilabel(label, score, pred, tuple(classes))}
    return {**found, "macro_f1": text_metrics.macro_f1(label, pred)}


def write(rows: Rows, cases: Cases, *, classes: Sequence[str]) -> dict[str, str]:
    """As `multilabel.write`; of many labels the `TOP` of the highest score as LABEL:SCORE in place of a column each."""
    if len(classes) <= MANY:
        return multilabel.write(rows, cases, classes=classes)
    label, score = cases["label"], rows["score"]
    columns: dict[str, list[str]] = {"truth": [], "pred": [], "top": []}
    for true, called, row in zip(label, rows["pred"], score, strict=True):
        columns["truth"].append(multilabel.BETWEEN.join(classes[k] for k in np.flatnonzero(true == 1).tolist()))
        columns["pred"].append(multilabel.BETWEEN.join(classes[k] for k in np.flatnonzero(called).tolist()))
        best = np.argsort(-row, kind="stable")[:TOP]
        columns["top"].append(multilabel.BETWEEN.join(f"{classes[k]}:{row[k]:.4g}" for k in best.tolist()))
    return {".csv": write_cases(cases, columns)}


def figures(rows: Rows, cases: Cases, others: Mapping[str, Rows], *, classes: Sequence[str]) -> dict[str, Figure]:
    """Those of `multilabel` for `MANY` labels or fewer; calibration alone beyond."""
    if len(classes) <= MANY:
        return multilabel.figures(rows, cases, others, classes=classes)
    xlabel = "predicted probability, of all labels together"
    return {"calibration": pictures.calibration(cases["label"].ravel(), rows["score"].ravel(), xlabel=xlabel)}


def check(cases: Cases, *, classes: Sequence[str], most: int, terms: int = 0) -> list[str]:
    """Notes on training texts: classes that none has, which can never be called; what of them is not looked at."""
    label, notes = cases["label"], []
    there = (label == 1).any(0) if label.ndim == 2 else np.isin(np.arange(len(classes)), label)
    if lacking := [name for name, has in zip(classes, there, strict=True) if not has]:
        named = ", ".join(lacking[:6]) + (f" and {len(lacking) - 6:,} others" if len(lacking) > 6 else "")
        notes.append(f"no training text of {len(lacking):,} of {len(classes):,} classes: {named}")
    of = f"of {len(cases):,} training texts"
    counts = cases["words"].shapes[:, 0]
    if long := int((counts > most).sum()):
        lost = np.maximum(counts - most, 0).sum() / counts.sum()
        notes.append(
            f"{long:,} {of} have more than {most:,} tokens, the rest is not looked at: {100 * lost:.0f} % of all tokens"
        )
    if terms and (many := int((cases["places"].shapes[:, 0] > terms).sum())):
        notes.append(f"{many:,} {of} have more than {terms:,} different terms, the lightest are left out")
    if "whole" in cases and cases["whole"].any():
        notes.append(f"{int(cases['whole'].sum()):,} {of} have none of the sections, and are taken whole")
    return notes


def text_classes_job(
    task: Task,
    *,
    about: About,
    sources: Callable[[], Mapping[str, Any]],
    read: Callable[[Sequence[Any]], Any],
    numbers: Numbers,
    lengths: Sequence[int],
    terms: int = 0,
    buckets: int = 0,
    merges: tuple[str, ...] = (),
    sections: tuple[str, ...] = (),
    multi: bool = False,
    augment: Callable | None = None,
    baselines: Mapping[str, Baseline] | None = None,
    decide: Decide = decisions.DEFAULT,
) -> Job:
    """A Job of text classification with this task file's defaults.

    Args:
      task: from `classification` or `multilabel` with `inputs=text_inputs`.
      about: words of the report; its classes are the labels' names.
      sources: -> {split or "all": Source} of texts with `label`.
      read: paths -> Source of texts, for prediction.
      numbers: of the words and characters that training knows.
      lengths: in tokens, ascending, that texts are padded to; what is behind the last of them is not looked at.
      terms, buckets: of a linear model of the text's words and characters inside of the network; 0 for none.
      merges, sections: see `prepare_words`.
      multi: any number of labels a text.
      augment: in training.
      baselines: majority, and a linear model of TF-IDF, by default.
      decide: how scores become decisions, of one class out of several.
    """
    k, classes, made = len(about.classes), about.classes, first_tokens(lengths, terms)
    defaults = {"logistic": logistic(k, multilabel=multi), "majority": simple.majority(k, multilabel=multi)}
    if multi:
        words = {**metrics.DEFINITIONS, **text_metrics.CODING_DEFINITIONS}
        rest: dict[str, Any] = {
            "measure": functools.partial(measure, classes=classes),
            "figures": functools.partial(figures, classes=classes),
            "write": functools.partial(write, classes=classes),
            "calibrate": calibrate,
            "decide": decisions.decide_labels,
        }
    else:
        words = {**metrics.DEFINITIONS, **classification.define_at(decide.prevalence)}
        rest = {
            "measure": functools.partial(classification.measure, classes=classes, prevalence=decide.prevalence),
            "figures": functools.partial(classification.figures, classes=classes),
            "write": functools.partial(classification.write, classes=classes),
            "calibrate": functools.partial(decisions.calibrate, rule=decide),
            "decide": decisions.decide,
        }
    return Job(
        about=about._replace(definitions={**words, **about.definitions}),
        task=task,
        sources=sources,
        read=read,
        preprocess=functools.partial(prepare_words, numbers=numbers, buckets=buckets, merges=merges, sections=sections),
        augment=augment,
        baselines=defaults if baselines is None else baselines,
        examples=made,
        explain=explain_texts(task, first_tokens(lengths[-1:], terms), classes),
        check=functools.partial(check, classes=classes, most=lengths[-1], terms=terms),
        **rest,
    )
