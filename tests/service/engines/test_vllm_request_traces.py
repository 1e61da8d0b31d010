"""vLLM's own span belongs to the trace of the request."""

from __future__ import annotations

import httpx
import pytest

pytestmark = pytest.mark.vllm


def test_the_span_of_vllm_is_a_child_of_the_engine_span(vllm_service, vllm_collector, sample, wait_until) -> None:
    trace = "5" * 32
    headers = {"traceparent": f"00-{trace}-{'6' * 16}-01"}
    response = httpx.post(f"{vllm_service.base_url}/screen", json=sample.json(), headers=headers, timeout=120)
    assert response.status_code == 200
    wait_until(lambda: any(span.trace == trace and span.name == "POST /screen" for span in vllm_collector.spans()))
    spans = {span.name: span for span in vllm_collector.spans() if span.trace == trace}
    assert sorted(spans) == ["POST /screen", "body", "decode", "engine", "llm_request", "queue"]
    assert spans["llm_request"].parent == spans["engine"].id
    assert spans["engine"].parent == spans["POST /screen"].id
    assert spans["llm_request"].service == "screening"


def test_tracing_the_engine_logs_no_warning_and_sends_no_text_of_the_model(
    vllm_service, vllm_collector, wordy_sample, wait_until
) -> None:
    vllm_collector.bodies.clear()
    answer = httpx.post(f"{vllm_service.base_url}/screen", json=wordy_sample(0).json(), timeout=120).json()
    wait_until(lambda: any(span.name == "POST /screen" for span in vllm_collector.spans()))
    assert not [event for event in vllm_service.events() if event["logger"].startswith("opentelemetry")]
    sent = b"".join(vllm_collector.bodies)
    assert b"llm_request" in sent
    sentences = [sentence for sentence in answer["reasoning"].split(". ") if len(sentence) > 12]
    assert sentences
    assert not any(sentence.encode() in sent for sentence in sentences)
