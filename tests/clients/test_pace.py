"""How a bulk run adapts to a service that answers 429."""

from __future__ import annotations

import pytest

from screening_client import InvalidRequest, Overloaded, Unavailable
from screening_client.pace import Pace

OVERLOADED = Overloaded("x", status=429)


def test_a_run_begins_with_as_many_requests_as_it_may_send() -> None:
    pace = Pace(3)
    for _ in range(3):
        assert pace.has_room
        pace.begin()
    assert not pace.has_room


def test_a_429_halves_the_limit_once_for_all_requests_that_were_in_flight() -> None:
    pace = Pace(8)
    began = [pace.begin() for _ in range(8)]
    for each in began:
        pace.end(each, OVERLOADED)
    assert pace.limit == 4
    pace.end(pace.begin(), OVERLOADED)
    assert pace.limit == 2


def test_the_limit_never_falls_below_one() -> None:
    pace = Pace(2)
    for _ in range(20):
        pace.end(pace.begin(), OVERLOADED)
    assert pace.limit == 1 and pace.has_room


def test_the_limit_grows_by_one_in_about_as_many_answers_as_it_allows_at_once() -> None:
    pace = Pace(8)
    pace.end(pace.begin(), OVERLOADED)
    for _ in range(5):
        pace.end(pace.begin(), None)
    assert 5 <= pace.limit < 5.2


@pytest.mark.parametrize("highest", [1, 3, 8])
def test_the_limit_never_exceeds_the_given_maximum(highest: int) -> None:
    pace = Pace(highest)
    for _ in range(100):
        pace.end(pace.begin(), None)
    assert pace.limit == highest


@pytest.mark.parametrize("error", [InvalidRequest("x", status=422), Unavailable("x", status=503), RuntimeError()])
def test_other_errors_leave_the_limit_as_it_is(error: Exception) -> None:
    pace = Pace(8)
    pace.end(pace.begin(), error)
    assert pace.limit == 8 and pace.in_flight == 0
