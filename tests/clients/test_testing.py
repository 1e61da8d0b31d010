"""The stand-in for callers' tests: the client's own behaviour, without a network."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest

from screening_client import AsyncClient, Client, ConnectionFailed, InvalidRequest, ScreenRequest, TimedOut, Unavailable
from screening_client.testing import FakeService, answer, problem


def test_the_same_pictures_have_the_same_answer_and_others_may_differ(question: Any) -> None:
    service = FakeService()
    with service.client() as client:
        first, again = (client.screen(**question) for _ in range(2))
        choices = {client.screen(original=bytes([n]), generated=[b"a", b"b", b"c", b"d"]).choice for n in range(60)}
    with FakeService().client() as client:
        elsewhere = client.screen(**question)
    assert first == again == elsewhere and choices == set("ABCDN")


def test_requests_are_there_as_they_were_asked(five: tuple[bytes, ...]) -> None:
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
