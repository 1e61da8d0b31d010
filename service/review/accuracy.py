"""The model's accuracy, estimated from blind reviews.

Uncertain and contradicted decisions are reviewed more often than others, so the plain share of right answers among the
reviewed ones is too low. Each decision is therefore weighted by the inverse of the probability with which it was drawn
(Hájek's estimator; Särndal, Swensson and Wretman, Model Assisted Survey Sampling, section 5.7).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from screening.intervals import wilson


@dataclass(frozen=True, slots=True)
class Reviewed:
    """A decision that was drawn with a known probability and reviewed without knowledge of the model's answer."""

    probability: float
    right: float
    """Share of its reviews that call the model's choice right."""


@dataclass(frozen=True, slots=True)
class Accuracy:
    """An estimate. None: no decision was drawn at random and reviewed."""

    reviewed: int
    accuracy: float | None
    interval: tuple[float, float] | None
    """95 % interval."""
    unweighted: float | None
    """Share of right answers among the reviewed decisions: not an estimate of the accuracy."""


def accuracy(reviewed: Sequence[Reviewed], drawn: int) -> Accuracy:
    """Estimate the share of right answers among all decisions of the sampled periods.

    Args:
        drawn: number of decisions that were drawn. Those without a review yet count as missing at random.
    """
    n = len(reviewed)
    if n == 0:
        return Accuracy(0, None, None, None)
    rate = n / max(drawn, n)
    weights = [1 / one.probability for one in reviewed]
    total = sum(weights)
    mean = sum(weight * one.right for weight, one in zip(weights, reviewed, strict=True)) / total
    unweighted = sum(one.right for one in reviewed) / n
    missing = [1 - one.probability * rate for one in reviewed]
    squares = sum(
        share * (weight * (one.right - mean)) ** 2
        for share, weight, one in zip(missing, weights, reviewed, strict=True)
    )
    variance = n / max(n - 1, 1) * squares / total**2
    unseen = sum(share * weight for share, weight in zip(missing, weights, strict=True)) / total
    if unseen == 0:  # every decision was reviewed
        return Accuracy(n, mean, (mean, mean), unweighted)
    kish = total**2 / sum(weight**2 for weight in weights)
    size = min(mean * (1 - mean) / variance if variance > 0 and 0 < mean < 1 else kish, n / unseen)
    return Accuracy(n, mean, wilson(mean * size, size), unweighted)
