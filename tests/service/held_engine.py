"""An engine that holds its requests until the test releases them, so that no machine is too slow for the test."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from service.config.settings import Settings
from service.engines.protocol import Generated, Question
from service.engines.scripted_engine import ScriptedEngine


class HeldEngine(ScriptedEngine):
    """Answers once a file exists."""

    def __init__(self, released: Path) -> None:
        super().__init__(latency_ms=0)
        self._released = released

    async def generate(self, question: Question) -> Generated:
        self._running += 1
        try:
            while not self._released.exists():
                await asyncio.sleep(0.01)
        finally:
            self._running -= 1
        return await super().generate(question)


def make(_settings: Settings) -> HeldEngine:
    """For `--engine tests.service.held_engine:make`. RELEASED, an environment variable, names the file."""
    return HeldEngine(Path(os.environ["RELEASED"]))
