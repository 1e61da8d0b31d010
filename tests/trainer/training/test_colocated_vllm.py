"""Rollouts through a colocated vLLM, on its CPU build."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from screening.checkpoint.directory import write_manifest
from screening.checkpoint.manifest import read_manifest
from tests.trainer.command_line import CHECKPOINT, ROOT


@pytest.mark.vllm
@pytest.mark.exhaustive  # the other tests of stage 2 sample with transformers
@pytest.mark.parametrize("lora", [None, {"rank": 8, "alpha": 16}], ids=["all weights", "LoRA"])
def test_a_colocated_vllm_writes_what_transformers_write_also_after_a_step(
    lora: dict[str, Any] | None, small_data: Path, tmp_path: Path
) -> None:
    """Without noise of the number format, so the checkpoint says float32."""
    checkpoint = shutil.copytree(CHECKPOINT, tmp_path / "checkpoint")
    config = json.loads((checkpoint / "config.json").read_text())
    for part in (config, config["text_config"], config["vision_config"]):
        part["dtype"] = "float32"
    (checkpoint / "config.json").write_text(json.dumps(config))
    fields = read_manifest(checkpoint).model_dump(exclude={"files", "created", "format", "domain", "probes"})
    write_manifest(checkpoint, **fields)
    command = [sys.executable, "-W", "ignore", "-m", "tests.trainer.training.colocated"]
    done = subprocess.run(
        [*command, str(checkpoint), str(small_data), str(tmp_path / "scratch"), json.dumps(lora)],
        cwd=ROOT,
        env={**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_LOGGING_LEVEL": "ERROR"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    found = json.loads(done.stdout.splitlines()[-1])
    before, after = found["completions"]
    assert before["colocate"] == before["none"]
    assert after["none"] != before["none"], "the weights have changed"
    assert after["colocate"] == after["none"], "vLLM has the new weights, and has forgotten the pictures"
    assert found["unchanged"], "the reference"
