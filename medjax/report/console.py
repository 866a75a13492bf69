"""The tables that close a run, or a comparison of runs, in the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from medjax.report.answer import verdict
from medjax.report.words import (
    ABSENT,
    count_noun,
    format_value,
    has_interval,
    is_number,
    lower_is_better,
    name_metric,
    name_split,
    order_splits,
    sort_metrics,
)


def summary_table(report: Mapping[str, Any]) -> Table:
    """Metrics as rows; the network with its 95 % interval and each baseline's value as columns, on the test split.

    Overall metrics only; those of single classes ("auroc/glioma") stand in report.html. A metric where less is better has an
    arrow down. Class and metric names are shown as they are, never read as rich markup.

    Args:
      report: report.json as a dict. Without a test split: pooled cross-validation, else validation, else what there is.
    """
    metrics = report.get("metrics") or {}
    split = next(iter(order_splits(metrics)), None)
    entries = metrics[split] if split else {}
    baselines = {name: values for name, values in (report.get("baselines") or {}).items() if values}
    names = [
        name for name in sort_metrics([*entries, *(m for values in baselines.values() for m in values)]) if "/" not in name
    ]

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title_justify="left", title_style="bold")
    table.title = Text(f"{name_split(split)} split" if split else "No metrics were written")
    table.add_column("Metric", no_wrap=True, overflow="ellipsis", min_width=12)
    table.add_column("Network", justify="right", no_wrap=True, min_width=7, style="bold")
    table.add_column(Text("[95 % interval]"), justify="right", no_wrap=True, min_width=15)
    for name in baselines:
        # The contract's own, short name: with four or more of them the readable ones would not fit into 100 columns.
        table.add_column(Text(name), justify="right", no_wrap=True, min_width=6)
    for name in names:
        direction = " ↓" if lower_is_better(name) else ""
        entry = entries.get(name) or {}
        values = [format_value((of.get(name) or {}).get("value")) for of in (entries, *baselines.values())]
        table.add_row(Text(name_metric(name) + direction), Text(values[0]), Text(_bracket(entry)), *map(Text, values[1:]))
    return table


def comparison_table(comparison: Mapping[str, Any], other: str) -> Table:
    """Metrics as rows; the first run, another one, and their difference with its paired 95 % interval as columns.

    Overall metrics only, as in `summary_table`. The last word of a row says what the interval shows of the first run: better,
    worse, or unclear.

    Args:
      comparison: comparison.json as a dict.
      other: the name of the other run.
    """
    first = comparison["runs"][0]["name"]
    of_first, of_other = comparison["metrics"][first], comparison["metrics"][other]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title_justify="left", title_style="bold")
    shared = count_noun(comparison["cases"]["shared"], "case")
    table.title = Text(f"{name_split(comparison['split'])} split, {shared} that all runs share")
    table.add_column("Metric", no_wrap=True, overflow="ellipsis", min_width=12)
    table.add_column(Text(first), justify="right", overflow="fold", min_width=7, style="bold")
    table.add_column(Text(other), justify="right", overflow="fold", min_width=7)
    table.add_column("Difference", justify="right", no_wrap=True)
    table.add_column(Text("[95 % interval]"), justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for metric in sort_metrics([*of_first, *of_other]):
        if "/" in metric:
            continue
        difference = comparison["comparisons"][other].get(metric) or {}
        cells = [format_value((of.get(metric) or {}).get("value")) for of in (of_first, of_other)]
        cells.append(format_value(difference.get("difference"), sign=True))
        cells += [_bracket(difference, "difference", sign=True), verdict(difference, metric)]
        table.add_row(Text(name_metric(metric) + (" ↓" if lower_is_better(metric) else "")), *map(Text, cells))
    return table


def _bracket(entry: Mapping[str, Any], key: str = "value", *, sign: bool = False) -> str:
    if has_interval(entry):
        return "[" + ", ".join(format_value(end, sign=sign) for end in entry["ci95"]) + "]"
    return "no interval" if is_number(entry.get(key)) else ABSENT
