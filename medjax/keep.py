"""What a finished run keeps to measure other data by: its baselines, its operating points, and what it has seen."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from medjax.cases import Cases, Rows
from medjax.core import Job
from medjax.errors import InputError
from medjax.files import write_bytes, write_text

BASELINES, SEEN = "baselines.npz", "seen.txt"


def fit_baselines(job: Job, train: Cases, val: Cases) -> dict[str, dict[str, np.ndarray]]:
    """{baseline: arrays}, fitted on train; its settings and its operating point (`point/...`) are chosen on val."""
    fitted = {}
    for name, baseline in job.baselines.items():
        arrays = baseline.fit(train, val)
        point = job.calibrate(baseline.predict(arrays, val), val)
        fitted[name] = {**arrays, **{f"point/{key}": value for key, value in point.items()}}
    return fitted


def save_seen(folder: Path, *cases: Cases) -> None:
    """Remember the content of the cases that the run has learned from, by digest."""
    write_text(folder / SEEN, "".join(f"{digest}\n" for part in cases for digest in part["content"]))


def load_seen(folder: Path) -> list[str]:
    """Digests that `save_seen` wrote."""
    return (folder / SEEN).read_text().split()


def save_baselines(
    folder: Path, fitted: Mapping[str, Mapping[str, Mapping[str, np.ndarray]]], points: Mapping[str, Mapping[str, np.ndarray]]
) -> None:
    """Baselines {member: {baseline: arrays}} and operating points {member: point} as plain arrays in one file."""
    everything = {m: {**fitted.get(m, {}), "": points[m]} for m in points}
    flat: dict[str, Any] = {
        f"{member}|{name}|{key}": np.asarray(value)
        for member, of in everything.items()
        for name, arrays in of.items()
        for key, value in arrays.items()
    }
    out = io.BytesIO()
    np.savez_compressed(out, **flat)
    write_bytes(folder / BASELINES, out.getvalue())


def load_baselines(
    folder: Path,
) -> tuple[dict[str, dict[str, dict[str, np.ndarray]]], dict[str, dict[str, np.ndarray]]]:
    """(baselines, operating points) by member, as `save_baselines` wrote them.

    Raises:
      InputError: the run has not come so far.
    """
    path = folder / BASELINES
    if not path.is_file():
        raise InputError(f"{folder}: the run is not finished\ngo on with it: medjax resume {folder}")
    fitted: dict[str, dict[str, dict[str, np.ndarray]]] = {}
    points: dict[str, dict[str, np.ndarray]] = {}
    with np.load(path, allow_pickle=False) as flat:
        for entry in flat.files:
            member, name, key = entry.split("|", 2)
            if name:
                fitted.setdefault(member, {}).setdefault(name, {})[key] = flat[entry]
            else:
                points.setdefault(member, {})[key] = flat[entry]
    return fitted, points


def score_baselines(job: Job, fitted: Mapping[str, Mapping[str, np.ndarray]], cases: Cases) -> dict[str, Rows]:
    """{baseline: rows}, decided at each one's own operating point."""
    found = {}
    for name, arrays in fitted.items():
        point = {key.removeprefix("point/"): value for key, value in arrays.items() if key.startswith("point/")}
        found[name] = job.decide(point, job.baselines[name].predict(arrays, cases))
    return found
