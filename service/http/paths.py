"""Rules that apply to every path: the version prefix, HEAD requests, and suggestions for mistyped paths."""

from __future__ import annotations

import re
from collections.abc import Iterable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

VERSION = "/v1"
"""Prefix under which every path is available as well."""


class Versioned:
    """Middleware that routes `/v1/screen` like `/screen`, so that both have one handler and one name in the log."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        root = scope.get("root_path", "")
        if scope["type"] == "http" and scope["path"].startswith(f"{root}{VERSION}/"):
            scope = {**scope, "root_path": root + VERSION}
        await self.app(scope, receive, send)


class HeadAsGet:
    """Middleware that answers HEAD like GET, but without the body (RFC 9110, section 9.3.2)."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self.app(scope, receive, send)
            return

        async def send_head(message: Message) -> None:
            await send({**message, "body": b""} if message["type"] == "http.response.body" else message)

        await self.app({**scope, "method": "GET"}, receive, send_head)


def route_path(scope: Scope) -> str:
    """Return the path without its version prefix."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))


def meant(path: str, known: Iterable[str]) -> str | None:
    """Return the known path that differs from `path` only in slashes or case."""
    plain = re.sub("/{2,}", "/", path).rstrip("/").lower()
    return next((one for one in known if one == plain), None)
