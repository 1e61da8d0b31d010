"""Statistics of paired right-or-wrong answers: pure functions of the answers and their four counts.

Both models answer the same samples, so only the samples on which they differ say which one is better. Comparing the
intervals of the two scores instead would ignore the pairing and miss differences. statsmodels has McNemar's test but
not Newcombe's paired interval, and with scipy it would add 200 MB for these few lines.

Where several samples show the same product, their differences are alike. Then the interval is that of fewer samples
(`trainer.products.effective_samples`), and the test compares whole products.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import sqrt

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from screening.intervals import wilson
from trainer.products import effective_samples, product_totals, repeated

LEVEL = 0.95


class Paired(BaseModel):
    """Results of two models on the same samples, in percent and percentage points. Shares are None if n = 0."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    n: int
    products: int | None = Field(None, exclude_if=lambda products: products is None)
    """Number of products of these samples; None if each sample has its own."""
    effective: float | None = Field(None, exclude_if=lambda effective: effective is None)
    """Number of independent samples whose difference would be as certain; None if each sample has its own product."""
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
    """Two-sided; see `mcnemar_exact`, and `sign_flip_exact` if products have several samples."""

    def bounds(self, level: float = LEVEL) -> tuple[float, float] | None:
        """Interval of the difference, between -1 and 1; None without samples.

        It is Newcombe's for the effective number of samples: the four counts are scaled down by the design effect of
        the differences (J. N. K. Rao and A. J. Scott, Biometrics 48, 1992).
        """
        if self.n == 0:
            return None
        counts: tuple[float, ...] = self.both_right, self.right_to_wrong, self.wrong_to_right, self.both_wrong
        if self.effective is not None:
            counts = tuple(count * self.effective / self.n for count in counts)
        both, worse, better, neither = counts
        return difference_interval(both, worse, better, neither, level)


def paired(pairs: Iterable[tuple[bool, bool]], products: Sequence[str] | None = None) -> Paired:
    """Compare answers given as (right before, right after), one pair per sample.

    Args:
        products: the product of each sample, as many as there are pairs; None if each sample has its own.
    """
    answers = list(pairs)
    if products is None or repeated(products) is None:
        return _independent(answers)
    differences = [after - before for before, after in answers]
    # Without any difference nothing is known about how they cluster. A single one would give nearly n, so this is n.
    effective = effective_samples(differences, products) if any(differences) else float(len(answers))
    plain = _independent(answers).model_copy(update={"products": repeated(products), "effective": effective})
    low, high = plain.bounds() or (0.0, 0.0)
    p_value = sign_flip_exact([round(total) for total in product_totals(differences, products)])
    return plain.model_copy(update={"low": 100 * low, "high": 100 * high, "p_value": p_value})


def _independent(answers: Iterable[tuple[bool, bool]]) -> Paired:
    both = worse = better = neither = 0
    for before, after in answers:
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


def sign_flip_exact(differences: Sequence[int]) -> float:
    """Two-sided p-value of the exact randomization test (R. A. Fisher, The Design of Experiments, 1935, section 21).

    If neither model were better, the two could be exchanged for all samples of a product at once: each product's
    difference could as well have the other sign. p is the share of all choices of signs whose sum is at least as far
    from 0 as the observed sum. Nothing is assumed about how alike the samples of a product are. If all differences are
    -1, 0 or 1, this is `mcnemar_exact`.

    Args:
        differences: for each product, the samples that became right minus those that became wrong.
    """
    sizes = [abs(difference) for difference in differences if difference]
    total = sum(sizes)
    # Probability that the products with a plus have this sum, from 0 to `total`.
    probability = np.zeros(total + 1)
    probability[0] = 1.0
    for size in sizes:
        moved = np.zeros_like(probability)
        moved[size:] = probability[:-size]
        probability = (probability + moved) / 2
    sums = 2 * np.arange(total + 1) - total
    return min(1.0, float(probability[np.abs(sums) >= abs(sum(differences))].sum()))


def difference_interval(
    both: float, worse: float, better: float, neither: float, level: float = LEVEL
) -> tuple[float, float]:
    """Interval of (share right after) - (share right before), between -1 and 1.

    Newcombe's square-and-add interval for paired proportions (R. G. Newcombe, Improved confidence intervals for the
    difference between binomial proportions based on paired data, Statistics in Medicine 17, 1998, 2635-2650, method 10:
    simple, and close to its level). It joins the Wilson intervals (l, u) of the two shares p by the correlation φ of
    the answers; with p₁ after: lower = p₁ - p₂ - √((p₁-l₁)² - 2φ(p₁-l₁)(u₂-p₂) + (u₂-p₂)²), and the upper bound
    likewise. Unlike the Wald interval it has a width when no answer differs.

    Counts need not be whole numbers; see `Paired.bounds`.

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


def _correlation(both: float, worse: float, better: float, neither: float) -> float:
    """φ, with Newcombe's continuity correction if it is positive; 0 if a row or column is empty."""
    margins = (both + worse) * (better + neither) * (both + better) * (worse + neither)
    if margins == 0:
        return 0.0
    product = both * neither - worse * better
    n = both + worse + better + neither
    return (max(product - n / 2, 0.0) if product > 0 else product) / sqrt(margins)
