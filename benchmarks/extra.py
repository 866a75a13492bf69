"""What the measurements that stand beside the suite share: `python -m medjax.bench beam|detector|windows`."""

from __future__ import annotations

import argparse
import importlib.util
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from medjax.console import say
from medjax.files import write_json


def run(
    args: Sequence[str],
    name: str,
    about: str | None,
    default: Mapping[str, int],
    measure: Callable[[dict[str, int]], dict[str, Any]],
    agree: float,
) -> None:
    """Measure with the sizes of the command line, print the row, write it with --json.

    Exits with 1 where a share of `row["agreement"]`, a number or several by name, is less than `agree`.
    """
    parser = argparse.ArgumentParser(prog=f"python -m medjax.bench {name}", description=about)
    for size, value in default.items():
        parser.add_argument(f"--{size}", type=int, default=value)
    parser.add_argument("--json", type=Path)
    sizes = vars(parser.parse_args(args))
    file = sizes.pop("json")
    if importlib.util.find_spec("torch") is None:
        raise SystemExit("the peer is PyTorch, which is not installed\nget it: pip install 'medjax[bench]'")
    row = measure(sizes)
    say(json.dumps(row, indent=1))
    if file is not None:
        write_json(file, row)
    found = row["agreement"]
    least = min(found.values()) if isinstance(found, Mapping) else found
    if least < agree:
        raise SystemExit(f"only {least:.4%} of the answers are the same on both sides: nothing to compare")
