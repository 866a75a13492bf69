"""report.html: one file that holds everything it shows, from what lies in a run folder."""

from __future__ import annotations

import base64
import functools
import json
import re
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from medjax.errors import InputError
from medjax.files import write_bytes
from medjax.report import answer as say
from medjax.report import figures as drawing
from medjax.report import words
from medjax.report.curves import learning_curves

LONGEST = 40  # entries of a list among the settings
FAILURES = ("hits", "misses", "failures")
CALIBRATION = ("calibration", "reliability")
CURVES = "learning_curves.png"
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
CSS_PER_INCH = 96
FORMATTERS = ("name_metric", "name_baseline", "name_split", "label_key", "lower_is_better", "format_count")


def write_html(run_dir: str | Path, *, draw_curves: bool = True) -> Path:
    """Render RUN/report.html from report.json and, where they are there, the run's other files.

    These are config.json, environment.json, metrics.jsonl and figures/*.png.

    The file is written whole or not at all, needs no script and no network, and every text from the run is escaped.

    Args:
      run_dir: the run folder.
      draw_curves: draw figures/learning_curves.png from metrics.jsonl first.

    Returns:
      The path of report.html.

    Raises:
      InputError: report.json is missing, or a file in the folder is not the JSON it should be.
    """
    run = Path(run_dir)
    report = read_object(run / "report.json", required=True)
    metrics = _read_lines(run / "metrics.jsonl")
    if draw_curves and metrics:
        (run / "figures").mkdir(exist_ok=True)
        curves = learning_curves(metrics, monitor=str(report.get("monitor") or ""), best_step=report.get("best_step"))
        drawing.write_png(curves, run / "figures" / CURVES)
    figures = _read_figures(run / "figures", report.get("figures") or [])
    page = render(report, read_object(run / "config.json"), read_object(run / "environment.json"), metrics, figures)
    path = run / "report.html"
    write_bytes(path, page.encode())
    return path


def render(
    report: Mapping[str, Any],
    config: Mapping[str, Any],
    environment: Mapping[str, Any],
    metrics: Sequence[Mapping[str, Any]],
    figures: Sequence[Mapping[str, Any]],
) -> str:
    """The page as text.

    Args:
      report: report.json.
      config: config.json, nested settings.
      environment: environment.json.
      metrics: the lines of metrics.jsonl.
      figures: [{"file", "title", "caption", "uri", "width"}], pictures as data URIs, width in CSS pixels.
    """
    data = report.get("data") or {}
    splits = words.order_splits(report.get("metrics") or {})
    notes = Notes()
    shown = {
        "title": report.get("title") or report.get("experiment") or "Report",
        "report": report,
        "data": data,
        "answer": say.answer(report),
        "point": say.describe_point(report),
        "warnings": say.list_warnings(report),
        "units": words.label_key(words.pluralise(say.name_unit(report))),
        "splits": tabulate_splits(report),
        "audit": _audit(data),
        "split": splits[0] if splits else None,
        "results": tabulate_results(report, notes),
        "baselines": [(name, words.BASELINES.get(name, ("", ""))[1]) for name in report.get("baselines") or {}],
        "differences": tabulate_differences(report, notes),
        "others": tabulate_others(report, splits[1:], notes),
        "members": tabulate_members(report),
        "undefined": _undefined(data),
        "notes": notes.texts,
        "figures": _sort_figures(figures),
        "calibration": _describe_calibration(report, splits),
        "training": describe_training(report, metrics),
        "settings": flatten(config),
        "versions": environment.get("versions") if isinstance(environment.get("versions"), Mapping) else {},
        "environment": flatten({key: value for key, value in environment.items() if key != "versions"}),
    }
    return fill_template("template.html.j2", shown)


def fill_template(name: str, shown: Mapping[str, Any]) -> str:
    """A template of this folder with its variables filled in and escaped."""
    page = _load_template(name).render(shown)
    # An address inside a licence or a command stays readable, but the file itself holds none: the colon becomes an entity.
    return re.sub(r"(?i)\b(https?):(?=//)", r"\1&#58;", page)


@functools.cache
def _load_template(name: str) -> jinja2.Template:
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.globals.update({name: getattr(words, name) for name in FORMATTERS})
    return templates.get_template(name)


class Notes:
    """Numbered footnotes; the same text gets the same number."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def mark(self, text: str) -> int:
        """The number of a text."""
        if text not in self.texts:
            self.texts.append(text)
        return self.texts.index(text) + 1


def make_cell(entry: Any, notes: Notes, *, sign: bool = False) -> dict[str, Any]:
    """{"value", "interval", "note"} as text from {"value" or "difference", "ci95", "reason"}; a null interval has a note."""
    if not isinstance(entry, Mapping):
        return {"value": words.ABSENT, "interval": "", "note": None}
    value = entry.get("difference" if sign else "value")
    note = None
    if words.is_number(value) and not words.has_interval(entry):
        note = notes.mark(str(entry.get("reason") or "the run gives no reason").rstrip("."))
    interval = words.format_interval(entry, sign=sign)
    return {"value": words.format_value(value, sign=sign), "interval": interval, "note": note}


def tabulate_results(report: Mapping[str, Any], notes: Notes) -> list[dict[str, Any]]:
    """Rows of the main table: {"metric", "n", "cells": network first, then each baseline}."""
    splits = words.order_splits(report.get("metrics") or {})
    network = report["metrics"][splits[0]] if splits else {}
    baselines = list((report.get("baselines") or {}).values())
    about = ((report.get("data") or {}).get("splits") or {}).get(splits[0] if splits else "") or {}
    rows = []
    for metric in words.sort_metrics([*network, *(name for values in baselines for name in values or {})]):
        entry = network.get(metric) or {}
        n = entry.get("n") if entry.get("n") != about.get("n") else None
        cells = [make_cell((values or {}).get(metric), notes) for values in (network, *baselines)]
        rows.append({"metric": metric, "n": n, "cells": cells})
    return rows


def tabulate_differences(report: Mapping[str, Any], notes: Notes) -> dict[str, Any]:
    """Network minus baseline: {"baselines": names, "rows": [{"metric", "cells"}]}, a cell with its verdict in a word."""
    comparisons = {name: of for name, of in (report.get("comparisons") or {}).items() if of}
    rows = []
    for metric in words.sort_metrics(name for of in comparisons.values() for name in of):
        cells = []
        for of in comparisons.values():
            entry = of.get(metric)
            cells.append({**make_cell(entry, notes, sign=True), "verdict": say.verdict(entry, metric)})
        rows.append({"metric": metric, "cells": cells})
    return {"baselines": list(comparisons), "rows": rows}


def tabulate_others(report: Mapping[str, Any], splits: Sequence[str], notes: Notes) -> dict[str, Any]:
    """The network on the other splits: {"splits", "rows": [{"metric", "cells"}]}."""
    entries = [report["metrics"][split] for split in splits]
    names = words.sort_metrics(name for of in entries for name in of)
    rows = [{"metric": name, "cells": [make_cell(of.get(name), notes) for of in entries]} for name in names]
    return {"splits": list(splits), "rows": rows}


def tabulate_members(report: Mapping[str, Any]) -> dict[str, Any]:
    """One row a seed or fold, where there is more than one: {"metric", "rows": [(seed, fold, value)]}."""
    metric = words.main_metric(report)
    members = report.get("seeds") or []
    if metric is None or len(members) < 2:
        return {"metric": metric, "rows": []}
    split = words.order_splits(report["metrics"])[0]
    rows = []
    for member in members:
        found = member.get("metrics") or {}
        found = found.get(split, found)
        value = found.get(metric) if isinstance(found, Mapping) else None
        value = value.get("value") if isinstance(value, Mapping) else value
        rows.append((member.get("seed"), member.get("fold"), words.format_value(value)))
    return {"metric": metric, "rows": rows}


def tabulate_splits(report: Mapping[str, Any]) -> dict[str, Any]:
    """Who is in which split: {"classes", "rows": [{"split", "n", "units", "cells": [(count, percent)]}]}.

    A split's prevalence may be one share, or {class: count} or {class: share}; where it is missing, the audit's counts serve.
    """
    data = report.get("data") or {}
    counted = (data.get("audit") or {}).get("prevalence") or {}
    splits = data.get("splits") or {}
    order = [name for name in ("train", "val", "test") if name in splits] + [
        name for name in splits if name not in ("train", "val", "test")
    ]
    prevalence: dict[str, dict[str, Any]] = {}
    for name in order:
        given = counted.get(name) if isinstance(counted, Mapping) else None
        given = given if isinstance(given, Mapping) and given else (splits[name] or {}).get("prevalence")
        prevalence[name] = dict(given) if isinstance(given, Mapping) else {} if given is None else {"Prevalence": given}
    classes = list(dict.fromkeys(key for of in prevalence.values() for key in of))
    rows = []
    for name in order:
        about = splits[name] or {}
        cells = [_share(prevalence[name].get(key), about.get("n")) for key in classes]
        rows.append({"split": name, "n": about.get("n"), "units": say.count_units(about), "cells": cells})
    return {"classes": classes, "rows": rows}


def _share(value: Any, n: Any) -> tuple[str, str]:
    """(count, percent) as text."""
    if isinstance(value, float) and 0 <= value <= 1:
        return f"{100 * value:.1f} %", ""
    if words.is_number(value):
        return words.format_count(value), f"{100 * value / n:.1f} %" if words.is_number(n) and n else ""
    return words.ABSENT, ""


def _audit(data: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    audit = data.get("audit")
    if not isinstance(audit, Mapping):
        return []
    # Counts per class stand in the splits' table, and metrics left out under the results.
    return say.describe_audit(audit, leave_out=("undefined", *(("prevalence",) if data.get("splits") else ())))


def _undefined(data: Mapping[str, Any]) -> Mapping[str, Any]:
    audit = data.get("audit")
    reasons = audit.get("undefined") if isinstance(audit, Mapping) else None
    return reasons if isinstance(reasons, Mapping) else {}


def _describe_calibration(report: Mapping[str, Any], splits: Sequence[str]) -> str:
    entry = report["metrics"][splits[0]].get("ece") if splits else None
    if not entry or not words.is_number(entry.get("value")):
        return ""
    interval = f" (95 % CI {words.format_interval(entry)})" if words.has_interval(entry) else ""
    return (
        f"The expected calibration error is {words.format_value(entry['value'])}{interval}: on average, the probability that "
        f"the network states and the share that is observed differ by {100 * entry['value']:.1f} percentage points."
    )


def _say_best(report: Mapping[str, Any]) -> str:
    """ "step 1,500", or the steps of all members."""
    steps = [report["best_step"]] if report.get("best_step") else [m.get("best_step") for m in report.get("seeds") or ()]
    return ("step " if len(steps) == 1 else "steps ") + ", ".join(map(words.format_count, steps))


def describe_training(report: Mapping[str, Any], metrics: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """(what, value) of the training and its speed; only what the run has written."""
    speed = report.get("throughput") or {}
    steps = [line["step"] for line in metrics if words.is_number(line.get("step"))]
    step_ms, flops = speed.get("step_ms"), report.get("flops_per_step")
    rate = flops / (step_ms / 1e3) if words.is_number(flops) and words.is_number(step_ms) and step_ms else None
    monitor = words.name_metric(str(report["monitor"]).removeprefix("val/")) if report.get("monitor") else None
    chosen = f" (by {monitor} on validation data)" if monitor else ""
    facts = [
        ("Steps logged", words.format_count(max(steps) if steps else None)),
        ("Checkpoint chosen", f"{_say_best(report)}{chosen}"),
        ("Steps skipped (values not finite)", words.format_count(report.get("skipped_steps"))),
        ("Time", words.format_duration(report.get("duration_s"))),
        ("Parameters", words.format_count(report.get("parameters"))),
        ("Arithmetic per step", words.format_si(flops, "FLOP")),
        ("Arithmetic per second", words.format_si(rate, "FLOP/s")),
        ("Examples per second", words.format_count(speed.get("examples_per_s"))),
        ("Time per step", f"{speed['step_ms']:,.1f} ms" if words.is_number(step_ms) else words.ABSENT),
        (
            "Waiting for data",
            f"{speed['data_wait_pct']:.1f} %" if words.is_number(speed.get("data_wait_pct")) else words.ABSENT,
        ),
        ("Compilation", words.format_duration(speed.get("compile_s"))),
    ]
    facts = [(label, value) for label, value in facts if not value.startswith((words.ABSENT, f"step {words.ABSENT}"))]
    point = report.get("point") or {}
    chosen_on = [(f"{words.label_key(key)} (chosen on validation data)", _plain(value)) for key, value in point.items()]
    return facts[:2] + chosen_on + facts[2:]


def flatten(settings: Any, prefix: str = "") -> list[tuple[str, str]]:
    """Nested settings as [("train.steps", "3000")]; lists of plain values stay on one line."""
    if isinstance(settings, Mapping):
        return [row for key, value in settings.items() for row in flatten(value, f"{prefix}.{key}" if prefix else str(key))]
    if isinstance(settings, list) and any(isinstance(item, Mapping) for item in settings):
        return [row for index, value in enumerate(settings) for row in flatten(value, f"{prefix}.{index}")]
    return [(prefix, _plain(settings))]


def _plain(value: Any) -> str:
    if isinstance(value, list | tuple):
        # A vocabulary is a setting too: config.json has all of it.
        more = [f"and {len(value) - LONGEST:,} more"] if len(value) > LONGEST else []
        return ", ".join([*map(_plain, value[:LONGEST]), *more]) or "none"
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _sort_figures(figures: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    places: dict[str, list[Mapping[str, Any]]] = {"results": [], "failures": [], "calibration": [], "training": []}
    for figure in figures:
        name = figure["file"]
        kinds = (FAILURES, "failures"), (CALIBRATION, "calibration"), (("learning_curves",), "training")
        places[next((place for starts, place in kinds if name.startswith(starts)), "results")].append(figure)
    return places


def _read_figures(folder: Path, listed: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Listed figures first, then other PNGs of the folder; what is missing or no PNG has no "uri"."""
    # Only the last part of a name counts, so that a report.json from elsewhere cannot embed files from outside the folder.
    entries = {Path(str(entry.get("file"))).name: entry for entry in listed if entry.get("file")}
    for path in sorted(folder.glob("*.png")):
        entries.setdefault(path.name, {})
    figures = []
    for name, entry in entries.items():
        path = folder / name
        png = path.read_bytes() if path.is_file() else b""
        given_title = "Learning curves" if name == CURVES else words.label_key(Path(name).stem)
        caption = str(entry.get("caption") or "")
        if name == CURVES and not caption:
            caption = "Training loss, as logged (faint) and smoothed; below it, validation, with the chosen checkpoint marked."
        figure = {"file": name, "title": str(entry.get("title") or given_title), "caption": caption, "uri": None, "width": 0}
        if png.startswith(PNG_SIGNATURE) and len(png) > 24:
            (pixels,) = struct.unpack(">I", png[16:20])  # PNG specification, IHDR: the width is its first field
            figure["uri"] = "data:image/png;base64," + base64.b64encode(png).decode()
            figure["width"] = round(pixels * CSS_PER_INCH / drawing.DPI)
        figures.append(figure)
    return figures


def read_object(path: Path, *, required: bool = False) -> dict[str, Any]:
    """The object of a JSON file; empty where it is not there.

    Raises:
      InputError: it is no JSON object, or it is not there and `required`.
    """
    if not path.is_file():
        if required:
            raise InputError(f"{path} is not there: a report needs a run that was evaluated.\nTrain or evaluate it first.")
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # also what is no UTF-8
        raise InputError(f"{path} is not valid JSON ({error}).\nRestore it, or evaluate the run again.") from error
    if not isinstance(value, dict):
        raise InputError(f"{path} holds no JSON object.\nRestore it, or evaluate the run again.")
    return value


def _read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a .jsonl file. A killed run may leave its last line half-written: that one is left out."""
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    objects = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except ValueError as error:
            if number == len(lines):
                break
            raise InputError(f"{path}, line {number} is not valid JSON ({error}).\nRemove the line.") from error
        if isinstance(value, dict):
            objects.append(value)
    return objects
