"""Measures how far confidence can be trusted: pure functions over pairs of confidence and whether the answer was right.

They answer two questions of an operator. Are nine in ten answers with confidence 0.9 right (calibration)? How many
mistakes remain if people review the least sure answers (risk over coverage)?
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from statistics import fmean

import numpy as np
from pydantic import BaseModel, ConfigDict

BINS = 15
RESAMPLES = 1000
COVERAGES = tuple(step / 20 for step in range(1, 21))
"""Coverages of the risk-coverage curve: 5 %, 10 %, … 100 %."""


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Bin(_Table):
    """One of the bins of equally many answers, sorted by confidence."""

    n: int
    mean_confidence: float
    accuracy: float


class Reliability(_Table):
    """Calibration and selective error of one evaluation; all numbers between 0 and 1."""

    n: int
    expected_calibration_error: float
    expected_calibration_error_interval: tuple[float, float] | None = None
    """Bootstrap interval; see `calibration_error_interval`."""
    expected_calibration_error_by_chance: tuple[float, float] | None = None
    """Mean and 95th percentile of the error that answers with these confidences would show if each were calibrated.
    Since the error is never negative, it is above 0 even then; judge the measured error against these."""
    brier: float
    """Mean squared difference between confidence and being right."""
    error: float
    """Share of wrong answers if all are kept."""
    error_at_80_coverage: float
    """Share of wrong answers among the surest 80 %."""
    area_under_risk_coverage: float
    """Mean of that share over all coverages. Lower is better; it is 0 only if all answers are right."""
    risks: tuple[float, ...] = ()
    """Share of wrong answers among the surest 5 %, 10 %, … 100 %: the risk-coverage curve."""
    bins: tuple[Bin, ...]


def summarise(confidences: Sequence[float], right: Sequence[bool], level: float = 0.95) -> Reliability | None:
    """Compute all numbers of reliability; None without answers.

    Args:
        level: confidence level of the interval.

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
        expected_calibration_error_interval=calibration_error_interval(confidences, right, level),
        expected_calibration_error_by_chance=calibration_error_by_chance(confidences),
        brier=sum((confidence - is_right) ** 2 for confidence, is_right in pairs) / len(pairs),
        error=risks[-1],
        error_at_80_coverage=_at(risks, 0.8),
        area_under_risk_coverage=sum(risks) / len(risks),
        risks=tuple(_at(risks, coverage) for coverage in COVERAGES),
        bins=bins,
    )


def equal_mass_bins(confidences: Sequence[float], right: Sequence[bool], count: int = BINS) -> tuple[Bin, ...]:
    """Answers sorted by confidence and cut into `count` runs whose sizes differ by at most one (Nixon et al. 2019).

    Most bins of equal width would be empty, because a trained model is nearly always sure. With fewer answers than
    bins, each answer has its own bin.
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


def calibration_error_interval(
    confidences: Sequence[float], right: Sequence[bool], level: float, seed: int = 0
) -> tuple[float, float]:
    """Basic bootstrap interval of the expected calibration error (Davison and Hinkley 1997, section 5.2).

    Noise only increases this error, and resampling adds the same noise once more. The basic interval subtracts what
    resampling added, so it can lie below the measured error; it is cut at 0.
    """
    generator = np.random.default_rng(seed)
    ties, hits = _Ties(confidences), np.asarray(right, float)

    def error(drawn: np.ndarray) -> float:
        of = ties.of[drawn]
        return ties.error(np.bincount(of, minlength=ties.n), np.bincount(of, hits[drawn], ties.n))

    seen = error(np.arange(len(hits)))
    errors = [error(generator.integers(len(hits), size=len(hits))) for _ in range(RESAMPLES)]
    low, high = np.quantile(errors, [(1 - level) / 2, (1 + level) / 2])
    return max(0.0, float(2 * seen - high)), max(0.0, float(2 * seen - low))


def calibration_error_by_chance(confidences: Sequence[float], seed: int = 0) -> tuple[float, float]:
    """Mean and 95th percentile of the expected calibration error if every confidence is true (Bröcker and Smith 2007).

    An error of this size is noise for this number of answers and says nothing about the model.
    """
    generator = np.random.default_rng(seed)
    ties = _Ties(confidences)
    sizes = np.bincount(ties.of, minlength=ties.n)
    errors = [ties.error(sizes, generator.binomial(sizes, ties.values)) for _ in range(RESAMPLES)]
    return float(np.mean(errors)), float(np.quantile(errors, 0.95))


class _Ties:
    """Answers grouped by confidence. Computes `expected_calibration_error` fast enough for many resamples."""

    def __init__(self, confidences: Sequence[float]) -> None:
        self.values, self.of = np.unique(np.asarray(confidences, float), return_inverse=True)
        self.n = len(self.values)
        bins = min(BINS, len(self.of))
        self._edges = np.arange(bins + 1) * len(self.of) // bins

    def error(self, sizes: np.ndarray, right: np.ndarray) -> float:
        """The expected calibration error. A tie that lies in two bins is divided evenly.

        Args:
            sizes: number of answers per value of confidence.
            right: number of right answers per value of confidence.
        """
        answers = np.concatenate([[0], np.cumsum(sizes)])
        gap = np.concatenate([[0], np.cumsum(sizes * self.values - right)])
        return float(np.abs(np.diff(np.interp(self._edges, answers, gap))).sum() / answers[-1])


def risk_by_coverage(confidences: Sequence[float], right: Sequence[bool]) -> list[float]:
    """Share of wrong answers among the k surest, for k = 1 … n (Geifman and El-Yaniv 2017)."""
    accuracy = _accuracy_of_ties(confidences, right)
    wrong = accumulate(1 - accuracy[confidence] for confidence in sorted(confidences, reverse=True))
    return [count / kept for kept, count in enumerate(wrong, 1)]


def _at(risks: Sequence[float], coverage: float) -> float:
    return risks[max(1, round(coverage * len(risks))) - 1]


def _accuracy_of_ties(confidences: Sequence[float], right: Sequence[bool]) -> dict[float, float]:
    """Share of right answers at each value of confidence.

    Answers of equal confidence cannot be told apart, so each counts as the mean of its tie. Then no result depends on
    the order of the samples.
    """
    ties: dict[float, list[bool]] = {}
    for confidence, is_right in zip(confidences, right, strict=True):
        ties.setdefault(confidence, []).append(is_right)
    return {confidence: fmean(tie) for confidence, tie in ties.items()}
