"""Schedules are fixed in advance and have the rate that was asked for."""

from __future__ import annotations

import itertools

import pytest

from loadtest.load.arrivals import arrivals


def test_constant_arrivals_are_evenly_spaced_from_the_beginning() -> None:
    assert list(arrivals("constant", 4, 1, 0)) == [0.0, 0.25, 0.5, 0.75]


def test_poisson_arrivals_have_the_rate_and_the_spread_of_independent_callers() -> None:
    moments = list(arrivals("poisson", 50, 200, 3))
    gaps = [later - earlier for earlier, later in itertools.pairwise(moments)]
    mean = sum(gaps) / len(gaps)
    variance = sum((gap - mean) ** 2 for gap in gaps) / len(gaps)
    assert mean == pytest.approx(1 / 50, rel=0.05)
    assert variance**0.5 == pytest.approx(mean, rel=0.05)  # exponential: standard deviation equals mean
    assert moments == sorted(moments) and moments[-1] < 200


def test_a_schedule_follows_from_its_seed() -> None:
    first, again, other = (list(arrivals("poisson", 5, 10, seed)) for seed in (1, 1, 2))
    assert first == again != other


@pytest.mark.parametrize("rate", [0, -1, float("nan")])
def test_an_invalid_rate_is_refused(rate) -> None:
    with pytest.raises(ValueError, match="above 0"):
        arrivals("constant", rate, 1, 0)
