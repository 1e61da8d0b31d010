"""The summary's figures, compared with cases calculated by hand."""

from __future__ import annotations

import json
import math

import pytest

from loadtest.results.summary import (
    as_json,
    at_least,
    at_most,
    exit_code,
    load_figures,
    none_of,
    percentile,
    percentiles,
    reported,
    slope,
)


@pytest.mark.parametrize(("percent", "value"), [(0, 15), (5, 15), (30, 20), (40, 20), (50, 35), (99.9, 50), (100, 50)])
def test_percentiles_are_values_that_occurred(percent, value) -> None:
    # The worked example of the nearest-rank method: five values, the 30th percentile is the second.
    assert percentile([35, 20, 15, 50, 40], percent) == value


def test_a_rank_that_is_whole_is_not_pushed_up_by_a_binary_digit() -> None:
    values = range(1, 1001)
    assert percentile(values, 99.9) == 999
    assert percentiles(values) == {"p50": 500, "p90": 900, "p95": 950, "p99": 990, "p99.9": 999}


def test_nothing_has_no_percentile() -> None:
    assert math.isnan(percentile([], 50))


def test_figures_of_a_stretch_of_load(exchange) -> None:
    exchanges = [
        exchange(intended=0.0, finished=0.5),
        exchange(intended=1.0, sent=1.2, finished=3.0),  # sent late: the caller waited 2 s all the same
        exchange(intended=2.0, finished=2.1, attempts=2, refusals=(503,), outcome="unreadable", source="cache"),
        exchange(intended=3.0, finished=3.02, status=429, error="Overloaded", retry_after=4.0),
        exchange(intended=4.0, finished=5.0, status=None, error="ConnectionFailed"),
    ]
    load = load_figures(exchanges, limit_ms=1000, sending=4.0)
    assert (load.requests, load.answered, load.unreadable, load.retried) == (5, 3, 1, 1)
    assert load.sources == {"engine": 2, "cache": 1}
    assert load.offered == 5 / 4
    assert load.seconds == 5.0
    assert load.achieved == 3 / 5
    assert load.sustained == 3 / (5.0 - 0.5)
    assert load.goodput == 2 / 5
    assert load.latency_ms["p50"] == 500 and load.latency_ms["p99"] == 2000
    assert load.failed == {"Overloaded": 1, "ConnectionFailed": 1}
    assert (load.share_429, load.share_503) == (0.2, 0.0)
    assert load.reject_ms["p50"] == pytest.approx(20)
    assert load.retry_after["p50"] == 4.0
    assert load.refused_attempts == {"503": 1}
    assert load.late_ms["p99"] == pytest.approx(200)


def test_slow_answers_alone_do_not_lower_the_sustained_rate(exchange) -> None:
    # One request a second for 30 s, each of them answered after 6 s: nothing queues.
    exchanges = [exchange(intended=float(second), finished=second + 6.0) for second in range(30)]
    load = load_figures(exchanges, limit_ms=1000, sending=30.0)
    assert load.achieved == 30 / 35
    assert load.sustained == load.offered == 1.0


def test_a_backlog_lowers_the_sustained_rate(exchange) -> None:
    # Eight requests a second for 30 s and four answers a second: the last answer comes after 60 s, the median latency
    # is 15 s.
    exchanges = [exchange(intended=number / 8, finished=(number + 1) / 4) for number in range(240)]
    load = load_figures(exchanges, limit_ms=1000, sending=30.0)
    assert (load.offered, load.achieved) == (8.0, 4.0)
    assert load.sustained == pytest.approx(240 / 45, rel=0.01)


def test_failures_lower_the_sustained_rate(exchange) -> None:
    exchanges = [exchange(), exchange(status=429, error="Overloaded")]
    assert load_figures(exchanges, limit_ms=1000, sending=2.0).sustained == 1 / 2


def test_requests_given_up_count_as_offered_and_as_nothing_else(exchange) -> None:
    load = load_figures([exchange()], limit_ms=1000, sending=2.0, given_up=3)
    assert (load.offered, load.requests, load.given_up, load.failed) == (2.0, 1, 3, {})


def test_no_requests_give_figures_that_json_can_hold() -> None:
    text = json.dumps(as_json(load_figures([], limit_ms=1000, sending=10)), allow_nan=False)
    assert json.loads(text)["latency_ms"]["p50"] is None


def test_a_figure_that_is_missing_fails_its_criterion() -> None:
    assert at_most("", 1, math.nan).passed is False
    assert at_least("", 1, math.nan).passed is False


def test_one_failed_criterion_fails_the_run() -> None:
    assert exit_code([none_of("", 0), reported("", "7"), at_most("", 2, 2), at_least("", 2, 2)]) == 0
    assert exit_code([none_of("", 0), none_of("", 1)]) == 1


def test_the_slope_of_a_line_is_its_own_and_noise_cancels() -> None:
    assert slope([(0, 5), (1, 7), (2, 9)]) == 2
    assert slope([(0, 1), (1, -1), (2, -1), (3, 1)]) == 0
    assert math.isnan(slope([(1, 1), (1, 2)]))
