"""Requests that are sent again with their Idempotency-Key get the first answer."""

from __future__ import annotations

import asyncio
import hashlib

import pytest

from tests.service.pipeline.callers import Caller, HeldEngine, until, waiters

pytestmark = pytest.mark.anyio

KEY = {"Idempotency-Key": "order-4711"}


async def test_the_same_key_gets_the_same_answer_byte_for_byte(start, sample) -> None:
    engine = HeldEngine()
    async with start(engine, answer_cache_entries=0) as running:
        first = await running.client.post("/screen", json=sample.json(metadata={"a": 1, "b": 2}), headers=KEY)
        engine.version = "2"  # the stored answer is repeated and names the checkpoint that gave it
        again = await running.client.post(
            "/screen", files=sample.files(), data={"metadata": '{"b": 2, "a": 1}'}, headers=KEY | {"X-Request-Id": "r2"}
        )
        assert (first.status_code, again.status_code, engine.asked) == (200, 200, 1)
        assert again.content == first.content and again.headers["content-type"] == first.headers["content-type"]
        assert again.headers["idempotent-replayed"] == "true" and "idempotent-replayed" not in first.headers
        assert again.headers["x-request-id"] == "r2"
        assert running.metric("screening_answers_total", source="replay") == 1
        assert running.metric("screening_requests_total", status="200", outcome="answered") == 2


@pytest.mark.parametrize("change", [{"mode": "direct"}, {"metadata": {"sku": "2"}}])
async def test_the_same_key_with_another_request_is_422(start, sample, change) -> None:
    async with start(HeldEngine()) as running:
        await running.client.post("/screen", json=sample.json(), headers=KEY)
        response = await running.client.post("/screen", json=sample.json(**change), headers=KEY)
        assert response.status_code == 422
        assert response.json()["type"] == "urn:screening:problem:idempotency-key-reused"
        assert "new key" in response.json()["detail"]
        assert (await running.client.post("/screen", json=sample.json(**change))).status_code == 200


async def test_the_same_key_in_flight_joins_and_gets_the_same_answer(start, sample) -> None:
    engine = HeldEngine(held=True)
    async with start(engine) as running:
        calls = [asyncio.create_task(running.client.post("/screen", json=sample.json(), headers=KEY)) for _ in range(3)]
        await until(lambda: waiters(running) == 3)
        refused = await running.client.post("/screen", json=sample.json(mode="direct"), headers=KEY)
        assert refused.status_code == 422
        engine.go.set()
        responses = await asyncio.gather(*calls)
        assert engine.asked == 1 and len({response.content for response in responses}) == 1
        assert sum("idempotent-replayed" in response.headers for response in responses) == 2


async def test_who_sends_again_after_losing_the_connection_takes_over(start, sample) -> None:
    engine = HeldEngine(held=True)
    async with start(engine) as running:
        lost = Caller(running.app, sample.json(), Idempotency_Key="order-4711")
        await until(lambda: engine.inside == 1)
        again = Caller(running.app, sample.json(), Idempotency_Key="order-4711")
        await until(lambda: waiters(running) == 2)
        await lost.hang_up()
        engine.go.set()
        answer = await again.answer()
        replayed = await running.client.post("/screen", json=sample.json(), headers=KEY)
        assert replayed.json() == answer and engine.asked == 1


async def test_work_that_cannot_be_joined_is_other_work_and_its_key_still_has_one_answer(start, sample) -> None:
    """Another checkpoint is served when the request is sent again: two inferences at a time, under two names."""
    engine = HeldEngine(held=True)
    async with start(engine) as running:
        first = asyncio.create_task(running.client.post("/screen", json=sample.json(), headers=KEY))
        await until(lambda: engine.inside == 1)
        engine.version = "2"
        second = asyncio.create_task(running.client.post("/screen", json=sample.json(), headers=KEY))
        await until(lambda: engine.inside == 2)
        assert len(set(engine.names)) == 2
        engine.go.set()
        assert (await first).content == (await second).content


async def test_errors_are_not_kept_for_their_key(start, sample) -> None:
    engine = HeldEngine()
    async with start(engine) as running:
        engine.fails = True
        assert (await running.client.post("/screen", json=sample.json(), headers=KEY)).status_code == 500
        engine.fails = False
        response = await running.client.post("/screen", json=sample.json(), headers=KEY)
        assert response.status_code == 200 and "idempotent-replayed" not in response.headers


async def test_a_refused_request_leaves_its_key_free_for_the_mended_one(start, sample) -> None:
    broken = type(sample)((sample.pictures[0][:-200], *sample.pictures[1:]))
    async with start(HeldEngine()) as running:
        assert (await running.client.post("/screen", json=broken.json(), headers=KEY)).status_code == 422
        assert (await running.client.post("/screen", json=sample.json(), headers=KEY)).status_code == 200


async def test_keys_of_two_callers_never_meet(start, sample, make_sample) -> None:
    hashes = ",".join(hashlib.sha256(name.encode()).hexdigest() for name in ("mine", "yours"))
    async with start(HeldEngine(), api_keys=hashes) as running:
        mine, yours = (KEY | {"Authorization": f"Bearer {name}"} for name in ("mine", "yours"))
        one = await running.client.post("/screen", json=sample.json(), headers=mine)
        other = await running.client.post("/screen", json=make_sample(2).json(), headers=yours)
        assert (one.status_code, other.status_code) == (200, 200)
        same = await running.client.post("/screen", json=sample.json(), headers=mine)
        assert same.json()["id"] == one.json()["id"]


async def test_a_key_given_twice_is_malformed(start, sample) -> None:
    async with start() as running:
        headers = [("Idempotency-Key", "a"), ("Idempotency-Key", "b")]
        response = await running.client.post("/screen", json=sample.json(), headers=headers)
        assert response.status_code == 400


async def test_replies_are_not_kept_when_that_is_switched_off(start, sample) -> None:
    async with start(HeldEngine(), idempotency_entries=0) as running:
        for body in (sample.json(), sample.json(mode="direct"), sample.json()):
            response = await running.client.post("/screen", json=body, headers=KEY)
            assert response.status_code == 200 and "idempotent-replayed" not in response.headers
