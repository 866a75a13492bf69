"""Deep learning for healthcare as pure functions on JAX."""

from typing import Any

__all__ = ["InputError", "evaluate", "predict", "train"]

_HOME = {
    "train": "medjax.train",
    "evaluate": "medjax.deploy.finished",
    "predict": "medjax.deploy.finished",
    "InputError": "medjax.errors",
}


def __getattr__(name: str) -> Any:
    # Imported when first used: `medjax --help` must not wait for JAX.
    if name not in _HOME:
        raise AttributeError(f"module 'medjax' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOME[name]), name)
