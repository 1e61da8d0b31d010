"""Computes statistics and a threshold from the features of a domain's questions."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from screening.checkpoint.domain import Array, FeatureStatistics
from trainer.evaluation.domain.errors import DomainFitError

RANK = 64
"""Number of principal directions; docs/decisions/out-of-domain.md says why."""
TARGET = 0.005
"""Share of questions from the domain that may be flagged. New questions are flagged slightly more often than those that
set the threshold, so it is well below the promised 2 %."""
LEAST_QUESTIONS = 400
"""Minimum number of questions. Half of them describe the domain, and the other 200 set the threshold."""
LEAST_PRODUCTS = 100
"""Minimum number of products. Each half has 50 then; fewer say too little about pictures of new products."""


@dataclass(frozen=True, slots=True)
class Fit:
    """Statistics, their threshold, and the amount of data for each."""

    statistics: FeatureStatistics
    threshold: float
    pictures: int
    questions: int


def fit(features: Array, products: Sequence[str], target: float = TARGET) -> Fit:
    """Describe the pictures of half of the products, and set the threshold on the questions about the others.

    Pictures of a described product are nearer than those of a new one, so no product may be in both halves.

    Args:
        features: (questions, 5, width), in the order of the data.
        products: the product of each question.
        target: share of questions from the domain that may have a picture at or above the threshold.

    Raises:
        DomainFitError: there are too few questions or products, or a feature is not finite.
    """
    refuse_too_few(products)
    if not np.isfinite(features).all():
        raise DomainFitError("the engine gives features that are not finite")
    held = _held_out(products)
    described, held_out = features[~held], features[held]
    pictures = described.reshape(-1, features.shape[2])
    statistics = FeatureStatistics.of(pictures, min(RANK, features.shape[2] - 1))
    worst = statistics.distances(held_out.reshape(-1, features.shape[2])).reshape(len(held_out), -1).max(1)
    # The share of new questions above the k-th of n sorted distances is (n + 1 - k) / (n + 1) on average.
    rank = min(len(worst), math.ceil((1 - target) * (len(worst) + 1)))
    threshold = float(np.sort(worst)[rank - 1])
    return Fit(statistics, float(np.nextafter(threshold, np.inf)), len(pictures), len(held_out))


def refuse_too_few(products: Sequence[str]) -> None:
    """Check that the data can describe a domain.

    Args:
        products: the product of each question.

    Raises:
        DomainFitError: there are too few questions or products.
    """
    for count, least, what in (
        (len(products), LEAST_QUESTIONS, "questions"),
        (len(set(products)), LEAST_PRODUCTS, "products"),
    ):
        if count < least:
            raise DomainFitError(f"{count} {what} are too few to describe a domain. Give at least {least}")


def _held_out(products: Sequence[str]) -> NDArray[np.bool_]:
    """Which questions set the threshold: about half of them, and all or none of each product's, (questions,)."""
    counts = Counter(products)
    held: dict[str, bool] = {}
    sizes = {False: 0, True: 0}
    for product, count in counts.items():
        held[product] = sizes[True] < sizes[False]
        sizes[held[product]] += count
    return np.array([held[product] for product in products])
