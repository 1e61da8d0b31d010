"""The shipped weights with probes of another kind of machine, on the real engine.

The libraries of the recording machine were limited to AVX2 (ONEDNN_MAX_CPU_ISA, ATEN_CPU_CAPABILITY).
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from screening.checkpoint.manifest import Manifest, read_manifest, store_manifest
from screening.checkpoint.probes import ROUNDING_MARGIN
from screening.checkpoint.seal import sealed
from screening.inference.generation import cpu_environment
from screening.runtime.machine import machine_name

RECORDED = Path(__file__).parents[2] / "screening" / "checkpoint" / "tiny_manifest_recorded_with_avx2.json"


@pytest.fixture(scope="session")
def recorded_elsewhere(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped checkpoint with the other recording, sealed as `publish` would have."""
    directory = shutil.copytree(tiny_checkpoint, tmp_path_factory.mktemp("elsewhere") / "checkpoint")
    other = Manifest.model_validate_json(RECORDED.read_bytes())
    now = read_manifest(directory)
    assert other.probes is not None and now.probes is not None and other.files == now.files
    probes = other.probes.model_copy(update={"reading": now.probes.reading})
    store_manifest(sealed(now.model_copy(update={"probes": probes})), directory)
    return directory


def test_two_kinds_of_machine_agree_in_float32_and_are_as_far_from_it_as_rounding_explains(tiny_checkpoint) -> None:
    other, now = Manifest.model_validate_json(RECORDED.read_bytes()).probes, read_manifest(tiny_checkpoint).probes
    assert other is not None and now is not None
    exact = [probe.exact or () for probe in now.questions]
    assert other.from_exact(exact) < 1e-4
    given = [probe.logprobs for probe in now.questions]
    if other.machine != now.machine:
        assert other.rounded(given) and not other.repeated(given)
        assert now.rounded([probe.logprobs for probe in other.questions])
        assert other.from_exact(given) / (other.rounding or 0) < ROUNDING_MARGIN


@pytest.mark.vllm
@pytest.mark.slow
@pytest.mark.exhaustive  # test_verification.py does the same with a scripted engine
def test_a_checkpoint_of_another_kind_of_machine_is_served_if_it_passes_by_rounding(
    launch_service, recorded_elsewhere, monkeypatch
) -> None:
    recorder = read_manifest(recorded_elsewhere).probes
    assert recorder is not None
    for name, value in cpu_environment().items():
        monkeypatch.setenv(name, value)
    here = machine_name("cpu")
    # In float32, every kind of machine repeats the numbers.
    with launch_service("--checkpoint", str(recorded_elsewhere), "--cpu-dtype", "bfloat16") as service:
        passed = [event for event in service.events() if event["event"] == "verified by rounding"]
    expected = [] if here == recorder.machine else [(recorder.machine, here)]
    assert [(event["recorded_by"], event["machine"]) for event in passed] == expected
