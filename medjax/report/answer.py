"""What a report says in sentences: pure functions of report.json, plain text out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from medjax.report.words import (
    ABSENT,
    count_noun,
    format_count,
    format_interval,
    format_value,
    has_interval,
    is_number,
    label_key,
    lower_is_better,
    main_metric,
    name_baseline,
    name_metric,
    name_split,
    order_splits,
)

NOUNS = {
    "classification": "image",
    "segmentation": "image",
    "detection": "image",
    "enhancement": "image",
    "generation": "image",
    "reconstruction": "image",
    "risk": "record",
    "signal": "record",
    "text": "document",
}
AUDIT_LABELS = {
    "leaks": "Leaks between splits",
    "near_copies": "Near-identical cases",
    "prevalence": "Cases per class",
    "undefined": "Metrics not computed",
}
AT_THRESHOLD = ("sensitivity", "specificity")


def name_case(report: Mapping[str, Any]) -> str:
    """What one example is called: "image", "record", "document"; "case" where the task does not say."""
    task = str(report.get("task") or "").lower()
    return next((noun for key, noun in NOUNS.items() if key in task), "case")


def name_unit(report: Mapping[str, Any]) -> str:
    """What the bootstrap draws, one word: "patient", "group", "document", ..."""
    words = str(report.get("ci_unit") or "").replace("_", " ").split()
    return words[0].strip(",.;:()").lower() if words else "patient"


def verdict(comparison: Mapping[str, Any] | None, metric: str) -> str:
    """ "better", "worse" or "unclear" for network minus baseline, by its paired interval; empty without one."""
    if comparison is None or not has_interval(comparison):
        return ""
    low, high = comparison["ci95"]
    if lower_is_better(metric):
        low, high = -high, -low
    return "better" if low > 0 else "worse" if high < 0 else "unclear"


def count_units(about: Mapping[str, Any]) -> Any:
    """Patients of a split where they are known, else its groups of cases that belong together, else None."""
    return about.get("groups") if about.get("patients") is None else about["patients"]


def answer(report: Mapping[str, Any]) -> str:
    """The report's one sentence: how well, how certain, and against the strongest baseline."""
    metric = main_metric(report)
    if metric is None:
        return "No metric was written for this run."
    split = order_splits(report["metrics"])[0]
    entry = report["metrics"][split][metric]
    about = ((report.get("data") or {}).get("splits") or {}).get(split) or {}
    n, units = about.get("n") or entry.get("n"), count_units(about)
    where = name_split(split).lower().replace(" (pooled)", "")
    said = f"On {where} data"
    if is_number(n):
        noun = name_case(report)
        number, nouns = count_noun(n, noun).split(" ", 1)
        said = f"On {number} {where} {nouns}"
        if is_number(units) and units != n and name_unit(report) != noun:
            said += f" of {count_noun(units, name_unit(report))}"
    said += f" the network reached {name_metric(metric)} {_certain(entry)}"
    return said + _against_baselines(report, metric) + "."


def _certain(entry: Mapping[str, Any]) -> str:
    value = format_value(entry.get("value"))
    if has_interval(entry):
        return f"{value} (95 % CI {format_interval(entry)})"
    return f"{value} (no interval: {entry['reason'].rstrip('.')})" if entry.get("reason") else value


def _against_baselines(report: Mapping[str, Any], metric: str) -> str:
    values = {name: (of or {}).get(metric, {}).get("value") for name, of in (report.get("baselines") or {}).items()}
    values = {name: value for name, value in values.items() if is_number(value)}
    if not values:
        return ""
    best = (min if lower_is_better(metric) else max)(values, key=values.__getitem__)
    role = "strongest baseline" if len(values) > 1 else "baseline"
    said = f"; the {role} ({name_baseline(best)}) reached {format_value(values[best])}"
    comparison = ((report.get("comparisons") or {}).get(best) or {}).get(metric)
    if not comparison or not is_number(comparison.get("difference")):
        return said
    by = format_value(abs(comparison["difference"]))
    signed = format_value(comparison["difference"], sign=True)
    match verdict(comparison, metric):
        case "unclear":
            interval = format_interval(comparison, sign=True)
            return f"{said}, and the network is not shown to be better (difference {signed}, 95 % CI {interval})"
        case "":
            return f"{said}, a difference of {signed} whose certainty is not known"
        case word:
            ends = sorted(abs(end) for end in comparison["ci95"])
            return f"{said}, and the network is {word} by {by} (95 % CI {format_value(ends[0])} to {format_value(ends[1])})"


def describe_point(report: Mapping[str, Any]) -> str:
    """Sensitivity and specificity at the threshold chosen on validation data; empty where there is none."""
    splits = order_splits(report.get("metrics") or {})
    entries = report["metrics"][splits[0]] if splits else {}
    found = [f"{name_metric(name).lower()} {_certain(entries[name])}" for name in AT_THRESHOLD if entries.get(name)]
    if not found:
        return ""
    threshold = (report.get("point") or {}).get("threshold")
    opening = (
        f"At the threshold {format_value(threshold)}, chosen on validation data, it had " if is_number(threshold) else "It had "
    )
    return opening + " and ".join(found) + "."


def list_warnings(report: Mapping[str, Any]) -> list[str]:
    """The run's warnings, and a shortcut that the audit found but no warning speaks of."""
    given = [str(text) for text in report.get("warnings") or ()]
    shortcut = ((report.get("data") or {}).get("audit") or {}).get("shortcut")
    if shortcut and not any("shortcut" in text.lower() for text in given):
        given.insert(0, f"Shortcut: {_say_shortcut(shortcut)}")
    return given


def describe_audit(audit: Mapping[str, Any], *, leave_out: tuple[str, ...] = ()) -> list[tuple[str, list[str]]]:
    """Any audit as (label, sentences): known keys in words, unknown ones by their own names."""
    rows = []
    for key, value in audit.items():
        if key in leave_out:
            continue
        label = AUDIT_LABELS.get(key) or label_key(key)
        if key == "shortcut" and value:
            rows.append((label, [_say_shortcut(value)]))
        elif key == "near_copies" and isinstance(value, Mapping) and value.get("groups") and value.get("files"):
            largest = f" (the largest has {format_count(value['largest'])})" if value.get("largest") else ""
            rest = {name: number for name, number in value.items() if name not in ("groups", "files", "largest")}
            said = f"{count_noun(value['files'], 'file')} in {count_noun(value['groups'], 'group')}{largest}"
            rows.append((label, [said, *_say_items(rest)]))
        elif key == "undefined" and isinstance(value, Mapping) and value:
            rows.append((label, [f"{name_metric(name)}: {reason}" for name, reason in value.items()]))
        else:
            rows.append((label, list(_say_items(value))))
    return [(label, said or ["none found"]) for label, said in rows]


def _say_shortcut(shortcut: Any) -> str:
    if not isinstance(shortcut, Mapping):
        return str(shortcut)
    if shortcut.get("text"):
        return str(shortcut["text"])
    return "; ".join(f"{name_metric(key)} {_say(value)}" for key, value in shortcut.items() if value is not None)


def _say_items(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        nested = any(isinstance(item, Mapping | list | tuple) for item in value.values())
        if nested:
            yield from (f"{label_key(key)}: {_say(item)}" for key, item in value.items())
        elif any(value.values()):
            yield _say(value)
    elif isinstance(value, list | tuple):
        yield from map(_say, value)
    elif value not in (None, "", False, 0):
        yield _say(value)


def _say(value: Any) -> str:
    if value is None:
        return ABSENT
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return format_count(value)
    if isinstance(value, float):
        return format_value(value)
    if isinstance(value, Mapping):
        return ", ".join(f"{str(key).replace('_', ' ')} {_say(item)}" for key, item in value.items()) or "none"
    if isinstance(value, list | tuple):
        return ", ".join(map(_say, value)) or "none"
    return str(value)
