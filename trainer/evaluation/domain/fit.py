"""Computes statistics and a threshold from the features of a domain's questions."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from screening.checkpoint.domain import Array, FeatureStatistics
from trainer.evaluation.domain.errors import DomainFitError

RANK = 32
"""Number of principal directions; docs/decisions/out-of-domain.md says why."""
TARGET = 0.005
"""Share of questions from the domain that may be flagged. New questions are flagged slightly more often than those that
set the threshold, so it is well below the promised 2 %."""
LEAST_QUESTIONS = 400
"""Minimum number of questions. Half of them describe the domain, and the other 200 set the threshold."""


@dataclass(frozen=True, slots=True)
class Fit:
    """Statistics, their threshold, and the amount of data for each."""

    statistics: FeatureStatistics
    threshold: float
    pictures: int
    questions: int


def fit(features: Array, target: float = TARGET) -> Fit:
    """Describe the pictures of every other question, and set the threshold on the remaining questions.

    Args:
        features: (questions, 5, width), in the order of the data.
        target: share of questions from the domain that may have a picture at or above the threshold.

    Raises:
        DomainFitError: there are too few questions, or a feature is not finite.
    """
    if len(features) < LEAST_QUESTIONS:
        raise DomainFitError(
            f"{len(features)} questions are too few to describe a domain. Give at least {LEAST_QUESTIONS}"
        )
    if not np.isfinite(features).all():
        raise DomainFitError("the engine gives features that are not finite")
    described, held_out = features[::2], features[1::2]
    pictures = described.reshape(-1, features.shape[2])
    statistics = FeatureStatistics.of(pictures, min(RANK, features.shape[2] - 1))
    worst = statistics.distances(held_out.reshape(-1, features.shape[2])).reshape(len(held_out), -1).max(1)
    # The share of new questions above the k-th of n sorted distances is (n + 1 - k) / (n + 1) on average.
    rank = min(len(worst), math.ceil((1 - target) * (len(worst) + 1)))
    threshold = float(np.sort(worst)[rank - 1])
    return Fit(statistics, float(np.nextafter(threshold, np.inf)), len(pictures), len(held_out))
