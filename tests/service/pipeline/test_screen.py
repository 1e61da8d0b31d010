"""Valid requests and their answers."""

from __future__ import annotations

import asyncio
import json
import threading
from dataclasses import replace
from typing import Any

import pytest
from PIL import Image

from screening.answer import Answer, Mode, parse
from screening.checkpoint.manifest import ImageContract
from service.engines.protocol import Generated, LoadedCheckpoint, Question
from service.engines.scripted_engine import ScriptedEngine
from service.pipeline import screen
from service.schemas import ScreenAnswer
from tests.service.conftest import Sample, draw

pytestmark = pytest.mark.anyio


def decision(answer: dict[str, Any]) -> dict[str, Any]:
    """Everything but what differs between two calls."""
    return {key: value for key, value in answer.items() if key not in ("id", "timings")}


async def test_multipart_is_answered_with_a_complete_decision(start, sample) -> None:
    async with start() as running:
        response = await running.client.post("/screen", files=sample.files(), data={"metadata": '{"sku": "4711"}'})
    assert response.status_code == 200
    answer = ScreenAnswer.model_validate_json(response.content)
    assert answer.engine == "scripted" and answer.checkpoint.name == "scripted"
    assert answer.metadata == {"sku": "4711"}
    assert [entry.option for entry in answer.options] == ["A", "B", "C", "D"]
    assert {entry.option for entry in answer.options if entry.usable} == set(answer.acceptable)
    read = parse(f"<think>{answer.reasoning}</think><answer>{''.join(answer.acceptable) or 'N'}</answer>", Mode.COT)
    assert isinstance(read, Answer) and read.options == set(answer.acceptable)
    for entry in answer.options:
        assert bool(entry.issues) != entry.usable


async def test_json_and_multipart_give_the_same_decision(start, sample) -> None:
    async with start(answer_cache_entries=0) as running:
        one = await running.client.post("/screen", files=sample.files(), data={"mode": "cot", "metadata": '{"a": 1}'})
        other = await running.client.post("/screen", json=sample.json(mode="cot", metadata={"a": 1}))
    assert decision(one.json()) == decision(other.json())


class Tiling(ScriptedEngine):
    """An engine whose checkpoint has up to four tiles per picture."""

    shown: tuple[Image.Image, ...] = ()

    @property
    def checkpoint(self) -> LoadedCheckpoint:
        return replace(super().checkpoint, image=ImageContract(size=112, tokens_per_picture=16, max_patches=4))

    async def generate(self, question: Question) -> Generated:
        self.shown = question.pictures
        return await super().generate(question)


async def test_each_picture_is_prepared_for_its_own_grid_of_tiles(start) -> None:
    engine, sizes = Tiling(latency_ms=0), [(400, 400), (900, 300), (300, 900), (60, 60), (500, 260)]
    sample = Sample(tuple(draw(seed, size) for seed, size in enumerate(sizes)))
    async with start(engine) as running:
        assert (await running.client.post("/screen", json=sample.json())).status_code == 200
    assert [picture.size for picture in engine.shown] == [(224, 224), (336, 112), (112, 336), (112, 112), (224, 112)]


async def test_data_urls_are_understood(start, sample) -> None:
    body = sample.json()
    body["original"] = "data:image/jpeg;base64," + body["original"]
    async with start() as running:
        assert (await running.client.post("/screen", json=body)).status_code == 200


async def test_direct_mode_gives_letters_without_reasoning(start, sample) -> None:
    async with start() as running:
        answer = (await running.client.post("/screen", json=sample.json(mode="direct"))).json()
    assert answer["mode"] == "direct" and answer["reasoning"] is None
    assert all(entry["issues"] == [] and entry["comment"] is None for entry in answer["options"])


@pytest.mark.slow
async def test_choice_is_the_acceptable_option_held_most_probable(start, make_sample) -> None:
    several = 0
    async with start() as running:
        for seed in range(40):
            answer = (await running.client.post("/screen", json=make_sample(seed).json())).json()
            if answer["acceptable"]:
                assert answer["choice"] in answer["acceptable"]
            else:
                assert answer["choice"] == "N"
            several += len(answer["acceptable"]) > 1 and answer["choice"] != answer["acceptable"][0]
    assert several, "no answer had a choice behind its first acceptable option: the sample proves nothing"


class Contradicting(ScriptedEngine):
    """An engine that names a fault of picture B and chooses it."""

    async def generate(self, question: Question) -> Generated:
        seen = "<A> layout: it floats, <B> shadow: it has two, <C> layout: it floats, <D> layout: it floats"
        text = f"<think>I observed {seen}, so I ultimately chose B.</think><answer>B</answer>"
        return replace(await super().generate(question), text=text, steps=())


async def test_a_usable_picture_keeps_the_issues_of_a_sentence_that_contradicts_the_letters(start, sample) -> None:
    async with start(Contradicting(latency_ms=0)) as running:
        answer = (await running.client.post("/screen", json=sample.json())).json()
    assert (answer["outcome"], answer["choice"], answer["acceptable"]) == ("answered", "B", ["B"])
    said = {one["option"]: (one["usable"], one["issues"], one["comment"]) for one in answer["options"]}
    floats = (False, ["placement_layout"], "layout: it floats")
    assert said == {"A": floats, "B": (True, ["physical_shadow"], "shadow: it has two"), "C": floats, "D": floats}


async def test_an_unreadable_answer_never_becomes_a_choice(start, sample) -> None:
    async with start(ScriptedEngine(latency_ms=0, failure="unreadable")) as running:
        answer = (await running.client.post("/screen", json=sample.json())).json()
        assert running.metric("screening_unreadable_answers_total", reason="no_think", mode="cot") == 1
    assert answer["outcome"] == "unreadable" and answer["unreadable_reason"] == "no_think"
    assert (answer["choice"], answer["acceptable"], answer["confidence"]) == (None, [], 0)
    assert answer["needs_review"] is True


async def test_needs_review_follows_the_operators_threshold(start, sample) -> None:
    for threshold, expected in ((0.0, False), (1.0, True)):
        async with start(review_below=threshold) as running:
            answer = (await running.client.post("/screen", json=sample.json())).json()
        assert answer["needs_review"] is expected


@pytest.mark.parametrize("operator", [0.0, 1.0])
async def test_a_request_may_bring_its_own_threshold(start, sample, operator) -> None:
    async with start(review_below=operator) as running:
        confidence = (await running.client.post("/screen", json=sample.json())).json()["confidence"]
        for threshold in (0, confidence, min(1.0, confidence + 1e-6), 1.0):
            for answer in (
                await running.client.post("/screen", json=sample.json(review_below=threshold)),
                await running.client.post("/screen", files=sample.files(), data={"review_below": f" {threshold} "}),
            ):
                assert answer.json()["needs_review"] is (confidence < threshold)
        for body in (sample.json(review_below=None), sample.json()):
            answer = await running.client.post("/screen", json=body)
            assert answer.json()["needs_review"] is (confidence < operator), "the threshold outlived its request"
        answer = await running.client.post("/screen", files=sample.files(), data={"review_below": ""})
        assert answer.json()["needs_review"] is (confidence < operator)


async def test_a_threshold_is_part_of_the_request_of_an_idempotency_key(start, sample) -> None:
    async with start() as running:
        headers = {"Idempotency-Key": "k"}
        first = await running.client.post("/screen", json=sample.json(review_below=0.25), headers=headers)
        form = {"files": sample.files(), "data": {"review_below": "2.5e-1"}}
        again = await running.client.post("/v1/screen", headers=headers, **form)
        assert again.content == first.content
        other = await running.client.post("/screen", json=sample.json(review_below=0.5), headers=headers)
        assert other.json()["type"].endswith("idempotency-key-reused")


@pytest.mark.parametrize("value", [-0.01, 1.01, True, [], {}, 10**400, "half", "0,5"])
async def test_a_threshold_outside_of_0_to_1_is_refused_by_name(start, sample, value) -> None:
    async with start() as running:
        for response in (
            await running.client.post("/screen", json=sample.json(review_below=value)),
            await running.client.post("/screen", files=sample.files(), data={"review_below": str(value)}),
        ):
            assert response.status_code == 422 and "review_below" in response.json()["detail"]


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-1", "0x1", "1e999"])
async def test_a_threshold_that_is_not_a_number_is_refused_in_both_encodings(start, sample, text) -> None:
    async with start() as running:
        response = await running.client.post("/screen", files=sample.files(), data={"review_below": text})
        assert response.status_code == 422 and "review_below" in response.json()["detail"]
        body = f'{json.dumps(sample.json())[:-1]}, "review_below": {text}}}'
        response = await running.client.post("/screen", content=body, headers={"Content-Type": "application/json"})
        assert response.status_code in (400, 422)


@pytest.mark.slow
async def test_each_option_has_a_probability_and_the_chosen_one_s_is_the_confidence(start, make_sample) -> None:
    none = 0
    async with start() as running:
        for seed in range(30):
            answer = (await running.client.post("/screen", json=make_sample(seed).json())).json()
            probabilities = {option["option"]: option["probability"] for option in answer["options"]}
            probabilities["N"] = answer["none_probability"]
            assert all(0 <= value <= 1 for value in probabilities.values())
            assert probabilities[answer["choice"]] == answer["confidence"]
            assert all(probabilities[letter] <= answer["confidence"] for letter in answer["acceptable"])
            none += answer["choice"] == "N"
    assert none, "no answer was N: the sample proves nothing about its probability"


async def test_an_unreadable_answer_has_no_probabilities(start, sample) -> None:
    async with start(ScriptedEngine(latency_ms=0, failure="unreadable")) as running:
        answer = (await running.client.post("/screen", json=sample.json(review_below=0))).json()
    assert [option["probability"] for option in answer["options"]] == [None] * 4
    assert answer["none_probability"] is None and answer["needs_review"] is True


async def test_the_request_id_is_echoed_when_it_is_fit_and_made_otherwise(start, sample) -> None:
    async with start() as running:
        for sent, kept in (("my-id.1", True), ("no spaces", False), ("x" * 129, False)):
            response = await running.client.post("/screen", json=sample.json(), headers={"X-Request-Id": sent})
            assert (response.headers["x-request-id"] == sent) is kept
            assert response.headers["x-request-id"]


async def test_a_fault_of_the_engine_is_a_500_without_internal_details(start, sample) -> None:
    async with start(ScriptedEngine(latency_ms=0, failure="error")) as running:
        response = await running.client.post("/screen", json=sample.json())
    assert response.status_code == 500
    assert response.json()["type"] == "urn:screening:problem:internal"
    assert "scripted" not in response.text


async def test_a_dead_engine_gives_503_and_livez_fails(start, sample) -> None:
    async with start(ScriptedEngine(latency_ms=0, failure="dead")) as running:
        for _ in range(2):
            response = await running.client.post("/screen", json=sample.json())
            assert response.status_code == 503 and int(response.headers["retry-after"]) >= 1
        assert (await running.client.get("/livez")).status_code == 503
        assert (await running.client.get("/readyz")).status_code == 503


@pytest.mark.slow
async def test_the_deadline_ends_a_request_and_frees_the_engine(start, sample) -> None:
    engine = ScriptedEngine(latency_ms=60_000)
    async with start(engine, deadline_seconds=0.2) as running:
        response = await running.client.post("/screen", json=sample.json())
        assert response.status_code == 504
        assert engine.running() == 0
        assert running.metric("screening_aborted_total", reason="deadline") == 1
        assert running.app.state.service.admission.inside == 0


async def test_a_client_that_hangs_up_frees_the_engine(start, sample) -> None:
    engine = ScriptedEngine(latency_ms=60_000)
    async with start(engine) as running:
        gone = asyncio.Event()
        messages = [{"type": "http.request", "body": json.dumps(sample.json()).encode(), "more_body": False}]

        async def receive() -> dict[str, Any]:
            if messages:
                return messages.pop()
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(_: Any) -> None:
            return None

        scope = {
            "type": "http", "method": "POST", "path": "/screen", "raw_path": b"/screen", "query_string": b"",
            "headers": [(b"content-type", b"application/json")], "http_version": "1.1", "scheme": "http",
            "server": ("test", 80), "client": ("test", 1), "root_path": "",
        }  # fmt: skip
        call = asyncio.create_task(running.app(scope, receive, send))
        while engine.running() == 0:
            await asyncio.sleep(0.001)
        gone.set()
        await call
        assert engine.running() == 0
        assert running.metric("screening_aborted_total", reason="client_gone") == 1
        assert running.app.state.service.admission.inside == 0


async def test_after_one_unreadable_picture_the_rest_is_not_decoded(start, sample, monkeypatch) -> None:
    decoded: list[int] = []
    prepare = screen._prepare
    release = threading.Event()

    def slow(index, picture, image):
        decoded.append(index)
        if index == 1:
            release.wait(60)  # blocks the only thread while the loop removes the others
        return prepare(index, picture, image)

    monkeypatch.setattr(screen, "_prepare", slow)
    broken = type(sample)((sample.pictures[0][:-200], *sample.pictures[1:]))
    async with start(decode_threads=1) as running:
        response = await running.client.post("/screen", json=broken.json())
        release.set()
        assert response.status_code == 422
        assert (await running.client.post("/screen", json=sample.json())).status_code == 200
    assert set(decoded[:-5]) <= {0, 1} and decoded[-5:] == [0, 1, 2, 3, 4]
