"""The simulated fleet, compared with results calculated by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from loadtest.fleet.autoscaler import Direction, Limits
from loadtest.fleet.patterns import arrivals
from loadtest.fleet.simulation import Fleet, Model, Run

MODEL = Model(slots=4, queue=12, deadline=60, fixed=0.2, each=0.2, start_seconds=60, spread=0)
"""0.4 s alone, 1 s with four at once: four answers a second."""
SCALED = Limits(3, 1, 6, up=Direction(60, ((2, 60),)), down=Direction(600, ((1, 120),)))
ONE_POD = replace(SCALED, most=1)


def simulated(rate: float, seconds: float = 600, limits: Limits = SCALED, model: Model = MODEL) -> Run:
    return Fleet(model, limits).run(arrivals("constant", rate=rate, peak=rate, seconds=seconds, seed=0), seconds)


def statuses(run: Run) -> dict[int, int]:
    found = [request.status for request in run.requests]
    return {status: found.count(status) for status in set(found)}


def latencies(run: Run) -> list[float]:
    return [request.finished - request.arrived for request in run.requests]


def test_requests_one_after_the_other_take_the_time_of_one_alone() -> None:
    run = Fleet(MODEL, ONE_POD).run([0.0, 10.0, 20.0], 30)
    assert latencies(run) == pytest.approx([0.4, 0.4, 0.4])
    assert run.pod_seconds == 30


def test_requests_at_once_slow_each_other_down_and_the_rest_waits() -> None:
    run = Fleet(MODEL, ONE_POD).run([0.0] * 5, 30)
    assert latencies(run) == pytest.approx([1.0, 1.0, 1.0, 1.0, 1.4])


def test_a_request_that_comes_later_slows_the_one_before_down() -> None:
    # Half of the first is done after 0.2 s; its other half takes 0.3 s at the speed of two.
    run = Fleet(MODEL, ONE_POD).run([0.0, 0.2], 30)
    assert latencies(run)[0] == pytest.approx(0.5)


def test_an_overloaded_pod_answers_at_its_capacity_and_refuses_the_rest() -> None:
    run = simulated(12, limits=ONE_POD)
    assert set(statuses(run)) == {200, 429}
    assert statuses(run)[200] / 600 == pytest.approx(4, rel=0.03)
    assert all(request.attempts == 3 for request in run.requests if request.status == 429)
    assert run.refusals >= 3 * statuses(run)[429]


def test_a_refused_request_is_answered_by_a_retry_after_the_wait_that_the_pod_asks_for() -> None:
    # The pod holds 16, and 13 x 1 s / 4 slots rounds up to 4 s.
    run = Fleet(MODEL, ONE_POD).run([0.0] * 17, 60)
    assert statuses(run) == {200: 17}
    last = run.requests[-1]
    assert last.attempts == 2 and 4 <= last.entered <= 4.5


def test_an_answer_after_the_deadline_counts_as_timed_out() -> None:
    run = Fleet(replace(MODEL, deadline=1.2), ONE_POD).run([0.0] * 5, 30)
    assert statuses(run) == {200: 4, 504: 1}


@pytest.mark.slow
def test_more_load_gets_more_pods_until_nothing_is_refused() -> None:
    run = simulated(12, seconds=1800)
    asked, ready = [each[1] for each in run.replicas], [each[2] for each in run.replicas]
    assert asked[0] == ready[0] == 1 and ready[-1] >= 3
    assert all(less <= more for less, more in zip(ready, asked, strict=True))
    refused = [request.arrived for request in run.requests if request.status == 429]
    assert refused and max(refused) < 600
    assert run.pod_seconds < 6 * 1800


@pytest.mark.slow
def test_pods_that_start_slowly_refuse_more() -> None:
    fast, slow = (simulated(12, 1200, model=replace(MODEL, start_seconds=start)) for start in (30, 300))
    assert statuses(slow)[429] > 1.5 * statuses(fast)[429]


def test_removed_pods_finish_what_they_have_and_cost_until_then() -> None:
    moments = [*arrivals("constant", rate=14, peak=14, seconds=600, seed=0), 2000.0]
    run = Fleet(MODEL, SCALED).run(moments, 2400)
    assert max(each[1] for each in run.replicas) > 2 and run.replicas[-1][1:] == (1, 1)
    assert 0 not in statuses(run)
    assert 2400 < run.pod_seconds < 6 * 2400


def test_the_same_seed_gives_the_same_run() -> None:
    assert simulated(12, 120) == simulated(12, 120)
