"""Which numbers pass a checkpoint's probes."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from screening.checkpoint.manifest import read_manifest
from screening.checkpoint.probes import Probe, Probes, deviation, probe_answers, probe_pictures, root_mean_square

EXACT = ((-1.0, -2.0), (-3.0, -4.0))


def probes(*offs: float, exact: bool = True) -> Probes:
    """Two probes whose recorded numbers are off float32's by these."""
    recorded = [tuple(value + off for value in one) for one, off in zip(EXACT, offs, strict=True)]
    questions = [
        Probe(seed=0, mode="cot", answer="x", logprobs=one, exact=true if exact else None)
        for one, true in zip(recorded, EXACT, strict=True)
    ]
    return Probes(questions=tuple(questions), tolerance=0.01, machine="there")


def test_probes_are_the_same_pictures_everywhere() -> None:
    pictures = probe_pictures(7, 112)
    assert [picture.size for picture in pictures] == [(112, 112)] * 5
    corners = [np.asarray(picture)[[0, -1], [0, -1]].tolist() for picture in pictures]
    assert corners == [np.asarray(picture)[[0, -1], [0, -1]].tolist() for picture in probe_pictures(7, 112)]
    assert len({picture.tobytes() for picture in (*pictures, *probe_pictures(8, 112))}) == 10
    assert {mode for mode, _ in probe_answers()} == {"cot", "direct"}


def test_a_deviation_is_infinite_for_nan() -> None:
    probe = Probe(seed=0, mode="cot", answer="x", logprobs=(-1.0, -2.0))
    assert deviation(probe.logprobs, [-1.0, -2.5]) == 0.5
    assert deviation(probe.logprobs, [-1.0, float("nan")]) == deviation(probe.logprobs, [-1.0]) == float("inf")


def test_a_root_mean_square_is_over_all_tokens_and_infinite_for_nan() -> None:
    assert root_mean_square([(-1.0, -2.0), (-3.0,)], [(-1.0, -2.0), (-3.6,)]) == pytest.approx(0.6 / math.sqrt(3))
    assert root_mean_square([(-1.0,), (-2.0,)], [(-1.0, -2.0)]) == math.inf
    for strange in (math.nan, math.inf, -math.inf):
        assert root_mean_square([(-1.0,)], [(strange,)]) == math.inf


@pytest.mark.parametrize(
    ("found", "repeated", "rounded"),
    [
        (((-0.98, -1.98), (-3.02, -4.02)), True, True),  # as recorded
        (((-1.02, -2.02), (-2.98, -3.98)), False, True),  # rounded the other way
        (((-0.95, -2.0), (-3.0, -4.0)), False, True),  # 0.025 on average: one may be further off than the average
        (((-0.93, -2.0), (-3.0, -4.0)), False, False),  # 0.035 on average
        (((math.nan, -1.98), (-3.02, -4.02)), False, False),
        (((-0.98,), (-3.02, -4.02)), False, False),
        (((-0.98, -1.98),), False, False),
    ],
)
def test_probes_distinguish_repetition_from_rounding(found, repeated: bool, rounded: bool) -> None:
    these = probes(0.02, -0.02)
    assert (these.repeated(found), these.rounded(found)) == (repeated, rounded)


def test_without_float32_nothing_is_explained_by_rounding() -> None:
    these = probes(0.02, -0.02, exact=False)
    assert these.rounding is None
    assert not these.rounded([(-0.98, -1.98), (-3.02, -4.02)])
    assert these.repeated([(-0.98, -1.98), (-3.02, -4.02)])


def test_where_the_recording_engine_did_not_round_another_may_a_little() -> None:
    these = probes(0.0, 0.0)
    assert these.rounding == 0
    assert these.rounded([(-1.001, -2.0), (-3.0, -4.0)])
    assert not these.rounded([(-1.1, -2.0), (-3.0, -4.0)])


def test_float32s_numbers_are_of_the_same_tokens() -> None:
    with pytest.raises(ValidationError, match="same number of tokens"):
        Probe(seed=0, mode="cot", answer="x", logprobs=(-1.0,), exact=(-1.0, -2.0))


def test_the_shipped_probes_can_be_passed_on_other_kinds_of_machines(tiny_checkpoint: Path) -> None:
    shipped = read_manifest(tiny_checkpoint).probes
    assert shipped is not None and shipped.machine
    assert shipped.rounding is not None and 0 < shipped.rounding < 0.05
    halves = [[(a + b) / 2 for a, b in zip(p.logprobs, p.exact or (), strict=True)] for p in shipped.questions]
    assert shipped.rounded(halves)
