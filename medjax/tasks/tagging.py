"""Tag the tokens of texts: the Task, and defaults for everything else of a Job. A case is a sentence or a document."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from medjax.cases import Cases, Rows, Varying
from medjax.core import About, Baseline, Batch, Examples, Job, Task
from medjax.data import tags as schemes
from medjax.data.tags import Scheme
from medjax.data.tokenize import UNKNOWN, Numbers
from medjax.errors import InputError
from medjax.metrics import text as metrics
from medjax.nn import crf
from medjax.tasks.documents import decode, keep_text, padded, place_tokens
from medjax.tasks.spans import Spans, entity_row, in_text, on_tokens
from medjax.tasks.supervised import supervised
from medjax.tasks.tables import write_cases
from medjax.tasks.tagging_baselines import dictionary, frequent_tag
from medjax.tasks.tagging_figures import figures

BETWEEN = "|"  # entities in one field of a table
INPUTS = ("words", "characters", "lengths", "opens", "closes")


def tagging(model: nn.Module, tx: optax.GradientTransformation, *, k: int, scheme: Scheme = "iobes") -> Task:
    """Tags of tokens by a conditional random field whose neighbours keep the rules of a scheme.

    Args:
      model: {"words" [n, T], "characters" [n, T, C], "lengths" [n]} -> {"emissions" [n, T, Y], "chain"}, such as
        `medjax.models.tagger.Tagger`.
      tx: optimizer.
      k: types of entities.
      scheme: of the tags.

    Returns:
      Task over batches with `words`, `characters`, `lengths`, `opens` and `closes` bool [n], whether a window begins and ends
      with its text, `tags` int [n, T] (see `tags.tag_names`), and `label` [n, K], -1 where nobody has looked. The objective is
      the mean negative log-likelihood a token. Rows and outputs are `score` float32 [n, T, Y], each tag's marginal probability.
    """
    rules = [jnp.asarray(rule) for rule in schemes.legal(k, scheme)]

    def scores(y: Mapping[str, Any], x: Batch) -> tuple[jax.Array, jax.Array, crf.Chain]:
        """Emissions, lengths and chain. What a text may begin and end with is said of no window that begins or ends inside."""
        chain, lengths = crf.forbid(y["chain"], *rules), x["lengths"]
        steps = jnp.arange(y["emissions"].shape[1])
        begin = (steps == 0) & x["opens"][:, None]
        end = (steps == lengths[:, None] - 1) & x["closes"][:, None]
        emissions = y["emissions"] + jnp.where(begin[..., None], chain.first, 0) + jnp.where(end[..., None], chain.last, 0)
        none = jnp.zeros_like(chain.first)
        return emissions, lengths, crf.Chain(chain.transitions, none, none)

    def loss(y: Mapping[str, Any], batch: Batch) -> tuple[jax.Array, jax.Array]:
        emissions, lengths, chain = scores(y, batch)
        nll = crf.negative_log_likelihood(emissions, batch["tags"], lengths, chain)
        known = (batch["label"] >= 0).any(-1)
        return nll / jnp.maximum(lengths, 1), known * lengths.astype(jnp.float32)

    def outputs(y: Mapping[str, Any]) -> dict[str, jax.Array]:
        return {"score": crf.marginals(*scores(y, y["x"]))}

    def inputs(batch: Batch) -> dict[str, jax.Array]:
        return {name: batch[name] for name in INPUTS}

    return supervised(_WithInputs(model), tx, inputs=inputs, loss=loss, outputs=outputs)


class _WithInputs(nn.Module):
    """The model, whose outputs also hold what it was given, as `x`."""

    model: nn.Module

    @nn.compact
    def __call__(self, x: Batch, *, train: bool) -> dict[str, Any]:
        return {**self.model(x, train=train), "x": x}


def prepare_tags(example: dict[str, Any], *, numbers: Numbers, k: int, scheme: Scheme) -> dict[str, Any]:
    """A text and its entities as numbers.

    The result holds id, patient, label int8 [K], what is known besides, own_tokens (the corpus gives them), and, `Varying`:

      text: uint8, UTF-8.   tokens: int32 [k, 2], begin and end in characters.   words: int32 [k].
      characters: uint16 [k, C].   tags: uint16 [k].   spans: int32 [m, 3], the true entities, in characters.

    An entity that begins or ends inside of a token is learned as the whole tokens that it touches, and measured as it is.
    """
    tokens = place_tokens(example)
    text = example["text"]
    words = [text[a:b] for a, b in tokens.tolist()]
    spans = example["spans"].array if "spans" in example else np.empty((0, 3), np.int32)
    label = example.get("label", -1)
    return {
        **keep_text(example),
        "label": np.full(k, -1, np.int8) if np.ndim(label) == 0 else np.asarray(label, np.int8),
        "own_tokens": np.bool_("tokens" in example),
        "tokens": Varying(tokens),
        "words": Varying(numbers.of_words(words)),
        "characters": Varying(numbers.of_characters(words)),
        "tags": Varying(schemes.tags_of_spans(on_tokens(spans, tokens), len(tokens), scheme).astype(np.uint16)),
        "spans": Varying(spans),
    }


def examples(window: int, overlap: int, *, k: int, scheme: Scheme, lengths: Sequence[int] = ()) -> Examples:
    """Windows of so many tokens; neighbours share `overlap` of them, each of which is taken from where it has more around it.
    Texts that fit into less are padded to the least of the lengths that they fit into, or to a window.

    Rows: counts float32 [3, K] of `count_entities`, found Varying int32 [m, 3] in characters, sure Varying float32 [m], the
    mean over an entity's tokens of its tags' probability.
    """
    rules = crf.Chain(*(jnp.where(rule, 0.0, crf.NEVER) for rule in schemes.legal(k, scheme)))
    best = jax.jit(lambda scores, lengths: crf.viterbi(jnp.log(jnp.maximum(scores, 1e-12)), lengths, rules)[0])

    def sizes(cases: Cases) -> np.ndarray:
        return padded(cases["words"].shapes[:, 0], [*(n for n in lengths if n < window), window])

    def cut(cases: Cases, rng: np.random.Generator) -> dict[str, np.ndarray]:
        columns, size = {name: cases[name] for name in ("words", "characters", "tags")}, int(sizes(cases).max())
        begins = [int(rng.integers(0, max(len(columns["words"][i]) - window, 0) + 1)) for i in range(len(cases))]
        made = [_window(columns, i, begin, size) for i, begin in enumerate(begins)]
        return {name: np.stack([one[name] for one in made]) for name in made[0]}

    def windows(cases: Cases, i: int, quick: bool) -> Iterator[dict[str, np.ndarray]]:
        one = cases.take(np.array([i]))
        columns = {name: one[name] for name in ("words", "characters", "tags")}
        for begin in _begins(len(columns["words"][0]), window, overlap):
            yield _window(columns, 0, begin, int(sizes(one)[0]))

    def join(cases: Cases, i: int, outputs: Iterator[dict[str, np.ndarray]], quick: bool) -> dict[str, Any]:
        one = cases.take(np.array([i]))
        tokens, truth = one["tokens"][0], one["spans"][0]
        n = len(tokens)
        score, losses = None, []
        for begin, row in zip(_begins(n, window, overlap), outputs):
            score = np.zeros((n, row["score"].shape[-1]), np.float32) if score is None else score
            skip = overlap // 2 if begin else 0
            stop = min(window, n - begin)
            score[begin + skip : begin + stop] = row["score"][skip:stop]
            losses.append(float(row["loss"]))
        assert score is not None
        size = 8 << max(int(np.ceil(np.log2(max(n, 1) / 8))), 0)  # few shapes to compile for
        padded = np.zeros((1, size, score.shape[1]), np.float32)
        padded[0, :n] = score
        tags = np.asarray(best(padded, np.array([n], np.int32)))[0, :n]
        found = schemes.spans_of_numbers(tags, scheme)
        certain = score[np.arange(n), tags]
        sure = np.array([certain[a:b].mean() for a, b, _ in found], np.float32)
        return {**entity_row(truth, in_text(found, tokens), k), "sure": Varying(sure), "loss": np.float32(np.mean(losses))}

    return Examples(cut, windows, join, sizes)


def _begins(n: int, window: int, overlap: int) -> list[int]:
    """Where windows begin: one at least, the last one ending with the text."""
    if n <= window:
        return [0]
    return [*range(0, n - window, window - overlap), n - window]


def _window(columns: Mapping[str, Any], i: int, begin: int, size: int) -> dict[str, np.ndarray]:
    found: dict[str, Any] = {}
    for name, column in columns.items():
        part = column[i][begin : begin + size]
        full = np.zeros((size, *part.shape[1:]), np.int32)
        full[: len(part)] = part
        found[name] = full
    n = len(columns["words"][i])
    stop = min(begin + size, n)
    return {**found, "lengths": np.int32(stop - begin), "opens": np.bool_(begin == 0), "closes": np.bool_(stop == n)}


def drop_words(rate: float) -> Callable | None:
    """Augmentation: each word is unknown with probability `rate`, so that the network learns to read its characters and
    neighbours; None for 0.
    """
    if not rate:
        return None

    def augment(key: jax.Array, example: Batch) -> Batch:
        words = example["words"]
        dropped = jax.random.bernoulli(key, rate, words.shape) & (words > UNKNOWN)
        return {**example, "words": jnp.where(dropped, UNKNOWN, words)}

    return augment


def measure(rows: Rows, cases: Cases, *, types: Sequence[str]) -> dict[str, float]:
    """Entity metrics over the cases where somebody has looked."""
    known = (cases["label"] >= 0).any(1)
    return metrics.entities(rows["counts"][known], types)


def write(rows: Rows, cases: Cases, *, types: Sequence[str]) -> dict[str, str]:
    """What was found, in the forms that others read.

    ".csv": id, patient, truth, pred (TYPE:BEGIN:END, joined by "|", in characters). ".tsv": token, true tag ("_" where nobody
    has looked), tag found, in IOB2, a blank line between cases, in the order of the .csv. Of texts whose tokens medjax has cut
    also "/ID.ann", standoff annotations that brat opens beside ID.txt, and ".json", [{"id", "entities": [{"begin", "end",
    "type", "text", "sure"}]}].
    """
    truth, pred, lines, documents = [], [], [], []
    found: dict[str, str] = {}
    looked, own_tokens = (cases["label"] >= 0).any(1), cases["own_tokens"]
    columns = {name: cases[name] for name in ("text", "tokens", "spans")}
    names = schemes.tag_names(types, "iob2")
    for i, case in enumerate(cases["id"].tolist()):
        text, tokens, spans, own = decode(columns["text"][i]), columns["tokens"][i], columns["spans"][i], rows["found"][i]
        truth.append(_tell(spans, types) if looked[i] else "")
        pred.append(_tell(own, types))
        sides = [schemes.tags_of_spans(on_tokens(side, tokens), len(tokens), "iob2") for side in (spans, own)]
        for (begin, end), a, b in zip(tokens.tolist(), *sides):
            lines.append(f"{text[begin:end]}\t{names[a] if looked[i] else '_'}\t{names[b]}\n")
        lines.append("\n")
        if own_tokens[i]:
            continue
        entities = [
            {"begin": begin, "end": end, "type": types[of], "text": text[begin:end], "sure": round(float(sure), 4)}
            for (begin, end, of), sure in zip(own.tolist(), rows["sure"][i])
        ]
        documents.append({"id": case, "entities": entities})
        found[f"/{case}.ann"] = _standoff(entities)
    if documents:
        found[".json"] = json.dumps(documents, ensure_ascii=False, indent=1)
    return {".csv": write_cases(cases, {"truth": truth, "pred": pred}), ".tsv": "".join(lines), **found}


def _standoff(entities: Sequence[Mapping[str, Any]]) -> str:
    """The lines of an .ann file. One entity over two lines is of two parts there, since brat knows no line ends inside."""
    rows = []
    for number, of in enumerate(entities, 1):
        pieces = [m.span() for m in re.finditer(r"[^\r\n]+", of["text"])]
        places = ";".join(f"{of['begin'] + a} {of['begin'] + b}" for a, b in pieces)
        rows.append(f"T{number}\t{of['type']} {places}\t{' '.join(of['text'][a:b] for a, b in pieces)}\n")
    return "".join(rows)


def _tell(spans: Spans, types: Sequence[str]) -> str:
    return BETWEEN.join(f"{types[of]}:{begin}:{end}" for begin, end, of in spans.tolist())


def check(cases: Cases, *, types: Sequence[str]) -> list[str]:
    """Notes on what the training cases cannot teach: types that none of them has.

    Raises:
      InputError: none has any entity.
    """
    lacking = ~(cases["label"] == 1).any(0)
    if lacking.all():
        raise InputError("no training text has any entity\ncheck the tags, or the folder of annotations")
    names = [name for name, lack in zip(types, lacking, strict=True) if lack]
    return [f"no training text has an entity of the type {', '.join(names)}"] if names else []


def tagging_job(
    task: Task,
    *,
    about: About,
    sources: Callable[[], Mapping[str, Any]],
    read: Callable[[Sequence[Any]], Any],
    numbers: Numbers,
    window: int = 64,
    overlap: int = 16,
    lengths: Sequence[int] = (),
    scheme: Scheme = "iobes",
    augment: Callable | None = None,
    baselines: Mapping[str, Baseline] | None = None,
) -> Job:
    """A Job of tagging with this task file's defaults.

    Args:
      task: from `tagging`.
      about: words of the report; its classes are the types of entities.
      sources: -> {split or "all": Source} of texts with `spans`.
      read: paths -> Source of texts, for prediction.
      numbers: of the words and characters that training knows.
      window, overlap, lengths: tokens of an example, those that neighbours share, and what shorter texts are padded to; see
        `examples`.
      scheme: of the tags that are learned.
      augment: in training.
      baselines: the most frequent tag of each word, and a dictionary of training entities, by default.
    """
    types = about.classes
    k = len(types)
    defaults = {"dictionary": dictionary(k), "frequent_tag": frequent_tag(k)}
    return Job(
        about=about._replace(definitions={**metrics.DEFINITIONS, **about.definitions}),
        task=task,
        sources=sources,
        read=read,
        preprocess=functools.partial(prepare_tags, numbers=numbers, k=k, scheme=scheme),
        augment=augment,
        measure=functools.partial(measure, types=types),
        baselines=defaults if baselines is None else baselines,
        figures=functools.partial(figures, types=types),
        write=functools.partial(write, types=types),
        examples=examples(window, overlap, k=k, scheme=scheme, lengths=lengths),
        check=functools.partial(check, types=types),
    )
