"""Small records in memory: a fast heart is a bad sign, everything else is noise."""

import numpy as np

from medjax.cases import Varying
from medjax.data.layouts import Layout
from medjax.data.records import Variable

VARIABLES = (
    Variable("HR", "1/min"),
    Variable("pH"),
    Variable("rhythm", categories=("sinus", "other")),
    Variable("A00", code=True),
    Variable("B00", code=True),
)
HOURS = 8
CLASSES = {
    "single": ("survived", "died"),
    "ordinal": ("short", "middle", "long"),
    "multi": ("renal", "cardiac"),
    "steps": ("stable", "worse"),
    "survival": ("no event", "event"),
}


def record(k, kind, rng):
    """One record: its severity 0, 1, 2 shows in the heart rate."""
    sick = k % 3
    n = int(rng.integers(10, 30))
    times = np.sort(rng.uniform(0, HOURS, n)).astype(np.float32)
    which = rng.integers(0, 5, n).astype(np.int32)
    noise = rng.normal(size=n)
    values = np.select([which == 0, which == 1, which == 2], [80 + 25 * sick + 5 * noise, 7.4 + 0.1 * noise, noise > 0], np.nan)
    found = {
        "id": f"ward/{k:03d}",
        "patient": f"p{k:03d}",
        "path": f"ward/{k:03d}",
        "label": int(sick == 2),
        "times": Varying(times),
        "variables": Varying(which),
        "values": Varying(values.astype(np.float32)),
        "static": np.array([rng.uniform(20, 90), np.nan if k % 5 == 0 else k % 2], np.float32),
        "end": np.float32(HOURS),
        "sex": "FM"[k % 2],
    }
    if kind == "ordinal":
        found["label"] = sick
    if kind == "multi":
        found["label"] = np.array([sick == 2, -1 if k % 4 == 0 else k % 2], np.int8)
    if kind == "survival":
        found |= {"label": int(k % 4 > 0), "duration": np.float32(rng.exponential(12.0 / (1 + 6 * sick)))}
    if kind == "steps":
        hours = np.arange(2, HOURS + 1, 2, dtype=np.float32)
        found |= {
            "label_times": Varying(hours),
            "label_values": Varying((hours >= (9 - 3 * sick)).astype(np.int8)),
            "label": -1,
        }
    return found


def layout(kind="single", n=90, *, seed=0, change=lambda example: example):
    rng = np.random.default_rng(seed)
    cases = [change(record(k, kind, rng)) for k in range(n)]
    return Layout({"all": cases}, CLASSES[kind], kind, "toy records", VARIABLES, ("age", "male"))
