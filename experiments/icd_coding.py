"""To which chapter of ICD-10-CM does this diagnosis belong? 46,881 descriptions from a wheel, or any texts with codes.

A hybrid with TF-IDF features: three networks with label attention, each of which adds a linear model of words and runs of
characters to its own answer, and a logistic regression on the same terms answer together.
"""

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from medjax.config import Optimizer, Train
from medjax.core import Job
from medjax.data.icd10cm import ICD10CM, diagnoses
from medjax.data.layouts import Layout
from medjax.tasks.texts import Config as TextConfig
from medjax.tasks.texts import Network, Text, find_layout, text_job
from medjax.tasks.texts import resolve as resolve_with

CARD = {
    "job": "understand clinical text",
    "data": "ICD-10-CM, 46,881 descriptions of diagnoses (1 MB, fetched by pip)",
    "needs": "",
}


@dataclass(frozen=True)
class Config(TextConfig):
    """Codes of texts."""

    target: Literal["chapter", "category"] = "chapter"
    """Of the default data: 22 chapters, split by category; or categories, split by code."""
    text: Text = Text(most=128)
    model: Network = Network(members=3, buckets=131_072, terms=320, ridge=10.0)
    optimizer: Optimizer = Optimizer(rate=3e-3, weight_decay=0.01, clip=5.0)
    train: Train = Train(steps=1000, batch_size=64, eval_every=250, checkpoint_every=500, ema=0.99)


PRESETS_OF = {
    "fast": Config(),
    "full": Config(
        text=Text(most=4000, least=3),
        model=Network(words=100, filters=0, features=512, dropout=0.3),
        optimizer=Optimizer(rate=1e-3, weight_decay=1e-4, clip=5.0),
        train=Train(steps=120_000, batch_size=8, eval_every=6000, checkpoint_every=6000),
    ),
}


def find(config: Config) -> Layout:
    """The data at --data.path, else the descriptions of ICD-10-CM."""
    return find_layout(config) if config.data.path else diagnoses(config.target)


resolve = functools.partial(resolve_with, find=find)


def build(config: Config) -> Job:
    """The job: the codes of a text."""
    own = not config.data.path
    name = "ICD-10-CM" if own else Path(str(config.data.path)).name
    question = (
        f"To which {config.target} of ICD-10-CM does this diagnosis belong?" if own else "Which codes does this text get?"
    )
    unit = "category" if own and config.target == "chapter" else "patient"
    return text_job(config, question=question, name=name, licence=ICD10CM.licence if own else "", find=find, unit=unit)


if __name__ == "__main__":
    from medjax.cli import run_file

    run_file(__file__)
