"""Publishing with the real engine."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from screening.checkpoint.manifest import read_manifest, store_manifest
from tests.trainer.command_line import CHECKPOINT
from trainer.__main__ import main


@pytest.mark.vllm
def test_a_domain_fitted_to_other_weights_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The probes' scores are those of other weights, which the engine does not give for these."""
    foreign = shutil.copytree(CHECKPOINT, tmp_path / "foreign")
    manifest = read_manifest(foreign)
    assert manifest.domain is not None
    probes = tuple(probe.model_copy(update={"scores": probe.scores[::-1]}) for probe in manifest.domain.probes)
    store_manifest(
        manifest.model_copy(update={"domain": manifest.domain.model_copy(update={"probes": probes})}), foreign
    )
    store = tmp_path / "store"
    assert main(["publish", "--checkpoint", str(foreign), "--store", str(store), "--tracking-uri", "none"]) == 2
    assert "does not give the domain's scores" in capsys.readouterr().err
    assert not list(store.iterdir())
