"""Sending a training's log to MLflow while it grows.

MLflow is spoken to in a thread of its own: its client tries a server that is down again for minutes. The training hands
over its whole log each time; the thread sends what the store does not have. So no step is sent twice, a resumed
training goes on in the same run, and what a store missed is sent when it answers again, or by the same command later.
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
"""Seconds that the end of a training waits for the store."""


@contextmanager
def track(store: Store | None, out: Path, origin: Mapping[str, Any]) -> Iterator[Tracker]:
    """Track a training; its end is recorded with how it ended.

    Args:
        store: None tracks nothing. Of several processes that train together, only the first one tracks.
        origin: what the run directory was claimed with; becomes the run's parameters.
    """
    tracker = Tracker(store if os.environ.get("RANK", "0") == "0" else None, out, origin)
    try:
        yield tracker
    except BaseException as error:
        tracker.end("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
        raise
    tracker.end("FINISHED")


class Tracker:
    """Sends a training's log to MLflow. No method raises because of the store."""

    def __init__(self, store: Store | None, out: Path, origin: Mapping[str, Any]) -> None:
        self.checkpoint: str | None = None
        """Digest of the finished checkpoint, to be set before the end."""
        self._store, self._out, self._origin = store, out, origin
        self._history: Sequence[Record] = ()
        self._status: Status | None = None
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None
        self._run: MlflowRun | None = None
        self._warned = False

    def record(self, history: Sequence[Record]) -> None:
        """Take over the whole log so far; returns at once."""
        if self._store is None:
            return
        self._history = list(history)
        self._wake.set()
        if self._thread is None:  # not earlier: workers of the data loader are forked before the first step
            self._thread = threading.Thread(target=self._serve, args=(self._store,), name="mlflow", daemon=True)
            self._thread.start()

    def end(self, status: Status) -> None:
        """Send what is left, files too, and wait for it a while."""
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
            f"warning: no tracking in {self._store} ({reason}). Training goes on; {self._out}/log.json has everything, "
            "and what is missing is sent as soon as the store answers, or by the same command again",
            file=sys.stderr,
        )
