"""Settings of jobs on records."""

from __future__ import annotations

import dataclasses
from typing import Literal

from medjax.config import Decide, Experiment, Optimizer
from medjax.data.records import Variable
from medjax.errors import InputError
from medjax.models.sequence import Pool

KINDS = Literal["auto", "single", "ordinal", "multi", "steps", "survival"]


@dataclasses.dataclass(frozen=True)
class Grid:
    """How events become steps."""

    form: Literal["grid", "irregular"] = "grid"
    """Steps of one length up to the prediction time, or one step for each distinct time."""
    hours: float = 48.0
    """How far back from the prediction time a grid reaches."""
    step: float = 1.0
    """Length of a grid's steps, in hours."""
    most: int = 128
    """Steps of the irregular form, at most: the latest ones."""
    value: Literal["mean", "last"] = "mean"
    """What stands for several values of one variable in one step."""
    codes: int = 16
    """Different codes of one step, at most."""

    def __post_init__(self) -> None:
        if not (self.hours > 0 and self.step > 0 and self.most > 0 and self.codes > 0):
            raise InputError("--grid.hours, .step, .most and .codes must all be above 0", usage=True)


@dataclasses.dataclass(frozen=True)
class Network:
    """The network over the steps."""

    name: Literal["lstm", "gru", "simple", "mingru", "grud", "channelwise"] = "gru"
    """The recurrence."""
    members: int = 1
    """Networks that are trained side by side, their answers averaged."""
    features: int = 64
    """Units of each layer and direction."""
    layers: int = 1
    """Layers of lstm, gru, simple and mingru."""
    dropout: float = 0.3
    """Rate between layers and before the head."""
    inputs: float = 0.0
    """Rate at which observations are dropped from a training record, as if they had not been made."""
    bins: int = 0
    """Tell summaries and what is known once by so many bins of their range as well: the head can bend where trees split."""
    once: float = 0.0
    """Rate of what is known once, and of the summaries."""
    variables: float = 0.0
    """Rate at which all observations of a variable are dropped from a training record."""
    bidirectional: bool = False
    """A second recurrence from the end; not of networks that answer at every step."""
    pool: Pool = "last"
    """One vector of the states: the last one, their mean or maximum, or attention."""
    channel_features: int = 8
    """Units of each variable's own LSTM, of the channel-wise network."""
    code_features: int = 32
    """Length of a code's embedding."""
    scale: Literal["standard", "ranks"] = "standard"
    """What values are told by: clipped standard scores, or their place among the training cases' values."""
    summary: bool = False
    """Give the head the mean, least, greatest, first and last value, deviation and number of each variable as well."""

    def __post_init__(self) -> None:
        rates = (self.dropout, self.inputs, self.once, self.variables)
        if self.members < 1 or self.bins < 0 or not 0 <= min(rates) <= max(rates) < 1:
            raise InputError(
                "--model.members must be 1 or more, .bins 0 or more, rates of dropping at least 0 and below 1", usage=True
            )


@dataclasses.dataclass(frozen=True)
class Target:
    """What the network learns."""

    deep: float = 0.0
    """Weight of the record's label at every step, beside the last one (deep supervision)."""
    weights: tuple[float, ...] = ()
    """Of the labels in the loss, where there are several: how much each task counts; all alike by default."""
    smoothing: float = 0.0
    """Label smoothing."""
    bins: int = 20
    """Bins of a survival time, of equally many training events."""
    horizon: float = 0.0
    """Time by which the risk of an event is given, in the unit of the data's follow-up."""

    def __post_init__(self) -> None:
        if not 0 <= self.deep < 1 or self.bins < 1 or self.horizon < 0:
            raise InputError("--target.deep must be at least 0 and below 1, .bins 1 or more, .horizon not below 0", usage=True)


@dataclasses.dataclass(frozen=True)
class Known:
    """What the data tells of its records, filled in from it."""

    variables: tuple[str, ...] = ()
    """Names, in the order of their numbers."""
    units: tuple[str, ...] = ()
    """Of each."""
    categories: tuple[tuple[str, ...], ...] = ()
    """Names of each one's values where these are no quantities."""
    codes: tuple[bool, ...] = ()
    """Which of them have no value."""
    statics: tuple[str, ...] = ()
    """What is known once."""

    def rebuild(self) -> tuple[Variable, ...]:
        """The variables, without the ranges that only reading needs."""
        parts = zip(self.variables, self.units, self.categories, self.codes, strict=True)
        return tuple(Variable(name, unit, categories=names, code=code) for name, unit, names, code in parts)


@dataclasses.dataclass(frozen=True)
class Config(Experiment):
    """Settings of a job on records."""

    layout: str = ""
    """How the data lies on disk, as `medjax data` names it; recognised by default."""
    task: str = ""
    """Which of a layout's tasks, such as decompensation, where it has several; its first by default."""
    kind: KINDS = "auto"
    """What is asked; the layout's own by default."""
    grid: Grid = Grid()
    model: Network = Network()
    target: Target = Target()
    optimizer: Optimizer = Optimizer()
    decide: Decide = Decide()
    known: Known = Known()
