"""Networks, one file an architecture. `find` gives one by its name: there is no table of them."""

from __future__ import annotations

import difflib
import importlib
import inspect
import pkgutil
from collections.abc import Callable
from typing import Any

from medjax.errors import InputError


def find(name: str) -> Callable[..., Any]:
    """The network of that name, such as "resnet50" or "densenet121": a function of this package that takes `classes` first.

    Raises:
      InputError (usage): there is none; the nearest is named.
    """
    known: dict[str, Callable[..., Any]] = {}
    for info in pkgutil.iter_modules(__path__):
        module = importlib.import_module(f"{__name__}.{info.name}")
        for made, of in inspect.getmembers(module, inspect.isfunction):
            if of.__module__ == module.__name__ and next(iter(inspect.signature(of).parameters), "") == "classes":
                known[made] = of
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]
        there = ", ".join(sorted(known))
        raise InputError(f"there is no network {name!r}; the nearest is {near!r}\nthere are {there}", usage=True)
    return known[name]
