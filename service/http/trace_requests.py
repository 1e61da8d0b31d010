"""Middleware that opens the span of a `POST /screen`; the stages of the request add theirs (`service.timings`)."""

from __future__ import annotations

from typing import Any

from opentelemetry.trace import Span, StatusCode, format_trace_id
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import INTERNAL, NOT_READY
from service.http.paths import route_path
from service.tracing import request_span

PATH = "/screen"
_FROM_LOG = ("id", "outcome", "source", "mode", "locate", "checkpoint", "engine")
"""Fields of the log line that become attributes of the span."""


class TracingMiddleware:
    """Runs inside `RequestMiddleware`, and adds the id of the trace to its log line."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST" or route_path(scope) != PATH:
            await self.app(scope, receive, send)
            return
        with request_span(f"POST {PATH}", Headers(scope=scope)) as span:
            if span is None:
                await self.app(scope, receive, send)
            else:
                await self._traced(span, scope, receive, send)

    async def _traced(self, span: Span, scope: Scope, receive: Receive, send: Send) -> None:
        fields: dict[str, Any] = scope["state"]["log"]
        fields["trace_id"] = format_trace_id(span.get_span_context().trace_id)
        status: int | None = None

        async def send_and_look(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, send_and_look)
        except Exception:
            status = status or INTERNAL.status
            raise
        finally:
            status = status or NOT_READY.status  # `RequestMiddleware` answers this if the request is cancelled
            span.set_attributes({f"screening.{name}": fields[name] for name in _FROM_LOG if name in fields})
            span.set_attributes(
                {"http.request.method": "POST", "http.route": PATH, "http.response.status_code": status}
            )
            if status >= 500:
                span.set_status(StatusCode.ERROR)
