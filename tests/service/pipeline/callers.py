"""A held engine and callers, for requests that are sent more than once."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import Callable
from typing import Any

from service.engines.protocol import Generated, LoadedCheckpoint, Question
from service.engines.scripted_engine import ScriptedEngine
from service.errors import EngineFailed


class HeldEngine(ScriptedEngine):
    """Answers when the test lets it, as the checkpoint that the test names."""

    def __init__(self, *, held: bool = False) -> None:
        super().__init__(latency_ms=0)
        self.asked = self.inside = self.aborted = 0
        self.names: list[str] = []
        self.version = "1"
        self.fails = False
        self.go = asyncio.Event()
        if not held:
            self.go.set()

    @property
    def checkpoint(self) -> LoadedCheckpoint:
        return dataclasses.replace(super().checkpoint, version=self.version, digest=f"sha256:{self.version}")

    async def generate(self, question: Question) -> Generated:
        self.asked += 1
        self.names.append(question.request_id)
        self.inside += 1
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.aborted += 1
            raise
        finally:
            self.inside -= 1
        if self.fails:
            raise EngineFailed("told to fail")
        return dataclasses.replace(await super().generate(question), checkpoint=self.checkpoint)


class Caller:
    """One request straight into the app, which can hang up."""

    def __init__(self, app: Any, body: dict[str, Any], **headers: str) -> None:
        self._body = json.dumps(body).encode()
        self._gone = asyncio.Event()
        self._sent: list[Any] = []
        scope = {
            "type": "http", "method": "POST", "path": "/screen", "raw_path": b"/screen", "query_string": b"",
            "headers": [(b"content-type", b"application/json")]
            + [(name.replace("_", "-").lower().encode(), value.encode()) for name, value in headers.items()],
            "http_version": "1.1", "scheme": "http", "server": ("test", 80), "client": ("test", 1), "root_path": "",
        }  # fmt: skip
        self.task = asyncio.create_task(app(scope, self._receive, self._send))

    async def _receive(self) -> dict[str, Any]:
        if self._body:
            body, self._body = self._body, b""
            return {"type": "http.request", "body": body, "more_body": False}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        self._sent.append(message)

    async def hang_up(self) -> None:
        self._gone.set()
        await self.task

    async def answer(self) -> dict[str, Any]:
        await self.task
        assert self._sent[0]["status"] == 200, self._sent
        answer: dict[str, Any] = json.loads(self._sent[1]["body"])
        return answer


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.001)


def waiters(running: Any) -> int:
    """Requests that wait for work, theirs or another's."""
    return sum(flight.waiters for flight in running.app.state.service.coalescer._flights.values())
