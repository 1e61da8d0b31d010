"""Settings of a run that asks an endpoint; `trainer.endpoint.options` declares the same as command-line options."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from trainer.endpoint.budget import Meter, Prices
from trainer.endpoint.client import Asking, Endpoint
from trainer.endpoint.pace import Clock, Pace


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointOrder:
    """The settings of one run over the samples of a data directory."""

    data: Path
    out: Path
    base_url: str
    asking: Asking
    api_key: str | None = field(default=None, repr=False)
    picture_size: int = 768
    """Longer side of the pictures in pixels."""
    limit: int | None = None
    """Number of samples, from the first; None means all."""
    concurrency: int = 8
    """Maximum number of requests at once."""
    requests_per_minute: float | None = None
    """Maximum request rate; None means no limit."""
    tries: int = 6
    """Maximum number of tries of one request."""
    timeout: float = 120.0
    """Maximum time of one try in seconds."""
    max_tokens: int | None = None
    """Maximum number of tokens over all runs in `out`; None means no limit."""
    budget: float | None = None
    """Maximum cost over all runs in `out`, in the currency of the prices; None means no limit."""
    prices: Prices | None = None

    def new_meter(self) -> Meter:
        """A new meter with the limits of this run."""
        return Meter(max_tokens=self.max_tokens, budget=self.budget, prices=self.prices)

    def connect(self, clock: Clock) -> Endpoint:
        """A client for the endpoint, to be used as an async context manager. No request is sent yet."""
        return Endpoint(
            self.base_url,
            self.api_key,
            self.asking,
            pace=Pace(self.requests_per_minute, clock),
            clock=clock,
            tries=self.tries,
            timeout=self.timeout,
        )
