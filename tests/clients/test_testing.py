"""The stand-in for callers' tests: the client's own behaviour, without a network."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, use_span

from screening_client import (
    AsyncClient,
    Client,
    ConnectionFailed,
    InvalidRequest,
    NotFound,
    ScreenRequest,
    TimedOut,
    Unavailable,
)
from screening_client.testing import FakeService, answer, problem


def test_the_same_pictures_have_the_same_answer_and_others_may_differ(question: Any) -> None:
    service = FakeService()
    with service.client() as client:
        first, again = (client.screen(**question) for _ in range(2))
        choices = {client.screen(original=bytes([n]), generated=[b"a", b"b", b"c", b"d"]).choice for n in range(60)}
    with FakeService().client() as client:
        elsewhere = client.screen(**question)
    assert first == again == elsewhere and choices == set("ABCDN")


def test_the_trace_of_the_caller_is_passed_on_and_none_is_begun(question: Any) -> None:
    service = FakeService()
    span = NonRecordingSpan(SpanContext(trace_id=5, span_id=6, is_remote=False, trace_flags=TraceFlags(1)))
    with service.client() as client:
        client.screen(**question)
        with use_span(span):
            client.screen(**question)
    outside, inside = service.requests
    assert "traceparent" not in outside.headers
    assert inside.headers["traceparent"] == f"00-{5:032x}-{6:016x}-01"


def test_the_fake_records_requests_as_they_were_made(five: tuple[bytes, ...]) -> None:
    service = FakeService()
    pictures = [b"\r\n--\r\n\0", *five[2:]]
    with service.client(api_key="key") as client:
        client.screen(
            original=five[0],
            generated=pictures,
            mode="direct",
            metadata={"ü": 1},
            review_below=0.25,
            request_id="mine.1",
            idempotency_key="order-1",
        )
    asked = service.requests[0]
    assert (asked.original, list(asked.generated)) == (five[0], pictures)
    assert (asked.mode, asked.metadata, asked.review_below) == ("direct", {"ü": 1}, 0.25)
    assert (asked.request_id, asked.idempotency_key) == ("mine.1", "order-1")
    assert asked.headers["Authorization"] == "Bearer key"


def test_answers_are_kept_as_decisions(five: tuple[bytes, ...]) -> None:
    service = FakeService()

    def screen(client: Client, number: int) -> str:
        return client.screen(original=bytes([number]), generated=five[1:], metadata={"product": f"P{number % 2}"}).id

    async def twin(identity: str) -> Any:
        async with service.async_client() as client:
            return [one.id async for one in client.decisions.list()], await client.decisions.get(identity)

    with service.client() as client:
        ids = [screen(client, number) for number in range(5)]
        assert [one.id for one in client.decisions.list(page_size=2)] == ids[::-1]
        assert [one.id for one in client.decisions.list(product="P1")] == [ids[3], ids[1]]
        kept = client.decisions.get(ids[1])
        later = client.decisions.list(since=kept.created_at, min_confidence=0.5, needs_review=False)
        assert [one.id for one in later] == ids[:0:-1]
        assert [client.decisions.picture(ids[1], position) for position in range(5)] == [bytes([1]), *five[1:]]
        given = client.decisions.feedback(ids[1], kind="shown", options="BA", idempotency_key="k")
        assert client.decisions.feedback(ids[1], kind="shown", options="AB", idempotency_key="k") == given
        with pytest.raises(InvalidRequest, match="idempotency-key-reused"):
            client.decisions.feedback(ids[1], kind="shown", options="C", idempotency_key="k")
        assert [(one["decision"], one["kind"], one["options"]) for one in service.feedback] == [(ids[1], "shown", "AB")]
        assert asyncio.run(twin(ids[1]))[1].feedback == (given,)
        pages = client.decisions.list(page_size=2)
        assert [next(pages).id for _ in range(2)] == [ids[4], ids[3]]
        client.decisions.erase(ids[3])
        assert [one.id for one in pages] == ids[2::-1], "the cursor outlives its decision"
        client.decisions.erase(ids[1])
        with pytest.raises(NotFound):
            client.decisions.get(ids[1])
    assert len(asyncio.run(twin(ids[0]))[0]) == 3 and service.feedback == []


@pytest.mark.slow
def test_scripted_errors_are_for_decisions_too(question: Any) -> None:
    service = FakeService(answer("B", id="scr_b"), problem(503, retry_after=0), answer("C", id="scr_c"))
    with service.client() as client:
        client.screen(**question)
        assert client.decisions.get("scr_b").answer.choice == "B", "asked again after the 503"
        assert client.screen(**question).choice == "C"


@pytest.mark.slow
def test_replies_are_taken_in_turn_by_both_clients(question: Any) -> None:
    service = FakeService(answer("B"), problem(503, retry_after=0), answer("N", confidence=0.5))
    service.reply(
        answer(None), answer("A", acceptable=("A", "D"), checkpoint={"name": "x", "version": "2", "digest": ""})
    )

    async def rest() -> list[Any]:
        async with service.async_client() as client:
            return [await client.screen(**question, metadata={"n": n}) for n in range(2)]

    with service.client() as client:
        assert [client.screen(**question).choice for _ in range(2)] == ["B", "N"]
    assert len(service.requests) == 3
    unreadable, last = asyncio.run(rest())
    assert (unreadable.answered, unreadable.needs_review, unreadable.metadata) == (False, True, {"n": 0})
    assert (last.acceptable, last.options["D"].usable, last.checkpoint.version) == (("A", "D"), True, "2")


def test_failures_are_those_of_the_service(question: Any) -> None:
    service = FakeService(problem(422, "image-unreadable", picture="generated[1]"), problem(503, retry_after=7))
    with service.client(max_retries=0) as client:
        with pytest.raises(InvalidRequest) as refused:
            client.screen(**question)
        with pytest.raises(Unavailable) as unavailable:
            client.screen(**question)
        for error, kind in ((httpx.ReadError("broke"), ConnectionFailed), (httpx.ReadTimeout("slow"), TimedOut)):
            service.reply(error)
            with pytest.raises(kind):
                client.screen(**question)
    assert (refused.value.code, refused.value.picture) == ("image-unreadable", "generated[1]")
    assert refused.value.request_id == service.requests[0].request_id
    assert unavailable.value.retry_after == 7


@pytest.mark.slow
def test_one_response_may_stand_for_many_requests(question: Any) -> None:
    service = FakeService(*[problem(503, retry_after=0)] * 2)
    with service.client() as client:
        assert len(client.screen_many([ScreenRequest(**question)] * 3, progress=False, concurrency=2)) == 3
    assert len(service.requests) == 5


def test_readiness_is_a_setting() -> None:
    service = FakeService()
    with service.client() as client:
        assert client.ready()
        service.is_ready = False
        assert not client.ready()


def test_the_transport_serves_an_own_http_client(question: Any) -> None:
    service = FakeService(answer("D"), answer("C"))
    with httpx.Client(transport=service.transport) as http, Client(http_client=http) as client:
        assert client.screen(**question).choice == "D"

    async def call() -> Any:
        async with (
            httpx.AsyncClient(transport=service.transport) as http,
            AsyncClient(http_client=http) as client,
        ):
            return await client.screen(**question)

    assert asyncio.run(call()).choice == "C"


def test_an_answer_has_every_field_of_the_service_s(server: Any) -> None:
    assert set(json.loads(server.good().body)) == set(answer()) - {"warnings"} | {"metadata"}
