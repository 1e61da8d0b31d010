"""`/decisions` as its callers see it: kept answers, filters, pages, pictures, feedback, erasure, and failures."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.service.decisions.conftest import ADMIN_KEY, FEEDBACK_KEY, WRITING, sha256

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

READ = {"Authorization": f"Bearer {FEEDBACK_KEY}"}
ADMIN = {"Authorization": f"Bearer {ADMIN_KEY}"}


@pytest.fixture
def open_service(start, kept):
    """A service that keeps decisions, and a function that waits until all are written."""

    @asynccontextmanager
    async def opened(**settings: Any):
        async with start(**(kept | settings)) as running:

            async def written(count: int) -> None:
                while running.metric("screening_decisions_total", result="stored") < count:
                    await asyncio.sleep(0.01)

            yield running, written

    return opened


async def screened(running, sample, **fields: Any) -> dict[str, Any]:
    answer = await running.client.post("/screen", json=sample.json(**fields))
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_an_answer_can_be_read_again_with_its_pictures(open_service, make_sample) -> None:
    sample = make_sample(1)
    async with open_service() as (running, written):
        given = await screened(running, sample, metadata={"product": "SKU-1"})
        await written(1)
        kept = (await running.client.get(f"/v1/decisions/{given['id']}", headers=READ)).json()
        pictures = [
            await running.client.get(f"/decisions/{given['id']}/pictures/{position}", headers=READ)
            for position in range(5)
        ]
    assert kept["answer"] == given and kept["feedback"] == []
    assert [one["position"] for one in kept["pictures"]] == [0, 1, 2, 3, 4]
    assert [one.content for one in pictures] == list(sample.pictures)
    assert {one.headers["content-type"] for one in pictures} == {"image/jpeg"}


async def test_pages_and_filters_find_each_decision_once(open_service, make_sample) -> None:
    async with open_service() as (running, written):
        given = [await screened(running, make_sample(seed), metadata={"product": seed % 2}) for seed in range(7)]
        await written(7)

        async def pages(**query: Any) -> list[str]:
            found, cursor = [], None
            while True:
                more = {"cursor": cursor} if cursor else {}
                page = (await running.client.get("/decisions", params=query | more, headers=READ)).json()
                found += [one["id"] for one in page["decisions"]]
                if (cursor := page["next"]) is None:
                    return found

        newest_first = [one["id"] for one in reversed(given)]
        assert await pages(limit=3) == newest_first == await pages(limit=7)
        assert await pages(product="1", limit=1) == [one["id"] for one in reversed(given) if one["metadata"]["product"]]
        for choice in "ABCDN":
            assert await pages(choice=choice) == [one["id"] for one in reversed(given) if one["choice"] == choice]
        assert await pages(max_confidence=0) == [] and await pages(until="2020-01-01T00:00:00Z") == []
        assert await pages(since="2020-01-01T00:00:00Z", checkpoint=given[0]["checkpoint"]["digest"]) == newest_first


async def test_a_page_follows_one_whose_last_decision_was_erased(open_service, make_sample) -> None:
    async with open_service() as (running, written):
        given = [(await screened(running, make_sample(seed)))["id"] for seed in range(4)]
        await written(4)
        first = (await running.client.get("/decisions", params={"limit": 2}, headers=READ)).json()
        await running.client.delete(f"/decisions/{given[2]}", headers=ADMIN)
        query = {"limit": 2, "cursor": first["next"]}
        second = (await running.client.get("/decisions", params=query, headers=READ)).json()
    assert [one["id"] for one in second["decisions"]] == given[1::-1] and second["next"] is None


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)  # nothing reaches the database
@pytest.mark.parametrize(
    "query",
    [{"limit": 0}, {"limit": "x"}, {"choice": "E"}, {"since": "yesterday"}, {"since": "2026-01-01T00:00:00"},
     {"since": "0001-01-01T00:00:00+14:00"}, {"until": "9999-12-31T23:59:59-14:00"}, {"min_confidence": 2},
     {"needs_review": "maybe"}, {"product": "a\x00b"}, {"product": "a\nb"}, {"cursor": "x" * 65}],
    ids=str,
)  # fmt: skip
async def test_a_wrong_parameter_is_named(open_service, query) -> None:
    async with open_service() as (running, _):
        answer = await running.client.get("/decisions", params=query, headers=READ)
    problem = answer.json()
    assert answer.status_code == 422 and problem["type"].endswith(":invalid-request"), problem
    assert next(iter(query)) in problem["detail"] or "printed" in problem["detail"]


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)  # nothing reaches the database
@pytest.mark.parametrize("path", ["", "/scr_1", "/scr_1/pictures/0"])
async def test_decisions_need_their_key(open_service, path) -> None:
    async with open_service() as (running, _):
        without = await running.client.get(f"/decisions{path}")
        wrong = await running.client.get(f"/decisions{path}", headers={"Authorization": "Bearer wrong"})
    assert without.status_code == wrong.status_code == 401
    async with open_service(feedback_keys=(), admin_keys=()) as (running, _):
        assert (await running.client.get(f"/decisions{path}", headers=READ)).status_code == 403


async def test_an_admin_key_reads_decisions_and_a_key_of_screen_alone_does_not(open_service, sample) -> None:
    async with open_service(api_keys=f"pipeline:{sha256('screen-key')}") as (running, written):
        screen = {"Authorization": "Bearer screen-key"}
        assert (await running.client.post("/screen", json=sample.json(), headers=screen)).status_code == 200
        await written(1)
        (found,) = (await running.client.get("/decisions", headers=ADMIN)).json()["decisions"]
        refused = await running.client.get("/decisions", headers=screen)
    assert found["caller"] == "pipeline", "decisions name the caller and not the hash of its key"
    assert refused.status_code == 403 and "lacks the scope 'feedback'" in refused.json()["detail"]


async def test_a_service_that_keeps_none_has_no_such_path(start) -> None:
    async with start() as running:
        assert (await running.client.get("/decisions", headers=READ)).status_code == 404
        assert "/decisions" not in (await running.client.get("/openapi.json")).json()["paths"]


async def test_feedback_is_added_once_for_each_key(open_service, sample) -> None:
    async with open_service() as (running, written):
        given = await screened(running, sample)
        await written(1)
        path, order = f"/decisions/{given['id']}/feedback", {"kind": "verdict", "options": "AC", "comment": "ä\n😀"}
        keyed = READ | {"Idempotency-Key": "k1"}
        first = await running.client.post(path, json=order, headers=keyed)
        again = await running.client.post(path, json=order, headers=keyed)
        other = await running.client.post(path, json=order | {"options": "N"}, headers=keyed)
        none = await running.client.post(path, json={"kind": "returned", "options": "N"}, headers=READ)
        kept = (await running.client.get(f"/decisions/{given['id']}", headers=READ)).json()["feedback"]
    assert first.status_code == again.status_code == 201 and first.json() == again.json()
    assert other.status_code == 422 and other.json()["type"].endswith(":idempotency-key-reused")
    assert kept == [first.json(), none.json()] and kept[1]["options"] == "N" and kept[0]["caller"] == "shop"


async def test_a_comment_and_a_product_in_ordinary_writing_are_kept(open_service, sample) -> None:
    product = "\u6e6f\u3000\u5475\u00a0No.\u202f1"
    async with open_service() as (running, written):
        given = await screened(running, sample, metadata={"product": product})
        await written(1)
        order = {"kind": "verdict", "options": "AC", "comment": WRITING}
        sent = await running.client.post(f"/decisions/{given['id']}/feedback", json=order, headers=READ)
        found = (await running.client.get("/decisions", params={"product": product}, headers=READ)).json()
        kept = (await running.client.get(f"/decisions/{given['id']}", headers=READ)).json()
    assert sent.status_code == 201, sent.text
    assert [one["comment"] for one in kept["feedback"]] == [WRITING]
    assert [(one["id"], one["product"]) for one in found["decisions"]] == [(given["id"], product)]


@pytest.mark.parametrize("character", ["\u8272", "\U0001f469"])
async def test_a_comment_of_the_greatest_length_may_be_written_in_escapes(open_service, sample, character) -> None:
    order = {"kind": "shown", "options": "A", "comment": 4000 * character}
    async with open_service() as (running, written):
        given = await screened(running, sample)
        await written(1)
        path = f"/decisions/{given['id']}/feedback"
        headers = READ | {"Content-Type": "application/json"}
        sent = await running.client.post(path, content=json.dumps(order), headers=headers)
    assert sent.status_code == 201 and sent.json()["comment"] == order["comment"]


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)  # nothing reaches the database
@pytest.mark.parametrize(
    ("body", "status"),
    [(b"{", 400), (b"", 400), (b'{"kind": "verdict"}', 422), (b'{"kind": "shown", "options": ""}', 422),
     (b'{"kind": "shown", "options": "CA"}', 422), (b'{"kind": "liked", "options": "A"}', 422),
     (b'{"kind": "shown", "options": "A", "more": 1}', 422),
     (b'{"kind":"shown","options":"A","comment":"\\u0000"}', 422),
     (b'{"kind":"shown","options":"A","comment":"\\u001b[2J"}', 422),
     (b'{"kind":"shown","options":"A","x":"' + b"x" * 70_000, 413)],
    ids=lambda value: str(value)[:40],
)  # fmt: skip
async def test_feedback_that_cannot_be_read_is_refused(open_service, body, status) -> None:
    async with open_service() as (running, _):
        answer = await running.client.post("/decisions/scr_1/feedback", content=body, headers=READ)
    assert answer.status_code == status, answer.text


async def test_feedback_to_a_decision_that_is_not_there(open_service) -> None:
    async with open_service() as (running, _):
        order = {"kind": "shown", "options": "A"}
        answer = await running.client.post("/decisions/scr_1/feedback", json=order, headers=READ)
    assert answer.status_code == 404 and answer.json()["type"].endswith(":decision-not-found")


async def test_erasing_takes_feedback_and_pictures_that_no_other_shows(open_service, make_sample, kept) -> None:
    from service.decisions.picture_store import PictureStore

    one, other = make_sample(1), make_sample(2)
    both = type(one)((one.pictures[0], *other.pictures[1:]))  # shares its original with the first
    async with open_service() as (running, written):
        first, second = await screened(running, one), await screened(running, both)
        await written(2)
        await running.client.post(
            f"/decisions/{first['id']}/feedback", json={"kind": "shown", "options": "A"}, headers=READ
        )
        details = (await running.client.get(f"/decisions/{first['id']}", headers=READ)).json()
        refused = await running.client.delete(f"/decisions/{first['id']}", headers=READ)
        erased = [await running.client.delete(f"/decisions/{first['id']}", headers=ADMIN) for _ in range(2)]
        gone = await running.client.get(f"/decisions/{first['id']}", headers=READ)
        shared = await running.client.get(f"/decisions/{second['id']}/pictures/0", headers=READ)
    assert refused.status_code == 403 and [one.status_code for one in erased] == [204, 204] and gone.status_code == 404
    assert shared.content == one.pictures[0]
    store = PictureStore(kept["pictures"])
    assert [store.get(picture["sha256"]) is not None for picture in details["pictures"]] == [True, *[False] * 4]


async def test_a_repeated_request_is_kept_once_for_each_answer(open_service, sample) -> None:
    """A cached answer is an answer of its own; one that goes out again for its Idempotency-Key is not."""
    async with open_service() as (running, written):
        for _ in range(2):
            await screened(running, sample)
        for _ in range(2):
            await running.client.post("/screen", json=sample.json(), headers={"Idempotency-Key": "k"})
        await written(3)
    # At its end, the service has stored everything.
    assert running.metric("screening_decisions_total", result="stored") == 3
