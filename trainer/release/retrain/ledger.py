"""Records what retraining has cost: GPU seconds by run and stage, in `WORK/ledger.json`.

An entry is written when a GPU stage begins and renewed while it works, so a killed stage is counted up to its last
sign of life.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from screening.runtime.atomic_write import write_atomically
from trainer.release.retrain.errors import BadInput

LEDGER_NAME = "ledger.json"
RENEW_SECONDS = 30.0
_LATEST = 253_402_300_799
"""The last second of the year 9999, up to which Python has dates."""


class Entry(BaseModel):
    """One call of one stage."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    run: str
    stage: str
    gpus: int
    started: float = Field(ge=0, le=_LATEST)
    """Unix time."""
    seen: float
    """Unix time of the last sign of life: the start and the time that has passed, whatever the clock was set to."""

    @property
    def gpu_hours(self) -> float:
        return max(0.0, self.seen - self.started) * self.gpus / 3600


_ENTRIES = TypeAdapter(list[Entry])


class Ledger:
    """The ledger of a work directory. Only one process at a time writes it."""

    def __init__(self, work: Path) -> None:
        """
        Raises:
            BadInput: the file is damaged.
        """
        self._path = work / LEDGER_NAME
        try:
            self.entries = _ENTRIES.validate_json(self._path.read_bytes())
        except FileNotFoundError:
            self.entries = []
        except ValidationError as error:
            raise BadInput(
                f"{self._path} is damaged; restore or remove it (the month's budget begins again)"
            ) from error

    def spent(self, month: datetime) -> float:
        """GPU hours of a calendar month (UTC); an entry counts in the month in which it began."""
        return sum(entry.gpu_hours for entry in self.entries if _same_month(entry.started, month))

    def of_run(self, run: str) -> float:
        """GPU hours of one run."""
        return sum(entry.gpu_hours for entry in self.entries if entry.run == run)

    @contextmanager
    def recorded(self, run: str, stage: str, gpus: int) -> Iterator[None]:
        """Count the time of a block."""
        now, began = datetime.now(UTC).timestamp(), time.monotonic()
        entry = Entry(run=run, stage=stage, gpus=gpus, started=now, seen=now)
        self.entries.append(entry)
        ended = threading.Event()

        def see() -> None:
            entry.seen = now + time.monotonic() - began
            self._write()

        def renew() -> None:
            while not ended.wait(RENEW_SECONDS):
                with suppress(OSError):  # a full disk: the next renewal may succeed, and the last one says so
                    see()

        see()
        thread = threading.Thread(target=renew, name="ledger", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            see()

    def _write(self) -> None:
        write_atomically(self._path, _ENTRIES.dump_json(self.entries, indent=1).decode() + "\n")


def _same_month(stamp: float, month: datetime) -> bool:
    moment = datetime.fromtimestamp(stamp, UTC)
    return (moment.year, moment.month) == (month.year, month.month)
