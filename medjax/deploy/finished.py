"""Finished runs at work: measure them on other data, and let them predict."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from medjax import evaluation, keep, run
from medjax.cases import Cases, Ragged, Rows, concatenate
from medjax.checkpoint import Checkpoints, Progress
from medjax.console import say
from medjax.core import Job, State
from medjax.data.load import Dataset, load_one, split_fingerprint
from medjax.data.prepare import read_cases
from medjax.ema import averaged
from medjax.engine import make_engine
from medjax.errors import InputError
from medjax.files import publish, staging, write_json
from medjax.infer import each_shape, infer
from medjax.loop import load_all, use_compilation_cache
from medjax.members import ENSEMBLE, Member, Outcome, checkpoint_folder, list_members
from medjax.memory import keep_freed_memory


class Finished:
    """The members of a finished run on this machine's devices, ready to look at cases.

    Args:
      job, config, folder: the run.
      cases: some of those to come, which say what shapes there will be.

    Attributes:
      members: (member, its Progress, State of its best checkpoint).

    Raises:
      InputError: a member has no finished checkpoint.
    """

    def __init__(self, job: Job, config: Any, folder: Path, cases: Cases):
        if not (folder / "checkpoints").is_dir():
            raise InputError(f"{folder}: has no checkpoints\ngo on with the run: medjax resume {folder}")
        keep_freed_memory()
        use_compilation_cache()
        task = averaged(job.task, config.train.ema)
        self.job, self.engine = job, make_engine(task, config.engine, precision=config.train.precision)
        # The run's own batch size, or the next that this machine's devices can share.
        self.size = -(-config.train.batch_size // self.engine.devices) * self.engine.devices
        example = self.engine.put(each_shape([cases], self.size, job.examples)[-1])
        self.members: list[tuple[Member, Progress, State]] = []
        for member in list_members(config):
            checkpoints = Checkpoints(checkpoint_folder(folder, member), keep=config.train.keep)
            try:
                latest = checkpoints.latest()
                if latest is None:
                    raise InputError(f"{folder}: has no finished checkpoint\ngo on with it: medjax resume {folder}")
                abstract = self.engine.abstract(jax.random.key(member.seed), example)
                progress = checkpoints.progress(latest)
                state, _ = checkpoints.restore(progress.best_step or latest, abstract)
            finally:
                checkpoints.close()
            self.members.append((member, progress, state))

    def look(self, states: Sequence[State], cases: Cases) -> Rows:
        """Rows of the cases, of the states' averaged outputs."""
        if self.job.examples is not None and self.job.examples.sizes is not None:  # lengths that no case before has had
            for batch in each_shape([cases], self.size, self.job.examples):
                self.engine.evaluate.compile(states[0], self.engine.put(batch))
        return infer(self.engine, states, cases, self.size, self.job.examples)


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
    check_new(out)
    check_finished(folder)
    fitted, points = keep.load_baselines(folder)
    before = json.loads((folder / "report.json").read_text())
    data = _unseen(job, config, split, folder, before["data"]["fingerprint"])
    trained = []
    finished = Finished(job, config, folder, data.cases[split])
    for member, progress, state in finished.members:
        # Folds no longer matter to data from elsewhere, but each has baselines of its own.
        own = fitted.get(member.name) or fitted.get(_first_of_fold(member, fitted), {})
        point, best = points.get(member.name, {}), progress.best_step or progress.step
        trained.append(Outcome(member, data, {split: finished.look([state], data.cases[split])}, point, own, best))
    kept = ("throughput", "parameters", "flops_per_step", "best_step")
    where = f" --data.path {config.data.path}" if config.data.path else ""
    facts = {
        **{key: before[key] for key in kept if key in before},
        "experiment": experiment,
        "command": f"medjax evaluate {folder}{where} --split {split} --out {out}",
    }
    record = {**run.read_record(folder), "kind": "evaluation", "config": dataclasses.asdict(config)}
    out.parent.mkdir(parents=True, exist_ok=True)
    with staging(out.parent) as work:
        write_json(work / "config.json", record)
        run.write_environment(work, precision=config.train.precision, data_fingerprint=data.fingerprint)
        states = {member: state for member, _, state in finished.members}
        report = evaluation.assess(
            job,
            trained,
            work,
            facts,
            point=points.get(ENSEMBLE, {}),
            state=finished.members[-1][-1],
            together=lambda of, cases: finished.look([states[t.member] for t in of], cases),
        )
        publish(work, out)
    return report


def _unseen(job: Job, config: Any, split: str, folder: Path, fingerprint: str) -> Dataset:
    """The cases to measure on: the run's own split of its own data, or other data less what the run has learned from."""
    data = load_one(job, config.data, split, say)
    if data.fingerprint == fingerprint:
        own = load_all(job, config)
        if split_fingerprint(own) == run.read_environment(folder).get("split_fingerprint") and split in own[0].cases:
            return own[0]._replace(cases={split: own[0].cases[split]})
    cases = data.cases[split]
    known = np.isin(cases["content"], keep.load_seen(folder))
    if known.all():
        raise InputError(f"all {len(cases)} cases are among those the run was trained on\ngive other data, or another --split")
    if known.any():
        leaks = {**data.audit["leaks"], "cases the run was trained on, dropped": int(known.sum())}
        data = data._replace(cases={split: cases.take(~known)}, audit={**data.audit, "leaks": leaks})
    return data


def predict(job: Job, config: Any, folder: str | Path, inputs: Sequence[str | Path], *, out: str | Path) -> Rows:
    """Let a finished run predict on files; writes `out`/predictions.csv and the job's own files.

    The files go through the same preprocessing, batches and compiled function as in evaluation, so the same file gives the
    same numbers. They are read, predicted on and written part by part, so that a folder of volumes need not fit in memory.

    Args:
      job: built from the run's settings.
      config: those settings.
      folder: the run.
      inputs: files, or folders of files.
      out: a new or empty folder.

    Returns:
      rows: {name: array [n, ...]}, in the order of the table; of inputs beyond a part without what differs in shape from case
        to case (masks), which is in the files alone.

    Raises:
      InputError: an unreadable input (nothing is written), a run that is not finished, a folder in use.
    """
    folder, out = Path(folder), Path(out)
    check_new(out)
    check_finished(folder)
    _, points = keep.load_baselines(folder)
    source = job.read(inputs)
    finished = None
    done: list[Rows] = []
    out.parent.mkdir(parents=True, exist_ok=True)
    with staging(out.parent) as work:
        for cases in read_cases(source, job.preprocess):
            finished = finished or Finished(job, config, folder, cases)
            rows = finished.look([state for *_, state in finished.members], cases)
            rows = job.decide(points.get(ENSEMBLE, {}), rows)
            evaluation.write_predictions(job, work, "predictions", rows, cases)
            done.append(rows)
            if len(done) > 1:  # masks of a folder of volumes would not fit
                done = [{name: column for name, column in part.items() if not isinstance(column, Ragged)} for part in done]
            if (n := sum(len(next(iter(part.values()))) for part in done)) < len(source):
                say(f"predicted {n:,} of {len(source):,}")
        publish(work, out)
    return {name: concatenate([part[name] for part in done]) for name in done[0]} if len(done) > 1 else done[0]


def check_finished(folder: Path) -> None:
    """Raise InputError unless the run is finished."""
    if not (folder / "report.html").is_file():  # the last thing that a run writes
        raise InputError(f"{folder}: the run is not finished\ngo on with it: medjax resume {folder}")


def check_new(out: Path) -> None:
    """Raise InputError where the folder holds something."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out}: exists already\ngive a new --out")


def _first_of_fold(member: Member, fitted: Mapping[str, Any]) -> str:
    """The member that holds the baselines of this one's fold; none where the job has no baselines."""
    part = member.name.partition("-")[0] if member.fold is not None else ""
    return next((name for name in fitted if name.startswith(part)), "")
