"""OpenTelemetry tracing: one trace for each `POST /screen`. Without a collector, every call here does nothing.

A span never contains pictures, keys, metadata or the text of an error.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from threading import Thread

from opentelemetry import trace
from opentelemetry.trace import Span, SpanContext, SpanKind, StatusCode, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from screening import __version__

FLUSH_SECONDS = 2.0
"""Maximum time to send the last spans when the service ends."""

_W3C = TraceContextTextMapPropagator()
_tracer: Tracer | None = None


@contextmanager
def exporting(endpoint: str | None) -> Iterator[None]:
    """Send spans to a collector during the block. A collector that does not answer delays nothing: spans are dropped.

    OpenTelemetry's SDK reads the other `OTEL_*` variables itself.

    Args:
        endpoint: URL to which the spans are posted (OTLP over HTTP); None for no tracing.
    """
    global _tracer
    if endpoint is None:
        yield
        return
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    _name_the_service(os.environ)
    provider = TracerProvider(shutdown_on_exit=False)  # it would wait up to 30 s for the collector
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint)))
    trace.set_tracer_provider(provider)  # vLLM's spans go to the same exporter
    # Each start of an engine tries to set a provider of its own, which OpenTelemetry refuses with this warning.
    logging.getLogger("opentelemetry.trace").addFilter(lambda record: "Overriding" not in record.getMessage())
    _tracer = provider.get_tracer("screening", __version__)
    try:
        yield
    finally:
        _tracer = None
        flush = Thread(target=provider.shutdown, name="last spans", daemon=True)
        flush.start()
        flush.join(FLUSH_SECONDS)


def request_span(name: str, headers: Mapping[str, str]) -> AbstractContextManager[Span | None]:
    """A span for a request, in the trace that the caller's `traceparent` header names. None if tracing is off."""
    if _tracer is None:
        return nullcontext()
    return _tracer.start_as_current_span(
        name,
        context=_W3C.extract(headers),
        kind=SpanKind.SERVER,
        # Both would write the text of an error, which may quote the request.
        record_exception=False,
        set_status_on_exception=False,
    )


def stage_span(name: str) -> AbstractContextManager[None]:
    """A span for one stage of the current request. An exception marks it as failed, by the name of its class."""
    return nullcontext() if _tracer is None else _stage_span(_tracer, name)


@contextmanager
def _stage_span(tracer: Tracer, name: str) -> Iterator[None]:
    with tracer.start_as_current_span(name, record_exception=False, set_status_on_exception=False) as span:
        try:
            yield
        except BaseException as error:
            span.set_attribute("error.type", type(error).__name__)
            span.set_status(StatusCode.ERROR)
            raise


def current_context() -> SpanContext | None:
    """Identity of the current span, for a link from a request that uses its result. None if it is not recorded."""
    if _tracer is None:
        return None
    span = trace.get_current_span()
    return span.get_span_context() if span.is_recording() else None


def link(context: SpanContext | None) -> None:
    """Link the current span to the span whose work it shares."""
    if _tracer is not None and context is not None:
        trace.get_current_span().add_link(context)


def outgoing_headers() -> dict[str, str] | None:
    """Headers that make a span elsewhere a child of the current one. None if tracing is off, or outside of a span."""
    if _tracer is None:
        return None
    headers: dict[str, str] = {}
    _W3C.inject(headers)
    return headers or None


def _name_the_service(environment: MutableMapping[str, str]) -> None:
    """Set the name under which the spans appear, if the operator has not. vLLM's processes inherit it."""
    if "service.name=" not in environment.get("OTEL_RESOURCE_ATTRIBUTES", ""):
        environment.setdefault("OTEL_SERVICE_NAME", "screening")
