"""Deep learning for healthcare as pure functions on JAX."""

from typing import Any

__all__ = ["InputError", "evaluate", "experiment", "predict", "resume", "train"]

_HOME = {
    "train": ("medjax.loop", "train"),
    "resume": ("medjax.loop", "go_on"),
    "evaluate": ("medjax.deploy.finished", "evaluate"),
    "predict": ("medjax.deploy.finished", "predict"),
    "experiment": ("medjax.experiments", "load_by_name"),
    "InputError": ("medjax.errors", "InputError"),
}


def __getattr__(name: str) -> Any:
    # Imported when first used: `medjax --help` must not wait for JAX.
    if name not in _HOME:
        raise AttributeError(f"module 'medjax' has no attribute {name!r}")
    import importlib

    module, attribute = _HOME[name]
    return getattr(importlib.import_module(module), attribute)
