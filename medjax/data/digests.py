"""Digests: of an example's content, and of the code that prepared it."""

from __future__ import annotations

import functools
import hashlib
import re
import sys
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from medjax.errors import InputError


def digest(example: Mapping[str, Any]) -> str:
    """Digest of an example's content: every number and text of it, but neither its names nor its label.

    Raises:
      InputError: a value that is neither.
    """
    h = hashlib.blake2b(digest_size=16)
    for name in sorted(set(example) - {"id", "patient", "label", "path"}):
        value = np.asarray(example[name])
        if value.dtype.hasobject:
            raise InputError(f"{example.get('id')}: {name} is no array of numbers or text\nmend the source")
        h.update(f"{name}|{value.dtype.str}|{value.shape}|".encode())
        h.update(value.tobytes())
    return h.hexdigest()


def code_digest(function: Any) -> str:
    """Digest of a function's code and settings, through the functions, classes, constants and objects that it uses.

    A cache made by yesterday's preprocessing must not be taken for today's. Code is followed in medjax, in the function's own
    package and in whatever is not installed; what other libraries give is known by its name.
    """
    h = hashlib.sha256()
    seen: dict[int, Any] = {}  # the values too, so that no id is given out twice
    homes = {"medjax", _root(_innermost(function))}

    def ours(value: Any) -> bool:
        root = _root(value)
        return root in homes or not _is_library(root)

    def add(value: Any) -> None:
        # The type in front and a line's end behind: (1, 12) is not (11, 2).
        h.update(f"{type(value).__name__}|".encode())
        if isinstance(value, functools.partial):
            add((value.func, value.args, value.keywords))
        elif isinstance(value, types.CodeType):
            add((value.co_code, value.co_names, value.co_consts))
        elif isinstance(value, Mapping):
            for key in sorted(value, key=repr):
                add((key, value[key]))
        elif isinstance(value, (tuple, list)):
            h.update(f"{len(value)}|".encode())
            for item in value:
                add(item)
        elif isinstance(value, (frozenset, set)):
            add(sorted(map(repr, value)))
        elif hasattr(value, "__array__") and not isinstance(value, type):
            value = np.asarray(value)
            add((value.dtype.str, value.shape, value.tobytes()))
        elif isinstance(value, types.MethodType):
            add((value.__func__, value.__self__))
        elif hasattr(value, "__dict__"):
            add_object(value)
        else:
            h.update(_ADDRESS.sub("", repr(value)).encode())
        h.update(b"\n")

    def add_object(value: Any) -> None:
        h.update(getattr(value, "__qualname__", type(value).__qualname__).encode())
        known = isinstance(value, (types.FunctionType, type)) or hasattr(value, "__wrapped__")
        if id(value) in seen or (known and not ours(value)):
            return
        seen[id(value)] = value
        if isinstance(value, types.FunctionType):
            add((value.__code__, value.__defaults__, value.__kwdefaults__))
            add([cell.cell_contents for cell in value.__closure__ or ()])
            add_globals(value)
        elif hasattr(value, "__wrapped__"):  # cached or compiled functions
            add(value.__wrapped__)
        elif isinstance(value, type):
            for name, item in sorted(vars(value).items()):
                item = getattr(item, "__func__", item)  # of a class method or static method
                if isinstance(item, types.FunctionType) or (isinstance(item, _PLAIN) and not name.startswith("__")):
                    add((name, item))
            add(value.__bases__)
        else:
            add((type(value), vars(value)))

    def add_globals(function: types.FunctionType) -> None:
        names = _names(function.__code__)
        for name in names:
            used = function.__globals__.get(name)
            if isinstance(used, types.ModuleType) and ours(used):
                found = (getattr(used, other, None) for other in names)
                add([item for item in found if isinstance(item, _PLAIN) or callable(item)])
            elif isinstance(used, _PLAIN) or callable(used):
                add(used)

    add(function)
    return h.hexdigest()


_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")  # in the repr of built-in methods: another in every process
_PLAIN = (int, float, complex, str, bytes, tuple, list, dict, set, frozenset, np.ndarray, np.generic, functools.partial)


def _innermost(function: Any) -> Any:
    while isinstance(function, functools.partial):
        function = function.func
    return function


def _root(value: Any) -> str:
    """The top-level package that a function, class, object or module comes from."""
    name = value.__name__ if isinstance(value, types.ModuleType) else getattr(value, "__module__", None)
    return (name or "builtins").split(".")[0]


def _is_library(root: str) -> bool:
    file = getattr(sys.modules.get(root), "__file__", None) or ""
    return root in sys.stdlib_module_names or not {"site-packages", "dist-packages"}.isdisjoint(Path(file).parts)


def _names(code: types.CodeType) -> list[str]:
    """Global names and attributes that a function uses, those of the functions and comprehensions inside it too."""
    inner = (constant for constant in code.co_consts if isinstance(constant, types.CodeType))
    return sorted({*code.co_names, *(name for part in inner for name in _names(part))})
