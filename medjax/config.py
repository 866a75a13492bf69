"""Typed settings: the parts that every experiment shares, presets, and overrides by `--a.b value`."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import io
import re
import typing
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from medjax.errors import InputError

ENGINES = Literal["auto", "jit", "pmap"]
PRESETS = Literal["fast", "full"]


@dataclasses.dataclass(frozen=True)
class Data:
    """Where the data lies and how it is split."""

    path: str | None = None
    """Data folder or file in the experiment's layout; its own data set, fetched on first use, by default."""
    classes: tuple[str, ...] = ()
    """Names of the class folders in the order of the labels, the positive one last; the experiment's own by default."""
    labels: tuple[str, ...] = ()
    """Columns of a table that hold the labels; found by their names or by holding only 0, 1 and blanks by default."""
    splits: str | None = None
    """File that says which case stands where, in place of the data's own splits: a CSV of id (or path, or patient) and split,
    or a JSON {split: [ids]}."""
    fractions: tuple[float, float, float] = (0.65, 0.15, 0.2)
    """Shares of train, val and test where the data gives no splits."""
    split_seed: int = 0
    """Seed of the split."""
    near_copies: Literal["any", "upright", "off"] = "any"
    """Keep near-copies of an image in one split: found in any orientation, upright only, or not at all."""
    on_leak: Literal["stop", "report"] = "stop"
    """What to do when given splits share a patient."""
    on_error: Literal["stop", "skip"] = "stop"
    """What to do with a file that cannot be read: stop, or go on without it and list it."""
    fraction: float = 1.0
    """Train on that share of the training groups of each class; validation and test cases stay as they are."""
    sampling: Literal["cases", "groups", "classes"] = "cases"
    """Draw training cases evenly, or groups (patients, near-copies) evenly, or classes evenly."""

    def __post_init__(self) -> None:
        if self.split_seed < 0:
            raise InputError(f"--data.split_seed {self.split_seed}: must be 0 or more", usage=True)
        if not 0 < self.fraction <= 1:
            raise InputError(f"--data.fraction {self.fraction}: must be above 0 and at most 1", usage=True)


@dataclasses.dataclass(frozen=True)
class Train:
    """The training loop."""

    steps: int = 1000
    """Updates in all."""
    batch_size: int = 32
    """Examples an update, over all devices."""
    eval_every: int = 100
    """Steps between evaluations on validation data."""
    eval_cases: int = 0
    """Validation cases that these look at, spread evenly over all; 0 for all. After training all are looked at in any case."""
    checkpoint_every: int = 100
    """Steps between checkpoints; the best is saved besides."""
    keep: int = 2
    """Last checkpoints to keep."""
    patience: int = 0
    """Stop after so many evaluations without a better one; 0 never stops early."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """What the network computes in. Parameters, statistics, losses and the optimizer stay float32."""
    ema: float = 0.0
    """Decay of a moving average of the weights that is used for all but training, such as 0.99; 0 uses the last weights."""
    max_skipped: int = 20
    """Stop with an error after so many updates in a row that were not finite."""
    seed: int = 0
    """Seed of initial weights, data order, augmentation, dropout and noise."""
    PLANNED: typing.ClassVar[tuple[str, ...]] = ()  # fields that may be 0, for an experiment to fill in

    def total(self) -> int:
        """Updates of all phases of a training."""
        return self.steps

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "eval_every", "checkpoint_every", "keep", "max_skipped"):
            if getattr(self, name) < (0 if name in self.PLANNED else 1):
                raise InputError(f"--train.{name} {getattr(self, name)}: must be 1 or more", usage=True)
        for name in ("seed", "eval_cases"):
            if getattr(self, name) < 0:
                raise InputError(f"--train.{name} {getattr(self, name)}: must be 0 or more", usage=True)
        if not 0 <= self.ema < 1:
            raise InputError(f"--train.ema {self.ema}: must be 0 or more and below 1", usage=True)


@dataclasses.dataclass(frozen=True)
class Decide:
    """How scores become decisions, all chosen on validation data."""

    rule: Literal["youden", "specificity", "sensitivity"] = "youden"
    """The threshold: of the largest Youden index, or the best one that keeps a specificity or a sensitivity."""
    at: float = 0.9
    """The specificity or sensitivity to keep."""
    temperature: bool = True
    """Scale the logits by one temperature, so that probabilities mean what they say."""
    prevalence: float = 0.0
    """Give PPV and NPV also at this prevalence; 0 gives them at the data's own alone."""

    def __post_init__(self) -> None:
        if not (0 < self.at < 1 and 0 <= self.prevalence < 1):
            raise InputError(
                f"--decide.at {self.at}, --decide.prevalence {self.prevalence}: must be between 0 and 1", usage=True
            )


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """AdamW with a clipped gradient, a linear warm-up over a tenth of the steps, and a cosine decay."""

    rate: float = 1e-3
    """Peak learning rate."""
    weight_decay: float = 1e-2
    """Decoupled weight decay."""
    clip: float = 1.0
    """Largest norm of the gradient."""
    freeze: tuple[str, ...] = ()
    """Beginnings of names of parameters to keep as they are, such as stem stage1; batch statistics still follow the data."""
    layer_decay: float = 1.0
    """Factor of the learning rate from each stage to the one before it, the head having the full rate; 1 for one rate."""

    def __post_init__(self) -> None:
        if not 0 < self.layer_decay <= 1:
            raise InputError(f"--optimizer.layer_decay {self.layer_decay}: must be above 0 and at most 1", usage=True)

    def make(self, steps: int) -> Any:
        """The optax transformation for a training of so many steps.

        Its `init` raises InputError where `freeze` names no parameter, or the whole network.
        """
        import optax

        rate = optax.warmup_cosine_decay_schedule(0.0, self.rate, steps // 10, steps)
        tx = optax.chain(optax.clip_by_global_norm(self.clip), optax.adamw(rate, weight_decay=self.weight_decay))
        if self.freeze:
            tx = optax.multi_transform({"train": tx, "frozen": optax.set_to_zero()}, self._label)
        if self.layer_decay < 1:
            tx = optax.chain(tx, optax.stateless(self._decay))
        return tx

    def _label(self, params: Any) -> Any:
        """ "frozen" or "train" for each parameter."""
        import jax

        names = {_joined(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)}
        tops = ", ".join(sorted({name.partition("/")[0] for name in names}))
        for prefix in self.freeze:
            if not any(name.startswith(prefix) for name in names):
                raise InputError(f"--optimizer.freeze {prefix}: no parameter's name begins so\nthere are {tops}", usage=True)
        if all(name.startswith(self.freeze) for name in names):
            raise InputError(f"--optimizer.freeze {' '.join(self.freeze)}: nothing is left to train of {tops}", usage=True)
        return jax.tree_util.tree_map_with_path(
            lambda path, _: "frozen" if _joined(path).startswith(self.freeze) else "train", params
        )

    def _decay(self, updates: Any, params: Any) -> Any:
        """Updates times layer_decay ** (stages up to the head), Clark et al., ICLR 2020, appendix A; Bao et al., ICLR 2022."""
        import jax

        depths = {path: _depth(_joined(path)) for path, _ in jax.tree_util.tree_leaves_with_path(updates)}
        top = max((depth for depth in depths.values() if depth is not None), default=-1) + 1

        def scale(path: Any, update: Any) -> Any:
            depth = depths[path]
            return update * self.layer_decay ** (top - (top if depth is None else depth))

        return jax.tree_util.tree_map_with_path(scale, updates)


def _joined(path: Any) -> str:
    """A leaf's path as text, a/b/c."""
    return "/".join(str(getattr(part, "key", part)) for part in path)


def _depth(name: str) -> int | None:
    """0 for the stem of an encoder, i for its stage i, None for what is neither: a head, a decoder."""
    found = re.search(r"(?:^|/)(?:(stem)|stage(\d+))(?=[_/])", name)
    return found and (0 if found[1] else int(found[2]))


@dataclasses.dataclass(frozen=True)
class Experiment:
    """What every experiment's settings have; its own file adds the rest."""

    data: Data = Data()
    train: Train = Train()
    engine: ENGINES = "auto"
    preset: PRESETS = "fast"
    seeds: int = 1
    """Train so many times, with seeds that count up, and report the mean and the ensemble."""
    folds: int = 0
    """Cross-validate in so many folds over all cases outside a given test split; 0 trains once on one split."""

    def __post_init__(self) -> None:
        if self.seeds < 1 or self.folds < 0 or self.folds == 1:
            raise InputError(f"--seeds {self.seeds} must be 1 or more, --folds {self.folds} 0 or at least 2", usage=True)


def parse(presets: Mapping[str, Any], args: Sequence[str], *, preset: str, program: str) -> Any:
    """An experiment's settings from its presets and the command line.

    Args:
      presets: {name: config}, frozen dataclasses of one type, each with fields `preset`, `data`, `train`, `engine`.
      args: `--a.b value` overrides, which win over the preset; `--preset NAME` picks another.
      preset: the one to take where `args` names none.
      program: what `--help` calls the command.

    Raises:
      InputError (usage): an unknown preset, an unknown field (the nearest is named), a value of the wrong type.
      SystemExit: after printing `--help`.
    """
    import tyro

    args = [re.sub(r"^(--[\w.-]+)=", r"\1\n", a) for a in args]
    args = [piece for a in args for piece in (a.split("\n", 1) if a.startswith("--") and "\n" in a else [a])]
    if "--preset" in args:
        at = len(args) - args[::-1].index("--preset")  # behind the last one, which wins for every other setting too
        preset = args[at] if at < len(args) else ""
        if preset not in presets:
            raise InputError(f"--preset {preset or '(nothing)'}: there are {', '.join(presets)}", usage=True)
    default = dataclasses.replace(presets[preset], preset=preset)
    known = field_types(default)
    for arg in args:
        name = arg[2:].replace("-", "_") if arg.startswith("--") else None
        if name and name not in known and name != "help":
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]
            raise InputError(f"--{name}: there is no such setting; the nearest is --{near}\nsee {program} --help", usage=True)
    printed = io.StringIO()
    try:
        with contextlib.redirect_stderr(printed):
            return tyro.cli(
                type(default),
                default=default,
                args=args,
                prog=program,
                use_underscores=True,
                config=(tyro.conf.AvoidSubcommands, tyro.conf.FlagConversionOff),
            )
    except SystemExit as stop:
        if not stop.code:
            raise
        words = " ".join(re.sub(r"[╭╮╰╯─│]+", " ", printed.getvalue()).split())
        first = re.split(r" Argument helptext| For full helptext| Perhaps you meant", words)[0]
        title = r"^(Value error|Invalid choice|Missing argument|Parsing error|Unrecognized options(?= Unrecognized))\s+"
        first = re.sub(title, "", first.strip()).rstrip(".")
        first = re.sub(r"^Error parsing (?!--)[\w.]+: ", "", re.sub(r"-{5,}", " ", first).strip())
        flag = re.search(r"--[\w.]+", first)
        field = flag.group()[2:].replace("-", "_") if flag else ""
        wanted = f"; --{field} takes {known[field]}" if field in known else ""
        raise InputError(f"{first.strip()}{wanted}\nsee {program} --help", usage=True) from None


def field_types(config: Any, prefix: str = "") -> dict[str, str]:
    """{"a.b": type in words} of every leaf field of a nested dataclass."""
    hints = typing.get_type_hints(type(config))
    found: dict[str, str] = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            found |= field_types(value, f"{prefix}{field.name}.")
        else:
            kind = hints[field.name]
            found[prefix + field.name] = _words(kind)
    return found


def _words(kind: Any) -> str:
    if typing.get_origin(kind) is Literal:
        return "one of " + ", ".join(map(str, typing.get_args(kind)))
    return kind.__name__ if isinstance(kind, type) and not typing.get_args(kind) else str(kind).replace("typing.", "")


def from_dict(default: Any, saved: Mapping[str, Any]) -> Any:
    """The dataclass that `dataclasses.asdict` gave `saved` of, through JSON (tuples came back as lists).

    Raises:
      InputError: a saved field that the experiment does not have any more.
    """
    changes = {}
    names = {f.name for f in dataclasses.fields(default)}
    for name, value in saved.items():
        if name not in names:
            raise InputError(f"the run's setting {name!r} is not one of this experiment's: {', '.join(sorted(names))}")
        now = getattr(default, name)
        if dataclasses.is_dataclass(now):
            changes[name] = from_dict(now, value)
        else:
            changes[name] = _tuples(value)
    return dataclasses.replace(default, **changes)


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
