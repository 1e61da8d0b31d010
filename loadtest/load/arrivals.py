"""When requests are sent in an open loop: fixed before the first one, so that a slow service cannot slow its callers.

Callers who wait for an answer before they ask again send less while the service stalls, and the stall shows up in one
latency instead of in all that would have met it. This is called coordinated omission. Here every request has its own
moment, and its latency counts from that moment, also when the sender itself was late.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from typing import Literal, get_args

Kind = Literal["poisson", "constant"]
KINDS: tuple[str, ...] = get_args(Kind)


def arrivals(kind: Kind, rate: float, seconds: float, seed: int) -> Iterator[float]:
    """Seconds from the beginning at which requests are sent, in order, each less than `seconds`.

    Args:
        kind: `poisson`, independent callers (exponential gaps), or `constant`, one every 1/rate seconds.
        rate: requests per second on average.

    Raises:
        ValueError: the rate is not positive.
    """
    if not rate > 0:
        raise ValueError(f"a rate must be positive, not {rate}")
    return itertools.takewhile(lambda moment: moment < seconds, _endless(kind, rate, seed))


def _endless(kind: Kind, rate: float, seed: int) -> Iterator[float]:
    if kind == "constant":
        yield from (number / rate for number in itertools.count())
    moment, chance = 0.0, random.Random(seed)  # noqa: S311 - a schedule, not a secret
    while True:
        moment += chance.expovariate(rate)
        yield moment
