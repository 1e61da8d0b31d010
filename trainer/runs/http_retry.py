"""Which HTTP requests are worth another try, and when."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from math import isfinite

from tenacity import RetryCallState

TEMPORARY_STATUS = (408, 425, 429, 500, 502, 503, 504)
"""Statuses of requests that may succeed later."""


class TemporaryFailure(Exception):
    """A request failed for a reason that may pass."""

    def __init__(self, reason: str, after: float = 0.0) -> None:
        """
        Args:
            after: seconds that the server asks to wait.
        """
        super().__init__(reason)
        self.after = after


def asked_to_wait(state: RetryCallState) -> float:
    """Seconds that the last failure of a retried call asks to wait; 0 if it is not a `TemporaryFailure`."""
    error = state.outcome.exception() if state.outcome else None
    return error.after if isinstance(error, TemporaryFailure) else 0.0


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that a server asks to wait (RFC 9110, section 10.2.3: a number or a date); None without a usable header.

    Some servers also send `retry-after-ms`, which is more precise.

    Args:
        headers: of the answer; names in any case, as httpx has them.
    """
    for name, scale in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        try:
            seconds = float(headers.get(name, "")) * scale
        except ValueError:
            continue
        return seconds if isfinite(seconds) and seconds >= 0 else None
    try:
        moment = parsedate_to_datetime(headers.get("retry-after", ""))
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())
