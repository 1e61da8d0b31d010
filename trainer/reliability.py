"""Whether confidence can be trusted: pure functions over (confidence, was it right) pairs.

Two questions of an operator: does 0.9 mean nine in ten (calibration), and how many mistakes remain if the least sure
answers go to people (risk against coverage)?
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from statistics import fmean

from pydantic import BaseModel, ConfigDict

BINS = 15


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Bin(_Table):
    """One bin of equally many answers, from unsure to sure."""

    n: int
    mean_confidence: float
    accuracy: float


class Reliability(_Table):
    """Calibration and selective error of one evaluation; all numbers between 0 and 1."""

    n: int
    expected_calibration_error: float
    brier: float
    """Mean squared difference between confidence and being right."""
    error: float
    """Share of wrong answers when all are kept."""
    error_at_80_coverage: float
    """Share of wrong answers among the surest 80 %."""
    area_under_risk_coverage: float
    """Mean of that share over all coverages; lower is better, and a perfect ranking is not 0 unless all are right."""
    bins: tuple[Bin, ...]


def summarise(confidences: Sequence[float], right: Sequence[bool]) -> Reliability | None:
    """All numbers of reliability; None without answers.

    Raises:
        ValueError: the lengths differ, or a confidence is not between 0 and 1 (NaN included).
    """
    if len(confidences) != len(right):
        raise ValueError(f"{len(confidences)} confidences for {len(right)} answers")
    if wrong := [value for value in confidences if not 0 <= value <= 1]:
        raise ValueError(f"confidences must be between 0 and 1, not {wrong[0]}")
    if not right:
        return None
    pairs = list(zip(confidences, right, strict=True))
    bins = equal_mass_bins(confidences, right)
    risks = risk_by_coverage(confidences, right)
    return Reliability(
        n=len(pairs),
        expected_calibration_error=expected_calibration_error(bins),
        brier=sum((confidence - is_right) ** 2 for confidence, is_right in pairs) / len(pairs),
        error=risks[-1],
        error_at_80_coverage=risks[max(1, round(0.8 * len(risks))) - 1],
        area_under_risk_coverage=sum(risks) / len(risks),
        bins=bins,
    )


def equal_mass_bins(confidences: Sequence[float], right: Sequence[bool], count: int = BINS) -> tuple[Bin, ...]:
    """Answers sorted by confidence and cut into `count` runs whose sizes differ by at most one (Nixon et al. 2019).

    Bins of equal width would leave most of them empty: a trained model is nearly always sure. Fewer answers than bins
    give one bin each.
    """
    accuracy = _accuracy_of_ties(confidences, right)
    ordered = sorted(confidences)
    count = min(count, len(ordered))
    bins = []
    for index in range(count):
        part = ordered[index * len(ordered) // count : (index + 1) * len(ordered) // count]
        bins.append(
            Bin(
                n=len(part),
                mean_confidence=fmean(part),
                accuracy=fmean(accuracy[confidence] for confidence in part),
            )
        )
    return tuple(bins)


def expected_calibration_error(bins: Sequence[Bin]) -> float:
    """Mean distance between confidence and accuracy over bins, weighted by size (Naeini et al. 2015)."""
    total = sum(one.n for one in bins)
    return sum(one.n * abs(one.mean_confidence - one.accuracy) for one in bins) / total


def risk_by_coverage(confidences: Sequence[float], right: Sequence[bool]) -> list[float]:
    """Share of wrong answers among the k surest, for k = 1 … n (Geifman and El-Yaniv 2017)."""
    accuracy = _accuracy_of_ties(confidences, right)
    wrong = accumulate(1 - accuracy[confidence] for confidence in sorted(confidences, reverse=True))
    return [count / kept for kept, count in enumerate(wrong, 1)]


def _accuracy_of_ties(confidences: Sequence[float], right: Sequence[bool]) -> dict[float, float]:
    """Share of right answers at each value of confidence.

    Answers of equal confidence cannot be told apart, so each stands for the mean of its tie: no result depends on the
    order in which the samples came.
    """
    ties: dict[float, list[bool]] = {}
    for confidence, is_right in zip(confidences, right, strict=True):
        ties.setdefault(confidence, []).append(is_right)
    return {confidence: fmean(tie) for confidence, tie in ties.items()}
