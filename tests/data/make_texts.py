"""Texts in the layouts that users have on disk, written by the tests: made-up sentences, in the files' true encodings."""

import csv
import io

import numpy as np

DISEASES = ("asthma", "Addison 's disease", "M. Crohn", "coeliac disease", "Ménière syndrome")
DRUGS = ("aspirin", "β blockers", "insulin")
FRAMES = (
    "The patient has {} .",
    "No sign of {} today .",
    "{} was treated with {} .",
    "History : {} and {} .",
    "Nothing else .",
)


def sentences(n, seed=0, *, kinds=("Disease", "Drug")):
    """[(text, [(begin, end, type name)])], tokens with blanks between."""
    rng = np.random.default_rng(seed)
    pools = {"Disease": DISEASES, "Drug": DRUGS}
    made = []
    for i in range(n):
        text, spans = f"Note {i} :", []
        for piece in FRAMES[rng.integers(len(FRAMES))].split():
            if piece == "{}":
                kind = kinds[rng.integers(len(kinds))]
                name = pools[kind][rng.integers(len(pools[kind]))]
                spans.append((len(text) + 1, len(text) + 1 + len(name), kind))
                text += f" {name}"
            else:
                text += f" {piece}"
        made.append((text, spans))
    return made


def conll(made):
    """The text of a CoNLL file in IOB2."""
    lines = []
    for text, spans in made:
        at = 0
        for token in text.split(" "):
            inside = next((s for s in spans if s[0] <= at < s[1]), None)
            tag = "O" if inside is None else f"{'B' if inside[0] == at else 'I'}-{inside[2]}"
            lines.append(f"{token}\t{tag}\n")
            at += len(token) + 1
        lines.append("\n")
    return "".join(lines)


def write_conll(folder, n=60, kinds=("Disease", "Drug")):
    """FOLDER/{train,devel,test}.tsv."""
    folder.mkdir(parents=True)
    for seed, (name, size) in enumerate({"train": n, "devel": n // 3, "test": n // 3}.items()):
        (folder / f"{name}.tsv").write_text(conll(sentences(size, seed, kinds=kinds)), encoding="utf-8")
    return folder


def table(rows, *, delimiter=","):
    """The text of a CSV file of rows of dicts."""
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]), delimiter=delimiter, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()
