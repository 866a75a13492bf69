"""Train a Job in a run folder: the one readable loop, and everything around it that a kill must not spoil."""

from __future__ import annotations

import dataclasses
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from medjax import evaluation, keep, run
from medjax.cases import Cases, Rows
from medjax.checkpoint import Checkpoints, Progress
from medjax.console import Bar, hushed, say
from medjax.core import Examples, Job, State, augmented, current_scope, scope
from medjax.data.load import Dataset, load, load_folds, split_fingerprint
from medjax.data.pipeline import Prefetch, drawn_shapes, pipeline
from medjax.ema import averaged, started
from medjax.engine import Engine, check_batch_size, make_engine
from medjax.errors import InputError
from medjax.experiments import origin
from medjax.files import cache_dir
from medjax.flops import count_parameters, human
from medjax.infer import each_shape, infer
from medjax.members import ENSEMBLE, Member, Outcome, by_fold, checkpoint_folder, ensemble_point, list_members
from medjax.memory import give_back_memory, keep_freed_memory
from medjax.nn.onednn import in_force

CUSTOM = "custom"  # an experiment that no file defines


class Interrupted(KeyboardInterrupt):
    """The run was asked to stop; it has saved, and can be resumed."""


class Trained(NamedTuple):
    """What a training leaves in memory, so that a test or a notebook can look.

    Attributes:
      folder: the run folder.
      state: State of the chosen (best) checkpoint.
      progress: at the end of training.
      engine: with its counts of compilations.
      report: the content of report.json.
    """

    folder: Path
    state: State
    progress: Progress
    engine: Engine
    report: dict[str, Any]


def train(
    job: Job,
    config: Any,
    out: str | Path,
    *,
    quiet: bool = False,
    devices: Sequence[jax.Device] | None = None,
) -> Trained:
    """Train, evaluate and report into a new folder.

    Args:
      job: what `build(config)` returned.
      config: a frozen dataclass with fields `data`, `train`, `engine` as in `medjax.config`.
      out: the run folder; it must not hold anything yet.
      quiet: print nothing.
      devices: of this process to use, all by default.

    Raises:
      InputError: bad data or settings; nothing is left half-written.
      Interrupted: stopped by Ctrl-C or SIGTERM, after saving.
    """
    folder = Path(out)
    experiment, file = origin(config)
    run.create(folder, run.make_record(experiment, file, config, f"medjax.train(job, config, {str(out)!r})"))
    with run.removed_unless_begun(folder):
        return go_on(job, config, folder, experiment=experiment, quiet=quiet, devices=devices)


def go_on(
    job: Job,
    config: Any,
    folder: str | Path,
    *,
    experiment: str = CUSTOM,
    quiet: bool = False,
    devices: Sequence[jax.Device] | None = None,
) -> Trained:
    """Begin the run in `folder`, or resume it from its last finished checkpoint, and finish it. See `train`."""
    folder = Path(folder)
    with run.locked(folder), hushed(quiet), scope(portable=_keeps_to_lax(folder)):
        began = time.perf_counter()
        keep_freed_memory()
        use_compilation_cache()
        datasets = load_all(job, config)
        prints = {"data_fingerprint": datasets[0].fingerprint, "split_fingerprint": split_fingerprint(datasets)}
        _check_same_split(folder, prints)
        task = averaged(augmented(job.task, job.augment), config.train.ema)
        engine = make_engine(task, config.engine, devices, precision=config.train.precision)
        check_batch_size(config.train.batch_size, engine.devices)
        members = list_members(config)

        def look(states: State | Sequence[State], cases: Cases) -> Rows:
            return infer(engine, states, cases, config.train.batch_size, job.examples)

        def together(of: Sequence[Outcome], cases: Cases) -> Rows:
            return look([_best_state(config, t.data, engine, folder, t.member, job.examples) for t in of], cases)

        whole = not any(f.name.isdigit() for f in (folder / "checkpoints").glob("**/*") if f.is_dir())
        trained: list[Outcome] = []
        spent: list[dict[str, Any]] = []
        for k, member in enumerate(members):
            if member.name:
                say(f"member {k + 1} of {len(members)}: {member.name}")
            data = datasets[member.fold or 0]
            try:
                state, progress, facts = _train_member(job, config, data, engine, folder, member, prints, quiet)
            except Interrupted as stop:
                how = f"medjax resume {folder}" if experiment != CUSTOM else f"medjax.resume(job, config, {str(folder)!r})"
                raise Interrupted(f"{stop}, saved; go on with: {how}") from None
            rows = {s: look(state, c) for s, c in data.cases.items() if s != "train"}
            point = job.calibrate(rows["val"], data.cases["val"])
            shared = next((t.baselines for t in trained if t.member.fold == member.fold), None)
            if shared is None:
                say("fitting the baselines")
                shared = keep.fit_baselines(job, data.cases["train"], data.cases["val"])
            trained.append(Outcome(member, data, rows, point, shared, progress.best_step or progress.step))
            spent.append(facts)
        say("evaluating, with intervals")
        chosen = ensemble_point(job, trained, together)
        fitted = {fold[0].member.name: fold[0].baselines for fold in by_fold(trained)}
        keep.save_baselines(folder, fitted, {t.member.name: t.point for t in trained} | {ENSEMBLE: chosen})
        keep.save_seen(folder, *(t.data.cases[split] for t in trained for split in ("train", "val")))
        facts = {"experiment": experiment, "command": run.read_record(folder)["command"], **_together(spent)}
        if whole:  # of a resumed run, nobody knows
            facts["duration_s"] = round(time.perf_counter() - began, 1)
        report = evaluation.assess(job, trained, folder, facts, point=chosen, state=state, together=together)
        return Trained(folder, state, progress, engine, report)


def load_all(job: Job, config: Any) -> list[Dataset]:
    """The job's data: one Dataset, or one for each fold."""
    folds = getattr(config, "folds", 0)
    return load_folds(job, config.data, folds, say) if folds else [load(job, config.data, say)]


def _train_member(
    job: Job, config: Any, data: Dataset, engine: Engine, folder: Path, member: Member, prints: dict[str, str], quiet: bool
) -> tuple[State, Progress, dict[str, Any]]:
    """Train a member, or find it trained. Returns the State of its best checkpoint, its Progress, and `_fit`'s facts."""
    checkpoints = Checkpoints(checkpoint_folder(folder, member), keep=config.train.keep)
    try:
        state, progress, facts = _fit(job, config, data, engine, checkpoints, folder, member, prints, quiet)
        best = progress.best_step or progress.step
        if best != progress.step:
            state, _ = checkpoints.restore(best, abstract_state(engine, config, data, job.examples))
    finally:
        checkpoints.close()
    return state, progress, facts


def _best_state(config: Any, data: Dataset, engine: Engine, folder: Path, member: Member, examples: Examples | None) -> State:
    """The State of a trained member's best checkpoint."""
    checkpoints = Checkpoints(checkpoint_folder(folder, member), keep=config.train.keep)
    try:
        latest = checkpoints.latest()
        assert latest is not None
        best = checkpoints.progress(latest).best_step or latest
        return checkpoints.restore(best, abstract_state(engine, config, data, examples))[0]
    finally:
        checkpoints.close()


def _together(spent: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What report.json tells of all members' training: mean speeds, summed counts, the step where there is only one."""
    first = spent[0]
    if len(spent) == 1:
        return first
    speeds = {name: round(float(np.mean([f["throughput"][name] for f in spent])), 3) for name in first["throughput"]}
    speeds["compile_s"] = max(f["throughput"]["compile_s"] for f in spent)  # shared: the later members compile nothing
    skipped = sum(f["skipped_steps"] for f in spent)
    return {**{k: v for k, v in first.items() if k != "best_step"}, "throughput": speeds, "skipped_steps": skipped}


def _check_same_split(folder: Path, prints: dict[str, str]) -> None:
    """A resumed run must train and test on the sides it began with."""
    mine = prints["split_fingerprint"]
    if run.read_environment(folder).get("split_fingerprint", mine) != mine:
        raise InputError(
            f"{folder}: the data, or how it is split, is not what the run began with\n"
            "restore it, or train anew with another --out"
        )


def _keeps_to_lax(folder: Path) -> bool:
    """Whether this run began on a CPU with lax convolutions, and so goes on with them."""
    began = run.read_environment(folder).get("convolutions") or {}
    return began.get("path") == "lax" and began.get("platform") == jax.default_backend() == "cpu"


def _convolutions(before: dict[str, Any] | None) -> dict[str, Any] | None:
    """What environment.json says of the path of convolutions; tells where a resumed run cannot keep to its own."""
    if current_scope().portable:
        return before
    now = in_force()
    if before and now and any(before.get(name) != now.get(name) for name in ("path", "version", "threads")):
        words = [f"{c['path']} {c.get('version', '')} on {c.get('threads', 'all')} threads" for c in (before, now)]
        say(f"the run's convolutions were {words[0]}, now {words[1]}: bits will differ from here on")
    return now


def use_compilation_cache() -> None:
    """Keep compiled programs in the private cache, small ones too: the second start is seconds faster."""
    if not jax.config.values["jax_compilation_cache_dir"]:
        folder = cache_dir() / "xla"
        folder.mkdir(mode=0o700, exist_ok=True)
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)


def abstract_state(engine: Engine, config: Any, data: Dataset, examples: Examples | None = None) -> State:
    """The shapes and shardings that a checkpoint of this run is restored to."""
    example = each_shape([data.cases["train"]], config.train.batch_size, examples)[-1]
    return engine.abstract(jax.random.key(config.train.seed), engine.put(example))


def _fit(
    job: Job,
    config: Any,
    data: Dataset,
    engine: Engine,
    checkpoints: Checkpoints,
    folder: Path,
    member: Member,
    prints: dict[str, str],
    quiet: bool,
) -> tuple[State, Progress, dict[str, Any]]:
    """The loop. Returns the last State, the Progress, and the facts that report.json tells of the training."""
    settings, last = config.train, config.train.total()
    cases = data.cases["train"]
    make = pipeline(cases, settings.batch_size, seed=member.seed, sampling=config.data.sampling, examples=job.examples)
    key = jax.random.key(member.seed)
    # A patch may be cut with a margin, which augmentation takes off: what the network sees is what evaluation sees.
    seen = engine.put(each_shape([cases], settings.batch_size, job.examples)[-1])
    latest = checkpoints.latest()
    if latest is None:
        state, progress = engine.init(key, seen), Progress()
        if job.start is not None:
            begun = started(job.start, state, cases)
            state = jax.tree.map(lambda new, old: jax.device_put(new, old.sharding), begun, state)
    else:
        state, progress = checkpoints.restore(latest, engine.abstract(key, seen))

    fresh = not engine.update.count
    # Compile before the clock starts; from here on another shape would be an error, not a recompile.
    for example in drawn_shapes(cases, settings.batch_size, job.examples):
        engine.update.compile(state, engine.put(example))
    for example in each_shape([cases, *data.cases.values()], settings.batch_size, job.examples):
        engine.evaluate.compile(state, engine.put(example))
    give_back_memory()
    compile_s = engine.update.seconds + engine.evaluate.seconds
    parameters, flops = count_parameters(state.params), engine.update.flops
    if fresh:
        convolutions = _convolutions(run.read_environment(folder).get("convolutions"))
        run.write_environment(folder, engine=engine.kind, precision=settings.precision, convolutions=convolutions, **prints)
    log = run.MetricsLog(folder, member.name)
    log.rewind(progress.step)

    feed = Prefetch(make, engine.put, progress.step, last)
    with Bar(last, progress.step, quiet=quiet) as bar, stop_requests() as asked, feed:
        where = f"{engine.devices} x {jax.devices()[0].device_kind} · engine {engine.kind} · {settings.precision}"
        cost = f"{parameters:,} parameters · {human(flops)} per step · compiled in {compile_s:.1f} s"
        if fresh:  # else the members before have told
            bar.line(f"{where} · {cost}")
        if latest is not None:
            bar.line(f"resumed at step {progress.step}")
        pending: list[dict[str, jax.Array]] = []
        tick, waited = time.perf_counter(), 0.0
        while progress.step < last and not progress.stopped:
            state, logs = engine.update(state, feed.next())
            pending.append(logs)
            step = progress.step + 1
            evaluate = step % settings.eval_every == 0 or step == last
            pause = evaluate or step % settings.checkpoint_every == 0 or asked.is_set()
            progress = dataclasses.replace(progress, step=step)
            # Look at the step before, which is done by now, so that the device never waits for the host.
            while len(pending) > (0 if pause else 1):
                logs = pending.pop(0)
                progress = count_skipped(progress, float(logs["skipped"]), settings.max_skipped)
                bar.loss = float(logs["loss"])
            now = time.perf_counter()
            seconds, wait = progress.seconds + now - tick, progress.data_wait + feed.waited - waited
            progress = dataclasses.replace(progress, seconds=seconds, data_wait=wait)
            tick, waited = now, feed.waited
            bar.update(step, **speed(progress, settings.batch_size))
            if not pause:
                continue
            values = {name: float(value) for name, value in logs.items()}
            log.append(step=step, time=round(seconds, 3), **values, **speed(progress, settings.batch_size))
            if evaluate:
                progress = _validate(job, settings, data, engine, state, progress, log, bar)
            checkpoints.save(state, progress)
            if asked.is_set() and step < last:
                checkpoints.wait()
                raise Interrupted(f"stopped at step {step}")
            tick = time.perf_counter()  # evaluating and saving are not training
    checkpoints.wait()
    facts = {
        "throughput": {**speed(progress, settings.batch_size), "compile_s": round(compile_s, 3)},
        "parameters": parameters,
        "flops_per_step": flops,
        "best_step": progress.best_step or progress.step,
        "skipped_steps": progress.skipped,
    }
    return state, progress, facts


def speed(progress: Progress, batch_size: int) -> dict[str, float]:
    """examples_per_s, step_ms and data_wait_pct over the run so far, evaluation and checkpoints left out."""
    seconds, steps = max(progress.seconds, 1e-9), max(progress.step, 1)
    return {
        "examples_per_s": round(batch_size * steps / seconds, 2),
        "step_ms": round(1000 * seconds / steps, 3),
        "data_wait_pct": round(100 * progress.data_wait / seconds, 3),
    }


def count_skipped(progress: Progress, skipped: float, bound: int) -> Progress:
    """Count an update that was not finite.

    Raises:
      InputError: `bound` of them in a row.
    """
    if not skipped:
        return dataclasses.replace(progress, skipped_in_row=0) if progress.skipped_in_row else progress
    progress = dataclasses.replace(progress, skipped=progress.skipped + 1, skipped_in_row=progress.skipped_in_row + 1)
    if progress.skipped_in_row >= bound:
        raise InputError(
            f"{progress.skipped_in_row} updates in a row, the last near step {progress.step}, were not finite\n"
            "lower the learning rate, or look for extreme values in the data; --train.max_skipped sets the bound"
        )
    return progress


def _validate(
    job: Job, settings: Any, data: Dataset, engine: Engine, state: State, progress: Progress, log: run.MetricsLog, bar: Bar
) -> Progress:
    """Measure on validation data; remember the best and whether to stop early."""
    cases, monitor = data.cases["val"].some(settings.eval_cases), job.about.monitor
    rows = infer(engine, state, cases, settings.batch_size, job.examples, quick=True)
    values = job.measure(job.decide(job.calibrate(rows, cases), rows), cases)
    values = {name: float(value) for name, value in values.items() if np.isfinite(value)}
    log.append(step=progress.step, time=round(progress.seconds, 3), **{f"val/{name}": v for name, v in values.items()})
    if monitor not in values:
        what = f"{monitor} cannot be computed on the validation split" if monitor else "the last checkpoint will be taken"
        bar.line(f"step {progress.step}: {what}")
        return progress
    value, sign = values[monitor], 1 if job.about.higher_is_better else -1
    if progress.best is None or sign * value > sign * progress.best:
        progress = dataclasses.replace(progress, best=value, best_step=progress.step, waited=0)
    else:
        waited = progress.waited + 1
        progress = dataclasses.replace(progress, waited=waited, stopped=0 < settings.patience <= waited)
    bar.line(
        f"step {progress.step}/{settings.total()}  val {monitor} {value:.4f}  best {progress.best:.4f} at {progress.best_step}"
    )
    if progress.stopped:
        bar.line(f"no better {monitor} in {progress.waited} evaluations: stopped early")
    return progress


@contextmanager
def stop_requests() -> Iterator[threading.Event]:
    """Set on the first SIGINT or SIGTERM; a second one interrupts at once. Only the main thread can listen."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return

    def handle(number: int, frame: Any) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
