"""What a run leaves behind: `requests.jsonl`, `events.jsonl`, `summary.json` and plots, in a directory of its own.

Lines are written as things happen, so that a run that is killed keeps what it saw.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from screening.errors import UserError
from screening.runtime.atomic_write import write_atomically

REQUESTS = "requests.jsonl"
EVENTS = "events.jsonl"
SUMMARY = "summary.json"


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request as its caller saw it. Moments are seconds since the run began."""

    number: int
    intended: float
    """When it was to be sent; latency counts from here."""
    sent: float
    finished: float
    status: int | None
    """Of the last attempt; None when no answer came."""
    error: str | None = None
    """The SDK's class of error; None for an answer."""
    detail: str | None = None
    attempts: int = 1
    refusals: tuple[int, ...] = ()
    """Statuses of the attempts before the last one that had an answer."""
    retry_after: float | None = None
    repeated: bool = False
    """Its original was sent before."""
    outcome: str | None = None
    choice: str | None = None
    digest: str | None = None
    version: str | None = None
    reasoning: str | None = None
    source: str | None = None
    """`engine`, or where the service had the answer from instead: `shared`, `cache`."""
    queue_ms: float | None = None
    """Waiting for a slot, and behind the gate while another checkpoint goes live."""
    engine_ms: float | None = None
    stage: str | None = None
    """Part of the run, where it has parts: the rate of a sweep."""

    @property
    def answered(self) -> bool:
        return self.status == 200 and self.error is None

    @property
    def latency(self) -> float:
        """Seconds from the intended moment."""
        return self.finished - self.intended


@dataclass(frozen=True, slots=True)
class Event:
    """Something else that happened: a swap, a kill, a look at the processes."""

    kind: str
    at: float
    """Seconds since the run began."""
    facts: dict[str, Any] = field(default_factory=dict)


class RunExists(UserError):
    """The directory holds something already; the message says what to do."""


class Book:
    """The run directory, open for writing. Its clock starts when it is made."""

    def __init__(self, directory: Path) -> None:
        """
        Raises:
            RunExists: there is something in it; nothing is ever overwritten.
        """
        if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
            raise RunExists(f"{directory} exists and is not empty. Name another --out, or remove it.")
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.exchanges: list[Exchange] = []
        self.events: list[Event] = []
        self._began = time.perf_counter()
        self._started = datetime.now(UTC).isoformat(timespec="seconds")
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
        """Write `summary.json`, with what may explain a strange figure: when, how many cores, how busy they were."""
        summary = {"started": self._started, "cpus": os.cpu_count(), "load_average_before": self._busy} | summary
        text = json.dumps(summary, indent=1, ensure_ascii=False)
        write_atomically(self.directory / SUMMARY, text + "\n")

    def close(self) -> None:
        self._requests.close()
        self._events.close()

    def __enter__(self) -> Book:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _write(file: IO[str], line: dict[str, Any]) -> None:
    # Moments to the microsecond: more digits are noise.
    line = {key: round(value, 6) if isinstance(value, float) else value for key, value in line.items()}
    file.write(json.dumps(line, ensure_ascii=False) + "\n")
    file.flush()
