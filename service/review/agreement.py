"""How far people agree: raw agreement, Krippendorff's alpha and Gwet's AC1, for nominal categories.

Sources: K. Krippendorff, Content Analysis (2004), chapter 11; K. L. Gwet, Computing inter-rater reliability and its
variance in the presence of high agreement, British Journal of Mathematical and Statistical Psychology 61 (2008).
Alpha falls under skewed categories even where people agree almost always; AC1 does not. Read both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

REPETITIONS = 1000
"""Number of bootstrap samples."""

Counts = NDArray[np.float64]
"""Number of people who put a unit into a category: one row for each unit, one column for each category."""
Interval = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Agreement:
    """Agreement on one question. None: not defined, because too few units were judged twice or all judged alike."""

    pairs: int
    """Number of units that two or more people judged."""
    raw: float | None
    """Mean share of pairs of people who agree on a unit."""
    alpha: float | None
    ac1: float | None
    alpha_interval: Interval | None
    """95 % bootstrap interval over groups."""
    ac1_interval: Interval | None


def agreement(counts: Counts, groups: Sequence[str], *, seed: int = 0) -> Agreement:
    """Measure agreement.

    Args:
        counts: shape (units, categories).
        groups: the group of each unit. The units of one group depend on each other, as the four pictures of a task do,
            so the bootstrap draws whole groups.
    """
    if len(counts) == 0:
        return Agreement(0, None, None, None, None, None)
    sums = _sums(counts)
    _, group = np.unique(np.asarray(groups), return_inverse=True)
    by_group = np.zeros((group.max() + 1, sums.shape[1]))
    np.add.at(by_group, group, sums)
    raw, alpha, ac1 = _coefficients(by_group.sum(axis=0), counts.shape[1])
    random = np.random.default_rng(seed)
    # Groups with equal sums are interchangeable, and there are few different ones: this keeps thousands of tasks fast.
    distinct, times = np.unique(by_group, axis=0, return_counts=True)
    samples = random.multinomial(len(by_group), times / times.sum(), size=REPETITIONS).astype(float) @ distinct
    drawn = [_coefficients(sample, counts.shape[1]) for sample in samples]
    pairs = int((counts.sum(axis=1) >= 2).sum())
    alphas, ac1s = [one[1] for one in drawn], [one[2] for one in drawn]
    return Agreement(pairs, raw, alpha, ac1, _interval(alpha, alphas), _interval(ac1, ac1s))


def _sums(counts: Counts) -> Counts:
    """What each unit adds to the sums that the coefficients need.

    Columns: 1 if judged twice; its share of agreeing pairs; its agreeing pairs in Krippendorff's coincidence matrix;
    then for each category its values in this matrix; 1 if judged; then for each category the share of its judges.
    """
    judges = counts.sum(axis=1, keepdims=True)
    twice = (judges >= 2).astype(float)
    agreeing = (counts * (counts - 1)).sum(axis=1, keepdims=True)
    others = np.maximum(judges - 1, 1)
    judged = (judges >= 1).astype(float)
    shares = counts / np.maximum(judges, 1)
    per_pair = agreeing / (np.maximum(judges, 1) * others)
    return np.hstack([twice, twice * per_pair, twice * agreeing / others, twice * counts, judged, shares])


def _coefficients(sums: Counts, categories: int) -> tuple[float | None, float | None, float | None]:
    """Raw agreement, alpha and AC1 from the sums over units."""
    twice, agreeing, coincident = sums[:3]
    values, judged, shares = sums[3 : 3 + categories], sums[3 + categories], sums[4 + categories :]
    if twice == 0:
        return None, None, None
    raw = float(agreeing / twice)
    total = values.sum()
    by_chance = 1 - (values * (values - 1)).sum() / (total * (total - 1))
    alpha = None if by_chance == 0 else float(1 - (1 - coincident / total) / by_chance)
    prevalence = shares / judged
    chance = float((prevalence * (1 - prevalence)).sum() / (categories - 1))
    return raw, alpha, (raw - chance) / (1 - chance)


def _interval(value: float | None, drawn: Sequence[float | None]) -> Interval | None:
    defined = [one for one in drawn if one is not None]
    if value is None or not defined:
        return None
    low, high = np.quantile(defined, (0.025, 0.975))
    return float(low), float(high)
