"""Which requests are retried, after how long, and with the same bytes."""

from __future__ import annotations

import asyncio
import threading
import time
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any

import httpx
import pytest
from tenacity import RetryCallState, Retrying

from screening_client import (
    AsyncClient,
    Client,
    ClientTimeout,
    ConnectionFailed,
    InputError,
    Overloaded,
    ScreeningClientError,
    StatusError,
    TimedOut,
    Unavailable,
    constants,
)
from screening_client.errors import class_of
from screening_client.pace import Pace, Run
from screening_client.retries import parse_retry_after, seconds_to_wait, sync_retrying, worth_retrying
from screening_client.settings import Deadline


def wait_after(attempt: int, retry_after: float | None = None) -> float:
    """The wait that is drawn after the attempt with this number."""
    error = Overloaded("x", status=429, retry_after=retry_after)
    state = RetryCallState(Retrying(), None, (), {})
    state.attempt_number = attempt
    state.set_exception((Overloaded, error, None))
    return seconds_to_wait(state)


@pytest.mark.parametrize(("attempt", "longest"), [(1, 0.5), (2, 1), (3, 2), (4, 4), (5, 8), (6, 8), (5000, 8)])
def test_waits_are_drawn_from_the_whole_range_up_to_eight_seconds(attempt: int, longest: float) -> None:
    waits = [wait_after(attempt) for _ in range(200)]
    assert 0 <= min(waits) < 0.25 * longest and 0.75 * longest < max(waits) <= longest


@pytest.mark.parametrize("asked", [0.0, 1.0, 17.0])
def test_the_service_s_own_wait_comes_first_and_is_spread_as_well(asked: float) -> None:
    waits = [wait_after(1, asked) for _ in range(50)]
    assert asked <= min(waits) and max(waits) <= asked + 0.5 and len(set(waits)) > 25


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("7", 7.0),
        (" 0 ", 0.0),
        ("1.5", 1.5),
        ("-1", None),
        ("nan", None),
        ("inf", None),
        ("soon", None),
        ("", None),
        ("Fri, 99 Nov 2026 10:00:00 GMT", None),
        ("Fri, 20 Nov 2026 10:00:30 GMT", 30.0),
        ("Fri, 20 Nov 2026 09:00:00 GMT", 0.0),
    ],
)
def test_retry_after_is_read_in_both_forms_by_the_service_s_clock(text: str, seconds: float | None) -> None:
    headers = httpx.Headers({"Retry-After": text, "Date": "Fri, 20 Nov 2026 10:00:00 GMT"})
    assert parse_retry_after(headers) == seconds


@pytest.mark.parametrize("date", [{}, {"Date": "yesterday"}])
def test_a_date_without_the_service_s_clock_is_read_by_ours(date: dict[str, str]) -> None:
    in_an_hour = format_datetime(datetime.fromtimestamp(time.time() + 3600, UTC), usegmt=True)
    seconds = parse_retry_after(httpx.Headers({"Retry-After": in_an_hour, **date}))
    assert seconds is not None and 3000 < seconds <= 3600


@pytest.mark.parametrize("status", [408, 409, 429, 500, 502, 503, 504, 507, 529])
def test_statuses_that_pass_are_tried_again(status: int) -> None:
    assert worth_retrying(class_of(status)("x", status=status))


@pytest.mark.parametrize("status", [302, 400, 401, 403, 404, 405, 413, 415, 422, 501, 505])
def test_statuses_that_stay_are_not_tried_again(status: int) -> None:
    assert not worth_retrying(class_of(status)("x", status=status))


def test_an_upload_over_a_connection_that_is_too_slow_is_not_sent_again() -> None:
    slow = class_of(408)("x", status=408, problem_type="urn:screening:problem:upload-too-slow")
    stalled = class_of(408)("x", status=408, problem_type="urn:screening:problem:body-timeout")
    assert not worth_retrying(slow) and worth_retrying(stalled)


def test_a_longer_wait_than_two_minutes_is_left_to_the_caller() -> None:
    assert worth_retrying(Overloaded("x", status=429, retry_after=120))
    assert not worth_retrying(Overloaded("x", status=429, retry_after=121))


def test_every_attempt_sends_the_same_bytes_key_and_request_id(server: Any, question: Any, quick: None) -> None:
    server.replies = [server.problem(503), server.problem(500), server.good()]
    with Client(base_url=server.url) as client:
        assert client.screen(**question).choice == "C"
    assert len(server.received) == 3
    first = server.received[0]
    for name in ("Idempotency-Key", "X-Request-Id", "Content-Type"):
        assert {each.headers[name] for each in server.received} == {first.headers[name]}
    assert {each.body for each in server.received} == {first.body}
    assert all(picture in first.body for picture in [question["original"], *question["generated"]])


def test_two_calls_have_different_keys(server: Any, question: Any) -> None:
    with Client(base_url=server.url) as client:
        client.screen(**question)
        client.screen(**question)
    assert server.received[0].headers["Idempotency-Key"] != server.received[1].headers["Idempotency-Key"]


def test_the_caller_s_key_and_request_id_are_sent(server: Any, question: Any) -> None:
    with Client(base_url=server.url) as client:
        client.screen(**question, idempotency_key="order-4711", request_id="me.1")
    headers = server.received[0].headers
    assert (headers["Idempotency-Key"], headers["X-Request-Id"]) == ("order-4711", "me.1")


def test_the_third_failure_is_raised_with_its_attempts(server: Any, question: Any, quick: None) -> None:
    server.replies = [server.problem(503, "not-ready", retry_after=0, request_id="req_9")]
    with Client(base_url=server.url) as client, pytest.raises(Unavailable) as caught:
        client.screen(**question)
    assert len(server.received) == caught.value.attempts == 3
    assert "3 attempts" in str(caught.value) and "req_9" in str(caught.value)


def test_a_service_that_says_when_it_is_back_is_waited_for_longer_than_two_retries(
    server: Any, question: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    monkeypatch.setattr("screening_client.retries.time.sleep", waits.append)
    server.replies = [*[server.problem(503, retry_after=18)] * 6, server.good()]
    with Client(base_url=server.url) as client:
        assert client.screen(**question).choice == "C"
    assert len(waits) == 6 and all(18 <= wait <= 26 for wait in waits)


def test_patience_ends_and_then_retries_are_counted(
    server: Any, question: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    monkeypatch.setattr("screening_client.retries.time.sleep", waits.append)
    server.replies = [server.problem(503, retry_after=50)]
    with Client(base_url=server.url) as client, pytest.raises(Unavailable):
        client.screen(**question)
    assert len(waits) == 5, "three by patience, two as retries"


def test_without_retries_a_call_does_not_wait(server: Any, question: Any) -> None:
    server.replies = [server.problem(503, retry_after=1)]
    with Client(base_url=server.url, max_retries=0) as client, pytest.raises(Unavailable):
        client.screen(**question)
    assert len(server.received) == 1


def test_a_request_that_cannot_succeed_is_sent_once(server: Any, question: Any) -> None:
    server.replies = [server.problem(422)]
    with Client(base_url=server.url) as client, pytest.raises(StatusError):
        client.screen(**question)
    assert len(server.received) == 1


def test_no_retries_means_one_attempt(server: Any, question: Any) -> None:
    server.replies = [server.problem(503)]
    with Client(base_url=server.url, max_retries=0) as client, pytest.raises(Unavailable):
        client.screen(**question)
    assert len(server.received) == 1


def test_a_broken_connection_is_tried_again(server: Any, question: Any, quick: None) -> None:
    server.replies = [type(server.good())(drop=True), server.good()]
    with Client(base_url=server.url) as client:
        assert client.screen(**question).choice == "C"
    assert len(server.received) == 2


@pytest.mark.slow
def test_no_answer_in_time_is_tried_again_and_then_raised(server: Any, question: Any, quick: None) -> None:
    server.replies = [type(server.good())(hang=True)]
    timeout = ClientTimeout(read=0.1)
    with Client(base_url=server.url, max_retries=1) as client, pytest.raises(TimedOut) as caught:
        client.screen(**question, timeout=timeout)
    assert caught.value.attempts == 2 and isinstance(caught.value, TimeoutError)


def test_the_error_for_a_closed_port_names_the_address(question: Any, quick: None) -> None:
    with (
        Client(base_url="http://127.0.0.1:1") as client,
        pytest.raises(ConnectionFailed, match=r"127\.0\.0\.1:1") as caught,
    ):
        client.screen(**question)
    assert caught.value.attempts == 3 and caught.value.request_id


def test_a_wait_that_ends_after_the_whole_call_s_limit_is_not_begun(server: Any, question: Any) -> None:
    server.replies = [server.problem(429, retry_after=100)]
    with Client(base_url=server.url, timeout=50) as client, pytest.raises(Overloaded) as caught:
        client.screen(**question)
    assert len(server.received) == 1 and caught.value.retry_after == 100


def test_no_phase_of_an_attempt_may_outlast_the_whole_call() -> None:
    limits = Deadline(ClientTimeout(connect=5, read=None, total=3)).for_attempt()
    assert all(0 < limit <= 3 for limit in limits.values() if limit is not None) and None not in limits.values()
    assert Deadline(ClientTimeout(connect=5, read=None)).for_attempt()["read"] is None


@pytest.mark.slow
def test_a_number_limits_the_whole_call(server: Any, question: Any) -> None:
    server.replies = [type(server.good())(hang=True)]
    with Client(base_url=server.url) as client, pytest.raises(TimedOut) as caught:
        client.screen(**question, timeout=0.2)
    assert caught.value.attempts == 1


def test_the_async_client_retries_in_the_same_way(server: Any, question: Any, quick: None) -> None:
    server.replies = [server.problem(503), type(server.good())(drop=True), server.good()]

    async def call() -> str | None:
        async with AsyncClient(base_url=server.url) as client:
            return (await client.screen(**question)).choice

    assert asyncio.run(call()) == "C"
    assert len({each.headers["Idempotency-Key"] for each in server.received}) == 1
    assert len({each.body for each in server.received}) == 1 and len(server.received) == 3


def test_the_async_client_gives_up_in_the_same_way(server: Any, question: Any, quick: None) -> None:
    server.replies = [server.problem(429, retry_after=0)]

    async def call() -> None:
        async with AsyncClient(base_url=server.url) as client:
            await client.screen(**question)

    with pytest.raises(Overloaded) as caught:
        asyncio.run(call())
    assert caught.value.attempts == len(server.received) == 3


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf"), True, "5"])
def test_a_timeout_that_is_not_a_duration_is_refused(timeout: Any, question: Any) -> None:
    with pytest.raises(InputError, match="timeout"):
        Client(timeout=timeout)
    with pytest.raises(InputError, match="timeout"), Client() as client:
        client.screen(**question, timeout=timeout)


def test_a_wait_that_is_given_up_sends_nothing_more() -> None:
    class Cancelled(Run):
        def sleep(self, seconds: float) -> None:
            threading.Timer(0.05, self.cancel).start()
            super().sleep(seconds)

    sent = 0

    def attempt() -> None:
        nonlocal sent
        sent += 1
        raise Overloaded("x", status=429, retry_after=100)

    with pytest.raises(ScreeningClientError, match="cancelled"):
        sync_retrying(2, Deadline(ClientTimeout()), Cancelled(1))(attempt)
    assert sent == 1


@pytest.mark.parametrize("error", [Overloaded("x", status=429), Unavailable("x", status=503, retry_after=0)])
def test_a_bulk_run_waits_out_an_overload_as_long_as_it_is_answered_now_and_then(
    monkeypatch: pytest.MonkeyPatch, error: StatusError
) -> None:
    monkeypatch.setattr(constants, "FIRST_WAIT", 0.001)
    monkeypatch.setattr(constants, "LONGEST_WAIT", 0.001)
    run, sent = Run(8), 0

    def attempt() -> str:
        nonlocal sent
        sent += 1
        if sent < 200:
            raise error
        return "answer"

    assert sync_retrying(2, Deadline(ClientTimeout()), run)(attempt) == "answer"
    assert sent == 200


def test_a_bulk_run_that_nothing_answers_falls_back_to_counted_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "FIRST_WAIT", 0.001)
    monkeypatch.setattr(constants, "PATIENCE", 0.0)
    run, sent = Run(8), 0

    def attempt() -> None:
        nonlocal sent
        sent += 1
        raise Overloaded("x", status=429)

    with pytest.raises(Overloaded):
        sync_retrying(2, Deadline(ClientTimeout()), run)(attempt)
    assert sent == 3


def test_a_run_that_lost_its_patience_regains_it_with_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    pace = Pace(1)
    began = time.monotonic()
    assert pace.has_patience(began, constants.PATIENCE - 10)
    assert not pace.has_patience(began, constants.PATIENCE + 10)
    assert not pace.has_patience(began, 0), "lost for all other calls too"
    pace.end(pace.begin(), None)
    assert pace.has_patience(began, constants.PATIENCE - 10)
    assert pace.has_patience(began + 3600, constants.PATIENCE + 3000), "a call that begins after a pause is patient"


def test_a_service_that_is_restarted_during_a_bulk_run_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused connections are counted before the first answer, since the address may be wrong, and not after it."""
    monkeypatch.setattr(constants, "FIRST_WAIT", 0.001)
    monkeypatch.setattr(constants, "LONGEST_WAIT", 0.001)
    run, sent = Run(1), 0

    def attempt(refusals: int) -> str:
        nonlocal sent
        sent += 1
        if sent <= refusals:
            raise ConnectionFailed("refused") from httpx.ConnectError("refused")
        return "answer"

    with pytest.raises(ConnectionFailed):
        sync_retrying(2, Deadline(ClientTimeout()), run)(attempt, 50)
    assert sent == 3
    run.pace.end(run.pace.begin(), None)
    assert sync_retrying(2, Deadline(ClientTimeout()), run)(attempt, 50) == "answer"


def test_a_connection_that_breaks_every_time_ends_within_a_bulk_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "FIRST_WAIT", 0.001)
    run, sent = Run(1), 0
    run.pace.end(run.pace.begin(), None)

    def attempt() -> None:
        nonlocal sent
        sent += 1
        raise ConnectionFailed("broke") from httpx.ReadError("broke")

    with pytest.raises(ConnectionFailed):
        sync_retrying(2, Deadline(ClientTimeout()), run)(attempt)
    assert sent == 3


def test_a_bulk_run_without_retries_tries_once() -> None:
    sent = 0

    def attempt() -> None:
        nonlocal sent
        sent += 1
        raise Overloaded("x", status=429, retry_after=0)

    with pytest.raises(Overloaded):
        sync_retrying(0, Deadline(ClientTimeout()), Run(8))(attempt)
    assert sent == 1
