"""Where the time goes: of a request, stage by stage, and since a moment."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from service.metrics import Metrics


@dataclass(slots=True)
class Clock:
    """When each stage began and ended, in seconds of `time.perf_counter`; observed as they pass."""

    metrics: Metrics
    began: float = field(default_factory=time.perf_counter)
    spans: dict[str, tuple[float, float]] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        began = time.perf_counter()
        try:
            yield
        finally:
            self.note(name, began)

    def note(self, name: str, began: float) -> None:
        """A stage ends now."""
        ended = time.perf_counter()
        self.spans[name] = began, ended
        self.metrics.stage_seconds.labels(name).observe(ended - began)

    def milliseconds(self, name: str, since: float = 0.0) -> float:
        """Of a stage, what fell after `since`; 0 for a stage that there was not."""
        began, ended = self.spans.get(name, (0.0, 0.0))
        return round(1000 * max(0.0, ended - max(began, since)), 3)


def milliseconds_since(moment: float) -> float:
    """From a moment of `time.perf_counter` until now."""
    return round(1000 * (time.perf_counter() - moment), 3)
