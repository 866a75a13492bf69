"""Finding and loading experiment files: ./experiments first, then those that came with medjax. There is no table to edit."""

from __future__ import annotations

import ast
import difflib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from medjax.errors import InputError


def shipped_folders() -> list[Path]:
    """Where the experiments that came with medjax lie: inside an installed wheel, or beside the package in a checkout."""
    package = Path(__file__).parent
    return [f for f in (package / "_shipped" / "experiments", package.parent / "experiments") if f.is_dir()]


def all_files(*, shipped: bool = False) -> dict[str, Path]:
    """{name: file} of every experiment, ./experiments before the shipped ones, or the shipped ones alone."""
    found: dict[str, Path] = {}
    own = [] if shipped else [Path("experiments")]
    for folder in own + shipped_folders():
        for file in sorted(folder.glob("*.py")):
            # A model or a helper that lies there too is no experiment.
            if "PRESETS_OF" in file.read_text(encoding="utf-8"):
                found.setdefault(file.stem, file)
    return found


def is_shipped(file: Path) -> bool:
    """Whether an experiment came with medjax."""
    return file.resolve().parent in [f.resolve() for f in shipped_folders()]


def find(name: str, *, shipped: bool = False) -> Path:
    """The file of an experiment, given by name or by path; `shipped` leaves ./experiments out.

    Raises:
      InputError (usage): there is none; the nearest name is given.
    """
    if name.endswith(".py"):
        if Path(name).is_file():
            return Path(name)
        raise InputError(f"{name}: no such experiment file", usage=True)
    files = all_files(shipped=shipped)
    if name in files:
        return files[name]
    near = difflib.get_close_matches(name, files, n=1, cutoff=0.0)
    hint = f"; the nearest is {near[0]}" if near else ""
    raise InputError(f"there is no experiment {name!r}{hint}\nsee them all: medjax list", usage=True)


def load(file: Path) -> ModuleType:
    """Import an experiment file, which has `PRESETS_OF` and `build(config)`.

    Raises:
      InputError: it lacks one of them.
    """
    name = f"experiments.{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # A model or a data set that lies beside the folder of experiments is found by import, as `python -m` finds it.
    beside = str(file.resolve().parent.parent)
    if beside not in sys.path:
        sys.path.append(beside)
    sys.modules[name] = module  # dataclasses look their module up while it is being made
    spec.loader.exec_module(module)
    for needed in ("PRESETS_OF", "build"):
        if not hasattr(module, needed):
            raise InputError(
                f"{file}: has no {needed}\nan experiment defines PRESETS_OF = {{'fast': Config(), ...}} and build(config)"
            )
    return module


def resolve(module: ModuleType, config: Any) -> Any:
    """The settings with all that the experiment reads off its data (classes, channels) filled in.

    So a run's record is whole, and the run can be used where its data is not. Not every experiment has a `resolve(config)`.
    """
    return module.resolve(config) if hasattr(module, "resolve") else config


def origin(config: Any) -> tuple[str, Path | None]:
    """(name, file) of the experiment whose settings these are, or ("custom", None)."""
    module = sys.modules.get(type(config).__module__)
    file = getattr(module, "__file__", None)
    return (Path(file).stem, Path(file)) if file and hasattr(module, "PRESETS_OF") else ("custom", None)


def load_by_name(name: str) -> ModuleType:
    """The experiment of that name (or file) as a module with `Config`, `PRESETS_OF` and `build`."""
    return load(find(name))


def card(file: Path) -> dict[str, str]:
    """{"job", "data", "needs"} from the file's literal `CARD`, read without running it."""
    tree = ast.parse(file.read_text())
    for node in tree.body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "CARD" for t in node.targets):
            return ast.literal_eval(node.value)
    return {"job": (ast.get_docstring(tree) or "").split("\n")[0], "data": "", "needs": ""}
