"""The model's accuracy from a queue that prefers uncertain decisions."""

from __future__ import annotations

from random import Random

import pytest

from service.review.accuracy import Reviewed, accuracy
from service.review.tasks import Candidate, draw, shares


def simulated_queue(seed: int) -> tuple[float, list[Reviewed]]:
    """The true accuracy of 2,000 decisions, and the reviewed ones among them."""
    random = Random(seed)
    right: dict[str, bool] = {}
    candidates = []
    for number in range(2000):
        identity, confidence = f"scr_{number}", random.betavariate(3, 1.6)
        right[identity] = random.random() < confidence
        complained = random.random() < (0.02 if right[identity] else 0.15)
        reason = "disagreement" if complained else "low_confidence" if confidence < 0.5 else None
        candidates.append(Candidate(identity, reason, in_period=True, is_sampled=True))
    draws, _ = draw(seed, candidates, shares(200))
    return sum(right.values()) / len(right), [Reviewed(one.probability, float(right[one.id])) for one in draws]


@pytest.mark.slow
def test_the_estimate_has_no_bias_and_its_interval_covers_the_truth_where_the_plain_share_does_not() -> None:
    covered = naive = 0
    errors = []
    for seed in range(200):
        truth, reviewed = simulated_queue(seed)
        found = accuracy(reviewed, drawn=len(reviewed))
        errors.append(found.accuracy - truth)
        covered += found.interval[0] <= truth <= found.interval[1]
        plain = accuracy([Reviewed(0.001, one.right) for one in reviewed], drawn=len(reviewed))
        naive += plain.interval[0] <= truth <= plain.interval[1]
    assert 180 <= covered <= 198
    assert naive < 20
    assert abs(sum(errors) / len(errors)) < 0.01


def test_a_part_of_the_queue_gives_a_wider_interval() -> None:
    _, reviewed = simulated_queue(1)
    some = Random(1).sample(reviewed, len(reviewed) // 4)
    whole, part = accuracy(reviewed, drawn=len(reviewed)), accuracy(some, drawn=len(reviewed))
    assert part.interval[1] - part.interval[0] > 1.5 * (whole.interval[1] - whole.interval[0])


def test_a_census_has_no_uncertainty_and_an_empty_queue_no_estimate() -> None:
    assert accuracy([Reviewed(1.0, 1.0), Reviewed(1.0, 0.0)], drawn=2).interval == (0.5, 0.5)
    assert accuracy([], drawn=3).accuracy is None


@pytest.mark.parametrize("right", [0.0, 1.0])
def test_the_interval_stays_within_its_bounds(right) -> None:
    found = accuracy([Reviewed(0.1, right)] * 20, drawn=20)
    assert found.accuracy == right and 0 <= found.interval[0] < found.interval[1] <= 1
