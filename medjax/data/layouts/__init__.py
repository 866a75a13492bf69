"""Layouts that data sets have on disk: one module each, found by looking into this folder.

A layout's module has `sources(path, **options) -> Layout` and `sniff(path) -> str`, and its first line says what it expects.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import pkgutil
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, NamedTuple

from medjax.data.records import Variable
from medjax.errors import InputError

# Layouts that much fits, the more demanding first.
GENERAL = ("yolo", "long_table", "images_masks", "class_folders", "table", "text_table", "text_files")


Content = Literal[
    "pictures",
    "masks",
    "boxes",
    "records",
    "texts",
    "texts with entities",
    "pairs of texts",
    "pictures with texts",
    "pairs of images",
    "k-space",
]


class Layout(NamedTuple):
    """A data set as it was found on disk.

    Attributes:
      sources: {split or "all": Source}.
      classes: names, in the order of the labels.
      kind: "single" for one class out of several (label int, -1 missing), "ordinal" where their order counts, "multi" for any
        number of them (label int8 [K] of 1, 0, -1 missing), "masks" where each voxel is of one (`classes` in the order of a
        mask's values, "background" first), "boxes" where each box in a picture is of one, "restore" for pairs of a worse and
        a better image, "kspace" for scans; of records also "steps" and "survival", see `medjax.data.records`; of texts also
        "spans" and "pairs", see `medjax.data.texts`.
      about: what was found and by which rules, in a sentence or two.
      variables: of records, in the order of their numbers; of nothing else.
      statics: names of what records hold once, in the order of `static`.
      texts: of texts, the parts that a case has: "text", and "target" of pairs, alone where it is written from pictures.
    """

    sources: Mapping[str, Any]
    classes: tuple[str, ...]
    kind: Literal["single", "multi", "ordinal", "masks", "boxes", "restore", "kspace", "steps", "survival", "spans", "pairs"]
    about: str
    variables: tuple[Variable, ...] = ()
    statics: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()

    @property
    def holds(self) -> Content:
        """What its cases are, in words."""
        if self.texts:
            if self.kind == "pairs":
                return "pairs of texts" if "text" in self.texts else "pictures with texts"
            return "texts with entities" if self.kind == "spans" else "texts"
        if self.kind in ("restore", "kspace"):
            return "pairs of images" if self.kind == "restore" else "k-space"
        if self.variables:
            return "records"
        return self.kind if self.kind in ("masks", "boxes") else "pictures"


def find_layouts() -> dict[str, str]:
    """{name: what it expects} of every layout, the general ones last."""
    names = sorted(module.name for module in pkgutil.iter_modules(__path__))
    names.sort(key=lambda name: GENERAL.index(name) if name in GENERAL else -1)
    return {name: (inspect.getdoc(_module(name)) or "").partition("\n")[0] for name in names}


def detect(path: str | Path) -> dict[str, str]:
    """{name: reason} of the layouts that a path looks like, the one to take first; empty where it looks like none.

    The general layouts are asked only where no public set's fits: most of those hold folders of pictures and tables as well.
    """
    names = list(find_layouts())
    for group in (names[: -len(GENERAL)], names[-len(GENERAL) :]):
        reasons = {name: _module(name).sniff(Path(path)) for name in group}
        if found := {name: reason for name, reason in reasons.items() if reason}:
            return found
    return {}


def open_layout(path: str | Path, name: str = "", **options: Any) -> Layout:
    """Read a data set in a named layout, or in the one that it looks like.

    Args:
      path: the data.
      name: of the layout; detected by default, also one folder further down where that is all there is.
      **options: for the layout's `sources`; those that are empty or that it does not know are left out.

    Raises:
      InputError: no such path or layout, nothing that looks like one, or what the layout's `sources` raises.
    """
    known = find_layouts()
    if name and name not in known:
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]
        raise InputError(f"there is no layout {name!r}; the nearest is {near!r}\nthere are {', '.join(known)}")
    if not Path(path).exists():
        raise InputError(f"{path}: no such file or folder\ngive a data set's")
    found = name or next(iter(detect(path)), "")
    if not found:
        # An archive often unpacks to one folder inside of another.
        inside = [f for f in Path(path).iterdir() if not f.name.startswith((".", "__"))] if Path(path).is_dir() else []
        if len(inside) == 1 and inside[0].is_dir() and detect(inside[0]):
            return open_layout(inside[0], **options)
        raise InputError(
            f"{path}: is in none of the layouts {', '.join(known)}\nname the one that is meant, to be told what is missing"
        )
    read = _module(found).sources
    takes = inspect.signature(read).parameters
    return read(Path(path), **{key: value for key, value in options.items() if value and key in takes})


def open_own(path: str | None, name: str, wanted: Content, **options: Any) -> Layout:
    """The data that a user gives an experiment, which must hold what the experiment is about.

    Args:
      path, name, **options: as of `open_layout`.
      wanted: what the cases must be.

    Raises:
      InputError (usage): no path, or other cases; and what `open_layout` raises.
    """
    if not path:
        raise InputError("this experiment has no data of its own\ngive yours: --data.path PATH", usage=True)
    found = open_layout(path, name, **options)
    if found.holds != wanted:
        raise InputError(
            f"{path}: holds no {wanted} but {found.holds}: {found.about}\n"
            "name the layout that is meant with --layout, or take another experiment: medjax list",
            usage=True,
        )
    return found


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"{__name__}.{name}")


class Joined:
    """The Sources of all splits, one after the other."""

    def __init__(self, sources: Mapping[str, Any]):
        self.places = [(source, i) for source in sources.values() for i in range(len(source))]

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, i: int) -> dict[str, Any]:
        source, at = self.places[i]
        return source[at]
