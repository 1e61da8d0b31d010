"""Arrival times of the load patterns, in seconds since the start."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Iterator
from pathlib import Path

from screening.errors import UserError

_STEADY, _SPIKE_ENDS = 1 / 3, 1 / 2

PATTERNS: dict[str, Callable[[float], float]] = {
    "constant": lambda _: 0.0,
    "ramp": lambda share: share,
    "spike": lambda share: float(_STEADY <= share < _SPIKE_ENDS),
    "daily": lambda share: (1 - math.cos(2 * math.pi * share)) / 2,
}
"""Pattern → the load at a share of the duration, between the base rate (0) and the peak (1)."""


class RecordingError(UserError):
    """The recorded requests cannot be used."""


def arrivals(pattern: str, *, rate: float, peak: float, seconds: float, seed: int) -> Iterator[float]:
    """Send times of independent callers (a Poisson process) whose rate follows a pattern of `PATTERNS`.

    Args:
        rate: requests per second at the base of the pattern.
        peak: requests per second at its top, at least `rate`.
    """
    chance, moment = random.Random(seed), 0.0  # noqa: S311 - send times need no cryptographic randomness
    while (moment := moment + chance.expovariate(peak)) < seconds:
        # Thinning: of arrivals at the peak rate, keep the share that the pattern has at this moment.
        if chance.random() * peak < rate + (peak - rate) * PATTERNS[pattern](moment / seconds):
            yield moment


def recorded(path: Path) -> list[float]:
    """The planned send times of a `requests.jsonl`, from the first one.

    Raises:
        RecordingError: the file cannot be read, has no line, or a line has no planned send time.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise RecordingError(f"{path} cannot be read: {error.strerror}.") from error
    moments = []
    for number, line in enumerate(lines, 1):
        try:
            moments.append(float(json.loads(line)["intended"]))
        except (ValueError, KeyError, TypeError) as error:
            raise RecordingError(f"{path}, line {number}: no number `intended`, the planned send time.") from error
    if not moments:
        raise RecordingError(f"{path} has no requests. Name the requests.jsonl of a load test.")
    first = min(moments)
    return sorted(moment - first for moment in moments)
