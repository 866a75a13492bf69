"""One network in one process of its own: compile it, check it against the peer, measure both in turn.

A process each, so that peak memory is the network's and nothing of another one's is left over. What it finds goes to standard
output, a JSON object a line behind `cases.MARK`; all other lines there are noise.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from medjax.core import State
from medjax.engine import make_engine
from medjax.flops import count_flops, count_parameters
from medjax.memory import give_back_memory

from .cases import CASES, MARK, MODES, Case
from .measure import FAST, Plan, Run, Spread, interleave, spread
from .networks import Problem, build, first_gradients, first_latents, start
from .peer import Peer, PeerFailed, Remote
from .system import Others, peak_mib, reset_peak

OPTIONS: dict[str, Any] | None = None  # of the compiler; tests ask for less of it
OUTPUT_TOLERANCE, LOSS_TOLERANCE = 1e-4, 1e-4


class Disagreement(Exception):
    """The peer computes something else, so comparing times would mean nothing."""


class Program:
    """A compiled function with the time that it took to get it and what its first call gave.

    Attributes:
      run: does k steps.
      started: {"trace_s", "lower_s", "compile_s", "first_call_s"}.
      flops: of a step, from the jaxpr.
      peak_mib: of the process over a few steps, or of the device, or None where it cannot be told.
      loss, gradients: of the first training step.
      output: of the first forward pass.
    """

    def __init__(self, function: Any, state: State, batch: Any, *, train: bool):
        begun = time.perf_counter()
        traced = function.trace(state, batch)
        at_trace = time.perf_counter()
        lowered = traced.lower()
        at_lower = time.perf_counter()
        self.ready = lowered.compile(OPTIONS)
        at_compile = time.perf_counter()
        self.flops, self.train = count_flops(traced.jaxpr), train
        self.batch = batch
        give_back_memory()  # as a run does
        reset = reset_peak()
        first = time.perf_counter()
        result = jax.block_until_ready(self.ready(state, batch))
        self.started = {
            "trace_s": at_trace - begun,
            "lower_s": at_lower - at_trace,
            "compile_s": at_compile - at_lower,
            "first_call_s": time.perf_counter() - first,
        }
        self.loss, self.gradients, self.output = 0.0, {}, np.zeros(())
        if train:
            self.state, logs = result
            self.loss = float(logs["loss"])
            self.gradients = first_gradients(self.state.opt)
        else:
            self.state = state
            self.output = np.asarray(next(iter(result.values())))
        self.run(2)
        self.peak_mib = _peak_mib(reset)

    def run(self, k: int) -> None:
        """k steps, the last one awaited."""
        last: Any = None
        for _ in range(k):
            if self.train:
                self.state, last = self.ready(self.state, self.batch)
            else:
                last = self.ready(self.state, self.batch)
        jax.block_until_ready((self.state, last))


def _peak_mib(reset: bool) -> float | None:
    """Peak memory in MiB: of the device where it tells, else of the process since the reset."""
    stats = jax.local_devices()[0].memory_stats()
    if stats and "peak_bytes_in_use" in stats:
        return stats["peak_bytes_in_use"] / 2**20
    return peak_mib(reset)


def relative_error(a: np.ndarray, b: np.ndarray) -> float:
    """|a - b| / |b| in the Euclidean norm, in float64; infinite where shapes differ or something is not finite."""
    if a.shape != b.shape:
        return float("inf")
    a, b = a.astype(np.float64), b.astype(np.float64)
    error = float(np.linalg.norm(a - b) / max(np.linalg.norm(b), 1e-30))
    return error if np.isfinite(error) else float("inf")


def gradient_error(ours: dict[tuple[str, ...], np.ndarray], theirs: dict[tuple[str, ...], np.ndarray]) -> float:
    """The worst |a - b| / (|b| + .01 |all|) over a gradient's arrays: a small one counts, rounding in a tiny one does not."""
    if set(ours) != set(theirs):
        return float("inf")
    norms = {path: float(np.linalg.norm(g.astype(np.float64))) for path, g in theirs.items()}
    whole = float(np.linalg.norm(list(norms.values())))
    errors = []
    for path, g in theirs.items():
        if ours[path].shape != g.shape:
            return float("inf")
        difference = float(np.linalg.norm(ours[path].astype(np.float64) - g))
        errors.append(difference / max(norms[path] + 0.01 * whole, 1e-30))
    worst = max(errors)
    return worst if np.isfinite(worst) else float("inf")


def agree(name: str, errors: dict[str, float], *, gradient: float) -> None:
    """Raise Disagreement unless every error is within its tolerance, the gradient's being the case's own."""
    bounds = {"output": OUTPUT_TOLERANCE, "loss": LOSS_TOLERANCE, "gradient": gradient}
    for what, error in errors.items():
        if not error <= bounds[what]:
            raise Disagreement(f"{name}: the {what} differs from the peer's by {error:.1e} (at most {bounds[what]:.0e})")


def programs(problem: Problem, modes: Sequence[str], state: State) -> dict[str, Program]:
    """Each mode compiled and run once: `train` through the engine as users have it, `infer` as the task's `predict`."""
    engine = make_engine(problem.task, "jit", jax.local_devices()[:1])
    batch = engine.put(problem.batch)
    functions = {"train": engine.update.function, "infer": jax.jit(problem.task.predict)}

    where = jax.tree.map(lambda leaf: leaf.sharding, engine.abstract(state.key, problem.batch))

    def placed() -> State:  # anew for each: a training step takes its State's memory over
        return jax.block_until_ready(jax.device_put(state, where, may_alias=False))

    return {mode: Program(functions[mode], placed(), batch, train=mode == "train") for mode in modes}


def _values(state: State) -> dict[tuple[str, ...], np.ndarray]:
    """{path: array} of parameters and statistics, a statistic under its layer's path."""
    found = {}
    for tree in (state.params, state.extra):
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            found[tuple(str(p.key) for p in path if str(p.key) != "batch_stats")] = np.asarray(leaf)
    return found


def _row(name: str, batch: int, program: Program, step: Spread, repeats: int, k: int, parameters: int) -> dict[str, Any]:
    return {
        "name": name,
        "examples_per_s": batch / step.median,
        "step_ms": 1e3 * step.median,
        "step_ms_p10": 1e3 * step.p10,
        "step_ms_p90": 1e3 * step.p90,
        "batch": batch,
        "repeats": repeats,
        "steps_per_repeat": k,
        "flops": program.flops,
        "gflop_per_s": program.flops / step.median / 1e9,
        "parameters": parameters,
        "peak_memory_mib": program.peak_mib,
        "start": program.started,
    }


def compare(ours: np.ndarray, peers: dict[str, np.ndarray]) -> dict[str, Any]:
    """How the fastest of the peers stands to medjax, repeat by repeat.

    Args:
      ours: seconds a step [repeats].
      peers: the same for each way that the peer can be run, paired with `ours` by index.

    Returns:
      {"by", "step_ms", "step_ms_p10", "step_ms_p90", "ratio", "ratio_p10", "ratio_p90"}, ratio over 1 where medjax is faster.
    """
    best = min(peers, key=lambda name: float(np.median(peers[name])))
    step, ratio = spread(peers[best]), spread(peers[best] / ours)
    return {
        "by": best,
        "step_ms": 1e3 * step.median,
        "step_ms_p10": 1e3 * step.p10,
        "step_ms_p90": 1e3 * step.p90,
        "ratio": ratio.median,
        "ratio_p10": ratio.p10,
        "ratio_p90": ratio.p90,
    }


def check(case: Case, mode: str, program: Program, peer: Peer | None, problem: Problem, state: State) -> dict[str, float]:
    """Relative errors against the peer: of the output, or of the loss and the gradient of the first training step.

    Raises:
      Disagreement: one of them is too large.
    """
    if peer is None:
        return {}
    if program.train:
        loss, gradients = peer.gradients(first_latents(problem, state))
        errors = {
            "loss": relative_error(np.array([program.loss]), np.array([loss])),
            "gradient": gradient_error(program.gradients, gradients),
        }
    else:
        errors = {"output": relative_error(program.output, peer.output())}
    agree(f"{case.name}/{mode}", errors, gradient=case.gradient)
    return errors


def measure_case(
    case: Case,
    modes: Sequence[str],
    *,
    plan: Plan,
    vs: str | None = None,
    compiled: bool = False,
    emit: Callable[[dict[str, Any]], None],
    connect: Callable[..., Any] = Remote,
) -> None:
    """Measure a case; `emit` gets a row of the JSON for each mode as soon as it is known.

    `connect` makes a peer, a context manager, from what `peer.Remote` takes.

    Raises:
      Disagreement: the peer's outputs, loss or gradient are others.
      PeerFailed: the peer cannot do its part.
    """
    problem = build(case.family, case.sizes)
    state = start(problem)
    ready = programs(problem, modes, state)
    ways = {vs: False, **({f"{vs}.compile": True} if compiled else {})} if vs else {}
    with contextlib.ExitStack() as stack:
        peers = {
            way: stack.enter_context(connect(vs, case.family, case.sizes, _values(state), problem.batch, compiled=flag))
            for way, flag in ways.items()
        }
        first = next(iter(peers.values()), None)
        # All is checked before anything is timed, and outputs first: training changes the peer's statistics and parameters.
        errors = {mode: check(case, mode, ready[mode], first, problem, state) for mode in sorted(ready)}
        for mode, program in ready.items():
            runs: dict[str, Run] = {"medjax": program.run}
            runs |= {way: peer.train if mode == "train" else peer.infer for way, peer in peers.items()}
            for peer in peers.values():
                peer.peak_mib()
            others = Others([os.getpid(), *(peer.pid for peer in peers.values())])
            times, steps = interleave(runs, plan)
            others_share = others.share()
            ours, batch = times.pop("medjax"), int(case.sizes["batch"])
            parameters = count_parameters(state.params)
            row = _row(f"{case.name}/{mode}", batch, program, spread(ours), len(ours), steps["medjax"], parameters)
            row["others_share"] = others_share
            if vs:
                against = compare(ours, times)
                row |= {f"ratio_vs_{vs}": against.pop("ratio"), "ratio_p10": against.pop("ratio_p10")}
                row |= {"ratio_p90": against.pop("ratio_p90"), "errors": errors[mode]}
                row[vs] = {**against, "peak_memory_mib": peers[against["by"]].peak_mib()}
            emit(row)


def convolution() -> dict[str, str]:
    """{"path", "reason"} of the convolutions in force."""
    from medjax.nn import onednn

    choice = onednn.choice()
    return {"path": str(choice.path), "reason": str(choice.reason)}


def main(args: Sequence[str]) -> None:
    """Measure one case and print what it gave."""
    parser = argparse.ArgumentParser(prog="medjax.bench")
    parser.add_argument("case", choices=[case.name for case in CASES])
    parser.add_argument("modes", nargs="+", choices=MODES)
    parser.add_argument("--vs")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--fast", action="store_true")
    known = parser.parse_args(args)

    def emit(row: dict[str, Any]) -> None:
        print(MARK + json.dumps(row, allow_nan=False), flush=True)

    if known.vs and jax.default_backend() != "cpu":
        raise SystemExit(f"--vs {known.vs} compares on the CPU: set JAX_PLATFORMS=cpu")
    # Compilation is measured too, so nothing may come from an earlier one.
    jax.config.update("jax_enable_compilation_cache", False)
    device = jax.local_devices()[0]
    emit({"environment": {"device": f"{device.platform} {device.device_kind}", "convolution": convolution()}})
    case = next(case for case in CASES if case.name == known.case)
    try:
        measure_case(case, known.modes, plan=FAST if known.fast else Plan(), vs=known.vs, compiled=known.compile, emit=emit)
    except (Disagreement, PeerFailed) as error:
        raise SystemExit(str(error)) from None
