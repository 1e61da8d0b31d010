"""Saved states of a training, from which a killed training continues, also on several machines with a shared file
system.

A state is written beside the others and gets its name by one rename of its directory, once every process has written
its part. Where a file system renames directories file by file (gcsfuse), a list of the files and their sizes tells a
whole state from a part of one. No hard links are made. Two states are kept: the newest may still have been in the
memory of a machine that died. If the training scores its model on validation samples, the best state that each of the
two knows is kept as well.

A network file system shows a new directory to other machines late. So the first process alone chooses a state, and
tells the others.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

from accelerate import PartialState

from screening.runtime.atomic_write import write_atomically
from trainer.training.distributed import LaunchError, told_by_first
from trainer.training.validation.rule import best_of, scores_in

KEPT = 2
"""Newest states that a run keeps."""
WHOLE_NAME = "whole.json"
"""Name and size of every other file of a state; written last."""
SEEN_SECONDS = 180.0
"""Patience of the other processes with a file system that shows a state late. NFS caches names for up to 60 seconds."""
_PARTIAL = ".partial"


class SavedStates:
    """Mixin for trainers: a state appears whole or not at all."""

    args: Any
    state: Any
    _into: str | None = None

    def _get_output_dir(self, *args: Any, **kwargs: Any) -> str:
        found: str = self._into or super()._get_output_dir(*args, **kwargs)  # type: ignore[misc]
        return found

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        states = Path(self.args.output_dir)
        self._into = str(states / _PARTIAL)
        try:
            super()._save_checkpoint(*args, **kwargs)  # type: ignore[misc]
        finally:
            self._into = None
        processes = PartialState()
        processes.wait_for_everyone()  # each process writes the state of its random numbers
        if processes.is_main_process:
            put_in_place(states / _PARTIAL / f"checkpoint-{self.state.global_step}", states)
        processes.wait_for_everyone()


def put_in_place(part: Path, states: Path) -> None:
    """Give a state that was written its name, and remove the oldest ones."""
    sizes = {path.name: path.stat().st_size for path in sorted(part.iterdir()) if path.is_file()}
    for name in sizes:
        with (part / name).open("rb") as handle:
            os.fsync(handle.fileno())
    write_atomically(part / WHOLE_NAME, json.dumps(sizes, indent=1) + "\n")
    target = states / part.name
    shutil.rmtree(target, ignore_errors=True)  # a part of one, left by a kill
    part.rename(target)
    newest, older = (ordered := _by_step(states))[:KEPT], ordered[KEPT:]
    best = {_best_known_to(state) for state in newest}
    for old in older:
        if old.name not in best:
            shutil.rmtree(old, ignore_errors=True)


def last_whole_checkpoint(directory: Path, *, clean: bool = True) -> str | None:
    """The newest state of a run that was saved to its end.

    Args:
        clean: remove what a killed run left; not where another process may be writing.
    """
    if clean:
        shutil.rmtree(directory / _PARTIAL, ignore_errors=True)
    for path in _by_step(directory):
        if _is_whole(path):
            return str(path)
        if clean:
            shutil.rmtree(path)
    return None


def agreed_state(directory: Path, processes: PartialState) -> str | None:
    """The saved state from which all processes of a training continue, chosen by the first one. None starts the
    training from the beginning.

    Args:
        directory: directory of the saved states, as this process sees it.

    Raises:
        LaunchError: this process does not see the state that the first one chose.
    """
    name = None
    if processes.is_main_process:
        found = last_whole_checkpoint(directory)
        name = Path(found).name if found else None
    name = told_by_first(name, processes)
    if name is None:
        return None
    return str(wait_for_state(directory / name, processes))


def wait_for_state(state: Path, processes: PartialState) -> Path:
    """Wait until this process sees a whole state that the first one uses.

    Raises:
        LaunchError: it does not see the state in time.
    """
    until = time.monotonic() + SEEN_SECONDS
    while not _is_whole(state):
        if time.monotonic() > until:
            raise LaunchError(
                f"process {processes.process_index} does not see {state}, which the first one uses; "
                "put the run directory on a file system that all machines share"
            )
        time.sleep(0.5)
    return state


def _by_step(directory: Path) -> list[Path]:
    """Newest first."""
    return sorted(directory.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]), reverse=True)


def _best_known_to(state: Path) -> str | None:
    """Name of the state with the best validation score that a state's log has; None without scores."""
    from transformers.trainer import TRAINER_STATE_NAME

    try:
        log = json.loads((state / TRAINER_STATE_NAME).read_text(encoding="utf-8"))["log_history"]
    except FileNotFoundError:
        return None
    best = best_of(scores_in(log))
    return f"checkpoint-{best.step}" if best else None


def _is_whole(state: Path) -> bool:
    try:
        sizes = json.loads((state / WHOLE_NAME).read_text(encoding="utf-8"))
        return all((state / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError):
        return False
