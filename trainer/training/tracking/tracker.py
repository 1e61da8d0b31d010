"""Sends a training's log to MLflow while the training runs.

A separate thread talks to MLflow, because its client retries for minutes when a server is down. The training passes its
whole log each time, and the thread sends what the store does not have. So no step is sent twice, a resumed training
continues the same run, and missed steps are sent when the store answers again, or when the same command runs again.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from screening.checkpoint.registry import without_password
from trainer.training.tracking.mlflow_run import MlflowRun, Record, Status
from trainer.training.tracking.store import Store

_PATIENCE = {"FINISHED": 120.0, "FAILED": 20.0, "KILLED": 5.0}
"""Maximum time in seconds that the end of a training waits for the store, by status."""


@contextmanager
def track(store: Store | None, out: Path, origin: Mapping[str, Any]) -> Iterator[Tracker]:
    """Track a training, and record how it ended.

    Args:
        store: MLflow store; None tracks nothing. Of several processes that train together, only the first one tracks.
        origin: the record with which the run directory was claimed; it becomes the run's parameters.
    """
    tracker = Tracker(store if os.environ.get("RANK", "0") == "0" else None, out, origin)
    try:
        yield tracker
    except BaseException as error:
        tracker.end("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
        raise
    tracker.end("FINISHED")


class Tracker:
    """Sends a training's log to MLflow. Errors of the store are printed once and never raised."""

    def __init__(self, store: Store | None, out: Path, origin: Mapping[str, Any]) -> None:
        self.checkpoint: str | None = None
        """Digest of the finished checkpoint, which the training sets before the end."""
        self._store, self._out, self._origin = store, out, origin
        self._history: Sequence[Record] = ()
        self._status: Status | None = None
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None
        self._run: MlflowRun | None = None
        self._warned = False

    def record(self, history: Sequence[Record]) -> None:
        """Pass on the whole log so far; returns at once."""
        if self._store is None:
            return
        self._history = list(history)
        self._wake.set()
        if self._thread is None:  # not earlier, because the data loader forks its workers before the first step
            self._thread = threading.Thread(target=self._serve, args=(self._store,), name="mlflow", daemon=True)
            self._thread.start()

    def end(self, status: Status) -> None:
        """Send the rest of the log and the files, and wait for at most `_PATIENCE`."""
        if self._thread is None:
            return
        self._status = status
        self._wake.set()
        self._thread.join(_PATIENCE[status])
        if self._thread.is_alive():
            self._warn(TimeoutError("no answer"))

    def _serve(self, store: Store) -> None:
        status = None
        while status is None:
            self._wake.wait()
            self._wake.clear()
            status = self._status
            try:
                if self._run is None:
                    self._run = MlflowRun(store, self._out, self._origin)
                self._run.send(self._history)
                if status:
                    self._run.close(status, self.checkpoint)
            except Exception as error:  # noqa: BLE001 - hours of training are worth more than their tracking
                self._warn(error)

    def _warn(self, error: Exception) -> None:
        if self._warned:
            return
        self._warned = True
        reason = without_password((str(error).strip() or type(error).__name__).splitlines()[0][:200])
        print(
            f"warning: the tracking store {self._store} does not answer ({reason}). The training continues and logs to "
            f"{self._out}/log.json. The store gets what it missed when it answers, or when the same command runs again",
            file=sys.stderr,
        )
