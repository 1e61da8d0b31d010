"""Calibration and risk, compared with numbers calculated by hand."""

from __future__ import annotations

import random

import pytest

from trainer.evaluation.reliability import equal_mass_bins, risk_by_coverage, summarise


def test_no_answers_give_no_summary() -> None:
    assert summarise([], []) is None


def test_risk_over_coverage_equals_a_calculation_by_hand() -> None:
    # surest first: right, wrong, right, wrong → 0, 1/2, 1/3, 2/4
    assert risk_by_coverage([0.6, 0.9, 0.7, 0.8], [False, True, True, False]) == pytest.approx([0, 1 / 2, 1 / 3, 2 / 4])


def test_answers_of_equal_confidence_share_their_error() -> None:
    assert risk_by_coverage([0.9, 0.5, 0.5], [True, False, True]) == pytest.approx([0, 0.25, 1 / 3])


def test_bins_hold_equally_many_answers_from_unsure_to_sure() -> None:
    bins = equal_mass_bins([0.1, 0.9, 0.2, 0.8, 0.7], [False, True, True, True, False], 2)
    assert [one.n for one in bins] == [2, 3]
    assert [one.mean_confidence for one in bins] == pytest.approx([0.15, 0.8])
    assert [one.accuracy for one in bins] == pytest.approx([1 / 2, 2 / 3])


def test_the_summary_equals_a_calculation_by_hand() -> None:
    # Five answers, so five bins of one: the error is the mean |confidence - right|.
    summary = summarise([0.9, 0.8, 0.7, 0.6, 0.5], [True, True, False, True, False])
    assert summary is not None
    assert summary.expected_calibration_error == pytest.approx((0.1 + 0.2 + 0.7 + 0.4 + 0.5) / 5)
    assert summary.brier == pytest.approx((0.01 + 0.04 + 0.49 + 0.16 + 0.25) / 5)
    assert summary.error == pytest.approx(2 / 5)
    assert summary.error_at_80_coverage == pytest.approx(1 / 4)
    assert summary.area_under_risk_coverage == pytest.approx((0 + 0 + 1 / 3 + 1 / 4 + 2 / 5) / 5)


@pytest.mark.slow
def test_a_calibrated_model_has_a_small_error_and_an_overconfident_one_its_gap() -> None:
    draw = random.Random(1)
    confidences = [draw.uniform(0.3, 1) for _ in range(9_000)]
    calibrated = summarise(confidences, [draw.random() < value for value in confidences])
    overconfident = summarise(confidences, [draw.random() < value - 0.3 for value in confidences])
    assert calibrated is not None
    assert overconfident is not None
    assert len(calibrated.bins) == 15
    assert {one.n for one in calibrated.bins} == {600}
    assert calibrated.expected_calibration_error < 0.03
    assert overconfident.expected_calibration_error == pytest.approx(0.3, abs=0.02)


@pytest.mark.slow
def test_the_order_of_the_samples_does_not_matter() -> None:
    pairs = [(value, right) for value in (0.2, 0.5, 0.5, 0.9, 1.0, 1.0, 1.0) for right in (True, False, True)]
    summaries = []
    for seed in range(5):
        shuffled = random.Random(seed).sample(pairs, len(pairs))
        summary = summarise([value for value, _ in shuffled], [right for _, right in shuffled])
        assert summary is not None
        summaries.append((summary.expected_calibration_error, summary.area_under_risk_coverage))
    assert summaries == [pytest.approx(summaries[0])] * 5


def test_an_invalid_confidence_is_refused() -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        summarise([float("nan")], [True])
    with pytest.raises(ValueError, match="between 0 and 1"):
        summarise([1.2], [True])
    with pytest.raises(ValueError, match="2 confidences for 1 answers"):
        summarise([0.5, 0.5], [True])
