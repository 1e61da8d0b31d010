"""Many requests: bounded, in order, lazy, and with errors where the caller wants them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from screening_client import AsyncClient, Client, InputError, InvalidRequest, ScreenRequest

TWINS = pytest.mark.parametrize("twin", ["sync", "async"])


def run(twin: str, url: str, requests: Any, **options: Any) -> Any:
    """`screen_many` of either client."""
    if twin == "sync":
        with Client(base_url=url, max_retries=0) as client:
            return client.screen_many(requests, **options)

    async def call() -> Any:
        async with AsyncClient(base_url=url, max_retries=0) as client:
            return await client.screen_many(requests, **options)

    return asyncio.run(call())


def several(question: Any, count: int) -> list[ScreenRequest]:
    return [ScreenRequest(**question, request_id=f"r{number}") for number in range(count)]


@TWINS
def test_results_come_in_the_order_of_the_requests(server: Any, question: Any, twin: str) -> None:
    gate = iter(range(100))
    server.before_reply = lambda: threading.Event().wait(0.02 if next(gate) % 3 == 0 else 0)
    results = run(twin, server.url, several(question, 12), concurrency=4)
    assert [result.request_id for result in results] == [f"r{number}" for number in range(12)]


@TWINS
@pytest.mark.parametrize("concurrency", [1, 3])
def test_as_many_are_under_way_as_allowed_and_no_more(server: Any, question: Any, twin: str, concurrency: int) -> None:
    # No reply before as many are there: with fewer under way the barrier breaks, and with it the test.
    everyone_is_here = threading.Barrier(concurrency, timeout=60)
    server.before_reply = everyone_is_here.wait
    run(twin, server.url, several(question, 9), concurrency=concurrency)
    assert server.most_at_once == concurrency and len(server.received) == 9


@TWINS
def test_requests_are_taken_only_as_places_become_free(server: Any, question: Any, twin: str) -> None:
    taken_ahead: list[int] = []

    def lazy() -> Iterator[ScreenRequest]:
        for number in range(20):
            taken_ahead.append(number - len(server.received))
            yield ScreenRequest(**question)

    run(twin, server.url, lazy(), concurrency=3)
    assert len(taken_ahead) == 20 and max(taken_ahead) <= 3


@TWINS
def test_the_first_error_ends_the_run(server: Any, question: Any, twin: str) -> None:
    server.replies = [server.good(), server.good(), server.problem(422)]
    with pytest.raises(InvalidRequest):
        run(twin, server.url, several(question, 50), concurrency=2)
    assert len(server.received) <= 6


@TWINS
def test_errors_can_take_the_place_of_their_results(server: Any, question: Any, twin: str) -> None:
    requests = several(question, 3)
    requests[1] = ScreenRequest(original=b"", generated=question["generated"])
    results = run(twin, server.url, requests, on_error="return", concurrency=2)
    assert [type(result).__name__ for result in results] == ["Screening", "InputError", "Screening"]


@TWINS
def test_a_fault_of_the_caller_s_iterable_is_raised_as_it_is(server: Any, question: Any, twin: str) -> None:
    def broken() -> Iterator[ScreenRequest]:
        yield ScreenRequest(**question)
        raise LookupError("the table is gone")

    with pytest.raises(LookupError, match="the table is gone"):
        run(twin, server.url, broken(), on_error="return")


@TWINS
def test_no_requests_are_no_results(server: Any, twin: str) -> None:
    assert run(twin, server.url, []) == []


@TWINS
@pytest.mark.parametrize("options", [{"concurrency": 0}, {"concurrency": True}, {"on_error": "ignore"}])
def test_unusable_options_are_refused_before_anything_is_taken(server: Any, twin: str, options: Any) -> None:
    requests = iter([None])
    with pytest.raises(InputError):
        run(twin, server.url, requests, **options)
    assert next(requests) is None


def test_an_error_does_not_wait_for_others_retry_after(server: Any, question: Any) -> None:
    """Otherwise a run that failed would hang for as long as an overloaded service asks to wait, or ask it once more."""
    first_refused = threading.Event()
    server.replies = [server.problem(503, retry_after=100), server.problem(422)]

    def requests() -> Iterator[ScreenRequest]:
        yield ScreenRequest(**question)
        while not server.received:
            first_refused.wait(0.01)
        yield ScreenRequest(**question)

    with Client(base_url=server.url) as client, pytest.raises(InvalidRequest):
        client.screen_many(requests(), concurrency=2)
    assert len(server.received) == 2


def test_the_bar_stays_away_where_there_is_no_terminal(
    server: Any, question: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    run("sync", server.url, several(question, 2), progress=True)
    assert capsys.readouterr() == ("", "")
