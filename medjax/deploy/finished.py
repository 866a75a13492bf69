"""Finished runs at work: measure them on other data, and let them predict."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from medjax import evaluation, run
from medjax.checkpoint import Checkpoints
from medjax.console import say
from medjax.core import Cases, Job, Rows, State
from medjax.data.files import write_json
from medjax.data.load import load, load_one
from medjax.data.prepare import read_cases
from medjax.engine import Engine, make_engine
from medjax.errors import InputError
from medjax.infer import batches, infer
from medjax.loop import use_compilation_cache


def restore_best(job: Job, config: Any, folder: Path, cases: Cases) -> tuple[Engine, State]:
    """The engine of a run and the State of its best checkpoint, for cases of the run's shapes.

    Raises:
      InputError: the run has no finished checkpoint.
    """
    if not (folder / "checkpoints").is_dir():
        raise InputError(f"{folder}: has no checkpoints\ngo on with the run: medjax resume {folder}")
    use_compilation_cache()
    engine = make_engine(job.task, config.engine)
    checkpoints = Checkpoints(folder / "checkpoints", keep=config.train.keep)
    try:
        latest = checkpoints.latest()
        if latest is None:
            raise InputError(f"{folder}: has no finished checkpoint\ngo on with it: medjax resume {folder}")
        batch, _ = next(batches(cases, config.train.batch_size))
        abstract = engine.abstract(jax.random.key(config.train.seed), engine.put(batch))
        state, _ = checkpoints.restore(checkpoints.progress(latest).best_step or latest, abstract)
    finally:
        checkpoints.close()
    return engine, state


def evaluate(
    job: Job, config: Any, folder: str | Path, *, out: str | Path, split: str = "test", experiment: str = "custom"
) -> dict[str, Any]:
    """Measure a finished run on the data that `job.sources` reads, beside the run's own baselines: external validation.

    Args:
      job: built from the run's settings with another `data.path`.
      config: those settings.
      folder: the run.
      out: receives predictions/, figures/, report.json and report.html.
      split: evaluated if the data has it; data without it is taken whole, and reported under this name.
      experiment: the name that report.json gives.

    Returns:
      The content of report.json.
    """
    folder, out = Path(folder), Path(out)
    _check_new(out)
    fitted, point = evaluation.load_baselines(folder)
    trained = json.loads((folder / "report.json").read_text())
    data = load_one(job, config.data, split, say)
    if data.fingerprint == trained["data"]["fingerprint"]:
        # The run's own data: its own split again, since what it was trained on would flatter it.
        own = load(job, config.data, say)
        data = own._replace(cases={split: own.cases[split]})
    engine, state = restore_best(job, config, folder, data.cases[split])
    rows = {split: infer(engine, state, data.cases[split], config.train.batch_size)}
    kept = ("throughput", "parameters", "flops_per_step", "best_step")
    where = f" --data.path {config.data.path}" if config.data.path else ""
    facts = {
        **{key: trained[key] for key in kept if key in trained},
        "experiment": experiment,
        "seed": config.train.seed,
        "command": f"medjax evaluate {folder}{where} --split {split} --out {out}",
    }
    out.mkdir(parents=True, exist_ok=True)
    with run.locked(out):
        write_json(out / "config.json", {**run.read_record(folder), "config": dataclasses.asdict(config)})
        run.write_environment(out, engine=engine.kind, precision="float32", data_fingerprint=data.fingerprint)
        return evaluation.assess(job, data, rows, point, fitted, out, facts)


def predict(job: Job, config: Any, folder: str | Path, inputs: Sequence[str | Path], *, out: str | Path) -> Rows:
    """Let a finished run predict on files; writes `out`/predictions.csv and the job's own files.

    The files go through the same preprocessing, batches and compiled function as in evaluation, so the same file gives the
    same numbers.

    Args:
      job: built from the run's settings.
      config: those settings.
      folder: the run.
      inputs: files, or folders of files.
      out: a new or empty folder.

    Returns:
      rows: {name: array [n, ...]}, in the order of the table.

    Raises:
      InputError: an unreadable input (nothing is written), a run that is not finished, a folder in use.
    """
    folder, out = Path(folder), Path(out)
    _check_new(out)
    _, point = evaluation.load_baselines(folder)
    cases = read_cases(job.read(inputs), job.preprocess)
    engine, state = restore_best(job, config, folder, cases)
    rows = job.decide(point, infer(engine, state, cases, config.train.batch_size))
    evaluation.write_predictions(job, out, "predictions", rows, cases)
    return rows


def _check_new(out: Path) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out}: exists already\ngive a new --out")
