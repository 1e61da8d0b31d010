"""Shares of yes answers, with confidence intervals: pure functions of counts."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Protocol, TypeVar

from pydantic import BaseModel, ConfigDict

from screening.intervals import wilson
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
