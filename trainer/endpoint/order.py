"""What a run is told about its endpoint; `trainer.endpoint.options` has the same as options of a command."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from trainer.endpoint.budget import Meter, Prices
from trainer.endpoint.client import Asking, Endpoint
from trainer.endpoint.pace import Clock, Pace


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointOrder:
    """Ask a model behind an endpoint about the samples of a data directory."""

    data: Path
    out: Path
    base_url: str
    asking: Asking
    api_key: str | None = field(default=None, repr=False)
    picture_size: int = 768
    """Longer side, in pixels."""
    limit: int | None = None
    """Only the first so many samples."""
    concurrency: int = 8
    """Requests at once."""
    requests_per_minute: float | None = None
    tries: int = 6
    """Of one request."""
    timeout: float = 120.0
    """Seconds of one try."""
    max_tokens: int | None = None
    """Over all runs in `out`, as is the budget."""
    budget: float | None = None
    """In the currency of the prices."""
    prices: Prices | None = None

    def new_meter(self) -> Meter:
        """Counts what is spent; nothing yet."""
        return Meter(max_tokens=self.max_tokens, budget=self.budget, prices=self.prices)

    def connect(self, clock: Clock) -> Endpoint:
        """The endpoint, to be used as an async context manager. Nothing is sent yet."""
        return Endpoint(
            self.base_url,
            self.api_key,
            self.asking,
            pace=Pace(self.requests_per_minute, clock),
            clock=clock,
            tries=self.tries,
            timeout=self.timeout,
        )
