"""The networks that are measured, and their sizes. Nothing here imports JAX: it is also what `--list` shows."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from medjax.errors import InputError

MODES = ("train", "infer")
MARK = "MEDJAX-BENCH "  # before a line that a worker means for the runner


class Case(NamedTuple):
    """A network with everything that both sides need to build it.

    Attributes:
      name: as in `NAME/train` and `NAME/infer`.
      family: the function of `networks`, and of a peer, that builds it.
      sizes: that function's arguments, `batch` among them.
      seconds: about what both modes take beside a peer on two cores, for telling the time left.
      gradient: relative error up to which two float32 gradients are taken for the same. An activation within rounding of
        relu's kink passes its gradient in one program and not in the other, which grows with depth: PyTorch's own float32
        and float64 gradients of these networks differ by as much (3.6e-2 for ResNet-50; medjax's from the latter by 2.1e-2).
    """

    name: str
    family: str
    sizes: Mapping[str, Any]
    seconds: float
    gradient: float = 2e-2


_RECURRENT = {"steps": 250, "inputs": 12, "features": 128, "classes": 2, "batch": 32}
_LENGTHS: dict[str, dict[str, Any]] = {
    "records": {"steps": 48, "inputs": 76, "features": 128, "classes": 2, "batch": 64, "shortest": 6},
    "signals": {"steps": 1000, "inputs": 12, "features": 128, "classes": 2, "batch": 32, "shortest": 250},
}

CASES = (
    Case(
        "resnet18",
        "resnet",
        {"depth": 18, "small_images": True, "side": 64, "channels": 1, "classes": 10, "batch": 32},
        35,
    ),
    Case(
        "resnet50",
        "resnet",
        {"depth": 50, "small_images": False, "side": 224, "channels": 3, "classes": 1000, "batch": 8},
        50,
        gradient=0.1,
    ),
    Case("unet2d", "unet", {"shape": (128, 128), "features": 16, "depth": 4, "classes": 4, "batch": 8}, 22),
    Case("unet3d", "unet", {"shape": (32, 32, 32), "features": 8, "depth": 3, "classes": 4, "batch": 2}, 17),
    Case("dcgan", "dcgan", {"latent": 100, "features": 64, "channels": 1, "batch": 32}, 20),
    Case("lstm", "recurrent", {"cell": "lstm", **_RECURRENT}, 12, gradient=1e-4),
    Case("lstm1000", "recurrent", {"cell": "lstm", **_RECURRENT, "steps": 1000}, 17, gradient=1e-4),
    Case("gru", "recurrent", {"cell": "gru", **_RECURRENT}, 12, gradient=1e-4),
    # Sequences of different lengths, which PyTorch packs: hourly records, and signals.
    *(
        Case(f"{cell}_{of}", "recurrent", {"cell": cell, **_LENGTHS[of]}, 12, gradient=1e-4)
        for of in ("records", "signals")
        for cell in ("simple", "lstm", "gru")
    ),
)


def select(pattern: str | None, cases: Sequence[Case] = CASES) -> list[tuple[Case, tuple[str, ...]]]:
    """[(case, its modes)] that a pattern such as `lstm*`, `unet2d` or `*/train` names; all of them for None.

    Raises:
      InputError (usage): it names none.
    """
    chosen = []
    for case in cases:
        names = {mode: f"{case.name}/{mode}" for mode in MODES}
        modes = [m for m in MODES if pattern is None or any(fnmatch.fnmatchcase(s, pattern) for s in (case.name, names[m]))]
        if modes:
            chosen.append((case, tuple(modes)))
    if not chosen:
        known = [case.name for case in cases] + [f"{case.name}/{mode}" for case in cases for mode in MODES]
        near = difflib.get_close_matches(str(pattern), known, n=1, cutoff=0.0)[0]
        raise InputError(f"there is no case {pattern!r}; the nearest is {near}\nsee them all: medjax bench --list", usage=True)
    return chosen


def describe(case: Case) -> str:
    """The sizes in words."""
    return "  ".join(f"{name} {'x'.join(map(str, v)) if isinstance(v, tuple) else v}" for name, v in case.sizes.items())
