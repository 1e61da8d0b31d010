"""The run recorder: it writes `requests.jsonl`, `events.jsonl`, `summary.json` and plots to a new directory.

Lines are written immediately, so a killed run keeps all data until then.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

from screening.errors import UserError
from screening.runtime.atomic_write import write_atomically
from screening.runtime.utc_time import utc_now_text

REQUESTS = "requests.jsonl"
EVENTS = "events.jsonl"
SUMMARY = "summary.json"


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request as its caller saw it. Times are in seconds since the run began."""

    number: int
    intended: float
    """Planned send time; latency is measured from it."""
    sent: float
    finished: float
    status: int | None
    """HTTP status of the last attempt; None without an answer."""
    error: str | None = None
    """Name of the SDK's error class; None for a successful answer."""
    detail: str | None = None
    attempts: int = 1
    refusals: tuple[int, ...] = ()
    """HTTP statuses of the answered attempts before the last one."""
    retry_after: float | None = None
    repeated: bool = False
    """Whether the original was sent before."""
    outcome: str | None = None
    choice: str | None = None
    digest: str | None = None
    version: str | None = None
    reasoning: str | None = None
    source: str | None = None
    """Source of the answer: `engine`, `shared` (an identical request in flight) or `cache`."""
    queue_ms: float | None = None
    """Time in the queue for a slot, including the pause of a swap."""
    engine_ms: float | None = None
    stage: str | None = None
    """Part of the run, for example the rate of a sweep."""

    @property
    def answered(self) -> bool:
        return self.status == 200 and self.error is None

    @property
    def latency(self) -> float:
        """Latency in seconds from the planned send time."""
        return self.finished - self.intended


@dataclass(frozen=True, slots=True)
class Event:
    """Another event: a swap, a kill, a measurement of the processes."""

    kind: str
    at: float
    """Time in seconds since the run began."""
    facts: dict[str, Any] = field(default_factory=dict)


class RunExists(UserError):
    """The directory is not empty; the message says what to do."""


def new_directory(directory: Path) -> Path:
    """Create the directory of one run and return it.

    Raises:
        RunExists: the directory is not empty. Existing files are never overwritten.
    """
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise RunExists(f"{directory} exists and is not empty. Name another --out, or remove it.")
    directory.mkdir(parents=True, exist_ok=True)
    return directory


class RunRecorder:
    """Writes the directory of one run. Its clock starts when it is created."""

    def __init__(self, directory: Path) -> None:
        """
        Raises:
            RunExists: the directory is not empty. Existing files are never overwritten.
        """
        self.directory = new_directory(directory)
        self.exchanges: list[Exchange] = []
        self.events: list[Event] = []
        self._began = time.perf_counter()
        self._started = utc_now_text()
        self._busy = os.getloadavg()[0]
        self._requests = (directory / REQUESTS).open("x", encoding="utf-8")
        self._events = (directory / EVENTS).open("x", encoding="utf-8")

    @property
    def now(self) -> float:
        return time.perf_counter() - self._began

    def add(self, exchange: Exchange) -> None:
        self.exchanges.append(exchange)
        _write(self._requests, asdict(exchange))

    def note(self, kind: str, at: float | None = None, **facts: Any) -> Event:
        event = Event(kind, self.now if at is None else at, facts)
        self.events.append(event)
        _write(self._events, {"kind": kind, "at": event.at, **facts})
        return event

    def of(self, kind: str) -> list[Event]:
        """The events of one kind."""
        return [event for event in self.events if event.kind == kind]

    def summarise(self, summary: dict[str, Any]) -> None:
        """Write `summary.json`, with facts that may explain unusual figures: date, number of cores, their load."""
        summary = {"started": self._started, "cpus": os.cpu_count(), "load_average_before": self._busy} | summary
        text = json.dumps(summary, indent=1, ensure_ascii=False)
        write_atomically(self.directory / SUMMARY, text + "\n")

    def close(self) -> None:
        self._requests.close()
        self._events.close()

    def __enter__(self) -> RunRecorder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _write(file: IO[str], line: dict[str, Any]) -> None:
    # Times are rounded to microseconds; further digits are noise.
    line = {key: round(value, 6) if isinstance(value, float) else value for key, value in line.items()}
    file.write(json.dumps(line, ensure_ascii=False) + "\n")
    file.flush()
