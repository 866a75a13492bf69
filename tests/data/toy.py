"""Small Sources in memory, and a Job around them, for the tests of preparation, splits and loading."""

import numpy as np
import pytest

from medjax.core import About, Job
from medjax.errors import InputError


class Source:
    """Examples in a list; counts how often one is read."""

    def __init__(self, examples):
        self.examples, self.reads = examples, 0

    def __len__(self):
        return len(self.examples)

    def __getitem__(self, i):
        self.reads += 1
        return dict(self.examples[i])


class Known(Source):
    """A Source that knows its content without reading it, as files do."""

    def __init__(self, examples, name):
        super().__init__(examples)
        self.name = name

    def identity(self):
        return [self.name]


def examples(n=6, *, shape=(64, 64), seed=0):
    rng = np.random.default_rng(seed)
    return [
        {"id": f"case/{i:03d}", "patient": f"P{i // 2}", "label": i % 2, "image": rng.integers(0, 255, shape, np.uint8)}
        for i in range(n)
    ]


def keep(example):
    return example


def fails(call, *words):
    with pytest.raises(InputError) as caught:
        call()
    for word in words:
        assert str(word) in str(caught.value)


def job(sources, classes=("a", "b")):
    about = About("classification", "?", classes, "auroc", True, {}, "toy")
    nothing = dict.fromkeys(Job._fields[len(Job._fields) - len(Job._field_defaults) :])
    fields = {**dict.fromkeys(Job._fields), **nothing, "about": about, "sources": lambda: sources, "preprocess": keep}
    return Job(**fields)


def silent(text):
    pass
