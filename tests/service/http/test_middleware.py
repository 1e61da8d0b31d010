"""The outermost layer: whatever ends a request, its caller gets a problem document."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from service.http.middleware import RequestMiddleware


@pytest.mark.anyio
@pytest.mark.parametrize("path", ["/screen", "/admin/checkpoint"])
async def test_a_request_that_the_end_of_the_process_cancels_is_answered_503(path) -> None:
    sent: list[dict[str, Any]] = []
    reached = asyncio.Event()

    async def wait_for_ever(*_: object) -> None:
        reached.set()
        await asyncio.Event().wait()

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.request"}

    scope = {"type": "http", "method": "POST", "path": path, "headers": [], "client": ("192.0.2.1", 1)}
    task = asyncio.create_task(RequestMiddleware(wait_for_ever)(scope, receive, send))  # type: ignore[arg-type]
    await reached.wait()
    task.cancel()
    await task  # it ends with an answer and not with an exception, which uvicorn would log
    start, body = sent
    headers = dict(start["headers"])
    assert start["status"] == 503 and headers[b"retry-after"] == b"5"
    assert headers[b"content-type"] == b"application/problem+json"
    assert json.loads(body["body"])["type"].endswith(":not-ready")
