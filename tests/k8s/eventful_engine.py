"""An engine for dashboards: it swaps checkpoints, some of its answers are unreadable, and it dies once."""

from __future__ import annotations

from dataclasses import replace

from service.config.settings import Settings
from service.engines.protocol import Generated, Question
from service.errors import EngineLost
from tests.service.obedient_engine import ObedientEngine

UNREADABLE_EVERY = 5
DIES_AT = 8


class EventfulEngine(ObedientEngine):
    """Everything that a dashboard shows happens to it within a few requests."""

    async def generate(self, question: Question) -> Generated:
        generated = await super().generate(question)
        if self.reached == DIES_AT:
            self.die()
            raise EngineLost()
        return replace(generated, text="?") if self.reached % UNREADABLE_EVERY == 0 else generated


def make(_settings: Settings) -> EventfulEngine:
    """For `--engine tests.k8s.eventful_engine:make`."""
    return EventfulEngine(latency_ms=20)
