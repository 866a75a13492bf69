"""Write texts: the Task, and defaults for everything else of a Job. A case is a text or pictures, and what is to be written."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from medjax.cases import Cases, Rows, Varying
from medjax.core import LATENT, About, Baseline, Batch, Examples, Figure, Job, Task, purpose_keys
from medjax.data.pieces import BEGIN, END, PADDING, Pieces
from medjax.errors import InputError
from medjax.metrics import writing as metrics
from medjax.nn import decoding
from medjax.tasks.documents import decode, encode, keep_text
from medjax.tasks.supervised import supervised
from medjax.tasks.tables import write_cases
from medjax.tasks.writing_baselines import frequent, lead, nearest, text_row

SAMPLES, LETTERS = 20, 700  # texts in a figure, and letters of each
SHARES = (0.7, 1.0)  # of the training texts, see `suggest_shapes`
Shape = tuple[int, int]
INPUTS = ("source", "source_lengths", "image", "views", "target", "lengths")


def writing(
    model: nn.Module,
    tx: optax.GradientTransformation,
    *,
    most: int,
    inputs: Callable[[Batch], dict[str, Any]] | None = None,
    how: Literal["beam", "sample"] = "beam",
    width: int = 4,
    block: int = 3,
    power: float = 0.6,
    share: float = 0.9,
    temperature: float = 1.0,
) -> Task:
    """Texts that a decoder writes piece by piece.

    Args:
      model: such as `medjax.models.writer.Writer`: log-probabilities of a target, and its `encode`, `begin` and `step`.
      tx: optimizer.
      most: pieces that are written at most.
      inputs: batch -> what the model takes; the columns of `INPUTS` by default.
      how: the best of a beam, or a sample, which is the same whenever the case is asked for again.
      width, block, power: of `decoding.beam_search`; `block` of samples too.
      share, temperature: of `decoding.sample`.

    Returns:
      Task over batches with `target` int [n, U], `lengths` int [n] and `label` int [n], -1 where no text is known. The
      objective is the mean negative log-likelihood a piece. Rows and outputs are `pieces` int32 [n, most] and `sure` float32
      [n], see `decoding.Written`.
    """

    def taken(batch: Batch) -> dict[str, Any]:
        return {name: batch[name] for name in INPUTS if name in batch}

    given = inputs or taken

    def loss(log_p: jax.Array, batch: Batch) -> tuple[jax.Array, jax.Array]:
        lengths = batch["lengths"]
        valid = jnp.arange(log_p.shape[1]) < lengths[:, None]
        total = jnp.where(valid, -log_p, 0).sum(1)
        return total / jnp.maximum(lengths, 1), (batch["label"] >= 0) * lengths.astype(jnp.float32)

    base = supervised(model, tx, inputs=given, loss=loss, outputs=lambda y: {})

    def predict(state: Any, batch: Batch) -> dict[str, jax.Array]:
        variables = {"params": state.params, **state.extra}
        memory: Any = model.apply(variables, given(batch), method="encode")
        n = len(memory.valid)
        carry = model.apply(variables, memory, width if how == "beam" else 1, method="begin")

        def step(carry: Any, pieces: jax.Array) -> Any:
            return model.apply(variables, memory, carry, pieces, method="step")

        ends: dict[str, Any] = {"most": most, "begin": BEGIN, "end": END, "padding": PADDING, "block": block, "power": power}
        if how == "beam":
            found = decoding.beam_search(step, carry, n, width=width, **ends)
        else:
            index = batch.get("index", jnp.arange(n))
            keys = purpose_keys(jax.vmap(jax.random.fold_in, (None, 0))(state.key, index), LATENT)
            found = decoding.sample(step, carry, keys, share=share, temperature=temperature, **ends)
        return {"pieces": found.pieces, "sure": found.sure}

    def evaluate(state: Any, batch: Batch, axis: str | None = None) -> dict[str, jax.Array]:
        return {**base.evaluate(state, batch, axis), **predict(state, batch)}

    return Task(base.init, base.update, evaluate, predict)


def prepare_pair(example: dict[str, Any], *, pieces: Pieces) -> dict[str, Any]:
    """What is to be written as numbers, beside a text or pictures.

    The result holds id, patient, what is known besides, label (0 where there is a text to write, else -1), and, `Varying`, true
    uint8, the text to write in UTF-8, and target int32 [k], its pieces; of a text also text uint8 and source int32 [k].
    """
    target = example.get("target", "")
    found = {**keep_text(example), "source": Varying(pieces.encode(example["text"]))} if "text" in example else dict(example)
    found |= {"true": encode(target), "target": Varying(pieces.encode(target)), "label": 0 if target.strip() else -1}
    return found


def suggest_shapes(sources: np.ndarray, targets: np.ndarray, *, source: int, most: int) -> tuple[Shape, ...]:
    """The few shapes that pairs of so many pieces are best padded to, ascending: `SHARES` of them fit into each.

    Args:
      sources, targets: int [n], pieces of each text, and of what is to be written, its end among these.
      source, most: of the greatest shape; 0 and zeros where there are no texts but pictures.
    """
    filled = np.maximum(sources / max(source, 1), targets / most)
    reached = np.minimum(np.quantile(filled, SHARES, method="inverted_cdf"), 1.0) if len(filled) else np.ones(1)
    made = [(min(-(-int(source * r) // 8) * 8 + 8, source), min(-(-int(most * r) // 8) * 8 + 8, most)) for r in reached]
    return tuple(sorted({*made[:-1], (source, most)}))


def examples(pieces: Pieces, shapes: Sequence[Shape]) -> Examples:
    """Texts padded to the least of the shapes that they fit into: pieces of the text (0: there is none, but pictures), and
    pieces to write, the end among these. Of what is longer than the last, the beginning.

    Rows: those of `writing_baselines.text_row`, `sure`, and `loss`; of a text without any piece an empty one is written.
    """
    names = ("source", "target") if shapes[-1][0] else ("target",)

    def sizes(cases: Cases) -> np.ndarray:
        counts = np.stack([cases[name].shapes[:, 0] + (name == "target") for name in names], 1)
        fits = [(counts <= np.array(shape)[-len(names) :]).all(1) for shape in shapes[:-1]]
        return np.argmax([*fits, np.ones(len(cases), bool)], 0)

    def padded(columns: Mapping[str, Any], i: int, shape: int) -> dict[str, np.ndarray]:
        source, most = shapes[shape]
        found: dict[str, Any] = {}
        if source:
            own = columns["source"][i][:source]
            found["source"] = np.zeros(source, np.int32)
            found["source"][: len(own)] = own
            found["source_lengths"] = np.int32(len(own))
        # A text that is cut has no end: the network must not learn that it ends there.
        target = np.append(columns["target"][i], END)[:most]
        found["target"] = np.zeros(most, np.int32)
        found["target"][: len(target)] = target
        return {**found, "lengths": np.int32(len(target))}

    def cut(cases: Cases, rng: np.random.Generator) -> dict[str, np.ndarray]:
        columns, shape = {name: cases[name] for name in names}, int(sizes(cases).max())
        made = [padded(columns, i, shape) for i in range(len(cases))]
        return {name: np.stack([one[name] for one in made]) for name in made[0]}

    def windows(cases: Cases, i: int, quick: bool) -> Iterator[dict[str, np.ndarray]]:
        one = cases.take(np.array([i]))
        yield padded({name: one[name] for name in names}, 0, int(sizes(one)[0]))

    def join(cases: Cases, i: int, outputs: Iterator[dict[str, np.ndarray]], quick: bool) -> dict[str, Any]:
        row, case = next(outputs), cases.take(np.array([i]))
        # Of nothing nothing is said: a network would write what is written most.
        told = not shapes[-1][0] or len(case["source"][0]) > 0
        found = text_row(pieces.decode(row["pieces"]).strip() if told else "", decode(case["true"][0]))
        return {**found, "sure": np.float32(row["sure"] if told else np.nan), "loss": np.float32(row["loss"])}

    return Examples(cut, windows, join, sizes, most_sure)


def most_sure(members: Sequence[Rows]) -> Rows:
    """Of each example the row of the member that is most sure of its text: texts have no mean."""
    if len(members) == 1:
        return members[0]
    best = np.stack([rows["sure"] for rows in members]).argmax(0)
    return {name: np.stack([rows[name] for rows in members])[best, np.arange(len(best))] for name in members[0]}


def measure(rows: Rows, cases: Cases) -> dict[str, float]:
    """`metrics.DEFINITIONS` over the cases with a text to write."""
    known = np.flatnonzero(cases["label"] >= 0)
    if not len(known):
        return {}
    runs, rouge = rows["runs"][known], rows["rouge"][known]
    total = runs.sum(0, dtype=np.float64)
    found = {
        "bleu4": metrics.bleu(runs),
        **dict(zip(("rouge_1", "rouge_2", "rouge_l"), rouge.mean(0, dtype=np.float64).tolist())),
    }
    found |= {"exact": float(rows["exact"][known].mean()), "length_ratio": float(total[-2] / max(total[-1], 1))}
    found |= metrics.clinical(rows["findings"][known])
    return {**found, "log_loss": float(rows["loss"][known].mean())} if "loss" in rows else found


def write(rows: Rows, cases: Cases) -> dict[str, str]:
    """The table ".csv" of id, patient, truth, pred, sure (see `decoding.Written`) and rouge_l, and where no text to write is
    known each text by itself, "/ID.txt".
    """
    truth, pred = ([decode(text) for text in column] for column in (cases["true"], rows["written"]))
    known = cases["label"] >= 0
    columns: dict[str, list[str]] = {"truth": truth, "pred": pred}
    if "sure" in rows:
        columns["sure"] = ["" if np.isnan(x) else f"{x:.4g}" for x in rows["sure"]]
    columns["rouge_l"] = [f"{x:.4g}" if there else "" for x, there in zip(rows["rouge"][:, 2], known)]
    single = {f"/{cases['id'][i]}.txt": f"{pred[i]}\n" for i in np.flatnonzero(~known)}
    return {".csv": write_cases(cases, columns), **single}


def figures(rows: Rows, cases: Cases, others: Mapping[str, Rows]) -> dict[str, Figure]:
    """`SAMPLES` texts drawn at random beside the true ones, and how ROUGE-L is spread, beside the baselines'."""
    known = np.flatnonzero(cases["label"] >= 0)
    if not len(known):
        return {}
    drawn = np.sort(np.random.default_rng(0).permutation(known)[:SAMPLES])
    edges = np.linspace(0, 1, 21)
    groups = [
        {"label": name, "edges": edges, "counts": np.histogram(of["rouge"][known, 2], edges)[0]}
        for name, of in {"network": rows, **others}.items()
    ]
    return {
        "samples": Figure(
            "passages",
            f"{len(drawn)} texts drawn at random",
            "What was written, and the true text below it. Filled: runs of three words or more that both have, upper and lower "
            "case alike.",
            {"rows": [_passage(cases, rows, int(i)) for i in drawn]},
        ),
        "rouge": Figure(
            "bars",
            "ROUGE-L of single texts",
            "How many texts have which ROUGE-L, by the network and by the baselines.",
            {"groups": groups, "xlabel": "ROUGE-L", "ylabel": "texts"},
        ),
        "findings": Figure(
            "matrix",
            "Findings in the true and in the written texts",
            "Findings that a text states, negates, or does not speak of, by rules (NegEx), of all texts together. Stated in "
            "the true text and not in the written one: missed. Findings that neither speaks of are not counted.",
            {
                "values": np.rint(rows["findings"][known].sum(0)).astype(int),
                "rows": list(metrics.STATES),
                "columns": list(metrics.STATES),
                "xlabel": "written",
                "ylabel": "true",
            },
        ),
    }


def _passage(cases: Cases, rows: Rows, i: int) -> dict[str, Any]:
    written, true = decode(rows["written"][i])[:LETTERS], decode(cases.take(np.array([i]))["true"][0])[:LETTERS]
    front, between = "written: ", "\ntrue: "
    begin = len(front) + len(written) + len(between)
    marks = [(a + len(front), b + len(front), "right", 1.0) for a, b in shared_runs(written, true)]
    marks += [(a + begin, b + begin, "right", 1.0) for a, b in shared_runs(true, written)]
    label = f"{cases['id'][i]}: ROUGE-L {rows['rouge'][i, 2]:.2f}"
    return {"label": label, "text": f"{front}{written}{between}{true}", "marks": marks}


def shared_runs(text: str, other: str, least: int = 3) -> list[tuple[int, int]]:
    """(begin, end) of the runs of `least` words or more of a text that stand in the other too."""
    from medjax.data.tokenize import find_tokens

    places = find_tokens(text).tolist()
    words = [text[a:b].lower() for a, b in places]
    theirs = [other[a:b].lower() for a, b in find_tokens(other).tolist()]
    there = {tuple(theirs[i : i + least]) for i in range(len(theirs) - least + 1)}
    inside = np.zeros(len(words), bool)
    for i in range(len(words) - least + 1):
        if tuple(words[i : i + least]) in there:
            inside[i : i + least] = True
    edges = np.flatnonzero(np.diff(np.concatenate([[0], inside, [0]])))
    return [(places[a][0], places[b - 1][1]) for a, b in edges.reshape(-1, 2).tolist()]


def check(cases: Cases, *, source: int, most: int) -> list[str]:
    """Notes on the training texts that are cut.

    Raises:
      InputError: nothing is to be written anywhere.
    """
    if not (cases["label"] >= 0).any():
        raise InputError("no training case has a text to write\nname its column: --text.target")
    notes = []
    for name, size, field in (("source", source, "--text.most"), ("target", most - 1, "--text.longest")):
        over = int((cases[name].shapes[:, 0] > size).sum()) if name in cases else 0
        if over:
            what = "read" if name == "source" else "to be written"
            notes.append(f"{over:,} of {len(cases):,} training texts {what} have more than {size} pieces and are cut ({field})")
    return notes


def writing_job(
    task: Task,
    *,
    about: About,
    sources: Callable[[], Mapping[str, Any]],
    read: Callable[[Sequence[Any]], Any],
    pieces: Pieces,
    shapes: Sequence[Shape],
    preprocess: Callable[[dict], dict] | None = None,
    augment: Callable | None = None,
    baselines: Mapping[str, Baseline] | None = None,
) -> Job:
    """A Job of writing with this task file's defaults.

    Args:
      task: from `writing`.
      about: words of the report; there are no classes.
      sources: -> {split or "all": Source} of examples with `text` and `target`.
      read: paths -> Source of texts, for prediction.
      pieces: that training knows.
      shapes: pieces that a text and its target are padded to, see `examples`.
      preprocess: `prepare_pair` by default.
      augment: in training.
      baselines: the most frequent text, that of the nearest training text, and the first sentence of the source, by default.
    """
    return Job(
        about=about._replace(definitions={**metrics.DEFINITIONS, **about.definitions}),
        task=task,
        sources=sources,
        read=read,
        preprocess=preprocess or functools.partial(prepare_pair, pieces=pieces),
        augment=augment,
        measure=measure,
        baselines={"frequent": frequent(), "nearest": nearest(), "lead": lead()} if baselines is None else baselines,
        figures=figures,
        write=write,
        examples=examples(pieces, shapes),
        check=functools.partial(check, source=shapes[-1][0], most=shapes[-1][1]),
    )
