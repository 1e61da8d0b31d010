"""A collector of traces for tests: takes OTLP over HTTP, decodes it and keeps the spans."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


@dataclass(frozen=True)
class Received:
    """One span. Ids are hexadecimal."""

    name: str
    trace: str
    id: str
    parent: str
    """Empty for a span without a parent."""
    links: tuple[tuple[str, str], ...]
    """Trace and span of each link."""
    attributes: dict[str, Any]
    failed: bool
    service: str


@dataclass
class Collector:
    """What has arrived, and how it answers."""

    url: str
    bodies: list[bytes] = field(default_factory=list)
    answer: Event = field(default_factory=Event)
    """Cleared, it takes spans and never answers."""

    def spans(self) -> list[Received]:
        return [span for body in self.bodies for span in _decoded(body)]

    def variables(self) -> dict[str, str]:
        """The environment of a service that sends its spans here, and soon."""
        return {"OTEL_EXPORTER_OTLP_ENDPOINT": self.url, "OTEL_BSP_SCHEDULE_DELAY": "50"}


def _decoded(body: bytes) -> Iterator[Received]:
    for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
        of_resource = {one.key: one.value.string_value for one in resource.resource.attributes}
        for scope in resource.scope_spans:
            for span in scope.spans:
                yield Received(
                    span.name,
                    span.trace_id.hex(),
                    span.span_id.hex(),
                    span.parent_span_id.hex(),
                    tuple((link.trace_id.hex(), link.span_id.hex()) for link in span.links),
                    {one.key: getattr(one.value, str(one.value.WhichOneof("value"))) for one in span.attributes},
                    span.status.code == span.status.STATUS_CODE_ERROR,
                    of_resource["service.name"],
                )


def _handler(take: Callable[[bytes], None]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/v1/traces"
            take(self.rfile.read(int(self.headers["content-length"])))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    return Handler


@contextmanager
def collecting() -> Iterator[Collector]:
    """A collector on a free port of this machine, for the length of the block."""

    def take(body: bytes) -> None:
        collector.bodies.append(body)
        collector.answer.wait()

    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(take))
    server.daemon_threads = True
    collector = Collector(f"http://127.0.0.1:{server.server_port}")
    collector.answer.set()
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield collector
    finally:
        collector.answer.set()
        server.shutdown()
        thread.join()
        server.server_close()
