"""The service on real vLLM: many clients, back-pressure, hang-ups, one page of metrics."""

from __future__ import annotations

import asyncio
import socket
from contextlib import ExitStack
from typing import Any

import httpx
import pytest

from service.schemas import ScreenAnswer

pytestmark = pytest.mark.vllm

CONCURRENT, CAPACITY = 4, 32
"""The settings of the service that `vllm_service` starts."""


def decision(answer: dict[str, Any]) -> dict[str, Any]:
    """The fields that must not differ between two calls. Probabilities may differ in the last digits, because the
    engine computes a question differently with a cached prefix or in another batch."""
    kept = {key: value for key, value in answer.items() if key not in ("id", "timings")}
    options = [{**option, "probability": round(option["probability"], 2)} for option in answer["options"]]
    return {**kept, "options": options} | {n: round(answer[n], 2) for n in ("confidence", "none_probability")}


@pytest.mark.parametrize("mode", ["cot", "direct"])
def test_an_answer_is_complete_and_comes_from_the_checkpoint(vllm_service, sample, mode) -> None:
    response = httpx.post(f"{vllm_service.base_url}/screen", json=sample.json(mode=mode), timeout=120)
    assert response.status_code == 200
    answer = ScreenAnswer.model_validate_json(response.content)
    assert answer.engine == "vllm" and answer.checkpoint.digest.startswith("sha256:")
    assert answer.usage.prompt_tokens > 5 and answer.usage.completion_tokens > 0
    if answer.outcome == "answered":
        assert answer.choice in (answer.acceptable or ["N"]) and 0 < answer.confidence < 1
        assert (answer.reasoning is not None) == (mode == "cot")
    else:
        assert answer.choice is None and answer.needs_review


def test_the_shipped_checkpoint_has_fast_preprocessing_in_both_modes_and_with_places(vllm_service) -> None:
    said = [event for event in vllm_service.events() if event["event"].startswith("fast preprocessing")]
    assert [(event["event"], event["mode"], event["locate"]) for event in said] == [
        ("fast preprocessing ready", "cot", False),
        ("fast preprocessing ready", "direct", False),
        ("fast preprocessing ready", "cot", True),
    ]


def test_answers_are_about_the_pictures(vllm_service, wordy_sample) -> None:
    said = []
    for product in range(3):
        answer = httpx.post(f"{vllm_service.base_url}/screen", json=wordy_sample(product).json(), timeout=120).json()
        assert answer["outcome"] == "answered"
        opening, _, _ = answer["reasoning"].partition(". ")
        said.append(opening)
    assert len(set(said)) == 3, said


@pytest.mark.parametrize("mode", ["cot", "direct"])
def test_the_same_pictures_get_the_same_decision_in_both_encodings(vllm_service, sample, mode) -> None:
    with httpx.Client(base_url=vllm_service.base_url, timeout=120) as client:
        answers = [client.post("/screen", json=sample.json(mode=mode)).json() for _ in range(2)]
        answers.append(client.post("/screen", files=sample.files(), data={"mode": mode}).json())
    assert decision(answers[0]) == decision(answers[1]) == decision(answers[2])


@pytest.mark.anyio
async def test_32_clients_at_once_all_get_their_own_answer(vllm_service, make_sample) -> None:
    async with httpx.AsyncClient(base_url=vllm_service.base_url, timeout=300) as client:
        calls = [
            client.post("/screen", json=make_sample(seed).json(metadata={"client": seed})) for seed in range(CAPACITY)
        ]
        responses = await asyncio.gather(*calls)
    assert [response.status_code for response in responses] == [200] * CAPACITY
    assert [response.json()["metadata"]["client"] for response in responses] == list(range(CAPACITY))


def test_a_full_queue_is_429_and_those_inside_are_answered(vllm_service, sample, wait_until) -> None:
    request = sample.raw_request()
    with ExitStack() as stack:
        # Requests whose last byte is missing hold every place at the door, however fast the model is.
        inside = []
        for _ in range(CAPACITY):
            connection = stack.enter_context(socket.create_connection(vllm_service.address, timeout=120))
            connection.sendall(request[:-1])
            inside.append(connection)
        wait_until(lambda: vllm_service.metric("screening_in_flight ") == CAPACITY)
        refused = httpx.post(f"{vllm_service.base_url}/screen", json=sample.json(), timeout=60)
        assert refused.status_code == 429
        assert refused.json()["type"] == "urn:screening:problem:overloaded"
        assert int(refused.headers["retry-after"]) >= 1
        for connection in inside:
            connection.sendall(request[-1:])
        assert {connection.recv(12) for connection in inside} == {b"HTTP/1.1 200"}
    wait_until(lambda: vllm_service.metric("screening_in_flight ") == 0)


def test_clients_that_hang_up_are_aborted_in_the_engine(vllm_service, wordy_sample, wait_until) -> None:
    generated = "vllm:generation_tokens_total"
    before, gone_before = vllm_service.metric(generated), vllm_service.metric("screening_aborted_total{")
    with ExitStack() as stack:
        for seed in range(1, 17):
            connection = stack.enter_context(socket.create_connection(vllm_service.address, timeout=120))
            connection.sendall(wordy_sample(seed).raw_request())
        wait_until(lambda: vllm_service.metric("screening_engine_running ") == CONCURRENT)
    wait_until(lambda: vllm_service.metric("screening_engine_running ") == 0)
    wait_until(lambda: vllm_service.metric("screening_in_flight ") == 0)
    assert vllm_service.metric("screening_aborted_total{") > gone_before
    # As the engine core reports with its next step: it runs nothing, and did not finish the answers
    # (vLLM counts no aborted request that its caller gave up).
    answered = httpx.post(f"{vllm_service.base_url}/screen", json=wordy_sample(0).json(), timeout=120)
    assert answered.status_code == 200
    wait_until(lambda: vllm_service.metric("vllm:num_requests_running") == 0)
    whole = answered.json()["usage"]["completion_tokens"]
    assert whole > 40, "answers that end before anybody sees a hang-up show nothing"
    assert vllm_service.metric(generated) - before < (1 + CONCURRENT) * whole


def test_two_who_ask_the_same_share_one_generation_and_one_may_leave(vllm_service, make_sample, wait_until) -> None:
    generated = "vllm:generation_tokens_total"
    before = vllm_service.metric(generated)
    request = make_sample(77).raw_request().replace(b"Host: test", b"Host: test\r\nConnection: close")
    with ExitStack() as stack:
        first, second = (
            stack.enter_context(socket.create_connection(vllm_service.address, timeout=120)) for _ in range(2)
        )
        for connection in (first, second):
            connection.sendall(request[:-1])
        wait_until(lambda: vllm_service.metric("screening_in_flight ") == 2)
        for connection in (first, second):
            connection.sendall(request[-1:])
        wait_until(lambda: vllm_service.metric("screening_engine_running ") or vllm_service.metric(generated) > before)
        first.close()
        with second.makefile("rb") as stream:
            head, _, body = stream.read().partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200")
    answer = ScreenAnswer.model_validate_json(body)
    assert vllm_service.metric(generated) - before == answer.usage.completion_tokens


def test_one_page_has_our_metrics_and_the_engines(vllm_service, sample) -> None:
    httpx.post(f"{vllm_service.base_url}/screen", json=sample.json(), timeout=120)
    assert vllm_service.metric("screening_requests_total{") > 0
    assert vllm_service.metric("screening_checkpoint_info{") == 1
    assert vllm_service.metric("vllm:generation_tokens_total") > 0
    page = httpx.get(f"{vllm_service.base_url}/metrics").text
    assert page.count("# TYPE screening_in_flight gauge") == 1
