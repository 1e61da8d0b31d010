"""The inspection of a checkpoint in a subprocess, whatever that process does."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from screening.errors import CheckpointError, CheckpointUnavailable
from service.engines.checkpoint_inspection import inspect_in_subprocess

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


@pytest.mark.exhaustive  # checkpoints/test_vllm_broken.py offers both to a service on the real engine
async def test_a_sound_checkpoint_passes_and_an_empty_configuration_is_a_fault(tiny_checkpoint, tmp_path) -> None:
    await inspect_in_subprocess(tiny_checkpoint)
    empty = shutil.copytree(tiny_checkpoint, tmp_path / "empty")
    (empty / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"config\.json") as caught:
        await inspect_in_subprocess(empty)
    assert not isinstance(caught.value, CheckpointUnavailable)


async def test_an_inspection_that_takes_too_long_is_ended_and_says_nothing_certain(tiny_checkpoint) -> None:
    with pytest.raises(CheckpointUnavailable, match="did not end within"):
        await inspect_in_subprocess(tiny_checkpoint, seconds=0.1)


@pytest.mark.slow
async def test_a_configuration_that_would_fill_the_memory_of_the_machine_fills_nothing(
    tiny_checkpoint, tmp_path
) -> None:
    endless = shutil.copytree(tiny_checkpoint, tmp_path / "endless")
    config = json.loads((endless / "config.json").read_text())
    config["text_config"] |= {"num_hidden_layers": 10**9, "layer_types": ["full_attention"] * 5}
    (endless / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError):
        await inspect_in_subprocess(endless, seconds=60)


async def test_an_inspection_that_crashes_says_nothing_certain(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "screening" / "inference").mkdir(parents=True)
    (tmp_path / "screening" / "__init__.py").write_text("")
    (tmp_path / "screening" / "inference" / "__init__.py").write_text("")
    (tmp_path / "screening" / "inference" / "inspection.py").write_text("import os; os.abort()")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointUnavailable, match="ended with status -6"):
        await inspect_in_subprocess(tmp_path)
