"""What holds for every path: the version in front of it, HEAD, and the path that a caller probably meant."""

from __future__ import annotations

import re
from collections.abc import Iterable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

VERSION = "/v1"
"""Prefix under which every path has a second name."""


class Versioned:
    """Makes `/v1/screen` the same as `/screen`: one handler, one name in logs and metrics."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        root = scope.get("root_path", "")
        if scope["type"] == "http" and scope["path"].startswith(f"{root}{VERSION}/"):
            scope = {**scope, "root_path": root + VERSION}
        await self.app(scope, receive, send)


class HeadAsGet:
    """Answers HEAD as GET, without the body (RFC 9110, section 9.3.2)."""

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
    """The path without its version, and without the prefix of a proxy that the server was told of."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))


def meant(path: str, known: Iterable[str]) -> str | None:
    """The known path that differs from `path` only by slashes or case."""
    plain = re.sub("/{2,}", "/", path).rstrip("/").lower()
    return next((one for one in known if one == plain), None)
