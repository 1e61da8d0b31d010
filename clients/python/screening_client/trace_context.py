"""Continues the caller's OpenTelemetry trace in the service. The client itself does not depend on OpenTelemetry."""

from __future__ import annotations

import sys


def trace_headers() -> dict[str, str]:
    """The `traceparent` of the active span. Empty without OpenTelemetry, and outside of a span."""
    headers: dict[str, str] = {}
    if "opentelemetry.trace" in sys.modules:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        TraceContextTextMapPropagator().inject(headers)
    return headers
