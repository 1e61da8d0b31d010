"""Traces of real services, as a collector receives them. See docs/monitoring.md, "Tracing"."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from hashlib import sha256
from typing import Any

import httpx
import pytest

from service.config.settings import SettingsError
from service.config.traces_endpoint import traces_endpoint
from tests.service.tracing_collector import Collector, Received, collecting

pytestmark = pytest.mark.slow

TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
KEY = "a-key-that-no-span-may-contain"
REFUSED = "a-word-that-an-error-quotes"


@pytest.fixture(scope="module")
def shared_collector() -> Iterator[Collector]:
    with collecting() as running:
        yield running


@pytest.fixture
def collector(shared_collector: Collector) -> Collector:
    """A collector that has received nothing yet in this test."""
    shared_collector.bodies.clear()
    return shared_collector


@pytest.fixture(scope="module")
def traced(launch_service, shared_collector: Collector) -> Iterator[Any]:
    """A scripted service whose spans reach the collector."""
    keys = f"shop:{sha256(KEY.encode()).hexdigest()}"
    with launch_service(
        "--engine", "scripted", "--scripted-latency-ms", "0", "--api-keys", keys,
        "--answer-cache-entries", "1", variables=shared_collector.variables(),
    ) as process:  # fmt: skip
        yield process


def ask(process: Any, body: dict[str, Any], **headers: str) -> httpx.Response:
    headers = {"authorization": f"Bearer {KEY}", **headers}
    return httpx.post(f"{process.base_url}/screen", json=body, headers=headers, timeout=120)


def roots(collector: Collector) -> list[Received]:
    return [span for span in collector.spans() if span.name == "POST /screen"]


def test_a_request_is_one_trace_with_a_span_for_each_stage(traced, collector, make_sample, wait_until) -> None:
    sample = make_sample(10)
    response = ask(traced, sample.json() | {"locate": True})
    wait_until(lambda: roots(collector))
    (root,), spans = roots(collector), collector.spans()
    assert {span.trace for span in spans} == {root.trace}
    assert sorted(span.name for span in spans) == ["POST /screen", "body", "decode", "engine", "queue"]
    assert root.parent == ""
    assert {span.parent for span in spans if span is not root and span.name != "POST /screen"} == {root.id}
    assert root.service == "screening"
    assert root.attributes == {
        "http.request.method": "POST",
        "http.route": "/screen",
        "http.response.status_code": 200,
        "screening.id": response.json()["id"],
        "screening.outcome": "answered",
        "screening.source": "engine",
        "screening.mode": "cot",
        "screening.locate": True,
        "screening.checkpoint": response.json()["checkpoint"]["digest"],
        "screening.engine": "scripted",
    }
    (line,) = (event for event in traced.events() if event["event"] == "request" and event["path"] == "/screen")
    assert line["trace_id"] == root.trace and line["locate"] is True


def test_the_trace_of_the_caller_is_continued(traced, collector, sample, wait_until) -> None:
    ask(traced, sample.json(), traceparent=f"00-{TRACE}-{CALLER}-01")
    wait_until(lambda: roots(collector))
    (root,) = roots(collector)
    assert (root.trace, root.parent) == (TRACE, CALLER)


def test_a_caller_who_does_not_record_the_trace_is_followed(traced, collector, make_sample, wait_until) -> None:
    ask(traced, make_sample(1).json(), traceparent=f"00-{TRACE}-{CALLER}-00")
    ask(traced, make_sample(2).json())
    wait_until(lambda: roots(collector))
    assert TRACE not in {span.trace for span in collector.spans()}


@pytest.mark.anyio
async def test_requests_that_share_an_inference_are_linked_to_the_one_that_began_it(
    launch_service, collector, sample, wait_until
) -> None:
    slow = ("--engine", "scripted", "--scripted-latency-ms", "3000")
    with launch_service(*slow, variables=collector.variables()) as process:
        async with httpx.AsyncClient(base_url=process.base_url, timeout=60) as client:
            together = [client.post("/screen", json=sample.json(metadata={"number": number})) for number in range(2)]
            sources = [response.json()["source"] for response in await asyncio.gather(*together)]
            sources.append((await client.post("/screen", json=sample.json())).json()["source"])
        await asyncio.to_thread(wait_until, lambda: len(roots(collector)) == 3)
    assert sorted(sources) == ["cache", "engine", "shared"]
    by_source = {root.attributes["screening.source"]: root for root in roots(collector)}
    engine = by_source["engine"]
    assert engine.links == ()
    assert by_source["shared"].links == by_source["cache"].links == ((engine.trace, engine.id),)
    assert len({root.trace for root in by_source.values()}) == 3
    assert [span.trace for span in collector.spans() if span.name == "engine"] == [engine.trace]


def test_a_failed_request_names_its_error_and_not_its_text(launch_service, collector, sample, wait_until) -> None:
    with launch_service(
        "--engine", "scripted", "--scripted-failure", "error", variables=collector.variables()
    ) as process:  # fmt: skip
        assert ask(process, sample.json()).status_code == 500
        wait_until(lambda: roots(collector))
    (root,) = roots(collector)
    assert root.failed
    assert (root.attributes["http.response.status_code"], root.attributes["screening.outcome"]) == (500, "internal")
    (engine,) = (span for span in collector.spans() if span.name == "engine")
    assert engine.failed
    assert engine.attributes == {"error.type": "EngineFailed"}


def test_no_span_contains_keys_metadata_pictures_or_the_text_of_an_error(traced, collector, sample, wait_until) -> None:
    ask(
        traced, sample.json(metadata={"product": "a-secret-product"}), **{"idempotency-key": "a-secret-idempotency-key"}
    )
    ask(traced, sample.json(mode=REFUSED))
    ask(traced, {"original": REFUSED, "generated": []})
    ask(traced, sample.json(), authorization=f"Bearer {REFUSED}")
    wait_until(lambda: len(roots(collector)) == 4)
    assert sorted(root.attributes["http.response.status_code"] for root in roots(collector)) == [200, 401, 422, 422]
    assert not any(root.failed for root in roots(collector)), "a mistake of the caller is no failure of the service"
    sent = b"".join(collector.bodies)
    for secret in (KEY, sha256(KEY.encode()).hexdigest(), "shop", "a-secret", REFUSED, sample.json()["original"][:40]):
        assert secret.encode() not in sent, secret


def test_probes_and_metrics_are_not_traced(traced, collector, sample, wait_until) -> None:
    for path in ("/livez", "/readyz", "/metrics"):
        httpx.get(f"{traced.base_url}{path}")
    ask(traced, sample.json())
    wait_until(lambda: roots(collector))
    assert len({span.trace for span in collector.spans()}) == 1


def test_libraries_of_parts_that_are_switched_off_are_not_loaded(launch_service, sample) -> None:
    """Neither the exporter of traces, nor the libraries of the decision store."""
    with launch_service("--engine", "scripted", variables={"PYTHONPROFILEIMPORTTIME": "1"}) as process:
        assert ask(process, sample.json(), traceparent=f"00-{TRACE}-{CALLER}-01").status_code == 200
        log = process.log.read_text()
    assert "opentelemetry.trace" in log
    assert "opentelemetry.exporter" not in log
    assert "opentelemetry.sdk.trace.export" not in log
    assert "fastapi" in log and not any(library in log for library in ("sqlalchemy", "alembic", "obstore", "jinja2"))


def unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def test_a_collector_that_is_down_disturbs_neither_requests_nor_the_end(launch_service, make_sample) -> None:
    variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{unused_port()}", "OTEL_BSP_SCHEDULE_DELAY": "50"}
    with launch_service("--engine", "scripted", variables=variables) as process:
        for seed in range(3):
            assert ask(process, make_sample(seed).json()).status_code == 200
        assert process.terminate() == 0


def test_a_collector_that_never_answers_disturbs_neither_requests_nor_the_end(
    launch_service, make_sample, wait_until
) -> None:
    with collecting() as collector:
        collector.answer.clear()
        variables = collector.variables() | {"OTEL_EXPORTER_OTLP_TIMEOUT": "600"}
        with launch_service("--engine", "scripted", variables=variables) as process:
            assert ask(process, make_sample(0).json()).status_code == 200
            wait_until(lambda: collector.bodies)  # from now on, the exporter waits for an answer
            for seed in range(1, 4):
                assert ask(process, make_sample(seed).json()).status_code == 200
            assert process.terminate(seconds=25) == 0, "OpenTelemetry's SDK would wait for 30 s"


def test_the_last_spans_are_sent_when_the_service_ends(launch_service, collector, sample) -> None:
    variables = collector.variables() | {"OTEL_BSP_SCHEDULE_DELAY": "60000"}
    with launch_service("--engine", "scripted", variables=variables) as process:
        ask(process, sample.json())
        assert process.terminate() == 0
    assert len(roots(collector)) == 1


@pytest.mark.parametrize(
    ("variables", "endpoint"),
    [
        ({}, None),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, None),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://otel:4318"}, "http://otel:4318/v1/traces"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "https://otel/base/"}, "https://otel/base/v1/traces"),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://otel/spans"}, "http://otel/spans"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://otel:4318", "OTEL_SDK_DISABLED": "true"}, None),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://otel:4318", "OTEL_TRACES_EXPORTER": "none"}, None),
    ],
)
def test_the_endpoint_follows_the_standard_variables(variables, endpoint) -> None:
    assert traces_endpoint(variables) == endpoint


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "otel:4317"}, "OTEL_EXPORTER_OTLP_ENDPOINT: 'otel:4317' is not an http"),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://otel:4317", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
            "OTEL_EXPORTER_OTLP_PROTOCOL: the service sends traces as http/protobuf, not as 'grpc'",
        ),
    ],
)
def test_an_endpoint_that_cannot_be_used_is_refused(variables, message) -> None:
    with pytest.raises(SettingsError, match=message):
        traces_endpoint(variables)
