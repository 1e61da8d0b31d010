"""What is tried again, and when.

The waits are those of openai-python: 0.5 s doubling to 8 s, up to a quarter taken off at random; `Retry-After` goes
before them. Retrying a POST is safe here: a screening changes nothing, and the idempotency key is the same each time.

Differently from there, a 503 with `Retry-After` does not count as one of the retries while `PATIENCE` lasts: the
service builds its engine anew, which takes longer than two retries do, and has said when it will be back.
"""

from __future__ import annotations

import math
import random
import threading
import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime

import httpx
from tenacity import AsyncRetrying, RetryCallState, Retrying

from screening_client import constants
from screening_client.errors import ConnectionFailed, ScreeningClientError, StatusError, TimedOut, Unavailable
from screening_client.settings import Deadline

_RETRIED_4XX = frozenset({408, 409, 429})
_FINAL_5XX = frozenset({501, 505, 506, 508, 510, 511})
"""The other side cannot do this at all, so asking again is of no use (RFC 9110 and its registry of statuses)."""


def worth_retrying(error: BaseException | None) -> bool:
    """Whether the same request may succeed later."""
    if isinstance(error, ConnectionFailed | TimedOut):
        return True
    if not isinstance(error, StatusError):
        return False
    if error.retry_after is not None and error.retry_after > constants.LONGEST_RETRY_AFTER:
        return False
    return error.status in _RETRIED_4XX or (500 <= error.status < 600 and error.status not in _FINAL_5XX)


def seconds_to_wait(attempt: int, retry_after: float | None, chance: float) -> float:
    """The wait after the attempt of this number, which begins at 1.

    Args:
        chance: uniform in [0, 1).
    """
    if retry_after is not None:
        return retry_after
    wait = min(constants.FIRST_WAIT * 2.0 ** min(attempt - 1, 30), constants.LONGEST_WAIT)
    return wait * (1 - constants.JITTER * chance)


def parse_retry_after(headers: httpx.Headers) -> float | None:
    """`Retry-After` in seconds, from either of its forms (RFC 9110, section 10.2.3); None when absent or unreadable."""
    text = headers.get("Retry-After", "").strip()
    try:
        seconds = float(text)
    except ValueError:
        return _seconds_until(text, headers.get("Date"))
    return seconds if math.isfinite(seconds) and seconds >= 0 else None


def sync_retrying(max_retries: int, deadline: Deadline, given_up: threading.Event | None) -> Retrying:
    """Tenacity's loop for `Client`. Setting `given_up` ends a wait with an error and allows no further retry."""
    policy = _Policy(max_retries, deadline, given_up)
    sleep = time.sleep if given_up is None else _sleep_unless(given_up)
    return Retrying(retry=policy.retry, stop=policy.stop, wait=_wait, sleep=sleep, reraise=True)


def async_retrying(max_retries: int, deadline: Deadline) -> AsyncRetrying:
    """Tenacity's loop for `AsyncClient`."""
    policy = _Policy(max_retries, deadline, None)
    return AsyncRetrying(retry=policy.retry, stop=policy.stop, wait=_wait, reraise=True)


class _Policy:
    def __init__(self, max_retries: int, deadline: Deadline, given_up: threading.Event | None) -> None:
        self.max_retries, self.deadline, self.given_up = max_retries, deadline, given_up
        self.patience = constants.PATIENCE
        self.not_counted = 0

    def retry(self, state: RetryCallState) -> bool:
        error = _error_of(state)
        if isinstance(error, ScreeningClientError):
            error.attempts = state.attempt_number
        return worth_retrying(error)

    def stop(self, state: RetryCallState) -> bool:
        if self.max_retries == 0 or (self.given_up is not None and self.given_up.is_set()):
            return True
        remaining = self.deadline.remaining
        if remaining is not None and state.upcoming_sleep >= remaining:
            return True
        if _says_when_it_is_back(_error_of(state)) and state.upcoming_sleep <= self.patience:
            self.patience -= state.upcoming_sleep
            self.not_counted += 1
        return state.attempt_number - self.not_counted > self.max_retries


def _says_when_it_is_back(error: BaseException | None) -> bool:
    # A wait of less than a second would let a broken service be asked without end.
    return isinstance(error, Unavailable) and error.retry_after is not None and error.retry_after >= 1


def _sleep_unless(given_up: threading.Event) -> Callable[[float], None]:
    # Tenacity's own `sleep_using_event` returns when the event is set, and the request would be sent once more.
    def sleep(seconds: float) -> None:
        if given_up.wait(seconds):
            raise ScreeningClientError("given up while waiting to try again")

    return sleep


def _wait(state: RetryCallState) -> float:
    error = _error_of(state)
    retry_after = error.retry_after if isinstance(error, ScreeningClientError) else None
    return seconds_to_wait(state.attempt_number, retry_after, random.random())  # noqa: S311 - jitter


def _error_of(state: RetryCallState) -> BaseException | None:
    return state.outcome.exception() if state.outcome is not None else None


def _seconds_until(text: str, sent: str | None) -> float | None:
    """Seconds from the service's own clock, where it says what that shows, to a date."""
    try:
        end = parsedate_to_datetime(text).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    try:
        now = parsedate_to_datetime(sent).timestamp() if sent else time.time()
    except (ValueError, TypeError, IndexError, OverflowError):
        now = time.time()
    return max(0.0, end - now)
