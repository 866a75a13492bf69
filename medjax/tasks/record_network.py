"""The network over records that the settings describe."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from medjax.errors import InputError
from medjax.models.channelwise import ChannelwiseLSTM
from medjax.models.grud import GRUDNetwork
from medjax.models.observed import Observed, category_columns
from medjax.models.sequence import Recurrent
from medjax.tasks.record_settings import Config


def make_network(config: Config) -> Observed:
    """The flax module that the settings describe."""
    of, target, kind = config.model, config.target, config.kind
    answers: Any = "each" if kind == "steps" else "deep" if target.deep else "last"
    if answers != "last" and (of.bidirectional or of.summary or of.pool != "last"):
        what = "--model.bidirectional, .summary and .pool"
        raise InputError(f"{what}: an answer at every step must not know what comes after it\nleave them out", usage=True)
    variables = config.known.rebuild()
    categories = tuple(len(v.categories) for v in variables if not v.code)
    codes = sum(v.code for v in variables)
    outputs = target.bins if kind == "survival" else len(config.data.classes)
    shared: dict[str, Any] = {"dropout": of.dropout, "pool": of.pool, "per_step": answers != "last"}

    def member(k: int) -> Any:
        if of.name == "grud":
            return GRUDNetwork(outputs, of.features, name=f"member{k}", **shared)
        if of.name == "channelwise":
            groups = _groups(categories, of.code_features if codes else 0)
            both = of.bidirectional or None
            return ChannelwiseLSTM(
                outputs, groups, of.channel_features, of.features, bidirectional=both, name=f"member{k}", **shared
            )
        options: dict[str, Any] = {"layers": of.layers, "bidirectional": of.bidirectional}
        return Recurrent(outputs, of.name, of.features, name=f"member{k}", **options, **shared)

    return Observed(
        tuple(member(k) for k in range(of.members)),
        span=config.grid.hours,
        categories=categories,
        codes=codes,
        code_features=of.code_features,
        ranks=of.scale == "ranks",
        summary=of.summary,
        bins=of.bins,
        dropout=of.once,
        carry=of.name != "grud",
        answers=answers,
        edges=target.bins if kind == "survival" else 0,
    )


def _groups(categories: Sequence[int], code_features: int) -> tuple[tuple[int, ...], ...]:
    """The columns of each variable, its categories' with it, and of the codes together."""
    source = category_columns(categories)
    groups = [tuple(np.flatnonzero(source == k).tolist()) for k in range(len(categories))]
    if code_features:
        groups.append(tuple(range(len(source), len(source) + code_features)))
    return tuple(groups)


def input_names(config: Config) -> list[str]:
    """The columns that the network takes."""
    names = ["values", "times", "length", *(["static"] if config.known.statics else [])]
    return [*names, *(["codes"] if any(config.known.codes) else [])]
