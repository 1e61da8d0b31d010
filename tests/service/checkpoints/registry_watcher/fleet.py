"""Helpers of the tests of the registry watcher."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

from screening.checkpoint.manifest import read_manifest
from screening.checkpoint.registry import PRODUCTION, Registry
from tests.service.obedient_engine import (
    ADMIN,
    ObedientEngine,
    make_checkpoint,
)

ALWAYS = 0.02
"""Seconds between polls."""


class Fleet:
    """A registry that a service follows, and the changes that a test makes to it."""

    def __init__(self, registry: Registry, file: Path, store: Path) -> None:
        self.registry, self.file, self.store = registry, file, store

    def publish(self, name: str, seed: int, **more: Any) -> int:
        directory = make_checkpoint(self.store / name, seed, **more)
        return self.registry.register(directory, read_manifest(directory).digest, {}).number

    def promote(self, number: int) -> None:
        self.registry.point(PRODUCTION, number)


class Running:
    """A started service."""

    def __init__(self, running: Any, engine: ObedientEngine) -> None:
        self.client, self.engine, self.metric, self.app = running.client, engine, running.metric, running.app

    async def state(self) -> dict[str, Any]:
        return dict((await self.client.get("/admin/checkpoint", headers=ADMIN)).json())

    async def until(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        async with asyncio.timeout(400):
            while not wanted(state := await self.state()):
                await asyncio.sleep(0.01)
            return state

    async def serves(self, wanted: str) -> dict[str, Any]:
        return await self.until(lambda state: bool(state["serving"]["version"] == wanted))

    async def comes_to(self, outcome: str) -> dict[str, Any]:
        return await self.until(lambda state: bool(state["registry"]["outcome"] == outcome))

    def polls(self, outcome: str) -> float:
        return float(self.metric("screening_registry_polls_total", outcome=outcome))

    async def polled(self, outcome: str, times: int = 2) -> None:
        """Wait until it has come to this so many times more."""
        before = self.polls(outcome)
        await self.until(lambda _: self.polls(outcome) >= before + times)
