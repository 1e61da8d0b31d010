"""Decides which failed requests are retried, and when.

The wait before a retry is `Retry-After` plus a random time of at most 0.5 s, a limit that doubles with each retry up to
8 s ("full jitter"). So clients that were refused together do not return together. Retrying a POST is safe, because the
idempotency key of a screening or of feedback stays the same.

Two retries are too few while a service restarts its engine or has a full queue, so some retries are not counted:
- A single call does not count a 503 with `Retry-After`, up to a total wait of `PATIENCE`.
- A bulk run counts neither 429 nor 503, unless no request has been answered for `PATIENCE`. After its first answer, it
  does not count refused connections either, because the service is probably restarting. After `PATIENCE` without an
  answer, all retries count until the next answer.
"""

from __future__ import annotations

import math
import time
from email.utils import parsedate_to_datetime

import httpx
from tenacity import AsyncRetrying, RetryCallState, Retrying, wait_random_exponential

from screening_client import constants, log
from screening_client.errors import (
    ConnectionFailed,
    MismatchedAnswer,
    Overloaded,
    ScreeningClientError,
    StatusError,
    TimedOut,
    Unavailable,
)
from screening_client.pace import AsyncRun, BulkRun, Run
from screening_client.settings import Deadline

_RETRIED_4XX = frozenset({408, 409, 429})
_FINAL_5XX = frozenset({501, 505, 506, 508, 510, 511})
"""Statuses for which a retry is useless, because the server does not support the request (RFC 9110)."""
_FINAL_CODES = frozenset({"upload-too-slow"})
"""Problems for which a retry is useless although their status is usually retried."""


def worth_retrying(error: BaseException | None) -> bool:
    """Whether the same request may succeed later."""
    if isinstance(error, ConnectionFailed | TimedOut | MismatchedAnswer):
        return True
    if not isinstance(error, StatusError):
        return False
    if error.code in _FINAL_CODES or (error.retry_after or 0) > constants.LONGEST_RETRY_AFTER:
        return False
    return error.status in _RETRIED_4XX or (500 <= error.status < 600 and error.status not in _FINAL_5XX)


def parse_retry_after(headers: httpx.Headers) -> float | None:
    """Parse both forms of `Retry-After` (RFC 9110, section 10.2.3). Returns seconds; None if missing or invalid."""
    text = headers.get("Retry-After", "").strip()
    try:
        seconds = float(text)
    except ValueError:
        return _seconds_until(text, headers.get("Date"))
    return seconds if math.isfinite(seconds) and seconds >= 0 else None


def sync_retrying(max_retries: int, deadline: Deadline, run: Run | None) -> Retrying:
    """Build the retry loop for `Client`. Cancelling `run` ends a wait with an error and prevents further retries."""
    policy = _Policy(max_retries, deadline, run)
    sleep = time.sleep if run is None else run.sleep
    return Retrying(
        retry=policy.retry, stop=policy.stop, wait=seconds_to_wait, sleep=sleep, before_sleep=_log_wait, reraise=True
    )


def async_retrying(max_retries: int, deadline: Deadline, run: AsyncRun | None) -> AsyncRetrying:
    """Build the retry loop for `AsyncClient`."""
    policy = _Policy(max_retries, deadline, run)
    return AsyncRetrying(
        retry=policy.retry, stop=policy.stop, wait=seconds_to_wait, before_sleep=_log_wait, reraise=True
    )


def seconds_to_wait(state: RetryCallState) -> float:
    """Return the wait that the service asked for plus a random time."""
    error = _error_of(state)
    asked = error.retry_after if isinstance(error, ScreeningClientError) else None
    jitter = wait_random_exponential(multiplier=constants.FIRST_WAIT, max=constants.LONGEST_WAIT)
    return (asked or 0.0) + jitter(state)


class _Policy:
    def __init__(self, max_retries: int, deadline: Deadline, run: BulkRun | None) -> None:
        self.max_retries, self.deadline, self.run = max_retries, deadline, run
        self.started = time.monotonic()
        self.patience = constants.PATIENCE
        self.not_counted = 0

    def retry(self, state: RetryCallState) -> bool:
        error = _error_of(state)
        if isinstance(error, ScreeningClientError):
            error.attempts = state.attempt_number
        return worth_retrying(error)

    def stop(self, state: RetryCallState) -> bool:
        if self.max_retries == 0 or (self.run is not None and self.run.cancelled):
            return True
        remaining = self.deadline.remaining
        if remaining is not None and state.upcoming_sleep >= remaining:
            return True
        self.not_counted += self._is_patient(_error_of(state), state.upcoming_sleep)
        return state.attempt_number - self.not_counted > self.max_retries

    def _is_patient(self, error: BaseException | None, wait: float) -> bool:
        """Whether this retry does not count towards `max_retries`."""
        if self.run is not None:
            pace = self.run.pace
            passes = isinstance(error, Overloaded | Unavailable) or (pace.answers > 0 and _is_refused_connection(error))
            return passes and pace.has_patience(self.started, wait)
        if wait > self.patience or not _says_when_it_is_back(error):
            return False
        self.patience -= wait
        return True


def _says_when_it_is_back(error: BaseException | None) -> bool:
    # Waits of less than a second would allow an almost endless number of requests to a broken service.
    return isinstance(error, Unavailable) and error.retry_after is not None and error.retry_after >= 1


def _is_refused_connection(error: BaseException | None) -> bool:
    # A connection that broke does not count as refused. The request itself may be the cause, and would fail for ever.
    return isinstance(error, ConnectionFailed) and isinstance(error.__cause__, httpx.ConnectError)


def _log_wait(state: RetryCallState) -> None:
    log.LOGGER.info("%s; next attempt in %.1f s", _error_of(state), state.upcoming_sleep)


def _error_of(state: RetryCallState) -> BaseException | None:
    return state.outcome.exception() if state.outcome is not None else None


def _seconds_until(text: str, sent: str | None) -> float | None:
    """Return the seconds until a date, by the service's clock (`Date`) if it is given."""
    try:
        end = parsedate_to_datetime(text).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    try:
        now = parsedate_to_datetime(sent).timestamp() if sent else time.time()
    except (ValueError, TypeError, IndexError, OverflowError):
        now = time.time()
    return max(0.0, end - now)
