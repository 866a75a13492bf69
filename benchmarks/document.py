"""Recorded results as the tables of docs/performance.md: `python -m benchmarks.document` after `medjax bench --json`.

Reads benchmarks/results/onednn.json and lax.json and writes what stands between the markers in docs/performance.md anew.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "performance.md"
TITLES = (
    "case",
    "examples/s",
    "step ms (10 to 90 %)",
    "PyTorch ms",
    "medjax / PyTorch (10 to 90 %)",
    "GFLOP/s",
    "compile s",
    "peak MiB",
)


def table(result: dict[str, Any]) -> str:
    """A result of `medjax bench --vs torch --json` as a Markdown table with what it was measured on above it."""
    environment = result["environment"]
    versions = environment["versions"]
    names = ("jax", "jaxlib", "flax", "torch", "onednn-cpu-gomp")
    listed = ", ".join(f"{name} {versions[name]}" for name in names if name in versions)
    lines = [
        f"{environment['cpu']}, {environment['threads']} threads, {environment['precision']}; "
        f"Python {environment['python']}, {listed}.",
        "",
        "| " + " | ".join(TITLES) + " |",
        "|---" + "|---:" * (len(TITLES) - 1) + "|",
    ]
    for row in result["cases"]:
        start, peak = row["start"], row["peak_memory_mib"]
        cells = [
            f"`{row['name']}`",
            f"{row['examples_per_s']:,.1f}",
            f"{row['step_ms']:,.1f} ({row['step_ms_p10']:,.1f} to {row['step_ms_p90']:,.1f})",
            f"{row['torch']['step_ms']:,.1f}",
            f"**{row['ratio_vs_torch']:.2f}** ({row['ratio_p10']:.2f} to {row['ratio_p90']:.2f})",
            f"{row['gflop_per_s']:,.1f}",
            f"{start['trace_s'] + start['lower_s'] + start['compile_s']:.1f}",
            "" if peak is None else f"{peak:,.0f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def fill(text: str, tables: dict[str, str]) -> str:
    """The page with each table put between its markers <!-- NAME --> and <!-- end -->."""
    for name, body in tables.items():
        between = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        text, count = between.subn(lambda m, body=body: f"{m[1]}{body}\n{m[2]}", text)
        if count != 1:
            raise SystemExit(f"{PAGE}: has no markers for the table {name!r}")
    return text


def main() -> None:
    """Write the page anew from the recorded results."""
    paths = {name: HERE / "results" / f"{name}.json" for name in ("onednn", "lax")}
    PAGE.write_text(fill(PAGE.read_text(), {name: table(json.loads(path.read_text())) for name, path in paths.items()}))


if __name__ == "__main__":
    main()
