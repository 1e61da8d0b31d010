"""Measures how long the stages of a request take, in the metrics and in its trace."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from service.metrics import Metrics
from service.tracing import stage_span


@dataclass(slots=True)
class StageTimer:
    """Records the start and the end of each stage and reports its duration to the metrics."""

    metrics: Metrics
    began: float = field(default_factory=time.perf_counter)
    spans: dict[str, tuple[float, float]] = field(default_factory=dict)
    """Start and end of each stage, in seconds of `time.perf_counter`."""

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measure the block as a stage."""
        began = time.perf_counter()
        try:
            with stage_span(name):
                yield
        finally:
            self.note(name, began)

    def note(self, name: str, began: float) -> None:
        """Record a stage that ends now."""
        ended = time.perf_counter()
        self.spans[name] = began, ended
        self.metrics.stage_seconds.labels(name).observe(ended - began)

    def milliseconds(self, name: str, since: float = 0.0) -> float:
        """Duration of the part of a stage that came after `since`; 0 for a stage that did not take place."""
        began, ended = self.spans.get(name, (0.0, 0.0))
        return round(1000 * max(0.0, ended - max(began, since)), 3)


def milliseconds_since(moment: float) -> float:
    """Milliseconds from a moment, given in seconds of `time.perf_counter`, until now."""
    return round(1000 * (time.perf_counter() - moment), 3)
