"""A registry and a service that follows it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from screening.checkpoint.registry import Registry
from tests.service.checkpoints.registry_watcher.fleet import ALWAYS, Fleet, Running
from tests.service.obedient_engine import (
    ADMIN_KEYS,
    ObedientEngine,
)


@pytest.fixture
def fleet(registry_file: Path, tmp_path: Path) -> Fleet:
    """`one` is in production and configured, `two` is registered."""
    fleet = Fleet(Registry(f"sqlite:///{registry_file}"), registry_file, tmp_path / "store")
    fleet.promote(fleet.publish("one", 1))
    fleet.publish("two", 2)
    return fleet


@pytest.fixture
def serve(start, fleet: Fleet, tmp_path: Path):
    @asynccontextmanager
    async def serving(engine: ObedientEngine | None = None, **settings: Any) -> AsyncIterator[Running]:
        engine = engine or ObedientEngine()
        usual = {"engine": "vllm", "checkpoint": fleet.store / "one", "admin_keys": ADMIN_KEYS}
        usual |= {"state_dir": tmp_path / "state", "registry": fleet.registry.uri, "registry_poll_seconds": ALWAYS}
        async with start(engine, **usual | settings) as running:
            yield Running(running, engine)

    return serving
