"""Which step of a training is the best by its validation score, and when the training stops.

Both are functions of the training's log. The log is part of every saved state and the same in all processes, so a
resumed training decides as an unbroken one does, and no process stops alone. transformers' EarlyStoppingCallback is not
used, because a training that resumes from the state in which it decided to stop would take one more step.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

SCORE = "validation/score"
"""Name of the score in the log, in percent."""


@dataclass(frozen=True, slots=True)
class Scored:
    """The score of the model after a step."""

    step: int
    percent: float


def scores_in(log: Iterable[Mapping[str, Any]]) -> list[Scored]:
    """The scores of a training's log, in the order of steps."""
    return [Scored(int(entry["step"]), float(entry[SCORE])) for entry in log if SCORE in entry]


def best_of(scores: Sequence[Scored]) -> Scored | None:
    """The highest score, of equal ones the earliest; None if there is none."""
    return max(scores, key=lambda one: one.percent, default=None)


def must_stop(scores: Sequence[Scored], patience: int | None, min_gain: float) -> bool:
    """Whether each of the last `patience` scores was at most `min_gain` points above the best score before it.

    Args:
        scores: in the order of steps.
        patience: number of scores; None never stops.
        min_gain: percentage points.
    """
    best, waited = float("-inf"), 0
    for one in scores:
        waited = 0 if one.percent > best + min_gain else waited + 1
        best = max(best, one.percent)
    return patience is not None and waited >= patience
