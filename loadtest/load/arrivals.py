"""Send times of an open loop. They are fixed before the first request, so that a slow service cannot slow its callers.

In a closed loop, callers send less while the service stalls, and the stall appears in a single latency instead of all
that it would have affected. This is called coordinated omission. Here every request has its own send time, and its
latency is measured from that time, even if the sender was late.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from typing import Literal, get_args

Kind = Literal["poisson", "constant"]
KINDS: tuple[str, ...] = get_args(Kind)


def arrivals(kind: Kind, rate: float, seconds: float, seed: int) -> Iterator[float]:
    """Send times in seconds since the start, in order, each less than `seconds`.

    Args:
        kind: `poisson` for independent callers (exponential gaps), or `constant` for one request every 1/rate seconds.
        rate: average number of requests per second.

    Raises:
        ValueError: the rate is not positive.
    """
    if not rate > 0:
        raise ValueError(f"the rate must be above 0, not {rate}")
    return itertools.takewhile(lambda moment: moment < seconds, _endless(kind, rate, seed))


def _endless(kind: Kind, rate: float, seed: int) -> Iterator[float]:
    if kind == "constant":
        yield from (number / rate for number in itertools.count())
    moment, chance = 0.0, random.Random(seed)  # noqa: S311 - send times need no cryptographic randomness
    while True:
        moment += chance.expovariate(rate)
        yield moment
