"""Publishing with the real engine."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from screening.checkpoint.manifest import read_manifest, store_manifest
from tests.trainer.command_line import CHECKPOINT, ROOT


@pytest.mark.vllm
@pytest.mark.exhaustive  # screening/checkpoint/test_domain.py does the same without an engine
def test_a_domain_fitted_to_other_weights_is_refused(tmp_path: Path) -> None:
    """The probes' scores are those of other weights, which the engine does not give for these."""
    foreign = shutil.copytree(CHECKPOINT, tmp_path / "foreign")
    manifest = read_manifest(foreign)
    assert manifest.domain is not None
    probes = tuple(probe.model_copy(update={"scores": probe.scores[::-1]}) for probe in manifest.domain.probes)
    store_manifest(
        manifest.model_copy(update={"domain": manifest.domain.model_copy(update={"probes": probes})}), foreign
    )
    store = tmp_path / "store"
    # In a subprocess: the clean-up of an engine ends all child processes.
    command = [sys.executable, "-m", "trainer", "publish", "--checkpoint", foreign, "--store", store]
    done = subprocess.run([*command, "--tracking-uri", "none"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "does not give the domain's scores" in done.stderr
    assert not list(store.iterdir())
    # Of a prompt that vLLM makes up when it starts; a person would look for the fault in the data.
    assert "longer than the specified maximum" not in done.stderr
