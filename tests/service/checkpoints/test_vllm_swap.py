"""Swaps in the real engine: the weights change under load, and a broken checkpoint never answers."""

from __future__ import annotations

from operator import eq
from pathlib import Path

import pytest

from screening.checkpoint.manifest import read_manifest
from tests.service.obedient_engine import ADMIN_KEYS
from tests.service.swapping import Callers, screen, take_up

pytestmark = [pytest.mark.vllm, pytest.mark.slow]


def test_swaps_under_load_fail_no_request_and_are_verified(vllm_service, published, make_sample) -> None:
    digests = {name: read_manifest(published / name).digest for name in ("one", "two")}
    with Callers(vllm_service, make_sample, 8) as callers:
        for turn in range(4):
            name = ("two", "one")[turn % 2]
            swap = take_up(vllm_service, name)
            assert swap.status_code == 200, swap.text
            assert (swap.json()["how"], swap.json()["digest"]) == ("in_place", digests[name])
            assert screen(vllm_service, make_sample(99))["checkpoint"]["digest"] == digests[name]
    assert set(callers.statuses) == {200}, callers.statuses
    assert set(callers.digests) == set(digests.values())
    assert not [event for event in vllm_service.events() if event["event"] == "verification not prepared"]


def test_after_swaps_there_and_back_the_answers_are_the_first_ones(vllm_service, make_sample) -> None:
    samples = [make_sample(seed) for seed in range(6)]
    before = [screen(vllm_service, sample)["reasoning"] for sample in samples]
    assert take_up(vllm_service, "two").status_code == 200
    other = [screen(vllm_service, sample)["reasoning"] for sample in samples]
    assert take_up(vllm_service, "one").status_code == 200
    after = [screen(vllm_service, sample)["reasoning"] for sample in samples]
    # Random pictures give many near ties, which depend on the other requests and drafts of a step.
    assert sum(map(eq, before, after)) >= 4, (before, after)
    assert sum(map(eq, before, other)) < sum(map(eq, before, after)), "the two must differ for this to show anything"


@pytest.mark.exhaustive  # test_other_machine.py serves what another kind of machine recorded
def test_a_processor_that_rounds_differently_serves_and_swaps_checkpoints_recorded_elsewhere(
    published, launch_service, sample, tmp_path
) -> None:
    """Recorded on a processor with AMX and served on one without. A processor without AMX serves `one`, recorded
    elsewhere."""
    options = ("--checkpoint", str(published / "one"), "--checkpoint-store", str(published))
    options += ("--admin-keys", ADMIN_KEYS, "--state-dir", str(tmp_path))
    with launch_service(*options, variables={"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16"}) as service:
        for name in ("two", "one"):
            swap = take_up(service, name)
            assert swap.status_code == 200, swap.text
        assert take_up(service, "two").json()["how"] == "in_place", "by now its recorder is known"
        assert take_up(service, "one").json()["how"] == "in_place"
        assert screen(service, sample)["checkpoint"]["digest"] == read_manifest(published / "one").digest
        rounded = any(event["event"] == "verified by rounding" for event in service.events())
    # A processor without AVX-512 computes the same with and without this variable; there, test_other_machine.py covers
    # verification with other rounding.
    assert rounded or "avx512f" not in Path("/proc/cpuinfo").read_text()
