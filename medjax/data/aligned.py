"""Records of other data in the order of variables that a run knows, by their names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from medjax.cases import Varying
from medjax.data.layouts import Layout
from medjax.errors import InputError


def aligned(found: Layout, variables: Sequence[str], statics: Sequence[str]) -> Mapping[str, Any]:
    """The sources of a layout, their variables and statics put in a run's own order by name.

    What the run does not know is left out, and what this data lacks is never observed.

    Raises:
      InputError: none of the variables is one of the run's.
    """
    names = tuple(v.name for v in found.variables)
    if (names, found.statics) == (tuple(variables), tuple(statics)):
        return found.sources
    if not set(names) & set(variables):
        raise InputError("none of this data's variables is one of the run's\nevaluate on data of the same layout")
    return {split: Renumbered(source, found, variables, statics) for split, source in found.sources.items()}


class Renumbered:
    """A Source whose variables and statics have other numbers; see `aligned`."""

    def __init__(self, source: Any, found: Layout, variables: Sequence[str], statics: Sequence[str]):
        self.source = source
        place = {name: k for k, name in enumerate(variables)}
        self.number = np.array([place.get(v.name, -1) for v in found.variables], np.int32)
        once = {name: k for k, name in enumerate(found.statics)}
        self.static = np.array([once.get(name, len(once)) for name in statics], int)

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, i: int) -> dict[str, Any]:
        example = dict(self.source[i])
        number = self.number[example["variables"].array]
        kept = number >= 0
        example["variables"] = Varying(number[kept])
        example |= {name: Varying(example[name].array[kept]) for name in ("times", "values")}
        example["static"] = np.append(example["static"], np.float32(np.nan))[self.static]
        return example

    def __getattr__(self, name: str) -> Any:
        # case_id, identity and tally, as far as the source has them.
        if name == "source":
            raise AttributeError(name)
        return getattr(self.source, name)
