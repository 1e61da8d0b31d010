"""Middleware that gives each request an id, writes one log line per request and answers unexpected exceptions.

`service.server.draining_server` cancels a request only when the process must end before its answer. The middleware then
answers 503.

The middleware is plain ASGI, because Starlette's BaseHTTPMiddleware would hide a client's disconnect from the request.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.admission.admission import SOON
from service.errors import INTERNAL, MEDIA_TYPE, NOT_READY, Problem, detail_of, problem_body
from service.http.auth import caller_of
from service.http.paths import route_path
from service.ids import new_id, valid_request_id
from service.logs import REQUEST_ID, log

LOGGER = logging.getLogger("service.request")

ENDED = f"The service shut down before it could answer. Send the request again in {SOON} s."
"""Problem detail for a cancelled request."""
_QUIET = ("/livez", "/readyz", "/startupz", "/metrics")
"""Paths that monitoring requests every few seconds. Their requests are logged at debug level only."""


class RequestMiddleware:
    """Wraps the whole app. Routes can add fields to the log line through `scope["state"]["log"]`."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request_id, path = _request_id(scope), route_path(scope)
        fields: dict[str, Any] = {}
        scope["state"] = {**scope.get("state", {}), "request_id": request_id, "log": fields}
        token = REQUEST_ID.set(request_id)
        began = time.perf_counter()
        status: int | None = None

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": [*message.get("headers", []), (b"x-request-id", request_id.encode())]}
            await send(message)

        try:
            await self.app(scope, receive, send_with_id)
        except Exception as error:
            LOGGER.exception("fault", extra={"fields": {"path": path, "error": type(error).__name__}})
            if status is None:
                await _answer(scope, send_with_id, INTERNAL, detail_of(error, INTERNAL), request_id)
        except asyncio.CancelledError:
            if status is None:
                await _answer(scope, send_with_id, NOT_READY, ENDED, request_id, retry_after=SOON)
        finally:
            milliseconds = round(1000 * (time.perf_counter() - began), 2)
            level = logging.DEBUG if path in _QUIET else logging.INFO
            log(
                LOGGER,
                level,
                "request",
                method=scope["method"],
                path=path,
                status=status,
                ms=milliseconds,
                client=scope["client"][0] if scope.get("client") else None,
                caller=caller_of(Request(scope)),
                **fields,
            )
            REQUEST_ID.reset(token)


def _request_id(scope: Scope) -> str:
    for name, value in scope["headers"]:
        text: str = value.decode("latin-1")
        if name == b"x-request-id" and valid_request_id(text):
            return text
    return new_id("req_")


async def _answer(
    scope: Scope, send: Send, problem: Problem, detail: str, request_id: str, retry_after: int | None = None
) -> None:
    body = problem_body(problem, detail, path=scope["path"], request_id=request_id)
    headers = [(b"content-type", MEDIA_TYPE.encode()), (b"content-length", str(len(body)).encode())]
    if retry_after is not None:
        headers.append((b"retry-after", str(retry_after).encode()))
    await send({"type": "http.response.start", "status": problem.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
