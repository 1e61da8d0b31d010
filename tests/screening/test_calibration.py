"""Curves from probability to confidence, compared with numbers calculated by hand."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, reject
from hypothesis import strategies as st
from pydantic import ValidationError

from screening.calibration import (
    LEAST_SLOPE,
    MOST_INTERCEPT,
    MOST_SLOPE,
    Calibration,
    Curve,
    Shifts,
    logit,
    trace,
)

KNOTS = ((logit(0.2), 0.1), (0.0, 0.5), (logit(0.8), 0.7))


def test_a_line_through_the_log_odds_as_calculated_by_hand() -> None:
    # logit(0.8) = ln 4; 0.5 ln 4 - ln 2 = 0.
    assert Curve(slope=0.5, intercept=-math.log(2)).confidence(0.8) == pytest.approx(0.5)
    assert Curve().confidence(0.3) == pytest.approx(0.3)


def test_between_knots_it_is_straight_and_beyond_them_level() -> None:
    curve = Curve(knots=KNOTS)
    assert [curve.confidence(p) for p in (0.2, 0.5, 0.8)] == pytest.approx([0.1, 0.5, 0.7])
    half_way = 1 / (1 + math.exp(-logit(0.8) / 2))
    assert curve.confidence(half_way) == pytest.approx(0.6)
    assert [curve.confidence(p) for p in (0.0, 0.1, 0.9, 1.0)] == [0.1, 0.1, 0.7, 0.7]


@given(st.floats(0, 1), st.floats(LEAST_SLOPE, MOST_SLOPE), st.floats(-MOST_INTERCEPT, MOST_INTERCEPT))
def test_a_confidence_is_always_a_probability(probability: float, slope: float, intercept: float) -> None:
    try:
        curve = Curve(slope=slope, intercept=intercept)
    except ValidationError:  # all but level, and far up or down
        reject()
    assert 0 <= curve.confidence(probability) <= 1


@given(st.floats(0, 1), st.floats(0, 1))
def test_a_higher_probability_is_never_a_lower_confidence(one: float, other: float) -> None:
    low, high = sorted((one, other))
    for curve in (Curve(slope=0.3, intercept=1), Curve(knots=KNOTS)):
        assert curve.confidence(low) <= curve.confidence(high)


@pytest.mark.parametrize(
    "fields",
    [
        {"knots": ((0.0, 0.5),)},
        {"knots": ((0.0, 0.5), (0.0, 0.6))},
        {"knots": ((0.0, 0.5), (1.0, 0.4))},
        {"knots": ((0.0, 0.5), (1.0, 1.1))},
        {"knots": ((-1e308, 0.1), (1e308, 0.4))},
        {"knots": ((0.0, 1.0), (1.0, 1.0))},
        {"knots": tuple((place / 100, place / 100) for place in range(100))},
        {"knots": ((math.nan, 0.5), (1.0, 0.6))},
        {"slope": 0.01, "intercept": 10.0},
        {"slope": 0.01, "intercept": -10.0},
        {"slope": 0.3, "intercept": 10.0},
        {"knots": ((-15.0, 0.9999999), (15.0, 1.0))},
        {"knots": ((-15.0, 0.0), (-14.9, 1.0))},
        {"knots": ((14.9, 0.0), (15.0, 1.0))},
        *({"slope": value} for value in (math.nan, math.inf, 1e308, 0.0, -0.0, -1.0, 1e-300)),
        *({"intercept": value} for value in (math.nan, math.inf, -math.inf, 1e308, -1e308, 50.0)),
    ],
)
def test_an_invalid_curve_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Curve.model_validate(fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"slope": 100.0, "intercept": 10.0},
        {"slope": 0.01, "intercept": 5.0},
        {"slope": 1.0, "intercept": 10.0},
        {"knots": ((-0.1, 0.0), (0.1, 1.0))},
        {"knots": ((-14.8, 0.9), (14.8, 0.95))},
    ],
)
def test_an_unusual_curve_that_follows_the_probability_is_read(fields: dict[str, object]) -> None:
    curve = Curve.model_validate(fields)
    assert curve.confidence(0.001) < curve.confidence(0.999)


def test_without_shifts_a_calibration_is_written_as_before_there_were_any() -> None:
    assert "shifts" not in Calibration(method="platt").model_dump()
    shifted = Calibration(shifts=Shifts(D=-0.5))
    assert Calibration.model_validate_json(shifted.model_dump_json()) == shifted


@pytest.mark.parametrize("value", [1e308, -1e308, math.nan, math.inf, 5.0, -5.0])
@pytest.mark.parametrize("option", "ABCD")
def test_a_shift_that_would_choose_by_itself_is_refused(option: str, value: float) -> None:
    with pytest.raises(ValidationError):
        Shifts.model_validate({option: value})


def test_a_trace_depends_on_the_curve_and_not_on_its_description() -> None:
    plain = Calibration()
    others = [
        Calibration(shifts=Shifts(C=0.001)),
        Calibration(option=Curve(slope=1.001)),
        Calibration(none=Curve(intercept=0.001)),
        Calibration(option=Curve(knots=KNOTS)),
    ]
    assert len({trace(one) for one in (plain, *others)}) == 5
    assert trace(Calibration(method="by hand", answers=7)) == trace(plain)
