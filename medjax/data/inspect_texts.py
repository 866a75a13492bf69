"""What is in a folder of texts: documents, patients, labels and entities, lengths, and words that training lacks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np

from medjax.core import SPLITS
from medjax.data.inspect import quantiles
from medjax.data.inspect_records import leaks
from medjax.data.layouts import Layout
from medjax.data.records import Tally, tell
from medjax.data.tokenize import MASKED, find_tokens, normal


def report(found: Layout, *, limit: int, advance: Callable[[int], None] = lambda n: None) -> dict[str, Any]:
    """Read texts and count. No patient is named, and no text is shown.

    Args:
      found: a layout of texts.
      limit: where there are more texts, so many are drawn at random.
      advance: told of each text that has been read.

    Returns:
      {"texts": parts of a case, "cases", "read", "splits": {split: {"n", "read", "patients", "classes": {class: texts, or
      entities}, "missing", "new": share of the tokens that training texts lack, or None}}, "patients", "tokens": quantiles of a
      text's, "words": different ones, "placeholders", "audit": {"leaks", "identical"}, "notes", "broken"}
    """
    todo = [(split, i) for split in (*SPLITS, "all") if split in found.sources for i in range(len(found.sources[split]))]
    total = Counter(split for split, _ in todo)
    if len(todo) > limit:
        todo = [todo[k] for k in np.sort(np.random.default_rng(0).choice(len(todo), limit, replace=False))]
    counts: dict[str, Counter[int]] = {split: Counter() for split in total}
    words: dict[str, Counter[str]] = {split: Counter() for split in total}
    patients: dict[str, list[str]] = {split: [] for split in total}
    texts: Counter[str] = Counter()
    sizes = []
    for split, i in todo:
        example = found.sources[split][i]
        text = example["text"] if "text" in example else example["target"]  # written from pictures
        tokens = example["tokens"].array if "tokens" in example else find_tokens(text)
        words[split].update(normal(text[a:b]) for a, b in tokens.tolist())
        sizes.append(len(tokens))
        texts[text] += 1
        patients[split].append(example["patient"])
        counts[split].update(_counted(example, found.kind))
        advance(1)
    known = words["train"].keys() if "train" in words else None
    everything = sum(words.values(), Counter())
    tally: Tally = sum((source.tally() for source in found.sources.values() if hasattr(source, "tally")), Counter())
    twice = [n for n in texts.values() if n > 1]
    return {
        "texts": list(found.texts),
        "cases": sum(total.values()),
        "read": len(sizes),
        "splits": {
            split: {
                "n": n,
                "read": len(patients[split]),
                "patients": len(set(patients[split]) - {""}),
                "classes": {name: counts[split][k] for k, name in enumerate(found.classes)},
                "missing": counts[split][-1],
                "new": _share_of_new(words[split], known) if known is not None and split != "train" else None,
            }
            for split, n in total.items()
        },
        "patients": len({p for part in patients.values() for p in part} - {""}),
        "tokens": quantiles(np.array(sizes)),
        "words": len(everything),
        "placeholders": everything[MASKED],
        "audit": {"leaks": leaks(patients), "identical": {"sets": len(twice), "files": sum(twice)}},
        "notes": tell(tally),
        "broken": [],
    }


def _counted(example: dict[str, Any], kind: str) -> list[int]:
    """The classes that a text counts for, -1 where it has no label; of kind "spans" the types of its entities."""
    label = np.asarray(example["label"])
    if kind == "spans":
        return example["spans"].array[:, 2].tolist() if "spans" in example else [-1]
    if label.ndim:
        return np.flatnonzero(label == 1).tolist() if (label >= 0).any() else [-1]
    return [int(label)] if kind != "pairs" else []


def _share_of_new(words: Counter[str], known: Any) -> float:
    return sum(n for word, n in words.items() if word not in known) / max(sum(words.values()), 1)
