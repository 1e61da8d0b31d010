"""The same question twice costs one inference: shared in flight, kept afterwards, and replayed for its key."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from service.engines.scripted_engine import ScriptedEngine
from service.pipeline import screen
from service.schemas import ScreenAnswer
from tests.service.pipeline.callers import Caller, HeldEngine, until, waiters

pytestmark = pytest.mark.anyio


def own(answer: dict[str, Any]) -> dict[str, Any]:
    """The fields of an answer that belong to one caller; all others are the same for all."""
    return {name: answer[name] for name in ("id", "metadata", "source", "timings")}


def common(answer: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in answer.items() if name not in own(answer)}


async def test_identical_requests_in_flight_share_one_inference_and_one_slot(start, sample) -> None:
    engine = HeldEngine(held=True)
    async with start(engine, max_concurrent=2) as running:
        calls = [
            asyncio.create_task(running.client.post("/screen", json=sample.json(metadata={"n": number})))
            for number in range(5)
        ]
        await until(lambda: waiters(running) == 5 and engine.inside == 1)
        admission = running.app.state.service.admission
        assert (admission.inside, admission.running) == (5, 1)
        engine.go.set()
        answers = [response.json() for response in await asyncio.gather(*calls)]
        assert engine.asked == 1
        assert [answer["metadata"]["n"] for answer in answers] == list(range(5))
        assert len({answer["id"] for answer in answers}) == 5
        assert sorted(answer["source"] for answer in answers) == ["engine"] + ["shared"] * 4
        assert all(common(answer) == common(answers[0]) for answer in answers)
        assert running.metric("screening_answers_total", source="shared") == 4
        assert running.metric("screening_tokens_total", kind="prompt") == answers[0]["usage"]["prompt_tokens"]


async def test_another_mode_or_other_pictures_are_other_work(start, sample, make_sample) -> None:
    engine = HeldEngine(held=True)
    async with start(engine) as running:
        bodies = [sample.json(), sample.json(mode="direct"), make_sample(2).json()]
        calls = [asyncio.create_task(running.client.post("/screen", json=body)) for body in bodies]
        await until(lambda: engine.inside == 3)
        engine.go.set()
        assert {response.json()["source"] for response in await asyncio.gather(*calls)} == {"engine"}


async def test_the_first_one_leaves_and_the_others_are_answered(start, sample) -> None:
    engine = HeldEngine(held=True)
    async with start(engine) as running:
        first = Caller(running.app, sample.json())
        await until(lambda: engine.inside == 1)
        others = [Caller(running.app, sample.json()) for _ in range(3)]
        await until(lambda: waiters(running) == 4)
        await first.hang_up()
        assert (engine.aborted, running.app.state.service.admission.inside) == (0, 3)
        engine.go.set()
        assert {(await other.answer())["source"] for other in others} == {"shared"}
        assert engine.asked == 1
        assert running.metric("screening_aborted_total", reason="client_gone") == 1


async def test_the_last_one_leaves_and_the_engine_is_free(start, sample) -> None:
    engine = HeldEngine(held=True)
    async with start(engine) as running:
        callers = [Caller(running.app, sample.json()) for _ in range(3)]
        await until(lambda: waiters(running) == 3 and engine.inside == 1)
        for left, caller in enumerate(callers, 1):
            await caller.hang_up()
            assert engine.aborted == (left == 3)
        admission = running.app.state.service.admission
        assert (engine.inside, admission.inside, admission.running) == (0, 0, 0)
        engine.go.set()
        assert (await running.client.post("/screen", json=sample.json())).json()["source"] == "engine"


@pytest.mark.slow
async def test_each_caller_has_its_own_deadline(start, sample) -> None:
    engine = HeldEngine(held=True)
    async with start(engine, deadline_seconds=3) as running:
        early = asyncio.create_task(running.client.post("/screen", json=sample.json()))
        await asyncio.sleep(1.5)
        late = asyncio.create_task(running.client.post("/screen", json=sample.json()))
        assert (await early).status_code == 504
        engine.go.set()
        response = await late
        assert response.status_code == 200 and response.json()["source"] == "shared"
        assert (engine.asked, engine.aborted) == (1, 0)


@pytest.mark.slow
async def test_of_shared_work_only_the_own_waiting_is_reported(start, sample) -> None:
    engine = HeldEngine(held=True)
    async with start(engine) as running:
        early = Caller(running.app, sample.json())
        await until(lambda: engine.inside == 1)
        await asyncio.sleep(0.2)
        late = Caller(running.app, sample.json())
        await until(lambda: waiters(running) == 2)
        engine.go.set()
        early_ms, late_ms = [(await caller.answer())["timings"] for caller in (early, late)]
        assert late_ms["queue_ms"] == late_ms["decode_ms"] == 0.0
        assert 0 < late_ms["engine_ms"] <= late_ms["total_ms"]
        assert early_ms["engine_ms"] >= late_ms["engine_ms"] + 190


async def test_when_the_engine_fails_all_callers_get_the_error_and_nothing_is_kept(start, sample) -> None:
    engine = HeldEngine(held=True)
    async with start(engine) as running:
        calls = [asyncio.create_task(running.client.post("/screen", json=sample.json())) for _ in range(3)]
        await until(lambda: waiters(running) == 3 and engine.inside == 1)
        engine.fails = True
        engine.go.set()
        responses = await asyncio.gather(*calls)
        assert {response.json()["type"] for response in responses} == {"urn:screening:problem:internal"}
        assert len({response.json()["request_id"] for response in responses}) == 3
        engine.fails = False
        assert (await running.client.post("/screen", json=sample.json())).json()["source"] == "engine"


async def test_a_picture_that_cannot_be_decoded_is_refused_for_all_and_again(start, sample) -> None:
    broken = type(sample)((sample.pictures[0][:-200], *sample.pictures[1:])).json()
    async with start(HeldEngine()) as running:
        responses = await asyncio.gather(*(running.client.post("/screen", json=broken) for _ in range(3)))
        responses.append(await running.client.post("/screen", json=broken))
        assert {(response.status_code, response.json()["picture"]) for response in responses} == {(422, "original")}
        assert running.metric("screening_cache_entries", kind="answers") == 0


async def test_an_answer_is_kept_and_given_again_without_decoding(start, sample, monkeypatch) -> None:
    engine = HeldEngine()
    async with start(engine) as running:
        first = (await running.client.post("/screen", json=sample.json(metadata={"n": 1}))).json()
        monkeypatch.setattr(screen, "_prepare", lambda *_: pytest.fail("a picture was decoded"))
        response = await running.client.post("/screen", files=sample.files(), data={"metadata": '{"n": 2}'})
        again = ScreenAnswer.model_validate_json(response.content).model_dump(mode="json")
        assert engine.asked == 1 and common(again) == common(first)
        assert (first["source"], again["source"]) == ("engine", "cache")
        assert again["id"] != first["id"] and again["metadata"] == {"n": 2}
        assert (again["timings"]["engine_ms"], again["timings"]["decode_ms"]) == (0, 0)
        assert again["timings"]["total_ms"] > 0
        assert running.metric("screening_answers_total", source="cache") == 1
        assert running.metric("screening_choices_total", option=first["choice"], mode="cot") == 1


async def test_a_kept_answer_waits_for_no_slot(start, sample, make_sample) -> None:
    engine = HeldEngine()
    async with start(engine, max_concurrent=1) as running:
        await running.client.post("/screen", json=sample.json())
        engine.go.clear()
        slow = asyncio.create_task(running.client.post("/screen", json=make_sample(2).json()))
        await until(lambda: engine.inside == 1)
        assert (await running.client.post("/screen", json=sample.json())).json()["source"] == "cache"
        assert not slow.done()
        engine.go.set()
        await slow


async def test_nothing_is_kept_when_it_is_switched_off(start, sample) -> None:
    engine = HeldEngine()
    async with start(engine, answer_cache_entries=0) as running:
        for _ in range(2):
            assert (await running.client.post("/screen", json=sample.json())).json()["source"] == "engine"
    assert engine.asked == 2


async def test_an_unreadable_text_is_not_kept(start, sample) -> None:
    async with start(ScriptedEngine(latency_ms=0, failure="unreadable")) as running:
        for _ in range(2):
            answer = (await running.client.post("/screen", json=sample.json())).json()
            assert (answer["outcome"], answer["source"]) == ("unreadable", "engine")
        assert running.metric("screening_cache_entries", kind="answers") == 0


@pytest.mark.parametrize(
    ("bounds", "most"),
    [({"answer_cache_entries": 3}, 3), ({"answer_cache_bytes": 10_000}, 9)],
    ids=["entries", "bytes"],
)
async def test_kept_answers_stay_within_their_bounds(start, make_sample, bounds, most) -> None:
    async with start(HeldEngine(), **bounds) as running:
        for seed in range(12):
            await running.client.post("/screen", json=make_sample(seed).json())
        assert 1 <= running.metric("screening_cache_entries", kind="answers") <= most
        assert running.metric("screening_cache_bytes", kind="answers") <= bounds.get("answer_cache_bytes", 10**9)
        assert running.metric("screening_evictions_total", kind="answers", reason="full") >= 12 - most
        assert (await running.client.post("/screen", json=make_sample(11).json())).json()["source"] == "cache"
        assert (await running.client.post("/screen", json=make_sample(0).json())).json()["source"] == "engine"


async def test_an_answer_is_never_attributed_to_another_checkpoint(start, sample) -> None:
    engine = HeldEngine()
    async with start(engine) as running:
        seen = []
        for engine.version in ("1", "2", "1", "2"):
            answer = (await running.client.post("/screen", json=sample.json())).json()
            seen.append((answer["checkpoint"]["version"], answer["source"]))
        assert seen == [("1", "engine"), ("2", "engine"), ("1", "cache"), ("2", "cache")]


async def test_an_answer_is_kept_under_the_checkpoint_that_wrote_it(start, sample) -> None:
    """The request came while one checkpoint was served, waited, and was answered by the next."""
    engine = HeldEngine(held=True)
    async with start(engine) as running:
        waiting = asyncio.create_task(running.client.post("/screen", json=sample.json()))
        await until(lambda: engine.inside == 1)
        engine.version = "2"
        engine.go.set()
        assert (await waiting).json()["checkpoint"]["version"] == "2"
        again = (await running.client.post("/screen", json=sample.json())).json()
        assert (again["checkpoint"]["version"], again["source"]) == ("2", "cache")
        engine.version = "1"
        back = (await running.client.post("/screen", json=sample.json())).json()
        assert (back["checkpoint"]["version"], back["source"]) == ("1", "engine")
