"""Statistics of paired right-or-wrong answers: pure functions of four counts.

Both models answer the same samples, so only the samples on which they differ say which one is better. Comparing the
intervals of the two scores instead would ignore the pairing and miss differences. statsmodels has McNemar's test but
not Newcombe's paired interval, and with scipy it would add 200 MB for these few lines.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import sqrt

from pydantic import BaseModel, ConfigDict

from trainer.metrics import wilson

LEVEL = 0.95


class Paired(BaseModel):
    """Results of two models on the same samples, in percent and percentage points. Shares are None if n = 0."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    n: int
    both_right: int
    right_to_wrong: int
    wrong_to_right: int
    both_wrong: int
    before: float | None
    """Percent right."""
    after: float | None
    difference: float | None
    """after - before, in percentage points."""
    low: float | None
    high: float | None
    """Interval of the difference at `LEVEL`; see `difference_interval`."""
    p_value: float | None
    """Two-sided; see `mcnemar_exact`."""


def paired(pairs: Iterable[tuple[bool, bool]]) -> Paired:
    """Compare answers given as (right before, right after), one pair per sample."""
    both = worse = better = neither = 0
    for before, after in pairs:
        both += before and after
        worse += before and not after
        better += after and not before
        neither += not before and not after
    n = both + worse + better + neither
    bounds = difference_interval(both, worse, better, neither) if n else None
    return Paired(
        n=n,
        both_right=both,
        right_to_wrong=worse,
        wrong_to_right=better,
        both_wrong=neither,
        before=100 * (both + worse) / n if n else None,
        after=100 * (both + better) / n if n else None,
        difference=100 * (better - worse) / n if n else None,
        low=100 * bounds[0] if bounds else None,
        high=100 * bounds[1] if bounds else None,
        p_value=mcnemar_exact(worse, better) if n else None,
    )


def mcnemar_exact(worse: int, better: int) -> float:
    """Two-sided p-value of McNemar's exact test (Q. McNemar, Psychometrika 12, 1947).

    If neither model were better, each of the m = worse + better samples on which they differ would be a fair coin:
    p = min(1, 2 · P(X ≤ min(worse, better))) with X ~ Binomial(m, 1/2). p is 1 if they never differ. The test is
    conservative: it claims a difference at most as often as its level allows.

    Raises:
        ValueError: a count is negative.
    """
    if min(worse, better) < 0:
        raise ValueError(f"counts must not be negative: {worse}, {better}")
    m = worse + better
    # Integers until the last step, because the coefficients overflow floats beyond a thousand samples.
    coefficient = tail = 1
    for k in range(min(worse, better)):
        coefficient = coefficient * (m - k) // (k + 1)
        tail += coefficient
    return min(1.0, 2 * tail / (1 << m))


def difference_interval(both: int, worse: int, better: int, neither: int, level: float = LEVEL) -> tuple[float, float]:
    """Interval of (share right after) - (share right before), between -1 and 1.

    Newcombe's square-and-add interval for paired proportions (R. G. Newcombe, Improved confidence intervals for the
    difference between binomial proportions based on paired data, Statistics in Medicine 17, 1998, 2635-2650, method 10:
    simple, and close to its level). It joins the Wilson intervals (l, u) of the two shares p by the correlation φ of
    the answers; with p₁ after: lower = p₁ - p₂ - √((p₁-l₁)² - 2φ(p₁-l₁)(u₂-p₂) + (u₂-p₂)²), and the upper bound
    likewise. Unlike the Wald interval it has a width when no answer differs.

    It need not agree with `mcnemar_exact`: with fewer than six flips that test cannot give p < 0.05, while three flips
    in one direction and none in the other can put 0 outside the interval. Decide by the test.

    Raises:
        ValueError: a count is negative, or all are 0.
    """
    n = both + worse + better + neither
    if min(both, worse, better, neither) < 0 or n == 0:
        raise ValueError(f"no interval for the counts {both}, {worse}, {better}, {neither}")
    after, before = (both + better) / n, (both + worse) / n
    after_low, after_high = wilson(both + better, n, level)
    before_low, before_high = wilson(both + worse, n, level)
    phi = _correlation(both, worse, better, neither)

    def spread(one: float, other: float) -> float:
        return sqrt(max(0.0, one * one - 2 * phi * one * other + other * other))

    difference = after - before
    low = difference - spread(after - after_low, before_high - before)
    high = difference + spread(after_high - after, before - before_low)
    return max(-1.0, low), min(1.0, high)


def _correlation(both: int, worse: int, better: int, neither: int) -> float:
    """φ, with Newcombe's continuity correction if it is positive; 0 if a row or column is empty."""
    margins = (both + worse) * (better + neither) * (both + better) * (worse + neither)
    if margins == 0:
        return 0.0
    product = both * neither - worse * better
    n = both + worse + better + neither
    return (max(product - n / 2, 0.0) if product > 0 else product) / sqrt(margins)
