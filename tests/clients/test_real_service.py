"""Against the real service with its scripted engine: no stand-in on the wire."""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from screening_client import AsyncClient, Client, InvalidRequest, NotFound, ScreenRequest, UnexpectedAnswer, cli


@pytest.mark.parametrize("mode", ["cot", "direct"])
def test_a_screening_comes_back_with_every_field(real_service: str, question: Any, mode: Any) -> None:
    with Client(base_url=real_service) as client:
        screening = client.screen(**question, mode=mode, metadata={"sku": "4711", "ü": [1]}, request_id="mine.1")
    assert screening.answered and screening.choice in tuple("ABCDN") and screening.engine == "scripted"
    assert [option.option for option in screening.options] == list("ABCD")
    assert {option.option for option in screening.options if option.usable} == set(screening.acceptable)
    assert (screening.mode, screening.request_id, screening.metadata) == (mode, "mine.1", {"sku": "4711", "ü": [1]})
    assert (screening.reasoning is None) is (mode == "direct")


def test_paths_bytes_files_and_pil_images_are_the_same_question(
    real_service: str, five: tuple[bytes, ...], tmp_path: Path
) -> None:
    (tmp_path / "original.jpg").write_bytes(five[0])
    with Client(base_url=real_service) as client, Image.open(BytesIO(five[4])) as last:
        mixed = client.screen(original=tmp_path / "original.jpg", generated=[five[1], BytesIO(five[2]), five[3], last])
        # The scripted engine answers by the pictures, so the same PNG in place of the PIL image is the same question.
        buffer = BytesIO()
        last.save(buffer, format="PNG")
        plain = client.screen(original=five[0], generated=[*five[1:4], buffer.getvalue()])
    assert replace(mixed, id="", timings=plain.timings, source="cache") == replace(plain, id="")
    assert plain.source == "cache", "the service saw the same bytes"


@pytest.mark.slow
def test_five_pil_images_of_twelve_megapixels_are_screened(real_service: str) -> None:
    noise = Image.effect_noise((4000, 3000), 60)
    images = [Image.merge("RGB", [noise, noise.point(lambda value: 255 - value), noise]) for _ in range(5)]
    with Client(base_url=real_service) as client:
        assert client.screen(original=images[0], generated=images[1:]).answered


def test_both_clients_get_the_same_answer(real_service: str, question: Any) -> None:
    async def call() -> Any:
        async with AsyncClient(base_url=real_service) as client:
            await client.wait_until_ready()
            return await client.screen(**question)

    with Client(base_url=real_service) as client:
        assert client.ready()
        sync = client.screen(**question)
    twin = asyncio.run(call())
    assert replace(sync, id="", timings=twin.timings, source=twin.source) == replace(twin, id="")


@contextmanager
def counting(url: str) -> Iterator[Counter[str]]:
    """Counts the service's answers in the block by their source. The counts are there after the block."""
    counted: Counter[str] = Counter()
    before = answers_by_source(url)
    yield counted
    counted.update(answers_by_source(url) - before)


def answers_by_source(url: str) -> Counter[str]:
    page = httpx.get(f"{url}/metrics").text
    counts = re.findall(r'^screening_answers_total\{source="(\w+)"\} (.+)$', page, re.M)
    return Counter({name: int(float(count)) for name, count in counts})


def new_question(five: tuple[bytes, ...]) -> dict[str, Any]:
    """A question that the service has not answered before."""
    return {"original": five[0] + os.urandom(8), "generated": list(five[1:])}


@pytest.mark.slow
def test_two_calls_with_the_same_pictures_cost_one_inference(slow_service: str, five: tuple[bytes, ...]) -> None:
    question = new_question(five)
    with counting(slow_service) as answers, Client(base_url=slow_service) as client, ThreadPoolExecutor(2) as pool:
        one, other = (pool.submit(client.screen, **question, metadata={"n": n}) for n in (1, 2))
        sources = {one.result().source, other.result().source}
        again = client.screen(**question)
    assert again.source == "cache" and len({one.result().id, other.result().id, again.id}) == 3
    assert (one.result().metadata, other.result().metadata) == ({"n": 1}, {"n": 2})
    assert sources == {"engine", "shared"}
    assert answers == {"engine": 1, "shared": 1, "cache": 1}


@pytest.mark.slow
def test_two_calls_with_one_idempotency_key_are_answered_once(slow_service: str, five: tuple[bytes, ...]) -> None:
    """A pipeline repeats a request after a crash, and then uses its key for another product."""
    question = new_question(five)
    with counting(slow_service) as answers, Client(base_url=slow_service) as client:
        first = client.screen(**question, idempotency_key="product-4711")
        assert client.screen(**question, idempotency_key="product-4711") == first
        with pytest.raises(InvalidRequest) as caught:
            client.screen(**question, mode="direct", idempotency_key="product-4711")
    assert caught.value.code == "idempotency-key-reused"
    assert answers == {"engine": 1, "replay": 1}


@pytest.mark.slow
def test_an_attempt_that_loses_its_answer_gets_it_by_the_next(slow_service: str, five: tuple[bytes, ...]) -> None:
    """The connection breaks after the service has computed the answer; the retry carries the same key."""
    lost: list[httpx.Response] = []

    def lossy(request: httpx.Request) -> httpx.Response:
        with httpx.Client() as real:
            response = real.send(request)
        if not lost:
            lost.append(response)
            raise httpx.ReadError("the connection broke", request=request)
        return response

    with (
        counting(slow_service) as answers,
        httpx.Client(transport=httpx.MockTransport(lossy)) as http,
        Client(base_url=slow_service, http_client=http) as client,
    ):
        screening = client.screen(**new_question(five))
    assert screening.raw == lost[0].json()
    assert answers == {"engine": 1, "replay": 1}


def test_a_damaged_picture_is_named_by_the_service(real_service: str, five: tuple[bytes, ...]) -> None:
    with Client(base_url=real_service) as client, pytest.raises(InvalidRequest) as caught:
        client.screen(original=five[0], generated=[five[1], five[2][:200], five[3], five[4]], request_id="mine.2")
    error = caught.value
    assert (error.code, error.picture, error.request_id) == ("image-unreadable", "generated[1]", "mine.2")


def test_a_wrong_path_in_the_address_is_not_found(real_service: str, question: Any) -> None:
    with Client(base_url=f"{real_service}/v9") as client, pytest.raises(NotFound):
        client.screen(**question)


def test_many_at_once_come_back_in_order(real_service: str, question: Any) -> None:
    requests = [ScreenRequest(**question, metadata={"number": number}) for number in range(40)]
    with Client(base_url=real_service) as client:
        results = client.screen_many(requests, concurrency=8, progress=False)
    assert [result.metadata["number"] for result in results] == list(range(40))


@pytest.mark.slow
def test_callers_sent_away_by_a_full_queue_come_back_and_are_answered(narrow_service: str, question: Any) -> None:
    """Eight at once for two places: 429 with the service's own Retry-After, obeyed until all have their answer."""
    statuses: list[int] = []

    async def note(response: httpx.Response) -> None:
        statuses.append(response.status_code)

    async def call() -> list[Any]:
        async with (
            httpx.AsyncClient(event_hooks={"response": [note]}) as http,
            AsyncClient(base_url=narrow_service, max_retries=50, http_client=http) as client,
        ):
            return await client.screen_many([ScreenRequest(**question)] * 8, concurrency=8, progress=False)

    assert len(asyncio.run(call())) == 8
    assert set(statuses) == {200, 429} and statuses.count(200) == 8


def different(five: tuple[bytes, ...], count: int) -> list[ScreenRequest]:
    """Requests that the service cannot answer from its cache."""
    return [ScreenRequest(**new_question(five)) for _ in range(count)]


@pytest.mark.slow
@pytest.mark.parametrize(
    "twin",
    [
        "sync",
        # The asynchronous client is sent away by a full queue in the test above.
        pytest.param("async", marks=pytest.mark.exhaustive),
    ],
)
def test_a_bulk_run_against_a_small_service_loses_nothing(
    narrow_service: str, five: tuple[bytes, ...], twin: str
) -> None:
    """24 requests at concurrency 8 for one place and a queue of one, with the default number of retries."""
    statuses: list[int] = []
    requests = different(five, 24)

    def note(response: httpx.Response) -> None:
        statuses.append(response.status_code)

    async def note_async(response: httpx.Response) -> None:
        note(response)

    async def call() -> list[Any]:
        async with (
            httpx.AsyncClient(event_hooks={"response": [note_async]}) as http,
            AsyncClient(base_url=narrow_service, http_client=http) as client,
        ):
            return await client.screen_many(requests, concurrency=8)

    if twin == "async":
        results = asyncio.run(call())
    else:
        with (
            httpx.Client(event_hooks={"response": [note]}) as http,
            Client(base_url=narrow_service, http_client=http) as client,
        ):
            results = client.screen_many(requests, concurrency=8)
    assert len(results) == 24 and all(result.answered for result in results)
    assert statuses.count(200) == 24 and 429 in statuses


def test_a_batch_from_files(real_service: str, five: tuple[bytes, ...], tmp_path: Path, capsys: Any) -> None:
    for name, data in zip("oabcd", five, strict=True):
        (tmp_path / f"{name}.jpg").write_bytes(data)
    row = {"original": "o.jpg", "generated": [f"{name}.jpg" for name in "abcd"], "metadata": {"sku": "1"}}
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("".join(json.dumps({"id": f"p{n}", **row}) + "\n" for n in range(5)))
    assert cli.main(["batch", str(source), "--out", str(out), "--base-url", real_service, "--mode", "direct"]) == 0
    results = [json.loads(line) for line in out.read_text().splitlines()]
    assert sorted(result["id"] for result in results) == [f"p{n}" for n in range(5)]
    assert {result["screening"]["mode"] for result in results} == {"direct"}


@pytest.mark.slow
def test_another_page_of_the_service_is_not_a_screening(real_service: str, question: Any) -> None:
    """A wrong base_url gives a 200 without a decision."""

    def elsewhere(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json=httpx.get(f"{real_service}/readyz").json(), request=request)

    with (
        httpx.Client(transport=httpx.MockTransport(elsewhere)) as http,
        Client(base_url=real_service, http_client=http) as client,
        pytest.raises(UnexpectedAnswer),
    ):
        client.screen(**question)
