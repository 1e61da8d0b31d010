"""The best step, and the step at which a training stops."""

from __future__ import annotations

import pytest

from trainer.training.validation.rule import Scored, best_of, must_stop, scores_in

pytestmark = pytest.mark.slow


def scored(*percents: float) -> list[Scored]:
    return [Scored(10 * number, percent) for number, percent in enumerate(percents, 1)]


def test_the_scores_are_read_from_a_log_among_other_entries() -> None:
    log = [{"step": 5, "loss": 1.0}, {"step": 10, "validation/score": 40}, {"step": 10, "train_loss": 1.0}]
    assert scores_in(log) == [Scored(10, 40.0)]


def test_of_equal_scores_the_earliest_is_the_best() -> None:
    assert best_of(scored(20, 50, 40, 50)) == Scored(20, 50)
    assert best_of(scored(0, 0)) == Scored(10, 0)
    assert best_of([]) is None


@pytest.mark.parametrize(
    ("percents", "patience", "min_gain", "stops_after"),
    [
        ((50, 40, 45), 2, 0, 3),
        ((50, 50, 50), 2, 0, 3),  # an equal score is no gain
        ((50, 40, 51, 40, 50), 2, 0, 5),  # a gain starts the count again
        ((50, 52, 54), 2, 2, 3),  # exactly min_gain is too little, each time above the best before it
        ((50, 52.5, 54), 2, 2, None),
        ((50, 40, 40, 40), None, 0, None),
        ((0, 0), 1, 0, 2),  # the first score is always a gain
    ],
)
def test_a_training_stops_after_so_many_scores_without_a_gain(
    percents: tuple[float, ...], patience: int | None, min_gain: float, stops_after: int | None
) -> None:
    stopping = (n for n in range(1, 1 + len(percents)) if must_stop(scored(*percents[:n]), patience, min_gain))
    assert next(stopping, None) == stops_after
