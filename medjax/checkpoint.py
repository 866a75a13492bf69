"""Checkpoints by Orbax, asynchronous and atomic. Nothing else in medjax knows Orbax."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy

from medjax.core import State
from medjax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Progress:
    """What the loop must remember besides the State, saved with it.

    Attributes:
      step: updates done.
      best: best value of the monitored validation metric so far, None before the first evaluation.
      best_step: the step it was reached at.
      waited: evaluations since then, for early stopping.
      skipped: updates skipped so far because they were not finite.
      skipped_in_row: of those, the current run without a good one between.
      seconds: training time so far, evaluation and checkpoints left out.
      data_wait: seconds of that spent waiting for data.
      stopped: early stopping has ended the training.
    """

    step: int = 0
    best: float | None = None
    best_step: int = 0
    waited: int = 0
    skipped: int = 0
    skipped_in_row: int = 0
    seconds: float = 0.0
    data_wait: float = 0.0
    stopped: bool = False


@dataclasses.dataclass(kw_only=True)
class _LastAndBest(preservation_policy.PreservationPolicy):
    """Keep the last n checkpoints and the one that the last of them calls the best."""

    n: int

    def should_preserve(self, checkpoints: Sequence, *, context: object) -> list[bool]:
        metrics = checkpoints[-1].metrics if checkpoints else None
        best = metrics["best_step"] if metrics else None
        return [i >= len(checkpoints) - self.n or info.step == best for i, info in enumerate(checkpoints)]


class Checkpoints:
    """The checkpoints of one training, in RUN/checkpoints or a folder below it.

    A save that a kill interrupts leaves the one before intact; what it left behind is cleared when the folder is opened.

    Args:
      folder: where they lie.
      keep: how many of the last to keep; the best is kept besides.
    """

    def __init__(self, folder: Path, *, keep: int = 2):
        logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax tells every save at WARNING
        folder.mkdir(parents=True, exist_ok=True)
        options = ocp.CheckpointManagerOptions(
            preservation_policy=_LastAndBest(n=keep), cleanup_tmp_directories=True, enable_async_checkpointing=True
        )
        self._folder = folder
        self._manager = ocp.CheckpointManager(folder.absolute(), options=options)

    def save(self, state: State, progress: Progress) -> None:
        """Begin to save; the loop goes on meanwhile. A step that is saved already stays as it is."""
        if progress.step in self._manager.all_steps():
            return
        fields = {f.name: getattr(state, f.name) for f in dataclasses.fields(state)}
        self._manager.save(
            progress.step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(fields), progress=ocp.args.JsonSave(dataclasses.asdict(progress))
            ),
            metrics={"best_step": progress.best_step},
        )

    def latest(self) -> int | None:
        """Step of the last finished checkpoint, or None."""
        return self._manager.latest_step()

    def restore(self, step: int, abstract: State) -> tuple[State, Progress]:
        """The State, laid out as `abstract` (shapes, dtypes, shardings) says, and the Progress saved with it.

        Raises:
          InputError: the checkpoint is of another network.
        """
        fields = {f.name: getattr(abstract, f.name) for f in dataclasses.fields(abstract)}
        try:
            restored = self._manager.restore(
                step, args=ocp.args.Composite(state=ocp.args.StandardRestore(fields), progress=ocp.args.JsonRestore())
            )
        except (ValueError, KeyError, TypeError) as error:
            reason = str(error).splitlines()[0]
            raise InputError(
                f"{self._folder}/{step}: does not fit the network of this experiment ({reason})\n"
                "restore the experiment's file or settings to what they were when the run was made"
            ) from error
        return State(**restored["state"]), Progress(**restored["progress"])

    def stored(self, step: int) -> dict[str, Any]:
        """The State's fields as they lie there, nested dicts of arrays, where nobody knows its shapes."""
        return self._manager.restore(step, args=ocp.args.Composite(state=ocp.args.StandardRestore()))["state"]

    def progress(self, step: int) -> Progress:
        """The Progress saved with a step."""
        restored = self._manager.restore(step, args=ocp.args.Composite(progress=ocp.args.JsonRestore()))
        return Progress(**restored["progress"])

    def wait(self) -> None:
        """Return when everything begun is on disk."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Wait, and let go of the folder."""
        self._manager.close()
