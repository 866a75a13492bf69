"""Where the benchmarks lie, and their processes: `python -m medjax.bench worker|peer ...`."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from medjax.errors import InputError
from medjax.memory import keep_freed_memory

# Not plain "benchmarks": other packages install a folder of that name beside their own.
PACKAGE = "medjax_benchmarks"


def folder() -> Path:
    """The benchmarks that came with medjax: inside an installed wheel, or beside the package in a checkout.

    Raises:
      InputError: there are none.
    """
    package = Path(__file__).parent
    for found in (package / "_shipped" / "benchmarks", package.parent / "benchmarks"):
        if (found / "__init__.py").is_file():
            return found
    raise InputError(f"{package}: came without its benchmarks\ninstall medjax from a wheel or a checkout")


def load(name: str) -> ModuleType:
    """A module of the benchmarks by its name within them: "runner", "peers.torch"."""
    if PACKAGE not in sys.modules:
        home = folder()
        spec = importlib.util.spec_from_file_location(PACKAGE, home / "__init__.py", submodule_search_locations=[str(home)])
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[PACKAGE] = module
        spec.loader.exec_module(module)
    return importlib.import_module(f"{PACKAGE}.{name}")


if __name__ == "__main__":
    if sys.argv[1] == "worker":  # as a run does; a peer is left as it comes
        keep_freed_memory()
    load(sys.argv[1]).main(sys.argv[2:])
