"""Every broken checkpoint of test_vllm_broken.py, offered to the checks of files that run before the engine is touched.

The table of docs/decisions/broken-checkpoints.md, which that file writes on the real engine, says which of them these
checks find.
"""

from __future__ import annotations

import asyncio
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from screening.checkpoint.manifest import Manifest, read_manifest
from screening.errors import CheckpointError
from screening.inference.inspection import compare_reading, inspect
from service.admission.admission import Admission
from service.checkpoints.served import ServedCheckpoint
from service.checkpoints.swap_preparation import prepare
from service.config.settings import Settings
from service.engines.protocol import Engine
from service.errors import CheckpointRefused
from service.metrics import Metrics
from tests.service.damage import DAMAGES, rewrite

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

UNTOUCHED = "engine not touched"


async def _inspect(directory: Path, manifest: Manifest) -> None:
    """The service inspects in a subprocess. This test uses a thread, because importing transformers takes seconds."""
    await asyncio.to_thread(lambda: compare_reading(manifest, inspect(directory, manifest)))


async def _expect(_: Manifest) -> None:
    """An engine would prepare the probes of the next checkpoint."""


@pytest.fixture(scope="module")
def pair(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with `one`, the shipped checkpoint, and `two`, which has another bias."""
    store = tmp_path_factory.mktemp("pair")
    for name in ("one", "two"):
        shutil.copytree(tiny_checkpoint, store / name)

    def change(weights: dict[str, Any]) -> None:
        name = next(name for name in weights if name.endswith("q_proj.bias"))
        weights[name] += 0.25

    rewrite(store / "two", change)
    return store


@pytest.fixture
async def served(pair: Path, tmp_path: Path) -> Any:
    """A service that serves `one`, with an engine that only inspects."""
    settings = Settings(checkpoint=pair / "one", state_dir=tmp_path / "state", store_read_seconds=10)
    metrics = Metrics()
    admission = Admission(max_concurrent=1, max_queue=1, metrics=metrics)
    engine = cast("Engine", SimpleNamespace(inspect=_inspect, expect=_expect))
    served = ServedCheckpoint(engine, admission, metrics, settings, pair / "one")
    one = pair / "one"
    served.copy = await served.copy_in(one, read_manifest(one))
    yield served
    served.store.close()


@pytest.fixture(scope="module")
def found_on_files(repository: Path) -> set[str]:
    """The damages that the real service found without its engine, by the table of the docs."""
    text = (repository / "docs" / "decisions" / "broken-checkpoints.md").read_text()
    return set(re.findall(rf"^\| ([^|]+) \|[^\n]*\| {UNTOUCHED} \|$", text, re.MULTILINE))


async def offer(served: ServedCheckpoint, store: Path, name: str) -> str | None:
    """Why a checkpoint is refused before the engine is touched; None if only the engine can tell."""
    try:
        source = await served.reads.resolve(store, name)
        await prepare(served, source)
    except (CheckpointError, CheckpointRefused) as error:
        return str(error)
    return None


@pytest.mark.parametrize(("damage", "what"), DAMAGES.items(), ids=DAMAGES.values())
async def test_the_checks_of_files_find_what_the_docs_say(served, pair, tmp_path, found_on_files, damage, what) -> None:
    store = tmp_path / "store"
    for name in ("one", "two"):
        shutil.copytree(pair / name, store / name)
    damage(store / "two")
    reason = await offer(served, store, "two")
    assert (reason is not None) == (what in found_on_files), reason


async def test_a_sound_checkpoint_passes_every_check(served, pair) -> None:
    assert await offer(served, pair, "two") is None
    assert read_manifest(pair / "two").digest != read_manifest(pair / "one").digest
