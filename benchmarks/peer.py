"""A peer in a process of its own, which waits while medjax works and works while medjax waits.

Two frameworks in one process share one OpenMP library, which has one way to let its threads wait: sleeping, as medjax's
convolutions want it beside XLA's own threads, makes PyTorch's LSTM three times slower; spinning, as PyTorch wants it, slows
medjax. Commands and answers are JSON, a line each; arrays go through NumPy files.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from .system import peak_mib, reset_peak

Arrays = Mapping[tuple[str, ...], np.ndarray]


class Peer(Protocol):
    """What `build(family, sizes, values, batch, compiled=)` of a module in `peers` gives; paths and layouts are flax's."""

    def output(self) -> np.ndarray:
        """What it says of the batch in evaluation."""

    def gradients(self, latents: np.ndarray | None) -> tuple[float, dict[tuple[str, ...], np.ndarray]]:
        """Loss and {path: gradient} of a training step that is not taken."""

    def train(self, k: int) -> None:
        """k training steps."""

    def infer(self, k: int) -> None:
        """k forward passes."""


class PeerFailed(Exception):
    """The peer could not do what it was asked; the message is its own."""


class Remote:
    """The client: a `Peer` that is elsewhere. Used in a `with`, which ends its process.

    Args:
      module: in `peers`.
      family, sizes: of the case.
      values: {flax path: array} of parameters and statistics.
      batch: {name: array}.
      compiled: through the peer's own compiler.
    """

    def __init__(
        self,
        module: str,
        family: str,
        sizes: Mapping[str, Any],
        values: Arrays,
        batch: Mapping[str, np.ndarray],
        *,
        compiled: bool,
    ):
        self._folder = tempfile.TemporaryDirectory(prefix="medjax-bench-")
        home = Path(self._folder.name)
        _save(home / "values.npz", values)
        _save(home / "batch.npz", {(name,): array for name, array in batch.items()})
        (home / "case.json").write_text(json.dumps({"family": family, "sizes": dict(sizes), "compiled": compiled}))
        command = [sys.executable, "-m", "medjax.bench", "peer", module, str(home)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._home, self.pid = home, self._process.pid

    def __enter__(self) -> Remote:
        return self

    def __exit__(self, *exception: object) -> None:
        self._process.kill()
        self._process.communicate()
        self._folder.cleanup()

    def _ask(self, do: str, **more: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"do": do, **more}) + "\n")
            self._process.stdin.flush()
            answer = json.loads(self._process.stdout.readline() or '{"error": "the process ended"}')
        except (OSError, ValueError) as error:
            raise PeerFailed(f"the peer: {error}") from None
        if "error" in answer:
            raise PeerFailed(f"the peer: {answer['error']}")
        return answer

    def output(self) -> np.ndarray:
        """As of `Peer`."""
        self._ask("output")
        return _load(self._home / "output.npz")["output",]

    def gradients(self, latents: np.ndarray | None) -> tuple[float, dict[tuple[str, ...], np.ndarray]]:
        """As of `Peer`."""
        if latents is not None:
            _save(self._home / "latents.npz", {("latents",): latents})
        answer = self._ask("gradients", latents=latents is not None)
        return answer["loss"], _load(self._home / "gradients.npz")

    def train(self, k: int) -> None:
        """As of `Peer`."""
        self._ask("train", k=k)

    def infer(self, k: int) -> None:
        """As of `Peer`."""
        self._ask("infer", k=k)

    def peak_mib(self) -> float | None:
        """Peak memory of its process in MiB since it was last asked."""
        return self._ask("peak")["peak_mib"]


def _save(file: Path, arrays: Arrays) -> None:
    np.savez(file, **{"/".join(path): array for path, array in arrays.items()})


def _load(file: Path) -> dict[tuple[str, ...], np.ndarray]:
    with np.load(file, allow_pickle=False) as arrays:
        return {tuple(name.split("/")): arrays[name] for name in arrays.files}


def serve(peer: Peer, home: Path, lines: Any, answers: Any) -> None:
    """The server: obey until the commands end."""
    reset = reset_peak()
    for line in lines:
        command = json.loads(line)
        answer: dict[str, Any] = {}
        try:
            if command["do"] == "output":
                _save(home / "output.npz", {("output",): peer.output()})
            elif command["do"] == "gradients":
                latents = _load(home / "latents.npz")["latents",] if command["latents"] else None
                answer["loss"], gradients = peer.gradients(latents)
                _save(home / "gradients.npz", gradients)
            elif command["do"] == "peak":
                answer["peak_mib"] = peak_mib(reset)
                reset = reset_peak()
            else:
                (peer.train if command["do"] == "train" else peer.infer)(command["k"])
        except Exception as error:  # whatever it is, it belongs to whoever asked
            answer = {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
        print(json.dumps(answer), file=answers, flush=True)


def main(args: Sequence[str]) -> None:
    """MODULE FOLDER: build the peer of the case that lies in the folder, then serve."""
    from medjax.bench import load

    module, home = load(f"peers.{args[0]}"), Path(args[1])
    module.prepare()
    case = json.loads((home / "case.json").read_text())
    batch = {name: array for (name,), array in _load(home / "batch.npz").items()}
    answers, sys.stdout = sys.stdout, sys.stderr  # a library that prints must not spoil the answers
    peer = module.build(case["family"], case["sizes"], _load(home / "values.npz"), batch, compiled=case["compiled"])
    serve(peer, home, sys.stdin, answers)
