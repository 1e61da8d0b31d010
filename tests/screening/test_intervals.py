"""Confidence intervals of proportions equal calculations by hand."""

from __future__ import annotations

import pytest

from screening.intervals import wilson


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"),
    [
        (8, 10, 0.4902, 0.9433),
        (0, 10, 0.0, 0.2775),
        (10, 10, 0.7225, 1.0),
        (0, 21, 0.0, 0.1546),
        (303, 468, 0.6031, 0.6894),  # the paper's 64.74 %
    ],
)
def test_the_wilson_interval_equals_a_calculation_by_hand(hits: int, n: int, low: float, high: float) -> None:
    assert wilson(hits, n) == pytest.approx((low, high), abs=5e-5)


def test_wilson_interval_widens_with_the_level_and_narrows_with_n() -> None:
    def width(hits: int, n: int, level: float) -> float:
        low, high = wilson(hits, n, level)
        return high - low

    assert width(60, 100, 0.99) > width(60, 100, 0.95) > width(600, 1000, 0.95)


@pytest.mark.parametrize(("hits", "n", "level"), [(0, 0, 0.95), (3, 2, 0.95), (-1, 2, 0.95), (1, 2, 1.0)])
def test_the_wilson_interval_refuses_invalid_proportions(hits: int, n: int, level: float) -> None:
    with pytest.raises(ValueError, match="no interval"):
        wilson(hits, n, level)


@pytest.mark.parametrize("n", range(1, 60))
def test_the_ends_of_the_wilson_interval_are_exact_where_no_or_every_answer_is_yes(n: int) -> None:
    assert wilson(0, n)[0] == 0 and wilson(n, n)[1] == 1
