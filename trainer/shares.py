"""Shares of yes answers, with confidence intervals: pure functions of counts."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from math import sqrt
from statistics import NormalDist
from typing import Protocol, TypeVar

from pydantic import BaseModel, ConfigDict

from trainer.products import effective_samples


class _OfProduct(Protocol):
    @property
    def product(self) -> Hashable: ...


Item = TypeVar("Item", bound=_OfProduct)


class Share(BaseModel):
    """`hits` of `n` as a percentage with its confidence interval; the percentages are None if n is 0."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    hits: int
    n: int
    percent: float | None
    low: float | None
    high: float | None


def wilson(hits: float, n: float, level: float = 0.95) -> tuple[float, float]:
    """Wilson score interval of a proportion (E. B. Wilson, JASA 22, 1927; Brown, Cai, DasGupta 2001, eq. 4).

    With z the normal quantile of (1 + level) / 2 and p = hits / n:
    (p + z²/2n ± z √(p(1-p)/n + z²/4n²)) / (1 + z²/n). Unlike p ± z·s it stays useful at p = 0, p = 1 and small n.

    Raises:
        ValueError: n is not positive, hits is not between 0 and n, or level is not between 0 and 1.
    """
    if not (0 <= hits <= n and n > 0 and 0 < level < 1):
        raise ValueError(f"no interval for {hits} of {n} at level {level}")
    z = NormalDist().inv_cdf((1 + level) / 2)
    p = hits / n
    centre = p + z * z / (2 * n)
    spread = z * sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    # At p = 0 and p = 1 the bound is exact; floating-point rounding would shift it slightly.
    low = 0.0 if hits == 0 else (centre - spread) / scale
    high = 1.0 if hits == n else (centre + spread) / scale
    return low, high


def share(hits: int, n: int, level: float = 0.95, effective: float | None = None) -> Share:
    """A proportion with its interval, in percent.

    Args:
        effective: number of independent samples that say as much, for Wilson's interval (Korn and Graubard 1998); None
            means n.
    """
    if n == 0:
        return Share(hits=0, n=0, percent=None, low=None, high=None)
    if effective is None or effective == n:
        low, high = wilson(hits, n, level)
    else:
        low, high = wilson(hits / n * effective, effective, level)
    return Share(hits=hits, n=n, percent=100 * hits / n, low=100 * low, high=100 * high)


def share_by_product(answers: Sequence[bool], products: Sequence[Hashable], level: float = 0.95) -> Share:
    """The share of yes. Its interval counts several answers about one product as fewer; see `effective_samples`.

    Args:
        answers: one per sample.
        products: the product of each sample.
    """
    return share(sum(answers), len(answers), level, effective_samples(answers, products))


def share_of(items: Sequence[Item], holds: Callable[[Item], bool], level: float = 0.95) -> Share:
    """The share of the items for which something holds, by product as in `share_by_product`."""
    return share_by_product([holds(item) for item in items], [item.product for item in items], level)
