"""Packages that only some jobs need: imported where they are used, with an error that names the extra to install."""

from __future__ import annotations

import importlib
from typing import Any

from medjax.errors import InputError


def need(module: str, *, extra: str) -> Any:
    """Import an optional module, such as `need("pydicom", extra="imaging")`.

    Raises:
      InputError: it is not installed, or does not load; the extra that brings it is named.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        found = f"is not installed ({error})" if isinstance(error, ModuleNotFoundError) else f"does not load ({error})"
        raise InputError(f"{module.partition('.')[0]} {found}\npip install 'medjax[{extra}]'") from error
